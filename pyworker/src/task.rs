//! The rest of a suspended coroutine, in the form that `asyncio.Task` takes.
//!
//! Invariant: the coroutine's first step was (or is being) made by `drive`; whatever it yielded there is what the task
//! sees first, as if the task had made that step itself. The exchange is answered inside the step that ends the coroutine.

use std::sync::atomic::Ordering;

use pyo3::{
    exceptions::{PyRuntimeError, PyStopIteration},
    gc::{PyTraverseError, PyVisit},
    prelude::*,
};

use crate::{
    drive::{self, Place, Source},
    exchange::Exchange,
    ffi::{GilCell, Step},
    lanes::Lanes,
    serving::Serving,
};

#[derive(Debug)]
pub(crate) enum State {
    /// Its first step is under way, and asked for the task.
    Stepping,
    /// The first step yielded this. `blocking`: the future's `_asyncio_future_blocking` was cleared, to be set again.
    Yielded { value: Py<PyAny>, blocking: bool },
    /// The task runs it.
    Running,
    /// It has ended, and the task is to end like this.
    Ended(Result<Py<PyAny>, PyErr>),
}

#[pyclass(frozen, module = "fasterapi._native")]
#[derive(Debug)]
pub(crate) struct Rest {
    coroutine: Py<PyAny>,
    lanes: Py<Lanes>,
    exchange: Py<Exchange>,
    place: Place,
    /// What each step runs in, where the task cannot enter it by itself.
    context: Option<Py<PyAny>>,
    state: GilCell<State>,
}

impl Rest {
    pub(crate) fn new(
        coroutine: Py<PyAny>,
        lanes: Py<Lanes>,
        exchange: Py<Exchange>,
        place: Place,
        context: Option<Py<PyAny>>,
        state: State,
    ) -> Self {
        Self { coroutine, lanes, exchange, place, context, state: GilCell::new(state) }
    }

    /// Sets the state and returns what it was, so that nothing is dropped while the cell is borrowed.
    pub(crate) fn replace(&self, py: Python<'_>, state: State) -> PyResult<State> {
        Ok(std::mem::replace(&mut *self.state.borrow(py)?, state))
    }

    fn serving<'a>(&'a self, py: Python<'a>) -> PyResult<&'a Serving> {
        self.lanes.get().serving(py)
    }

    /// Settles how a step of the coroutine ended: `Ok` is what the task shall see as yielded.
    fn settle<'py>(
        &self,
        py: Python<'py>,
        stepped: PyResult<Step<'py>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let lanes = self.lanes.bind(py);
        if let Ok(Step::Yielded(value)) = stepped {
            return Ok(value);
        }
        lanes.get().tasks.fetch_sub(1, Ordering::Relaxed);
        let mut source = Source::Made(self.exchange.clone_ref(py));
        let result = match stepped {
            Ok(Step::Yielded(value) | Step::Returned(value)) => {
                drive::finish(lanes, self.place, &value, &mut source).map(|()| value.unbind())
            }
            Err(error) => {
                let cancelled = self.serving(py)?.is_cancelled(py, &error);
                let end = if cancelled { Err(error.clone_ref(py)) } else { Ok(py.None()) };
                drive::raised(lanes, self.place, &mut source, error).and(end)
            }
        };
        let ended = match &result {
            Ok(value) => Ok(value.clone_ref(py)),
            Err(error) => Err(error.clone_ref(py)),
        };
        drop(self.replace(py, State::Ended(result))?);
        Err(ended.map_or_else(|error| error, |value| PyStopIteration::new_err((value,))))
    }

    fn advance<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let coroutine = self.coroutine.bind(py);
        let stepped = match &self.context {
            None => crate::ffi::send(coroutine),
            Some(context) => drive::step_in(self.serving(py)?, context.bind(py), coroutine),
        };
        self.settle(py, stepped)
    }

    fn advance_by_throwing<'py>(
        &self,
        py: Python<'py>,
        error: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let throw = self.coroutine.bind(py).getattr(pyo3::intern!(py, "throw"))?;
        let thrown = match &self.context {
            None => throw.call1((error,)),
            Some(context) => {
                context.bind(py).call_method1(pyo3::intern!(py, "run"), (throw, error))
            }
        };
        let stepped = match thrown {
            Ok(value) => Ok(Step::Yielded(value)),
            Err(stop) if stop.is_instance_of::<PyStopIteration>(py) => {
                Ok(Step::Returned(stop.value(py).getattr(pyo3::intern!(py, "value"))?))
            }
            Err(error) => Err(error),
        };
        self.settle(py, stepped)
    }

    fn yield_first<'py>(
        &self,
        py: Python<'py>,
        value: Py<PyAny>,
        blocking: bool,
    ) -> PyResult<Bound<'py, PyAny>> {
        if blocking {
            value.setattr(py, pyo3::intern!(py, "_asyncio_future_blocking"), true)?;
        }
        Ok(value.into_bound(py))
    }

    fn started_twice() -> PyErr {
        PyRuntimeError::new_err("the coroutine's first step is still running")
    }
}

/// Clears a future's mark that its task has just begun to wait, until the task sees it; true when it was set.
pub(crate) fn clear_blocking(value: &Bound<'_, PyAny>) -> PyResult<bool> {
    let py = value.py();
    let name = pyo3::intern!(py, "_asyncio_future_blocking");
    if value.is_none()
        || !value.getattr_opt(name)?.is_some_and(|mark| mark.is_truthy().unwrap_or(false))
    {
        return Ok(false);
    }
    value.setattr(name, false)?;
    Ok(true)
}

#[pymethods]
impl Rest {
    fn send<'py>(&self, py: Python<'py>, value: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        debug_assert!(value.is_none(), "a task sends nothing else");
        self.__next__(py)
    }

    fn __next__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        match self.replace(py, State::Running)? {
            State::Running => self.advance(py),
            State::Yielded { value, blocking } => self.yield_first(py, value, blocking),
            State::Ended(result) => {
                Err(result.map_or_else(|error| error, |value| PyStopIteration::new_err((value,))))
            }
            State::Stepping => {
                drop(self.replace(py, State::Stepping)?);
                Err(Self::started_twice())
            }
        }
    }

    #[pyo3(signature = (error, value = None, traceback = None))]
    fn throw<'py>(
        &self,
        py: Python<'py>,
        error: &Bound<'py, PyAny>,
        value: Option<&Bound<'py, PyAny>>,
        traceback: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let _ = traceback;
        let error = value.unwrap_or(error);
        match self.replace(py, State::Running)? {
            State::Running => self.advance_by_throwing(py, error),
            State::Yielded { value, blocking } => {
                // The task was cancelled before it could see what the coroutine waits for. A task that made the first step
                // itself would now cancel that, and the coroutine would hear of it from there.
                let cancelled = error.is_instance(self.serving(py)?.cancelled.bind(py))?;
                if cancelled && blocking && cancel(value.bind(py), error)? {
                    return self.yield_first(py, value, blocking);
                }
                drop(value);
                self.advance_by_throwing(py, error)
            }
            State::Ended(result) => {
                drop(result);
                Err(PyErr::from_value(error.clone()))
            }
            State::Stepping => {
                drop(self.replace(py, State::Stepping)?);
                Err(Self::started_twice())
            }
        }
    }

    fn close(&self, py: Python<'_>) -> PyResult<()> {
        self.coroutine.bind(py).call_method0(pyo3::intern!(py, "close"))?;
        Ok(())
    }

    fn __await__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __iter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    /// Whatever else debuggers and `Task.__repr__` ask for (`cr_code`, `cr_frame`, `__qualname__`, …) is the coroutine's.
    fn __getattr__<'py>(
        &self,
        name: &Bound<'py, pyo3::types::PyString>,
    ) -> PyResult<Bound<'py, PyAny>> {
        self.coroutine.bind(name.py()).getattr(name)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.coroutine)?;
        visit.call(&self.exchange)?;
        visit.call(&self.context)
    }
}

/// `future.cancel(msg=…)`, with the message of the task's own cancellation.
fn cancel<'py>(future: &Bound<'py, PyAny>, error: &Bound<'py, PyAny>) -> PyResult<bool> {
    let args =
        error.getattr(pyo3::intern!(error.py(), "args"))?.cast_into::<pyo3::types::PyTuple>()?;
    future.call_method1(pyo3::intern!(error.py(), "cancel"), args)?.is_truthy()
}
