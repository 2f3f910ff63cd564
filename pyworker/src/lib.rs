//! `fasterapi._native`: the worker's end of its lanes.
#![allow(missing_docs, reason = "the module's docstrings are Python's")]

use pyo3::prelude::*;

#[pymodule]
fn _native(_module: &Bound<'_, PyModule>) -> PyResult<()> {
    Ok(())
}
