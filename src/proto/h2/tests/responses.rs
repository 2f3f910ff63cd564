//! From heads and bodies to what a client sees.

use h2::Reason;

use super::{DATE, Head, client::Pair, raw};
use crate::proto::{
    answer::EdgeAnswer,
    error::{BadResponse, Refusal},
    h2::{Event, StreamKey},
    head::BodyLength,
    stream::{Cut, Requests, Responses},
};

/// A request of this method that waits for its answer.
#[track_caller]
fn asked(method: &str) -> (Pair, h2::client::ResponseFuture, StreamKey) {
    let mut pair = Pair::new();
    let (future, _) = pair.send(Pair::request(method), true);
    let events = pair.run();
    let [Event::Request { stream, end: true, websocket: false }] = events[..] else {
        panic!("{events:?}");
    };
    (pair, future, stream)
}

fn respond(pair: &mut Pair, stream: StreamKey, head: &Head) -> Result<(), BadResponse> {
    pair.engine.respond(stream, &head.get(), DATE, false)
}

#[test]
fn a_response_carries_date_server_and_length() {
    let (mut pair, future, stream) = asked("GET");
    let head =
        Head::new(200, &[("Content-Type", "text/plain"), ("x", " y ")], BodyLength::Known(5));
    respond(&mut pair, stream, &head).unwrap();
    assert_eq!(pair.engine.body(stream, b"hello", true, pair.now), Ok(5));
    pair.run();
    let seen = pair.response(future);
    assert_eq!(seen.head.status(), 200);
    assert_eq!(seen.body, b"hello");
    let fields: Vec<_> =
        seen.head.headers().iter().map(|(n, v)| (n.as_str(), v.to_str().unwrap())).collect();
    let expected = [
        ("content-type", "text/plain"),
        ("x", "y"),
        ("content-length", "5"),
        ("date", "Sun, 06 Nov 1994 08:49:37 GMT"),
        ("server", "fasterapi"),
    ];
    assert_eq!(fields, expected);
    assert!(pair.engine.is_idle());
}

#[test]
fn the_applications_own_date_and_server_win() {
    let (mut pair, future, stream) = asked("GET");
    let head = Head::new(204, &[("date", "now"), ("server", "mine")], BodyLength::Empty);
    pair.engine.respond(stream, &head.get(), DATE, true).unwrap();
    pair.run();
    let seen = pair.response(future);
    assert_eq!(seen.head.headers()["date"], "now");
    assert_eq!(seen.head.headers()["server"], "mine");
    assert_eq!(seen.head.headers().len(), 2, "a 204 has no length");
}

#[test]
fn what_is_about_a_connection_is_dropped() {
    let (mut pair, future, stream) = asked("GET");
    let fields = [
        ("connection", "close"),
        ("keep-alive", "5"),
        ("transfer-encoding", "chunked"),
        ("upgrade", "h2c"),
        ("te", "gzip"),
        ("x", "1"),
        ("x", "2"),
    ];
    respond(&mut pair, stream, &Head::new(200, &fields, BodyLength::Unknown)).unwrap();
    assert_eq!(pair.engine.body(stream, b"", true, pair.now), Ok(0));
    pair.run();
    let seen = pair.response(future);
    let names: Vec<_> = seen.head.headers().keys().map(http::HeaderName::as_str).collect();
    assert_eq!(names, ["x", "date", "server"]);
    assert_eq!(seen.head.headers().get_all("x").iter().count(), 2);
    assert_eq!(seen.body, b"");
}

#[test]
fn an_answer_to_head_has_the_length_and_no_body() {
    let (mut pair, future, stream) = asked("HEAD");
    respond(&mut pair, stream, &Head::new(200, &[], BodyLength::Known(5))).unwrap();
    assert_eq!(pair.engine.body(stream, b"hello", true, pair.now), Ok(5), "taken and dropped");
    pair.run();
    let seen = pair.response(future);
    assert_eq!(seen.head.headers()["content-length"], "5");
    assert_eq!(seen.body, b"");
}

#[test]
fn a_304_says_only_the_length_that_it_was_given() {
    for (given, expected) in [(&[("content-length", "7")][..], Some("7")), (&[], None)] {
        let (mut pair, future, stream) = asked("GET");
        respond(&mut pair, stream, &Head::new(304, given, BodyLength::Empty)).unwrap();
        assert_eq!(pair.engine.body(stream, b"x", true, pair.now), Ok(1), "taken and dropped");
        pair.run();
        let seen = pair.response(future);
        let found = seen.head.headers().get("content-length").map(|value| value.to_str().unwrap());
        assert_eq!(found, expected);
        assert_eq!(seen.body, b"");
    }
}

#[test]
fn a_body_is_held_to_its_length() {
    let (mut pair, _future, stream) = asked("GET");
    respond(&mut pair, stream, &Head::new(200, &[], BodyLength::Known(5))).unwrap();
    let body = |pair: &mut Pair, data: &[u8], end| pair.engine.body(stream, data, end, pair.now);
    assert_eq!(body(&mut pair, b"helloo", false), Err(BadResponse::BodyTooLong));
    assert_eq!(body(&mut pair, b"hell", true), Err(BadResponse::BodyTooShort));
    assert_eq!(body(&mut pair, b"hell", false), Ok(4));
    let none = Head::new(0, &[], BodyLength::Empty);
    assert_eq!(pair.engine.trailers(stream, &none.get()), Err(BadResponse::BodyTooShort));
    assert_eq!(body(&mut pair, b"o", true), Ok(1));
}

#[test]
fn what_cannot_be_sent_is_said_and_another_answer_may_follow() {
    let (mut pair, future, stream) = asked("GET");
    let body = BodyLength::Unknown;
    for (head, error) in [
        (Head::new(101, &[], body), BadResponse::Status),
        (Head::new(600, &[], body), BadResponse::Status),
        (Head::new(200, &[("x y", "z")], body), BadResponse::FieldName),
        (Head::new(200, &[(":status", "200")], body), BadResponse::FieldName),
        (Head::new(200, &[("x", "a\r\nb: c")], body), BadResponse::FieldValue),
        (Head::new(200, &[("x", "a\0")], body), BadResponse::FieldValue),
        (Head::new(200, &[("x", "a\u{1}")], body), BadResponse::FieldValue),
        (Head::new(200, &[("content-length", "x")], body), BadResponse::Length),
        (Head::new(200, &[("content-length", "4")], BodyLength::Known(5)), BadResponse::Length),
        (Head::new(200, &[("x", "y"); 101], body), BadResponse::TooManyFields),
    ] {
        assert_eq!(respond(&mut pair, stream, &head), Err(error));
    }
    assert_eq!(pair.engine.body(stream, b"x", false, pair.now), Err(BadResponse::OutOfOrder));
    let answer = EdgeAnswer::new(502, Some("Bad Gateway"), &[("retry-after", b"1")]);
    pair.engine.answer(stream, &answer, DATE).unwrap();
    pair.run();
    let seen = pair.response(future);
    assert_eq!(
        (seen.head.status().as_u16(), &seen.body[..]),
        (502, &br#"{"detail":"Bad Gateway"}"#[..])
    );
    assert_eq!(seen.head.headers()["retry-after"], "1");
}

#[test]
fn one_head_only() {
    let (mut pair, _future, stream) = asked("GET");
    assert!(pair.engine.response_waits(stream));
    let head = Head::new(200, &[], BodyLength::Unknown);
    respond(&mut pair, stream, &head).unwrap();
    assert!(!pair.engine.response_waits(stream));
    assert_eq!(respond(&mut pair, stream, &head), Err(BadResponse::OutOfOrder));
    let late = Head::new(103, &[], BodyLength::Empty);
    assert_eq!(pair.engine.informational(stream, &late.get()), Err(BadResponse::OutOfOrder));
}

#[test]
fn trailers_follow_a_body() {
    let (mut pair, future, stream) = asked("GET");
    respond(&mut pair, stream, &Head::new(200, &[], BodyLength::Unknown)).unwrap();
    assert_eq!(pair.engine.body(stream, b"hello", false, pair.now), Ok(5));
    let bad = Head::new(0, &[("x", "a\r\nb")], BodyLength::Empty);
    assert_eq!(pair.engine.trailers(stream, &bad.get()), Err(BadResponse::FieldValue));
    let fields = [("X-Sum", "42"), ("content-length", "7"), ("connection", "close")];
    pair.engine.trailers(stream, &Head::new(0, &fields, BodyLength::Empty).get()).unwrap();
    pair.run();
    let seen = pair.response(future);
    assert_eq!(seen.body, b"hello");
    let trailers = seen.trailers.expect("trailers");
    assert_eq!((trailers.len(), &trailers["x-sum"]), (1, &http::HeaderValue::from_static("42")));
    assert!(pair.engine.is_idle());
}

#[test]
fn informational_responses_go_ahead() {
    let (mut pair, mut future, stream) = asked("GET");
    let inform = |pair: &mut Pair, status| {
        let head = Head::new(status, &[("link", "</a.css>; rel=preload")], BodyLength::Empty);
        pair.engine.informational(stream, &head.get())
    };
    for status in [100, 101, 200] {
        assert_eq!(inform(&mut pair, status), Err(BadResponse::Status));
    }
    inform(&mut pair, 103).unwrap();
    super::answer(&mut pair.engine, stream, b"ok");
    pair.run();
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    let std::task::Poll::Ready(Some(Ok(hints))) = future.poll_informational(&mut cx) else {
        panic!("no early hints");
    };
    assert_eq!((hints.status().as_u16(), hints.headers().len()), (103, 1));
    assert_eq!(pair.response(future).body, b"ok");
}

#[test]
fn a_response_that_fails_in_the_middle_is_a_reset() {
    let (mut pair, future, stream) = asked("GET");
    respond(&mut pair, stream, &Head::new(200, &[], BodyLength::Known(10))).unwrap();
    assert_eq!(pair.engine.body(stream, b"hello", false, pair.now), Ok(5));
    pair.run();
    pair.engine.reset(stream, Cut::Internal);
    pair.run();
    let (_, mut body) = pair.begun(future);
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    let error = loop {
        match body.poll_data(&mut cx) {
            std::task::Poll::Ready(Some(Ok(_))) => {}
            std::task::Poll::Ready(Some(Err(error))) => break error,
            other => panic!("no reset: {other:?}"),
        }
    };
    assert_eq!(error.reason(), Some(Reason::INTERNAL_ERROR));
    let (again, _) = pair.send(Pair::request("GET"), true);
    let events = pair.run();
    let [Event::Request { stream, .. }] = events[..] else { panic!("{events:?}") };
    super::answer(&mut pair.engine, stream, b"ok");
    pair.run();
    assert_eq!(pair.response(again).body, b"ok", "its siblings do not notice");
}

#[test]
fn a_refusal_after_the_head_is_a_reset() {
    let mut raw = raw::Raw::open();
    let stream = raw.begin(&raw::post(1));
    let head = Head::new(200, &[], BodyLength::Unknown);
    raw.engine.respond(stream, &head.get(), DATE, false).unwrap();
    raw.engine.refuse(stream, Refusal::TooSlow, DATE, raw.now);
    assert_eq!(raw.reset_with(1), raw::CANCEL);
}

#[test]
fn a_websocket_is_accepted_with_101_which_is_200_on_the_wire() {
    let mut raw = raw::Raw::open();
    let fields = [
        (":method", "CONNECT"),
        (":protocol", "websocket"),
        (":scheme", "https"),
        (":path", "/"),
        (":authority", "a"),
    ];
    let block = raw::block(&fields);
    let stream = raw.begin(&raw::frame(raw::HEADERS, raw::END_HEADERS, 1, &block));
    let head = Head::new(101, &[("sec-websocket-protocol", "chat")], BodyLength::Unknown);
    raw.engine.respond(stream, &head.get(), DATE, false).unwrap();
    let frames = raw.frames();
    // 0x88 is `:status: 200` in HPACK's static table (RFC 7541 appendix A).
    assert_eq!((frames[0].kind, frames[0].payload[0]), (raw::HEADERS, 0x88));
    let events = raw.send(&raw::frame(raw::DATA, 0, 1, &[0; 1200]));
    assert!(
        matches!(&events[..], [Event::Body { data, .. }] if data.len() == 1200),
        "no body limit"
    );
    assert_eq!(raw.engine.body(stream, b"frame", false, raw.now), Ok(5));
    assert_eq!(raw.frames()[0].payload, b"frame");
}

#[test]
fn calls_about_a_stream_that_has_ended_do_nothing() {
    let mut raw = raw::Raw::open();
    let old = raw.begin(&raw::get(1));
    raw.answer(old, b"ok");
    let new = raw.begin(&raw::get(3));
    assert_eq!(new.slot, old.slot, "the slot has another tenant");
    raw.frames();
    let head = Head::new(200, &[], BodyLength::Unknown);
    raw.engine.respond(old, &head.get(), DATE, false).unwrap();
    assert_eq!(raw.engine.body(old, b"x", true, raw.now), Ok(1));
    raw.engine.credit(old, 100, raw.now);
    raw.engine.reset(old, Cut::Cancelled);
    raw.engine.refuse(old, Refusal::TooSlow, DATE, raw.now);
    assert_eq!(raw.frames(), []);
    assert_eq!(raw.engine.streams(), 1);
}
