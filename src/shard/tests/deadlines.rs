//! Every state of a connection in which the client is awaited ends.

use std::time::Duration;

use super::script::Stage;
use crate::{limits, uring::Wait};

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
    assert!(matches!(report, Ok(super::Report::AccessLog(_))), "{report:?}");
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
