//! One route as the worker answers it, and the conversions that its fast call may rely on.
//!
//! Invariant: a conversion succeeds only for spellings on which pydantic's lax mode and everybody else agree; whatever
//! is unusual is `None`, and the slow call decides.

use fasterapi::limits::ROUTE_PARAMS_MAX;
use pyo3::{
    exceptions::PyValueError,
    prelude::*,
    types::{PyBool, PyFloat, PyInt, PyString, PyTuple},
};

use crate::{asgi::AsgiEndpoint, exchange::Arrived, fate::Cancels, ffi};

/// Digits of an integer that certainly fits 64 bits.
const INT_DIGITS_MAX: usize = 18;
/// Bytes of a decimal fraction; longer ones are not worth a thought here.
const FLOAT_SIZE_MAX: usize = 32;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Plain {
    Str,
    Int,
    Float,
    Bool,
}

#[derive(Debug)]
struct Fast {
    function: Py<PyAny>,
    args: Vec<(usize, Plain)>,
}

/// What answers a route.
#[derive(Debug, FromPyObject)]
pub(crate) enum Target {
    Native(Py<Endpoint>),
    Asgi(Py<AsgiEndpoint>),
}

impl Target {
    /// It takes the request's body piece by piece.
    pub(crate) fn streams(&self) -> bool {
        match self {
            Self::Native(endpoint) => endpoint.get().streams,
            Self::Asgi(_) => true,
        }
    }

    pub(crate) fn cancels(&self) -> Cancels {
        match self {
            Self::Native(endpoint) => endpoint.get().cancels,
            Self::Asgi(_) => Cancels::Deadline,
        }
    }

    /// Of a plain result.
    pub(crate) fn status(&self) -> u16 {
        match self {
            Self::Native(endpoint) => endpoint.get().status,
            Self::Asgi(_) => 200,
        }
    }

    pub(crate) fn param_names(&self) -> &Py<PyTuple> {
        match self {
            Self::Native(endpoint) => &endpoint.get().param_names,
            Self::Asgi(endpoint) => endpoint.get().param_names(),
        }
    }
}

#[pyclass(frozen, module = "fasterapi._native")]
#[derive(Debug)]
pub(crate) struct Endpoint {
    slow: Py<PyAny>,
    fast: Option<Fast>,
    param_names: Py<PyTuple>,
    status: u16,
    /// Its slow call takes the request's body piece by piece.
    streams: bool,
    cancels: Cancels,
}

#[pymethods]
impl Endpoint {
    #[new]
    #[pyo3(signature = (slow, *, param_names = Vec::new(), fast = None, fast_args = Vec::new(), status = 200, body = "whole",
        cancels = "always"))]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments of the Python interface")]
    fn new(
        py: Python<'_>,
        slow: Py<PyAny>,
        param_names: Vec<Py<PyString>>,
        fast: Option<Py<PyAny>>,
        fast_args: Vec<(usize, String)>,
        status: u16,
        body: &str,
        cancels: &str,
    ) -> PyResult<Self> {
        let cancels = match cancels {
            "always" => Cancels::Always,
            "deadline" => Cancels::Deadline,
            other => {
                return Err(PyValueError::new_err(format!(
                    "no such rule for cancelling: {other:?}"
                )));
            }
        };
        let streams = match body {
            "whole" => false,
            "stream" if fast.is_none() => true,
            "stream" => return Err(PyValueError::new_err("a fast call does not take the body")),
            other => {
                return Err(PyValueError::new_err(format!(
                    "no such way to take a body: {other:?}"
                )));
            }
        };
        if param_names.len() > ROUTE_PARAMS_MAX {
            return Err(PyValueError::new_err("more path parameters than a route may have"));
        }
        let args = fast_args.into_iter().map(|(index, kind)| match kind.as_str() {
            _ if index >= param_names.len() => Err(PyValueError::new_err("no such path parameter")),
            "str" => Ok((index, Plain::Str)),
            "int" => Ok((index, Plain::Int)),
            "float" => Ok((index, Plain::Float)),
            "bool" => Ok((index, Plain::Bool)),
            other => Err(PyValueError::new_err(format!("no plain conversion to {other:?}"))),
        });
        let args = args.collect::<PyResult<Vec<_>>>()?;
        let fast = fast.map(|function| Fast { function, args });
        let param_names = PyTuple::new(py, param_names)?.unbind();
        Ok(Self { slow, fast, param_names, status, streams, cancels })
    }
}

impl Endpoint {
    /// The fast call's coroutine; `None` when this request needs the slow one.
    pub(crate) fn call_fast<'py>(
        &self,
        py: Python<'py>,
        request: &Arrived,
    ) -> Option<PyResult<Bound<'py, PyAny>>> {
        let fast = self.fast.as_ref()?;
        let arg = |&(index, plain): &(usize, Plain)| plain.convert(py, request.param(index)?);
        match fast.args.as_slice() {
            [] => Some(ffi::call0(py, &fast.function)),
            [a] => Some(ffi::call(py, &fast.function, [&arg(a)?])),
            [a, b] => Some(ffi::call(py, &fast.function, [&arg(a)?, &arg(b)?])),
            [a, b, c] => Some(ffi::call(py, &fast.function, [&arg(a)?, &arg(b)?, &arg(c)?])),
            many => {
                let args = many.iter().map(arg).collect::<Option<Vec<_>>>()?;
                let call = |args| fast.function.bind(py).call1(args);
                Some(PyTuple::new(py, args).and_then(call))
            }
        }
    }

    /// The slow call's coroutine.
    pub(crate) fn call_slow<'py>(
        &self,
        py: Python<'py>,
        exchange: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        ffi::call(py, &self.slow, [exchange])
    }
}

impl Plain {
    fn convert<'py>(self, py: Python<'py>, text: &[u8]) -> Option<Bound<'py, PyAny>> {
        match self {
            Self::Str => str::from_utf8(text).ok().map(|text| PyString::new(py, text).into_any()),
            Self::Int => integer(text).map(|value| PyInt::new(py, value).into_any()),
            Self::Float => decimal(text).map(|value| PyFloat::new(py, value).into_any()),
            Self::Bool => truth(text).map(|value| PyBool::new(py, value).to_owned().into_any()),
        }
    }
}

/// `0`, or an optional minus and digits without a leading zero.
fn integer(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    let usual = match digits {
        [b'0'] => !negative,
        [b'1'..=b'9', ..] => digits.len() <= INT_DIGITS_MAX,
        _ => false,
    };
    if !usual {
        return None;
    }
    let value = digits.iter().try_fold(0_i64, |value, digit| {
        digit.is_ascii_digit().then(|| value * 10 + i64::from(digit - b'0'))
    })?;
    Some(if negative { -value } else { value })
}

/// An integer part as in [`integer`] (or `-0`), and perhaps a point and digits.
fn decimal(text: &[u8]) -> Option<f64> {
    let unsigned = text.strip_prefix(b"-").unwrap_or(text);
    let mut parts = unsigned.splitn(2, |byte| *byte == b'.');
    let whole = match parts.next()? {
        [b'0'] => true,
        [b'1'..=b'9', rest @ ..] => rest.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    let digits = |digits: &[u8]| !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    let usual = whole && parts.next().is_none_or(digits) && text.len() <= FLOAT_SIZE_MAX;
    // Both Rust's and Python's conversion round correctly, so they agree.
    if usual { str::from_utf8(text).ok()?.parse().ok() } else { None }
}

fn truth(text: &[u8]) -> Option<bool> {
    match text {
        b"true" | b"1" => Some(true),
        b"false" | b"0" => Some(false),
        _ => None,
    }
}
