//! A client that has sent FIN has gone if a response is awaited or under way, and gets what was finished before.

use super::{Report, script::Stage};
use crate::{
    ipc::message::{Cancellation, ToWorker},
    limits,
};

const HANG: &[u8] = b"GET /hang HTTP/1.1\r\nhost: test\r\n\r\n";

fn post(length: usize) -> Vec<u8> {
    format!("POST /echo HTTP/1.1\r\nhost: test\r\ncontent-length: {length}\r\n\r\n").into_bytes()
}

/// The CANCEL that the worker got next.
fn cancel(stage: &mut Stage) -> Option<Cancellation> {
    loop {
        match stage.lane.receive().unwrap()? {
            (_, ToWorker::Cancel(why)) => return Some(why),
            (_, ToWorker::Body { .. }) => {}
            other => panic!("{other:?}"),
        }
    }
}

fn log(stage: &mut Stage) -> String {
    stage.wait(limits::SWEEP_INTERVAL);
    let mut all = String::new();
    while let Ok(report) = stage.reports.try_recv() {
        let Report::AccessLog(lines) = report else { panic!("{report:?}") };
        all += std::str::from_utf8(&lines).unwrap();
    }
    all
}

#[test]
fn a_client_that_half_closes_behind_its_request_is_let_go_and_its_exchange_cancelled() {
    let mut stage = Stage::new();
    let client = stage.connect();
    stage.send(client, HANG);
    let id = stage.take();
    stage.finish(client);
    assert_eq!(stage.held(), (0, 1));
    assert_eq!(cancel(&mut stage), Some(Cancellation::ClientGone));
    assert!(log(&mut stage).contains("\"GET /hang HTTP/1.1\" 499 0 "));
    assert!(stage.lane.send_abort(id).unwrap());
    stage.publish();
    assert_eq!((stage.held(), stage.load.get(), stage.gauge(|g| &g.abandoned)), ((0, 0), 0, 1));
}

#[test]
fn the_last_client_that_goes_while_the_shard_drains_is_told_of() {
    let mut stage = Stage::new();
    let client = stage.connect();
    stage.send(client, HANG);
    stage.take();
    stage.drain();
    stage.finish(client);
    assert_eq!(cancel(&mut stage), Some(Cancellation::ClientGone));
}

#[test]
fn a_client_that_half_closes_inside_its_body_is_let_go_and_its_exchange_cancelled() {
    let mut stage = Stage::new();
    let client = stage.connect();
    stage.send(client, &post(10));
    stage.take();
    stage.finish(client);
    assert_eq!(stage.held(), (0, 1));
    assert_eq!(cancel(&mut stage), Some(Cancellation::ClientGone));
}

#[test]
fn a_client_that_half_closes_behind_a_body_that_waits_for_credit_has_gone_as_well() {
    let mut stage = Stage::new();
    let client = stage.connect();
    let length = limits::EXCHANGE_WINDOW + 1000;
    stage.send(client, &post(length));
    stage.take();
    stage.send(client, &vec![b'x'; length]);
    stage.finish(client);
    assert_eq!(stage.held(), (0, 1));
    assert_eq!(cancel(&mut stage), Some(Cancellation::ClientGone));
}

#[test]
fn a_response_that_is_out_to_its_end_is_delivered_behind_the_clients_fin() {
    let mut stage = Stage::new();
    let client = stage.connect();
    stage.shard.driver.stuck = true;
    stage.send(client, HANG);
    let id = stage.take();
    stage.respond(id, Some(2), b"ok", true);
    stage.publish();
    stage.finish(client);
    assert_eq!(stage.held(), (1, 0));
    stage.unstick();
    assert!(stage.sent(client).ends_with("\r\n\r\nok"), "{}", stage.sent(client));
    assert_eq!((stage.held(), stage.gauge(|g| &g.abandoned)), ((0, 0), 0));
    assert!(log(&mut stage).contains("\"GET /hang HTTP/1.1\" 200 2 "));
}

#[test]
fn whole_responses_reach_a_client_whose_next_request_is_cancelled_by_its_fin() {
    let mut stage = Stage::new();
    let client = stage.connect();
    stage.shard.driver.stuck = true;
    stage.send(client, HANG);
    let id = stage.take();
    stage.respond(id, Some(3), b"one", true);
    stage.publish();
    // The first is still on its way into the kernel; of the second a part is encoded.
    stage.send(client, HANG);
    let id = stage.take();
    stage.respond(id, None, b"two", false);
    stage.publish();
    stage.finish(client);
    stage.unstick();
    let sent = stage.sent(client);
    assert!(sent.ends_with("\r\n\r\none"), "{sent}");
    assert_eq!((stage.held(), stage.gauge(|g| &g.abandoned)), ((0, 1), 1));
    assert_eq!(cancel(&mut stage), Some(Cancellation::ClientGone));
}

#[test]
fn requests_in_front_of_the_clients_end_are_dropped_with_it() {
    let mut stage = Stage::new();
    let client = stage.connect();
    stage.send(client, &[HANG, HANG, b"GET /half"].concat());
    let id = stage.take();
    // So much of it is unsent that the next one is not begun.
    stage.shard.driver.stuck = true;
    let body = vec![b'x'; limits::UNSENT_SIZE_MAX + 1];
    stage.respond(id, Some(body.len() as u64), b"", false);
    assert_eq!(stage.lane.send_body(id, &body, true), Ok(Some(body.len())));
    stage.publish();
    stage.finish(client);
    stage.unstick();
    assert!(stage.lane.receive().unwrap().is_none(), "the second was not begun");
    let sent = stage.sent(client);
    assert!(sent.len() > body.len() && sent.matches("HTTP/1.1 ").count() == 1, "{}", sent.len());
    assert_eq!((stage.held(), stage.load.get()), ((0, 0), 0));
}

#[test]
fn a_client_that_goes_while_its_request_waits_leaves_nothing_behind() {
    let mut stage = Stage::new();
    stage.worker_dies();
    stage.settle();
    let client = stage.connect();
    stage.send(client, HANG);
    assert_eq!((stage.held(), stage.gauge(|g| &g.queued)), ((1, 1), 1));
    stage.finish(client);
    assert_eq!((stage.held(), stage.gauge(|g| &g.queued)), ((0, 0), 0));
    stage.attach();
    assert!(stage.lane.receive().unwrap().is_none());
    assert_eq!(stage.gauge(|g| &g.abandoned), 1);
    assert!(log(&mut stage).contains("\"GET /hang HTTP/1.1\" 499 0 "));
}
