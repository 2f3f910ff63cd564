//! An open exchange whose client asks for a WebSocket: the messages that have come and those that are to go.
//!
//! Invariant: while a whole message waits for the application, credit is returned for nothing behind it; so what is held is
//! one message of the edge's largest size, and a window. `queued` is the number of bytes in `outgoing` that were not written;
//! nothing follows `close_due`. Deliberately absent: the lane's records, and any call into Python.

use std::collections::VecDeque;

use fasterapi::{
    ipc::message::{Close, Piece},
    limits::{CHUNK_SIZE, OUTPUT_QUEUED_MAX},
};

/// RFC 6455 §7.1.5: the connection was lost.
pub(crate) const ABNORMAL: u16 = 1006;
/// What uvicorn says when the server stops.
pub(crate) const SERVICE_RESTART: u16 = 1012;
/// RFC 6455 §7.1.5: the Close named no code.
pub(crate) const NO_CODE: u16 = 1005;

#[derive(Debug, Default)]
pub(crate) struct Socket {
    /// The application has said 101.
    pub(crate) accepted: bool,
    /// Whole messages that the application has not taken.
    waiting: VecDeque<Message>,
    /// The message that is arriving.
    partial: Option<Message>,
    /// The client, or the edge, has closed: nothing arrives any more, and nothing is taken.
    closed: Option<(u16, String)>,
    outgoing: VecDeque<Outgoing>,
    queued: usize,
    close_due: Option<(u16, String)>,
}

#[derive(Debug)]
struct Message {
    data: Vec<u8>,
    is_text: bool,
    /// What it cost and was not returned.
    credit: u64,
}

#[derive(Debug)]
struct Outgoing {
    data: Vec<u8>,
    sent: usize,
    is_text: bool,
}

/// What there is for an application that wants a message.
#[derive(Debug)]
pub(crate) enum Heard {
    Text(Vec<u8>),
    Bytes(Vec<u8>),
    /// Nothing follows: the code, and the reason.
    Closed(u16, String),
    NotYet,
}

/// What is to be written next.
#[derive(Debug)]
pub(crate) enum Due<'a> {
    Nothing,
    Piece(Piece<'a>),
    /// The end of the exchange.
    Close(Close<'a>),
}

impl Socket {
    /// Takes a piece of a message; the credit that can be returned at once.
    pub(crate) fn arrive(&mut self, piece: &Piece<'_>) -> u64 {
        let message = self.partial.get_or_insert_with(|| Message {
            data: Vec::new(),
            is_text: piece.is_text,
            credit: 0,
        });
        message.data.extend_from_slice(piece.data);
        message.credit += piece.cost() as u64;
        if !piece.more {
            self.waiting.extend(self.partial.take());
            return 0;
        }
        self.credit_of_partial()
    }

    /// A message that is arriving costs nothing while the application waits for it.
    fn credit_of_partial(&mut self) -> u64 {
        match &mut self.partial {
            Some(message) if self.waiting.is_empty() => std::mem::take(&mut message.credit),
            _ => 0,
        }
    }

    /// The first Close counts.
    pub(crate) fn end(&mut self, code: u16, reason: &[u8]) {
        let reason = || String::from_utf8_lossy(reason).into_owned();
        self.closed.get_or_insert_with(|| (code, reason()));
        self.outgoing.clear();
        self.queued = 0;
    }

    /// The next message, with the credit that can be returned for it.
    pub(crate) fn hear(&mut self) -> (Heard, u64) {
        if let Some(message) = self.waiting.pop_front() {
            let credit = message.credit + self.credit_of_partial();
            let heard = if message.is_text { Heard::Text } else { Heard::Bytes };
            return (heard(message.data), credit);
        }
        let heard = match &self.closed {
            Some((code, reason)) => Heard::Closed(*code, reason.clone()),
            None => Heard::NotYet,
        };
        (heard, 0)
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.is_some()
    }

    /// True when nothing waits to be written: a message may go at once.
    pub(crate) fn is_clear(&self) -> bool {
        self.outgoing.is_empty() && self.close_due.is_none()
    }

    pub(crate) fn say(&mut self, data: &[u8], is_text: bool) {
        self.queued += data.len();
        self.outgoing.push_back(Outgoing { data: data.to_vec(), sent: 0, is_text });
    }

    pub(crate) fn close(&mut self, code: u16, reason: String) {
        self.close_due = Some((code, reason));
    }

    /// The application has said the last word.
    pub(crate) fn is_closing(&self) -> bool {
        self.close_due.is_some()
    }

    pub(crate) fn is_full(&self) -> bool {
        self.queued > OUTPUT_QUEUED_MAX
    }

    /// What is to be written next, for at most so much credit.
    pub(crate) fn due(&self, credit: u64) -> Due<'_> {
        let Some(message) = self.outgoing.front() else {
            return match &self.close_due {
                Some((code, reason)) => {
                    Due::Close(Close { code: *code, reason: reason.as_bytes() })
                }
                None => Due::Nothing,
            };
        };
        let room = usize::try_from(credit).unwrap_or(usize::MAX).min(CHUNK_SIZE);
        if room == 0 {
            return Due::Nothing;
        }
        let rest = message.data.get(message.sent..).unwrap_or_default();
        let data = rest.get(..room).unwrap_or(rest);
        Due::Piece(Piece { data, is_text: message.is_text, more: data.len() < rest.len() })
    }

    /// So many bytes of the first message were written, and perhaps all of it. True when it is news that there is room.
    pub(crate) fn wrote(&mut self, count: usize) -> bool {
        let was_full = self.is_full();
        self.queued -= count;
        if let Some(message) = self.outgoing.front_mut() {
            message.sent += count;
            if message.sent == message.data.len() {
                self.outgoing.pop_front();
            }
        }
        was_full && !self.is_full()
    }
}
