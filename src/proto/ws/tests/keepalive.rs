//! Pings of our own, and what becomes of clients that do not answer.

use std::time::{Duration, Instant};

use super::*;
use crate::{
    limits::{WS_CLOSE_TIMEOUT, WS_PING_INTERVAL, WS_PING_TIMEOUT},
    proto::ws::{Phase, Violation},
};

fn pinged(now: Instant) -> (Ws, Vec<u8>, Instant) {
    let mut engine = Ws::new(options(None), now);
    let at = engine.poll_timeout().expect("a Ping is to come");
    assert_eq!(at, now + WS_PING_INTERVAL);
    assert_eq!(engine.handle_timeout(at - Duration::from_millis(1), true), Ok(()));
    assert!(!engine.has_output());
    assert_eq!(engine.handle_timeout(at, true), Ok(()));
    let ping = output(&mut engine);
    assert_eq!(ping[..2], [0x89, 4]);
    assert_eq!(engine.poll_timeout(), Some(at + WS_PING_TIMEOUT));
    (engine, ping[2..].to_vec(), at)
}

#[test]
fn a_client_that_answers_is_asked_again_an_interval_later() {
    let (mut engine, body, at) = pinged(origin());
    engine.decode(&frame(FIN | PONG, &body), &mut Workspace::default()).expect("valid");
    assert_eq!(engine.poll_timeout(), Some(at + WS_PING_INTERVAL));
    assert_eq!(engine.handle_timeout(at + WS_PING_INTERVAL, true), Ok(()));
    assert_ne!(output(&mut engine)[2..], body, "each Ping is its own");
}

#[test]
fn a_client_that_is_silent_is_given_up_with_1011() {
    let (mut engine, _, at) = pinged(origin());
    let given_up = engine.handle_timeout(at + WS_PING_TIMEOUT, true);
    assert_eq!(given_up, Err(Violation::PingTimeout));
    assert_eq!(engine.phase(), Phase::Over);
    assert_eq!(output(&mut engine), b"\x88\x18\x03\xf3keepalive ping timeout");
    assert_eq!(engine.poll_timeout(), None);
}

#[test]
fn a_pong_that_nobody_asked_for_is_no_answer() {
    let (mut engine, _, at) = pinged(origin());
    let mut work = Workspace::default();
    engine.decode(&frame(FIN | PONG, "other"), &mut work).expect("valid");
    assert_eq!(engine.poll_timeout(), Some(at + WS_PING_TIMEOUT));
}

#[test]
fn a_client_that_is_in_the_middle_of_a_long_frame_is_alive() {
    let (mut engine, _, at) = pinged(origin());
    let mut work = Workspace::default();
    engine.decode(&frame(FIN | BINARY, [0; 100])[..50], &mut work).expect("valid");
    let first = at + WS_PING_TIMEOUT;
    assert_eq!(engine.handle_timeout(first, true), Ok(()));
    // It has to go on, though.
    let second = engine.poll_timeout().expect("it is awaited");
    assert_eq!(second, first + WS_PING_TIMEOUT);
    assert_eq!(engine.handle_timeout(second, true), Err(Violation::PingTimeout));
}

#[test]
fn silence_is_not_the_clients_while_nobody_listens() {
    let (mut engine, body, at) = pinged(origin());
    let mut now = at;
    for _ in 0..10 {
        now += WS_PING_TIMEOUT;
        assert_eq!(engine.handle_timeout(now, false), Ok(()));
    }
    engine.decode(&frame(FIN | PONG, &body), &mut Workspace::default()).expect("valid");
    // The next Ping is due at once, and it has a whole timeout to be answered.
    assert_eq!(engine.handle_timeout(now, true), Ok(()));
    assert_eq!(engine.poll_timeout(), Some(now + WS_PING_TIMEOUT));
}

#[test]
fn a_ping_that_waits_behind_other_output_has_not_been_left_unanswered() {
    let now = origin();
    let mut engine = Ws::new(options(None), now);
    let sent = now + WS_PING_INTERVAL;
    assert_eq!(engine.handle_timeout(sent, true), Ok(()));
    assert_eq!(engine.handle_timeout(sent + WS_PING_TIMEOUT, true), Ok(()));
    assert_eq!(output(&mut engine).len(), 6, "one Ping, however often it was due");
    let given_up = engine.handle_timeout(sent + 2 * WS_PING_TIMEOUT, true);
    assert_eq!(given_up, Err(Violation::PingTimeout));
}

#[test]
fn a_close_that_is_not_answered_ends_by_itself() {
    let now = origin();
    let mut engine = Ws::new(options(None), now);
    engine.encode_close(None, now, &mut Vec::new()).expect("valid");
    let at = engine.poll_timeout().expect("the client's Close is awaited");
    assert_eq!(at, now + WS_CLOSE_TIMEOUT);
    assert_eq!(engine.handle_timeout(at, true), Ok(()));
    assert_eq!(engine.phase(), Phase::Over);
    assert!(!engine.has_output());
}

#[test]
fn no_interval_sends_no_ping_and_no_timeout_waits_for_ever() {
    let now = origin();
    let silent = Options { ping_interval: None, ..options(None) };
    assert_eq!(Ws::new(silent, now).poll_timeout(), None);
    let patient = Options { ping_timeout: None, ..options(None) };
    let mut engine = Ws::new(patient, now);
    for turn in 1..10 {
        let at = now + turn * WS_PING_INTERVAL;
        assert_eq!(engine.handle_timeout(at, true), Ok(()));
        assert_eq!(output(&mut engine).len(), 6);
    }
}
