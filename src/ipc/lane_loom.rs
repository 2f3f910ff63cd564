//! Two threads on one lane whose arena runs out: who waits for a chunk, and who gives it back.
//!
//! What the models add to those of the ring: a chunk is written again only after its reader's RELEASE was taken, and a side
//! that armed because no chunk was free is kicked when one is.

use std::sync::Arc as StdArc;

use loom::{sync::Notify, thread};

use super::{
    Doorbell, EdgeLane, WorkerLane,
    layout::Geometry,
    message::{Cancellation, FromWorker, Request, ToWorker},
    ring::Withdrawal,
    segment::Segment,
    sync::Arc,
};
use crate::span::Span;

/// Sixteen places, and one chunk that is as long as what goes inline.
const TINY: Geometry = Geometry::new(256, 32, 1).unwrap();
const EXCHANGE: u64 = 1;

/// Both ends, and the doorbell of each: the edge's first.
fn pair() -> (EdgeLane, WorkerLane, [Arc<Notify>; 2]) {
    let (e, w) = (Arc::new(Segment::heap(TINY)), Arc::new(Segment::heap(TINY)));
    // Rung, and heard by nobody: loom's threads wait for loom's bells.
    let bell = || StdArc::new(Doorbell::new().unwrap());
    let edge = EdgeLane::new(Arc::clone(&e), Arc::clone(&w), bell());
    let bells = [Arc::new(Notify::new()), Arc::new(Notify::new())];
    (edge, WorkerLane::new(w, e, bell()), bells)
}

/// Reads a body to its end as the edge does: everything that is there, then publish, then arm and sleep.
fn read_all(edge: &mut EdgeLane, own: &Notify, peer: &Notify) -> Vec<u8> {
    let mut body = Vec::new();
    loop {
        let mut ended = false;
        while let Some((exchange, message)) = edge.receive().unwrap() {
            assert_eq!(exchange, EXCHANGE);
            let FromWorker::Body { data, end } = message else { panic!("something else") };
            body.extend_from_slice(data);
            ended |= end;
        }
        if edge.publish().unwrap() {
            peer.notify();
        }
        if ended {
            return body;
        }
        if !edge.arm().unwrap() {
            own.wait();
            edge.disarm();
        }
    }
}

/// Writes a body as the worker does: what there is room for, then publish, then arm and sleep.
fn write_all(worker: &mut WorkerLane, body: &[u8], own: &Notify, peer: &Notify) {
    let mut sent = 0;
    while sent < body.len() {
        while let Some((_, message)) = worker.receive().unwrap() {
            assert!(matches!(message, ToWorker::Credit(_)), "the edge says nothing else");
        }
        let taken = worker.send_body(EXCHANGE, &body[sent..], true).unwrap();
        sent += taken.unwrap_or(0);
        if worker.publish().unwrap() {
            peer.notify();
        }
        if taken.is_none() && !worker.arm().unwrap() {
            own.wait();
            worker.disarm();
        }
    }
}

fn model(scenario: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(2);
    builder.check(scenario);
}

fn pattern(len: u8) -> Vec<u8> {
    (0..len).collect()
}

#[test]
fn loom_a_side_that_waits_for_a_chunk_is_kicked_when_it_comes_back() {
    model(|| {
        let (mut edge, mut worker, [edge_bell, worker_bell]) = pair();
        let bells = (Arc::clone(&edge_bell), Arc::clone(&worker_bell));
        let reader = thread::spawn(move || {
            let body = read_all(&mut edge, &bells.0, &bells.1);
            (edge, body)
        });
        // Twice the arena, and a rest that goes inline.
        let body = pattern(70);
        write_all(&mut worker, &body, &worker_bell, &edge_bell);
        let (_edge, got) = reader.join().unwrap();
        assert_eq!(got, body);
        assert!(worker.receive().unwrap().is_none());
        assert_eq!(worker.leased_chunks(), 0);
    });
}

#[test]
fn loom_a_chunk_is_written_again_only_after_it_was_read() {
    model(|| {
        let (mut edge, mut worker, [edge_bell, worker_bell]) = pair();
        assert_eq!(worker.send_body(EXCHANGE, &pattern(40), false), Ok(Some(40)), "a chunk and 8");
        if worker.publish().unwrap() {
            edge_bell.notify();
        }
        let bells = (Arc::clone(&edge_bell), Arc::clone(&worker_bell));
        let reader = thread::spawn(move || {
            let body = read_all(&mut edge, &bells.0, &bells.1);
            (edge, body)
        });
        write_all(&mut worker, &pattern(40), &worker_bell, &edge_bell);
        let (_edge, got) = reader.join().unwrap();
        assert_eq!(got, [pattern(40), pattern(40)].concat());
    });
}

#[test]
fn loom_a_request_ends_once_whoever_comes_first() {
    model(|| {
        // Records of up to 128 bytes: a request is 80.
        let geometry = Geometry::new(512, 32, 1).unwrap();
        let (e, w) = (Arc::new(Segment::heap(geometry)), Arc::new(Segment::heap(geometry)));
        let bell = || StdArc::new(Doorbell::new().unwrap());
        let mut edge = EdgeLane::new(Arc::clone(&e), Arc::clone(&w), bell());
        let mut worker = WorkerLane::new(w, e, bell());
        assert_eq!(edge.send_request(EXCHANGE, &empty_request()), Ok(true));
        let position = edge.newest();
        edge.publish().unwrap();
        let worker = thread::spawn(move || {
            let received = worker.receive().unwrap();
            let begun = matches!(received, Some((EXCHANGE, ToWorker::Request(_))));
            let told = matches!(received, Some((EXCHANGE, ToWorker::Cancel(_))));
            assert_eq!(begun || told, received.is_some());
            (worker, begun, told)
        });
        let withdrawal = edge.withdraw_request(position, EXCHANGE).unwrap();
        let withdrawn = withdrawal == Withdrawal::Done;
        if !withdrawn {
            assert_eq!(edge.send_cancel(EXCHANGE, Cancellation::WithdrawnLate), Ok(true));
            edge.publish().unwrap();
        }
        let (mut worker, begun, told) = worker.join().unwrap();
        assert!(!(withdrawn && begun), "forgotten by the edge, and begun");
        assert!(begun || withdrawal != Withdrawal::TooLate, "taken, and seen withdrawn");
        // Then there is somebody to end it: the handler, or who answers a CANCEL for what was never begun.
        let told = told || matches!(worker.receive(), Ok(Some((EXCHANGE, ToWorker::Cancel(_)))));
        assert_eq!(told, !withdrawn);
        assert!(worker.receive().unwrap().is_none());
    });
}

fn empty_request() -> Request<'static> {
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
        blob: &[],
        content_length: None,
        peer: None,
        secure: false,
        tls: None,
        websocket: false,
        halvings: 0,
        body: &[],
        end: true,
    }
}
