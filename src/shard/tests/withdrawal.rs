//! A client that leaves before a worker has taken its request: the worker never hears of it.

use super::{Limits, script::Stage};
use crate::{
    ipc::message::{Cancellation, ToWorker},
    limits,
};

const GET: &[u8] = b"GET /hang HTTP/1.1\r\nhost: test\r\n\r\n";

fn post(length: usize) -> Vec<u8> {
    format!("POST /echo HTTP/1.1\r\nhost: test\r\ncontent-length: {length}\r\n\r\n").into_bytes()
}

fn counted(stage: &Stage) -> (u64, u64, u64) {
    (stage.gauge(|g| &g.begun), stage.gauge(|g| &g.abandoned), stage.gauge(|g| &g.withdrawn))
}

#[test]
fn a_request_whose_client_left_before_it_was_taken_is_withdrawn() {
    let mut stage = Stage::new();
    let (client, other) = (stage.connect(), stage.connect());
    stage.send(client, GET);
    stage.send(other, GET);
    assert_eq!((stage.held(), stage.load.get()), ((2, 2), 2));
    stage.finish(client);
    assert_eq!(
        (stage.held(), stage.load.get()),
        ((1, 1), 1),
        "at once, and not when a worker says so"
    );
    assert_eq!(counted(&stage), (2, 1, 1));
    let id = stage.take();
    assert!(stage.lane.receive().unwrap().is_none());
    stage.respond(id, Some(2), b"ok", true);
    stage.publish();
    assert!(stage.sent(other).ends_with("\r\n\r\nok"));
    assert_eq!((stage.held(), stage.load.get()), ((1, 0), 0));
}

#[test]
fn of_an_upload_that_was_withdrawn_the_worker_knows_no_exchange_and_gives_its_chunks_back() {
    let mut stage = Stage::new();
    let client = stage.connect();
    let length = limits::EXCHANGE_WINDOW + 1000;
    stage.send(client, &post(length));
    stage.send(client, &vec![b'x'; length]);
    assert!(stage.gauge(|g| &g.chunks) > 0);
    stage.finish(client);
    assert_eq!((stage.held(), stage.load.get()), ((0, 0), 0));
    assert_eq!(counted(&stage), (1, 1, 1));
    while let Some((_, message)) = stage.lane.receive().unwrap() {
        assert!(matches!(message, ToWorker::Body { .. }), "{message:?}");
    }
    stage.publish();
    assert_eq!(stage.gauge(|g| &g.chunks), 0);
}

#[test]
fn a_request_whose_deadline_has_passed_stays_with_its_worker_to_show_that_it_is_stuck() {
    let mut stage =
        Stage::with(Limits { request_timeout: limits::SWEEP_INTERVAL, ..Limits::default() });
    let client = stage.connect();
    stage.send(client, GET);
    stage.wait(limits::SWEEP_INTERVAL * 3);
    assert!(stage.sent(client).starts_with("HTTP/1.1 504 "));
    stage.finish(client);
    assert_eq!((stage.held(), counted(&stage)), ((0, 1), (1, 0, 0)));
    let id = stage.take();
    assert!(matches!(
        stage.lane.receive().unwrap(),
        Some((other, ToWorker::Cancel(Cancellation::DeadlinePassed))) if other == id
    ));
}

#[test]
fn what_a_client_asks_again_after_it_withdrew_is_another_request() {
    let mut stage = Stage::new();
    for turn in 0..limits::RING_SIZE / 64 {
        let client = stage.connect();
        stage.send(client, GET);
        stage.finish(client);
        assert_eq!((stage.held(), stage.load.get()), ((0, 0), 0), "turn {turn}");
        if turn % 100 == 0 {
            // It passes over what there is, and makes room for more.
            assert!(stage.lane.receive().unwrap().is_none());
            stage.publish();
        }
    }
    let client = stage.connect();
    stage.send(client, GET);
    let id = stage.take();
    stage.respond(id, Some(2), b"ok", true);
    stage.publish();
    assert!(stage.sent(client).ends_with("\r\n\r\nok"));
}
