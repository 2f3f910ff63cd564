//! How connections begin and end.

use super::{
    client::Pair,
    raw::{
        CANCEL, GOAWAY, NO_ERROR, PING, PROTOCOL_ERROR, RST_STREAM, Raw, frame, get, post,
        rst_stream, settings,
    },
};
use crate::proto::{
    h2::{Event, PREFACE, Preface, preface},
    stream::{Cut, Responses},
};

/// The last stream that a GOAWAY promises to serve, and its reason.
fn goaway(raw: &mut Raw) -> Vec<(u32, u32)> {
    let frames = raw.frames().into_iter().filter(|frame| frame.kind == GOAWAY);
    frames
        .map(|frame| (frame.number(), u32::from_be_bytes(frame.payload[4..8].try_into().unwrap())))
        .collect()
}

#[test]
fn prior_knowledge_is_recognised_by_the_preface() {
    assert_eq!(preface(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04"), Preface::Whole);
    assert_eq!(preface(b"PRI * HT"), Preface::Partial);
    assert_eq!(preface(b"PUT / HTTP/1.1\r\n"), Preface::No);
}

#[test]
fn something_else_than_the_preface_ends_the_connection() {
    let mut raw = Raw::new();
    assert_eq!(raw.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"), []);
    assert!(raw.engine.is_closed());
}

#[test]
fn settings_go_out_before_anything_arrives() {
    let mut raw = Raw::new();
    raw.events();
    assert_eq!(raw.frames()[0].kind, super::raw::SETTINGS);
}

#[test]
fn a_graceful_goaway_lets_what_is_under_way_end() {
    let mut raw = Raw::open();
    let first = raw.begin(&get(1));
    raw.engine.graceful_goaway(raw.now);
    let frames = raw.frames();
    let kinds: Vec<_> = frames.iter().map(|frame| frame.kind).collect();
    assert_eq!(kinds, [GOAWAY, PING]);
    assert_eq!(frames[0].number(), 0x7fff_ffff, "none is turned away before the client has heard");
    let crossed = raw.begin(&get(3));
    raw.send(&frame(PING, 1, 0, &frames[1].payload));
    assert_eq!(goaway(&mut raw), [(3, NO_ERROR)]);
    assert_eq!(raw.send(&get(5)), [], "after that no request is one");
    raw.answer(first, b"ok");
    raw.frames();
    assert!(!raw.engine.is_closed());
    raw.answer(crossed, b"ok");
    raw.frames();
    raw.events();
    assert!(raw.engine.is_closed());
}

#[test]
fn a_graceful_goaway_closes_an_idle_connection() {
    let mut pair = Pair::new();
    pair.engine.graceful_goaway(pair.now);
    assert_eq!(pair.run(), []);
    assert!(pair.engine.is_closed());
    let mut raw = Raw::new();
    raw.engine.graceful_goaway(raw.now);
    assert!(raw.engine.is_closed(), "it had not even begun");
}

#[test]
fn a_clients_goaway_is_heeded() {
    let mut raw = Raw::open();
    let stream = raw.begin(&get(1));
    assert_eq!(raw.send(&frame(GOAWAY, 0, 0, &[0; 8])), []);
    assert!(!raw.engine.is_closed());
    raw.answer(stream, b"ok");
    raw.frames();
    raw.events();
    assert!(raw.engine.is_closed());
}

#[test]
fn a_cancelled_request_is_reported_and_its_siblings_go_on() {
    let mut raw = Raw::open();
    let (a, b) = (raw.begin(&get(1)), raw.begin(&post(3)));
    assert_eq!(raw.send(&rst_stream(1)), [Event::Reset { stream: a }]);
    raw.answer(b, b"ok");
    let frames = raw.frames();
    assert!(frames.iter().all(|frame| frame.stream == 3), "{frames:?}");
    assert!(raw.engine.is_idle());
}

#[test]
fn the_end_of_input_ends_every_request() {
    let mut raw = Raw::open();
    let stream = raw.begin(&get(1));
    raw.engine.handle_end();
    assert_eq!(raw.events(), [Event::Reset { stream }]);
    assert!(raw.engine.is_closed());
    let mut raw = Raw::new();
    raw.send(&PREFACE[..10]);
    raw.engine.handle_end();
    assert_eq!(raw.events(), []);
    assert!(raw.engine.is_closed());
}

#[test]
fn a_reset_of_ours_says_why() {
    let mut raw = Raw::open();
    let stream = raw.begin(&get(1));
    raw.engine.reset(stream, Cut::Cancelled);
    assert_eq!(raw.reset_with(1), CANCEL);
    assert!(raw.engine.is_idle());
}

#[test]
fn an_answer_before_the_end_of_the_request_stops_the_upload() {
    let mut raw = Raw::open();
    let stream = raw.begin(&post(1));
    raw.answer(stream, b"enough");
    let frames = raw.frames();
    let last = frames.last().expect("frames");
    assert_eq!((last.kind, last.number()), (RST_STREAM, NO_ERROR), "RFC 9113 §8.1");
}

#[test]
fn a_rule_of_framing_that_is_broken_ends_the_connection() {
    for bad in [
        frame(super::raw::DATA, 0, 0, b"x"),
        frame(super::raw::HEADERS, 0, 0, &[]),
        frame(super::raw::SETTINGS, 0, 0, &[0; 5]),
        frame(PING, 0, 0, &[0; 7]),
        frame(super::raw::CONTINUATION, 4, 1, &[]),
        frame(super::raw::WINDOW_UPDATE, 0, 0, &[0; 4]),
        get(2),
        settings(&[(4, 0x8000_0000)]),
        vec![0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1],
    ] {
        let mut raw = Raw::open();
        raw.send(&bad);
        let code = raw.closed_with();
        assert!(matches!(code, PROTOCOL_ERROR | 3 | 6), "{code} for {bad:?}");
    }
}

#[test]
fn a_stream_that_is_reused_ends_the_connection() {
    let mut raw = Raw::open();
    let stream = raw.begin(&get(1));
    raw.answer(stream, b"ok");
    raw.frames();
    raw.send(&get(1));
    assert_eq!(raw.closed_with(), PROTOCOL_ERROR);
}
