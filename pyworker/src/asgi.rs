//! An ASGI 3 application as an endpoint: the scope it is called with, and its `receive` and `send`.
//!
//! Invariant: a response's head is held until its first body message, as the specification says; so nothing is out before an
//! application has shown that it can answer, and a small response is one record. Deliberately absent: lifespan and the other
//! kinds of scope (Python's half), and whatever both interfaces share (`exchange`, `handle`, `waiting`).
//!
//! Source: <https://asgi.readthedocs.io/en/latest/specs/www.html>, version 2.5.

use std::net::SocketAddr;

use pyo3::{
    exceptions::{PyKeyError, PyRuntimeError, PyTypeError, PyValueError},
    prelude::*,
    types::{PyBytes, PyDict, PyList, PyString, PyTuple},
};

use crate::{
    answer::{Answer, Head, body_of},
    exchange::{Arrived, Exchange},
    fate::Stage,
    ffi::{self, GilCell},
    socket_cycle::{self, SocketCycle},
    tls::Description,
    waiting::{Finished, Refused, Waiting, Wish},
};

/// Connections bring several requests each: for so many of them the client's tuple is kept.
const CLIENTS_KEPT: usize = 256;

type Client = (SocketAddr, Py<PyTuple>);

#[pyclass(frozen, module = "fasterapi._native")]
#[derive(Debug)]
pub(crate) struct AsgiEndpoint {
    app: Py<PyAny>,
    /// What every scope begins as.
    template: Py<PyDict>,
    /// The same of a WebSocket.
    socket_template: Py<PyDict>,
    /// What the lifespan left; each request gets a copy.
    state: Option<Py<PyDict>>,
    root_path: String,
    /// Makes the coroutine that sends a file: `pathsend(cycle, exchange, path)`.
    pathsend: Option<Py<PyAny>>,
    no_param_names: Py<PyTuple>,
    /// The extension `tls`.
    tls: Description,
    /// Clients by their port, as tuples.
    clients: GilCell<Vec<Option<Client>>>,
}

/// How far the messages of a response have come that nothing was written of yet, or that does not end with its body.
#[derive(Debug, Default)]
pub(crate) struct Course {
    /// The start, until the first body message.
    held: Option<Held>,
    trailers: Trailers,
}

#[derive(Debug)]
struct Held {
    head: Head,
    length: Option<u64>,
    /// Trailers follow the body.
    trailers: bool,
}

#[derive(Debug, Default)]
enum Trailers {
    #[default]
    None,
    /// They follow the body, which is not over.
    Announced,
    /// The body is over; these fields have come.
    Awaited(Head),
}

impl Course {
    /// A response was begun, as far as the application knows.
    pub(crate) fn is_held(&self) -> bool {
        self.held.is_some()
    }
}

/// One request and its response, as the application's two callables see them.
#[pyclass(frozen, module = "fasterapi._native")]
#[derive(Debug)]
pub(crate) struct Cycle {
    exchange: Py<Exchange>,
    pathsend: Option<Py<PyAny>>,
}

#[pymethods]
impl AsgiEndpoint {
    #[new]
    #[pyo3(signature = (app, *, state = None, root_path = String::new(), server = None, pathsend = None))]
    fn new(
        py: Python<'_>,
        app: Py<PyAny>,
        state: Option<Py<PyDict>>,
        root_path: String,
        server: Option<&Bound<'_, PyAny>>,
        pathsend: Option<Py<PyAny>>,
    ) -> PyResult<Self> {
        let template = PyDict::new(py);
        let version = PyDict::new(py);
        version.set_item("version", "3.0")?;
        version.set_item("spec_version", "2.5")?;
        // Every key has its place here, so that a copy only replaces values.
        template.set_item(pyo3::intern!(py, "type"), "http")?;
        template.set_item(pyo3::intern!(py, "asgi"), version)?;
        template.set_item(pyo3::intern!(py, "http_version"), "1.1")?;
        template.set_item(pyo3::intern!(py, "server"), server)?;
        template.set_item(pyo3::intern!(py, "client"), py.None())?;
        template.set_item(pyo3::intern!(py, "scheme"), "http")?;
        template.set_item(pyo3::intern!(py, "method"), "GET")?;
        template.set_item(pyo3::intern!(py, "root_path"), &root_path)?;
        for name in ["path", "raw_path", "query_string", "headers"] {
            template.set_item(PyString::intern(py, name), py.None())?;
        }
        if state.is_some() {
            template.set_item(pyo3::intern!(py, "state"), py.None())?;
        }
        template.set_item(pyo3::intern!(py, "extensions"), py.None())?;
        let socket_template = socket_cycle::template(&template)?.unbind();
        let template = template.unbind();
        let no_param_names = PyTuple::empty(py).unbind();
        let clients = GilCell::new((0..CLIENTS_KEPT).map(|_| None).collect());
        Ok(Self {
            app,
            template,
            socket_template,
            state,
            root_path,
            pathsend,
            no_param_names,
            tls: Description::new("extension"),
            clients,
        })
    }
}

impl AsgiEndpoint {
    pub(crate) fn param_names(&self) -> &Py<PyTuple> {
        &self.no_param_names
    }

    /// The application's coroutine.
    pub(crate) fn call<'py>(
        &self,
        py: Python<'py>,
        exchange: &Py<Exchange>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let scope = self.scope(py, exchange.get())?.into_any();
        if exchange.get().request().websocket {
            let cycle = Bound::new(py, SocketCycle::new(exchange.clone_ref(py)))?;
            let receive = cycle.getattr(pyo3::intern!(py, "receive"))?;
            let send = cycle.getattr(pyo3::intern!(py, "send"))?;
            return ffi::call(py, &self.app, [&scope, &receive, &send]);
        }
        let pathsend = self.pathsend.as_ref().map(|pathsend| pathsend.clone_ref(py));
        let cycle = Bound::new(py, Cycle { exchange: exchange.clone_ref(py), pathsend })?;
        let receive = cycle.getattr(pyo3::intern!(py, "receive"))?;
        let send = cycle.getattr(pyo3::intern!(py, "send"))?;
        ffi::call(py, &self.app, [&scope, &receive, &send])
    }

    fn scope<'py>(&self, py: Python<'py>, exchange: &Exchange) -> PyResult<Bound<'py, PyDict>> {
        let request = exchange.request();
        let is_socket = request.websocket;
        let template = if is_socket { &self.socket_template } else { &self.template };
        let scope = template.bind(py).copy()?;
        if let Some(client) = request.peer() {
            scope.set_item(pyo3::intern!(py, "client"), self.client(py, client)?)?;
        }
        if !request.is_plain() {
            scope.set_item(pyo3::intern!(py, "http_version"), request.version(py))?;
            scope.set_item(pyo3::intern!(py, "scheme"), request.scheme(py))?;
        }
        if is_socket {
            let offered = socket_cycle::subprotocols(py, request)?;
            scope.set_item(pyo3::intern!(py, "subprotocols"), offered)?;
        } else {
            scope.set_item(pyo3::intern!(py, "method"), request.method_name(py)?)?;
        }
        scope.set_item(pyo3::intern!(py, "path"), self.path(py, request))?;
        scope.set_item(pyo3::intern!(py, "raw_path"), self.raw_path(py, request))?;
        let query = PyBytes::new(py, request.query());
        scope.set_item(pyo3::intern!(py, "query_string"), query)?;
        scope.set_item(pyo3::intern!(py, "headers"), request.header_list(py)?)?;
        if let Some(state) = &self.state {
            scope.set_item(pyo3::intern!(py, "state"), state.bind(py).copy()?)?;
        }
        let extensions = PyDict::new(py);
        if is_socket {
            let denial = pyo3::intern!(py, "websocket.http.response");
            extensions.set_item(denial, PyDict::new(py))?;
        } else {
            extensions.set_item(pyo3::intern!(py, "http.response.trailers"), PyDict::new(py))?;
            extensions.set_item(pyo3::intern!(py, "http.response.early_hint"), PyDict::new(py))?;
        }
        if !is_socket && self.pathsend.is_some() {
            extensions.set_item(pyo3::intern!(py, "http.response.pathsend"), PyDict::new(py))?;
        }
        if let Some(tls) = &request.tls {
            extensions.set_item(pyo3::intern!(py, "tls"), self.tls.of(py, tls)?.copy()?)?;
        }
        scope.set_item(pyo3::intern!(py, "extensions"), extensions)?;
        Ok(scope)
    }

    /// Host and port; made anew only for a client that was not seen lately.
    fn client<'py>(&self, py: Python<'py>, address: SocketAddr) -> PyResult<Bound<'py, PyTuple>> {
        let at = usize::from(address.port()) % CLIENTS_KEPT;
        let kept = match self.clients.borrow(py)?.get(at) {
            Some(Some((known, tuple))) if *known == address => Some(tuple.bind(py).clone()),
            _ => None,
        };
        if let Some(kept) = kept {
            return Ok(kept);
        }
        let made = (address.ip().to_string(), address.port()).into_pyobject(py)?;
        let entry = Some((address, made.clone().unbind()));
        let before =
            self.clients.borrow(py)?.get_mut(at).map(|place| std::mem::replace(place, entry));
        drop(before);
        Ok(made)
    }

    /// With the root path before it, as applications have come to expect of servers.
    fn path<'py>(&self, py: Python<'py>, request: &Arrived) -> Bound<'py, PyString> {
        let path = String::from_utf8_lossy(request.path());
        if self.root_path.is_empty() {
            return PyString::new(py, &path);
        }
        PyString::new(py, &[&self.root_path, path.as_ref()].concat())
    }

    fn raw_path<'py>(&self, py: Python<'py>, request: &Arrived) -> Bound<'py, PyBytes> {
        if self.root_path.is_empty() {
            return PyBytes::new(py, request.raw_path());
        }
        PyBytes::new(py, &[self.root_path.as_bytes(), request.raw_path()].concat())
    }
}

/// The messages that `send` takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Start,
    Body,
    PathSend,
    EarlyHint,
    Trailers,
}

impl Kind {
    fn parse(name: &str) -> Option<Self> {
        match name {
            "http.response.start" => Some(Self::Start),
            "http.response.body" => Some(Self::Body),
            "http.response.pathsend" => Some(Self::PathSend),
            "http.response.early_hint" => Some(Self::EarlyHint),
            "http.response.trailers" => Some(Self::Trailers),
            _ => None,
        }
    }
}

#[pymethods]
impl Cycle {
    fn receive(&self, py: Python<'_>) -> Waiting {
        Waiting::new(self.exchange.clone_ref(py), Wish::Event)
    }

    /// What is wrong with a message is raised where it is awaited, as by a coroutine.
    fn send<'py>(&self, message: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        self.take(message).or_else(|error| Refused::with(message.py(), error))
    }

    /// Begins the response that is held, with this length unless the application has named one, or has trailers to come: those
    /// have a place behind a body without a length alone. For `pathsend`; true where `await_trailers` has to end the body.
    fn begin(&self, py: Python<'_>, length: u64) -> PyResult<bool> {
        let exchange = self.exchange.get();
        let Some(held) = exchange.course.borrow(py)?.held.take() else {
            return Err(PyRuntimeError::new_err("no response is held"));
        };
        let length = if held.trailers { held.length } else { held.length.or(Some(length)) };
        exchange.handle().start(py, held.head, length, exchange.request().is_head())?;
        Ok(held.trailers)
    }

    /// The body is over, and its trailers follow.
    fn await_trailers(&self, py: Python<'_>) -> PyResult<()> {
        let awaited = Trailers::Awaited(Head::trailers());
        self.exchange.get().course.borrow(py)?.trailers = awaited;
        Ok(())
    }
}

impl Cycle {
    pub(crate) const fn new(exchange: Py<Exchange>) -> Self {
        Self { exchange, pathsend: None }
    }

    pub(crate) fn take<'py>(&self, message: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let py = message.py();
        let Ok(message) = message.cast::<PyDict>() else {
            let got = message.get_type().name()?;
            return Err(PyTypeError::new_err(format!("an ASGI message is a dict, not {got}")));
        };
        let name = item(message, pyo3::intern!(py, "type"))?;
        let name = name.cast::<PyString>().map_err(|_| PyTypeError::new_err("a type is a str"))?;
        let name = name.to_cow()?;
        let exchange = self.exchange.get();
        let (is_held, trails) = {
            let course = exchange.course.borrow(py)?;
            (course.is_held(), matches!(course.trailers, Trailers::Awaited(_)))
        };
        // The denial of a WebSocket is a response like any other.
        let denial = name.strip_prefix("websocket.").filter(|_| exchange.request().websocket);
        match (exchange.fate().stage(), Kind::parse(denial.unwrap_or(&name))) {
            (Stage::Gone, _) => Err(exchange.handle().disconnected(py)?),
            (Stage::Ended, _) => Err(PyRuntimeError::new_err(format!(
                "Unexpected ASGI message '{name}' sent, after response already completed."
            ))),
            (Stage::Unanswered, Some(Kind::Start)) if !is_held => {
                let held = Held::parse(message)?;
                exchange.course.borrow(py)?.held = Some(held);
                Finished::get(py)
            }
            (Stage::Unanswered, Some(Kind::EarlyHint)) if !is_held => self.hint(message),
            (Stage::Unanswered, _) if !is_held => Err(expected("http.response.start", &name)),
            (Stage::Started, Some(Kind::Trailers)) if trails => self.trailers(message),
            (Stage::Started, _) if trails => Err(expected("http.response.trailers", &name)),
            (_, Some(Kind::Body)) => self.body(message),
            (Stage::Unanswered, Some(Kind::PathSend)) if self.pathsend.is_some() => {
                self.send_path(message)
            }
            (Stage::Unanswered | Stage::Started, _) => Err(expected("http.response.body", &name)),
        }
    }

    /// 103 (RFC 8297), ahead of the response.
    fn hint<'py>(&self, message: &Bound<'py, PyDict>) -> PyResult<Bound<'py, PyAny>> {
        let py = message.py();
        let mut head = Head::early_hints();
        for link in item(message, pyo3::intern!(py, "links"))?.try_iter()? {
            let link = link?;
            let wrong = |_| PyTypeError::new_err("a link is a byte string");
            head.push(b"link", link.cast::<PyBytes>().map_err(wrong)?.as_bytes())?;
        }
        self.exchange.get().handle().inform(py, &head)?;
        Finished::get(py)
    }

    fn trailers<'py>(&self, message: &Bound<'py, PyDict>) -> PyResult<Bound<'py, PyAny>> {
        let py = message.py();
        let mut more = Vec::new();
        if let Some(headers) = message.get_item(pyo3::intern!(py, "headers"))? {
            for field in headers.try_iter()? {
                more.push(pair(&field?)?);
            }
        }
        let ends = !flag(message, pyo3::intern!(py, "more_trailers"))?;
        let exchange = self.exchange.get();
        let trailers = {
            let mut course = exchange.course.borrow(py)?;
            let Trailers::Awaited(fields) = &mut course.trailers else {
                unreachable!("asked for before")
            };
            let pushed = more
                .iter()
                .try_for_each(|(name, value)| fields.push(name.as_bytes(), value.as_bytes()));
            pushed?;
            if ends { std::mem::take(&mut course.trailers) } else { Trailers::None }
        };
        if let Trailers::Awaited(fields) = trailers {
            exchange.handle().trail(py, fields)?;
        }
        self.when_there_is_room(py)
    }

    fn body<'py>(&self, message: &Bound<'py, PyDict>) -> PyResult<Bound<'py, PyAny>> {
        let py = message.py();
        let body = match message.get_item(pyo3::intern!(py, "body"))? {
            Some(body) => body_of(&body)?,
            None => PyBytes::new(py, b"").unbind(),
        };
        let more = flag(message, pyo3::intern!(py, "more_body"))?;
        let exchange = self.exchange.get();
        let handle = exchange.handle();
        let (held, trails) = {
            let mut course = exchange.course.borrow(py)?;
            if course.held.as_ref().is_some_and(|held| held.trailers) {
                course.trailers = Trailers::Announced;
            }
            (course.held.take(), matches!(course.trailers, Trailers::Announced))
        };
        match held {
            Some(Held { head, length, trailers: false })
                if !more
                    && length.is_none_or(|length| length == body.as_bytes(py).len() as u64)
                    && !exchange.request().is_head() =>
            {
                handle.answer(py, Answer { head, body })?;
            }
            Some(Held { head, length, .. }) => {
                handle.start(py, head, length, exchange.request().is_head())?;
                handle.write(py, body, !more && !trails)?;
            }
            None => handle.write(py, body, !more && !trails)?,
        }
        if trails && !more {
            exchange.course.borrow(py)?.trailers = Trailers::Awaited(Head::trailers());
        }
        self.when_there_is_room(py)
    }

    fn when_there_is_room<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        if self.exchange.get().handle().is_full(py)? {
            let waiting = Waiting::new(self.exchange.clone_ref(py), Wish::Room);
            return Ok(Bound::new(py, waiting)?.into_any());
        }
        Finished::get(py)
    }

    fn send_path<'py>(&self, message: &Bound<'py, PyDict>) -> PyResult<Bound<'py, PyAny>> {
        let py = message.py();
        let Some(pathsend) = &self.pathsend else { unreachable!("asked for before") };
        let path = item(message, pyo3::intern!(py, "path"))?;
        let cycle =
            Self { exchange: self.exchange.clone_ref(py), pathsend: Some(pathsend.clone_ref(py)) };
        let cycle = Bound::new(py, cycle)?.into_any();
        let exchange = self.exchange.bind(py).as_any();
        ffi::call(py, pathsend, [&cycle, exchange, &path])
    }
}

impl Held {
    fn parse(message: &Bound<'_, PyDict>) -> PyResult<Self> {
        let py = message.py();
        let mut head = Head::of_status(&item(message, pyo3::intern!(py, "status"))?)?;
        let headers = message.get_item(pyo3::intern!(py, "headers"))?;
        let list = headers.as_ref().and_then(|headers| headers.cast::<PyList>().ok());
        head.reserve(list.map_or(0, |list| list.len()));
        let mut length = None;
        let mut push = |field: &Bound<'_, PyAny>| {
            let (name, value) = pair(field)?;
            if name.as_bytes().eq_ignore_ascii_case(b"content-length") {
                let text = str::from_utf8(value.as_bytes()).unwrap_or_default();
                let parsed = text.trim().parse::<u64>().map_err(|_| {
                    PyValueError::new_err(format!("content-length is no length: {text:?}"))
                })?;
                length = Some(parsed);
            }
            head.push(name.as_bytes(), value.as_bytes())
        };
        match (list, &headers) {
            (Some(list), _) => list.iter().try_for_each(|field| push(&field))?,
            (None, Some(headers)) => headers.try_iter()?.try_for_each(|field| push(&field?))?,
            (None, None) => {}
        }
        let trailers = flag(message, pyo3::intern!(py, "trailers"))?;
        Ok(Self { head, length, trailers })
    }
}

/// A header field: two byte strings in whatever holds two things.
pub(crate) fn pair<'py>(
    field: &Bound<'py, PyAny>,
) -> PyResult<(Bound<'py, PyBytes>, Bound<'py, PyBytes>)> {
    let wrong = || PyTypeError::new_err("a header is a pair of byte strings");
    let (name, value) = if let Ok(pair) = field.cast::<PyTuple>() {
        if pair.len() != 2 {
            return Err(wrong());
        }
        (pair.get_item(0)?, pair.get_item(1)?)
    } else {
        field.extract::<(Bound<'py, PyAny>, Bound<'py, PyAny>)>().or_else(|_| {
            let items = field.try_iter()?.collect::<PyResult<Vec<_>>>()?;
            <[Bound<'py, PyAny>; 2]>::try_from(items).map(Into::into).map_err(|_| wrong())
        })?
    };
    match (name.cast_into(), value.cast_into()) {
        (Ok(name), Ok(value)) => Ok((name, value)),
        _ => Err(wrong()),
    }
}

pub(crate) fn item<'py>(
    message: &Bound<'py, PyDict>,
    key: &Bound<'py, PyString>,
) -> PyResult<Bound<'py, PyAny>> {
    message.get_item(key)?.ok_or_else(|| PyKeyError::new_err(key.clone().unbind()))
}

/// False where it is left out.
fn flag(message: &Bound<'_, PyDict>, key: &Bound<'_, PyString>) -> PyResult<bool> {
    message.get_item(key)?.map_or(Ok(false), |value| value.is_truthy())
}

fn expected(wanted: &str, got: &str) -> PyErr {
    PyRuntimeError::new_err(format!("Expected ASGI message '{wanted}', but got '{got}'."))
}

/// `http.request`.
pub(crate) fn request_event(
    py: Python<'_>,
    body: &Bound<'_, PyBytes>,
    more: bool,
) -> PyResult<Py<PyAny>> {
    let event = PyDict::new(py);
    event.set_item(pyo3::intern!(py, "type"), pyo3::intern!(py, "http.request"))?;
    event.set_item(pyo3::intern!(py, "body"), body)?;
    event.set_item(pyo3::intern!(py, "more_body"), more)?;
    Ok(event.into_any().unbind())
}

/// `http.disconnect`.
pub(crate) fn disconnect_event(py: Python<'_>) -> PyResult<Py<PyAny>> {
    let event = PyDict::new(py);
    event.set_item(pyo3::intern!(py, "type"), pyo3::intern!(py, "http.disconnect"))?;
    Ok(event.into_any().unbind())
}
