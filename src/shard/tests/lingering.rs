//! What is received behind a connection's last word is dropped, for a while and up to a size.

use super::{
    http2::peer::{frame, raw},
    script::Stage,
};
use crate::{limits, uring::Token};

/// Sends as long as that is received, and returns how much that was, from the moment on at which nothing of it is read.
fn dropped_of(stage: &mut Stage, client: Token, piece: &[u8]) -> usize {
    let mut dropped = 0;
    while stage.is_receiving(client) {
        stage.send(client, piece);
        dropped += piece.len();
        assert!(dropped < 4 * limits::LINGER_SIZE_MAX, "it is received without end");
    }
    dropped
}

#[test]
fn what_is_dropped_of_a_client_that_floods_is_bounded_whether_or_not_it_reads() {
    for reads in [true, false] {
        let mut stage = Stage::new();
        let client = raw(&mut stage);
        let pings = frame(6, 0, 0, &[0; 8]).repeat(900);
        stage.shard.driver.stuck = !reads;
        let sent = dropped_of(&mut stage, client, &pings);
        assert!(sent > limits::LINGER_SIZE_MAX, "{sent} bytes");
        assert_eq!(stage.held().0, 1, "it has time to read the GOAWAY");
        stage.wait(if reads { limits::LINGER_TIMEOUT } else { limits::SEND_TIMEOUT * 2 });
        stage.wait(limits::SWEEP_INTERVAL);
        // What was cancelled comes to its end.
        stage.unstick();
        assert_eq!(stage.held(), (0, 0), "reads: {reads}");
    }
}

#[test]
fn what_is_dropped_behind_the_last_response_of_http1_is_bounded() {
    let mut stage = Stage::new();
    let client = stage.connect();
    stage.send(client, b"NO REQUEST\r\n\r\n");
    assert!(stage.sent(client).starts_with("HTTP/1.1 400 "));
    let sent = dropped_of(&mut stage, client, &[b'x'; 10_000]);
    assert!((limits::LINGER_SIZE_MAX..limits::LINGER_SIZE_MAX + 10_000).contains(&sent));
    stage.wait(limits::LINGER_TIMEOUT);
    stage.wait(limits::SWEEP_INTERVAL);
    assert_eq!(stage.held(), (0, 0));
}
