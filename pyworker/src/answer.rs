//! From what a handler returned to what a response record carries.
//!
//! Invariant: a [`Head`] that exists fits a record and holds lower-case token names and values without line breaks, so that
//! the edge never has to fault this worker for what an application wrote. Framing (lengths, HEAD, 204) is the edge's.

use fasterapi::{
    ipc::message::Response,
    limits::{HEAD_FIELDS_MAX, INLINE_BODY_SIZE_MAX, RECORD_ALIGN, RECORD_SIZE_MAX},
    span::{Field, Span},
};
use pyo3::{
    exceptions::{PyTypeError, PyValueError},
    prelude::*,
    types::{
        PyBool, PyByteArray, PyBytes, PyDict, PyFloat, PyInt, PyList, PyMemoryView, PyString,
        PyTuple,
    },
};

/// Room that a waiting side asks for in the ring (`Lane::arm`): what is longer would wait in vain.
const PAYLOAD_MAX: usize = RECORD_SIZE_MAX / 2 - RECORD_ALIGN;

/// Status and header fields.
#[derive(Clone, Debug)]
pub(crate) struct Head {
    status: u16,
    fields: Vec<Field>,
    blob: Vec<u8>,
}

/// A whole response.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) head: Head,
    pub(crate) body: Py<PyBytes>,
}

impl Head {
    /// A head with this one field.
    pub(crate) fn of_type(status: u16, content_type: &[u8]) -> Self {
        let mut head = Self { status, fields: Vec::new(), blob: Vec::new() };
        let pushed = head.push(b"content-type", content_type);
        pushed.unwrap_or_else(|error| unreachable!("a constant head: {error}"));
        head
    }

    pub(crate) fn with_status(&self, status: u16) -> Self {
        Self { status, ..self.clone() }
    }

    /// The record of this head with `body`, which ends the response if `end`; without both where they do not fit.
    pub(crate) fn response<'a>(
        &'a self,
        content_length: Option<u64>,
        body: &'a [u8],
        end: bool,
    ) -> Response<'a> {
        let (status, fields, blob) = (self.status, self.fields.as_slice(), self.blob.as_slice());
        let full = Response { status, fields, blob, content_length, body, end };
        if body.len() <= INLINE_BODY_SIZE_MAX && full.payload_len() <= PAYLOAD_MAX {
            full
        } else {
            Response { body: &[], end: false, ..full }
        }
    }

    /// Makes sense of a status and `[(name, value), …]`.
    pub(crate) fn parse(status: &Bound<'_, PyAny>, headers: &Bound<'_, PyAny>) -> PyResult<Self> {
        let mut head = Self::of_status(status)?;
        let Ok(headers) = headers.cast::<PyList>() else {
            return Err(wrong("headers are a list of (bytes, bytes)", headers));
        };
        head.fields.reserve(headers.len());
        head.blob.reserve(headers.len() * 48);
        for field in headers.iter() {
            let pair = field.cast::<PyTuple>().ok().filter(|pair| pair.len() == 2);
            let Some(pair) = pair else { return Err(wrong("a header is (bytes, bytes)", &field)) };
            let (name, value) = (pair.get_item(0)?, pair.get_item(1)?);
            let (Ok(name), Ok(value)) = (name.cast::<PyBytes>(), value.cast::<PyBytes>()) else {
                return Err(wrong("a header is (bytes, bytes)", &field));
            };
            head.push(name.as_bytes(), value.as_bytes())?;
        }
        Ok(head)
    }

    /// A head without fields.
    pub(crate) fn of_status(status: &Bound<'_, PyAny>) -> PyResult<Self> {
        let Ok(status) = status.extract::<u16>() else {
            return Err(wrong("a status is an int", status));
        };
        // What the edge sends as a final response (RFC 9110 §15); interim ones are not an application's answer.
        if !(200..=599).contains(&status) {
            return Err(PyValueError::new_err(format!(
                "{status} is not the status of a final response"
            )));
        }
        Ok(Self { status, fields: Vec::new(), blob: Vec::new() })
    }

    /// RFC 9110 §6.4.1: whatever is written behind such a head is not sent.
    pub(crate) fn has_no_body(&self) -> bool {
        matches!(self.status, 204 | 304)
    }

    /// Adds a field; its name in lower case.
    pub(crate) fn push(&mut self, name: &[u8], value: &[u8]) -> PyResult<()> {
        if name.is_empty() || !name.iter().all(is_token_byte) {
            return Err(PyValueError::new_err("a header name is not a token"));
        }
        if value.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0)) {
            return Err(PyValueError::new_err("a header value contains a line break or NUL"));
        }
        let start = self.blob.len();
        self.blob.extend(name.iter().map(u8::to_ascii_lowercase));
        self.blob.extend_from_slice(value);
        let name_span = Span::new(start, name.len());
        let value_span = Span::new(start + name.len(), value.len());
        let (Some(name), Some(value)) = (name_span, value_span) else { return Err(too_large()) };
        self.fields.push(Field { name, value });
        let payload = self.response(None, &[], true).payload_len();
        if self.fields.len() > HEAD_FIELDS_MAX || payload > PAYLOAD_MAX {
            return Err(too_large());
        }
        Ok(())
    }
}

fn too_large() -> PyErr {
    PyValueError::new_err("the response has too many or too long header fields")
}

/// RFC 9110 §5.6.2.
fn is_token_byte(byte: &u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte)
}

impl Answer {
    /// Makes sense of `(status, [(name, value), …], body)`.
    pub(crate) fn parse(value: &Bound<'_, PyAny>) -> PyResult<Self> {
        let parts = value.cast::<PyTuple>().ok().filter(|parts| parts.len() == 3);
        let Some(parts) = parts else {
            return Err(wrong("an answer is (status, headers, body)", value));
        };
        let head = Head::parse(&parts.get_item(0)?, &parts.get_item(1)?)?;
        Ok(Self { head, body: body_of(&parts.get_item(2)?)? })
    }
}

/// Bytes as they are; a copy of what is only like bytes, and might change.
pub(crate) fn body_of(body: &Bound<'_, PyAny>) -> PyResult<Py<PyBytes>> {
    if let Ok(bytes) = body.cast_exact::<PyBytes>() {
        return Ok(bytes.clone().unbind());
    }
    let like = body.is_instance_of::<PyBytes>()
        || body.is_instance_of::<PyByteArray>()
        || body.is_instance_of::<PyMemoryView>();
    if !like {
        return Err(wrong("a body is bytes, bytearray or memoryview", body));
    }
    let copy = body.py().get_type::<PyBytes>().call1((body,))?;
    // A subclass may have a __bytes__ of its own.
    copy.cast_exact::<PyBytes>()
        .map(|bytes| bytes.clone().unbind())
        .map_err(|_| wrong("a body is bytes", &copy))
}

fn wrong(expected: &str, got: &Bound<'_, PyAny>) -> PyErr {
    let kind = got.get_type().name().map_or_else(|_| "?".into(), |name| name.to_string());
    PyTypeError::new_err(format!("{expected}, not {kind}"))
}

/// True for the types whose JSON is not for `encode` to decide: a subclass may have a meaning of its own.
pub(crate) fn is_plain_json(value: &Bound<'_, PyAny>) -> bool {
    value.is_exact_instance_of::<PyDict>()
        || value.is_exact_instance_of::<PyList>()
        || value.is_exact_instance_of::<PyString>()
        || value.is_exact_instance_of::<PyInt>()
        || value.is_exact_instance_of::<PyFloat>()
        || value.is_exact_instance_of::<PyBool>()
        || value.is_none()
}
