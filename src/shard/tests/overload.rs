//! More requests than the workers may have: first come, first served, and nobody waits for ever.

use std::time::Duration;

use super::{Limits, Report, script::Stage};
use crate::{limits, uring::Wait};

fn hang(tag: usize) -> Vec<u8> {
    format!("GET /user/{tag} HTTP/1.1\r\nhost: test\r\n\r\n").into_bytes()
}

fn capped(inflight_max: u32, queue_max: usize) -> Stage {
    Stage::with(Limits { inflight_max, queue_max, ..Limits::default() })
}

#[test]
fn requests_beyond_the_cap_wait_and_are_served_in_the_order_of_their_coming() {
    let mut stage = capped(2, 100);
    let clients: Vec<_> = (0..10)
        .map(|tag| {
            let client = stage.connect();
            stage.send(client, &hang(tag));
            client
        })
        .collect();
    assert_eq!((stage.load.get(), stage.gauge(|g| &g.queued)), (2, 8));
    for (tag, client) in clients.iter().enumerate() {
        let (id, body) = stage.take_tagged();
        assert_eq!(body, tag.to_string());
        stage.respond(id, Some(body.len() as u64), body.as_bytes(), true);
        stage.publish();
        assert!(stage.sent(*client).ends_with(&format!("\r\n\r\n{tag}")), "{tag}");
        assert!(stage.load.get() <= 2);
    }
    assert_eq!(
        (stage.load.get(), stage.gauge(|g| &g.queued), stage.gauge(|g| &g.begun)),
        (0, 0, 10)
    );
}

#[test]
fn beyond_the_queue_there_is_503_at_once_and_the_connection_is_kept() {
    let mut stage = capped(1, 1);
    let clients = [stage.connect(), stage.connect(), stage.connect()];
    for client in clients {
        stage.send(client, &hang(7));
    }
    let answer = stage.sent(clients[2]);
    assert!(
        answer.starts_with("HTTP/1.1 503 ") && answer.contains("retry-after: 1\r\n"),
        "{answer}"
    );
    assert!(!answer.contains("connection: close"), "{answer}");
    assert_eq!((stage.gauge(|g| &g.shed), stage.gauge(|g| &g.begun)), (1, 2));
    assert_eq!((stage.sent(clients[0]), stage.sent(clients[1])), (String::new(), String::new()));
    stage.wait(limits::SWEEP_INTERVAL);
    let report = stage.reports.try_recv().unwrap();
    let Report::AccessLog(lines) = report else { panic!("{report:?}") };
    assert!(String::from_utf8(lines).unwrap().contains("\"GET /user/7 HTTP/1.1\" 503 0 "));
}

#[test]
fn who_waits_too_long_is_answered_503_and_one_that_is_stuck_does_not_hold_up_the_others() {
    let mut stage = capped(1, 10);
    let (stuck, waiting) = (stage.connect(), stage.connect());
    stage.send(stuck, &hang(1));
    stage.take();
    stage.send(waiting, &hang(2));
    stage.wait(limits::QUEUE_TIMEOUT - Duration::from_secs(1));
    assert_eq!(stage.sent(waiting), "");
    stage.wait(Duration::from_secs(2));
    let answer = stage.sent(waiting);
    assert!(
        answer.starts_with("HTTP/1.1 503 ") && answer.contains("retry-after: 1\r\n"),
        "{answer}"
    );
    assert_eq!((stage.gauge(|g| &g.shed), stage.held()), (1, (2, 1)));
    stage.wait(limits::SWEEP_INTERVAL);
    let report = stage.reports.try_recv().unwrap();
    let Report::AccessLog(lines) = report else { panic!("{report:?}") };
    assert!(String::from_utf8(lines).unwrap().contains("\"GET /user/2 HTTP/1.1\" 503 0 "));
    // A second worker: what comes now does not wait for the first.
    stage.attach();
    stage.send(waiting, &hang(3));
    let (id, _) = stage.take_tagged();
    stage.respond(id, Some(2), b"ok", true);
    stage.publish();
    assert!(stage.sent(waiting).ends_with("\r\n\r\nok"));
}

#[test]
fn with_no_worker_at_all_requests_wait_for_one() {
    let mut stage = Stage::new();
    stage.worker_dies();
    stage.settle();
    let client = stage.connect();
    stage.send(client, b"POST /echo HTTP/1.1\r\nhost: test\r\ncontent-length: 100000\r\n\r\n");
    stage.send(client, &[b'x'; 60_000]);
    stage.wait(limits::QUEUE_TIMEOUT / 2);
    stage.attach();
    let id = stage.take();
    let mut bytes = 0;
    // The first piece came while there was nobody; the rest does when it is dispatched.
    stage.send(client, &[b'x'; 40_000]);
    while let Some((_, message)) = stage.lane.receive().unwrap() {
        let crate::ipc::message::ToWorker::Body { data, .. } = message else { panic!("a body") };
        bytes += data.len();
    }
    assert_eq!(bytes, 100_000);
    stage.respond(id, Some(2), b"ok", true);
    stage.publish();
    assert!(stage.sent(client).ends_with("\r\n\r\nok"), "{}", stage.sent(client));
    assert_eq!((stage.held(), stage.load.get()), ((1, 0), 0));
}

#[test]
fn a_shard_looks_by_itself_for_room_that_other_shards_make() {
    let mut stage = capped(1, 10);
    // Another shard's exchange.
    stage.load.add();
    let client = stage.connect();
    stage.send(client, &hang(1));
    assert_eq!(stage.gauge(|g| &g.queued), 1);
    assert_eq!(stage.shard.driver.wait, Wait::AtMost(limits::QUEUE_POLL_INTERVAL));
    stage.load.remove();
    stage.wait(limits::QUEUE_POLL_INTERVAL);
    stage.take();
    assert_eq!((stage.load.get(), stage.gauge(|g| &g.queued)), (1, 0));
}

#[test]
fn a_shard_that_has_its_share_leaves_what_gets_free_to_those_who_wait_for_theirs() {
    let limits = Limits { inflight_max: 4, inflight_share: 2, ..Limits::default() };
    let mut stage = Stage::with(limits);
    let clients: Vec<_> = (0..6)
        .map(|tag| {
            let client = stage.connect();
            stage.send(client, &hang(tag));
            client
        })
        .collect();
    assert_eq!((stage.load.get(), stage.gauge(|g| &g.queued)), (4, 2), "nobody else wants any");
    assert_eq!(stage.load.wanted(), 1);
    stage.load.want(true);
    for left in [3, 2] {
        let (id, _) = stage.take_tagged();
        stage.respond(id, Some(2), b"ok", true);
        stage.publish();
        assert_eq!((stage.load.get(), stage.gauge(|g| &g.queued)), (left, 2), "left to the other");
    }
    assert_eq!(stage.shard.driver.wait, Wait::AtMost(limits::QUEUE_POLL_INTERVAL));
    let (id, _) = stage.take_tagged();
    stage.respond(id, Some(2), b"ok", true);
    stage.publish();
    assert_eq!((stage.load.get(), stage.gauge(|g| &g.queued)), (2, 1), "less than its share");
    stage.load.want(false);
    stage.wait(limits::QUEUE_POLL_INTERVAL);
    assert_eq!((stage.load.get(), stage.gauge(|g| &g.queued)), (3, 0));
    assert_eq!(stage.load.wanted(), 0);
    assert!(stage.sent(clients[0]).ends_with("ok"));
}

#[test]
fn what_waited_is_routed_when_it_is_dispatched() {
    let mut stage = Stage::new();
    stage.worker_dies();
    stage.settle();
    let (kept, gone) = (stage.connect(), stage.connect());
    stage.send(kept, &hang(11));
    stage.send(gone, b"GET /big HTTP/1.1\r\nhost: test\r\n\r\n");
    let spec =
        |id, path: &str| super::RouteSpec { id, path: path.into(), methods: vec!["GET".into()] };
    let routes = super::Routes::new(vec![spec(5, "/{which}/{id}")], true).unwrap();
    stage.attach_with(std::sync::Arc::new(routes));
    let (id, message) = stage.lane.receive().unwrap().unwrap();
    let crate::ipc::message::ToWorker::Request(request) = message else { panic!("a request") };
    let params: Vec<_> = request.params.iter().map(|span| span.of(request.blob).unwrap()).collect();
    assert_eq!((request.route, params), (5, vec![&b"user"[..], b"11"]));
    assert!(stage.sent(gone).starts_with("HTTP/1.1 404 "), "{}", stage.sent(gone));
    stage.respond(id, Some(2), b"ok", true);
    stage.publish();
    assert!(stage.sent(kept).ends_with("\r\n\r\nok"));
    assert_eq!((stage.held(), stage.load.get()), ((2, 0), 0));
}

#[test]
fn requests_that_find_no_room_in_the_ring_wait_for_it() {
    let mut stage = Stage::new();
    let slot = stage.shard.core.links.get_mut(0).unwrap();
    let why = crate::ipc::message::Cancellation::ClientGone;
    while slot.lane.send_cancel(1 << 32, why).unwrap() {}
    slot.touched = true;
    let client = stage.connect();
    stage.send(client, &hang(1));
    assert_eq!((stage.gauge(|g| &g.queued), stage.load.get()), (1, 0));
    while stage.lane.receive().unwrap().is_some() {}
    stage.publish();
    let (id, _) = stage.take_tagged();
    stage.respond(id, Some(2), b"ok", true);
    stage.publish();
    assert!(stage.sent(client).ends_with("\r\n\r\nok"), "{}", stage.sent(client));
}
