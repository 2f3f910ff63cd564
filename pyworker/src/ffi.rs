//! The few calls that PyO3 has no safe form for under the limited API, and the cell that makes the GIL a lock.
//!
//! Invariant: nothing outside this module is unsafe; every function here takes the GIL token and only live references.
#![expect(unsafe_code, reason = "CPython's C API")]

use std::{
    cell::{RefCell, RefMut},
    os::fd::{FromRawFd, OwnedFd, RawFd},
    ptr,
};

use pyo3::{exceptions::PyRuntimeError, ffi, prelude::*};

/// A cell that only the holder of the GIL can look into.
#[derive(Debug)]
pub(crate) struct GilCell<T>(RefCell<T>);

// SAFETY: every access goes through `borrow`, whose argument proves that this thread holds the GIL, and the limited API
// before 3.15 exists only for interpreters that have one; the guard lives no longer than that proof.
unsafe impl<T: Send> Sync for GilCell<T> {}

impl<T> GilCell<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self(RefCell::new(value))
    }

    /// The value. RuntimeError if it is in use further up the stack: a guard never lives across a call into Python.
    pub(crate) fn borrow<'a>(&'a self, _py: Python<'a>) -> PyResult<RefMut<'a, T>> {
        self.0.try_borrow_mut().map_err(|_| PyRuntimeError::new_err("the lanes are in use already"))
    }
}

/// How a step of a coroutine ended, if it did not raise.
pub(crate) enum Step<'py> {
    Yielded(Bound<'py, PyAny>),
    Returned(Bound<'py, PyAny>),
}

/// `coroutine.send(None)`, without making a StopIteration for its result.
pub(crate) fn send<'py>(coroutine: &Bound<'py, PyAny>) -> PyResult<Step<'py>> {
    let py = coroutine.py();
    let none = py.None();
    let mut result = ptr::null_mut();
    // SAFETY: both arguments are live objects, `result` is a valid place; the GIL is held.
    let sent = unsafe { ffi::PyIter_Send(coroutine.as_ptr(), none.as_ptr(), &raw mut result) };
    // SAFETY: the call left an owned reference in `result`, or null with an exception set.
    let value = unsafe { Bound::from_owned_ptr_or_err(py, result) }?;
    Ok(match sent {
        ffi::PySendResult::PYGEN_NEXT => Step::Yielded(value),
        _ => Step::Returned(value),
    })
}

/// `function()`.
pub(crate) fn call0<'py>(py: Python<'py>, function: &Py<PyAny>) -> PyResult<Bound<'py, PyAny>> {
    // SAFETY: a live object; the GIL is held.
    let result = unsafe { ffi::PyObject_CallNoArgs(function.as_ptr()) };
    // SAFETY: an owned reference, or null with an exception set.
    unsafe { Bound::from_owned_ptr_or_err(py, result) }
}

/// `function(*args)` for up to three arguments without a tuple: PyO3 has no vectorcall under the 3.10 limited API.
pub(crate) fn call<'py, const N: usize>(
    py: Python<'py>,
    function: &Py<PyAny>,
    args: [&Bound<'py, PyAny>; N],
) -> PyResult<Bound<'py, PyAny>> {
    const { assert!(N >= 1 && N <= 3) };
    let function = function.as_ptr();
    let end = ptr::null_mut::<ffi::PyObject>();
    let [a, b, c] = [0, 1, 2].map(|i| args.get(i).map_or(end, |arg| arg.as_ptr()));
    // SAFETY: live objects, terminated by null; the GIL is held.
    let result = unsafe { ffi::PyObject_CallFunctionObjArgs(function, a, b, c, end) };
    // SAFETY: an owned reference, or null with an exception set.
    unsafe { Bound::from_owned_ptr_or_err(py, result) }
}

/// Takes over descriptors that came as numbers.
pub(crate) fn own_fds(fds: &[RawFd]) -> Vec<OwnedFd> {
    // SAFETY: the caller of `Lanes` hands the descriptors over, as the stub says; nobody else closes them.
    fds.iter().map(|fd| unsafe { OwnedFd::from_raw_fd(*fd) }).collect()
}
