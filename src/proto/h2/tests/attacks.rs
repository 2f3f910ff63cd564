//! What is known to bring HTTP/2 servers down, and that it ends the attacker's connection here.

use super::raw::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, ENHANCE_YOUR_CALM, FLOW_CONTROL_ERROR, GET,
    HEADERS, PING, PRIORITY, PROTOCOL_ERROR, Raw, SETTINGS, block, frame, get, post, rst_stream,
    settings, window_update,
};
use crate::{
    limits::{
        H2_CANCELLED_MAX, H2_CONTROL_BYTES_MAX, H2_CONTROL_FRAMES_MAX, H2_FORCED_RESETS_MAX,
        H2_UNSENT_SIZE_MAX,
    },
    proto::{h2::Event, stream::Responses},
};

/// Sends pieces until the connection is closed; how many that took.
#[track_caller]
fn flood(raw: &mut Raw, pieces: usize, mut piece: impl FnMut(usize) -> Vec<u8>) -> usize {
    for n in 0..pieces {
        raw.send(&piece(n));
        if raw.engine.is_closed() {
            return n;
        }
        // A client that reads: what bounds it is not the output.
        if n % 16 == 0 {
            raw.frames();
        }
    }
    panic!("{pieces} pieces did not close the connection");
}

fn odd(n: usize) -> u32 {
    u32::try_from(2 * n + 1).expect("a stream id")
}

#[test]
fn rapid_reset_ends_the_connection() {
    // CVE-2023-44487: each request is given on before it is cancelled.
    let mut raw = Raw::open();
    let mut begun = 0;
    let sent =
        flood(
            &mut raw,
            10_000,
            |n| if n % 2 == 0 { get(odd(n / 2)) } else { rst_stream(odd(n / 2)) },
        );
    begun += sent / 2;
    assert_eq!(raw.closed_with(), ENHANCE_YOUR_CALM);
    assert!(begun as u64 <= H2_CANCELLED_MAX + 1, "{begun} requests were begun");
}

#[test]
fn rapid_reset_in_one_write_begins_no_request() {
    let mut raw = Raw::open();
    let burst: Vec<u8> =
        (0..200).flat_map(|n| [get(odd(n)), rst_stream(odd(n))].concat()).collect();
    let events = raw.send(&burst);
    assert_eq!(events, [], "nobody heard of them");
    assert_eq!(raw.closed_with(), ENHANCE_YOUR_CALM);
}

#[test]
fn a_few_cancelled_requests_are_forgiven() {
    let mut raw = Raw::open();
    for n in 0..2_000 {
        let stream = raw.begin(&get(odd(n)));
        assert_eq!(raw.send(&rst_stream(odd(n))), [Event::Reset { stream }]);
        raw.now += std::time::Duration::from_millis(50);
    }
    assert!(!raw.engine.is_closed());
}

#[test]
fn made_you_reset_ends_the_connection() {
    // CVE-2025-8671: the client has us do the resetting, here with a window that overflows.
    let mut raw = Raw::open();
    let mut events = 0;
    for n in 0..10_000 {
        let stream = raw.begin(&get(odd(n)));
        let found = raw.send(&window_update(odd(n), 0x7fff_ffff));
        assert!(found.contains(&Event::Reset { stream }), "{found:?}");
        events += 1;
        if raw.engine.is_closed() {
            break;
        }
        assert_eq!(raw.reset_with(odd(n)), FLOW_CONTROL_ERROR);
    }
    assert!(events <= H2_CANCELLED_MAX + 1, "{events} requests were begun");
    assert_eq!(raw.closed_with(), ENHANCE_YOUR_CALM);
}

#[test]
fn requests_that_are_malformed_on_purpose_end_the_connection() {
    let mut raw = Raw::open();
    let bad = block(&[GET[0], GET[1], GET[2], GET[3], ("connection", "x")]);
    let sent = flood(&mut raw, 1_000, |n| frame(HEADERS, END_STREAM | END_HEADERS, odd(n), &bad));
    assert_eq!(raw.closed_with(), ENHANCE_YOUR_CALM);
    assert!(sent <= H2_FORCED_RESETS_MAX + 1);
}

#[test]
fn requests_that_are_refused_over_and_over_end_the_connection() {
    let mut raw = Raw::open();
    let bad = block(&[GET[0], GET[1], ("\u{3a}path", "/\u{e9}"), GET[3]]);
    for n in 0..1_000 {
        let events = raw.send(&frame(HEADERS, END_STREAM | END_HEADERS, odd(n), &bad));
        let [Event::Refused { stream, refusal }] = events[..] else { panic!("{events:?}") };
        raw.engine.refuse(stream, refusal, super::DATE, raw.now);
        if raw.engine.is_closed() {
            assert!(n as u64 <= H2_CANCELLED_MAX);
            return;
        }
        raw.frames();
    }
    panic!("not closed");
}

#[test]
fn a_flood_of_continuations_ends_the_connection() {
    // VU#421644: a block that never ends, in frames that are nearly empty, or full.
    for piece in [&b""[..], &[0x82; 1000], &[0x82; 16_000]] {
        let mut raw = Raw::open();
        raw.send(&frame(HEADERS, END_STREAM, 1, &block(&GET)));
        let sent = flood(&mut raw, 100, |_| frame(CONTINUATION, 0, 1, piece));
        assert!(sent < 20, "{sent} frames of {}", piece.len());
        assert!(matches!(raw.closed_with(), ENHANCE_YOUR_CALM | PROTOCOL_ERROR));
    }
}

/// A control frame that comes again and again is cut off by its number, and what it had us hold is bounded on the way.
#[track_caller]
fn cut_off(piece: &[u8]) -> usize {
    let mut raw = Raw::open();
    raw.begin(&post(1));
    let many = piece.repeat((64 * 1024 / piece.len()).max(1));
    let rounds = flood(&mut raw, 10_000, |_| many.clone());
    assert_eq!(raw.closed_with(), ENHANCE_YOUR_CALM);
    rounds * many.len() / piece.len()
}

#[test]
fn floods_of_control_frames_end_the_connection() {
    let limit = usize::try_from(H2_CONTROL_FRAMES_MAX).unwrap();
    for (name, piece) in [
        ("PING", frame(PING, 0, 0, &[7; 8])),
        ("PING acknowledgements", frame(PING, 1, 0, &[7; 8])),
        ("PRIORITY", frame(PRIORITY, 0, 1, &[0, 0, 0, 5, 16])),
        ("WINDOW_UPDATE of the connection", window_update(0, 1)),
        ("WINDOW_UPDATE of a stream", window_update(1, 1)),
        ("unknown frames", frame(0xbb, 0, 1, b"x")),
        ("SETTINGS acknowledgements", frame(SETTINGS, 1, 0, &[])),
        ("SETTINGS", settings(&[])),
        ("SETTINGS that change windows", [settings(&[(4, 1)]), settings(&[(4, 65_535)])].concat()),
        ("SETTINGS that change the table", [settings(&[(1, 0)]), settings(&[(1, 4096)])].concat()),
    ] {
        let sent = cut_off(&piece);
        assert!(sent <= limit, "{sent} of {name}");
    }
}

#[test]
fn a_flood_of_empty_data_ends_the_connection() {
    let sent = cut_off(&frame(DATA, 0, 1, &[]));
    assert!(sent <= 64 * 1024 / 9, "the first round was the last");
    // Padding makes them larger, not better.
    cut_off(&frame(DATA, 8, 1, &[20; 21]));
}

#[test]
fn a_flood_of_large_unknown_frames_ends_the_connection() {
    let piece = frame(0xbb, 0, 0, &[0; 16_000]);
    let bytes = cut_off(&piece) * piece.len();
    assert!(bytes as u64 <= H2_CONTROL_BYTES_MAX);
}

#[test]
fn pings_are_not_answered_without_end_to_a_client_that_does_not_read() {
    let mut raw = Raw::open();
    let pings = frame(PING, 0, 0, &[7; 8]).repeat(1000);
    for _ in 0..9 {
        raw.send(&pings);
    }
    assert!(!raw.engine.is_closed(), "fewer than the budget");
    let held = raw.engine.queues.borrow().output.len();
    assert!(held <= H2_UNSENT_SIZE_MAX + 64 * 1024, "{held}");
}

#[test]
fn an_hpack_bomb_is_not_decoded() {
    // An entry of nearly 4 KB in the table, and then a block that names it over and over: one byte each.
    let mut raw = Raw::open();
    let mut first = block(&GET);
    first.extend_from_slice(&[0x40, 1, b'x', 127, 0xa1, 0x1e]);
    first.resize(first.len() + 4000, b'y');
    let events = raw.send(&frame(HEADERS, END_STREAM | END_HEADERS, 1, &first));
    assert!(matches!(events[..], [Event::Request { .. }]), "{events:?}");
    let mut bomb = block(&GET);
    bomb.resize(16_000, 0x80 | 62);
    assert_eq!(
        raw.send(&frame(HEADERS, END_STREAM | END_HEADERS, 3, &bomb)).len(),
        1,
        "the other is reset"
    );
    assert_eq!(raw.closed_with(), ENHANCE_YOUR_CALM);
    assert!(raw.head.blob.len() < 64 * 1024);
}

#[test]
fn more_streams_than_announced_are_not_begun() {
    let mut raw = Raw::open();
    let mut begun = 0;
    for n in 0..140 {
        begun += raw.send(&get(odd(n))).len();
    }
    assert_eq!(begun, 128);
    assert!(!raw.engine.is_closed());
    let sent = flood(&mut raw, 1_000, |n| get(odd(n + 140)));
    assert!(sent <= H2_FORCED_RESETS_MAX);
    assert_eq!(raw.closed_with(), ENHANCE_YOUR_CALM);
}

#[test]
fn when_the_connection_is_closed_each_stream_is_reported_once() {
    let mut raw = Raw::open();
    let streams: Vec<_> = (0..5).map(|n| raw.begin(&get(odd(n)))).collect();
    let mut events = raw.send(&frame(DATA, 0, 99, b"x"));
    events.sort_by_key(|event| match event {
        Event::Reset { stream } => stream.id(),
        other => panic!("{other:?}"),
    });
    let expected: Vec<_> = streams.into_iter().map(|stream| Event::Reset { stream }).collect();
    assert_eq!(events, expected);
    assert_eq!(raw.closed_with(), PROTOCOL_ERROR);
    assert_eq!(raw.send(&get(101)), [], "nothing is a request any more");
}
