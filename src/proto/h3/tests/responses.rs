//! From heads and bodies to what a client sees.

use super::{
    DATE, Head,
    client::{Client, GET, POST},
};
use crate::proto::{
    answer::EdgeAnswer,
    error::{BadResponse, Refusal},
    head::BodyLength,
    stream::{Cut, Event, Requests, Responses, StreamKey},
};

/// A request of this method that waits for its answer.
#[track_caller]
fn asked(method: &str) -> (Client, StreamKey) {
    let mut client = Client::new();
    let stream = client.ask(&[(":method", method), GET[1], GET[2], GET[3]]);
    (client, stream)
}

fn respond(client: &mut Client, stream: StreamKey, head: &Head) -> Result<(), BadResponse> {
    client.engine.respond(stream, &head.get(), DATE, false)
}

fn body(
    client: &mut Client,
    stream: StreamKey,
    data: &[u8],
    end: bool,
) -> Result<usize, BadResponse> {
    let now = client.now;
    client.engine.body(stream, data, end, now)
}

#[test]
fn a_response_carries_date_server_and_length() {
    let (mut client, stream) = asked("GET");
    let head =
        Head::new(200, &[("Content-Type", "text/plain"), ("x", " y ")], BodyLength::Known(5));
    respond(&mut client, stream, &head).unwrap();
    assert_eq!(body(&mut client, stream, b"hello", true), Ok(5));
    assert_eq!(client.run(), []);
    let seen = &client.seen[&0];
    assert_eq!(seen.body, b"hello");
    assert!(seen.ended);
    let expected = [
        (":status", "200"),
        ("content-type", "text/plain"),
        ("x", "y"),
        ("content-length", "5"),
        ("date", "Sun, 06 Nov 1994 08:49:37 GMT"),
        ("server", "fasterapi"),
    ];
    assert_eq!(seen.sections, [expected.map(|(name, value)| (name.to_owned(), value.to_owned()))]);
    assert!(client.engine.is_idle());
    assert_eq!(client.engine.streams(), 0);
}

#[test]
fn the_applications_own_date_and_server_win() {
    let (mut client, stream) = asked("GET");
    let head = Head::new(204, &[("date", "now"), ("server", "mine")], BodyLength::Empty);
    client.engine.respond(stream, &head.get(), DATE, true).unwrap();
    client.run();
    let seen = &client.seen[&0];
    assert_eq!((seen.field(0, "date"), seen.field(0, "server")), (Some("now"), Some("mine")));
    assert_eq!(seen.field(0, "content-length"), None, "RFC 9110 §8.6");
    assert!(seen.ended && seen.body.is_empty());
}

#[test]
fn head_and_304_have_no_body_whatever_is_given() {
    for (method, status, length) in
        [("HEAD", 200, Some("5")), ("GET", 304, None), ("GET", 204, None)]
    {
        let (mut client, stream) = asked(method);
        respond(&mut client, stream, &Head::new(status, &[], BodyLength::Known(5))).unwrap();
        assert_eq!(body(&mut client, stream, b"hello", true), Ok(5));
        client.run();
        let seen = &client.seen[&0];
        assert!(seen.ended && seen.body.is_empty(), "{method} {status}");
        assert_eq!(seen.field(0, "content-length"), length, "{method} {status}");
    }
}

#[test]
fn a_body_in_pieces_of_no_known_length_ends_with_its_stream() {
    let (mut client, stream) = asked("GET");
    respond(&mut client, stream, &Head::new(200, &[], BodyLength::Unknown)).unwrap();
    client.run();
    assert_eq!(client.seen[&0].statuses(), ["200"], "the head does not wait for the body");
    for piece in ["a", "", "bc"] {
        assert_eq!(body(&mut client, stream, piece.as_bytes(), false), Ok(piece.len()));
        client.run();
    }
    assert!(!client.seen[&0].ended);
    assert_eq!(body(&mut client, stream, b"", true), Ok(0));
    client.run();
    let seen = &client.seen[&0];
    assert_eq!((seen.body.as_slice(), seen.ended), (&b"abc"[..], true));
}

#[test]
fn trailers_follow_the_body() {
    let (mut client, stream) = asked("GET");
    respond(&mut client, stream, &Head::new(200, &[], BodyLength::Unknown)).unwrap();
    body(&mut client, stream, b"a", false).unwrap();
    let trailers = Head::new(0, &[("X-Sum", "1")], BodyLength::Empty);
    client.engine.trailers(stream, &trailers.get()).unwrap();
    client.run();
    let seen = &client.seen[&0];
    assert_eq!((seen.field(1, "x-sum"), seen.ended), (Some("1"), true));
    assert_eq!(seen.sections[1].len(), 1);
}

#[test]
fn trailers_without_fields_are_only_an_end() {
    let (mut client, stream) = asked("GET");
    respond(&mut client, stream, &Head::new(200, &[], BodyLength::Unknown)).unwrap();
    client.engine.trailers(stream, &Head::new(0, &[], BodyLength::Empty).get()).unwrap();
    client.run();
    let seen = &client.seen[&0];
    assert_eq!((seen.sections.len(), seen.ended), (1, true));
}

#[test]
fn informational_responses_come_first() {
    let (mut client, stream) = asked("GET");
    let hints = Head::new(103, &[("link", "</a.css>")], BodyLength::Empty);
    client.engine.informational(stream, &hints.get()).unwrap();
    client.run();
    assert!(client.engine.response_waits(stream));
    respond(&mut client, stream, &Head::new(200, &[], BodyLength::Empty)).unwrap();
    assert!(!client.engine.response_waits(stream));
    let late = client.engine.informational(stream, &hints.get());
    assert_eq!(late, Err(BadResponse::OutOfOrder));
    body(&mut client, stream, b"", true).unwrap();
    client.run();
    assert_eq!(client.seen[&0].statuses(), ["103", "200"]);
    assert_eq!(client.seen[&0].field(0, "link"), Some("</a.css>"));
}

#[test]
fn continue_is_said_once_and_only_before_the_response() {
    let mut client = Client::new();
    client.send(&[&POST[..], &[("expect", "100-continue")]].concat(), false);
    let events = client.run();
    let [Event::Request { stream, end: false, .. }] = events[..] else { panic!("{events:?}") };
    client.engine.go_on(stream);
    client.engine.go_on(stream);
    client.run();
    assert_eq!(client.seen[&0].statuses(), ["100"]);
    respond(&mut client, stream, &Head::new(200, &[], BodyLength::Empty)).unwrap();
    body(&mut client, stream, b"", true).unwrap();
    client.run();
    assert_eq!(client.seen[&0].statuses(), ["100", "200"]);
}

#[test]
fn a_body_is_held_to_its_length() {
    let (mut client, stream) = asked("GET");
    assert_eq!(body(&mut client, stream, b"x", false), Err(BadResponse::OutOfOrder));
    let head = Head::new(200, &[], BodyLength::Known(3));
    assert_eq!(
        client.engine.respond(stream, &head.get(), DATE, true),
        Err(BadResponse::BodyTooShort)
    );
    respond(&mut client, stream, &head).unwrap();
    assert_eq!(respond(&mut client, stream, &head), Err(BadResponse::OutOfOrder));
    assert_eq!(body(&mut client, stream, b"abcd", false), Err(BadResponse::BodyTooLong));
    assert_eq!(body(&mut client, stream, b"ab", true), Err(BadResponse::BodyTooShort));
    assert_eq!(body(&mut client, stream, b"ab", false), Ok(2));
    let trailers = client.engine.trailers(stream, &Head::new(0, &[], BodyLength::Empty).get());
    assert_eq!(trailers, Err(BadResponse::BodyTooShort));
    client.engine.reset(stream, Cut::Internal);
    client.run();
    assert_eq!(client.seen[&0].reset, Some(0x102), "H3_INTERNAL_ERROR");
    assert_eq!(client.engine.streams(), 0);
}

#[test]
fn an_invalid_head_leaves_room_for_another() {
    let (mut client, stream) = asked("GET");
    for bad in [
        Head::new(200, &[("a b", "c")], BodyLength::Empty),
        Head::new(200, &[("a", "b\r\nc: d")], BodyLength::Empty),
        Head::new(199, &[], BodyLength::Empty),
        Head::new(600, &[], BodyLength::Empty),
        Head::new(200, &[("content-length", "x")], BodyLength::Empty),
    ] {
        assert!(respond(&mut client, stream, &bad).is_err());
    }
    let sorry = EdgeAnswer::new(502, Some("Bad Gateway"), &[]);
    client.engine.answer(stream, &sorry, DATE).unwrap();
    client.run();
    let seen = &client.seen[&0];
    assert_eq!((seen.statuses(), seen.ended), (vec!["502"], true));
    assert_eq!(seen.body, br#"{"detail":"Bad Gateway"}"#);
}

#[test]
fn what_is_about_a_connection_is_not_passed_on() {
    let (mut client, stream) = asked("GET");
    let fields = [
        ("connection", "close"),
        ("keep-alive", "1"),
        ("transfer-encoding", "chunked"),
        ("upgrade", "x"),
        ("x", "y"),
    ];
    respond(&mut client, stream, &Head::new(200, &fields, BodyLength::Empty)).unwrap();
    body(&mut client, stream, b"", true).unwrap();
    client.run();
    let names: Vec<_> = client.seen[&0].sections[0].iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, [":status", "x", "content-length", "date", "server"]);
}

#[test]
fn a_refusal_in_the_middle_of_a_response_resets_it() {
    let mut client = Client::new();
    client.send(&POST, false);
    let events = client.run();
    let [Event::Request { stream, .. }] = events[..] else { panic!("{events:?}") };
    respond(&mut client, stream, &Head::new(200, &[], BodyLength::Unknown)).unwrap();
    body(&mut client, stream, b"a", false).unwrap();
    client.run();
    let now = client.now;
    client.engine.refuse(stream, Refusal::BodyTooLarge, DATE, now);
    client.run();
    assert_eq!(client.seen[&0].reset, Some(0x10c), "H3_REQUEST_CANCELLED");
}

#[test]
fn calls_about_a_stream_that_has_ended_do_nothing() {
    let (mut client, stream) = asked("GET");
    respond(&mut client, stream, &Head::new(200, &[], BodyLength::Empty)).unwrap();
    body(&mut client, stream, b"", true).unwrap();
    respond(&mut client, stream, &Head::new(200, &[], BodyLength::Empty)).unwrap();
    assert_eq!(body(&mut client, stream, b"more", true), Ok(4));
    client.engine.trailers(stream, &Head::new(0, &[], BodyLength::Empty).get()).unwrap();
    client.engine.reset(stream, Cut::Cancelled);
    let now = client.now;
    client.engine.credit(stream, 10, now);
    client.engine.go_on(stream);
    assert_eq!(client.run(), []);
    let seen = &client.seen[&0];
    assert_eq!((seen.ended, seen.reset, seen.sections.len()), (true, None, 1));
}

#[test]
fn many_responses_on_one_connection_are_told_apart() {
    let mut client = Client::new();
    for round in 0..5_u64 {
        for n in 0..100 {
            client.send(&[&GET[..3], &[(":path", format!("/{n}").as_str())]].concat(), true);
        }
        let mut answered = 0;
        // Heads are in `head` one at a time, so each is answered when it is reported.
        loop {
            let mut events = Vec::new();
            let moved = client.pair.round(&mut events);
            for event in events {
                let Event::Request { stream, .. } = event else { panic!("{event:?}") };
                let now = client.now;
                super::answer(&mut client.engine, stream, stream.id().to_string().as_bytes(), now);
                answered += 1;
            }
            if !moved & !client.look() {
                break;
            }
        }
        assert_eq!(answered, 100, "round {round}");
    }
    for (id, seen) in &client.seen {
        assert!(seen.ended && seen.body == id.to_string().as_bytes(), "{id}: {seen:?}");
    }
    assert_eq!(client.seen.len(), 500);
    assert!(client.engine.is_idle());
}
