//! A WSGI application as an endpoint, and the environ that it is called with.
//!
//! Invariant: an environ holds native strings only, in which each character is one byte of the request (PEP 3333, "Unicode
//! issues"). A field whose name has an underscore is left out: its variable would be another field's (CVE-2015-0219). So is Transfer-Encoding:
//! the edge has taken the coding off (RFC 9112 §7.1.3), and an application that sees the field does so again, or refuses.
//! Deliberately absent: what is the same for every request, which Python's half put into the template.
//!
//! Source: <https://peps.python.org/pep-3333/#environ-variables>, RFC 3875 §4.1.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
};

use pyo3::{
    prelude::*,
    types::{PyDict, PyString, PyTuple},
};

use crate::{exchange::Arrived, ffi::GilCell, tls::Description};

/// Names of fields whose variables are kept; clients can send no more than these into memory that stays.
const NAMES_MAX: usize = 128;
/// Bytes of a name that is kept.
const NAME_SIZE_MAX: usize = 64;

#[pyclass(frozen, module = "fasterapi._native")]
#[derive(Debug)]
pub(crate) struct WsgiEndpoint {
    pub(crate) app: Py<PyAny>,
    template: Py<PyDict>,
    root_path: Vec<u8>,
    /// `report(error)` logs what the application raised, or did wrong.
    report: Py<PyAny>,
    no_param_names: Py<PyTuple>,
    names: GilCell<HashMap<Box<[u8]>, Py<PyString>>>,
    last_address: GilCell<Option<(IpAddr, Py<PyString>)>>,
    tls: Description,
}

#[pymethods]
impl WsgiEndpoint {
    #[new]
    #[pyo3(signature = (app, *, environ, report, root_path = String::new()))]
    fn new(
        py: Python<'_>,
        app: Py<PyAny>,
        environ: Py<PyDict>,
        report: Py<PyAny>,
        root_path: String,
    ) -> Self {
        Self {
            app,
            template: environ,
            root_path: root_path.into_bytes(),
            report,
            no_param_names: PyTuple::empty(py).unbind(),
            names: GilCell::new(HashMap::new()),
            last_address: GilCell::new(None),
            tls: Description::new("variables"),
        }
    }
}

impl WsgiEndpoint {
    pub(crate) fn param_names(&self) -> &Py<PyTuple> {
        &self.no_param_names
    }

    /// Logs it.
    pub(crate) fn report(&self, py: Python<'_>, error: PyErr) {
        if let Err(error) = self.report.call1(py, (error.into_value(py),)) {
            error.write_unraisable(py, Some(self.report.bind(py)));
        }
    }

    pub(crate) fn environ<'py>(
        &self,
        py: Python<'py>,
        request: &Arrived,
        input: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyDict>> {
        let environ = self.template.bind(py).copy()?;
        environ.set_item(pyo3::intern!(py, "REQUEST_METHOD"), request.method_name(py)?)?;
        environ.set_item(pyo3::intern!(py, "PATH_INFO"), latin1(py, self.path(request)))?;
        if !request.query().is_empty() {
            environ.set_item(pyo3::intern!(py, "QUERY_STRING"), latin1(py, request.query()))?;
        }
        if let Some(protocol) = request.unusual_protocol() {
            environ.set_item(pyo3::intern!(py, "SERVER_PROTOCOL"), protocol)?;
        }
        if request.secure {
            environ.set_item(pyo3::intern!(py, "wsgi.url_scheme"), "https")?;
            environ.set_item(pyo3::intern!(py, "HTTPS"), "on")?;
        }
        if let Some(tls) = &request.tls {
            environ.update(self.tls.of(py, tls)?.as_mapping())?;
        }
        if let Some(peer) = request.peer() {
            self.set_peer(&environ, peer)?;
        }
        environ.set_item(pyo3::intern!(py, "wsgi.input"), input)?;
        self.set_fields(&environ, request)?;
        Ok(environ)
    }

    /// Below the root path, where the request's is.
    fn path<'a>(&self, request: &'a Arrived) -> &'a [u8] {
        let path = request.path();
        match path.strip_prefix(self.root_path.as_slice()) {
            Some(rest) if rest.is_empty() || rest.starts_with(b"/") => rest,
            _ => path,
        }
    }

    fn set_peer(&self, environ: &Bound<'_, PyDict>, peer: SocketAddr) -> PyResult<()> {
        let py = environ.py();
        let mut last = self.last_address.borrow(py)?;
        let address = match &*last {
            Some((ip, text)) if *ip == peer.ip() => text.clone_ref(py),
            _ => {
                let text = PyString::new(py, &peer.ip().to_string()).unbind();
                *last = Some((peer.ip(), text.clone_ref(py)));
                text
            }
        };
        drop(last);
        environ.set_item(pyo3::intern!(py, "REMOTE_ADDR"), address)?;
        environ.set_item(pyo3::intern!(py, "REMOTE_PORT"), peer.port().to_string())
    }

    fn set_fields(&self, environ: &Bound<'_, PyDict>, request: &Arrived) -> PyResult<()> {
        let py = environ.py();
        for (index, (name, value)) in request.field_list().enumerate() {
            if name.contains(&b'_') || name == b"transfer-encoding" {
                continue;
            }
            let key = self.variable(py, name)?;
            let value = latin1(py, value);
            let repeats = request.field_list().take(index).any(|(earlier, _)| earlier == name);
            let earlier = if repeats { environ.get_item(&key)? } else { None };
            if let Some(earlier) = earlier {
                // RFC 9110 §5.3; RFC 6265 §5.4 for the one whose values have commas.
                let separator = if name == b"cookie" { "; " } else { "," };
                let joined = earlier.add(separator)?.add(value)?;
                environ.set_item(key, joined)?;
            } else {
                environ.set_item(key, value)?;
            }
        }
        Ok(())
    }

    /// `HTTP_ACCEPT` of `accept`.
    fn variable<'py>(&self, py: Python<'py>, name: &[u8]) -> PyResult<Bound<'py, PyString>> {
        match name {
            b"host" => return Ok(pyo3::intern!(py, "HTTP_HOST").clone()),
            b"content-type" => return Ok(pyo3::intern!(py, "CONTENT_TYPE").clone()),
            b"content-length" => return Ok(pyo3::intern!(py, "CONTENT_LENGTH").clone()),
            _ => {}
        }
        let mut names = self.names.borrow(py)?;
        if let Some(known) = names.get(name) {
            return Ok(known.bind(py).clone());
        }
        let upper = name.iter().map(|byte| match byte {
            b'-' => '_',
            byte => char::from(byte.to_ascii_uppercase()),
        });
        let made = PyString::new(py, &"HTTP_".chars().chain(upper).collect::<String>());
        if names.len() < NAMES_MAX && name.len() <= NAME_SIZE_MAX {
            names.insert(name.into(), made.clone().unbind());
        }
        Ok(made)
    }
}

/// One character for each byte.
fn latin1<'py>(py: Python<'py>, bytes: &[u8]) -> Bound<'py, PyString> {
    match str::from_utf8(bytes) {
        Ok(text) if text.is_ascii() => PyString::new(py, text),
        _ => PyString::new(py, &bytes.iter().map(|byte| char::from(*byte)).collect::<String>()),
    }
}
