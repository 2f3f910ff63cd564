//! What `await` takes: objects that end at once when there is nothing to wait for, and otherwise yield a future.
//!
//! Invariant: a future exists only while its waiter has looked and found nothing; what it waited for is looked up again
//! when it is woken, so that a cancelled waiter has taken nothing. They have `send`, `throw` and `close`, by which asyncio
//! takes them for coroutines: `create_task(exchange.receive())` works.

use pyo3::{exceptions::PyStopIteration, prelude::*, sync::PyOnceLock, types::PyBytes};

use crate::{asgi, exchange::Exchange, ffi::GilCell, lane::Taken};

/// Ends at once, without a value.
#[pyclass(frozen, module = "fasterapi._native")]
pub(crate) struct Finished;

/// Raises when it is awaited: what went wrong when it was made.
#[pyclass(frozen, module = "fasterapi._native")]
pub(crate) struct Refused(PyErr);

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wish {
    /// The next piece of the request's body.
    Piece,
    /// Room for more of the response.
    Room,
    /// That nobody waits for the response any more.
    Disconnect,
    /// What ASGI's `receive` gives: pieces of the body, then the disconnect.
    Event,
}

#[pyclass(frozen, module = "fasterapi._native")]
#[derive(Debug)]
pub(crate) struct Waiting {
    exchange: Py<Exchange>,
    wish: Wish,
    future: GilCell<Option<Py<PyAny>>>,
}

/// The outcome of a look.
enum Look {
    Nothing,
    Found(Py<PyAny>),
    NotYet,
}

impl Waiting {
    pub(crate) const fn new(exchange: Py<Exchange>, wish: Wish) -> Self {
        Self { exchange, wish, future: GilCell::new(None) }
    }

    fn look(&self, py: Python<'_>) -> PyResult<Look> {
        let exchange = self.exchange.get();
        let handle = exchange.handle();
        Ok(match self.wish {
            Wish::Disconnect if handle.fate().is_over() => Look::Nothing,
            Wish::Room if handle.fate().is_gone() => return Err(handle.disconnected(py)?),
            Wish::Room if !handle.is_full(py)? => Look::Nothing,
            Wish::Disconnect | Wish::Room => Look::NotYet,
            Wish::Piece => match exchange.take_input(py)? {
                Taken::Piece { bytes, .. } => Look::Found(bytes.into_any()),
                Taken::End => Look::Found(PyBytes::new(py, b"").into_any().unbind()),
                Taken::NotYet => Look::NotYet,
                Taken::Gone => return Err(handle.disconnected(py)?),
            },
            Wish::Event => return self.event(py),
        })
    }

    fn event(&self, py: Python<'_>) -> PyResult<Look> {
        let exchange = self.exchange.get();
        if exchange.fate().is_over() {
            return Ok(Look::Found(asgi::disconnect_event(py)?));
        }
        let taken =
            if exchange.is_exhausted() { Taken::NotYet } else { exchange.take_input(py)? };
        Ok(match taken {
            Taken::Piece { bytes, last } => {
                Look::Found(asgi::request_event(py, bytes.bind(py), !last)?)
            }
            Taken::End => Look::Found(asgi::request_event(py, &PyBytes::new(py, b""), false)?),
            Taken::NotYet => Look::NotYet,
            Taken::Gone => Look::Found(asgi::disconnect_event(py)?),
        })
    }

    /// Forgets the future that was yielded last.
    fn leave(&self, py: Python<'_>) -> PyResult<()> {
        let future = self.future.borrow(py)?.take();
        match future {
            Some(future) => self.exchange.get().handle().forget_waiter(py, &future),
            None => Ok(()),
        }
    }
}

#[pymethods]
impl Waiting {
    fn __await__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __iter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __next__<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        self.leave(py)?;
        match self.look(py)? {
            Look::Nothing => return Ok(None),
            Look::Found(value) => return Err(PyStopIteration::new_err((value,))),
            Look::NotYet => {}
        }
        let future = match self.wish {
            Wish::Room => self.exchange.get().handle().await_room(py)?,
            Wish::Piece | Wish::Disconnect | Wish::Event => {
                self.exchange.get().handle().await_input(py)?
            }
        };
        drop(self.future.borrow(py)?.replace(future.clone().unbind()));
        // As `Future.__await__` does before it yields itself.
        future.setattr(pyo3::intern!(py, "_asyncio_future_blocking"), true)?;
        Ok(Some(future))
    }

    fn send<'py>(&self, py: Python<'py>, value: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        debug_assert!(value.is_none(), "a task sends nothing else");
        self.__next__(py)?.ok_or_else(|| PyStopIteration::new_err(()))
    }

    #[pyo3(signature = (error, value = None, traceback = None))]
    fn throw(
        &self,
        py: Python<'_>,
        error: &Bound<'_, PyAny>,
        value: Option<&Bound<'_, PyAny>>,
        traceback: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let _ = traceback;
        self.leave(py)?;
        Err(PyErr::from_value(value.unwrap_or(error).clone()))
    }

    fn close(&self, py: Python<'_>) -> PyResult<()> {
        self.leave(py)
    }
}

impl Refused {
    pub(crate) fn with(py: Python<'_>, error: PyErr) -> PyResult<Bound<'_, PyAny>> {
        Ok(Bound::new(py, Self(error))?.into_any())
    }
}

#[pymethods]
impl Refused {
    fn __await__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __iter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __next__(&self, py: Python<'_>) -> PyResult<()> {
        Err(self.0.clone_ref(py))
    }

    fn send(&self, value: &Bound<'_, PyAny>) -> PyResult<()> {
        Err(self.0.clone_ref(value.py()))
    }

    #[pyo3(signature = (error, value = None, traceback = None))]
    fn throw(
        &self,
        error: &Bound<'_, PyAny>,
        value: Option<&Bound<'_, PyAny>>,
        traceback: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let _ = traceback;
        Err(PyErr::from_value(value.unwrap_or(error).clone()))
    }

    fn close(&self) {}
}

impl Finished {
    pub(crate) fn get(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
        static FINISHED: PyOnceLock<Py<Finished>> = PyOnceLock::new();
        let finished = FINISHED.get_or_try_init(py, || Py::new(py, Self))?;
        Ok(finished.bind(py).clone().into_any())
    }
}

#[pymethods]
impl Finished {
    fn __await__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __iter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __next__(&self) -> Option<()> {
        None
    }

    fn send(&self, value: &Bound<'_, PyAny>) -> PyResult<()> {
        let _ = value;
        Err(PyStopIteration::new_err(()))
    }

    #[pyo3(signature = (error, value = None, traceback = None))]
    fn throw(
        &self,
        error: &Bound<'_, PyAny>,
        value: Option<&Bound<'_, PyAny>>,
        traceback: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let _ = traceback;
        Err(PyErr::from_value(value.unwrap_or(error).clone()))
    }

    fn close(&self) {}
}
