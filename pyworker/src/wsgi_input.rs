//! `wsgi.input`: the request's body as a file that is read from its beginning to its end, once.
//!
//! Invariant: reads block with the GIL released until they have what was asked for, or the body has ended; what was not
//! asked for stays on the way, and so bounds what the client may send. Deliberately absent: the books.

use pyo3::{prelude::*, types::PyBytes, types::PyList};

use crate::{fate::Stage, ffi::GilCell, handle::Handle, lane::Taken};

/// What a read of unknown length begins with.
const READ_SIZE: usize = 64 * 1024;

#[derive(Debug)]
struct Unread {
    piece: Option<Py<PyBytes>>,
    /// Of the piece, how much was read.
    at: usize,
    /// Nothing follows the piece.
    ended: bool,
}

#[pyclass(frozen, module = "fasterapi._native")]
#[derive(Debug)]
pub(crate) struct Input {
    handle: Handle,
    unread: GilCell<Unread>,
}

impl Input {
    /// Of a body that is here.
    pub(crate) fn whole(handle: Handle, body: Option<Py<PyBytes>>) -> Self {
        Self { handle, unread: GilCell::new(Unread { piece: body, at: 0, ended: true }) }
    }

    /// Of one that is on its way.
    pub(crate) fn coming(handle: Handle) -> Self {
        Self { handle, unread: GilCell::new(Unread { piece: None, at: 0, ended: false }) }
    }

    /// Waits until there is something to read; false at the end.
    fn fill(&self, py: Python<'_>) -> PyResult<bool> {
        let unread = self.unread.borrow(py)?;
        if unread.piece.is_some() || unread.ended {
            return Ok(unread.piece.is_some());
        }
        drop(unread);
        let handle = &self.handle;
        let taken = handle.lanes().wait_for(py, || {
            Ok(match handle.take_input(py)? {
                Taken::NotYet => None,
                // Whoever has answered may stop listening.
                Taken::Gone if handle.fate().stage() == Stage::Ended => Some(Taken::End),
                taken => Some(taken),
            })
        })?;
        let mut unread = self.unread.borrow(py)?;
        match taken {
            Taken::Piece { bytes, last } => {
                (unread.piece, unread.at, unread.ended) = (Some(bytes), 0, last);
                Ok(true)
            }
            Taken::End | Taken::NotYet => {
                unread.ended = true;
                Ok(false)
            }
            Taken::Gone => Err(handle.disconnected(py)?),
        }
    }

    /// Hands what is there to `take`, which says how much of it was wanted.
    fn consume(&self, py: Python<'_>, take: impl FnOnce(&[u8]) -> usize) -> PyResult<()> {
        let mut unread = self.unread.borrow(py)?;
        let Unread { piece, at, .. } = &mut *unread;
        let Some(bytes) = piece.as_ref() else { return Ok(()) };
        let rest = bytes.as_bytes(py).get(*at..).unwrap_or_default();
        *at += take(rest).min(rest.len());
        if *at >= bytes.as_bytes(py).len() {
            *piece = None;
        }
        Ok(())
    }

    /// The piece as it is, if all of it is wanted, it is the last, and nothing of it was read.
    fn take_last(&self, py: Python<'_>, limit: usize) -> PyResult<Option<Py<PyBytes>>> {
        let mut unread = self.unread.borrow(py)?;
        let fits = |bytes: &Py<PyBytes>| bytes.as_bytes(py).len() <= limit;
        let all = unread.at == 0 && unread.ended && unread.piece.as_ref().is_some_and(fits);
        Ok(if all { unread.piece.take() } else { None })
    }

    fn read_until<'py>(
        &self,
        py: Python<'py>,
        limit: usize,
        stop: impl Fn(&[u8]) -> Option<usize>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let mut read = Vec::new();
        let mut done = false;
        while !done && read.len() < limit && self.fill(py)? {
            self.consume(py, |rest| {
                let rest = rest.get(..limit - read.len()).unwrap_or(rest);
                let end = stop(rest);
                done = end.is_some();
                let part = rest.get(..end.unwrap_or(rest.len())).unwrap_or(rest);
                if read.is_empty() && !done {
                    read.reserve(limit.min(READ_SIZE).max(part.len()));
                }
                read.extend_from_slice(part);
                part.len()
            })?;
        }
        Ok(PyBytes::new(py, &read))
    }

    fn line<'py>(&self, py: Python<'py>, limit: usize) -> PyResult<Bound<'py, PyBytes>> {
        let line_end = |rest: &[u8]| rest.iter().position(|byte| *byte == b'\n').map(|at| at + 1);
        self.read_until(py, limit, line_end)
    }
}

/// As files take it: none, or a negative one, is no limit.
fn limit(size: Option<isize>) -> usize {
    size.and_then(|size| usize::try_from(size).ok()).unwrap_or(usize::MAX)
}

#[pymethods]
impl Input {
    #[pyo3(signature = (size = None, /))]
    fn read<'py>(&self, py: Python<'py>, size: Option<isize>) -> PyResult<Bound<'py, PyBytes>> {
        let limit = limit(size);
        if limit > 0
            && self.fill(py)?
            && let Some(all) = self.take_last(py, limit)?
        {
            return Ok(all.into_bound(py));
        }
        self.read_until(py, limit, |_| None)
    }

    /// What is there, or comes next.
    #[pyo3(signature = (size = None, /))]
    fn read1<'py>(&self, py: Python<'py>, size: Option<isize>) -> PyResult<Bound<'py, PyBytes>> {
        let mut read = PyBytes::new(py, b"");
        let limit = limit(size);
        if limit > 0 && self.fill(py)? {
            self.consume(py, |rest| {
                let part = rest.get(..limit).unwrap_or(rest);
                read = PyBytes::new(py, part);
                part.len()
            })?;
        }
        Ok(read)
    }

    #[pyo3(signature = (size = None, /))]
    fn readline<'py>(&self, py: Python<'py>, size: Option<isize>) -> PyResult<Bound<'py, PyBytes>> {
        self.line(py, limit(size))
    }

    #[pyo3(signature = (hint = None, /))]
    fn readlines<'py>(&self, py: Python<'py>, hint: Option<isize>) -> PyResult<Bound<'py, PyList>> {
        let wanted = match hint {
            Some(hint) if hint > 0 => limit(Some(hint)),
            _ => usize::MAX,
        };
        let lines = PyList::empty(py);
        let mut total = 0;
        while total < wanted {
            let line = self.line(py, usize::MAX)?;
            if line.as_bytes().is_empty() {
                break;
            }
            total += line.as_bytes().len();
            lines.append(line)?;
        }
        Ok(lines)
    }

    fn readable(&self) -> bool {
        true
    }

    fn __iter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __next__<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyBytes>>> {
        let line = self.line(py, usize::MAX)?;
        Ok(if line.as_bytes().is_empty() { None } else { Some(line) })
    }
}
