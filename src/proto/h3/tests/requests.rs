//! From frames to heads and bodies: what a request says, and which requests are refused.

use bytes::Bytes;

use super::{
    client::{GET, POST},
    raw::{
        DATA, FRAME_UNEXPECTED, HEADERS, MESSAGE_ERROR, Raw, frame, head, literal_section, section,
    },
};
use crate::{
    limits::{HEAD_FIELDS_MAX, HEAD_SIZE_MAX, START_LINE_SIZE_MAX, TRAILERS_SIZE_MAX},
    proto::{
        error::Refusal,
        head::{BodyLength, Method, Version},
        stream::{Event, Responses, StreamKey},
    },
};

/// These fields with some changed, or more behind them.
fn with<'a>(
    base: &[(&'a str, &'a str)],
    changes: &[(&'a str, &'a str)],
) -> Vec<(&'a str, &'a str)> {
    let mut fields = base.to_vec();
    for change in changes {
        match fields.iter_mut().find(|field| change.0.starts_with(':') && field.0 == change.0) {
            Some(field) => *field = *change,
            None => fields.push(*change),
        }
    }
    fields
}

/// The request that these fields make.
#[track_caller]
fn accepted(changes: &[(&str, &str)]) -> (Raw, StreamKey) {
    let mut raw = Raw::open();
    let stream = raw.begin(0, &head(&with(&GET, changes)), true);
    (raw, stream)
}

#[track_caller]
fn refused(changes: &[(&str, &str)], refusal: Refusal) {
    refused_bytes(&head(&with(&GET, changes)), true, refusal);
}

#[track_caller]
fn refused_bytes(bytes: &[u8], fin: bool, refusal: Refusal) {
    let mut raw = Raw::open();
    let events = raw.send(0, bytes, fin);
    let [Event::Refused { stream, refusal: found }] = events.as_slice() else {
        panic!("not refused: {events:?}");
    };
    assert_eq!(*found, refusal);
    let now = raw.now;
    raw.engine.refuse(*stream, refusal, super::DATE, now);
    assert_eq!(raw.run(), []);
    let (answer, ended) = raw.received(0);
    assert!(ended, "it is answered");
    assert_eq!(answer.first(), Some(&1), "HEADERS");
    assert_eq!(raw.engine.streams(), 0);
    assert!(!raw.engine.is_closed(), "one bad request does not end the connection");
    raw.begin(4, &head(&GET), true);
}

/// Malformed: the stream is reset, and nobody hears of the request.
#[track_caller]
fn malformed(block: &[u8]) {
    let mut raw = Raw::open();
    assert_eq!(raw.send(0, &frame(HEADERS, block), true), []);
    assert_eq!(raw.reset_with(0), MESSAGE_ERROR);
    raw.begin(4, &head(&GET), true);
}

#[test]
fn a_request_reads_like_one_of_http_1() {
    let (raw, stream) =
        accepted(&[(":path", "/a%20b/c?x=%41&y"), ("user-agent", "me"), ("accept", "*/*")]);
    assert_eq!(stream.id(), 0);
    assert_eq!(raw.head.method, Method::Get);
    assert_eq!(raw.text(raw.head.method_name), "GET");
    assert_eq!(raw.head.version, Version::Http3);
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
    let fields = [(":method", "GET"), (":scheme", "https"), (":path", "/"), ("host", "b:1")];
    let mut raw = Raw::open();
    raw.begin(0, &head(&fields), true);
    assert_eq!(raw.text(raw.head.authority), "b:1");
    assert_eq!(raw.field("host").as_deref(), Some("b:1"));
    let (raw, _) = accepted(&[("host", "A")]);
    assert_eq!(raw.head.fields.len(), 1, "one host");
    refused(&[("host", "b")], Refusal::HostContradicts);
    refused(&[("host", "a"), ("host", "a")], Refusal::HostRepeated);
    refused_bytes(&head(&fields[..3]), true, Refusal::HostMissing);
    refused(&[(":authority", "user@a")], Refusal::HostMalformed);
    refused(&[(":authority", "a:99999")], Refusal::HostMalformed);
    refused(&[(":authority", "")], Refusal::HostMalformed);
}

#[test]
fn targets_have_the_form_of_a_path() {
    refused(&[(":path", "?x")], Refusal::TargetMalformed);
    refused(&[(":path", "a")], Refusal::TargetMalformed);
    refused(&[(":path", "/ b")], Refusal::TargetMalformed);
    refused(&[(":path", "/#x")], Refusal::TargetMalformed);
    refused(&[(":path", "/\u{e9}")], Refusal::TargetMalformed);
    refused(&[(":path", "https://a/")], Refusal::TargetMalformed);
    refused(&[(":scheme", "ftp")], Refusal::TargetMalformed);
    let long = format!("/{}", "x".repeat(START_LINE_SIZE_MAX));
    refused(&[(":path", &long)], Refusal::StartLineTooLong);
}

#[test]
fn cookie_crumbs_are_joined_wherever_they_stand() {
    let crumbs = [("cookie", "a=1"), ("x", "y"), ("cookie", "b=2"), ("z", ""), ("cookie", "c=3")];
    let (raw, _) = accepted(&crumbs);
    assert_eq!(raw.field("cookie").as_deref(), Some("a=1; b=2; c=3"));
    let names: Vec<_> = raw.head.fields.iter().map(|field| raw.text(field.name)).collect();
    assert_eq!(names, ["host", "cookie", "x", "z"]);
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
        malformed(&section(&with(&GET, &[field])));
    }
    let (raw, _) = accepted(&[("te", "trailers")]);
    assert_eq!(raw.field("te").as_deref(), Some("trailers"));
}

#[test]
fn pseudo_headers_come_first_once_each_and_are_known() {
    for bad in [
        &[GET[1], GET[2], GET[3]][..],
        &[GET[0], GET[2], GET[3]],
        &[GET[0], GET[1], GET[2]],
        &[GET[0], GET[0], GET[1], GET[2], GET[3]],
        &[GET[0], GET[1], GET[2], GET[3], GET[3]],
        &[GET[0], ("x", "y"), GET[1], GET[2], GET[3]],
        &[GET[0], GET[1], GET[2], GET[3], (":status", "200")],
        &[GET[0], GET[1], GET[2], GET[3], (":unknown", "x")],
        &[GET[0], GET[1], GET[2], (":path", "")],
        &[(":method", ""), GET[1], GET[2], GET[3]],
        &[(":method", "G T"), GET[1], GET[2], GET[3]],
        &[GET[0], GET[1], GET[2], GET[3], (":protocol", "websocket")],
        &[],
    ] {
        malformed(&section(bad));
    }
}

#[test]
fn names_and_values_cannot_smuggle_a_line() {
    let get: Vec<(&[u8], &[u8])> =
        GET.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())).collect();
    let bad: [(&[u8], &[u8]); 9] = [
        (b"X-Upper", b"y"),
        (b"x y", b"z"),
        (b"x", b"a\r\nb: c"),
        (b"x", b"a\nb"),
        (b"x", b"a\0"),
        (b"x:y", b"z"),
        (b"", b"z"),
        (b"x\0", b"z"),
        (b"x\xff", b"z"),
    ];
    for field in bad {
        malformed(&literal_section(&[&get[..], &[field]].concat()));
    }
    malformed(&section(&with(&GET, &[(":path", "/\r\nx")])));
    refused(&[("x", " y")], Refusal::FieldValueMalformed);
    refused(&[("x", "y\t")], Refusal::FieldValueMalformed);
    refused(&[("x", "a\u{1}b")], Refusal::FieldValueMalformed);
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
fn a_head_that_is_too_large_is_answered_431_however_it_is_packed() {
    let long = "x".repeat(10_000);
    accepted(&[("x", &long), ("y", &long), ("z", &long)]);
    refused(&[("x", &long), ("y", &long), ("z", &long), ("zz", &long)], Refusal::HeadTooLarge);
    // Seen from its length alone.
    refused_bytes(&frame(HEADERS, &vec![0; HEAD_SIZE_MAX + 1]), false, Refusal::HeadTooLarge);
}

#[test]
fn a_length_is_said_once_and_kept() {
    let post = |fields: &[(&'static str, &'static str)]| head(&with(&POST, fields));
    let mut raw = Raw::open();
    let stream = raw.begin(0, &post(&[("content-length", "3")]), false);
    assert_eq!(raw.head.body, BodyLength::Known(3));
    let events = raw.send(0, &frame(DATA, b"abc"), true);
    assert_eq!(events, [Event::Body { stream, data: Bytes::from_static(b"abc"), end: true }]);

    let refused = |fields: &[(&'static str, &'static str)], fin, refusal| {
        refused_bytes(&post(fields), fin, refusal);
    };
    refused(&[("content-length", "3"), ("content-length", "3")], false, Refusal::LengthRepeated);
    refused(&[("content-length", "3"), ("content-length", "4")], true, Refusal::LengthRepeated);
    refused(&[("content-length", "1001")], false, Refusal::BodyTooLarge);
    for length in ["", "+3", "3, 3", "18446744073709551616", "x"] {
        refused(&[("content-length", length)], false, Refusal::LengthMalformed);
    }
    malformed(&section(&with(&POST, &[("content-length", "3")])));
    for (length, data, fin) in [("3", &b"ab"[..], true), ("3", b"abcd", false), ("0", b"a", false)]
    {
        let mut raw = Raw::open();
        let stream = raw.begin(0, &post(&[("content-length", length)]), false);
        let events = raw.send(0, &frame(DATA, data), fin);
        assert_eq!(events, [Event::Reset { stream }], "{length}: {data:?}");
        assert_eq!(raw.reset_with(0), MESSAGE_ERROR);
    }
}

#[test]
fn a_body_of_unknown_length_ends_with_its_stream() {
    let mut raw = Raw::open();
    let stream = raw.begin(0, &head(&POST), false);
    assert_eq!(raw.head.body, BodyLength::Unknown);
    let body = |data: &'static str, end| Event::Body { stream, data: data.into(), end };
    assert_eq!(raw.send(0, &frame(DATA, b"ab"), false), [body("ab", false)]);
    assert_eq!(raw.send(0, &frame(DATA, b""), false), []);
    assert_eq!(raw.send(0, &[], true), [body("", true)]);
    raw.answer(stream, b"ok");
    assert!(raw.received(0).1);
}

#[test]
fn small_pieces_that_come_together_are_handed_on_together() {
    let mut raw = Raw::open();
    let stream = raw.begin(0, &head(&POST), false);
    let pieces: Vec<u8> = (0..100).flat_map(|n| frame(DATA, &[n])).collect();
    let whole: Vec<u8> = (0..100).collect();
    let events = raw.send(0, &pieces, true);
    assert_eq!(events, [Event::Body { stream, data: whole.into(), end: true }]);
}

#[test]
fn a_body_beyond_the_limit_is_refused_when_it_gets_there() {
    let mut raw = Raw::open();
    let stream = raw.begin(0, &head(&POST), false);
    assert_eq!(raw.send(0, &frame(DATA, &[0; 600]), false).len(), 1);
    let events = raw.send(0, &frame(DATA, &[0; 600]), false);
    assert_eq!(events, [Event::Refused { stream, refusal: Refusal::BodyTooLarge }]);
    let now = raw.now;
    raw.engine.refuse(stream, Refusal::BodyTooLarge, super::DATE, now);
    raw.run();
    assert!(raw.received(0).1, "a whole answer");
    assert_eq!(raw.send(0, &frame(DATA, &[0; 600]), true), [], "late DATA harms nobody");
    assert!(raw.engine.is_idle());
}

#[test]
fn trailers_end_a_request_and_are_dropped() {
    let trailed = |fields: &[(&str, &str)]| [head(&POST), frame(DATA, b"a"), head(fields)].concat();
    let mut raw = Raw::open();
    let events = raw.send(0, &trailed(&[("x-sum", "1")]), true);
    let [Event::Request { stream, end: false, .. }, Event::Body { data, end: true, .. }] =
        &events[..]
    else {
        panic!("{events:?}")
    };
    assert_eq!(data, "a");
    let stream = *stream;
    raw.answer(stream, b"ok");

    let long = "x".repeat(TRAILERS_SIZE_MAX);
    let events = raw.send(4, &trailed(&[("x", &long)]), true);
    let Some(Event::Refused { refusal: Refusal::TrailersTooLarge, .. }) = events.last() else {
        panic!("{events:?}")
    };
    // A pseudo-header among them is malformed; RFC 9114 §4.3.
    let events = raw.send(8, &trailed(&[(":path", "/")]), true);
    assert!(matches!(events[..], [Event::Request { .. }, Event::Reset { .. }]), "{events:?}");
    assert_eq!(raw.reset_with(8), MESSAGE_ERROR);
}

#[test]
fn a_websocket_is_asked_for_with_extended_connect() {
    let connect = |protocol: &'static str| {
        [
            (":method", "CONNECT"),
            (":protocol", protocol),
            (":scheme", "https"),
            (":path", "/chat?x"),
            (":authority", "a"),
            ("sec-websocket-version", "13"),
        ]
    };
    let mut raw = Raw::open();
    let events = raw.send(0, &head(&connect("websocket")), false);
    let [Event::Request { stream, end: false, websocket: true }] = events[..] else {
        panic!("{events:?}")
    };
    assert_eq!((raw.head.method, raw.text(raw.head.path)), (Method::Get, "/chat".into()));
    let accept = super::Head::new(101, &[], BodyLength::Unknown);
    raw.engine.respond(stream, &accept.get(), super::DATE, false).unwrap();
    raw.run();
    // 200, RFC 9204 §A: 25.
    assert_eq!(raw.received(0).0.get(4), Some(&(0xc0 | 25)));
    // A WebSocket has as many bytes as it likes.
    for _ in 0..4 {
        let events = raw.send(0, &frame(DATA, &[0; 600]), false);
        assert!(matches!(events[..], [Event::Body { end: false, .. }]), "{events:?}");
    }
    refused_bytes(&head(&connect("connect-udp")), false, Refusal::ProtocolUnsupported);
    let plain = [(":method", "CONNECT"), (":authority", "a:1")];
    refused_bytes(&head(&plain), false, Refusal::ConnectUnsupported);
    malformed(&section(&connect("websocket")[1..]));
    malformed(&section(&[plain[0], plain[1], (":path", "/")]));
    malformed(&section(&connect("websocket")[..4]));
}

#[test]
fn an_expectation_is_noted_and_an_unknown_one_refused() {
    let post = |value| head(&with(&POST, &[("expect", value)]));
    let mut raw = Raw::open();
    raw.begin(0, &post("100-continue"), false);
    assert!(raw.head.expects_continue);
    refused_bytes(&post("magic"), false, Refusal::ExpectationUnknown);
    let (raw, _) = accepted(&[("expect", "100-continue")]);
    assert!(!raw.head.expects_continue, "void without a body");
}

#[test]
fn unknown_frames_and_streams_are_skipped() {
    let mut raw = Raw::open();
    assert_eq!(raw.send(6, &[&[0x21][..], &[7; 5000]].concat(), false), []);
    let bytes = [
        frame(0x21, b"grease"),
        head(&POST),
        frame(0x40, &[7; 3000]),
        frame(DATA, b"a"),
        frame(0x5f, b""),
        frame(DATA, b"b"),
        frame(0x21, b"x"),
    ]
    .concat();
    let mut events = raw.send(0, &bytes, true);
    assert!(matches!(events.remove(0), Event::Request { end: false, .. }));
    let body: Vec<u8> = events
        .iter()
        .flat_map(|event| match event {
            Event::Body { data, .. } => data.to_vec(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(body, b"ab");
    assert!(matches!(events.last(), Some(Event::Body { end: true, .. })));
}

#[test]
fn frames_out_of_place_end_the_connection() {
    for bad in [
        frame(DATA, b"before the head"),
        [head(&POST), frame(DATA, b"a"), head(&[("x", "y")]), frame(DATA, b"b")].concat(),
        [head(&POST), head(&[("x", "y")]), head(&[("x", "y")])].concat(),
        [head(&POST), frame(4, &[])].concat(),
        frame(3, &[0]),
        frame(5, &[0]),
        frame(7, &[0]),
        frame(13, &[0]),
        frame(0xf_0700, &[0]),
        // HTTP/2's.
        frame(2, &[0; 5]),
        frame(6, &[0; 8]),
        frame(8, &[0; 4]),
        frame(9, b"x"),
    ] {
        let mut raw = Raw::open();
        raw.send(0, &bad, false);
        assert_eq!(raw.closed_with(), FRAME_UNEXPECTED, "{bad:?}");
    }
}

#[test]
fn a_request_that_ends_too_early_is_none() {
    // H3_REQUEST_INCOMPLETE: only this stream.
    let mut raw = Raw::open();
    assert_eq!(raw.send(0, &frame(0x21, b"x"), true), []);
    assert_eq!(raw.reset_with(0), 0x10d);
    assert_eq!(raw.send(4, &[], true), []);
    assert_eq!(raw.reset_with(4), 0x10d);
    assert!(!raw.engine.is_closed());
    // H3_FRAME_ERROR: RFC 9114 §7.1.
    let whole = [head(&POST), frame(DATA, b"abcd")].concat();
    let len = whole.len();
    for end in [1, len - 5, len - 1] {
        let mut raw = Raw::open();
        raw.send(0, &whole[..end], true);
        assert_eq!(raw.closed_with(), 0x106, "{end} of {len} bytes");
    }
}

#[test]
fn a_section_that_cannot_be_decoded_ends_the_connection() {
    for bad in [
        // It refers to the dynamic table, by its count, by a field, or behind its base.
        &[1, 0][..],
        &[0, 0, 0x80],
        &[0, 0, 0x10],
        // No such entry of the static table; it is cut short.
        &[0, 0, 0xff, 0x7f],
        &[0, 0, 0x23, b'a'],
        &[0],
        &[],
    ] {
        let mut raw = Raw::open();
        assert_eq!(raw.send(0, &frame(HEADERS, bad), true), []);
        assert_eq!(raw.closed_with(), 0x200, "{bad:?}");
    }
}

#[test]
fn requests_of_one_connection_are_told_apart() {
    let mut raw = Raw::open();
    let (a, b) = (raw.begin(0, &head(&POST), false), raw.begin(4, &head(&POST), false));
    let body = |stream, data: &'static str, end| Event::Body { stream, data: data.into(), end };
    assert_eq!(raw.send(4, &frame(DATA, b"four"), true), [body(b, "four", true)]);
    assert_eq!(raw.send(0, &frame(DATA, b"zero"), true), [body(a, "zero", true)]);
    // A stream may begin before those with lower numbers.
    let c = raw.begin(20, &head(&GET), true);
    assert_eq!((a.id(), b.id(), c.id()), (0, 4, 20));
    assert_eq!(raw.engine.streams(), 3);
}
