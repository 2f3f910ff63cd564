//! Real threads, real doorbells, real processes and real deaths on one lane.
//!
//! Invariant: bounded by counts, never by time; the only deadline is the one after which a missing kick is called
//! lost. The exchange's id says what its bytes must be.

use std::{
    collections::VecDeque,
    fs::OpenOptions,
    io,
    os::fd::{AsFd, AsRawFd},
    process::{Child, Command, Stdio},
    sync::Arc,
    thread,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fd::OwnedFd,
};

use super::{
    Doorbell, EdgeLane, Segment, WorkerLane,
    layout::Geometry,
    message::{FromWorker, Request, Response, ToWorker},
    segment::Writer,
};
use crate::span::Span;

/// Small enough that rings wrap and arenas run dry all the time.
const GEOMETRY: Geometry = Geometry::new(4096, 1024, 4).unwrap();
/// Each is a request, a response and, one time in four, a body both ways: about 200,000 records.
const EXCHANGES: u64 = 60_000;
const IN_FLIGHT_MAX: u64 = 48;
const INCARNATIONS: u64 = 24;
const PATIENCE: Timespec = Timespec { tv_sec: 20, tv_nsec: 0 };

/// A number that nothing else knows, out of a number that everybody knows (SplitMix64).
fn scatter(seed: u64) -> u64 {
    let z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn pattern(exchange: u64, len: u64) -> Vec<u8> {
    (0..len)
        .map(|i| scatter(exchange ^ (i / 8)).to_le_bytes()[usize::try_from(i % 8).unwrap()])
        .collect()
}

fn blob_of(exchange: u64) -> Vec<u8> {
    pattern(exchange, scatter(exchange) % 600)
}

/// Nothing for three exchanges out of four, up to six chunks for the fourth.
fn body_of(exchange: u64) -> Vec<u8> {
    if exchange.is_multiple_of(4) {
        pattern(!exchange, scatter(!exchange) % 6000)
    } else {
        Vec::new()
    }
}

fn sleep_on(bell: &Doorbell) {
    let mut fds = [PollFd::new(bell, PollFlags::IN)];
    let ready = rustix::io::retry_on_intr(|| poll(&mut fds, Some(&PATIENCE))).unwrap();
    assert_eq!(ready, 1, "a lost wake-up, or a peer that is gone");
    bell.hush().unwrap();
}

/// What is still to be sent of one exchange.
struct Outgoing {
    exchange: u64,
    blob: Option<Vec<u8>>,
    body: Vec<u8>,
}

impl Outgoing {
    fn of(exchange: u64) -> Self {
        Self { exchange, blob: Some(blob_of(exchange)), body: body_of(exchange) }
    }
}

/// What has come in of one direction: exchanges in order, each whole.
#[derive(Default)]
struct Incoming {
    next: u64,
    /// What must still come of the exchange that `next` names.
    body: Option<Vec<u8>>,
}

impl Incoming {
    fn head(&mut self, exchange: u64, blob: &[u8], end: bool) {
        assert!(self.body.is_none(), "a head in the middle of a body");
        assert_eq!(exchange, self.next);
        assert_eq!(blob, blob_of(exchange));
        let body = body_of(exchange);
        assert_eq!(end, body.is_empty());
        if end { self.next += 1 } else { self.body = Some(body) }
    }

    fn body(&mut self, exchange: u64, data: &[u8], end: bool) {
        assert_eq!(exchange, self.next);
        let rest = self.body.as_mut().expect("a body without a head");
        assert!(rest.starts_with(data));
        rest.drain(..data.len());
        assert_eq!(end, rest.is_empty());
        if end {
            self.body = None;
            self.next += 1;
        }
    }

    fn answered(&mut self, exchange: u64, message: &FromWorker<'_>) {
        match message {
            FromWorker::Response(r) => self.head(exchange, r.blob, r.end),
            FromWorker::Body { data, end } => self.body(exchange, data, *end),
            message => panic!("never sent: {message:?}"),
        }
    }

    fn asked(&mut self, exchange: u64, message: &ToWorker<'_>) {
        match message {
            ToWorker::Request(r) => self.head(exchange, r.blob, r.end),
            ToWorker::Body { data, end } => self.body(exchange, data, *end),
            message => panic!("never sent: {message:?}"),
        }
    }
}

fn request(blob: &[u8], end: bool) -> Request<'_> {
    let span = Span::default();
    Request {
        route: 0,
        method: 0,
        version: 11,
        method_name: span,
        raw_path: span,
        path: span,
        query: span,
        authority: span,
        fields: &[],
        params: &[],
        blob,
        content_length: None,
        peer: None,
        secure: false,
        tls: None,
        websocket: false,
        halvings: 0,
        body: &[],
        end,
    }
}

fn response(blob: &[u8], end: bool) -> Response<'_> {
    Response { status: 200, fields: &[], blob, content_length: None, body: &[], end }
}

macro_rules! send_all {
    ($queue:expr, $lane:expr, $send:ident, $message:ident) => {
        while let Some(out) = $queue.front_mut() {
            if let Some(blob) = &out.blob {
                if !$lane.$send(out.exchange, &$message(blob, out.body.is_empty())).unwrap() {
                    break;
                }
                out.blob = None;
            }
            if !out.body.is_empty() {
                let taken = $lane.send_body(out.exchange, &out.body, true).unwrap();
                out.body.drain(..taken.unwrap_or_default());
                if !out.body.is_empty() {
                    break;
                }
            }
            $queue.pop_front();
        }
    };
}

fn echo(mut lane: WorkerLane, bell: &Doorbell, exchanges: u64) -> u64 {
    let (mut incoming, mut queue) = (Incoming::default(), VecDeque::new());
    let (mut queued, mut sleeps) = (0, 0);
    loop {
        while let Some((exchange, message)) = lane.receive().unwrap() {
            incoming.asked(exchange, &message);
        }
        queue.extend((queued..incoming.next).map(Outgoing::of));
        queued = incoming.next;
        send_all!(queue, lane, send_response, response);
        lane.publish().unwrap();
        if incoming.next == exchanges && queue.is_empty() && lane.leased_chunks() == 0 {
            return sleeps;
        }
        if !lane.arm().unwrap() {
            sleeps += 1;
            sleep_on(bell);
        }
    }
}

#[test]
fn two_threads_exchange_everything_in_order_and_nobody_oversleeps() {
    let (e, w) = (Arc::new(Segment::heap(GEOMETRY)), Arc::new(Segment::heap(GEOMETRY)));
    let (edge_bell, worker_bell) = (Doorbell::new().unwrap(), Doorbell::new().unwrap());
    let kick_edge = Arc::new(edge_bell.try_clone().unwrap());
    let worker = WorkerLane::new(Arc::clone(&w), Arc::clone(&e), kick_edge);
    let kick_worker = Arc::new(worker_bell.try_clone().unwrap());
    let mut edge = EdgeLane::new(e, w, kick_worker);
    let worker = thread::spawn(move || echo(worker, &worker_bell, EXCHANGES));

    let (mut incoming, mut queue) = (Incoming::default(), VecDeque::new());
    let mut asked = 0;
    while incoming.next < EXCHANGES || edge.leased_chunks() > 0 {
        while let Some((exchange, message)) = edge.receive().unwrap() {
            incoming.answered(exchange, &message);
        }
        let until = EXCHANGES.min(incoming.next + IN_FLIGHT_MAX);
        queue.extend((asked..until).map(Outgoing::of));
        asked = until;
        send_all!(queue, edge, send_request, request);
        edge.publish().unwrap();
        let done = incoming.next == EXCHANGES && edge.leased_chunks() == 0;
        if !done && !edge.arm().unwrap() {
            sleep_on(&edge_bell);
        }
    }
    // The last chunks of the worker were given back with the last publication.
    let sleeps = worker.join().unwrap();
    assert!(edge.kicks() <= 2 * sleeps + 2, "{} kicks for {sleeps} sleeps", edge.kicks());
}

const CHILD: &str = "FASTERAPI_STRESS_SEGMENTS";

/// Not a test of its own: what the processes of the test below run.
#[test]
fn the_worker_process() {
    let Some(paths) = std::env::var_os(CHILD) else { return };
    let paths = paths.into_string().unwrap();
    let (e, w) = paths.split_once(':').unwrap();
    let read_only = OpenOptions::new().read(true).open(e).unwrap();
    let writable = OpenOptions::new().read(true).write(true).open(w).unwrap();
    let e = Segment::attach(read_only.as_fd(), false).unwrap();
    let w = Segment::attach(writable.as_fd(), true).unwrap();
    let bell = Doorbell::from_fd(io::stdin().as_fd().try_clone_to_owned().unwrap());
    let kick = Doorbell::from_fd(io::stderr().as_fd().try_clone_to_owned().unwrap());
    let mut lane = WorkerLane::new(w, e, Arc::new(kick));
    let mut queue = VecDeque::new();
    for exchange in 0.. {
        queue.push_back(Outgoing::of(exchange));
        while !queue.is_empty() {
            send_all!(queue, lane, send_response, response);
            lane.publish().unwrap();
            if !queue.is_empty() && !lane.arm().unwrap() {
                sleep_on(&bell);
            }
            while lane.receive().unwrap().is_some() {}
        }
    }
}

fn spawn_worker(e: &OwnedFd, w: &OwnedFd, bell: &Doorbell, kick: &Doorbell) -> Child {
    let path = |fd: &OwnedFd| format!("/proc/{}/fd/{}", std::process::id(), fd.as_raw_fd());
    let pass = |bell: &Doorbell| Stdio::from(bell.as_fd().try_clone_to_owned().unwrap());
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "ipc::stress::the_worker_process"])
        .env(CHILD, format!("{}:{}", path(e), path(w)))
        .stdin(pass(bell))
        .stdout(Stdio::null())
        .stderr(pass(kick))
        .spawn()
        .unwrap()
}

#[test]
fn a_worker_killed_anywhere_leaves_only_whole_records_behind() {
    for incarnation in 0..INCARNATIONS {
        let (e, e_fd) = Segment::create("stress-e", GEOMETRY, Writer::Creator).unwrap();
        let (w, w_fd) = Segment::create("stress-w", GEOMETRY, Writer::Receiver).unwrap();
        let (edge_bell, worker_bell) = (Doorbell::new().unwrap(), Doorbell::new().unwrap());
        let mut child = spawn_worker(&e_fd, &w_fd, &worker_bell, &edge_bell);
        let mut edge = EdgeLane::new(e, w, Arc::new(worker_bell));
        let mut incoming = Incoming::default();
        let last_words = scatter(incarnation) % 500;
        while incoming.next < last_words {
            // A few at a time, so that the worker is caught with full and with empty rings.
            for _ in 0..=scatter(incoming.next ^ incarnation) % 16 {
                let Some((exchange, message)) = edge.receive().unwrap() else { break };
                incoming.answered(exchange, &message);
            }
            edge.publish().unwrap();
            if !edge.arm().unwrap() {
                sleep_on(&edge_bell);
            }
        }
        child.kill().unwrap();
        assert!(!child.wait().unwrap().success());
        while let Some((exchange, message)) = edge.receive().unwrap() {
            incoming.answered(exchange, &message);
        }
        assert!(incoming.next >= last_words);
        edge.publish().unwrap();
    }
}
