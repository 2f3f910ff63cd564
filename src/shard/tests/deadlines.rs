//! Every state of a connection in which the client is awaited ends.

use std::time::Duration;

use super::{Limits, Report, script::Stage};
use crate::{
    ipc::message::{Cancellation, ToWorker},
    limits,
    pool::{Incarnation, WorkerId},
    uring::Wait,
};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_body_that_stops_inside_a_chunk_size_is_answered_408() {
    let mut stage = Stage::new();
    let client = stage.connect();
    stage.send(client, b"POST /echo HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n5");
    stage.take();
    stage.wait(limits::BODY_TIMEOUT + SECOND);
    assert!(stage.sent(client).starts_with("HTTP/1.1 408 "), "{}", stage.sent(client));
    stage.wait(limits::LINGER_TIMEOUT + SECOND);
    assert_eq!(stage.held().0, 0);
}

#[test]
fn a_body_that_waits_for_its_worker_is_not_held_against_the_client() {
    let mut stage = Stage::new();
    let client = stage.connect();
    let length = limits::EXCHANGE_WINDOW + 1;
    stage.send(
        client,
        format!("POST /echo HTTP/1.1\r\nhost: test\r\ncontent-length: {length}\r\n\r\n").as_bytes(),
    );
    stage.send(client, &vec![b'x'; length]);
    stage.wait(10 * limits::BODY_TIMEOUT);
    assert_eq!(stage.sent(client), "");
    assert_eq!(stage.held(), (1, 1));
}

#[test]
fn a_client_that_trickles_input_and_takes_nothing_is_cut_off() {
    let mut stage = Stage::new();
    let client = stage.connect();
    stage.shard.driver.stuck = true;
    stage.send(client, b"GET /nowhere HTTP/1.1\r\nhost: test\r\n\r\n");
    for _ in 0..10 {
        if !stage.is_receiving(client) {
            break;
        }
        stage.arrives(client, b"G");
        stage.wait(limits::SEND_TIMEOUT / 3);
    }
    stage.unstick();
    assert_eq!(stage.held().0, 0);
}

#[test]
fn a_client_that_trickles_input_after_the_last_response_does_not_prolong_the_lingering() {
    let mut stage = Stage::new();
    let client = stage.connect();
    stage.send(client, b"GET /nowhere HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n");
    for _ in 0..6 {
        if !stage.is_receiving(client) {
            break;
        }
        stage.arrives(client, b"more");
        stage.wait(limits::LINGER_TIMEOUT / 2);
    }
    assert_eq!(stage.held().0, 0);
}

#[test]
fn a_long_send_is_given_the_time_that_its_bytes_take_at_the_minimum_rate() {
    let mut stage = Stage::new();
    let client = stage.connect();
    stage.send(client, b"GET /big HTTP/1.1\r\nhost: test\r\n\r\n");
    let id = stage.take();
    stage.shard.driver.stuck = true;
    let body = vec![b'x'; limits::EXCHANGE_WINDOW - 10];
    stage.respond(id, Some(1 << 20), b"0123456789", false);
    assert_eq!(stage.lane.send_body(id, &body, false), Ok(Some(body.len())));
    stage.publish();
    stage.wait(4 * limits::SEND_TIMEOUT);
    assert_eq!(stage.held(), (1, 1), "2 KiB a second are enough");
    stage.wait(8 * limits::SEND_TIMEOUT);
    stage.unstick();
    assert_eq!(stage.held().0, 0);
}

#[test]
fn the_last_lines_of_the_access_log_do_not_wait_for_the_next_client() {
    let mut stage = Stage::new();
    let client = stage.connect();
    stage.send(client, b"GET /nowhere HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n");
    stage.finish(client);
    assert_eq!(stage.held().0, 0);
    assert_ne!(stage.shard.driver.wait, Wait::Forever);
    stage.wait(limits::SWEEP_INTERVAL);
    let report = stage.reports.try_recv();
    assert!(matches!(report, Ok(Report::AccessLog(_))), "{report:?}");
}

#[test]
fn an_error_of_one_client_does_not_keep_the_others_from_being_accepted() {
    let mut stage = Stage::new();
    stage.accept_fails(rustix::io::Errno::CONNABORTED);
    assert!(stage.is_accepting());
    stage.accept_fails(rustix::io::Errno::MFILE);
    assert!(!stage.is_accepting(), "descriptors do not come back at once");
    stage.wait(limits::SWEEP_INTERVAL);
    assert!(stage.is_accepting());
}

const HANG: &[u8] = b"GET /hang HTTP/1.1\r\nhost: test\r\n\r\n";

fn hurried() -> Stage {
    Stage::with(Limits { request_timeout: 3 * SECOND, ..Limits::default() })
}

#[test]
fn a_request_that_lasts_too_long_is_answered_504_and_cancelled_and_the_connection_kept() {
    let mut stage = hurried();
    let client = stage.connect();
    stage.send(client, HANG);
    let id = stage.take();
    stage.wait(2 * SECOND);
    assert_eq!(stage.sent(client), "");
    stage.wait(SECOND);
    let answer = stage.sent(client);
    assert!(
        answer.starts_with("HTTP/1.1 504 ") && !answer.contains("connection: close"),
        "{answer}"
    );
    let Ok(Some((cancelled, ToWorker::Cancel(why)))) = stage.lane.receive() else {
        panic!("CANCEL")
    };
    assert_eq!((cancelled, why), (id, Cancellation::DeadlinePassed));
    assert_eq!((stage.gauge(|g| &g.overdue), stage.held()), (1, (1, 1)));
    stage.wait(SECOND);
    assert_eq!(stage.gauge(|g| &g.overdue), 1, "once");
    // The next one on the connection; the late answer to the first reaches nobody.
    stage.send(client, HANG);
    let next = stage.take();
    stage.respond(id, Some(4), b"late", true);
    stage.respond(next, Some(2), b"ok", true);
    stage.publish();
    let sent = stage.sent(client);
    assert!(sent.ends_with("\r\n\r\nok") && !sent.contains("late"), "{sent}");
    assert_eq!((stage.held(), stage.load.get()), ((1, 0), 0));
    stage.wait(SECOND);
    let Ok(Report::AccessLog(lines)) = stage.reports.try_recv() else { panic!("a line") };
    assert!(String::from_utf8(lines).unwrap().contains("\"GET /hang HTTP/1.1\" 504 0 3."));
}

#[test]
fn a_response_that_has_begun_is_cut_off_at_the_deadline() {
    let mut stage = hurried();
    let client = stage.connect();
    stage.send(client, HANG);
    let id = stage.take();
    stage.respond(id, None, b"begun", false);
    stage.publish();
    stage.wait(4 * SECOND);
    let sent = stage.sent(client);
    assert!(sent.ends_with("5\r\nbegun\r\n") && !sent.contains("504"), "{sent}");
    stage.finish(client);
    assert_eq!((stage.held(), stage.gauge(|g| &g.overdue)), ((0, 1), 1));
    assert!(matches!(
        stage.lane.receive(),
        Ok(Some((_, ToWorker::Cancel(Cancellation::DeadlinePassed))))
    ));
}

#[test]
fn the_deadline_counts_the_time_in_the_queue() {
    let mut stage = hurried();
    stage.worker_dies();
    stage.settle();
    let client = stage.connect();
    stage.send(client, HANG);
    stage.wait(4 * SECOND);
    assert!(stage.sent(client).starts_with("HTTP/1.1 504 "), "{}", stage.sent(client));
    assert_eq!((stage.held(), stage.gauge(|g| &g.queued)), ((1, 0), 0));
}

/// Time goes by, one sweep after the other.
fn pass(stage: &mut Stage, time: Duration) {
    for _ in 0..time.as_millis() / limits::SWEEP_INTERVAL.as_millis() {
        stage.wait(limits::SWEEP_INTERVAL);
    }
}

fn stuck_reports(stage: &mut Stage) -> Vec<(WorkerId, Incarnation, Duration)> {
    let mut found = Vec::new();
    while let Ok(report) = stage.reports.try_recv() {
        if let Report::Stuck { worker, incarnation, standing } = report {
            found.push((worker, incarnation, standing));
        }
    }
    found
}

#[test]
fn a_worker_that_takes_nothing_while_it_holds_an_overdue_exchange_is_reported_once() {
    let mut stage = hurried();
    let client = stage.connect();
    stage.send(client, HANG);
    stage.take();
    stage.publish();
    // The client has gone as well: nobody else keeps the shard looking.
    stage.wait(4 * SECOND);
    stage.finish(client);
    assert_ne!(stage.shard.driver.wait, Wait::Forever);
    pass(&mut stage, limits::STUCK_AFTER - SECOND);
    assert_eq!(stuck_reports(&mut stage), []);
    pass(&mut stage, 5 * SECOND);
    let found = stuck_reports(&mut stage);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].0 == WorkerId(0) && found[0].2 >= limits::STUCK_AFTER, "{found:?}");
}

#[test]
fn a_worker_whose_loop_takes_the_cancel_is_not_stuck_however_long_its_handler_lasts() {
    let mut stage = hurried();
    let client = stage.connect();
    stage.send(client, HANG);
    stage.take();
    stage.publish();
    stage.wait(4 * SECOND);
    assert!(matches!(stage.lane.receive(), Ok(Some((_, ToWorker::Cancel(_))))));
    stage.publish();
    pass(&mut stage, 3 * limits::STUCK_AFTER);
    assert_eq!(stuck_reports(&mut stage), []);
}

#[test]
fn a_worker_that_takes_nothing_but_has_nothing_overdue_is_left_in_peace() {
    let mut stage = Stage::new();
    let client = stage.connect();
    stage.send(client, HANG);
    pass(&mut stage, 3 * limits::STUCK_AFTER);
    assert_eq!(stuck_reports(&mut stage), []);
    assert_eq!(stage.held(), (1, 1));
}

#[test]
fn timeouts_are_those_of_the_options() {
    let limits = Limits {
        header_timeout: 2 * SECOND,
        body_timeout: 3 * SECOND,
        keepalive_timeout: 4 * SECOND,
        ..Limits::default()
    };
    let mut stage = Stage::with(limits);
    let (head, body, idle) = (stage.connect(), stage.connect(), stage.connect());
    stage.send(head, b"GET /ha");
    stage.send(body, b"POST /echo HTTP/1.1\r\nhost: test\r\ncontent-length: 5\r\n\r\nha");
    stage.wait(SECOND);
    assert_eq!((stage.sent(head).as_str(), stage.sent(body).as_str()), ("", ""));
    stage.wait(SECOND);
    assert!(stage.sent(head).starts_with("HTTP/1.1 408 "), "{}", stage.sent(head));
    stage.wait(SECOND);
    assert!(stage.sent(body).starts_with("HTTP/1.1 408 "), "{}", stage.sent(body));
    assert!(stage.is_receiving(idle));
    stage.wait(2 * SECOND);
    assert!(!stage.is_receiving(idle));
    assert_eq!(stage.sent(idle), "");
}
