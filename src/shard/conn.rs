//! One client connection of HTTP/1 or HTTP/2, which has a socket: what the kernel holds of it, what was received and not
//! understood yet, what is to be sent.
//!
//! Invariant: the socket is closed in three steps. `begin_close` makes the phase `Closing`; the shard then cancels what is
//! in flight; only when no operation is in flight ([`Connection::is_quiet`]) is the descriptor closed and the slot freed.

use std::{
    net::SocketAddr,
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use super::{Limits, streams::Streams, tls::Tls, websocket::WebSocket};
use crate::{
    limits,
    proto::{forwarded::Origin, h1::H1, h2::H2, rate::MinRate},
};

/// Where an HTTP/1 connection's requests stand.
#[derive(Debug, Default)]
pub(super) enum Reading {
    /// Before or inside a head.
    #[default]
    Head,
    /// Inside the body of this exchange.
    Body(usize),
    /// The request was read; this exchange's response is awaited or under way.
    Answering(usize),
    /// A short body that nobody wants is read to its end, then this is answered.
    Discarding(Box<Verdict>),
    /// Messages go both ways, for this exchange.
    WebSocket(usize),
    /// One side has closed its WebSocket, and the exchange is nobody's any more.
    Parting,
}

/// An answer of the edge's own, kept until the request's body has passed.
#[derive(Debug)]
pub(super) struct Verdict {
    pub(super) status: u16,
    pub(super) detail: Option<&'static str>,
    pub(super) extra: Vec<(&'static str, Vec<u8>)>,
    pub(super) line: Option<Box<super::access_log::Line>>,
}

/// How far the connection is from its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Serving.
    Open,
    /// The last response is being sent; input is dropped. The client may still be sending, so that closing at once
    /// could take the response away from it (RFC 9112 §9.6): lingering follows.
    LastSend,
    /// FIN is out; what still arrives is dropped until the client closes or the time is up.
    Lingering,
    /// Nothing is served any more; operations in flight are being cancelled.
    Closing,
}

/// An operation that waits for the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Listen {
    /// Not submitted.
    Idle,
    /// Submitted, and its last completion not reaped.
    Armed,
    /// As `Armed`, and asked to end.
    Ending,
}

/// What happens when the deadline passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expiry {
    /// Nothing is awaited from the client.
    Never,
    /// Close without a word.
    Close,
    /// Answer 408, close.
    TooSlow,
    /// The engine of HTTP/2 decides.
    Engine,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) socket: OwnedFd,
    pub(super) generation: u32,
    pub(super) peer: Option<SocketAddr>,
    /// The client has not said what it speaks.
    pub(super) fresh: bool,
    pub(super) h1: H1,
    /// From the moment on that HTTP/2 is spoken: then `h1`, `reading` and `websocket` stay as they were.
    pub(super) streams: Option<Box<Streams<H2>>>,
    /// `None` for HTTP in clear.
    pub(super) tls: Option<Box<Tls>>,
    /// Its requests are sent to the TLS listener.
    pub(super) redirects: bool,
    /// Received and not consumed by the engine.
    pub(super) input: Vec<u8>,
    /// The body waits until a worker has room for it: the client is not to blame for the pause.
    pub(super) held_back: bool,
    /// Encoded and not submitted.
    pub(super) output: Vec<u8>,
    /// Where in `output` the worker's response begins, while no byte of it was submitted.
    pub(super) response_at: Option<usize>,
    /// Bytes of the send in flight; zero exactly when none is.
    pub(super) sending: usize,
    pub(super) recv: Listen,
    /// Of the client's reset; see [`Self::may_miss_reset`].
    pub(super) hang_up: Listen,
    /// The client's FIN is known to have come, perhaps behind bytes that were not received: no hang-up is looked for any more.
    pub(super) fin_seen: bool,
    /// Reception ended once because there was no buffer.
    pub(super) starved: bool,
    pub(super) reading: Reading,
    /// There from the request for one on, unless that was denied.
    pub(super) websocket: Option<WebSocket>,
    pub(super) phase: Phase,
    /// Received bytes that nobody will read.
    dropped: usize,
    /// The client sent FIN.
    pub(super) at_end: bool,
    /// A shutdown is in flight.
    pub(super) shutting_down: bool,
    /// True exactly while the connection is on the shard's list of connections to flush.
    pub(super) dirty: bool,
    expiry: Expiry,
    deadline: Instant,
    /// When the send in flight, or the lingering, must be over. Set once for each, so that no trickle of input moves it.
    until: Instant,
    /// When the head or body under way began to arrive, and how much of it did.
    transfer: Option<(Instant, u64)>,
}

impl Connection {
    pub(super) fn new(
        socket: OwnedFd,
        generation: u32,
        peer: Option<SocketAddr>,
        (now, keepalive_timeout): (Instant, Duration),
    ) -> Self {
        Self {
            socket,
            generation,
            peer,
            fresh: true,
            h1: H1::new(),
            streams: None,
            tls: None,
            redirects: false,
            input: Vec::new(),
            held_back: false,
            output: Vec::new(),
            response_at: None,
            sending: 0,
            recv: Listen::Idle,
            hang_up: Listen::Idle,
            fin_seen: false,
            starved: false,
            reading: Reading::Head,
            websocket: None,
            phase: Phase::Open,
            dropped: 0,
            at_end: false,
            shutting_down: false,
            dirty: false,
            expiry: Expiry::Close,
            deadline: now + keepalive_timeout,
            until: now,
            transfer: None,
        }
    }

    /// Who is at the other end.
    pub(super) fn origin(&self) -> Origin {
        Origin { peer: self.peer, secure: self.tls.is_some() }
    }

    /// Encoded bytes that the kernel has not taken.
    pub(super) fn unsent(&self) -> usize {
        let sealed = self.tls.as_ref().map_or(0, |tls| tls.sealed.len());
        self.output.len() + sealed + self.sending
    }

    /// True when nothing of this connection is in flight in the kernel.
    pub(super) fn is_quiet(&self) -> bool {
        let listens = self.recv != Listen::Idle || self.hang_up != Listen::Idle;
        !listens && self.sending == 0 && !self.shutting_down
    }

    /// The exchange that the connection is occupied with.
    pub(super) fn exchange(&self) -> Option<usize> {
        match self.reading {
            Reading::Body(exchange)
            | Reading::Answering(exchange)
            | Reading::WebSocket(exchange) => Some(exchange),
            Reading::Head | Reading::Discarding(_) | Reading::Parting => None,
        }
    }

    /// True between requests, with nothing received of a next one and nothing left to send.
    pub(super) fn is_idle(&self) -> bool {
        let unread = !self.input.is_empty() || self.tls.as_ref().is_some_and(|tls| tls.waits());
        let between = matches!(self.reading, Reading::Head) && self.streams.is_none();
        between && !unread && self.unsent() == 0
    }

    /// Ends an idle connection: over TLS with a word, and otherwise without.
    pub(super) fn begin_leave(&mut self) {
        if self.owes_end() {
            self.begin_last_send();
        } else {
            self.begin_close();
        }
    }

    /// True when the client counts on being told that nothing follows (RFC 8446 §6.1).
    pub(super) fn owes_end(&self) -> bool {
        let open = self.phase == Phase::Open;
        open && self.tls.as_ref().is_some_and(|tls| !tls.session.is_handshaking())
    }

    /// True when the client has sent its last byte and that ends the connection: it has gone if a response is awaited or
    /// under way, as nginx and uvicorn understand it. Whole responses are delivered to it first.
    pub(super) fn is_over(&self) -> bool {
        let open = self.at_end && self.phase == Phase::Open && self.streams.is_none();
        open && (self.exchange().is_some() || self.unsent() == 0)
    }

    /// Takes back what was encoded of the response under way; false when some of it was submitted.
    pub(super) fn retract(&mut self) -> bool {
        if self.h1.response_waits() {
            return true;
        }
        let Some(at) = self.response_at.take() else { return false };
        self.output.truncate(at);
        self.h1.retract();
        true
    }

    /// What can be submitted: the output, or the records that were made of it.
    pub(super) fn outgoing(&mut self) -> &mut Vec<u8> {
        match &mut self.tls {
            Some(tls) => &mut tls.sealed,
            None => {
                self.response_at = None;
                &mut self.output
            }
        }
    }

    /// Notes that a send is submitted; it is given the time that its bytes take at the minimum rate.
    pub(super) fn begin_send(&mut self, bytes: usize, now: Instant) {
        let rate = MinRate { grace: limits::SEND_TIMEOUT, ..MinRate::default() };
        self.sending = bytes;
        self.until = now + rate.allowance(bytes as u64);
    }

    /// FIN goes out; the client has a moment to read what was sent.
    pub(super) fn begin_linger(&mut self, now: Instant) {
        self.phase = Phase::Lingering;
        self.until = now + limits::LINGER_TIMEOUT;
    }

    /// First step of the close. Whoever calls it has parted the connection from its exchanges, whose indices mean
    /// somebody else's from now on.
    pub(super) fn begin_close(&mut self) {
        self.phase = Phase::Closing;
        self.streams = None;
        self.reading = Reading::Head;
        self.input = Vec::new();
        self.output = Vec::new();
        self.response_at = None;
        self.expiry = Expiry::Never;
    }

    /// What is encoded is sent, and nothing after it.
    pub(super) fn begin_last_send(&mut self) {
        self.phase = Phase::LastSend;
        self.streams = None;
        self.reading = Reading::Head;
        self.input = Vec::new();
    }

    /// Notes that bytes were received of which nothing is read any more; true from that moment on.
    pub(super) fn drops(&mut self, bytes: usize) -> bool {
        let over = self.streams.as_ref().is_some_and(|streams| streams.engine.is_closed());
        let drops = self.phase != Phase::Open || over;
        if drops {
            self.dropped = self.dropped.saturating_add(bytes);
        }
        drops
    }

    /// True when more input is wanted from the kernel.
    pub(super) fn wants_input(&self) -> bool {
        if self.dropped >= limits::LINGER_SIZE_MAX {
            return false;
        }
        match self.phase {
            Phase::Open => !self.at_end && self.input.len() < limits::INPUT_SIZE_MAX,
            Phase::LastSend | Phase::Lingering => !self.at_end,
            Phase::Closing => false,
        }
    }

    /// True when the client's reset might go unnoticed, because bytes lie before it that are not being received, and nothing
    /// waits for it yet. (Seen on Linux 6.18: nor does the receive that takes them later report it.)
    pub(super) fn may_miss_reset(&self) -> bool {
        let open = self.phase == Phase::Open && !self.at_end && !self.fin_seen;
        open && self.hang_up == Listen::Idle && (self.starved || !self.wants_input())
    }

    /// Notes that bytes of a head or body arrived.
    pub(super) fn received(&mut self, bytes: usize, now: Instant) {
        let transfer = self.transfer.get_or_insert((now, 0));
        transfer.1 += bytes as u64;
    }

    /// Sets the deadline that the present state calls for. Called whenever the state may have changed.
    pub(super) fn watch(&mut self, now: Instant, timeouts: &Limits) {
        let waits_for_body = matches!(self.reading, Reading::Body(_) | Reading::Discarding(_));
        let tls = self.tls.as_ref();
        let handshake = tls.filter(|tls| tls.session.is_handshaking()).map(|tls| tls.deadline);
        let (expiry, deadline) = match self.phase {
            Phase::Closing => (Expiry::Never, now),
            Phase::Lingering => (Expiry::Close, self.until),
            Phase::Open if handshake.is_some() => (Expiry::Close, handshake.unwrap_or(now)),
            _ if self.sending > 0 => (Expiry::Close, self.until),
            Phase::Open if self.streams.is_some() => (Expiry::Never, now),
            Phase::Open if waits_for_body && !self.held_back => {
                (Expiry::TooSlow, now + timeouts.body_timeout)
            }
            Phase::Open if matches!(self.reading, Reading::Head) => {
                if self.input.is_empty() && !tls.is_some_and(|tls| tls.waits()) {
                    (Expiry::Close, now + timeouts.keepalive_timeout)
                } else {
                    let (start, _) = *self.transfer.get_or_insert((now, 0));
                    self.expiry = Expiry::TooSlow;
                    self.deadline = start + timeouts.header_timeout;
                    return;
                }
            }
            _ => (Expiry::Never, now),
        };
        if !waits_for_body || expiry == Expiry::Never {
            self.transfer = None;
        }
        (self.expiry, self.deadline) = (expiry, deadline);
    }

    /// What is due by now.
    pub(super) fn expired(&self, now: Instant) -> Expiry {
        let crawls = matches!(self.reading, Reading::Body(_) | Reading::Discarding(_))
            && self.expiry == Expiry::TooSlow
            && self.transfer.is_some_and(|(start, bytes)| {
                MinRate::default().is_too_slow(bytes, now.duration_since(start))
            });
        if crawls {
            Expiry::TooSlow
        } else if now >= self.deadline && self.expiry != Expiry::Never {
            self.expiry
        } else if self.is_engine_due(now) {
            Expiry::Engine
        } else {
            Expiry::Never
        }
    }
}
