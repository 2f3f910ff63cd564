//! What an application's object holds of its exchange: the way to the books, and the exchange's fate.
//!
//! Invariant: the books are used on the loop's thread alone; what any thread may ask is in the [`Fate`].

use std::{sync::Arc, thread};

use pyo3::{exceptions::PyRuntimeError, prelude::*, types::PyBytes};

use crate::{
    answer::{Answer, Head},
    fate::{Fate, Stage},
    lane::{Lane, Taken},
    lanes::Lanes,
    serving::Serving,
};

#[derive(Debug)]
pub(crate) struct Handle {
    lanes: Py<Lanes>,
    lane: usize,
    id: u64,
    fate: Arc<Fate>,
}

impl Handle {
    pub(crate) const fn new(lanes: Py<Lanes>, lane: usize, id: u64, fate: Arc<Fate>) -> Self {
        Self { lanes, lane, id, fate }
    }

    pub(crate) fn fate(&self) -> &Arc<Fate> {
        &self.fate
    }

    /// RuntimeError in any other thread than the loop's.
    fn serving<'a>(&'a self, py: Python<'a>) -> PyResult<&'a Serving> {
        let serving = self.lanes.get().serving(py)?;
        if thread::current().id() == serving.loop_thread {
            Ok(serving)
        } else {
            Err(PyRuntimeError::new_err(
                "an exchange's body belongs to the event loop's thread; other threads reach it through \
                 asyncio.run_coroutine_threadsafe()",
            ))
        }
    }

    fn books<T>(
        &self,
        py: Python<'_>,
        action: impl FnOnce(&mut Lane, u64, &Arc<Fate>) -> Result<T, fasterapi::ipc::Fault>,
    ) -> PyResult<T> {
        self.serving(py)?;
        self.lanes.get().lane(py, self.lane, |lane| action(lane, self.id, &self.fate))
    }

    /// What has come of the request's body.
    pub(crate) fn take_input(&self, py: Python<'_>) -> PyResult<Taken> {
        self.books(py, |lane, id, _| lane.take_input(py, id))
    }

    pub(crate) fn start(
        &self,
        py: Python<'_>,
        head: Head,
        length: Option<u64>,
        is_head: bool,
    ) -> PyResult<()> {
        let already = match self.fate.stage() {
            Stage::Gone => return Err(self.disconnected(py)?),
            Stage::Unanswered => {
                return self.books(py, |lane, id, fate| {
                    lane.start(id, fate, head, length, is_head);
                    Ok(())
                });
            }
            Stage::Started => "the response was started already",
            Stage::Ended => "the response has ended already",
        };
        Err(PyRuntimeError::new_err(already))
    }

    pub(crate) fn write(&self, py: Python<'_>, bytes: Py<PyBytes>, end: bool) -> PyResult<()> {
        let wrong = match self.fate.stage() {
            Stage::Gone => return Err(self.disconnected(py)?),
            Stage::Started => {
                let accepted =
                    self.books(py, |lane, id, fate| lane.write(py, id, fate, bytes, end))?;
                return accepted.map_err(|wrong| PyRuntimeError::new_err(wrong.to_string()));
            }
            Stage::Unanswered => "the response was not started",
            Stage::Ended => "the response has ended already",
        };
        Err(PyRuntimeError::new_err(wrong))
    }

    /// A whole answer, where nothing was answered yet.
    pub(crate) fn answer(&self, py: Python<'_>, answer: Answer) -> PyResult<()> {
        self.books(py, |lane, id, fate| lane.answer(py, id, fate, answer))
    }

    /// True when more is queued than the client takes at the moment.
    pub(crate) fn is_full(&self, py: Python<'_>) -> PyResult<bool> {
        self.books(py, |lane, id, _| Ok(lane.is_full(id)))
    }

    pub(crate) fn disconnected(&self, py: Python<'_>) -> PyResult<PyErr> {
        Ok(self.serving(py)?.disconnected(py))
    }

    /// A future that is woken when there is input, or the exchange is over.
    pub(crate) fn await_input<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let future = self.serving(py)?.new_future(py)?;
        let waiter = future.clone().unbind();
        self.books(py, |lane, id, fate| {
            lane.await_input(id, fate, waiter);
            Ok(())
        })?;
        Ok(future)
    }

    /// A future that is woken when there is room for output, or the exchange is over.
    pub(crate) fn await_room<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let future = self.serving(py)?.new_future(py)?;
        let waiter = future.clone().unbind();
        self.books(py, |lane, id, fate| {
            lane.await_room(id, fate, waiter);
            Ok(())
        })?;
        Ok(future)
    }

    /// In another thread, where a collected coroutine may be closed, the future stays until the next wake-up.
    pub(crate) fn forget_waiter(&self, py: Python<'_>, future: &Py<PyAny>) -> PyResult<()> {
        if self.serving(py).is_err() {
            return Ok(());
        }
        self.books(py, |lane, id, _| {
            lane.forget_waiter(id, future);
            Ok(())
        })
    }
}
