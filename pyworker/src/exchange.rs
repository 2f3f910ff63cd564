//! A request as the application sees it.
//!
//! Invariant: [`Arrived`] is one copy of the record in one buffer, and immutable once an [`Exchange`] owns it; every
//! Python object is made when first asked for. Deliberately absent: what becomes of the exchange (see `lane`); an
//! [`Exchange`] outlives it, and from then on says so.

use fasterapi::{
    ipc::message,
    span::{Field, Span},
};
use pyo3::{
    exceptions::PyRuntimeError,
    prelude::*,
    sync::PyOnceLock,
    types::{PyBytes, PyDict, PyList, PyString, PyTuple},
};
use std::{
    net::SocketAddr,
    sync::atomic::{AtomicBool, Ordering},
};
use zerocopy::{FromBytes, IntoBytes};

use crate::{
    answer::{Head, body_of},
    asgi::Course,
    fate::{Fate, Stage},
    ffi::GilCell,
    handle::Handle,
    lane::Taken,
    tls::Tls,
    waiting::{Finished, Waiting, Wish},
};

/// A request record, copied out of the lane: blob, parameters, fields and inline body in one buffer.
#[derive(Debug, Default)]
pub(crate) struct Arrived {
    pub(crate) route: u32,
    pub(crate) content_length: Option<u64>,
    version: u8,
    pub(crate) secure: bool,
    pub(crate) websocket: bool,
    pub(crate) tls: Option<Box<Tls>>,
    method: Span,
    raw_path: Span,
    path: Span,
    query: Span,
    authority: Span,
    peer: Option<SocketAddr>,
    buffer: Vec<u8>,
    /// `buffer[..blob_end]` is the blob; parameters, fields and body follow. Never decreasing in this order.
    blob_end: usize,
    params_end: usize,
    fields_end: usize,
}

impl Arrived {
    /// Takes a request over, into the buffer that is there already.
    pub(crate) fn copy_from(&mut self, request: &message::Request<'_>) {
        self.route = request.route;
        self.content_length = request.content_length;
        self.version = request.version;
        self.secure = request.secure;
        self.websocket = request.websocket;
        self.tls = request.tls.as_ref().map(|tls| Box::new(Tls::of(tls)));
        self.method = request.method_name;
        self.raw_path = request.raw_path;
        self.path = request.path;
        self.query = request.query;
        self.authority = request.authority;
        self.peer = request.peer;
        self.buffer.clear();
        self.buffer.reserve(request.payload_len());
        self.buffer.extend_from_slice(request.blob);
        self.blob_end = self.buffer.len();
        self.buffer.extend_from_slice(request.params.as_bytes());
        self.params_end = self.buffer.len();
        self.buffer.extend_from_slice(request.fields.as_bytes());
        self.fields_end = self.buffer.len();
        self.buffer.extend_from_slice(request.body);
    }

    pub(crate) fn is_head(&self) -> bool {
        self.text(self.method) == b"HEAD"
    }

    /// The values of the fields of this (lower-case) name.
    pub(crate) fn values<'a>(&'a self, name: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
        let named = self.fields().iter().filter(move |field| self.text(field.name) == name);
        named.map(|field| self.text(field.value))
    }

    /// The client waits for 100 Continue.
    pub(crate) fn expects_continue(&self) -> bool {
        self.fields().iter().any(|field| {
            self.text(field.name) == b"expect"
                && self.text(field.value).eq_ignore_ascii_case(b"100-continue")
        })
    }

    /// True for HTTP/1.1 without encryption, which is not a WebSocket.
    pub(crate) fn is_plain(&self) -> bool {
        self.version == 11 && !self.secure && !self.websocket && self.tls.is_none()
    }

    pub(crate) fn peer(&self) -> Option<SocketAddr> {
        self.peer
    }

    pub(crate) fn path(&self) -> &[u8] {
        self.text(self.path)
    }

    pub(crate) fn raw_path(&self) -> &[u8] {
        self.text(self.raw_path)
    }

    pub(crate) fn query(&self) -> &[u8] {
        self.text(self.query)
    }

    pub(crate) fn method_name<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyString>> {
        Ok(match self.text(self.method) {
            b"GET" => pyo3::intern!(py, "GET").clone(),
            b"POST" => pyo3::intern!(py, "POST").clone(),
            b"PUT" => pyo3::intern!(py, "PUT").clone(),
            b"DELETE" => pyo3::intern!(py, "DELETE").clone(),
            b"PATCH" => pyo3::intern!(py, "PATCH").clone(),
            b"HEAD" => pyo3::intern!(py, "HEAD").clone(),
            other => decoded(py, other)?,
        })
    }

    pub(crate) fn version<'py>(&self, py: Python<'py>) -> Bound<'py, PyString> {
        match self.version {
            10 => pyo3::intern!(py, "1.0"),
            20 => pyo3::intern!(py, "2"),
            30 => pyo3::intern!(py, "3"),
            _ => pyo3::intern!(py, "1.1"),
        }
        .clone()
    }

    pub(crate) fn scheme<'py>(&self, py: Python<'py>) -> Bound<'py, PyString> {
        match (self.websocket, self.secure) {
            (false, false) => pyo3::intern!(py, "http"),
            (false, true) => pyo3::intern!(py, "https"),
            (true, false) => pyo3::intern!(py, "ws"),
            (true, true) => pyo3::intern!(py, "wss"),
        }
        .clone()
    }

    /// All fields, as `[(name, value), …]`.
    pub(crate) fn header_list<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let pairs = self.fields().iter();
        let pairs = pairs.map(|field| (self.bytes(py, field.name), self.bytes(py, field.value)));
        PyList::new(py, pairs.collect::<Vec<_>>())
    }

    /// Its fields, as bytes.
    pub(crate) fn field_list(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.fields().iter().map(|field| (self.text(field.name), self.text(field.value)))
    }

    /// As a status line has it, where it is not 1.1.
    pub(crate) fn unusual_protocol(&self) -> Option<&'static str> {
        match self.version {
            10 => Some("HTTP/1.0"),
            20 => Some("HTTP/2"),
            30 => Some("HTTP/3"),
            _ => None,
        }
    }

    fn bytes<'py>(&self, py: Python<'py>, span: Span) -> Bound<'py, PyBytes> {
        PyBytes::new(py, self.text(span))
    }

    /// The bytes behind a span; the lane has checked it against the blob.
    fn text(&self, span: Span) -> &[u8] {
        span.of(self.buffer.get(..self.blob_end).unwrap_or_default()).unwrap_or_default()
    }

    fn params(&self) -> &[Span] {
        let bytes = self.buffer.get(self.blob_end..self.params_end).unwrap_or_default();
        <[Span]>::ref_from_bytes(bytes).unwrap_or_default()
    }

    fn fields(&self) -> &[Field] {
        let bytes = self.buffer.get(self.params_end..self.fields_end).unwrap_or_default();
        <[Field]>::ref_from_bytes(bytes).unwrap_or_default()
    }

    /// The body bytes that came inside the record.
    pub(crate) fn inline_body(&self) -> &[u8] {
        self.buffer.get(self.fields_end..).unwrap_or_default()
    }

    /// A path parameter by its place in the pattern.
    pub(crate) fn param(&self, index: usize) -> Option<&[u8]> {
        self.params().get(index).map(|span| self.text(*span))
    }
}

#[pyclass(frozen, module = "fasterapi._native")]
pub(crate) struct Exchange {
    request: Arrived,
    param_names: Py<PyTuple>,
    path: PyOnceLock<Py<PyString>>,
    headers: PyOnceLock<Py<PyList>>,
    path_params: PyOnceLock<Py<PyDict>>,
    /// Set from the beginning if the body came in parts.
    body: PyOnceLock<Py<PyBytes>>,
    /// The body is taken from the books piece by piece.
    in_pieces: bool,
    /// The body's end was taken.
    exhausted: AtomicBool,
    /// The code and the reason with which the application has closed a WebSocket.
    pub(crate) own_close: PyOnceLock<(u16, String)>,
    /// Of an ASGI application's messages.
    pub(crate) course: GilCell<Course>,
    handle: Handle,
}

/// Where the body of a request is.
#[derive(Debug)]
pub(crate) enum Body {
    /// In the request's record.
    Inside,
    /// Collected from several records.
    Whole(Py<PyBytes>),
    /// On its way.
    Coming,
}

impl Exchange {
    pub(crate) fn new(
        py: Python<'_>,
        request: Arrived,
        param_names: Py<PyTuple>,
        body: Body,
        handle: Handle,
    ) -> Self {
        let in_pieces = matches!(body, Body::Coming);
        let whole = PyOnceLock::new();
        if let Body::Whole(body) = body {
            whole.get_or_init(py, || body);
        }
        Self {
            request,
            param_names,
            path: PyOnceLock::new(),
            headers: PyOnceLock::new(),
            path_params: PyOnceLock::new(),
            body: whole,
            in_pieces,
            exhausted: AtomicBool::new(false),
            own_close: PyOnceLock::new(),
            course: GilCell::new(Course::default()),
            handle,
        }
    }

    pub(crate) fn request(&self) -> &Arrived {
        &self.request
    }

    pub(crate) fn handle(&self) -> &Handle {
        &self.handle
    }

    pub(crate) fn fate(&self) -> &Fate {
        self.handle.fate()
    }

    /// The body's end was taken.
    pub(crate) fn is_exhausted(&self) -> bool {
        self.exhausted.load(Ordering::Relaxed)
    }

    /// True the first time: a WebSocket's `receive` begins with the request for it, whose body is its place in the books.
    pub(crate) fn take_connect(&self) -> bool {
        !self.exhausted.swap(true, Ordering::Relaxed)
    }

    /// The next piece of the body.
    pub(crate) fn take_input(&self, py: Python<'_>) -> PyResult<Taken> {
        if self.exhausted.load(Ordering::Relaxed) {
            return Ok(Taken::End);
        }
        let taken = if self.in_pieces {
            self.handle.take_input(py)?
        } else {
            self.exhausted.store(true, Ordering::Relaxed);
            let bytes = self.whole_body(py);
            if bytes.as_bytes().is_empty() {
                Taken::End
            } else {
                Taken::Piece { bytes: bytes.unbind(), last: true }
            }
        };
        if matches!(taken, Taken::End | Taken::Piece { last: true, .. }) {
            self.exhausted.store(true, Ordering::Relaxed);
        }
        Ok(taken)
    }

    fn whole_body<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        let make = || PyBytes::new(py, self.request.inline_body()).unbind();
        self.body.get_or_init(py, make).bind(py).clone()
    }

    fn bytes<'py>(&self, py: Python<'py>, span: Span) -> Bound<'py, PyBytes> {
        self.request.bytes(py, span)
    }
}

/// UTF-8 where it is, surrogate escapes where it is not.
fn decoded<'py>(py: Python<'py>, text: &[u8]) -> PyResult<Bound<'py, PyString>> {
    match str::from_utf8(text) {
        Ok(text) => Ok(PyString::new(py, text)),
        Err(_) => PyString::from_encoded_object(
            PyBytes::new(py, text).as_any(),
            Some(c"utf-8"),
            Some(c"surrogateescape"),
        ),
    }
}

/// `host`, `host:port` or `[v6]:port`, apart.
fn split_authority(authority: &str) -> Option<(&str, Option<u16>)> {
    if authority.is_empty() {
        return None;
    }
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, port.parse().ok()),
        _ => (authority, None),
    };
    Some((host.trim_start_matches('[').trim_end_matches(']'), port))
}

#[pymethods]
impl Exchange {
    #[getter]
    fn method<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyString>> {
        self.request.method_name(py)
    }

    #[getter]
    fn path<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyString>> {
        let make = || Ok::<_, PyErr>(decoded(py, self.request.text(self.request.path))?.unbind());
        Ok(self.path.get_or_try_init(py, make)?.bind(py).clone())
    }

    #[getter]
    fn raw_path<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        self.bytes(py, self.request.raw_path)
    }

    #[getter]
    fn query_string<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        self.bytes(py, self.request.query)
    }

    #[getter]
    fn http_version<'py>(&self, py: Python<'py>) -> Bound<'py, PyString> {
        self.request.version(py)
    }

    #[getter]
    fn scheme<'py>(&self, py: Python<'py>) -> Bound<'py, PyString> {
        self.request.scheme(py)
    }

    #[getter]
    fn headers<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let make = || Ok::<_, PyErr>(self.request.header_list(py)?.unbind());
        Ok(self.headers.get_or_try_init(py, make)?.bind(py).clone())
    }

    fn header<'py>(&self, py: Python<'py>, name: &[u8]) -> Option<Bound<'py, PyBytes>> {
        let field = self.request.fields().iter().find(|f| self.request.text(f.name) == name)?;
        Some(self.bytes(py, field.value))
    }

    #[getter]
    fn path_params<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let make = || {
            let params = PyDict::new(py);
            for (name, span) in self.param_names.bind(py).iter().zip(self.request.params()) {
                params.set_item(name, decoded(py, self.request.text(*span))?)?;
            }
            Ok::<_, PyErr>(params.unbind())
        };
        Ok(self.path_params.get_or_try_init(py, make)?.bind(py).clone())
    }

    #[getter]
    fn client(&self) -> Option<(String, u16)> {
        self.request.peer.map(|peer| (peer.ip().to_string(), peer.port()))
    }

    #[getter]
    fn server(&self) -> Option<(&str, Option<u16>)> {
        split_authority(str::from_utf8(self.request.text(self.request.authority)).ok()?)
    }

    #[getter]
    fn body<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        if self.in_pieces {
            return Err(PyRuntimeError::new_err("the body comes in pieces: await receive()"));
        }
        Ok(self.whole_body(py))
    }

    fn receive(slf: &Bound<'_, Self>) -> Waiting {
        Waiting::new(slf.clone().unbind(), Wish::Piece)
    }

    #[getter]
    fn started(&self) -> bool {
        self.fate().stage() != Stage::Unanswered
    }

    #[getter]
    fn disconnected(&self) -> bool {
        self.fate().is_gone()
    }

    fn wait_disconnected(slf: &Bound<'_, Self>) -> Waiting {
        Waiting::new(slf.clone().unbind(), Wish::Disconnect)
    }

    #[pyo3(signature = (status, headers, *, length = None))]
    fn start(
        &self,
        py: Python<'_>,
        status: &Bound<'_, PyAny>,
        headers: &Bound<'_, PyAny>,
        length: Option<u64>,
    ) -> PyResult<()> {
        let head = Head::parse(status, headers)?;
        self.handle.start(py, head, length, self.request.is_head())
    }

    #[pyo3(signature = (data, *, end = false))]
    fn write<'py>(
        slf: &Bound<'py, Self>,
        data: &Bound<'py, PyAny>,
        end: bool,
    ) -> PyResult<Bound<'py, PyAny>> {
        let (py, own) = (slf.py(), slf.get());
        own.handle.write(py, body_of(data)?, end)?;
        if own.handle.is_full(py)? {
            let waiting = Waiting::new(slf.clone().unbind(), Wish::Room);
            return Ok(Bound::new(py, waiting)?.into_any());
        }
        Finished::get(py)
    }
}
