//! The other end of the lanes, for tests and benchmarks: in the same process, driven from Python.
//!
//! Compiled only with the feature `testing`; no package contains it.
#![expect(clippy::needless_pass_by_value, reason = "arguments that PyO3 extracts are owned")]

use std::{
    os::fd::{AsFd, IntoRawFd, OwnedFd, RawFd},
    sync::Arc,
};

use fasterapi::{
    ipc::{
        Doorbell, EdgeLane, Fault, Segment, Withdrawal,
        layout::Geometry,
        message::{Cancellation, Certificate, Close, FromWorker, Piece, Request, Tls},
        segment::Writer,
    },
    span::{Field, Span},
};
use pyo3::{
    exceptions::{PyRuntimeError, PyValueError},
    prelude::*,
    types::{PyBytes, PyList},
};

use crate::ffi::GilCell;

#[derive(Debug)]
struct Shard {
    lane: EdgeLane,
    bell: Doorbell,
    e: OwnedFd,
    w: OwnedFd,
}

#[pyclass(frozen, module = "fasterapi._native")]
#[derive(Debug)]
pub(crate) struct EdgeSide {
    bell: Arc<Doorbell>,
    spin_us: u64,
    shards: GilCell<Vec<Shard>>,
}

/// Version, cipher suite; subject, issuer and chain of the client's certificate.
type Encryption = (u16, u16, Option<(String, String, Vec<u8>)>);

/// A blob under construction.
#[derive(Default)]
struct Blob(Vec<u8>);

impl Blob {
    fn put(&mut self, bytes: &[u8]) -> PyResult<Span> {
        let start = self.0.len();
        self.0.extend_from_slice(bytes);
        Span::new(start, bytes.len()).ok_or_else(|| PyValueError::new_err("head too large"))
    }
}

fn fault(fault: Fault) -> PyErr {
    PyRuntimeError::new_err(fault.to_string())
}

impl EdgeSide {
    fn with<T>(
        &self,
        py: Python<'_>,
        shard: usize,
        action: impl FnOnce(&mut EdgeLane) -> Result<T, Fault>,
    ) -> PyResult<T> {
        let mut shards = self.shards.borrow(py)?;
        let found = shards.get_mut(shard).ok_or_else(|| PyValueError::new_err("no such shard"))?;
        action(&mut found.lane).map_err(fault)
    }
}

#[pymethods]
impl EdgeSide {
    #[new]
    #[pyo3(signature = (shards = 1, *, spin_us = 0, ring_size = 262_144, chunk_size = 65_536, chunk_count = 64))]
    fn new(
        shards: usize,
        spin_us: u64,
        ring_size: usize,
        chunk_size: usize,
        chunk_count: usize,
    ) -> PyResult<Self> {
        let geometry = Geometry::new(ring_size, chunk_size, chunk_count)
            .ok_or_else(|| PyValueError::new_err("not a geometry"))?;
        let bell = Arc::new(Doorbell::new()?);
        let shards = (0..shards).map(|_| {
            let (own, e) = Segment::create("test-e", geometry, Writer::Creator)?;
            let (peer, w) = Segment::create("test-w", geometry, Writer::Receiver)?;
            let lane = EdgeLane::new(own, peer, Arc::clone(&bell));
            Ok(Shard { lane, bell: Doorbell::new()?, e, w })
        });
        let shards = shards.collect::<PyResult<Vec<_>>>()?;
        Ok(Self { bell, spin_us, shards: GilCell::new(shards) })
    }

    fn attach<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let shards = self.shards.borrow(py)?.len();
        let line = format!("{{\"attach\":{{\"shards\":{shards},\"spin_us\":{}}}}}", self.spin_us);
        Ok(PyBytes::new(py, line.as_bytes()))
    }

    /// Fresh duplicates, for `Lanes` to own.
    fn fds(&self, py: Python<'_>) -> PyResult<Vec<RawFd>> {
        let mut fds = vec![self.bell.as_fd().try_clone_to_owned()?];
        for shard in self.shards.borrow(py)?.iter() {
            fds.push(shard.e.try_clone()?);
            fds.push(shard.w.try_clone()?);
            fds.push(shard.bell.as_fd().try_clone_to_owned()?);
        }
        Ok(fds.into_iter().map(IntoRawFd::into_raw_fd).collect())
    }

    /// A shard's doorbell, for the test to poll.
    fn doorbell(&self, py: Python<'_>, shard: usize) -> PyResult<RawFd> {
        let shards = self.shards.borrow(py)?;
        let shard = shards.get(shard).ok_or_else(|| PyValueError::new_err("no such shard"))?;
        Ok(std::os::fd::AsRawFd::as_raw_fd(&shard.bell.as_fd()))
    }

    #[pyo3(signature = (
        id, *, route = 0, method = "GET", path = "/", params = Vec::new(), query = Vec::new(), headers = Vec::new(),
        body = Vec::new(), end = true, content_length = None, version = 11, client = None, authority = "test:8000",
        raw_path = None, decoded_path = None, websocket = false, tls = None,
        shard = 0,
    ))]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments of a test's interface")]
    fn send_request(
        &self,
        py: Python<'_>,
        id: u64,
        route: u32,
        method: &str,
        path: &str,
        params: Vec<Vec<u8>>,
        query: Vec<u8>,
        headers: Vec<(Vec<u8>, Vec<u8>)>,
        body: Vec<u8>,
        end: bool,
        content_length: Option<u64>,
        version: u8,
        client: Option<String>,
        authority: &str,
        raw_path: Option<Vec<u8>>,
        decoded_path: Option<Vec<u8>>,
        websocket: bool,
        tls: Option<Encryption>,
        shard: usize,
    ) -> PyResult<bool> {
        let mut blob = Blob::default();
        let method_name = blob.put(method.as_bytes())?;
        let raw_path = blob.put(raw_path.as_deref().unwrap_or(path.as_bytes()))?;
        let path = blob.put(decoded_path.as_deref().unwrap_or(path.as_bytes()))?;
        let query = blob.put(&query)?;
        let authority = blob.put(authority.as_bytes())?;
        let put_field = |(name, value): &(Vec<u8>, Vec<u8>)| {
            Ok(Field { name: blob.put(name)?, value: blob.put(value)? })
        };
        let fields = headers.iter().map(put_field).collect::<PyResult<Vec<_>>>()?;
        let params = params.iter().map(|param| blob.put(param)).collect::<PyResult<Vec<_>>>()?;
        let peer = client.map(|client| client.parse().map_err(|_| PyValueError::new_err("client")));
        let request = Request {
            route,
            method: 0,
            version,
            method_name,
            raw_path,
            path,
            query,
            authority,
            fields: &fields,
            params: &params,
            blob: &blob.0,
            content_length,
            peer: peer.transpose()?,
            secure: tls.is_some(),
            tls: tls.as_ref().map(|(version, cipher_suite, certificate)| Tls {
                version: *version,
                cipher_suite: *cipher_suite,
                certificate: certificate.as_ref().map(|(subject, issuer, chain)| Certificate {
                    subject: subject.as_bytes(),
                    issuer: issuer.as_bytes(),
                    chain,
                }),
            }),
            websocket,
            halvings: 0,
            body: &body,
            end,
        };
        self.with(py, shard, |lane| lane.send_request(id, &request))
    }

    #[pyo3(signature = (id, data, *, end = false, shard = 0))]
    fn send_body(
        &self,
        py: Python<'_>,
        id: u64,
        data: &[u8],
        end: bool,
        shard: usize,
    ) -> PyResult<Option<usize>> {
        self.with(py, shard, |lane| lane.send_body(id, data, end))
    }

    #[pyo3(signature = (id, data, *, text = false, more = false, shard = 0))]
    fn send_message(
        &self,
        py: Python<'_>,
        id: u64,
        data: &[u8],
        text: bool,
        more: bool,
        shard: usize,
    ) -> PyResult<Option<usize>> {
        let piece = Piece { data, is_text: text, more };
        self.with(py, shard, |lane| lane.send_message(id, piece))
    }

    #[pyo3(signature = (id, code, reason = Vec::new(), *, shard = 0))]
    fn send_close(
        &self,
        py: Python<'_>,
        id: u64,
        code: u16,
        reason: Vec<u8>,
        shard: usize,
    ) -> PyResult<bool> {
        self.with(py, shard, |lane| lane.send_close(id, Close { code, reason: &reason }))
    }

    #[pyo3(signature = (id, bytes, *, shard = 0))]
    fn send_credit(&self, py: Python<'_>, id: u64, bytes: u64, shard: usize) -> PyResult<bool> {
        self.with(py, shard, |lane| lane.send_credit(id, bytes))
    }

    /// Where the record lies that was written last.
    #[pyo3(signature = (*, shard = 0))]
    fn newest(&self, py: Python<'_>, shard: usize) -> PyResult<u64> {
        self.with(py, shard, |lane| Ok(lane.newest()))
    }

    /// Withdraws the request that lies there; false when it was taken.
    #[pyo3(signature = (id, position, *, shard = 0))]
    fn withdraw(&self, py: Python<'_>, id: u64, position: u64, shard: usize) -> PyResult<bool> {
        self.with(py, shard, |lane| Ok(lane.withdraw_request(position, id)? == Withdrawal::Done))
    }

    /// `why`: "gone", "deadline", "leaving" or "late".
    #[pyo3(signature = (id, why = "gone", *, shard = 0))]
    fn send_cancel(&self, py: Python<'_>, id: u64, why: &str, shard: usize) -> PyResult<bool> {
        let why = match why {
            "gone" => Cancellation::ClientGone,
            "deadline" => Cancellation::DeadlinePassed,
            "leaving" => Cancellation::ServerLeaves,
            "late" => Cancellation::WithdrawnLate,
            _ => return Err(PyValueError::new_err("no such reason")),
        };
        self.with(py, shard, |lane| lane.send_cancel(id, why))
    }

    /// True when the worker was kicked.
    #[pyo3(signature = (*, shard = 0))]
    fn publish(&self, py: Python<'_>, shard: usize) -> PyResult<bool> {
        self.with(py, shard, EdgeLane::publish)
    }

    #[pyo3(signature = (*, shard = 0))]
    fn arm(&self, py: Python<'_>, shard: usize) -> PyResult<bool> {
        self.with(py, shard, |lane| lane.arm())
    }

    #[pyo3(signature = (*, shard = 0))]
    fn kicks(&self, py: Python<'_>, shard: usize) -> PyResult<u64> {
        self.with(py, shard, |lane| Ok(lane.kicks()))
    }

    /// Takes everything that has arrived, without looking at it closely: for benchmarks. Returns the number of records.
    #[pyo3(signature = (*, shard = 0))]
    fn discard(&self, py: Python<'_>, shard: usize) -> PyResult<usize> {
        self.with(py, shard, |lane| {
            let mut count = 0;
            while lane.receive()?.is_some() {
                count += 1;
            }
            lane.publish()?;
            Ok(count)
        })
    }

    /// Up to `limit` messages as tuples that begin with the kind and the exchange's id.
    #[pyo3(signature = (*, shard = 0, limit = 1_000_000))]
    fn receive<'py>(
        &self,
        py: Python<'py>,
        shard: usize,
        limit: usize,
    ) -> PyResult<Bound<'py, PyList>> {
        let messages = PyList::empty(py);
        let mut shards = self.shards.borrow(py)?;
        let found = shards.get_mut(shard).ok_or_else(|| PyValueError::new_err("no such shard"))?;
        while messages.len() < limit {
            let Some((id, message)) = found.lane.receive().map_err(fault)? else { break };
            let kind = match message {
                FromWorker::Informational(_) => "informational",
                FromWorker::Trailers(_) => "trailers",
                _ => "response",
            };
            match message {
                FromWorker::Response(head)
                | FromWorker::Informational(head)
                | FromWorker::Trailers(head) => {
                    let text =
                        |span: Span| PyBytes::new(py, span.of(head.blob).unwrap_or_default());
                    let fields = head.fields.iter().map(|f| (text(f.name), text(f.value)));
                    messages.append((
                        kind,
                        id,
                        head.status,
                        fields.collect::<Vec<_>>(),
                        PyBytes::new(py, head.body),
                        head.content_length,
                        head.end,
                    ))?;
                }
                FromWorker::Body { data, end } => {
                    messages.append(("body", id, PyBytes::new(py, data), end))?;
                }
                FromWorker::Message(Piece { data, is_text, more }) => {
                    messages.append(("message", id, PyBytes::new(py, data), is_text, more))?;
                }
                FromWorker::Close(Close { code, reason }) => {
                    messages.append(("close", id, code, PyBytes::new(py, reason)))?;
                }
                FromWorker::Credit(bytes) => messages.append(("credit", id, bytes))?,
                FromWorker::Abort => messages.append(("abort", id))?,
            }
        }
        Ok(messages)
    }
}
