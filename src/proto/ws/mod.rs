//! WebSockets, RFC 6455 with permessage-deflate (RFC 7692): the server's end of one connection after its 101.
//!
//! ```text
//!            Close sent              Close received, or the client kept us waiting
//!   Open ───────────────► Closing ──────────────────────────────────────────────────► Over
//!     └────── Close received, or a violation: the answer is due ───────────────────────▲
//! ```
//!
//! Invariant: no message is ever held: it passes in pieces of at most `WS_PIECE_SIZE_MAX`, and what is remembered of it is
//! its size, the beginning of one character and a decompressor's window. What is due to be sent unasked is at most one
//! Ping, one Close, and Pongs for the latest Pings, however much arrives while nothing can be sent.
//! tungstenite reads and writes the frame headers; every rule about what they say is here. Deliberately absent: a clock, and
//! what carries the bytes, a connection or a stream (RFC 8441, RFC 9220).

#![forbid(unsafe_code)]

mod decode;
mod deflate;
mod encode;
mod error;
mod handshake;
#[cfg(test)]
mod tests;
mod utf8;

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use decode::{Frame, Incoming};
pub use deflate::{Deflate, Workspace};
use deflate::{Deflater, Inflater};
use encode::Outgoing;
pub use encode::Piece;
pub use error::{BadMessage, BadUpgrade, Extra, Violation};
pub use handshake::{DeflatePolicy, Upgrade, extended_handshake, handshake};

use crate::limits;

/// What a message is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// UTF-8 as a whole; a piece may end inside a character.
    Text,
    /// Any bytes.
    Binary,
}

/// How one connection is to be run.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// A larger message, inflated, is refused with 1009.
    pub message_size_max: u64,
    /// From one Ping to the next; `None` sends none.
    pub ping_interval: Option<Duration>,
    /// A client that is silent for so long after a Ping is given up with 1011; `None` waits for ever.
    pub ping_timeout: Option<Duration>,
    /// How long our Close waits for the client's.
    pub close_timeout: Duration,
    /// What the handshake negotiated.
    pub deflate: Option<Deflate>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            message_size_max: limits::WS_MESSAGE_SIZE_MAX,
            ping_interval: Some(limits::WS_PING_INTERVAL),
            ping_timeout: Some(limits::WS_PING_TIMEOUT),
            close_timeout: limits::WS_CLOSE_TIMEOUT,
            deflate: None,
        }
    }
}

/// One step through what arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step<'a> {
    /// Nothing to report: call again when more has arrived behind what was not consumed.
    NeedMore {
        /// Bytes to drop from the input.
        consumed: usize,
    },
    /// A piece of a message; only a message's last may be empty.
    Piece {
        /// Bytes to drop from the input.
        consumed: usize,
        /// The piece, inflated.
        data: &'a [u8],
        /// The same for all pieces of a message.
        kind: Kind,
        /// The message goes on.
        more: bool,
    },
    /// The client has closed, or answered our Close. Nothing follows.
    Close {
        /// Bytes to drop from the input.
        consumed: usize,
        /// The client's code; 1005 if it gave none (RFC 6455 §7.1.5).
        code: u16,
        /// UTF-8, at most 123 bytes.
        reason: &'a [u8],
    },
}

/// How far the connection is from its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Messages go both ways.
    Open,
    /// Our Close was sent. Until the client's comes, its messages are dropped.
    Closing,
    /// Close the connection once all output is sent; what still arrives is dropped.
    Over,
}

/// What awaits its time.
#[derive(Clone, Copy, Debug)]
enum Timer {
    /// Nothing.
    Off,
    /// The next Ping.
    Ping(Instant),
    /// The Pong to the Ping sent at `sent`, or any other sign of life.
    Pong { sent: Instant, until: Instant },
    /// The client's Close.
    Close(Instant),
}

/// The body of a control frame.
#[derive(Clone, Copy, Debug)]
struct Control {
    len: usize,
    body: [u8; limits::WS_CONTROL_SIZE_MAX],
}

impl Control {
    /// What does not fit is left out; the callers have checked it.
    fn new<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut control = Self { len: 0, body: [0; limits::WS_CONTROL_SIZE_MAX] };
        let bytes = parts.into_iter().flatten();
        for (free, byte) in control.body.iter_mut().zip(bytes) {
            *free = *byte;
            control.len += 1;
        }
        control
    }

    fn close(code: u16, reason: &[u8]) -> Self {
        Self::new([&code.to_be_bytes(), reason])
    }

    fn bytes(&self) -> &[u8] {
        self.body.get(..self.len).unwrap_or_default()
    }
}

/// The state of one WebSocket.
#[derive(Debug)]
pub struct Ws {
    options: Options,
    phase: Phase,
    /// The frame whose payload is arriving.
    frame: Frame,
    /// The message that has begun and not ended.
    incoming: Option<Incoming>,
    /// The window of the client's messages: between messages only with context takeover.
    inflater: Option<Inflater>,
    /// The message that we began and have not ended.
    outgoing: Option<Outgoing>,
    /// The window of our messages: between messages only with context takeover.
    deflater: Option<Deflater>,
    timer: Timer,
    /// Something arrived since the timer was set.
    heard: bool,
    /// What our Pings carry: each its own, so that a Pong tells which it answers.
    ping: u32,
    ping_due: bool,
    pongs_due: VecDeque<Control>,
    close_due: Option<Control>,
}

// There is one per WebSocket, and idle ones are the rule.
const _: () = assert!(size_of::<Ws>() <= 768);

impl Ws {
    /// A connection whose 101 was just sent.
    pub fn new(options: Options, now: Instant) -> Self {
        Self {
            options,
            phase: Phase::Open,
            frame: Frame::Header,
            incoming: None,
            inflater: None,
            outgoing: None,
            deflater: None,
            timer: options.ping_interval.map_or(Timer::Off, |interval| Timer::Ping(now + interval)),
            heard: false,
            ping: 0,
            ping_due: false,
            pongs_due: VecDeque::new(),
            close_due: None,
        }
    }

    /// How far the connection is from its end.
    pub const fn phase(&self) -> Phase {
        self.phase
    }

    /// True while [`Self::poll_output`] has something to write.
    pub fn has_output(&self) -> bool {
        self.ping_due || !self.pongs_due.is_empty() || self.close_due.is_some()
    }

    /// Appends what is due unasked: Pong, Ping, Close. Call it after each step and each timeout, but only while little is
    /// unsent: a client that does not read must not make the output grow.
    pub fn poll_output(&mut self, out: &mut Vec<u8>) {
        // Idle connections own no buffer.
        for pong in std::mem::take(&mut self.pongs_due) {
            encode::control(encode::PONG, pong.bytes(), out);
        }
        if std::mem::take(&mut self.ping_due) {
            encode::control(encode::PING, &self.ping.to_be_bytes(), out);
        }
        if let Some(close) = self.close_due.take() {
            encode::control(encode::CLOSE, close.bytes(), out);
        }
    }

    /// When [`Self::handle_timeout`] is to be called.
    pub const fn poll_timeout(&self) -> Option<Instant> {
        match self.timer {
            Timer::Off => None,
            Timer::Ping(at) | Timer::Close(at) | Timer::Pong { until: at, .. } => Some(at),
        }
    }

    /// Does what is due by now. `listening` is false while the caller reads nothing from the client because the worker is
    /// behind: silence is not the client's then.
    ///
    /// # Errors
    /// [`Violation::PingTimeout`]: the connection is over, and a Close due.
    pub fn handle_timeout(&mut self, now: Instant, listening: bool) -> Result<(), Violation> {
        if self.poll_timeout().is_none_or(|at| now < at) {
            return Ok(());
        }
        match self.timer {
            Timer::Off => {}
            Timer::Ping(_) => {
                self.ping = self.ping.wrapping_add(1);
                self.ping_due = true;
                self.heard = false;
                self.timer = match (self.options.ping_timeout, self.options.ping_interval) {
                    (Some(timeout), _) => Timer::Pong { sent: now, until: now + timeout },
                    (None, Some(interval)) => Timer::Ping(now + interval),
                    (None, None) => Timer::Off,
                };
            }
            Timer::Pong { sent, .. } => match self.options.ping_timeout {
                // A Pong cannot overtake the rest of a long frame, nor answer what was not sent.
                Some(timeout) if self.heard || self.ping_due || !listening => {
                    self.heard = false;
                    self.timer = Timer::Pong { sent, until: now + timeout };
                }
                _ => return Err(self.fail(Violation::PingTimeout)),
            },
            Timer::Close(_) => self.finish(None),
        }
        Ok(())
    }

    /// A Ping with this body arrived.
    fn pinged(&mut self, body: Control) {
        if self.pongs_due.len() >= limits::WS_PONGS_MAX {
            self.pongs_due.pop_front();
        }
        self.pongs_due.push_back(body);
    }

    /// A Pong with this body arrived. Those that nobody asked for are none (RFC 6455 §5.5.3).
    fn pong(&mut self, body: &[u8]) {
        if let (Timer::Pong { sent, .. }, true) = (self.timer, body == self.ping.to_be_bytes()) {
            self.timer =
                self.options.ping_interval.map_or(Timer::Off, |each| Timer::Ping(sent + each));
        }
    }

    /// Ends the connection for a fault of the client's.
    fn fail(&mut self, violation: Violation) -> Violation {
        self.finish(Some(Control::close(violation.close_code(), violation.reason().as_bytes())));
        violation
    }

    /// Nothing arrives any more; the Close is sent unless one was.
    fn finish(&mut self, close: Option<Control>) {
        if self.phase == Phase::Open {
            self.close_due = close;
        }
        self.phase = Phase::Over;
        self.timer = Timer::Off;
        self.ping_due = false;
        (self.incoming, self.inflater) = (None, None);
        (self.outgoing, self.deflater) = (None, None);
    }
}
