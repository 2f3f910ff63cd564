//! What an application's object holds of its exchange: the way to the books, and the exchange's fate.
//!
//! Invariant: the books are used on the loop's thread alone, or, where the application has threads, by whichever holds the GIL; what any thread may ask is in the [`Fate`].

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

    /// RuntimeError in any other thread than the loop's, unless handlers have threads of their own.
    fn serving<'a>(&'a self, py: Python<'a>) -> PyResult<&'a Serving> {
        let serving = self.lanes.get().serving(py)?;
        if serving.threaded || thread::current().id() == serving.loop_thread {
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

    pub(crate) fn lanes(&self) -> &Lanes {
        self.lanes.get()
    }

    /// Makes what was written visible.
    pub(crate) fn flush(&self, py: Python<'_>) -> PyResult<()> {
        self.books(py, |lane, _, _| lane.flush(py))
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

    /// The fields behind a body, which end the response.
    pub(crate) fn trail(&self, py: Python<'_>, trailers: Head) -> PyResult<()> {
        let accepted = self.books(py, |lane, id, fate| lane.trail(py, id, fate, trailers))?;
        accepted.map_err(|wrong| PyRuntimeError::new_err(wrong.to_string()))
    }

    /// A 1xx ahead of the answer.
    pub(crate) fn inform(&self, py: Python<'_>, head: &Head) -> PyResult<()> {
        self.books(py, |lane, id, _| lane.inform(id, head))
    }

    /// A whole answer, where nothing was answered yet.
    pub(crate) fn answer(&self, py: Python<'_>, answer: Answer) -> PyResult<()> {
        self.books(py, |lane, id, fate| lane.answer(py, id, fate, answer))
    }

    /// Takes back what was accepted of a response of which nothing was written. False: it is too late.
    pub(crate) fn retract(&self, py: Python<'_>) -> PyResult<bool> {
        self.books(py, |lane, id, _| Ok(lane.retract(id)))
    }

    /// Ends the exchange without a (complete) answer.
    pub(crate) fn abort(&self, py: Python<'_>) -> PyResult<()> {
        self.books(py, |lane, id, fate| {
            fate.advance(Stage::Gone);
            lane.abort(id)
        })
    }

    /// True until the exchange's END or ABORT was written.
    pub(crate) fn is_open(&self, py: Python<'_>) -> PyResult<bool> {
        self.books(py, |lane, id, _| Ok(lane.is_open(id)))
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
