//! One request and its response on an HTTP/3 connection.
//!
//! Invariant: it is there from the first byte that can be read until the response is with QUIC as a whole, or the stream is
//! reset. Its key is the caller's from `Request` or `Refused` on, until the caller has ended the response or was told of
//! the reset: [`Stream::caller`].

use std::{rc::Weak, time::Instant};

use super::{
    buffers::{Held, Piece, Quic, Sent},
    frames::Inlet,
};
use crate::proto::response::Sending;

/// How far the request has been read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reading {
    /// Its head is not here.
    Head,
    /// Its body is under way.
    Body,
    /// Its trailer section was read.
    Trailers,
    /// It was read to its end.
    Done,
    /// It is not wanted any more.
    Refused,
}

/// What the next bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Awaits {
    /// The head of a frame.
    Frame,
    /// The payload of HEADERS.
    Fields(usize),
    /// So much payload of DATA.
    Data(u64),
    /// So much payload that nobody wants.
    Skipped(u64),
}

/// Who may name the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Caller {
    /// Nobody yet.
    Unaware,
    /// The caller knows of it.
    Serves,
    /// The caller is done with it; what is left waits for the client's window.
    Done,
}

/// A stream's turn to put body into the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// It does not wait for one.
    None,
    /// It is among those that wait.
    Awaited,
    /// The caller was told, and has not used it.
    Come,
}

#[derive(Debug)]
pub(super) struct Stream {
    pub(super) id: u64,
    pub(super) caller: Caller,
    pub(super) reading: Reading,
    pub(super) awaits: Awaits,
    pub(super) inlet: Inlet,
    /// It is among those to be read.
    pub(super) is_queued: bool,
    /// There may be more to read once credit has come back.
    pub(super) is_starved: bool,
    /// The Content-Length that the body is held to.
    pub(super) announced: Option<u64>,
    /// Body bytes that were given to the caller.
    pub(super) received: u64,
    /// Those of them for which no credit came back.
    pub(super) unreturned: usize,
    pub(super) opened: Instant,
    /// When the last of them came, or credit for more.
    pub(super) last_data: Instant,
    pub(super) sending: Sending,
    /// Encoded, and not with QUIC.
    pub(super) outbox: Vec<u8>,
    /// The end follows the outbox.
    pub(super) ends: bool,
    /// It is among those to be flushed.
    pub(super) is_dirty: bool,
    /// The last piece that QUIC took.
    pub(super) last_piece: Weak<Sent>,
    /// Since when a piece of the response is held back, and how much has gone out since.
    pub(super) blocked: Option<(Instant, u64)>,
    pub(super) turn: Turn,
    pub(super) is_head: bool,
    pub(super) is_websocket: bool,
    pub(super) continue_due: bool,
}

/// What became of what was to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flushed {
    /// All of it is with QUIC.
    All,
    /// The rest waits, for the client or for the network.
    Blocked,
    /// The client does not want it: STOP_SENDING.
    Stopped,
}

impl Stream {
    pub(super) fn new(id: u64, now: Instant) -> Self {
        Self {
            id,
            caller: Caller::Unaware,
            reading: Reading::Head,
            awaits: Awaits::Frame,
            inlet: Inlet::default(),
            is_queued: false,
            is_starved: false,
            announced: None,
            received: 0,
            unreturned: 0,
            opened: now,
            last_data: now,
            sending: Sending::Head,
            outbox: Vec::new(),
            ends: false,
            is_dirty: false,
            last_piece: Weak::new(),
            blocked: None,
            turn: Turn::None,
            is_head: false,
            is_websocket: false,
            continue_due: false,
        }
    }

    /// Gives QUIC of the outbox what the client's windows and the network take now.
    pub(super) fn flush(&mut self, quic: &mut Quic, held: &Held) -> Flushed {
        if self.outbox.is_empty() && !self.ends {
            return Flushed::All;
        }
        let Ok(capacity) = quic.stream_capacity(self.id) else { return Flushed::Stopped };
        if capacity < self.outbox.len() {
            let rest = self.outbox.split_off(capacity);
            let front = std::mem::replace(&mut self.outbox, rest);
            if !front.is_empty() && self.send(front, false, quic, held).is_err() {
                return Flushed::Stopped;
            }
            return match quic.stream_writable(self.id, 1) {
                Ok(_) => Flushed::Blocked,
                Err(_) => Flushed::Stopped,
            };
        }
        let all = std::mem::take(&mut self.outbox);
        match self.send(all, self.ends, quic, held) {
            Ok(()) => Flushed::All,
            Err(_) => Flushed::Stopped,
        }
    }

    /// There is room for all of it.
    fn send(
        &mut self,
        bytes: Vec<u8>,
        end: bool,
        quic: &mut Quic,
        held: &Held,
    ) -> Result<(), quiche::Error> {
        if bytes.is_empty() {
            return quic.stream_send(self.id, &[], end).map(drop);
        }
        let piece = Piece::new(bytes, held);
        self.last_piece = piece.watch();
        quic.stream_send_zc(self.id, piece, end).map(drop)
    }
}
