//! What `Lanes.serve` named, and what of CPython and asyncio the drive calls: looked up once.

use pyo3::{
    exceptions::{PyKeyboardInterrupt, PyRuntimeError, PySystemExit, PyTypeError},
    prelude::*,
    types::{PyBytes, PyDict, PyTuple},
};
use std::thread::{self, ThreadId};

use crate::{
    answer::{Answer, Head},
    drive,
    endpoint::Target,
    exchange::Exchange,
    ffi,
};

/// Exceptions behind an exception that are looked at.
const CAUSES_MAX: usize = 8;

/// How `asyncio.Task` can be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TaskForm {
    /// Before 3.11: without a context; each step has to enter its own.
    Bare,
    /// 3.11.
    WithContext,
    /// From 3.12 on: also with its first step at once.
    Eager,
}

#[derive(Debug)]
pub(crate) struct Serving {
    targets: Vec<Target>,
    pub(crate) event_loop: Py<PyAny>,
    create_future: Py<PyAny>,
    client_disconnected: Py<PyAny>,
    pub(crate) loop_thread: ThreadId,
    dumps: Py<PyAny>,
    dumps_args: Vec<Py<PyAny>>,
    encode: Py<PyAny>,
    fail: Py<PyAny>,
    deliver: Option<Py<PyAny>>,
    /// `copy` of the context in which the worker serves: what every exchange starts from.
    pub(crate) copy_context: Py<PyAny>,
    /// `contextvars.Context.run`, unbound.
    pub(crate) run: Py<PyAny>,
    /// `drive::step`, as an object.
    pub(crate) step: Py<PyAny>,
    pub(crate) task_form: TaskForm,
    task: Py<PyAny>,
    pub(crate) enter_task: Py<PyAny>,
    pub(crate) leave_task: Py<PyAny>,
    pub(crate) cancelled: Py<PyAny>,
    /// One JSON head for each endpoint, by its status.
    pub(crate) json_heads: Vec<Head>,
}

/// The arguments of `Lanes.serve`.
pub(crate) struct Callbacks<'py> {
    pub(crate) event_loop: Bound<'py, PyAny>,
    pub(crate) dumps: Bound<'py, PyAny>,
    pub(crate) dumps_args: Bound<'py, PyTuple>,
    pub(crate) encode: Bound<'py, PyAny>,
    pub(crate) fail: Bound<'py, PyAny>,
    pub(crate) deliver: Option<Bound<'py, PyAny>>,
}

impl Serving {
    pub(crate) fn new(
        py: Python<'_>,
        targets: Vec<Target>,
        callbacks: Callbacks<'_>,
    ) -> PyResult<Self> {
        let (asyncio, contextvars) = (py.import("asyncio")?, py.import("contextvars")?);
        let tasks = py.import("asyncio.tasks")?;
        let version = py.version_info();
        let json = Head::of_type(200, b"application/json");
        let json_heads = targets.iter().map(|target| json.with_status(target.status())).collect();
        Ok(Self {
            targets,
            create_future: callbacks.event_loop.getattr("create_future")?.unbind(),
            client_disconnected: client_disconnected(py)?.unbind(),
            event_loop: callbacks.event_loop.unbind(),
            loop_thread: thread::current().id(),
            dumps: callbacks.dumps.unbind(),
            dumps_args: callbacks.dumps_args.iter().map(Bound::unbind).collect(),
            encode: callbacks.encode.unbind(),
            fail: callbacks.fail.unbind(),
            deliver: callbacks.deliver.map(Bound::unbind),
            copy_context: contextvars.call_method0("copy_context")?.getattr("copy")?.unbind(),
            run: contextvars.getattr("Context")?.getattr("run")?.unbind(),
            step: wrap_pyfunction!(drive::step, py)?.into_any().unbind(),
            task_form: if version >= (3, 12) {
                TaskForm::Eager
            } else if version >= (3, 11) {
                TaskForm::WithContext
            } else {
                TaskForm::Bare
            },
            task: asyncio.getattr("Task")?.unbind(),
            enter_task: tasks.getattr("_enter_task")?.unbind(),
            leave_task: tasks.getattr("_leave_task")?.unbind(),
            cancelled: asyncio.getattr("CancelledError")?.unbind(),
            json_heads,
        })
    }

    /// By its id. An id that was never announced is the edge's fault.
    pub(crate) fn target(&self, route: usize) -> PyResult<&Target> {
        self.targets
            .get(route)
            .ok_or_else(|| PyRuntimeError::new_err(format!("route {route} was not announced")))
    }

    /// JSON of a plain value.
    pub(crate) fn dumps<'py>(&self, value: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyBytes>> {
        let py = value.py();
        let json = match self.dumps_args.as_slice() {
            [] => ffi::call(py, &self.dumps, [value]),
            [a] => ffi::call(py, &self.dumps, [value, a.bind(py)]),
            [a, b] => ffi::call(py, &self.dumps, [value, a.bind(py), b.bind(py)]),
            many => {
                let rest = many.iter().map(|arg| arg.bind(py).clone());
                let args = std::iter::once(value.clone()).chain(rest).collect::<Vec<_>>();
                self.dumps.bind(py).call1(PyTuple::new(py, args)?)
            }
        }?;
        json.cast_into_exact::<PyBytes>()
            .map_err(|_| PyTypeError::new_err("dumps did not return bytes"))
    }

    /// An answer, or something that has to be delivered.
    pub(crate) fn encode<'py>(
        &self,
        value: &Bound<'py, PyAny>,
        status: u16,
    ) -> PyResult<Bound<'py, PyAny>> {
        self.encode.bind(value.py()).call1((value, status))
    }

    /// The coroutine that answers with what `encode` made no answer of.
    pub(crate) fn deliver<'py>(
        &self,
        value: &Bound<'py, PyAny>,
        exchange: &Py<Exchange>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = value.py();
        let Some(deliver) = &self.deliver else {
            return Err(PyTypeError::new_err("encode did not return an answer"));
        };
        ffi::call(py, deliver, [value, exchange.bind(py).as_any()])
    }

    /// The answer to an exception; when there is none, the plainest of all.
    pub(crate) fn fail(&self, py: Python<'_>, error: PyErr, exchange: &Py<Exchange>) -> Answer {
        let answer = self.fail.bind(py).call1((error.into_value(py), exchange));
        answer.and_then(|answer| Answer::parse(&answer)).unwrap_or_else(|error| {
            error.write_unraisable(py, Some(self.fail.bind(py)));
            let body = PyBytes::new(py, b"Internal Server Error").unbind();
            Answer { head: Head::of_type(500, b"text/plain; charset=utf-8"), body }
        })
    }

    /// A task that runs `rest` from now on; its first step at once if `eager` (and possible).
    pub(crate) fn new_task<'py>(
        &self,
        rest: &Bound<'py, PyAny>,
        context: &Bound<'py, PyAny>,
        eager: bool,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = rest.py();
        let kwargs = PyDict::new(py);
        kwargs.set_item(pyo3::intern!(py, "loop"), &self.event_loop)?;
        if self.task_form != TaskForm::Bare {
            kwargs.set_item(pyo3::intern!(py, "context"), context)?;
        }
        if eager {
            kwargs.set_item(pyo3::intern!(py, "eager_start"), true)?;
        }
        self.task.bind(py).call((rest,), Some(&kwargs))
    }

    pub(crate) fn new_future<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        ffi::call0(py, &self.create_future)
    }

    /// What an application gets that reads from or writes to a client that went away.
    pub(crate) fn disconnected(&self, py: Python<'_>) -> PyErr {
        let made = self.client_disconnected.bind(py).call0();
        made.map_or_else(|error| error, PyErr::from_value)
    }

    /// True for what merely says that there is nobody left to answer, or was raised because of it.
    pub(crate) fn is_disconnected(&self, py: Python<'_>, error: &PyErr) -> bool {
        let class = self.client_disconnected.bind(py);
        let mut cause = Some(error.value(py).clone().into_any());
        for _ in 0..CAUSES_MAX {
            let Some(error) = cause.filter(|cause| !cause.is_none()) else { return false };
            if error.is_instance(class).unwrap_or(false) {
                return true;
            }
            cause = error.getattr(pyo3::intern!(py, "__context__")).ok();
        }
        false
    }

    pub(crate) fn is_cancelled(&self, py: Python<'_>, error: &PyErr) -> bool {
        error.matches(py, self.cancelled.bind(py)).unwrap_or(false)
    }
}

/// The exception class, which belongs to the Python half.
pub(crate) fn client_disconnected(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    py.import("fasterapi._errors")?.getattr("ClientDisconnected")
}

/// True for what must end the worker, as it ends any asyncio program.
pub(crate) fn is_exit(py: Python<'_>, error: &PyErr) -> bool {
    error.is_instance_of::<PySystemExit>(py) || error.is_instance_of::<PyKeyboardInterrupt>(py)
}
