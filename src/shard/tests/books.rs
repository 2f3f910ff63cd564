//! What is begun ends once: exchanges, connections, load.

use super::{super::client::Client, Report, script::Stage};
use crate::{
    ipc::message::{Cancellation, Response, ToWorker},
    limits,
    pool::WorkerId,
    span::{Field, Span},
};

const HANG: &[u8] = b"GET /hang HTTP/1.1\r\nhost: test\r\n\r\n";

const POST: &[u8] = b"POST /echo HTTP/1.1\r\nhost: test\r\ncontent-length: 2\r\n\r\nok";

#[test]
fn a_connection_that_is_closing_does_not_touch_the_exchange_that_got_its_slot() {
    let mut stage = Stage::new();
    let client = stage.connect();
    stage.shard.driver.stuck = true;
    stage.send(client, HANG);
    let id = stage.take();
    stage.respond(id, None, b"begun", false);
    stage.publish();
    // Lost while its send is in flight; the worker gives its exchange up before that send has ended.
    stage.reset(client);
    assert!(matches!(stage.lane.receive(), Ok(Some((_, ToWorker::Cancel(_))))));
    assert!(stage.lane.send_abort(id).unwrap());
    stage.publish();
    assert_eq!(stage.held(), (1, 0));
    let other = stage.connect();
    stage.send(other, HANG);
    let id = stage.take();
    stage.unstick();
    assert_eq!(stage.held(), (1, 1), "only the first is gone");
    assert!(stage.lane.receive().unwrap().is_none(), "nobody cancelled the second");
    stage.respond(id, Some(2), b"ok", true);
    stage.publish();
    assert!(stage.sent(other).ends_with("\r\n\r\nok"), "{}", stage.sent(other));
    assert_eq!(stage.load.get(), 0);
}

#[test]
fn a_broken_worker_does_not_cancel_through_a_connection_that_is_closing() {
    let mut stage = Stage::new();
    let client = stage.connect();
    stage.shard.driver.stuck = true;
    stage.send(client, HANG);
    let id = stage.take();
    stage.respond(id, Some(100), b"begun", false);
    stage.publish();
    assert!(stage.lane.send_abort(id).unwrap());
    stage.publish();
    let other = stage.connect();
    stage.send(other, HANG);
    stage.take();
    stage.unstick();
    stage.finish(client);
    assert_eq!(stage.held(), (1, 1));
    assert!(stage.lane.receive().unwrap().is_none(), "nobody cancelled the second");
}

#[test]
fn when_client_and_worker_go_in_one_turn_nothing_is_left() {
    let mut stage = Stage::new();
    for _ in 0..3 {
        let client = stage.connect();
        stage.send(client, POST);
    }
    while stage.lane.receive().unwrap().is_some() {}
    assert_eq!((stage.load.get(), stage.held()), (3, (3, 3)));
    let client = stage.connect();
    stage.send(client, HANG);
    stage.worker_dies();
    stage.reset(client);
    assert_eq!((stage.load.get(), stage.held()), (0, (3, 0)));
}

#[test]
fn a_response_that_ends_before_its_upload_gives_everything_back() {
    let mut stage = Stage::new();
    let client = stage.connect();
    stage.send(client, b"POST /echo HTTP/1.1\r\nhost: test\r\ncontent-length: 9\r\n\r\nhalf");
    let id = stage.take();
    stage.respond(id, Some(2), b"no", true);
    stage.publish();
    assert!(stage.sent(client).contains("connection: close\r\n"), "{}", stage.sent(client));
    stage.send(client, b"other");
    stage.finish(client);
    assert_eq!((stage.load.get(), stage.held()), (0, (0, 0)));
}

#[test]
fn a_cancel_that_crosses_the_end_is_forgotten_with_its_exchange() {
    let mut stage = Stage::new();
    let client = stage.connect();
    stage.send(client, HANG);
    let id = stage.take();
    stage.respond(id, Some(2), b"ok", true);
    stage.lane.publish().unwrap();
    stage.reset(client);
    assert_eq!((stage.load.get(), stage.held()), (0, (0, 0)));
}

#[test]
fn a_response_that_cannot_be_sent_is_a_502_and_its_body_no_fault_of_the_worker() {
    let mut stage = Stage::new();
    let client = stage.connect();
    stage.send(client, HANG);
    let id = stage.take();
    let field = Field { name: Span::new(0, 1).unwrap(), value: Span::new(1, 1).unwrap() };
    let response = Response {
        status: 200,
        fields: &[field],
        blob: b"x\n",
        content_length: None,
        body: b"",
        end: false,
    };
    assert!(stage.lane.send_response(id, &response).unwrap());
    stage.lane.send_body(id, b"body", false).unwrap();
    stage.publish();
    assert!(stage.sent(client).starts_with("HTTP/1.1 502 "), "{}", stage.sent(client));
    assert!(matches!(stage.lane.receive(), Ok(Some((_, ToWorker::Cancel(_))))));
    stage.lane.send_body(id, b"", true).unwrap();
    stage.publish();
    assert!(stage.reports.try_recv().is_err(), "no report of a fault");
    assert_eq!((stage.load.get(), stage.held()), (0, (1, 0)));
}

#[test]
fn a_response_that_is_longer_than_it_says_from_the_start_is_a_502() {
    let mut stage = Stage::new();
    let client = stage.connect();
    stage.send(client, HANG);
    let id = stage.take();
    stage.respond(id, Some(2), b"okay", true);
    stage.publish();
    assert!(stage.sent(client).starts_with("HTTP/1.1 502 "), "{}", stage.sent(client));
    assert_eq!((stage.load.get(), stage.held()), (0, (1, 0)));
}

#[test]
fn a_response_that_turns_out_too_short_is_a_502_as_long_as_nothing_of_it_was_sent() {
    let mut stage = Stage::new();
    let client = stage.connect();
    stage.send(client, HANG);
    let id = stage.take();
    stage.respond(id, Some(10), b"short", true);
    stage.publish();
    let sent = stage.sent(client);
    assert!(sent.starts_with("HTTP/1.1 502 ") && !sent.contains("short"), "{sent}");
    assert_eq!((stage.load.get(), stage.held().1, stage.gauge(|g| &g.failed)), (0, 0, 1));

    let client = stage.connect();
    stage.send(client, HANG);
    let id = stage.take();
    stage.respond(id, Some(10), b"short", false);
    stage.publish();
    assert_eq!(stage.lane.send_body(id, b"", true), Ok(Some(0)));
    stage.publish();
    assert!(stage.sent(client).ends_with("\r\n\r\nshort"), "cut off");
    assert_eq!((stage.load.get(), stage.held().1, stage.gauge(|g| &g.failed)), (0, 0, 2));
}

#[test]
fn a_retired_worker_is_reported_when_its_last_exchange_has_ended_and_gets_no_new_one() {
    let mut stage = Stage::new();
    let client = stage.connect();
    stage.send(client, HANG);
    let id = stage.take();
    let mut old = stage.attach();
    stage.retire(0);
    assert!(stage.reports.try_recv().is_err());
    let other = stage.connect();
    stage.send(other, HANG);
    let next = stage.take();
    stage.respond(next, Some(2), b"ok", true);
    stage.publish();
    std::mem::swap(&mut old, &mut stage.lane);
    stage.respond(id, Some(2), b"ok", true);
    stage.publish();
    let report = stage.reports.try_recv();
    assert!(matches!(report, Ok(Report::Retired { worker: WorkerId(0), .. })), "{report:?}");
}

#[test]
fn a_body_beyond_its_announced_length_ends_the_connection_and_is_cancelled() {
    let mut stage = Stage::new();
    let client = stage.connect();
    stage.send(client, HANG);
    let id = stage.take();
    stage.respond(id, Some(2), b"o", false);
    stage.publish();
    stage.lane.send_body(id, b"kay", false).unwrap();
    stage.publish();
    stage.finish(client);
    assert_eq!(stage.held(), (0, 1));
    assert!(matches!(stage.lane.receive(), Ok(Some((_, ToWorker::Cancel(_))))));
    assert!(stage.lane.send_abort(id).unwrap());
    stage.publish();
    assert_eq!((stage.load.get(), stage.held()), (0, (0, 0)));
}

#[test]
fn an_exchange_is_on_the_list_of_debtors_once_whoever_had_its_slot_before() {
    let mut stage = Stage::new();
    let core = &mut stage.shard.core;
    while core
        .links
        .get_mut(0)
        .unwrap()
        .lane
        .send_cancel(1 << 32, Cancellation::ClientGone)
        .unwrap()
    {}
    let (now, mut last) = (core.clock.now, 0);
    for _ in 0..10 {
        core.exchanges.remove(last);
        last = core.exchanges.insert(Client::Http1(0), limits::EXCHANGE_WINDOW, now);
        let entry = core.exchanges.get_mut(last).unwrap();
        (entry.link, entry.cancel_due) = (Some(0), Some(Cancellation::ClientGone));
        core.list(last);
    }
    core.settle_debts();
    assert_eq!(core.owing, [last], "there is no room, so it stays");
}

#[test]
fn what_a_dead_worker_had_published_still_counts() {
    let mut stage = Stage::new();
    let client = stage.connect();
    stage.send(client, HANG);
    let id = stage.take();
    stage.respond(id, Some(2), b"ok", true);
    for _ in 0..limits::DRAIN_RECORDS_MAX + 1 {
        assert!(stage.lane.send_abort(id).unwrap());
    }
    stage.lane.publish().unwrap();
    stage.worker_dies();
    stage.settle();
    assert!(stage.sent(client).ends_with("\r\n\r\nok"), "{}", stage.sent(client));
    assert_eq!((stage.load.get(), stage.held()), (0, (1, 0)));
}

#[test]
fn a_whole_answer_is_not_lost_with_the_broken_one_behind_it() {
    let mut stage = Stage::new();
    let client = stage.connect();
    stage.shard.driver.stuck = true;
    for body in [b"one", b"two"] {
        stage.send(client, HANG);
        let id = stage.take();
        stage.respond(id, Some(3), body, true);
        stage.publish();
    }
    stage.send(client, HANG);
    let third = stage.take();
    stage.respond(third, Some(100), b"begun", false);
    stage.publish();
    // The first is sent; the second goes out in one piece with the beginning of the third.
    stage.shard.driver.stuck = false;
    stage.shard.turn().unwrap();
    stage.shard.driver.stuck = true;
    stage.settle();
    assert!(stage.lane.send_abort(third).unwrap());
    stage.publish();
    stage.unstick();
    let sent = stage.sent(client);
    assert!(sent.contains("\r\n\r\ntwo") && sent.ends_with("\r\n\r\nbegun"), "{sent}");
    stage.finish(client);
    assert_eq!(stage.held(), (0, 0));
}

#[test]
fn early_hints_go_ahead_of_the_response_and_trailers_end_it() {
    let mut stage = Stage::new();
    let client = stage.connect();
    stage.send(client, b"GET /hang HTTP/1.1\r\nhost: test\r\nte: trailers\r\n\r\n");
    let id = stage.take();
    let field = Field { name: Span::new(0, 4).unwrap(), value: Span::new(4, 5).unwrap() };
    let mut head = Response {
        status: 103,
        fields: &[field],
        blob: b"linkvalue",
        content_length: Some(0),
        body: b"",
        end: false,
    };
    assert!(stage.lane.send_informational(id, &head).unwrap());
    stage.respond(id, None, b"body", false);
    head.end = true;
    assert!(stage.lane.send_trailers(id, &head).unwrap());
    stage.publish();
    let sent = stage.sent(client);
    assert!(
        sent.starts_with("HTTP/1.1 103 Early Hints\r\nlink: value\r\n\r\nHTTP/1.1 200 OK\r\n"),
        "{sent}"
    );
    assert!(sent.ends_with("4\r\nbody\r\n0\r\nlink: value\r\n\r\n"), "{sent}");
    assert_eq!(stage.held(), (1, 0));
    assert_eq!(stage.load.get(), 0);
}
