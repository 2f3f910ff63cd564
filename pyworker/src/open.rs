//! One open exchange in a lane's books: what has come of its request, what is to go of its response, who waits for either.
//!
//! Invariant: `queued` is the number of bytes in `pieces` that were not written; nothing follows the piece that `ended`
//! marks. A future in `readers` or `writers` is woken whenever what it may wait for has changed, and then forgotten.
//! Deliberately absent: the lane's records, and any call into Python.

use std::{collections::VecDeque, fmt, sync::Arc};

use fasterapi::limits::{EXCHANGE_WINDOW, OUTPUT_QUEUED_MAX};
use pyo3::{prelude::*, types::PyBytes};

use crate::{
    answer::Head,
    exchange::Arrived,
    fate::{Cancels, Fate},
};

#[derive(Debug)]
pub(crate) struct Open {
    pub(crate) fate: Arc<Fate>,
    pub(crate) input: Input,
    /// Body bytes that were taken and not reported yet.
    pub(crate) credit_due: u64,
    pub(crate) output: Output,
    /// What runs the rest of the handler, if it was suspended.
    pub(crate) task: Option<(Py<PyAny>, Cancels)>,
    /// Futures of those who wait for input, or for the end.
    pub(crate) readers: Vec<Py<PyAny>>,
    /// Futures of those who wait until less is queued.
    pub(crate) writers: Vec<Py<PyAny>>,
}

/// What has come of a request's body.
#[derive(Debug)]
pub(crate) enum Input {
    /// Everything, and it is with the application.
    Done,
    /// Collected until it is whole; then the handler begins.
    Whole { request: Box<Arrived>, body: Vec<u8> },
    /// What the application has not taken yet; at most a window, because credit is returned when it takes.
    Stream { waiting: Vec<u8>, ended: bool },
}

/// A piece of a response's body: the application's own object, never a copy.
#[derive(Debug)]
pub(crate) struct Piece {
    bytes: Py<PyBytes>,
    sent: usize,
}

/// What is still to be written.
#[derive(Debug)]
pub(crate) struct Output {
    /// Not written yet.
    pub(crate) head: Option<Head>,
    /// Of the whole body, where it is known.
    length: Option<u64>,
    /// Bytes are counted and dropped: the answer to HEAD, or one of a status that has no body.
    silent: bool,
    /// Body bytes that were accepted.
    accepted: u64,
    pub(crate) pieces: VecDeque<Piece>,
    queued: usize,
    /// Body bytes that the edge has room for.
    pub(crate) credit: u64,
    /// The last piece is the body's end.
    pub(crate) ended: bool,
    /// Nothing but ABORT is to be written.
    pub(crate) aborts: bool,
    /// True exactly while the exchange is in the lane's list of those with something to write.
    pub(crate) ready: bool,
}

/// A response's body does not have the length that its head names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WrongLength {
    Longer { length: u64 },
    Shorter { length: u64, accepted: u64 },
}

/// What is to be written next.
#[derive(Debug)]
pub(crate) enum Due<'a> {
    /// Nothing, for now.
    Nothing,
    Abort,
    /// This head; `body` is the whole rest if `end`, else what may ride with it.
    Head {
        head: &'a Head,
        length: Option<u64>,
        body: &'a [u8],
        end: bool,
    },
    Body {
        part: &'a [u8],
        end: bool,
    },
}

impl fmt::Display for WrongLength {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Longer { length } => {
                write!(f, "the response's body is longer than its content-length, {length}")
            }
            Self::Shorter { length, accepted } => write!(
                f,
                "the response's body ends after {accepted} bytes, short of its content-length, {length}"
            ),
        }
    }
}

impl Open {
    pub(crate) fn new(fate: Arc<Fate>, input: Input, credit_due: u64) -> Self {
        Self {
            fate,
            input,
            credit_due,
            output: Output::default(),
            task: None,
            readers: Vec::new(),
            writers: Vec::new(),
        }
    }
}

impl Default for Output {
    fn default() -> Self {
        Self {
            head: None,
            length: None,
            silent: false,
            accepted: 0,
            pieces: VecDeque::new(),
            queued: 0,
            credit: EXCHANGE_WINDOW as u64,
            ended: false,
            aborts: false,
            ready: false,
        }
    }
}

impl Output {
    /// Accepts a head. `silent`: no body is to go, whatever the application writes.
    pub(crate) fn start(&mut self, head: Head, length: Option<u64>, silent: bool) {
        (self.head, self.length, self.silent) = (Some(head), length, silent);
    }

    /// Accepts a piece of the body.
    ///
    /// # Errors
    /// It does not agree with the head's length; nothing was accepted.
    pub(crate) fn push(
        &mut self,
        py: Python<'_>,
        bytes: Py<PyBytes>,
        end: bool,
    ) -> Result<(), WrongLength> {
        let size = bytes.as_bytes(py).len();
        let accepted = self.accepted + size as u64;
        match self.length {
            Some(length) if accepted > length => return Err(WrongLength::Longer { length }),
            // HEAD may leave the body out that its length is of.
            Some(length) if end && accepted < length && !(self.silent && accepted == 0) => {
                return Err(WrongLength::Shorter { length, accepted });
            }
            // The whole body is here before anything was written.
            None if end && self.head.is_some() => self.length = Some(accepted),
            _ => {}
        }
        (self.accepted, self.ended) = (accepted, end);
        if size > 0 && !self.silent {
            self.queued += size;
            self.pieces.push_back(Piece { bytes, sent: 0 });
        }
        Ok(())
    }

    /// True when the application should wait before it goes on.
    pub(crate) fn is_full(&self) -> bool {
        self.queued > OUTPUT_QUEUED_MAX
    }

    /// Forgets the response if nothing of it was written.
    pub(crate) fn retract(&mut self) -> bool {
        let unwritten = self.head.is_some();
        if unwritten {
            *self = Self { ready: self.ready, credit: self.credit, ..Self::default() };
        }
        unwritten
    }

    /// Drops what is queued: nothing but ABORT follows.
    pub(crate) fn abort(&mut self) {
        (self.aborts, self.head, self.queued) = (true, None, 0);
        self.pieces.clear();
    }

    /// What is to be written next, at most `part_max` bytes of body.
    pub(crate) fn due<'a>(&'a self, py: Python<'a>, part_max: usize) -> Due<'a> {
        if self.aborts {
            return Due::Abort;
        }
        let room = usize::try_from(self.credit).unwrap_or(usize::MAX).min(part_max);
        let rest = self.pieces.front().map_or(&[][..], |piece| piece.rest(py));
        let part = rest.get(..room).unwrap_or(rest);
        let last = self.ended && self.pieces.len() <= 1 && part.len() == rest.len();
        match &self.head {
            Some(head) => Due::Head { head, length: self.length, body: part, end: last },
            None if part.is_empty() && !last => Due::Nothing,
            None => Due::Body { part, end: last },
        }
    }

    /// `count` bytes of the first piece were written. True when it is news that there is room again.
    pub(crate) fn wrote(&mut self, py: Python<'_>, count: usize) -> bool {
        let was_full = self.is_full();
        self.credit -= count as u64;
        self.queued -= count;
        if let Some(piece) = self.pieces.front_mut() {
            piece.sent += count;
            if piece.rest(py).is_empty() {
                self.pieces.pop_front();
            }
        }
        was_full && !self.is_full()
    }
}

impl Piece {
    fn rest<'a>(&'a self, py: Python<'a>) -> &'a [u8] {
        self.bytes.as_bytes(py).get(self.sent..).unwrap_or_default()
    }
}
