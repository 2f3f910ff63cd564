//! HTTP/2, RFC 9113: the requests and responses of one connection, on the `h2` crate over an in-memory pipe.
//!
//! ```text
//!   handle(bytes) ──► [frames counted] ──► pipe ──► h2 ──► poll_event ──► Request, Body, Refused, Reset, Writable
//!   output ◄──────────────────────────── pipe ◄── h2 ◄── respond, body, trailers, credit, refuse, reset
//! ```
//!
//! The caller's round: `handle` what arrived (again when all of it was not taken), `poll_event` until there is none, answer,
//! `output`; once what was output is sent, `poll_event` again. `timeout` says when `handle_timeout` is due.
//!
//! Invariant: what a client can make this hold is bounded: input by [`H2_INPUT_SIZE_MAX`], request bodies by
//! [`H2_CONNECTION_WINDOW_MAX`], output by [`H2_UNSENT_SIZE_MAX`] and one head per stream, streams by [`H2_STREAMS_MAX`]; what it
//! can make this *do* without being served is bounded by the [`budget`]s. Every stream that was reported ends by the caller's
//! answer or by exactly one `Reset`. Deliberately absent: `Upgrade: h2c`, which RFC 9113 §3.1 has dropped and
//! HTTP/1.1 ignores; server push; priorities; a request's trailers (validated, then dropped). The library reads a clock of
//! its own for one thing: how long it remembers streams that it has reset.

#![forbid(unsafe_code)]

mod answer;
mod budget;
mod frames;
mod pipe;
mod ready;
mod request;
mod response;
mod stream;
#[cfg(test)]
mod tests;
mod timers;

use std::{
    cell::RefCell,
    collections::VecDeque,
    future::Future,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use bytes::Bytes;
use h2::{
    PingPong, Reason, RecvStream,
    server::{Connection, Handshake, SendResponse},
};
use http::Request;
use slab::Slab;

pub use frames::{PREFACE, Preface, preface};

use super::{
    error::Refusal,
    head::{BodyLength, RequestHead},
    stream::{Event, Requests, StreamKey},
};
use crate::limits::{
    BODY_SIZE_MAX, BODY_TIMEOUT, EXCHANGE_WINDOW, H2_CONNECTION_WINDOW, H2_CONNECTION_WINDOW_MAX,
    H2_ECHOES_MAX, H2_FORCED_RESETS_MAX, H2_QUANTUM, H2_STREAMS_MAX, H2_UNSEEN_RESETS_MAX,
    H2_UNSENT_SIZE_MAX, HEAD_SIZE_MAX, HEAD_TIMEOUT, KEEPALIVE_TIMEOUT,
};
use budget::{Budgets, Exhausted};
use frames::FrameScan;
use pipe::{Pipe, Queues};
use ready::Ready;
use request::Asked;
use stream::{Reading, Received, Stream, Turn};
use timers::Timers;

/// What the engine has to be told; it reads no configuration itself.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Larger bodies are refused with 413.
    pub body_size_max: u64,
    /// For the preface, our SETTINGS' acknowledgement, and each frame or block of a head, to be here whole.
    pub header_timeout: Duration,
    /// Longest pause inside a body; 408.
    pub body_timeout: Duration,
    /// For a connection without a request.
    pub keepalive_timeout: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            body_size_max: BODY_SIZE_MAX,
            header_timeout: HEAD_TIMEOUT,
            body_timeout: BODY_TIMEOUT,
            keepalive_timeout: KEEPALIVE_TIMEOUT,
        }
    }
}

/// Where the connection stands.
enum Phase {
    /// The preface has not arrived.
    Opening(Box<Handshake<Pipe, Bytes>>),
    Open(Box<Connection<Pipe, Bytes>>),
    /// Nothing is read or answered any more; output may be left.
    Closed,
}

/// The state of one HTTP/2 connection.
pub struct H2 {
    options: Options,
    phase: Phase,
    queues: Rc<RefCell<Queues>>,
    scan: FrameScan,
    budgets: Budgets,
    timers: Timers,
    streams: Slab<Stream>,
    ready: Ready,
    /// Made beside the ordinary course of events: what a timeout or the end of the connection did to streams.
    events: VecDeque<Event>,
    /// Streams that wait for room in the output, in the order of their turns; some may have ended.
    writable: VecDeque<StreamKey>,
    /// Body bytes that the library has and has not written yet.
    queued: usize,
    /// Request-body bytes of all streams for which no credit came back.
    unreturned: usize,
    /// What the client was given for all of them, and for those to come.
    window: usize,
    pings: Option<PingPong>,
    /// The library may have a request, or something to write, that it had not when it was polled last.
    accept_due: bool,
    flush_due: bool,
    probe_due: bool,
    /// Requests are to wait; and there may be some that do.
    holds: bool,
    accept_held: bool,
}

impl std::fmt::Debug for H2 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The library's own state runs to pages.
        f.debug_struct("H2")
            .field("closed", &self.is_closed())
            .field("streams", &self.streams.len())
            .finish_non_exhaustive()
    }
}

/// The library tells us nothing by waking: what changes its state is us, and we poll it afterwards.
fn unwoken() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

impl H2 {
    /// A fresh connection. Our SETTINGS are output at once.
    pub fn new(options: Options, now: Instant) -> Self {
        let queues = Rc::new(RefCell::new(Queues::default()));
        let handshake = builder().handshake(Pipe(Rc::clone(&queues)));
        Self {
            options,
            phase: Phase::Opening(Box::new(handshake)),
            queues,
            scan: FrameScan::new(),
            budgets: Budgets::new(now),
            timers: Timers::new(&options, now),
            streams: Slab::new(),
            ready: Ready::default(),
            events: VecDeque::new(),
            writable: VecDeque::new(),
            queued: 0,
            unreturned: 0,
            window: H2_CONNECTION_WINDOW,
            pings: None,
            accept_due: true,
            flush_due: true,
            probe_due: false,
            holds: false,
            accept_held: false,
        }
    }

    /// Takes what arrived, as much as may be buffered; how many bytes that was. Poll for events, then offer the rest again:
    /// if nothing was taken, once some output is sent.
    pub fn handle(&mut self, input: &[u8], now: Instant) -> usize {
        if self.is_closed() {
            return input.len();
        }
        let room = self.queues.borrow().room();
        let taken = input.get(..room).unwrap_or(input);
        if taken.is_empty() {
            return 0;
        }
        let mut rest = taken;
        while let Some(head) = self.scan.next(&mut rest) {
            if head.is_settings_ack() {
                self.timers.settings_acknowledged();
            }
            if self.budgets.frame(head, now) == Err(Exhausted) {
                self.close(Reason::ENHANCE_YOUR_CALM);
                return input.len();
            }
        }
        let partial = self.scan.partial();
        self.timers.received(taken.len(), partial, self.options.header_timeout, now);
        self.queues.borrow_mut().push(taken);
        self.accept_due = true;
        taken.len()
    }

    /// The client will send nothing more. What it has not been answered by now, it cannot be.
    pub fn handle_end(&mut self) {
        self.queues.borrow_mut().at_end = true;
        self.accept_due = true;
    }
}

impl Requests for H2 {
    fn poll_event(&mut self, head: &mut RequestHead, now: Instant) -> Option<Event> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Some(event);
            }
            if let Some(bit) = self.ready.next() {
                if let Some(event) = self.poll_bit(bit, now) {
                    return Some(event);
                }
                continue;
            }
            if let Some(event) = self.next_writable() {
                return Some(event);
            }
            if !std::mem::take(&mut self.accept_due) {
                return None;
            }
            if self.holds {
                // What concerns the streams that are there is read all the same.
                self.accept_held = true;
                self.drive();
                continue;
            }
            if let Some((request, respond)) = self.accept() {
                self.accept_due = true;
                if let Some(event) = self.open(request, respond, head, now) {
                    return Some(event);
                }
            }
        }
    }

    fn poll_stream_event(&mut self, stream: StreamKey, now: Instant) -> Option<Event> {
        find(&mut self.streams, stream)?;
        self.poll_stream(stream.slot, now)
    }

    fn hold_requests(&mut self, hold: bool) {
        self.holds = hold;
        if !hold {
            self.accept_due |= std::mem::take(&mut self.accept_held);
        }
    }

    fn credit(&mut self, stream: StreamKey, bytes: usize, now: Instant) {
        let Some(entry) = find(&mut self.streams, stream) else { return };
        let before = entry.unreturned;
        entry.release(bytes);
        entry.last_data = now;
        self.unreturned -= before - entry.unreturned;
        self.flush_due = true;
    }
}

impl H2 {
    /// Sends a PING of no consequence with the next output: if the client has gone, its system says so.
    pub fn probe(&mut self) {
        self.probe_due = true;
    }

    /// True when polling for events, or taking the output, may bring something although nothing new has arrived.
    pub fn has_news(&self) -> bool {
        self.accept_due || self.flush_due || !self.events.is_empty()
    }

    /// Moves what is to be sent to the end of `out`. To be called when what was output before is sent: that is taken as a
    /// sign of life of the client.
    pub fn output(&mut self, out: &mut Vec<u8>, now: Instant) {
        self.flush();
        let mut queues = self.queues.borrow_mut();
        // Between two frames: the library writes whole ones. It ignores the answer to a PING that it did not send.
        if std::mem::take(&mut self.probe_due) && matches!(self.phase, Phase::Open(_)) {
            queues.output.extend_from_slice(frames::PROBE);
        }
        if !queues.output.is_empty() {
            self.timers.output(now);
        }
        if out.is_empty() {
            std::mem::swap(out, &mut queues.output);
        } else {
            out.append(&mut queues.output);
        }
        // Reading may have stopped because there was so much.
        self.accept_due |= queues.waiting() > 0;
    }

    /// Asks the client for no more requests; those that are under way, or come before it has heard of it, are served
    /// (RFC 9113 §6.8). The connection closes with the last of them.
    pub fn graceful_goaway(&mut self, now: Instant) {
        match &mut self.phase {
            Phase::Opening(_) => self.close(Reason::NO_ERROR),
            Phase::Open(connection) => {
                connection.graceful_shutdown();
                self.timers.leaves(now);
                self.flush_due = true;
                self.accept_due = true;
            }
            Phase::Closed => {}
        }
    }

    /// True when nothing of a request is here and nothing is left to send.
    pub fn is_idle(&self) -> bool {
        let queues = self.queues.borrow();
        self.streams.is_empty() && queues.waiting() == 0 && queues.output.is_empty()
    }

    /// True when the connection is over: send the output that is left, then close.
    pub fn is_closed(&self) -> bool {
        matches!(self.phase, Phase::Closed)
    }

    /// Streams that have not ended.
    pub fn streams(&self) -> usize {
        self.streams.len()
    }

    /// Lets the library read and write; a request if it has one.
    fn accept(&mut self) -> Option<(Request<RecvStream>, SendResponse<Bytes>)> {
        self.shake_hands();
        let Phase::Open(connection) = &mut self.phase else { return None };
        let accepted = connection.poll_accept(&mut unwoken());
        (self.flush_due, self.queued) = (false, 0);
        match accepted {
            Poll::Ready(Some(Ok(accepted))) => Some(accepted),
            Poll::Ready(Some(Err(_)) | None) => {
                self.closed();
                None
            }
            Poll::Pending => None,
        }
    }

    /// Lets the library write what it has.
    fn flush(&mut self) {
        if std::mem::take(&mut self.flush_due) {
            // It reads as well, and may so come to have requests.
            self.accept_due |= self.queues.borrow().waiting() > 0;
            self.drive();
        }
    }

    /// Lets the library read and write, and keep the requests that it comes to have.
    fn drive(&mut self) {
        self.shake_hands();
        let Phase::Open(connection) = &mut self.phase else { return };
        self.flush_due = false;
        let is_over = connection.poll_closed(&mut unwoken()).is_ready();
        self.queued = 0;
        if is_over {
            self.closed();
        }
    }

    fn shake_hands(&mut self) {
        let Phase::Opening(handshake) = &mut self.phase else { return };
        match Pin::new(&mut **handshake).poll(&mut unwoken()) {
            Poll::Ready(Ok(mut connection)) => {
                self.pings = connection.ping_pong();
                self.phase = Phase::Open(Box::new(connection));
            }
            Poll::Ready(Err(_)) => self.closed(),
            Poll::Pending => {}
        }
    }

    /// Ends the connection from our side, telling the client why.
    fn close(&mut self, reason: Reason) {
        if let Phase::Open(connection) = &mut self.phase {
            connection.abrupt_shutdown(reason);
            // Without reading: what is here came too late.
            self.queues.borrow_mut().discard();
            let _: Poll<Result<(), h2::Error>> = connection.poll_closed(&mut unwoken());
        }
        self.closed();
    }

    /// The connection is over, whoever ended it.
    fn closed(&mut self) {
        self.phase = Phase::Closed;
        self.pings = None;
        self.queues.borrow_mut().discard();
        self.writable.clear();
        let keys = self.streams.iter().map(|(slot, stream)| StreamKey { slot, id: stream.id });
        self.events.extend(keys.map(|stream| Event::Reset { stream }));
        self.streams.clear();
        (self.queued, self.unreturned) = (0, 0);
    }

    /// A request's head is here.
    fn open(
        &mut self,
        request: Request<RecvStream>,
        respond: SendResponse<Bytes>,
        head: &mut RequestHead,
        now: Instant,
    ) -> Option<Event> {
        let (parts, receiver) = request.into_parts();
        let request = Request::from_parts(parts, ());
        let is_head = request.method() == http::Method::HEAD;
        let stream = Stream::new(respond, receiver, is_head, now);
        let end = matches!(stream.reading, Reading::Done);
        let id = stream.id;
        let slot = self.streams.insert(stream);
        let key = StreamKey { slot, id };
        let waker = self.ready.waker(slot);
        let stream = self.streams.get_mut(slot)?;
        if stream.is_lost(&mut Context::from_waker(&waker)) {
            // Reset before anybody saw it: it cost a little, and nobody has to hear of it.
            self.forget(slot);
            self.charge(now);
            return None;
        }
        self.timers.stream_opened(self.options.body_timeout, now);
        let asked = request::fill(&request, end, head);
        let too_large =
            matches!(head.body, BodyLength::Known(length) if length > self.options.body_size_max);
        let refusal = match asked {
            // RFC 9110 §15.5.14: straight from the head, before any of it is read.
            Ok(_) if too_large => Refusal::BodyTooLarge,
            Ok(asked) => {
                stream.is_websocket = asked == Asked::WebSocket;
                stream.continue_due = head.expects_continue;
                if !end {
                    self.ready.set(slot);
                }
                let websocket = stream.is_websocket;
                return Some(Event::Request { stream: key, end, websocket });
            }
            Err(refusal) => refusal,
        };
        stream.reading = Reading::Refused;
        Some(Event::Refused { stream: key, refusal })
    }

    /// Looks after the slots of one bit.
    fn poll_bit(&mut self, bit: usize, now: Instant) -> Option<Event> {
        let bound = self.streams.capacity();
        let mut event = None;
        for slot in Ready::slots(bit, bound) {
            if event.is_some() {
                // One event at a time; the others' turn comes.
                self.ready.set(slot);
                break;
            }
            event = self.poll_stream(slot, now);
        }
        event
    }

    fn poll_stream(&mut self, slot: usize, now: Instant) -> Option<Event> {
        let waker = self.ready.waker(slot);
        let cx = &mut Context::from_waker(&waker);
        let stream = self.streams.get_mut(slot)?;
        let key = StreamKey { slot, id: stream.id };
        if stream.is_lost(cx) {
            return Some(self.lost(key, now));
        }
        if stream.blocked.is_some() && stream.turn == Turn::None && stream.has_capacity() {
            stream.turn = Turn::Awaited;
            self.writable.push_back(key);
        }
        match stream.receive(cx) {
            Received::Nothing => None,
            Received::Lost => Some(self.lost(key, now)),
            Received::Data { data, end } => {
                if !end {
                    self.ready.set(slot);
                }
                stream.received += data.len() as u64;
                stream.unreturned += data.len();
                stream.last_data = now;
                stream.continue_due = false;
                self.unreturned += data.len();
                let too_large =
                    stream.received > self.options.body_size_max && !stream.is_websocket;
                if end && !too_large {
                    stream.reading = Reading::Done;
                }
                self.widen();
                if too_large {
                    return Some(self.refused(key, Refusal::BodyTooLarge));
                }
                Some(Event::Body { stream: key, data, end })
            }
            Received::Trailers(trailers) => match request::check_trailers(&trailers) {
                Ok(()) => {
                    stream.reading = Reading::Done;
                    Some(Event::Body { stream: key, data: Bytes::new(), end: true })
                }
                Err(refusal) => Some(self.refused(key, refusal)),
            },
        }
    }

    /// What lies with slow workers is not taken from the streams of others.
    fn widen(&mut self) {
        let wanted = (self.unreturned + H2_CONNECTION_WINDOW).min(H2_CONNECTION_WINDOW_MAX);
        if let Phase::Open(connection) = &mut self.phase
            && wanted >= self.window + EXCHANGE_WINDOW
        {
            self.window = wanted;
            connection.set_target_window_size(u32::try_from(wanted).unwrap_or(i32::MAX as u32));
            self.flush_due = true;
        }
    }

    fn refused(&mut self, key: StreamKey, refusal: Refusal) -> Event {
        if let Some(stream) = find(&mut self.streams, key) {
            stream.reading = Reading::Refused;
        }
        Event::Refused { stream: key, refusal }
    }

    /// The client made an end of a stream that was being served.
    fn lost(&mut self, key: StreamKey, now: Instant) -> Event {
        self.forget(key.slot);
        self.charge(now);
        Event::Reset { stream: key }
    }

    /// A request came to nothing because of its client: rapid reset (CVE-2023-44487), or MadeYouReset (CVE-2025-8671).
    fn charge(&mut self, now: Instant) {
        if self.budgets.cancelled(now) == Err(Exhausted) {
            self.close(Reason::ENHANCE_YOUR_CALM);
        }
    }

    /// The stream whose turn it is to put more into the output, if there is room.
    fn next_writable(&mut self) -> Option<Event> {
        while self.room() >= H2_QUANTUM {
            let stream = self.writable.pop_front()?;
            if let Some(entry) = find(&mut self.streams, stream) {
                entry.turn = Turn::Come;
                return Some(Event::Writable { stream });
            }
        }
        None
    }

    /// Body bytes that may be taken for the output.
    fn room(&self) -> usize {
        let unsent = self.queues.borrow().output.len() + self.queued;
        H2_UNSENT_SIZE_MAX.saturating_sub(unsent)
    }

    /// We are done with a stream. Both its handles go, which tells the library.
    fn forget(&mut self, slot: usize) {
        if let Some(stream) = self.streams.try_remove(slot) {
            self.unreturned -= stream.unreturned;
            self.flush_due = true;
            if self.streams.is_empty() {
                self.timers.look_again();
            }
        }
    }
}

/// The stream of this key, if it has not ended.
fn find(streams: &mut Slab<Stream>, key: StreamKey) -> Option<&mut Stream> {
    streams.get_mut(key.slot).filter(|stream| stream.id == key.id)
}

/// The library's defaults do not hold: no limit on streams, 16 MiB of head, 400 KiB of unsent body for each stream.
fn builder() -> h2::server::Builder {
    // All of these are below 2^31; limits.rs says so.
    let narrow = |bytes: usize| u32::try_from(bytes).unwrap_or(i32::MAX as u32);
    let mut builder = h2::server::Builder::new();
    builder
        .max_concurrent_streams(H2_STREAMS_MAX)
        .max_header_list_size(narrow(HEAD_SIZE_MAX))
        .initial_window_size(narrow(EXCHANGE_WINDOW))
        .initial_connection_window_size(narrow(H2_CONNECTION_WINDOW))
        .max_send_buffer_size(H2_UNSENT_SIZE_MAX)
        .max_pending_accept_reset_streams(H2_UNSEEN_RESETS_MAX)
        .max_concurrent_reset_streams(H2_ECHOES_MAX)
        .max_local_error_reset_streams(Some(H2_FORCED_RESETS_MAX))
        .enable_connect_protocol();
    builder
}
