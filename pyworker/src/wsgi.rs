//! One call of a WSGI application: `start_response`, the iterable, and what becomes of its mistakes.
//!
//! Invariant: a head is held until the first piece of the body that is not empty, or the body's end, so that the application
//! can still replace it; pieces are written as they come, each at once. `close` of the iterable is called whatever happened.
//! The thread waits while its client is slower than the application. Reason phrases are the edge's.
//! Deliberately absent: which thread it is (`crew`).
//!
//! Source: <https://peps.python.org/pep-3333/>.

use fasterapi::limits::CHUNK_SIZE;
use pyo3::{
    exceptions::{PyAssertionError, PyRuntimeError, PyTypeError, PyValueError},
    prelude::*,
    types::{PyBytes, PyList, PyString, PyTuple},
};

use crate::{
    answer::{Answer, Head},
    crew::Job,
    endpoint::Target,
    exchange::Body,
    fate::Stage,
    ffi::{self, GilCell},
    handle::Handle,
    lanes::Lanes,
    wsgi_environ::WsgiEndpoint,
    wsgi_input::Input,
};

/// A head that waits for the first piece of its body.
#[derive(Debug)]
struct Held {
    head: Head,
    length: Option<u64>,
}

/// The callable that an application begins its response with.
#[pyclass(frozen, module = "fasterapi._native")]
#[derive(Debug)]
pub(crate) struct StartResponse {
    handle: Handle,
    held: GilCell<Option<Held>>,
    /// Of a length that the head names, what is not written yet.
    left: GilCell<Option<u64>>,
    is_head: bool,
}

/// `wsgi.file_wrapper`: an iterable over a file's blocks; the server reads it in blocks of its own size.
#[pyclass(frozen, module = "fasterapi._native")]
#[derive(Debug)]
pub(crate) struct FileWrapper {
    file: Py<PyAny>,
    block_size: usize,
}

/// Calls the application with a request, on this thread, and answers.
///
/// An error is one that must end the worker.
pub(crate) fn run(lanes: &Bound<'_, Lanes>, job: Job) -> PyResult<()> {
    let (py, own) = (lanes.py(), lanes.get());
    let Job { lane, id, request, body, fate } = job;
    if fate.is_over() {
        return Ok(());
    }
    let Target::Wsgi(endpoint) = own.serving(py)?.target(request.route as usize)? else {
        return Err(PyRuntimeError::new_err("a thread has taken what is not for WSGI"));
    };
    let endpoint = endpoint.get();
    let handle = || Handle::new(lanes.clone().unbind(), lane, id, fate.clone());
    let input = match body {
        Body::Coming => Input::coming(handle()),
        Body::Whole(body) => Input::whole(handle(), Some(body)),
        Body::Inside => {
            let body = Some(request.inline_body()).filter(|body| !body.is_empty());
            Input::whole(handle(), body.map(|body| PyBytes::new(py, body).unbind()))
        }
    };
    let input = Bound::new(py, input)?.into_any();
    let is_head = request.is_head();
    let (held, left) = (GilCell::new(None), GilCell::new(None));
    let response = StartResponse { handle: handle(), held, left, is_head };
    let response = Bound::new(py, response)?;
    let called = endpoint
        .environ(py, &request, &input)
        .and_then(|environ| ffi::call(py, &endpoint.app, [environ.as_any(), response.as_any()]));
    own.recycle(py, request)?;
    let response = response.get();
    match called {
        Err(error) => response.fail(py, endpoint, error)?,
        Ok(result) => {
            if let Err(error) = response.send_all(&result) {
                response.fail(py, endpoint, error)?;
            }
            if let Err(error) = close(&result) {
                endpoint.report(py, error);
            }
        }
    }
    response.handle.flush(py)
}

/// The iterable's own `close`, if it has one.
fn close(result: &Bound<'_, PyAny>) -> PyResult<()> {
    if result.is_exact_instance_of::<PyList>() || result.is_exact_instance_of::<PyTuple>() {
        return Ok(());
    }
    match result.getattr_opt(pyo3::intern!(result.py(), "close"))? {
        Some(close) => close.call0().map(drop),
        None => Ok(()),
    }
}

/// A piece of a body.
fn piece(item: &Bound<'_, PyAny>) -> PyResult<Py<PyBytes>> {
    if let Ok(bytes) = item.cast::<PyBytes>() {
        return Ok(bytes.clone().unbind());
    }
    let got = item.get_type().name()?;
    Err(PyTypeError::new_err(format!("a WSGI application's body is made of bytes, not {got}")))
}

impl StartResponse {
    fn send_all(&self, result: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = result.py();
        let only = if let Ok(list) = result.cast_exact::<PyList>() {
            (list.len() == 1).then(|| list.get_item(0)).transpose()?
        } else if let Ok(tuple) = result.cast_exact::<PyTuple>() {
            (tuple.len() == 1).then(|| tuple.get_item(0)).transpose()?
        } else if let Ok(wrapper) = result.cast_exact::<FileWrapper>() {
            return self.send_file(py, wrapper.get());
        } else {
            None
        };
        if let Some(only) = only {
            return self.send_whole(py, piece(&only)?);
        }
        for item in result.try_iter()? {
            let piece = piece(&item?)?;
            if !piece.as_bytes(py).is_empty() {
                self.send(py, piece, false)?;
            }
        }
        self.end(py)
    }

    /// The body's end.
    fn end(&self, py: Python<'_>) -> PyResult<()> {
        let empty = PyBytes::new(py, b"").unbind();
        match self.handle.fate().stage() {
            Stage::Unanswered => self.send_whole(py, empty),
            Stage::Ended => Ok(()),
            Stage::Started | Stage::Gone => self.send(py, empty, true),
        }
    }

    /// A body that is one piece.
    fn send_whole(&self, py: Python<'_>, body: Py<PyBytes>) -> PyResult<()> {
        let size = body.as_bytes(py).len() as u64;
        let fresh = self.handle.fate().stage() == Stage::Unanswered && !self.is_head;
        let mut held = self.held.borrow(py)?;
        let fits = |held: &mut Held| fresh && held.length.is_none_or(|length| length == size);
        let Some(Held { head, .. }) = held.take_if(fits) else {
            drop(held);
            return self.send(py, body, true);
        };
        drop(held);
        self.handle.answer(py, Answer { head, body })?;
        self.wait_until_written(py)
    }

    fn send_file(&self, py: Python<'_>, wrapper: &FileWrapper) -> PyResult<()> {
        let read = wrapper.file.bind(py).getattr(pyo3::intern!(py, "read"))?;
        loop {
            let block = piece(&read.call1((CHUNK_SIZE,))?)?;
            if block.as_bytes(py).is_empty() {
                return self.end(py);
            }
            self.send(py, block, false)?;
        }
    }

    /// Writes a piece, and waits while the client is slower.
    fn send(&self, py: Python<'_>, body: Py<PyBytes>, end: bool) -> PyResult<()> {
        let handle = &self.handle;
        handle.lanes().glance(py)?;
        if handle.fate().stage() == Stage::Unanswered {
            let Some(Held { head, length }) = self.held.borrow(py)?.take() else {
                return Err(PyAssertionError::new_err(
                    "the application has not called start_response()",
                ));
            };
            handle.start(py, head, length, self.is_head)?;
            *self.left.borrow(py)? = length;
        }
        // A body that is complete ends with its last piece, not with a record of its own.
        let mut left = self.left.borrow(py)?;
        *left = left.and_then(|left| left.checked_sub(body.as_bytes(py).len() as u64));
        let end = end || *left == Some(0);
        drop(left);
        handle.write(py, body, end)?;
        handle.flush(py)?;
        if end { self.wait_until_written(py) } else { self.wait_for_room(py) }
    }

    fn wait_for_room(&self, py: Python<'_>) -> PyResult<()> {
        let handle = &self.handle;
        if !handle.is_full(py)? {
            return Ok(());
        }
        handle.lanes().wait_for(py, || {
            if handle.fate().is_gone() {
                return Err(handle.disconnected(py)?);
            }
            Ok((!handle.is_full(py)?).then_some(()))
        })
    }

    /// The thread is the only one that is sure to move the rest of its response.
    fn wait_until_written(&self, py: Python<'_>) -> PyResult<()> {
        let handle = &self.handle;
        if !handle.is_open(py)? {
            return Ok(());
        }
        handle.lanes().wait_for(py, || Ok((!handle.is_open(py)?).then_some(())))
    }

    /// The application has raised, or done what it must not.
    fn fail(&self, py: Python<'_>, endpoint: &WsgiEndpoint, error: PyErr) -> PyResult<()> {
        let handle = &self.handle;
        let own = handle.lanes();
        let stage = handle.fate().stage();
        if stage != Stage::Gone || !own.serving(py)?.is_disconnected(py, &error) {
            endpoint.report(py, error);
        }
        match stage {
            Stage::Ended | Stage::Gone => Ok(()),
            Stage::Unanswered => handle.answer(py, server_error(py)),
            Stage::Started if handle.retract(py)? => handle.answer(py, server_error(py)),
            Stage::Started => handle.abort(py),
        }
    }

    fn replace_head(&self, status: &str, headers: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = headers.py();
        let held = parse_head(status, headers)?;
        drop(self.held.borrow(py)?.replace(held));
        Ok(())
    }
}

fn server_error(py: Python<'_>) -> Answer {
    let body = PyBytes::new(py, b"Internal Server Error").unbind();
    Answer { head: Head::of_type(500, b"text/plain; charset=utf-8"), body }
}

/// `"200 OK"` and a list of pairs of native strings.
fn parse_head(status: &str, headers: &Bound<'_, PyAny>) -> PyResult<Held> {
    let (code, rest) = status.split_at_checked(3).unwrap_or_default();
    let code = code.parse::<u16>().ok().filter(|_| rest.is_empty() || rest.starts_with(' '));
    let Some(code) = code else {
        return Err(PyValueError::new_err(format!(
            "{status:?} is not a status such as \"200 OK\""
        )));
    };
    let mut held = Held { head: Head::of_code(code)?, length: None };
    let headers =
        headers.cast::<PyList>().map_err(|_| PyTypeError::new_err("headers are a list"))?;
    for field in headers.iter() {
        let pair = field.cast::<PyTuple>().ok().filter(|pair| pair.len() == 2);
        let pair = pair.ok_or_else(|| PyTypeError::new_err("a header is a pair of strings"))?;
        let (name, value) = (text(&pair.get_item(0)?)?, text(&pair.get_item(1)?)?);
        if name.eq_ignore_ascii_case(b"content-length") {
            let length = str::from_utf8(&value).ok().and_then(|text| text.trim().parse().ok());
            held.length = Some(length.ok_or_else(|| {
                PyValueError::new_err(format!("content-length is no length: {value:?}"))
            })?);
        }
        held.head.push(&name, &value)?;
    }
    Ok(held)
}

/// The bytes that a native string stands for.
fn text(item: &Bound<'_, PyAny>) -> PyResult<Vec<u8>> {
    let Ok(item) = item.cast::<PyString>() else {
        return Err(PyTypeError::new_err("a header is a pair of strings"));
    };
    let text = item.to_str()?;
    if text.is_ascii() {
        return Ok(text.as_bytes().to_vec());
    }
    let bytes = text.chars().map(|char| u8::try_from(u32::from(char)).ok());
    bytes.collect::<Option<Vec<u8>>>().ok_or_else(|| {
        PyValueError::new_err(format!("{text:?} has a character that is not Latin-1"))
    })
}

#[pymethods]
impl StartResponse {
    #[pyo3(signature = (status, headers, exc_info = None, /))]
    fn __call__<'py>(
        slf: &Bound<'py, Self>,
        status: &str,
        headers: &Bound<'py, PyAny>,
        exc_info: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let (py, own) = (slf.py(), slf.get());
        // One whose client is gone hears of it when it writes.
        let begun = matches!(own.handle.fate().stage(), Stage::Started | Stage::Ended);
        match exc_info {
            // Too late to say something else: the application's own error goes on (PEP 3333, "Error Handling").
            Some(exc_info) if begun => return Err(PyErr::from_value(exc_info.get_item(1)?)),
            None if begun || own.held.borrow(py)?.is_some() => {
                return Err(PyAssertionError::new_err("start_response() was called already"));
            }
            _ => own.replace_head(status, headers)?,
        }
        slf.getattr(pyo3::intern!(py, "write"))
    }

    /// PEP 3333's imperative way to write a body.
    fn write(&self, data: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = data.py();
        let data = piece(data)?;
        if data.as_bytes(py).is_empty() { Ok(()) } else { self.send(py, data, false) }
    }
}

#[pymethods]
impl FileWrapper {
    #[new]
    #[pyo3(signature = (file, block_size = 8192, /))]
    fn new(file: Py<PyAny>, block_size: usize) -> Self {
        Self { file, block_size }
    }

    fn __iter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __next__<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let read = pyo3::intern!(py, "read");
        let block = self.file.bind(py).call_method1(read, (self.block_size,))?;
        Ok(if block.is_truthy()? { Some(block) } else { None })
    }

    fn close(&self, py: Python<'_>) -> PyResult<()> {
        match self.file.bind(py).getattr_opt(pyo3::intern!(py, "close"))? {
            Some(close) => close.call0().map(drop),
            None => Ok(()),
        }
    }
}
