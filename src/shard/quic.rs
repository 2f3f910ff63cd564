//! HTTP/3: connections whose bytes come and go in datagrams of one socket.
//!
//! Invariant: a connection in the slab is one that the endpoint knows by the same slot; whenever it was touched it is attended
//! to before the shard sleeps: its events served, its output taken, its next moment noted. What is taken and not yet submitted is
//! bounded by [`limits::UDP_SENDS_MAX`] batches, and one batch per connection that waits for its time. Deliberately absent:
//! the socket ([`super::udp`]), and exchanges, which are [`super::streams`]' business.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
    fs::File,
    io::BufWriter,
    net::SocketAddr,
    path::PathBuf,
    time::Instant,
};

use super::{
    Core,
    answer::CLIENT_GONE,
    handle::Forwarded,
    paths::Paths,
    streams::{Access, Streams},
    tls::Told,
};
use crate::{
    ipc::message::Cancellation,
    limits,
    proto::{
        forwarded::Origin,
        h3::{self, H3},
        quic::{Arrival, Endpoint, Issued},
        stream,
    },
    uring::DatagramBatch,
};

/// H3_NO_ERROR (RFC 9114 §8.1).
const NO_ERROR: u64 = 0x100;

/// What a shard has for HTTP/3, apart from the connections.
#[derive(Debug)]
pub(super) struct Quic {
    pub(super) endpoint: Endpoint,
    options: stream::Options,
    /// Of our socket; the address is that of each datagram.
    port: u16,
    qlog_dir: Option<PathBuf>,
    /// Connections that were touched; each at most once.
    pub(super) dirty: Vec<usize>,
    /// Connections that are to be attended to again in the next turn, so that others get theirs.
    postponed: Vec<usize>,
    /// Connections that have more to send when the socket has room.
    stalled: Vec<usize>,
    /// To be submitted.
    pub(super) outgoing: VecDeque<DatagramBatch>,
    /// Submitted, and not completed.
    pub(super) sending: usize,
    /// For other shards.
    pub(super) forwards: Vec<(usize, Forwarded)>,
    /// When connections want to be woken, with the generation of the slot; some entries are late or of nobody.
    timers: BinaryHeap<Reverse<(Instant, usize, u32)>>,
    generation: u32,
    /// For reuse.
    pub(super) spare: Vec<Vec<u8>>,
}

/// One of them.
#[derive(Debug)]
pub(super) struct QuicConnection {
    generation: u32,
    /// Taken out only while it is pumped.
    pub(super) streams: Option<Box<Streams<H3>>>,
    /// True exactly while it is on the list of those that were touched.
    dirty: bool,
    /// True until its handshake is over.
    shaking: bool,
    /// What workers are told of its TLS session, from the end of the handshake on.
    pub(super) told: Option<Told>,
    paths: Paths,
    /// Output that is not to be sent before this, for the sake of the network.
    held: Option<(Instant, DatagramBatch)>,
    /// When it has to be looked at, if nothing happens before.
    wake: Option<Instant>,
    /// The earliest moment for which there is an entry in `timers`.
    armed: Option<Instant>,
}

impl Quic {
    pub(super) fn new(
        endpoint: Endpoint,
        port: u16,
        qlog_dir: Option<PathBuf>,
        options: stream::Options,
    ) -> Self {
        Self {
            endpoint,
            options,
            port,
            qlog_dir,
            dirty: Vec::new(),
            postponed: Vec::new(),
            stalled: Vec::new(),
            outgoing: VecDeque::new(),
            sending: 0,
            forwards: Vec::new(),
            timers: BinaryHeap::new(),
            generation: 0,
            spare: Vec::new(),
        }
    }

    fn has_room(&self) -> bool {
        self.sending + self.outgoing.len() < limits::UDP_SENDS_MAX
    }

    /// The earliest moment that a connection waits for.
    pub(super) fn next_timer(&self) -> Option<Instant> {
        self.timers.peek().map(|Reverse((at, ..))| *at)
    }

    /// A buffer came back.
    pub(super) fn give(&mut self, mut buffer: Vec<u8>) {
        if self.spare.len() < limits::UDP_SENDS_MAX {
            buffer.clear();
            self.spare.push(buffer);
        }
    }

    /// Answers a datagram without a connection, if the socket is not busy with better things.
    fn reply(&mut self, data: Vec<u8>, from: SocketAddr, to: SocketAddr) {
        if self.has_room() {
            let segment = data.len();
            self.outgoing.push_back(DatagramBatch { data, segment, from: from.ip(), to, ecn: 0 });
        }
    }
}

impl Core {
    /// Puts an HTTP/3 connection on the list of those to attend to.
    pub(super) fn touch_quic(&mut self, index: usize) {
        if let Some(connection) = self.quic_connections.get_mut(index)
            && let Some(quic) = &mut self.quic
            && !std::mem::replace(&mut connection.dirty, true)
        {
            quic.dirty.push(index);
        }
    }

    /// The number of handshakes in progress.
    pub(super) fn quic_handshakes(&self) -> usize {
        self.quic.as_ref().map_or(0, |quic| quic.endpoint.handshaking())
    }

    /// Takes a datagram. One that another shard passed on is not passed on again.
    pub(super) fn receive_datagram(
        &mut self,
        datagram: &mut [u8],
        from: SocketAddr,
        to: std::net::IpAddr,
        forwarded: bool,
    ) {
        let now = self.clock.now;
        let Some(quic) = &mut self.quic else { return };
        let to = SocketAddr::new(to, quic.port);
        let (index, is_new) = match quic.endpoint.classify(datagram, from, to, now) {
            Arrival::Known(index) => (index, false),
            Arrival::New(connection, issued) => {
                (self.begin_quic(*connection, issued, to, from), true)
            }
            Arrival::Reply(reply) => {
                self.tally.datagrams_answered += 1;
                return quic.reply(reply, to, from);
            }
            Arrival::Elsewhere(shard) if !forwarded => {
                if quic.forwards.len() < limits::FORWARDS_MAX {
                    self.tally.datagrams_forwarded += 1;
                    let forward = Forwarded { data: datagram.to_vec(), from, to: to.ip() };
                    quic.forwards.push((shard, forward));
                } else {
                    self.tally.datagrams_dropped += 1;
                }
                return;
            }
            Arrival::Elsewhere(_) | Arrival::Dropped(_) => {
                self.tally.datagrams_dropped += 1;
                return;
            }
        };
        let Some(connection) = self.quic_connections.get_mut(index) else { return };
        let Some(streams) = &mut connection.streams else { return };
        let taken = streams.engine.handle(datagram, quiche::RecvInfo { from, to }, now);
        if let Err(error) = taken {
            tracing::debug!("QUIC with {from}: {error}");
            // A first packet that cannot be read was sent by nobody: there is no one to be told.
            let unreadable = matches!(
                error,
                quiche::Error::CryptoFail
                    | quiche::Error::InvalidPacket
                    | quiche::Error::BufferTooShort
            );
            if is_new && unreadable {
                return self.remove_quic(index);
            }
        }
        self.touch_quic(index);
    }

    /// A client's first packet is here; the slot of its connection.
    fn begin_quic(
        &mut self,
        mut quic: h3::Quic,
        issued: Issued,
        local: SocketAddr,
        peer: SocketAddr,
    ) -> usize {
        let now = self.clock.now;
        let slot = self.quic_connections.vacant_entry();
        let index = slot.key();
        let Some(own) = &mut self.quic else { return index };
        own.endpoint.insert(index, issued);
        own.generation = own.generation.wrapping_add(1);
        if let Some(dir) = &own.qlog_dir {
            let file = dir.join(format!("{}.sqlog", quic.trace_id()));
            match File::create(&file) {
                Ok(file) => {
                    let title = format!("FasterAPI edge, {peer}");
                    quic.set_qlog(Box::new(BufWriter::new(file)), title, String::new());
                }
                Err(error) => tracing::warn!("{}: {error}", file.display()),
            }
        }
        let direct = Origin { peer: Some(peer), secure: true };
        let access = Access { direct, redirects: false, http3: true };
        let engine = H3::new(quic, own.options, now);
        slot.insert(QuicConnection {
            generation: own.generation,
            streams: Some(Box::new(Streams::new(engine, access))),
            dirty: false,
            shaking: true,
            told: None,
            paths: Paths::new(local, peer),
            held: None,
            wake: None,
            armed: None,
        });
        index
    }

    /// Forgets a connection, and whatever its client still waited for.
    fn remove_quic(&mut self, index: usize) {
        self.abandon_streams::<H3>(index, Cancellation::ClientGone, CLIENT_GONE);
        if let Some(connection) = self.quic_connections.try_remove(index) {
            self.tally.handshakes_failed += u64::from(connection.shaking);
        }
        if let Some(quic) = &mut self.quic {
            quic.endpoint.remove(index);
        }
    }

    /// Has those attended to again that were postponed.
    pub(super) fn recall_postponed(&mut self) {
        let postponed = self.quic.as_mut().map(|quic| std::mem::take(&mut quic.postponed));
        for index in postponed.unwrap_or_default() {
            self.touch_quic(index);
        }
    }

    /// Attends to a connection that was touched. `now` is later than the turn's time: a signature takes longer than the grain of
    /// what is paced.
    pub(super) fn attend_quic(&mut self, index: usize, draining: bool, now: Instant) {
        self.note_progress(index, now);
        let mut more = self.pump::<H3>(index);
        let Some(connection) = self.quic_connections.get_mut(index) else { return };
        connection.dirty = false;
        let Some(streams) = &mut connection.streams else { return };
        if draining && !std::mem::replace(&mut streams.leaving, true) {
            streams.engine.graceful_goaway(now);
        }
        let Some(quic) = &mut self.quic else { return };
        more |= send(index, connection, quic, now);
        let Some(streams) = &mut connection.streams else { return };
        let engine = &streams.engine;
        // Nobody waits for what may still be on its way when the server ends.
        if engine.is_drained() || draining && engine.is_closed() && connection.held.is_none() {
            return self.remove_quic(index);
        }
        if more || engine.has_news() && quic.has_room() && connection.held.is_none() {
            quic.postponed.push(index);
        }
        // What is due already was just done, as far as it could be: not again and again within one moment.
        let due = engine.timeout().map(|at| at.max(now + limits::QUIC_TIMER_GRAIN));
        let held = connection.held.as_ref().map(|(at, _)| *at);
        connection.wake = due.into_iter().chain(held).chain(connection.paths.wake()).min();
        arm(index, connection, quic);
    }

    /// What changed below the requests: the handshake, ids, the client's address.
    fn note_progress(&mut self, index: usize, now: Instant) {
        let Some(connection) = self.quic_connections.get_mut(index) else { return };
        let Some(quic) = &mut self.quic else { return };
        let Some(streams) = &mut connection.streams else { return };
        let transport = streams.engine.quic();
        if let Err(error) = quic.endpoint.refresh(index, transport) {
            tracing::error!("no ids for a QUIC connection: {error}");
        }
        if connection.shaking && transport.is_established() {
            connection.shaking = false;
            connection.told = Some(Told::of_quic(transport.as_mut()));
            self.tally.handshakes += 1;
            self.tally.handshakes_resumed += u64::from(transport.is_resumed());
        }
        while let Some(event) = transport.path_event_next() {
            match event {
                quiche::PathEvent::New(..) => connection.paths.appeared(),
                quiche::PathEvent::PeerMigrated(_, peer) => streams.access.direct.peer = Some(peer),
                _ => {}
            }
        }
        connection.paths.follow(transport, now, |batch| quic.outgoing.push_back(batch));
    }

    /// Wakes the connections whose time has come.
    pub(super) fn wake_quic(&mut self) {
        let now = self.clock.now;
        loop {
            let Some(quic) = &mut self.quic else { return };
            if quic.next_timer().is_none_or(|at| at > now) {
                return;
            }
            let Some(Reverse((at, index, generation))) = quic.timers.pop() else { return };
            let Some(connection) = self.quic_connections.get_mut(index) else { continue };
            if connection.generation != generation || connection.armed != Some(at) {
                continue;
            }
            connection.armed = None;
            if connection.wake.is_none_or(|at| at > now) {
                arm(index, connection, quic);
                continue;
            }
            if let Some(streams) = &mut connection.streams
                && streams.engine.timeout().is_some_and(|at| at <= now)
            {
                streams.engine.handle_timeout(now);
            }
            self.touch_quic(index);
        }
    }

    /// The socket has room again.
    pub(super) fn resume_quic(&mut self) {
        let stalled = self.quic.as_mut().map(|quic| std::mem::take(&mut quic.stalled));
        for index in stalled.unwrap_or_default() {
            self.touch_quic(index);
        }
    }

    /// Has every connection looked at, as when the server begins to end.
    pub(super) fn touch_all_quic(&mut self) {
        let all: Vec<usize> = self.quic_connections.iter().map(|(index, _)| index).collect();
        for index in all {
            self.touch_quic(index);
        }
    }

    /// The time for draining is over: clients are told, and let go.
    pub(super) fn cut_off_quic(&mut self) {
        let all: Vec<usize> = self.quic_connections.iter().map(|(index, _)| index).collect();
        for index in all {
            let now = self.clock.now;
            if let Some(connection) = self.quic_connections.get_mut(index)
                && let Some(quic) = &mut self.quic
            {
                connection.held = None;
                if let Some(streams) = &mut connection.streams {
                    // It fails when that was done.
                    let closed = streams.engine.quic().close(true, NO_ERROR, b"");
                    tracing::trace!("cutting off a QUIC connection: {closed:?}");
                }
                send(index, connection, quic, now);
            }
            self.abandon_streams::<H3>(index, Cancellation::ServerLeaves, 0);
            self.remove_quic(index);
        }
    }
}

/// Takes a connection's output, as far as the socket has room and the time for it has come; true when there may be more.
fn send(index: usize, connection: &mut QuicConnection, quic: &mut Quic, now: Instant) -> bool {
    let soon = now + limits::QUIC_PACING_GRAIN;
    for _ in 0..limits::QUIC_BATCHES_MAX {
        if let Some((at, batch)) = connection.held.take() {
            if at > soon {
                connection.held = Some((at, batch));
                return false;
            }
            quic.outgoing.push_back(batch);
            continue;
        }
        if !quic.has_room() {
            quic.stalled.push(index);
            return false;
        }
        let Some(streams) = &mut connection.streams else { return false };
        let mut data = quic.spare.pop().unwrap_or_default();
        let Some(batch) = streams.engine.output(&mut data, now) else {
            quic.give(data);
            return false;
        };
        data.truncate(quic.endpoint.allow(index, data.len(), batch.segment));
        if data.is_empty() {
            quic.give(data);
            continue;
        }
        let h3::Batch { from, to, segment, at, ect } = batch;
        connection.held =
            Some((at, DatagramBatch { data, segment, from: from.ip(), to, ecn: ect }));
    }
    true
}

/// Has the connection woken at its time, unless there is an entry for that already.
fn arm(index: usize, connection: &mut QuicConnection, quic: &mut Quic) {
    if let Some(wake) = connection.wake
        && connection.armed.is_none_or(|armed| armed > wake)
    {
        connection.armed = Some(wake);
        quic.timers.push(Reverse((wake, index, connection.generation)));
    }
}
