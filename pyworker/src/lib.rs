//! `fasterapi._native`: the worker's end of its lanes.
//!
//! ```text
//!   Lanes.drain ──► lane (records, books) ──► drive (first step) ──► answer ──► lane
//!                     ▲                         │ waits                 ▲
//!                     │                         └──► task (the rest) ───┘
//!                     └── handle ◄── exchange (receive, start, write), waiting (what they are awaited by)
//! ```
#![allow(missing_docs, reason = "the module's docstrings are Python's")]

mod answer;
mod asgi;
mod calls;
mod crew;
mod drive;
mod endpoint;
mod exchange;
mod fate;
mod ffi;
mod handle;
mod lane;
mod lanes;
mod open;
mod serving;
mod socket;
mod socket_cycle;
mod task;
#[cfg(feature = "testing")]
mod testing;
mod tls;
mod waiting;
mod wsgi;
mod wsgi_environ;
mod wsgi_input;

use fasterapi::ipc::layout;
use pyo3::{exceptions::PyRuntimeError, prelude::*};
use rustix::process::{Signal, getppid, set_parent_process_death_signal};

#[pyfunction]
fn die_with_parent(parent: i32) -> PyResult<()> {
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(std::io::Error::from)?;
    // It may have died before the line above.
    if getppid().is_some_and(|now| now.as_raw_nonzero().get() == parent) {
        Ok(())
    } else {
        Err(PyRuntimeError::new_err(format!("process {parent} is gone")))
    }
}

#[pymodule]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("LAYOUT_HASH", format!("{:016x}", layout::HASH))?;
    module.add("ClientDisconnected", serving::client_disconnected(module.py())?)?;
    module.add_class::<exchange::Exchange>()?;
    module.add_class::<endpoint::Endpoint>()?;
    module.add_class::<asgi::AsgiEndpoint>()?;
    module.add_class::<asgi::Cycle>()?;
    module.add_class::<socket_cycle::SocketCycle>()?;
    module.add_class::<wsgi_environ::WsgiEndpoint>()?;
    module.add_class::<wsgi::FileWrapper>()?;
    module.add_class::<lanes::Lanes>()?;
    module.add_class::<calls::Calls>()?;
    module.add_function(wrap_pyfunction!(die_with_parent, module)?)?;
    #[cfg(feature = "testing")]
    module.add_class::<testing::EdgeSide>()?;
    Ok(())
}
