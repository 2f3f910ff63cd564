//! The worker's end of one lane for a program that answers calls by itself, without an event loop.
//!
//! Invariant: a call that was handed out is answered once; between `arm` and `poll` the lane
//! may ask for a kick, at no other time. Deliberately absent: what a call means, waiting, and any loop (`lanes` has one).

use std::{
    collections::HashSet,
    os::fd::{AsFd, AsRawFd, RawFd},
    sync::Arc,
};

use fasterapi::ipc::Doorbell;
use pyo3::{
    exceptions::{PyKeyError, PyValueError},
    prelude::*,
    types::{PyBytes, PyList},
};

use crate::{
    answer::{Answer, Head},
    exchange::Arrived,
    fate::Fate,
    ffi::{self, GilCell},
    lane::{Event, Lane},
    lanes::{attach_lane, broken, parse_attach},
};

/// The lane, and the calls that were handed out and not answered.
struct State {
    lane: Lane,
    open: HashSet<u64>,
    scratch: Arrived,
}

#[pyclass(frozen, module = "fasterapi._native")]
pub(crate) struct Calls {
    bell: Doorbell,
    state: GilCell<State>,
}

#[pymethods]
impl Calls {
    #[new]
    #[expect(clippy::needless_pass_by_value, reason = "arguments that PyO3 extracts are owned")]
    fn new(attach: &Bound<'_, PyBytes>, fds: Vec<RawFd>) -> PyResult<Self> {
        let fds = ffi::own_fds(&fds);
        let (shards, _) = parse_attach(attach)?;
        let count = fds.len();
        let (1, Ok([bell, e, w, shard_bell])) = (shards, <[_; 4]>::try_from(fds)) else {
            let text = format!("{count} descriptors for {shards} lanes: calls come over one lane");
            return Err(PyValueError::new_err(text));
        };
        let lane = attach_lane([e, w, shard_bell])?;
        let state = State { lane, open: HashSet::new(), scratch: Arrived::default() };
        Ok(Self { bell: Doorbell::from_fd(bell), state: GilCell::new(state) })
    }

    fn fileno(&self) -> RawFd {
        self.bell.as_fd().as_raw_fd()
    }

    fn poll<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let calls = PyList::empty(py);
        self.bell.hush()?;
        let mut state = self.state.borrow(py)?;
        let State { lane, open, scratch } = &mut *state;
        lane.disarm();
        while let Some(event) = lane.next(scratch, |_| false).map_err(broken)? {
            let (id, request, body) = match event {
                // A whole body is never streamed here.
                Event::Noted | Event::Stream { .. } => continue,
                Event::Begin { id } => {
                    let body = PyBytes::new(py, scratch.inline_body());
                    (id, &*scratch, body)
                }
                Event::Whole { id, ref request, ref body } => {
                    (id, &**request, PyBytes::new(py, body))
                }
            };
            open.insert(id);
            let name = |index| PyBytes::new(py, request.param(index).unwrap_or_default());
            calls.append((id, name(0), name(1), body))?;
        }
        lane.flush(py).map_err(broken)?;
        // Nobody waits for a future here, and a call has no task: there is nothing to wake or to cancel.
        let errands = lane.take_errands();
        drop(state);
        drop(errands);
        Ok(calls)
    }

    fn arm(&self, py: Python<'_>) -> PyResult<bool> {
        self.state.borrow(py)?.lane.arm().map_err(broken)
    }

    fn answer(
        &self,
        py: Python<'_>,
        id: u64,
        status: u16,
        body: &Bound<'_, PyBytes>,
    ) -> PyResult<()> {
        if !(200..=599).contains(&status) {
            return Err(PyValueError::new_err(format!("{status} is not the status of an answer")));
        }
        let head = Head::of_type(status, b"application/json");
        let mut state = self.state.borrow(py)?;
        if !state.open.remove(&id) {
            return Err(PyKeyError::new_err(format!("no call {id} is waiting for an answer")));
        }
        let answer = Answer { head, body: body.clone().unbind() };
        // Also to a caller that has given it up meanwhile: the end of the answer ends the exchange.
        state.lane.answer(py, id, &Arc::new(Fate::default()), answer).map_err(broken)?;
        state.lane.flush(py).map_err(broken)
    }

    fn unwritten(&self, py: Python<'_>) -> PyResult<usize> {
        Ok(self.state.borrow(py)?.lane.unwritten())
    }
}
