//! Nothing stops for want of somebody to go on, and the shard sleeps when there is nothing to do.

use super::script::Stage;
use crate::{ipc::message::ToWorker, limits, uring::Wait};

fn post(length: usize) -> Vec<u8> {
    format!("POST /echo HTTP/1.1\r\nhost: test\r\ncontent-length: {length}\r\n\r\n").into_bytes()
}

/// Takes body records; their bytes, and whether the end was among them.
fn read_bodies(stage: &mut Stage) -> (usize, bool) {
    let (mut bytes, mut ended) = (0, false);
    while let Some((_, message)) = stage.lane.receive().unwrap() {
        let ToWorker::Body { data, end } = message else { panic!("not a body") };
        bytes += data.len();
        ended |= end;
    }
    (bytes, ended)
}

#[test]
fn chunks_that_come_back_alone_do_not_keep_the_shard_awake() {
    let mut stage = Stage::new();
    let client = stage.connect();
    stage.send(client, &post(100_000));
    stage.take();
    stage.send(client, &[b'x'; 100_000]);
    assert_eq!(read_bodies(&mut stage), (100_000, true));
    stage.publish();
    assert_ne!(stage.shard.driver.wait, Wait::Poll);
}

#[test]
fn an_upload_that_waits_for_a_chunk_goes_on_when_one_comes_back_with_something_else() {
    let mut stage = Stage::new();
    let window = limits::EXCHANGE_WINDOW;
    // As many as fill the arena, and one.
    let uploads = limits::CHUNK_COUNT * limits::CHUNK_SIZE / window + 1;
    let clients: Vec<_> = (0..uploads)
        .map(|_| {
            let client = stage.connect();
            stage.send(client, &post(window));
            (client, stage.take())
        })
        .collect();
    for (client, _) in &clients {
        stage.send(*client, &vec![b'x'; window]);
    }
    let (mut bytes, ended) = read_bodies(&mut stage);
    assert!(ended && bytes < uploads * window);
    // Chunks, and a record that leads to nothing on the network.
    let (_, first) = clients[0];
    assert!(stage.lane.send_credit(first, 1).unwrap());
    stage.publish();
    bytes += read_bodies(&mut stage).0;
    assert_eq!(bytes, uploads * window);
}

#[test]
fn a_response_without_a_body_to_send_still_gives_its_worker_credit() {
    let mut stage = Stage::new();
    let client = stage.connect();
    stage.send(client, b"HEAD /big HTTP/1.1\r\nhost: test\r\n\r\n");
    let id = stage.take();
    stage.respond(id, Some(1 << 20), b"", false);
    stage.publish();
    let mut left: usize = 1 << 20;
    let mut credit = limits::EXCHANGE_WINDOW;
    while left > 0 {
        let data = vec![b'x'; credit.min(left)];
        let taken = stage.lane.send_body(id, &data, data.len() == left).unwrap().unwrap();
        left -= taken;
        credit -= taken;
        stage.publish();
        while let Some((_, message)) = stage.lane.receive().unwrap() {
            let ToWorker::Credit(bytes) = message else { panic!("{message:?}") };
            credit += usize::try_from(bytes).unwrap();
        }
        assert!(credit > 0 || left == 0, "{left} bytes to go");
    }
    assert_eq!(stage.held(), (1, 0));
    assert!(stage.sent(client).ends_with("\r\n\r\n"));
}

#[test]
fn a_fault_that_shows_while_the_shard_goes_to_sleep_is_reported_at_once() {
    let mut stage = Stage::new();
    let client = stage.connect();
    stage.send(client, b"POST /echo HTTP/1.1\r\nhost: test\r\ncontent-length: 2\r\n\r\nok");
    let slot = stage.shard.core.links.get_mut(0).unwrap();
    slot.fault = Some(crate::ipc::Fault::Release { index: 7 });
    assert!(stage.shard.core.arm_lanes(), "there is a link to let go of");
    stage.settle();
    assert!(stage.sent(client).starts_with("HTTP/1.1 502 "), "{}", stage.sent(client));
}

#[test]
fn input_beyond_its_bound_pauses_the_receive_and_the_answer_resumes_it() {
    let mut stage = Stage::new();
    let client = stage.connect();
    stage.send(client, b"GET /hang HTTP/1.1\r\nhost: test\r\n\r\n");
    let id = stage.take();
    let next = b"GET /nowhere HTTP/1.1\r\nhost: test\r\n\r\n";
    let many = next.repeat(limits::INPUT_SIZE_MAX / next.len() + 1);
    stage.send(client, &many);
    assert!(!stage.is_receiving(client));
    stage.respond(id, Some(2), b"ok", true);
    stage.publish();
    let expected = 1 + many.len() / next.len();
    assert_eq!(stage.sent(client).matches("HTTP/1.1 ").count(), expected);
    assert!(stage.is_receiving(client));
}

#[test]
fn a_client_that_resets_while_its_input_waits_is_gone_at_once() {
    let mut stage = Stage::new();
    let client = stage.connect();
    stage.send(client, b"GET /hang HTTP/1.1\r\nhost: test\r\n\r\n");
    stage.take();
    let next = b"GET /nowhere HTTP/1.1\r\nhost: test\r\n\r\n";
    stage.send(client, &next.repeat(limits::INPUT_SIZE_MAX / next.len() + 1));
    assert!(!stage.is_receiving(client));
    stage.hangs_up(client);
    assert!(stage.shard.core.connections.is_empty());
    assert_eq!(stage.gauge(|gauges| &gauges.abandoned), 1);
}

#[test]
fn a_client_that_ends_its_half_while_its_input_waits_is_served_what_it_asked_before() {
    let mut stage = Stage::new();
    let client = stage.connect();
    stage.send(client, b"GET /hang HTTP/1.1\r\nhost: test\r\n\r\n");
    let id = stage.take();
    let next = b"GET /nowhere HTTP/1.1\r\nhost: test\r\n\r\n";
    let many = next.repeat(limits::INPUT_SIZE_MAX / next.len() + 1);
    stage.send(client, &many);
    stage.ends_unheard(client);
    assert_eq!(stage.gauge(|gauges| &gauges.abandoned), 0);
    stage.respond(id, Some(2), b"ok", true);
    stage.publish();
    let expected = 1 + many.len() / next.len();
    assert_eq!(stage.sent(client).matches("HTTP/1.1 ").count(), expected);
    stage.finish(client);
    assert!(stage.shard.core.connections.is_empty());
}

#[test]
fn a_request_that_arrives_after_the_drain_began_is_answered_with_close() {
    let mut stage = Stage::new();
    let client = stage.connect();
    stage.send(client, b"GET /hang HTTP/1.1\r\n");
    stage.drain();
    stage.send(client, b"host: test\r\n\r\n");
    let id = stage.take();
    stage.respond(id, Some(2), b"ok", true);
    stage.publish();
    let answer = stage.sent(client);
    assert!(answer.contains("connection: close\r\n") && answer.ends_with("ok"), "{answer}");
    stage.finish(client);
    assert_eq!(stage.held(), (0, 0));
}

#[test]
fn chunked_framing_at_the_edge_of_the_credit_waits_and_passes() {
    let mut stage = Stage::new();
    let client = stage.connect();
    stage.send(client, b"POST /echo HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n");
    let id = stage.take();
    let window = limits::EXCHANGE_WINDOW;
    let mut body = format!("{window:x}\r\n").into_bytes();
    body.extend(vec![b'x'; window]);
    body.extend_from_slice(b"\r\n0\r\n\r\n");
    stage.send(client, &body);
    let (first, ended) = read_bodies(&mut stage);
    assert!(!ended);
    assert!(stage.lane.send_credit(id, first as u64).unwrap());
    stage.publish();
    let (rest, ended) = read_bodies(&mut stage);
    assert_eq!((first + rest, ended), (window, true));
}
