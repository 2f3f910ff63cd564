//! From frames to heads: what a request says, and which requests are refused.

use super::raw::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, GET, HEADERS, NO_ERROR, POST, PROTOCOL_ERROR,
    RST_STREAM, Raw, block, frame, get, post,
};
use crate::{
    limits::{HEAD_FIELDS_MAX, START_LINE_SIZE_MAX, TRAILERS_SIZE_MAX},
    proto::{
        error::Refusal,
        h2::{Event, StreamKey},
        head::{BodyLength, Method, Version},
        stream::Responses,
    },
};

/// A GET with these fields in place of some of the usual ones, or behind them.
fn get_with(changes: &[(&str, &str)]) -> Vec<u8> {
    let mut fields: Vec<(&str, &str)> = GET.to_vec();
    for change in changes {
        match fields.iter_mut().find(|field| change.0.starts_with(':') && field.0 == change.0) {
            Some(field) => *field = *change,
            None => fields.push(*change),
        }
    }
    frame(HEADERS, END_STREAM | END_HEADERS, 1, &block(&fields))
}

/// The request that these fields make.
#[track_caller]
fn accepted(changes: &[(&str, &str)]) -> (Raw, StreamKey) {
    let mut raw = Raw::open();
    let stream = raw.begin(&get_with(changes));
    (raw, stream)
}

#[track_caller]
fn refused(changes: &[(&str, &str)], refusal: Refusal) {
    refused_frame(&get_with(changes), refusal);
}

#[track_caller]
fn refused_frame(request: &[u8], refusal: Refusal) {
    let mut raw = Raw::open();
    let events = raw.send(request);
    let [Event::Refused { stream, refusal: found }] = events.as_slice() else {
        panic!("not refused: {events:?}");
    };
    assert_eq!(*found, refusal);
    raw.engine.refuse(*stream, refusal, super::DATE, raw.now);
    let kinds: Vec<u8> = raw.frames().iter().map(|frame| frame.kind).collect();
    assert!(kinds.starts_with(&[HEADERS, DATA]), "it is answered: {kinds:?}");
    assert_eq!(raw.engine.streams(), 0);
    assert!(!raw.engine.is_closed(), "one bad request does not end the connection");
}

/// What the library refuses by itself: the stream is reset, and nobody hears of the request.
#[track_caller]
fn reset(fields: &[(&str, &str)]) {
    let mut raw = Raw::open();
    let request = frame(HEADERS, END_STREAM | END_HEADERS, 1, &block(fields));
    assert_eq!(raw.send(&request), []);
    assert_eq!(raw.reset_with(1), PROTOCOL_ERROR);
}

/// What is so wrong that the library ends the connection.
#[track_caller]
fn closed(fields: &[(&str, &str)]) {
    let mut raw = Raw::open();
    let request = frame(HEADERS, END_STREAM | END_HEADERS, 1, &block(fields));
    assert_eq!(raw.send(&request), []);
    assert_eq!(raw.closed_with(), PROTOCOL_ERROR);
}

#[test]
fn a_request_reads_like_one_of_http_1() {
    let (raw, stream) =
        accepted(&[(":path", "/a%20b/c?x=%41&y"), ("user-agent", "me"), ("accept", "*/*")]);
    assert_eq!(stream.id(), 1);
    assert_eq!(raw.head.method, Method::Get);
    assert_eq!(raw.text(raw.head.method_name), "GET");
    assert_eq!(raw.head.version, Version::Http2);
    assert_eq!(raw.text(raw.head.raw_path), "/a%20b/c");
    assert_eq!(raw.text(raw.head.path), "/a b/c");
    assert_eq!(raw.text(raw.head.query), "x=%41&y");
    assert_eq!(raw.text(raw.head.authority), "a");
    assert_eq!(raw.head.body, BodyLength::Empty);
    let fields: Vec<_> =
        raw.head.fields.iter().map(|f| (raw.text(f.name), raw.text(f.value))).collect();
    let expected = [("host", "a"), ("user-agent", "me"), ("accept", "*/*")];
    assert_eq!(fields, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
}

#[test]
fn an_unknown_method_keeps_its_name() {
    let (raw, _) = accepted(&[(":method", "PURGE")]);
    assert_eq!((raw.head.method, raw.text(raw.head.method_name)), (Method::Other, "PURGE".into()));
}

#[test]
fn options_may_ask_about_the_server() {
    let (raw, _) = accepted(&[(":method", "OPTIONS"), (":path", "*")]);
    assert_eq!(raw.text(raw.head.raw_path), "*");
    refused(&[(":path", "*")], Refusal::TargetMalformed);
}

#[test]
fn host_stands_in_for_authority_and_may_not_differ_from_it() {
    let mut raw = Raw::open();
    let fields = [(":method", "GET"), (":scheme", "http"), (":path", "/"), ("host", "b:1")];
    raw.begin(&frame(HEADERS, END_STREAM | END_HEADERS, 1, &block(&fields)));
    assert_eq!(raw.text(raw.head.authority), "b:1");
    assert_eq!(raw.field("host").as_deref(), Some("b:1"));

    let (raw, _) = accepted(&[("host", "A")]);
    assert_eq!(raw.head.fields.len(), 1, "one host");
    refused(&[("host", "b")], Refusal::HostContradicts);
    refused(&[("host", "a"), ("host", "a")], Refusal::HostRepeated);
    refused_frame(
        &frame(HEADERS, END_STREAM | END_HEADERS, 1, &block(&fields[..3])),
        Refusal::HostMissing,
    );
}

#[test]
fn an_authority_holds_no_userinfo() {
    refused(&[(":authority", "user@a")], Refusal::HostMalformed);
    refused(&[(":authority", "a:99999")], Refusal::HostMalformed);
}

#[test]
fn targets_have_the_form_of_a_path() {
    refused(&[(":path", "?x")], Refusal::TargetMalformed);
    refused(&[(":path", "/\u{e9}")], Refusal::TargetMalformed);
    refused(&[(":scheme", "ftp")], Refusal::TargetMalformed);
    let long = format!("/{}", "x".repeat(START_LINE_SIZE_MAX));
    refused(&[(":path", &long)], Refusal::StartLineTooLong);
    for path in ["", "a", "http://a/", "/ b"] {
        let fields =
            [(":method", "GET"), (":scheme", "http"), (":path", path), (":authority", "a")];
        reset(&fields);
    }
}

#[test]
fn cookie_crumbs_are_joined() {
    let crumbs = [("cookie", "a=1"), ("x", "y"), ("cookie", "b=2"), ("cookie", "c=3")];
    let (raw, _) = accepted(&crumbs);
    assert_eq!(raw.field("cookie").as_deref(), Some("a=1; b=2; c=3"));
    assert_eq!(raw.head.fields.len(), 3, "host, cookie, x");
}

#[test]
fn what_is_about_a_connection_is_malformed() {
    for field in [
        ("connection", "close"),
        ("keep-alive", "1"),
        ("proxy-connection", "close"),
        ("transfer-encoding", "chunked"),
        ("upgrade", "h2c"),
        ("te", "gzip"),
    ] {
        reset(&[GET[0], GET[1], GET[2], GET[3], field]);
    }
    let (raw, _) = accepted(&[("te", "trailers")]);
    assert_eq!(raw.field("te").as_deref(), Some("trailers"));
}

#[test]
fn pseudo_headers_come_first_once_each_and_are_known() {
    reset(&[GET[1], GET[2], GET[3]]);
    reset(&[GET[0], GET[2], GET[3]]);
    reset(&[GET[0], GET[1], GET[3]]);
    reset(&[GET[0], GET[0], GET[1], GET[2], GET[3]]);
    reset(&[GET[0], ("x", "y"), GET[1], GET[2], GET[3]]);
    reset(&[GET[0], GET[1], GET[2], GET[3], (":status", "200")]);
    closed(&[GET[0], GET[1], GET[2], GET[3], (":unknown", "x")]);
}

#[test]
fn names_and_values_cannot_smuggle_a_line() {
    for field in [
        ("X-Upper", "y"),
        ("x y", "z"),
        ("x", "a\r\nb: c"),
        ("x", "a\nb"),
        ("x", "a\0"),
        ("x:y", "z"),
        ("", "z"),
    ] {
        closed(&[GET[0], GET[1], GET[2], GET[3], field]);
    }
    refused(&[("x", " y")], Refusal::FieldValueMalformed);
    refused(&[("x", "y\t")], Refusal::FieldValueMalformed);
}

#[test]
fn a_head_has_a_bounded_number_of_fields() {
    let names: Vec<String> = (0..HEAD_FIELDS_MAX).map(|n| format!("x-{n}")).collect();
    let fields: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "")).collect();
    let (raw, _) = accepted(&fields[1..]);
    assert_eq!(raw.head.fields.len(), HEAD_FIELDS_MAX);
    refused(&fields, Refusal::TooManyFields);
}

#[test]
fn a_head_that_is_too_large_is_answered_431_and_one_far_too_large_ends_the_connection() {
    let long = "x".repeat(10_000);
    let mut raw = Raw::open();
    let mut send = |fields: &[(&str, &str)], stream| {
        let block = block(fields);
        let mut pieces = block.chunks(16 * 1024);
        let mut bytes = frame(HEADERS, END_STREAM, stream, pieces.next().unwrap());
        for piece in pieces {
            bytes.extend(frame(CONTINUATION, 0, stream, piece));
        }
        bytes.extend(frame(CONTINUATION, END_HEADERS, stream, &[]));
        (raw.send(&bytes), raw.frames())
    };
    let (events, _) = send(&[&GET[..], &[("x", long.as_str()); 3]].concat(), 1);
    assert!(matches!(events[..], [Event::Request { .. }]), "30 KB are a head");
    let (events, frames) = send(&[&GET[..], &[("x", long.as_str()); 4]].concat(), 3);
    assert_eq!(events, []);
    // :status 431 is not in HPACK's static table; the answer has no body.
    assert_eq!((frames[0].kind, frames[0].stream), (HEADERS, 3));
    assert_eq!(frames[0].flags & END_STREAM, END_STREAM);
}

#[test]
fn a_length_is_said_once_and_kept() {
    let post = |fields: &[(&str, &str)], flags| {
        frame(HEADERS, END_HEADERS | flags, 1, &block(&[&POST[..], fields].concat()))
    };
    let mut raw = Raw::open();
    raw.begin(&post(&[("content-length", "3")], 0));
    assert_eq!(raw.head.body, BodyLength::Known(3));
    let events = raw.send(&frame(DATA, END_STREAM, 1, b"abc"));
    assert!(matches!(&events[..], [Event::Body { data, end: true, .. }] if data == "abc"));

    refused_frame(
        &post(&[("content-length", "3"), ("content-length", "3")], 0),
        Refusal::LengthRepeated,
    );
    refused_frame(&post(&[("content-length", "")], 0), Refusal::LengthMalformed);
    refused_frame(&post(&[("content-length", "1001")], 0), Refusal::BodyTooLarge);
    for length in ["+3", "3, 3", "18446744073709551616", "x"] {
        reset(&[&POST[..], &[("content-length", length)]].concat());
    }
    // No body where one was announced; the library knows better than to give it on.
    reset(&[&POST[..], &[("content-length", "3")]].concat());
    for (data, flags) in [(&b"ab"[..], END_STREAM), (b"abcd", 0)] {
        let mut raw = Raw::open();
        let stream = raw.begin(&post(&[("content-length", "3")], 0));
        let events = raw.send(&frame(DATA, flags, 1, data));
        assert_eq!(events, [Event::Reset { stream }], "{data:?}");
        assert_eq!(raw.reset_with(1), PROTOCOL_ERROR);
    }
}

#[test]
fn a_body_of_unknown_length_ends_with_its_stream() {
    let mut raw = Raw::open();
    let stream = raw.begin(&post(1));
    assert_eq!(raw.head.body, BodyLength::Unknown);
    let events = raw.send(&[frame(DATA, 0, 1, b"ab"), frame(DATA, END_STREAM, 1, &[])].concat());
    let bytes = |data: &'static str| bytes::Bytes::from_static(data.as_bytes());
    assert_eq!(
        events,
        [
            Event::Body { stream, data: bytes("ab"), end: false },
            Event::Body { stream, data: bytes(""), end: true },
        ]
    );
}

#[test]
fn a_body_beyond_the_limit_is_refused_when_it_gets_there() {
    let mut raw = Raw::open();
    let stream = raw.begin(&post(1));
    assert_eq!(raw.send(&frame(DATA, 0, 1, &[0; 600])).len(), 1);
    let events = raw.send(&frame(DATA, 0, 1, &[0; 600]));
    assert_eq!(events, [Event::Refused { stream, refusal: Refusal::BodyTooLarge }]);
    raw.engine.refuse(stream, Refusal::BodyTooLarge, super::DATE, raw.now);
    let frames = raw.frames();
    // RFC 9113 §8.1: a whole answer, and then that the rest of the request is not wanted.
    let reset = frames.iter().find(|frame| frame.kind == RST_STREAM).expect("a reset");
    assert_eq!(reset.number(), NO_ERROR);
    assert_eq!(raw.send(&frame(DATA, END_STREAM, 1, &[0; 600])), [], "late DATA harms nobody");
}

#[test]
fn trailers_end_a_request_and_are_dropped() {
    let mut raw = Raw::open();
    let stream = raw.begin(&post(1));
    let trailers = frame(HEADERS, END_STREAM | END_HEADERS, 1, &block(&[("x-sum", "1")]));
    let events = raw.send(&[frame(DATA, 0, 1, b"a"), trailers].concat());
    assert!(
        matches!(&events[..], [Event::Body { end: false, .. }, Event::Body { data, end: true, .. }]
        if data.is_empty())
    );
    raw.answer(stream, b"ok");

    let stream = raw.begin(&post(3));
    let long = "x".repeat(TRAILERS_SIZE_MAX);
    let trailers = frame(HEADERS, END_STREAM | END_HEADERS, 3, &block(&[("x", &long)]));
    let events = raw.send(&trailers);
    assert_eq!(events, [Event::Refused { stream, refusal: Refusal::TrailersTooLarge }]);
}

#[test]
fn a_websocket_is_asked_for_with_extended_connect() {
    let connect = |protocol: &'static str| {
        [
            (":method", "CONNECT"),
            (":protocol", protocol),
            (":scheme", "http"),
            (":path", "/chat?x"),
            (":authority", "a"),
            ("sec-websocket-version", "13"),
        ]
    };
    let open = |protocol| frame(HEADERS, END_HEADERS, 1, &block(&connect(protocol)));
    let mut raw = Raw::open();
    let events = raw.send(&open("websocket"));
    assert!(matches!(events[..], [Event::Request { end: false, websocket: true, .. }]));
    assert_eq!((raw.head.method, raw.text(raw.head.path)), (Method::Get, "/chat".into()));
    refused_frame(&open("connect-udp"), Refusal::ProtocolUnsupported);
    let plain = block(&[(":method", "CONNECT"), (":authority", "a:1")]);
    refused_frame(&frame(HEADERS, END_HEADERS, 1, &plain), Refusal::ConnectUnsupported);
    reset(&[GET[0], (":protocol", "websocket"), GET[1], GET[2], GET[3]]);
}

#[test]
fn an_expectation_is_noted_and_an_unknown_one_refused() {
    let post =
        |value| frame(HEADERS, END_HEADERS, 1, &block(&[&POST[..], &[("expect", value)]].concat()));
    let mut raw = Raw::open();
    let stream = raw.begin(&post("100-continue"));
    assert!(raw.head.expects_continue);
    raw.engine.go_on(stream);
    raw.engine.go_on(stream);
    let heads = raw.frames().iter().filter(|frame| frame.kind == HEADERS).count();
    assert_eq!(heads, 1, "100 is said once");
    refused_frame(&post("magic"), Refusal::ExpectationUnknown);
    let (raw, _) = accepted(&[("expect", "100-continue")]);
    assert!(!raw.head.expects_continue, "void without a body");
}

#[test]
fn requests_of_one_connection_are_told_apart() {
    let mut raw = Raw::open();
    let events = raw.send(&[get(1), post(3), get(5), frame(DATA, END_STREAM, 3, b"x")].concat());
    let ids: Vec<u64> = events
        .iter()
        .map(|event| match event {
            Event::Request { stream, .. } | Event::Body { stream, .. } => stream.id(),
            other => panic!("{other:?}"),
        })
        .collect();
    let mut heads = ids.clone();
    heads.dedup();
    heads.sort_unstable();
    heads.dedup();
    assert_eq!(heads, [1, 3, 5]);
    assert_eq!(ids.len(), 4);
}
