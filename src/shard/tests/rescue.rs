//! A worker dies: what was not taken goes to another one, what may be repeated is, the rest is 502 or cut off.

use super::{Limits, Report, script::Stage};
use crate::{ipc::message::ToWorker, limits, uring::Token};

const GET: &[u8] = b"GET /user/1 HTTP/1.1\r\nhost: test\r\n\r\n";
const POST: &[u8] = b"POST /echo HTTP/1.1\r\nhost: test\r\ncontent-length: 4\r\n\r\nbody";

fn asks(stage: &mut Stage, request: &[u8]) -> Token {
    let client = stage.connect();
    stage.send(client, request);
    client
}

/// The second worker answers what the first was asked; what it was given.
fn answer(stage: &mut Stage, client: Token) -> (Vec<u8>, bool) {
    let (id, body, end) = match stage.lane.receive().unwrap() {
        Some((id, ToWorker::Request(request))) => (id, request.body.to_vec(), request.end),
        other => panic!("{other:?}"),
    };
    stage.respond(id, Some(2), b"ok", true);
    stage.publish();
    assert!(stage.sent(client).ends_with("\r\n\r\nok"), "{}", stage.sent(client));
    assert_eq!(stage.sent(client).matches("HTTP/1.1 ").count(), 1);
    (body, end)
}

#[test]
fn a_request_that_was_not_taken_goes_to_another_worker_whatever_its_method() {
    let mut stage = Stage::with(Limits { repeat: false, ..Limits::default() });
    let client = asks(&mut stage, POST);
    stage.worker_dies();
    stage.settle();
    assert_eq!((stage.sent(client).as_str(), stage.load.get()), ("", 0));
    assert_eq!((stage.gauge(|g| &g.redispatched), stage.gauge(|g| &g.queued)), (1, 1));
    stage.attach();
    assert_eq!(answer(&mut stage, client), (b"body".to_vec(), true));
    let counts =
        (stage.gauge(|g| &g.begun), stage.gauge(|g| &g.failed), stage.gauge(|g| &g.exchanges));
    assert_eq!((counts, stage.held(), stage.load.get()), ((1, 0, 0), (1, 0), 0));
}

#[test]
fn an_upload_that_was_not_taken_goes_to_another_worker_with_all_that_was_written_of_it() {
    let mut stage = Stage::new();
    let length = limits::EXCHANGE_WINDOW + 5000;
    let client = stage.connect();
    let head = format!("POST /echo HTTP/1.1\r\nhost: test\r\ncontent-length: {length}\r\n\r\n");
    let body: Vec<u8> = (0..length).map(|i| u8::try_from(i % 251).unwrap()).collect();
    stage.send(client, &[head.as_bytes(), &body[..1000]].concat());
    stage.send(client, &body[1000..150_000]);
    stage.send(client, &body[150_000..]);
    stage.worker_dies();
    stage.settle();
    stage.attach();
    let (mut got, mut ended, mut id) = (Vec::new(), false, 0);
    while !ended {
        let mut taken = 0;
        while let Some((exchange, message)) = stage.lane.receive().unwrap() {
            let data = match message {
                ToWorker::Request(request) => {
                    id = exchange;
                    request.body
                }
                ToWorker::Body { data, end } => {
                    ended = end;
                    data
                }
                other => panic!("{other:?}"),
            };
            got.extend_from_slice(data);
            taken += data.len();
        }
        assert!(taken > 0, "{} of {length}", got.len());
        assert!(stage.lane.send_credit(id, taken as u64).unwrap());
        stage.publish();
    }
    assert!(got == body, "{} of {length} bytes, or others", got.len());
    stage.respond(id, Some(2), b"ok", true);
    stage.publish();
    assert!(stage.sent(client).ends_with("\r\n\r\nok"));
    assert!(stage.reports.try_recv().is_err(), "nobody is at fault");
}

#[test]
fn a_request_that_was_taken_is_never_taken_for_one_that_was_not() {
    let mut stage = Stage::new();
    let (first, second) = (asks(&mut stage, POST), asks(&mut stage, POST));
    // Not even published: the worker has it in hand, and dies.
    stage.take();
    stage.worker_dies();
    stage.settle();
    assert!(stage.sent(first).starts_with("HTTP/1.1 502 "), "{}", stage.sent(first));
    assert_eq!(stage.sent(second), "");
    assert_eq!((stage.gauge(|g| &g.failed), stage.gauge(|g| &g.redispatched)), (1, 1));
    stage.attach();
    answer(&mut stage, second);
}

#[test]
fn of_those_that_were_taken_idempotent_ones_are_repeated_once() {
    for method in ["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "TRACE", "POST", "PATCH", "MKCOL"] {
        let spec = |id, path: &str| super::RouteSpec {
            id,
            path: path.into(),
            methods: vec![method.into()],
        };
        let routes =
            || std::sync::Arc::new(super::Routes::new(vec![spec(9, "/any")], true).unwrap());
        let mut stage = Stage::new();
        stage.worker_dies();
        stage.settle();
        stage.attach_with(routes());
        let request = format!("{method} /any HTTP/1.1\r\nhost: test\r\n\r\n");
        let client = asks(&mut stage, request.as_bytes());
        stage.take();
        stage.worker_dies();
        stage.settle();
        if ["POST", "PATCH", "MKCOL"].contains(&method) {
            assert!(stage.sent(client).starts_with("HTTP/1.1 502 "), "{method}");
            continue;
        }
        assert_eq!(stage.sent(client), "", "{method}");
        stage.attach_with(routes());
        stage.take();
        stage.worker_dies();
        stage.settle();
        assert!(stage.sent(client).starts_with("HTTP/1.1 502 "), "{method}: twice is enough");
        assert_eq!((stage.gauge(|g| &g.failed), stage.gauge(|g| &g.redispatched)), (1, 1));
        assert_eq!((stage.held(), stage.load.get()), ((1, 0), 0));
    }
}

#[test]
fn the_policy_never_repeats_nothing_that_was_taken() {
    let mut stage = Stage::with(Limits { repeat: false, ..Limits::default() });
    let client = asks(&mut stage, GET);
    stage.take();
    stage.worker_dies();
    stage.settle();
    assert!(stage.sent(client).starts_with("HTTP/1.1 502 "), "{}", stage.sent(client));
}

#[test]
fn a_response_of_which_a_byte_was_sent_is_cut_off_and_not_repeated() {
    let mut stage = Stage::new();
    let client = asks(&mut stage, GET);
    let id = stage.take();
    stage.respond(id, Some(100), b"begun", false);
    stage.publish();
    stage.worker_dies();
    stage.settle();
    assert!(stage.sent(client).ends_with("\r\n\r\nbegun"), "{}", stage.sent(client));
    stage.finish(client);
    assert_eq!((stage.held(), stage.gauge(|g| &g.failed)), ((0, 0), 1));
}

#[test]
fn a_response_of_which_no_byte_was_sent_is_taken_back_and_the_request_repeated() {
    let mut stage = Stage::new();
    let client = stage.connect();
    // The answer to the first is on its way: what is encoded behind it waits.
    stage.shard.driver.stuck = true;
    stage.send(client, &[b"GET /nowhere HTTP/1.1\r\nhost: test\r\n\r\n".as_slice(), GET].concat());
    let id = stage.take();
    stage.respond(id, Some(100), b"begun", false);
    stage.publish();
    stage.worker_dies();
    stage.unstick();
    assert_eq!(stage.gauge(|g| &g.redispatched), 1, "{}", stage.sent(client));
    stage.attach();
    let (id, _) = stage.take_tagged();
    stage.respond(id, Some(2), b"ok", true);
    stage.publish();
    let sent = stage.sent(client);
    assert!(sent.starts_with("HTTP/1.1 404 ") && sent.ends_with("\r\n\r\nok"), "{sent}");
    assert!(!sent.contains("begun"), "{sent}");
}

#[test]
fn a_request_whose_place_in_the_ring_was_written_again_is_repeated_from_its_copy() {
    let mut stage = Stage::new();
    let client = asks(&mut stage, b"GET /user/first HTTP/1.1\r\nhost: test\r\n\r\n");
    stage.take();
    let other = stage.connect();
    let padding = "p".repeat(7000);
    for _ in 0..2 * limits::RING_SIZE / padding.len() {
        let request = format!("GET /user/2 HTTP/1.1\r\nhost: test\r\nx: {padding}\r\n\r\n");
        stage.send(other, request.as_bytes());
        let id = stage.take();
        stage.respond(id, Some(2), b"ok", true);
        stage.publish();
    }
    stage.worker_dies();
    stage.settle();
    stage.attach();
    let (id, tag) = stage.take_tagged();
    assert_eq!(tag, "first");
    stage.respond(id, Some(2), b"ok", true);
    stage.publish();
    assert!(stage.sent(client).ends_with("\r\n\r\nok"));
}

#[test]
fn a_worker_at_fault_may_still_be_alive_so_only_what_may_be_repeated_is() {
    let mut stage = Stage::new();
    let (get, post) = (asks(&mut stage, GET), asks(&mut stage, POST));
    assert!(stage.lane.send_abort(100 << 32).unwrap());
    stage.publish();
    let report = stage.reports.try_recv();
    assert!(matches!(report, Ok(Report::Faulty { .. })), "{report:?}");
    assert!(stage.sent(post).starts_with("HTTP/1.1 502 "), "{}", stage.sent(post));
    stage.attach();
    answer(&mut stage, get);
}

#[test]
fn a_worker_that_gave_credit_for_what_it_did_not_take_is_not_believed() {
    let mut stage = Stage::new();
    let client =
        asks(&mut stage, b"POST /echo HTTP/1.1\r\nhost: test\r\ncontent-length: 1000\r\n\r\nhalf");
    // It has seen the request's id without taking the record: it can read all of the ring.
    let id = stage.shard.core.exchanges.id(0);
    assert!(stage.lane.send_credit(id, 4).unwrap());
    stage.publish();
    stage.worker_dies();
    stage.settle();
    assert!(stage.sent(client).starts_with("HTTP/1.1 502 "), "{}", stage.sent(client));
}

#[test]
fn the_other_worker_gets_it_in_the_same_turn_and_the_dead_ones_answers_reach_nobody() {
    let mut stage = Stage::new();
    let client = asks(&mut stage, GET);
    let old = stage.take();
    let mut first = stage.attach();
    stage.dies(0);
    stage.settle();
    let (id, _) = stage.take_tagged();
    assert_ne!(id, old);
    // Late, out of what is nobody's segment any more; and by the second in the name of the first.
    first.send_abort(old).unwrap();
    first.publish().unwrap();
    assert!(stage.lane.send_abort(old).unwrap());
    stage.publish();
    assert_eq!(stage.sent(client), "");
    stage.respond(id, Some(2), b"ok", true);
    stage.publish();
    assert!(stage.sent(client).ends_with("\r\n\r\nok"), "{}", stage.sent(client));
}

#[test]
fn the_rescued_are_served_before_those_who_came_later_and_in_their_old_order() {
    let limits = Limits { inflight_max: 2, ..Limits::default() };
    let mut stage = Stage::with(limits);
    for tag in 1..=4 {
        let request = format!("GET /user/{tag} HTTP/1.1\r\nhost: test\r\n\r\n");
        asks(&mut stage, request.as_bytes());
    }
    stage.worker_dies();
    stage.settle();
    stage.attach();
    for expected in 1..=4 {
        let (id, tag) = stage.take_tagged();
        assert_eq!(tag, expected.to_string());
        stage.respond(id, Some(2), b"ok", true);
        stage.publish();
    }
}
