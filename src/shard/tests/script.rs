//! A shard over a scripted kernel: the test says what completes and when, and how late it is.
//!
//! Invariant: nothing completes that was not started, and nothing twice. Sends are taken at once, unless `stuck`; a
//! cancelled operation completes with the next turn, a cancelled send only when `stuck` is over.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    os::fd::{BorrowedFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use rustix::io::Errno;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::routes;
use crate::{
    ipc::{
        Doorbell, EdgeLane, Segment, WorkerLane,
        layout::Geometry,
        message::{Response, ToWorker},
    },
    limits,
    pool::{Incarnation, Link, Load, WorkerId},
    proto::{forwarded::Trusted, h1, route::Routes, tls::ServerConfig},
    shard::{
        Command, Gauges, Handle, HttpVersions, Limits, Listener, ListenerKind, Neighbour, Options,
        QuicOptions, Report, TlsOptions, WebSocketOptions,
        turn::{Shard, kind},
    },
    uring::{
        Arrived, Completion, DatagramBatch, DatagramLease, Driver, Event, Lease, Stats, Token, Wait,
    },
};

/// See the module.
#[derive(Debug)]
pub(super) struct Kernel {
    now: Instant,
    completions: Vec<Completion>,
    accepts: Vec<Token>,
    recvs: Vec<Token>,
    hang_ups: Vec<Token>,
    sends: Vec<(Token, Vec<u8>)>,
    cancelled: Vec<Token>,
    polls: Vec<Token>,
    datagram_recvs: Vec<Token>,
    /// Datagrams that arrived, by lease; `to` is who sent them.
    arrived: Vec<DatagramBatch>,
    /// Datagrams that were sent.
    datagrams: Vec<DatagramBatch>,
    /// What was received, by lease.
    received: Vec<Vec<u8>>,
    /// What each connection was sent.
    sent: Vec<(Token, Vec<u8>)>,
    /// No send is taken.
    pub(super) stuck: bool,
    /// How the last turn waited.
    pub(super) wait: Wait,
}

impl Kernel {
    fn push(&mut self, token: Token, event: Event, more: bool) {
        self.completions.push(Completion { token, event, more });
    }
}

impl Driver for Kernel {
    fn accept(&mut self, _: BorrowedFd<'_>, token: Token) {
        self.accepts.push(token);
    }

    fn recv(&mut self, _: BorrowedFd<'_>, token: Token) {
        assert!(!self.recvs.contains(&token), "one at a time");
        self.recvs.push(token);
    }

    fn send(&mut self, _: BorrowedFd<'_>, data: Vec<u8>, token: Token) {
        assert!(self.sends.iter().all(|(other, _)| *other != token), "one at a time");
        self.sends.push((token, data));
    }

    fn recv_datagrams(&mut self, _: BorrowedFd<'_>, token: Token) {
        assert!(!self.datagram_recvs.contains(&token), "one at a time");
        self.datagram_recvs.push(token);
    }

    fn send_datagrams(&mut self, _: BorrowedFd<'_>, batch: DatagramBatch, token: Token) {
        self.datagrams.push(batch.clone());
        self.push(token, Event::Sent(batch.data), false);
    }

    fn poll(&mut self, _: BorrowedFd<'_>, token: Token) {
        self.polls.push(token);
    }

    fn hang_up(&mut self, _: BorrowedFd<'_>, token: Token) {
        assert!(!self.hang_ups.contains(&token), "one at a time");
        self.hang_ups.push(token);
    }

    fn cancel(&mut self, token: Token) {
        if let Some(at) = self.hang_ups.iter().position(|other| *other == token) {
            self.hang_ups.swap_remove(at);
            self.push(token, Event::Failed(Errno::CANCELED), false);
        }
        if let Some(at) = self.recvs.iter().position(|other| *other == token) {
            self.recvs.swap_remove(at);
            self.push(token, Event::Failed(Errno::CANCELED), false);
        }
        self.cancelled.push(token);
    }

    fn shutdown_write(&mut self, _: BorrowedFd<'_>, token: Token) {
        self.push(token, Event::Done, false);
    }

    fn close(&mut self, fd: OwnedFd) {
        drop(fd);
    }

    fn turn(&mut self, wait: Wait, completions: &mut Vec<Completion>) -> io::Result<()> {
        self.wait = wait;
        completions.append(&mut self.completions);
        if !self.stuck {
            for (token, data) in std::mem::take(&mut self.sends) {
                let event = if self.cancelled.contains(&token) {
                    Event::Failed(Errno::CANCELED)
                } else {
                    self.sent.push((token, data.clone()));
                    Event::Sent(data)
                };
                completions.push(Completion { token, event, more: false });
            }
        }
        Ok(())
    }

    fn completions_visible(&mut self) -> bool {
        !self.completions.is_empty()
    }

    fn bytes(&self, lease: &Lease) -> &[u8] {
        &self.received[usize::from(lease.id)]
    }

    fn recycle(&mut self, _: Lease) {}

    fn datagrams(&mut self, lease: &DatagramLease) -> Option<Arrived<'_>> {
        let arrived = &mut self.arrived[usize::from(lease.0.id)];
        let (segment, data) = (arrived.segment, &mut arrived.data[..]);
        Some(Arrived { from: arrived.to, to: arrived.from, segment, ecn: arrived.ecn, data })
    }

    fn recycle_datagrams(&mut self, _: DatagramLease) {}

    fn stats(&self) -> Stats {
        Stats::default()
    }

    fn now(&self) -> Instant {
        self.now
    }

    fn wall_clock(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH
    }
}

/// The shard, its only worker, and the way to tell it something.
pub(super) struct Stage {
    pub(super) shard: Shard<Kernel>,
    pub(super) lane: WorkerLane,
    pub(super) load: Load,
    pub(super) reports: UnboundedReceiver<Report>,
    pub(super) gauges: Arc<Gauges>,
    handle: Handle,
    /// Workers that were ever attached.
    workers: u16,
}

impl Stage {
    pub(super) fn new() -> Self {
        Self::with(Limits::default())
    }

    pub(super) fn with(limits: Limits) -> Self {
        Self::listening(limits, ListenerKind::Plain, None)
    }

    /// With a listener of that kind.
    pub(super) fn listening(limits: Limits, kind: ListenerKind, tls: Option<TlsOptions>) -> Self {
        Self::speaking(limits, (kind, tls), 0, None)
    }

    /// With HTTP/3, as this shard.
    #[expect(clippy::disallowed_methods, reason = "time has to begin somewhere")]
    pub(super) fn speaking(
        limits: Limits,
        (kind, tls): (ListenerKind, Option<TlsOptions>),
        shard: usize,
        quic: Option<QuicOptions>,
    ) -> Self {
        let kernel = Kernel {
            now: Instant::now(),
            completions: Vec::new(),
            accepts: Vec::new(),
            recvs: Vec::new(),
            hang_ups: Vec::new(),
            sends: Vec::new(),
            cancelled: Vec::new(),
            polls: Vec::new(),
            datagram_recvs: Vec::new(),
            arrived: Vec::new(),
            datagrams: Vec::new(),
            received: Vec::new(),
            sent: Vec::new(),
            stuck: false,
            wait: Wait::Poll,
        };
        let gauges = Arc::default();
        let (sender, reports) = unbounded_channel();
        let (handle, mailbox) = Handle::new(sender).unwrap();
        let socket = TcpListener::bind("127.0.0.1:0").unwrap().into();
        let options = Options {
            shard,
            listeners: vec![Listener { socket, address: None, kind }],
            tls,
            quic,
            http: HttpVersions::Auto,
            h1: h1::Options { body_size_max: limits::BODY_SIZE_MAX },
            limits,
            websocket: WebSocketOptions::default(),
            headers: Vec::new(),
            trusted: Trusted::default(),
            gauges: Arc::clone(&gauges),
            spin_max: Duration::ZERO,
            access_log: true,
        };
        let mut shard = Shard::new(kernel, options, mailbox);
        shard.begin();
        let load = Load::default();
        let lane = attach(&handle, &load, 0, routes());
        let mut stage = Self { shard, lane, load, reports, gauges, handle, workers: 1 };
        stage.obey();
        stage
    }

    /// The worker's successor, or another one that the test goes on with; the lane of the first.
    pub(super) fn attach(&mut self) -> WorkerLane {
        self.attach_with(routes())
    }

    /// As `attach`, with other routes.
    pub(super) fn attach_with(&mut self, routes: Arc<Routes>) -> WorkerLane {
        self.load = Load::default();
        let lane = attach(&self.handle, &self.load, self.workers, routes);
        self.workers += 1;
        self.obey();
        std::mem::replace(&mut self.lane, lane)
    }

    pub(super) fn retire(&mut self, worker: u16) {
        let (worker, incarnation) = (WorkerId(worker), Incarnation(1));
        self.handle.send(Command::Retire { worker, incarnation });
        self.obey();
    }

    pub(super) fn exchange_certificates(&mut self, config: Arc<ServerConfig>) {
        self.handle.send(Command::Certificates(config));
        self.obey();
    }

    pub(super) fn drain(&mut self) {
        self.drain_within(Duration::from_secs(1));
    }

    pub(super) fn drain_within(&mut self, time: Duration) {
        self.handle.send(Command::Drain(time));
        self.obey();
    }

    pub(super) fn obey(&mut self) {
        let doorbell = self.shard.driver.polls[0];
        self.shard.driver.push(doorbell, Event::Readable, true);
        self.settle();
    }

    /// Turns until the shard would sleep.
    pub(super) fn settle(&mut self) {
        for _ in 0..1000 {
            if !self.shard.turn().unwrap() || self.shard.driver.wait != Wait::Poll {
                // What the last turn brought is still to be seen to, unless it brought nothing.
                let quiet =
                    self.shard.driver.completions.is_empty() && self.shard.core.dirty.is_empty();
                if quiet {
                    return;
                }
            }
        }
        panic!("the shard never sleeps");
    }

    /// A new client.
    pub(super) fn connect(&mut self) -> Token {
        let listener = *self.shard.driver.accepts.last().unwrap();
        let socket = Doorbell::new().unwrap().into();
        let before = self.shard.driver.recvs.clone();
        self.shard.driver.push(listener, Event::Accepted(socket), true);
        self.settle();
        // Not always the last: another may have been let go for it.
        *self.shard.driver.recvs.iter().find(|token| !before.contains(token)).unwrap()
    }

    pub(super) fn accept_fails(&mut self, error: Errno) {
        let listener = self.shard.driver.accepts.pop().unwrap();
        self.shard.driver.push(listener, Event::Failed(error), false);
        self.settle();
    }

    pub(super) fn is_accepting(&self) -> bool {
        !self.shard.driver.accepts.is_empty()
    }

    /// The client sends that; to be seen with the next turn.
    pub(super) fn arrives(&mut self, client: Token, bytes: &[u8]) {
        let kernel = &mut self.shard.driver;
        assert!(kernel.recvs.contains(&client), "a receive is armed");
        let id = u16::try_from(kernel.received.len()).unwrap();
        kernel.received.push(bytes.to_vec());
        let len = u32::try_from(bytes.len()).unwrap();
        kernel.push(client, Event::Received(Lease { id, len }), true);
    }

    pub(super) fn send(&mut self, client: Token, bytes: &[u8]) {
        self.arrives(client, bytes);
        self.settle();
    }

    /// The client sends FIN.
    pub(super) fn finish(&mut self, client: Token) {
        let kernel = &mut self.shard.driver;
        kernel.recvs.retain(|other| *other != client);
        kernel.push(client, Event::EndOfStream, false);
        self.settle();
    }

    /// The client resets.
    pub(super) fn reset(&mut self, client: Token) {
        let kernel = &mut self.shard.driver;
        kernel.recvs.retain(|other| *other != client);
        kernel.push(client, Event::Failed(Errno::CONNRESET), false);
        self.settle();
    }

    /// The client resets while nothing is received from it.
    pub(super) fn hangs_up(&mut self, client: Token) {
        self.tell_hang_up(client, Event::HungUp);
    }

    fn tell_hang_up(&mut self, client: Token, event: Event) {
        let kernel = &mut self.shard.driver;
        let token = Token { kind: kind::HANG_UP, ..client };
        let at = kernel.hang_ups.iter().position(|other| *other == token).expect("it is watched");
        kernel.hang_ups.swap_remove(at);
        kernel.push(token, event, false);
        self.settle();
    }

    /// The client ends its half behind bytes that are not received from it.
    pub(super) fn ends_unheard(&mut self, client: Token) {
        self.tell_hang_up(client, Event::EndOfStream);
    }

    /// The kernel comes round to the sends.
    pub(super) fn unstick(&mut self) {
        self.shard.driver.stuck = false;
        self.settle();
        self.settle();
    }

    /// Datagrams arrive from there, the first of so many bytes and as many more; to be seen with the next turn.
    #[expect(clippy::disallowed_methods, reason = "quiche goes by the real clock")]
    pub(super) fn datagrams_arrive(&mut self, from: SocketAddr, data: &[u8], segment: usize) {
        let kernel = &mut self.shard.driver;
        kernel.now = kernel.now.max(Instant::now());
        let receive = *kernel.datagram_recvs.last().expect("a receive is armed");
        let id = u16::try_from(kernel.arrived.len()).unwrap();
        let us = "127.0.0.1".parse().unwrap();
        let batch = DatagramBatch { data: data.to_vec(), segment, from: us, to: from, ecn: 0 };
        kernel.arrived.push(batch);
        let len = u32::try_from(data.len()).unwrap();
        kernel.push(receive, Event::Datagrams(DatagramLease(Lease { id, len })), true);
    }

    /// The time is what quiche takes it for.
    #[expect(clippy::disallowed_methods, reason = "quiche goes by the real clock")]
    pub(super) fn catch_up(&mut self) {
        let kernel = &mut self.shard.driver;
        kernel.now = kernel.now.max(Instant::now());
        self.settle();
        self.settle();
    }

    /// The receive of datagrams ends with this.
    pub(super) fn receive_ends(&mut self, error: Errno) {
        let receive = self.shard.driver.datagram_recvs.pop().expect("a receive is armed");
        self.shard.driver.push(receive, Event::Failed(error), false);
        self.settle();
    }

    pub(super) fn is_receiving_datagrams(&self) -> bool {
        !self.shard.driver.datagram_recvs.is_empty()
    }

    /// Datagrams that were sent since the last time.
    pub(super) fn take_datagrams(&mut self) -> Vec<DatagramBatch> {
        std::mem::take(&mut self.shard.driver.datagrams)
    }

    /// As another shard sees it.
    pub(super) fn neighbour(&self) -> Neighbour {
        self.handle.neighbour()
    }

    /// What the access log was given, with what waits to be handed over.
    pub(super) fn log(&mut self) -> String {
        self.shard.hand_over_log(true);
        let mut all = Vec::new();
        while let Ok(report) = self.reports.try_recv() {
            if let Report::AccessLog(lines) = report {
                all.extend(lines);
            }
        }
        String::from_utf8(all).unwrap()
    }

    /// One turn; false when the shard has drained.
    pub(super) fn turn(&mut self) -> bool {
        self.shard.turn().unwrap()
    }

    /// What the client was sent since the last time, in bytes.
    pub(super) fn take_sent(&mut self, client: Token) -> Vec<u8> {
        let of = |token: &Token| (token.index, token.generation);
        let sent = self.shard.driver.sent.extract_if(.., |(token, _)| of(token) == of(&client));
        sent.flat_map(|(_, data)| data).collect()
    }

    /// What the client was sent.
    pub(super) fn sent(&self, client: Token) -> String {
        String::from_utf8_lossy(&self.sent_bytes(client)).into_owned()
    }

    pub(super) fn sent_bytes(&self, client: Token) -> Vec<u8> {
        let ours =
            |token: &Token| (token.index, token.generation) == (client.index, client.generation);
        let sent = self.shard.driver.sent.iter().filter(|(token, _)| ours(token));
        sent.flat_map(|(_, data)| data.clone()).collect()
    }

    pub(super) fn is_receiving(&self, client: Token) -> bool {
        self.shard.driver.recvs.contains(&client)
    }

    /// Time goes by, and the sweep comes round.
    pub(super) fn wait(&mut self, time: Duration) {
        self.shard.driver.now += time;
        self.settle();
        self.settle();
    }

    /// The worker rang, or its room came back.
    pub(super) fn publish(&mut self) {
        self.lane.publish().unwrap();
        self.settle();
    }

    /// The worker that was attached last; to be seen with the next turn.
    pub(super) fn worker_dies(&mut self) {
        self.dies(self.workers - 1);
    }

    /// Any of them, counted in the order of their coming.
    pub(super) fn dies(&mut self, worker: u16) {
        let mut pidfds = self.shard.driver.polls.iter().filter(|token| token.kind == kind::PIDFD);
        let pidfd = *pidfds.nth(usize::from(worker)).unwrap();
        self.shard.driver.push(pidfd, Event::Readable, true);
    }

    /// The id of the next request at the worker.
    pub(super) fn take(&mut self) -> u64 {
        match self.lane.receive().unwrap() {
            Some((id, ToWorker::Request(_))) => id,
            Some((id, _)) => panic!("something else for {id:x}"),
            None => panic!("no request"),
        }
    }

    /// The next request at the worker, and its only path parameter.
    pub(super) fn take_tagged(&mut self) -> (u64, String) {
        match self.lane.receive().unwrap() {
            Some((id, ToWorker::Request(request))) => {
                let tag = request.params[0].of(request.blob).unwrap();
                (id, String::from_utf8(tag.to_vec()).unwrap())
            }
            other => panic!("{other:?}"),
        }
    }

    /// One of the shard's counts, as others see it.
    pub(super) fn gauge(&self, which: impl Fn(&Gauges) -> &AtomicU64) -> u64 {
        which(&self.gauges).load(Ordering::Relaxed)
    }

    /// The worker answers; `length` is what its Content-Length says.
    pub(super) fn respond(&mut self, id: u64, length: Option<u64>, body: &[u8], end: bool) {
        let response =
            Response { status: 200, fields: &[], blob: b"", content_length: length, body, end };
        assert!(self.lane.send_response(id, &response).unwrap());
    }

    /// Connections and exchanges that the shard holds.
    pub(super) fn held(&self) -> (usize, usize) {
        (self.shard.core.connections.len(), self.shard.core.exchanges.len())
    }
}

fn attach(handle: &Handle, load: &Load, worker: u16, routes: Arc<Routes>) -> WorkerLane {
    let heap = || Arc::new(Segment::heap(Geometry::PRODUCT));
    let (e, w) = (heap(), heap());
    let bell = || Doorbell::new().unwrap();
    let link = Link {
        worker: WorkerId(worker),
        incarnation: Incarnation(1),
        lane: EdgeLane::new(Arc::clone(&e), Arc::clone(&w), Arc::new(bell())),
        bell: bell(),
        pidfd: bell().into(),
        load: load.clone(),
    };
    assert!(handle.send(Command::Attach(Box::new(link), routes)));
    WorkerLane::new(w, e, Arc::new(bell()))
}
