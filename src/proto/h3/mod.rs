//! HTTP/3, RFC 9114: the requests and responses of one connection, on the streams of quiche.
//!
//! ```text
//!   handle(datagram) ──► quiche ──► [frames, QPACK] ──► poll_event ──► Request, Body, Refused, Reset, Writable
//!   output ◄──────────── quiche ◄── [frames, QPACK] ◄── respond, body, trailers, credit, refuse, reset
//! ```
//!
//! The caller's round: `handle` what arrived, `poll_event` until there is none, answer, `output` until there is none; once
//! the client has taken some, it says so in datagrams, and `poll_event` tells of it. `timeout` says when `handle_timeout`
//! is due, for QUIC's timers too. When [`H3::is_closed`] nothing is served any more; when [`H3::is_drained`] the
//! connection and its identifiers can go.
//!
//! Invariant: what a client can make this hold is bounded. Of requests: [`H3_CONNECTION_WINDOW`] in QUIC's buffers (heads
//! too: each is left there until it is whole), which keep each STREAM frame apart, in no more [`pieces`] than
//! [`H3_PIECES_MAX`](crate::limits::H3_PIECES_MAX); and [`H3_UNRETURNED_MAX`] that workers have not taken,
//! [`EXCHANGE_WINDOW`](crate::limits::EXCHANGE_WINDOW) for each stream. Of responses: [`H3_UNACKED_SIZE_MAX`] in QUIC's buffers and one head per stream. Streams: [`H3_STREAMS_MAX`].
//! What it can make this *do* without being served is bounded by the [`budget`]s. Every stream that was reported ends by
//! the caller's answer or by exactly one `Reset`.
//!
//! The frames are read here and not by `quiche::h3`, which reports neither what it skips nor what is incomplete, ends the
//! connection where one stream is at fault, and keeps its state of a stream that was reset. QPACK's codec is quiche's.
//! Deliberately absent: push, priorities (RFC 9218: read, and not honoured), QPACK's dynamic table, datagrams, a request's
//! trailers (validated, then dropped). Time is an argument here; quiche reads a clock of its own for its timers and pacing.

#![forbid(unsafe_code)]

mod answer;
mod budget;
mod buffers;
mod code;
mod control;
mod frames;
mod input;
mod output;
#[cfg(any(test, fuzzing))]
pub(crate) mod peer;
mod pieces;
mod reading;
mod request;
mod response;
mod stream;
#[cfg(test)]
mod tests;
mod timers;

use std::{
    collections::{HashMap, VecDeque},
    rc::Weak,
    time::Instant,
};

use slab::Slab;

pub use buffers::{Buffers, Piece, Quic};
pub use output::Batch;

use super::{
    error::Refusal,
    head::RequestHead,
    stream::{Event, Options, Requests, StreamKey},
};
use crate::limits::{
    H3_CONNECTION_WINDOW, H3_QUANTUM, H3_STREAM_WINDOW, H3_STREAM_WINDOW_MAX, H3_STREAMS_MAX,
    H3_UNACKED_SIZE_MAX, H3_UNI_STREAMS_MAX, H3_UNI_WINDOW, H3_UNRETURNED_MAX, H3_UNSENT_SIZE_MAX,
};
use budget::{Budgets, Exhausted};
use buffers::{Held, Sent};
use code::Code;
use control::Control;
use pieces::Pieces;
use stream::{Caller, Flushed, Reading, Stream, Turn};
use timers::Timers;

/// Sets what the engine's bounds rest on: the protocol, the number of streams, the windows. All else of a connection is
/// the caller's to set; an idle timeout, of 30 seconds or more, must be.
///
/// # Errors
/// BoringSSL does not take the protocol's name.
pub fn bound(config: &mut quiche::Config) -> quiche::Result<()> {
    config.set_application_protos(quiche::h3::APPLICATION_PROTOCOL)?;
    config.set_initial_max_streams_bidi(H3_STREAMS_MAX);
    config.set_initial_max_streams_uni(H3_UNI_STREAMS_MAX);
    config.set_initial_max_data(H3_CONNECTION_WINDOW as u64);
    config.set_max_connection_window(H3_CONNECTION_WINDOW as u64);
    config.set_initial_max_stream_data_bidi_remote(H3_STREAM_WINDOW);
    config.set_max_stream_window(H3_STREAM_WINDOW_MAX);
    config.set_initial_max_stream_data_uni(H3_UNI_WINDOW);
    // A client's first stream is never ours to open.
    config.set_initial_max_stream_data_bidi_local(0);
    Ok(())
}

/// Where the connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Nothing may be read or sent on streams yet.
    Handshake,
    Open,
    /// Nothing is read or answered any more; output may be left.
    Closed,
}

/// Where what a stream brings belongs.
#[derive(Debug)]
enum Place {
    Slot(usize),
    /// Nobody wants it.
    Discarded(Discarded),
}

/// The rest of a request that nobody wants.
#[derive(Debug, Default)]
struct Discarded {
    /// How many bytes of it were dropped.
    bytes: u64,
    /// How many bytes of the stream were taken.
    taken: u64,
    /// Alive until the client has the response.
    last_piece: Weak<Sent>,
}

/// The state of one HTTP/3 connection.
pub struct H3 {
    options: Options,
    quic: Box<Quic>,
    phase: Phase,
    control: Control,
    budgets: Budgets,
    /// What QUIC keeps of streams that was not read.
    pieces: Pieces,
    timers: Timers,
    streams: Slab<Stream>,
    /// Every stream of the client's that may still bring something.
    places: HashMap<u64, Place>,
    /// Streams with something to read, in the order of their turns; some may have ended.
    readable: VecDeque<StreamKey>,
    /// Made beside the ordinary course of events: what a timeout or the end of the connection did to streams.
    events: VecDeque<Event>,
    /// Streams that wait for room in the output, in the order of their turns; some may have ended.
    writable: VecDeque<StreamKey>,
    /// Streams with something in their outbox that QUIC was not offered.
    dirty: Vec<StreamKey>,
    /// Streams whose client was asked to stop.
    stopped: Vec<(u64, Weak<Sent>)>,
    /// How many of these QUIC has kept for good.
    lingering: usize,
    /// How many streams the client has stopped.
    stops: u64,
    /// What QUIC holds of responses.
    held: Held,
    /// Body bytes taken since the last output.
    unsent: usize,
    /// Request-body bytes of all streams for which no credit came back.
    unreturned: usize,
    /// Streams that the caller serves.
    served: usize,
    /// One beyond the highest request that was begun.
    next_request: u64,
    /// Requests from this one on are turned away.
    requests_end: u64,
    /// Something may have arrived, or become possible, since QUIC was asked last.
    look_due: bool,
    /// Requests are not begun.
    holds: bool,
    /// What a head is read into.
    block: Vec<u8>,
}

impl std::fmt::Debug for H3 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // QUIC's own state runs to pages.
        f.debug_struct("H3")
            .field("phase", &self.phase)
            .field("streams", &self.streams.len())
            .finish_non_exhaustive()
    }
}

impl H3 {
    /// A connection that was just accepted, with what [`bound`] set.
    pub fn new(quic: Quic, options: Options, now: Instant) -> Self {
        Self {
            options,
            quic: Box::new(quic),
            phase: Phase::Handshake,
            control: Control::default(),
            budgets: Budgets::new(now),
            pieces: Pieces::default(),
            timers: Timers::new(&options, now),
            streams: Slab::new(),
            places: HashMap::new(),
            readable: VecDeque::new(),
            events: VecDeque::new(),
            writable: VecDeque::new(),
            dirty: Vec::new(),
            stopped: Vec::new(),
            lingering: 0,
            stops: 0,
            held: Held::default(),
            unsent: 0,
            unreturned: 0,
            served: 0,
            next_request: 0,
            requests_end: u64::MAX,
            look_due: true,
            holds: false,
            block: Vec::new(),
        }
    }

    /// Takes a datagram; it is decrypted in place.
    ///
    /// # Errors
    /// The client broke a rule of QUIC, and the connection is being closed; the client is told by `output`.
    pub fn handle(
        &mut self,
        datagram: &mut [u8],
        info: quiche::RecvInfo,
        now: Instant,
    ) -> Result<(), quiche::Error> {
        self.look_due = true;
        if self.phase != Phase::Closed && self.budgets.datagram(datagram.len(), now).is_err() {
            self.close(Code::ExcessiveLoad);
        }
        self.timers.received(datagram.len(), now);
        if self.timers.is_leaving() && self.streams.is_empty() {
            // This may be the acknowledgement that was waited for.
            self.timers.look_again();
        }
        self.receive(datagram, info)
    }
}

impl Requests for H3 {
    fn poll_event(&mut self, head: &mut RequestHead, now: Instant) -> Option<Event> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Some(event);
            }
            if let Some(key) = self.readable.pop_front() {
                if let Some(stream) = find(&mut self.streams, key) {
                    stream.is_queued = false;
                    if let Some(event) = self.read(key, head, now) {
                        return Some(event);
                    }
                }
                continue;
            }
            if let Some(event) = self.next_writable() {
                return Some(event);
            }
            if !std::mem::take(&mut self.look_due) {
                return None;
            }
            self.look(now);
        }
    }

    fn poll_stream_event(&mut self, stream: StreamKey, now: Instant) -> Option<Event> {
        self.serving(stream)?;
        // Its head was read, so no other is filled.
        self.read(stream, &mut RequestHead::default(), now)
    }

    fn hold_requests(&mut self, hold: bool) {
        self.look_due |= self.holds && !hold;
        self.holds = hold;
    }

    fn credit(&mut self, stream: StreamKey, bytes: usize, now: Instant) {
        let Some(entry) = serving(&mut self.streams, stream) else { return };
        let bytes = bytes.min(entry.unreturned);
        entry.unreturned -= bytes;
        entry.last_data = now;
        let was_full = self.unreturned >= H3_UNRETURNED_MAX;
        self.unreturned -= bytes;
        if was_full && self.unreturned < H3_UNRETURNED_MAX {
            self.feed_starved();
        } else {
            self.feed(stream);
        }
    }
}

impl H3 {
    /// True when polling for events, or taking the output, may bring something although nothing new has arrived.
    pub fn has_news(&self) -> bool {
        self.look_due
            || !self.events.is_empty()
            || !self.readable.is_empty()
            || !self.dirty.is_empty()
            || (!self.writable.is_empty() && self.room() >= H3_QUANTUM)
    }

    /// Asks the client for no more requests; those that are under way, or come before it has heard of it, are served
    /// (RFC 9114 §5.2). The connection closes when all responses have arrived.
    pub fn graceful_goaway(&mut self, now: Instant) {
        match self.phase {
            Phase::Handshake => self.close(Code::NoError),
            Phase::Open if self.timers.is_leaving() => {}
            Phase::Open => {
                // The highest that there can be.
                self.control.goaway((1 << 62) - 4);
                self.timers.leaves(now);
            }
            Phase::Closed => {}
        }
    }

    /// True when nothing of a request is here, nothing is left to send, and all that was sent has arrived.
    pub fn is_idle(&self) -> bool {
        self.streams.is_empty() && self.held.bytes() == 0
    }

    /// True when the connection is over: nothing is read or answered any more. Output may be left, and QUIC waits for
    /// datagrams that are still on their way.
    pub fn is_closed(&self) -> bool {
        self.phase == Phase::Closed
    }

    /// True when it can be dropped and its identifiers forgotten.
    pub fn is_drained(&self) -> bool {
        self.quic.is_closed()
    }

    /// Streams that have not ended.
    pub fn streams(&self) -> usize {
        self.served
    }

    /// The connection below: its identifiers, paths and statistics.
    pub fn quic(&mut self) -> &mut Quic {
        &mut self.quic
    }

    /// Asks QUIC what has changed.
    fn look(&mut self, now: Instant) {
        if self.phase == Phase::Closed {
            return;
        }
        let quic = &self.quic;
        if quic.is_closed()
            || quic.is_draining()
            || quic.local_error().is_some()
            || quic.peer_error().is_some()
        {
            return self.closed();
        }
        if self.phase == Phase::Handshake {
            if !quic.is_established() && !quic.is_in_early_data() {
                return;
            }
            self.phase = Phase::Open;
            self.control.open();
        }
        if quic.is_established() {
            self.timers.established();
        }
        for id in self.quic.readable() {
            self.find_readable(id, now);
            if self.phase == Phase::Closed {
                return;
            }
        }
        self.find_writable(now);
        self.collect_stopped();
    }

    /// Something can be read of a stream.
    fn find_readable(&mut self, id: u64, now: Instant) {
        if id % 4 == 2 {
            return self.read_control(id, now);
        }
        match self.places.get(&id) {
            Some(Place::Slot(slot)) => {
                let key = StreamKey { slot: *slot, id };
                self.queue(key);
            }
            Some(Place::Discarded(_)) => self.discard(id),
            None if id >= self.requests_end => {
                // RFC 9114 §5.2: not served, and so it may be sent again.
                self.shut_write(id, Code::RequestRejected);
                self.places.insert(id, Place::Discarded(Discarded::default()));
                self.discard(id);
            }
            // Left with QUIC, whose windows end what a client can send of them.
            None if self.holds => {}
            None => {
                self.next_request = self.next_request.max(id + 4);
                let slot = self.streams.insert(Stream::new(id, now));
                self.places.insert(id, Place::Slot(slot));
                self.timers.stream_opened(&self.options, now);
                self.queue(StreamKey { slot, id });
            }
        }
    }

    fn read_control(&mut self, id: u64, now: Instant) {
        loop {
            match self.control.read(&mut self.quic, id) {
                Ok(control::Read::Blocked) => return,
                Ok(read) => {
                    if self.budgets.frame(now) == Err(Exhausted) {
                        return self.close(Code::ExcessiveLoad);
                    }
                    if read == control::Read::Over {
                        return;
                    }
                }
                Err(code) => return self.close(code),
            }
        }
    }

    /// Looks which streams can be written to, and which the client does not want to read from.
    fn find_writable(&mut self, now: Instant) {
        while let Some(id) = self.quic.stream_writable_next() {
            // To be asked of every stream: QUIC keeps one that was stopped until somebody has heard of it.
            let is_stopped = self.quic.stream_capacity(id).is_err();
            let Some(Place::Slot(slot)) = self.places.get(&id) else { continue };
            let key = StreamKey { slot: *slot, id };
            if is_stopped {
                self.lost(key, now);
                continue;
            }
            self.flush(key, now);
            if let Some(stream) = find(&mut self.streams, key)
                && stream.outbox.is_empty()
                && stream.blocked.is_some()
                && stream.turn == Turn::None
            {
                stream.turn = Turn::Awaited;
                self.writable.push_back(key);
            }
        }
        // One that could be written to before is not named there again when it is stopped.
        let stops = self.quic.stats().stopped_stream_count_remote;
        if std::mem::replace(&mut self.stops, stops) != stops {
            if self.control.is_stopped(&mut self.quic) {
                return self.close(Code::ClosedCriticalStream);
            }
            let keys = self.streams.iter().map(|(slot, stream)| StreamKey { slot, id: stream.id });
            for key in keys.collect::<Vec<_>>() {
                if let Err(quiche::Error::StreamStopped(_)) = self.quic.stream_capacity(key.id) {
                    self.lost(key, now);
                }
            }
        }
    }

    /// Gives QUIC what a stream has to send; that may be its end.
    fn flush(&mut self, key: StreamKey, now: Instant) {
        let Some(stream) = find(&mut self.streams, key) else { return };
        match stream.flush(&mut self.quic, &self.held) {
            Flushed::All if stream.ends => self.forget(key),
            Flushed::All => {}
            Flushed::Blocked => {
                if stream.blocked.is_none() {
                    stream.blocked = Some((now, 0));
                    self.timers.blocked(now);
                }
            }
            Flushed::Stopped => self.lost(key, now),
        }
    }

    /// Has a stream flushed with the next output.
    fn soil(&mut self, key: StreamKey) {
        if let Some(stream) = find(&mut self.streams, key)
            && !std::mem::replace(&mut stream.is_dirty, true)
        {
            self.dirty.push(key);
        }
    }

    fn queue(&mut self, key: StreamKey) {
        if let Some(stream) = find(&mut self.streams, key)
            && !std::mem::replace(&mut stream.is_queued, true)
        {
            self.readable.push_back(key);
        }
    }

    /// There is credit for more of a stream.
    fn feed(&mut self, key: StreamKey) {
        if find(&mut self.streams, key).is_some_and(|stream| stream.is_starved) {
            self.queue(key);
        }
    }

    fn feed_starved(&mut self) {
        let starved: Vec<_> = self
            .streams
            .iter()
            .filter(|(_, stream)| stream.is_starved)
            .map(|(slot, stream)| StreamKey { slot, id: stream.id })
            .collect();
        for key in starved {
            self.queue(key);
        }
    }

    fn refused(&mut self, key: StreamKey, refusal: Refusal) -> Event {
        if let Some(stream) = find(&mut self.streams, key) {
            stream.reading = Reading::Refused;
            if stream.caller == Caller::Unaware {
                stream.caller = Caller::Serves;
                self.served += 1;
            }
        }
        Event::Refused { stream: key, refusal }
    }

    /// The client made an end of a stream.
    fn lost(&mut self, key: StreamKey, now: Instant) {
        let caller = find(&mut self.streams, key).map(|stream| stream.caller);
        self.abandon(key, Code::RequestCancelled);
        match caller {
            Some(Caller::Serves) => {
                self.events.push_back(Event::Reset { stream: key });
                self.charge(now);
            }
            Some(Caller::Unaware) => self.charge(now),
            // It was answered; how much of that is wanted is the client's business.
            Some(Caller::Done) | None => {}
        }
    }

    /// A request came to nothing because of its client: rapid reset (CVE-2023-44487), or MadeYouReset (CVE-2025-8671).
    fn charge(&mut self, now: Instant) {
        if self.budgets.cancelled(now) == Err(Exhausted) {
            self.close(Code::ExcessiveLoad);
        }
    }

    /// The stream whose turn it is to put more into the output, if there is room.
    fn next_writable(&mut self) -> Option<Event> {
        while self.room() >= H3_QUANTUM {
            let stream = self.writable.pop_front()?;
            if let Some(entry) = serving(&mut self.streams, stream) {
                entry.turn = Turn::Come;
                return Some(Event::Writable { stream });
            }
        }
        None
    }

    /// Body bytes that may be taken for the output.
    fn room(&self) -> usize {
        let unacked = H3_UNACKED_SIZE_MAX.saturating_sub(self.held.bytes());
        H3_UNSENT_SIZE_MAX.saturating_sub(self.unsent).min(unacked)
    }

    fn serving(&mut self, key: StreamKey) -> Option<&mut Stream> {
        serving(&mut self.streams, key)
    }

    /// Resets our half of a stream and forgets it.
    fn abandon(&mut self, key: StreamKey, code: Code) {
        if find(&mut self.streams, key).is_some() {
            self.shut_write(key.id, code);
            self.forget(key);
        }
    }

    fn shut_write(&mut self, id: u64, code: Code) {
        // It fails where that was done, or the stream is gone.
        let _: quiche::Result<()> =
            self.quic.stream_shutdown(id, quiche::Shutdown::Write, code.number());
    }

    /// The caller is done with a stream; what is in its outbox still goes out.
    fn release(&mut self, stream: StreamKey, now: Option<Instant>) {
        if let Some(entry) = serving(&mut self.streams, stream) {
            entry.caller = Caller::Done;
            entry.ends = true;
            self.served -= 1;
            match now {
                Some(now) => self.flush(stream, now),
                None => self.soil(stream),
            }
        }
    }

    /// We are done with a stream. What of the request is still to come is dropped.
    fn forget(&mut self, key: StreamKey) {
        let Some(stream) = self.streams.try_remove(key.slot) else { return };
        self.unreturned -= stream.unreturned;
        if stream.caller == Caller::Serves {
            self.served -= 1;
        }
        if stream.inlet.fin {
            self.places.remove(&stream.id);
        } else {
            let taken = stream.inlet.taken;
            let rest = Discarded { bytes: 0, taken, last_piece: stream.last_piece };
            self.places.insert(stream.id, Place::Discarded(rest));
            self.look_due = true;
        }
        if stream.unreturned > 0 {
            self.feed_starved();
        }
        if self.streams.is_empty() {
            self.timers.look_again();
        }
    }

    /// Ends the connection from our side, telling the client why.
    fn close(&mut self, code: Code) {
        // It fails when that was done.
        let _: quiche::Result<()> = self.quic.close(true, code.number(), b"");
        self.closed();
    }

    /// The connection is over, whoever ended it.
    fn closed(&mut self) {
        self.phase = Phase::Closed;
        self.writable.clear();
        self.readable.clear();
        self.dirty.clear();
        self.places.clear();
        self.stopped.clear();
        for (slot, stream) in &self.streams {
            if stream.caller == Caller::Serves {
                self.events.push_back(Event::Reset { stream: StreamKey { slot, id: stream.id } });
            }
        }
        self.streams.clear();
        (self.unsent, self.unreturned, self.served) = (0, 0, 0);
    }
}

/// The stream of this key, if it has not ended.
fn find(streams: &mut Slab<Stream>, key: StreamKey) -> Option<&mut Stream> {
    streams.get_mut(key.slot).filter(|stream| stream.id == key.id)
}

/// The same, if the caller has not ended it either.
fn serving(streams: &mut Slab<Stream>, key: StreamKey) -> Option<&mut Stream> {
    find(streams, key).filter(|stream| stream.caller == Caller::Serves)
}
