//! A WebSocket as an application sees it: ASGI's events and messages, and the plainer ones of the native interface.
//!
//! Invariant: what the edge would refuse (a code that may not be sent, a reason that is too long, a subprotocol that was not
//! offered) is refused where the application says it. Deliberately absent: the denial's response, which is [`Cycle`]'s, and
//! everything about frames, which is the edge's.
//!
//! Source: <https://asgi.readthedocs.io/en/latest/specs/www.html#websocket>, version 2.5.

use pyo3::{
    exceptions::{PyRuntimeError, PyTypeError, PyValueError},
    prelude::*,
    types::{PyBytes, PyDict, PyList, PyString},
};

use crate::{
    answer::{Answer, Head, body_of},
    asgi::{Cycle, item, pair},
    exchange::{Arrived, Exchange},
    fate::Stage,
    socket::Heard,
    waiting::{Finished, Look, Refused, Waiting, Wish},
};

/// RFC 6455 §7.4.1: what `close` means by itself.
const NORMAL: u16 = 1000;
/// RFC 6455 §5.5: what a Close has room for behind its code.
const REASON_SIZE_MAX: usize = 123;

/// One WebSocket, as the application's two callables see it.
#[pyclass(frozen, module = "fasterapi._native")]
#[derive(Debug)]
pub(crate) struct SocketCycle {
    exchange: Py<Exchange>,
}

/// What every scope of a WebSocket begins as, from what those of requests do.
pub(crate) fn template<'py>(of_requests: &Bound<'py, PyDict>) -> PyResult<Bound<'py, PyDict>> {
    let py = of_requests.py();
    let template = of_requests.copy()?;
    template.set_item(pyo3::intern!(py, "type"), "websocket")?;
    template.set_item(pyo3::intern!(py, "scheme"), "ws")?;
    template.del_item(pyo3::intern!(py, "method"))?;
    template.set_item(pyo3::intern!(py, "subprotocols"), py.None())?;
    Ok(template)
}

/// What the client offers, in its order.
pub(crate) fn subprotocols<'py>(
    py: Python<'py>,
    request: &Arrived,
) -> PyResult<Bound<'py, PyList>> {
    let offered = request.values(b"sec-websocket-protocol");
    let names = offered.flat_map(split_list).filter(|name| !name.is_empty());
    let names = names.map(|name| String::from_utf8_lossy(name).into_owned());
    PyList::new(py, names.collect::<Vec<_>>())
}

fn split_list(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii)
}

/// The next event of ASGI's `receive`.
pub(crate) fn event(py: Python<'_>, exchange: &Exchange) -> PyResult<Look> {
    let event = PyDict::new(py);
    let key = pyo3::intern!(py, "type");
    if exchange.take_connect() {
        event.set_item(key, pyo3::intern!(py, "websocket.connect"))?;
        return Ok(Look::Found(event.into_any().unbind()));
    }
    match take(py, exchange)? {
        Heard::NotYet => return Ok(Look::NotYet),
        Heard::Text(data) => {
            event.set_item(key, pyo3::intern!(py, "websocket.receive"))?;
            event.set_item(pyo3::intern!(py, "text"), text(py, &data)?)?;
        }
        Heard::Bytes(data) => {
            event.set_item(key, pyo3::intern!(py, "websocket.receive"))?;
            event.set_item(pyo3::intern!(py, "bytes"), PyBytes::new(py, &data))?;
        }
        Heard::Closed(code, reason) => {
            event.set_item(key, pyo3::intern!(py, "websocket.disconnect"))?;
            event.set_item(pyo3::intern!(py, "code"), code)?;
            event.set_item(pyo3::intern!(py, "reason"), reason)?;
        }
    }
    Ok(Look::Found(event.into_any().unbind()))
}

/// The next message as `str` or `bytes`, or the end as `(code, reason)`.
pub(crate) fn message(py: Python<'_>, exchange: &Exchange) -> PyResult<Look> {
    Ok(match take(py, exchange)? {
        Heard::NotYet => Look::NotYet,
        Heard::Text(data) => Look::Found(text(py, &data)?.into_any().unbind()),
        Heard::Bytes(data) => Look::Found(PyBytes::new(py, &data).into_any().unbind()),
        Heard::Closed(code, reason) => {
            Look::Found((code, reason).into_pyobject(py)?.into_any().unbind())
        }
    })
}

/// Behind a close of its own an application gets nothing but that.
fn take(py: Python<'_>, exchange: &Exchange) -> PyResult<Heard> {
    match exchange.own_close.get(py) {
        Some((code, reason)) => Ok(Heard::Closed(*code, reason.clone())),
        None => exchange.handle().take_message(py),
    }
}

/// The edge has checked it.
fn text<'py>(py: Python<'py>, data: &[u8]) -> PyResult<Bound<'py, PyString>> {
    let text = str::from_utf8(data).map_err(|_| PyRuntimeError::new_err("text is not UTF-8"))?;
    Ok(PyString::new(py, text))
}

#[pymethods]
impl SocketCycle {
    /// Of the native interface; ASGI's are made without a call.
    #[new]
    pub(crate) const fn new(exchange: Py<Exchange>) -> Self {
        Self { exchange }
    }

    fn receive(&self, py: Python<'_>) -> Waiting {
        Waiting::new(self.exchange.clone_ref(py), Wish::SocketEvent)
    }

    /// What is wrong with a message is raised where it is awaited, as by a coroutine.
    fn send<'py>(&self, message: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        self.take(message).or_else(|error| Refused::with(message.py(), error))
    }

    fn next_message(&self, py: Python<'_>) -> Waiting {
        Waiting::new(self.exchange.clone_ref(py), Wish::Message)
    }

    #[pyo3(signature = (subprotocol = None, headers = None))]
    fn accept(
        &self,
        py: Python<'_>,
        subprotocol: Option<&Bound<'_, PyAny>>,
        headers: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let exchange = self.exchange.get();
        if exchange.fate().stage() != Stage::Unanswered {
            return Err(PyRuntimeError::new_err("the WebSocket was accepted or denied already"));
        }
        let head = accepting(exchange.request(), subprotocol, headers)?;
        exchange.handle().accept(py, head)
    }

    fn send_message<'py>(&self, data: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let py = data.py();
        match self.exchange.get().fate().stage() {
            Stage::Started => {}
            Stage::Unanswered => {
                return Err(PyRuntimeError::new_err("the WebSocket was not accepted"));
            }
            Stage::Ended | Stage::Gone => {
                return Err(PyRuntimeError::new_err("the WebSocket was closed"));
            }
        }
        self.say(py, data)
    }

    /// Closes, or denies what was not accepted. Without effect on what is closed.
    #[pyo3(signature = (code = NORMAL, reason = ""))]
    fn close(&self, py: Python<'_>, code: u16, reason: &str) -> PyResult<()> {
        let exchange = self.exchange.get();
        match exchange.fate().stage() {
            Stage::Unanswered => self.deny(py),
            Stage::Started => {
                if !is_sendable(code) {
                    let text = format!("{code} is not a code that may be sent");
                    return Err(PyValueError::new_err(text));
                }
                if reason.len() > REASON_SIZE_MAX {
                    let text = format!("a reason has at most {REASON_SIZE_MAX} bytes");
                    return Err(PyValueError::new_err(text));
                }
                exchange.own_close.get_or_init(py, || (code, reason.to_owned()));
                exchange.handle().close_socket(py, code, reason.to_owned())
            }
            Stage::Ended | Stage::Gone => Ok(()),
        }
    }

    #[getter]
    fn subprotocols<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        subprotocols(py, self.exchange.get().request())
    }
}

impl SocketCycle {
    fn take<'py>(&self, message: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let py = message.py();
        let Ok(message) = message.cast::<PyDict>() else {
            let got = message.get_type().name()?;
            return Err(PyTypeError::new_err(format!("an ASGI message is a dict, not {got}")));
        };
        let name = item(message, pyo3::intern!(py, "type"))?;
        let name = name.cast::<PyString>().map_err(|_| PyTypeError::new_err("a type is a str"))?;
        let name = name.to_cow()?;
        let exchange = self.exchange.get();
        let denies = exchange.course.borrow(py)?.is_held();
        let accepted = exchange.handle().is_accepted(py)?;
        match (exchange.fate().stage(), name.as_ref()) {
            (Stage::Gone, _) => Err(exchange.handle().disconnected(py)?),
            (Stage::Ended, _) => Err(PyRuntimeError::new_err(format!(
                "Unexpected ASGI message '{name}', after sending 'websocket.close' or response already completed."
            ))),
            (Stage::Unanswered, "websocket.accept") if !denies => {
                let subprotocol = message.get_item(pyo3::intern!(py, "subprotocol"))?;
                let headers = message.get_item(pyo3::intern!(py, "headers"))?;
                self.accept(py, subprotocol.as_ref(), headers.as_ref())?;
                Finished::get(py)
            }
            (Stage::Unanswered, "websocket.close") if !denies => {
                self.deny(py)?;
                Finished::get(py)
            }
            (Stage::Started, "websocket.send") if accepted => self.send_data(message),
            (Stage::Started, "websocket.close") if accepted => {
                self.close_by(message)?;
                Finished::get(py)
            }
            (_, "websocket.http.response.start" | "websocket.http.response.body") if !accepted => {
                Cycle::new(self.exchange.clone_ref(py)).take(message.as_any())
            }
            (Stage::Unanswered, _) => Err(PyRuntimeError::new_err(format!(
                "Expected ASGI message 'websocket.accept', 'websocket.close' or 'websocket.http.response.start' but got '{name}'."
            ))),
            (Stage::Started, _) => Err(PyRuntimeError::new_err(format!(
                "Expected ASGI message 'websocket.send' or 'websocket.close', but got '{name}'."
            ))),
        }
    }

    fn close_by(&self, message: &Bound<'_, PyDict>) -> PyResult<()> {
        let py = message.py();
        let given = |key| Ok::<_, PyErr>(message.get_item(key)?.filter(|value| !value.is_none()));
        let code = given(pyo3::intern!(py, "code"))?.map_or(Ok(NORMAL), |code| code.extract())?;
        let reason: Option<String> =
            given(pyo3::intern!(py, "reason"))?.map(|reason| reason.extract()).transpose()?;
        self.close(py, code, &reason.unwrap_or_default())
    }

    fn deny(&self, py: Python<'_>) -> PyResult<()> {
        let head = Head::of_status(403_u16.into_pyobject(py)?.as_any())?;
        let body = PyBytes::new(py, b"").unbind();
        self.exchange.get().handle().answer(py, Answer { head, body })
    }

    fn send_data<'py>(&self, message: &Bound<'py, PyDict>) -> PyResult<Bound<'py, PyAny>> {
        let py = message.py();
        let given = |key| Ok::<_, PyErr>(message.get_item(key)?.filter(|data| !data.is_none()));
        let data = match given(pyo3::intern!(py, "bytes"))? {
            Some(bytes) => Some(bytes),
            None => given(pyo3::intern!(py, "text"))?,
        };
        let Some(data) = data else {
            return Err(PyValueError::new_err("a message has bytes or text"));
        };
        self.say(py, &data)
    }

    fn say<'py>(&self, py: Python<'py>, data: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let handle = self.exchange.get().handle();
        if let Ok(text) = data.cast::<PyString>() {
            handle.say(py, text.to_str()?.as_bytes(), true)?;
        } else {
            handle.say(py, body_of(data)?.as_bytes(py), false)?;
        }
        if handle.is_full(py)? {
            let waiting = Waiting::new(self.exchange.clone_ref(py), Wish::Room);
            return Ok(Bound::new(py, waiting)?.into_any());
        }
        Finished::get(py)
    }
}

/// The head that accepts, with what the application adds to it.
fn accepting(
    request: &Arrived,
    subprotocol: Option<&Bound<'_, PyAny>>,
    headers: Option<&Bound<'_, PyAny>>,
) -> PyResult<Head> {
    let mut head = Head::of_switch();
    let is_offered = |name: &[u8]| {
        let mut offered = request.values(b"sec-websocket-protocol").flat_map(split_list);
        if offered.any(|offered| offered == name) {
            return Ok(());
        }
        let name = String::from_utf8_lossy(name);
        Err(PyValueError::new_err(format!("the client does not offer the subprotocol {name:?}")))
    };
    if let Some(subprotocol) = subprotocol.filter(|subprotocol| !subprotocol.is_none()) {
        let name: String = subprotocol.extract()?;
        is_offered(name.as_bytes())?;
        head.push(b"sec-websocket-protocol", name.as_bytes())?;
    }
    if let Some(headers) = headers.filter(|headers| !headers.is_none()) {
        for field in headers.try_iter()? {
            let (name, value) = pair(&field?)?;
            if name.as_bytes().eq_ignore_ascii_case(b"sec-websocket-protocol") {
                is_offered(value.as_bytes())?;
            }
            head.push(name.as_bytes(), value.as_bytes())?;
        }
    }
    Ok(head)
}

/// RFC 6455 §7.4 and its registry.
const fn is_sendable(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}
