//! What is known to bring HTTP/2 and HTTP/3 servers down, and that it ends the attacker's connection here.

use std::time::Duration;

use super::{
    client::{GET, POST},
    raw::{
        DATA, EXCESSIVE_LOAD, FRAME_UNEXPECTED, HEADERS, MESSAGE_ERROR, Raw, frame, head, section,
    },
};
use crate::{
    limits::{
        EXCHANGE_WINDOW, H3_BYTES_MAX, H3_CANCELLED_MAX, H3_CONNECTION_WINDOW, H3_FRAMES_MAX,
        H3_STREAMS_MAX,
    },
    proto::{
        h3::{frames::put_varint, peer::WIDE},
        stream::{Event, Requests, Responses},
    },
};

/// Does something until the connection is closed; how often that took.
#[track_caller]
fn flood(raw: &mut Raw, rounds: u64, mut round: impl FnMut(&mut Raw, u64)) -> u64 {
    for n in 0..rounds {
        round(raw, n);
        if raw.engine.is_closed() {
            assert_eq!(raw.closed_with(), EXCESSIVE_LOAD);
            return n;
        }
    }
    panic!("{rounds} rounds did not close the connection");
}

#[test]
fn rapid_reset_ends_the_connection() {
    // CVE-2023-44487: each request is given on before it is cancelled.
    for fin in [false, true] {
        let mut raw = Raw::open();
        let begun = flood(&mut raw, 1000, |raw, n| {
            raw.send(4 * n, &head(&GET), fin);
            raw.cancel(4 * n);
        });
        assert!(begun <= H3_CANCELLED_MAX, "{begun} requests were begun");
    }
}

#[test]
fn rapid_reset_before_the_head_is_whole_ends_the_connection() {
    let mut raw = Raw::open();
    let request = head(&GET);
    let begun = flood(&mut raw, 1000, |raw, n| {
        assert_eq!(raw.send(4 * n, &request[..request.len() - 1], false), []);
        assert_eq!(raw.cancel(4 * n), [], "nobody heard of it");
    });
    assert!(begun <= H3_CANCELLED_MAX);
}

#[test]
fn a_few_cancelled_requests_are_forgiven() {
    let mut raw = Raw::open();
    for n in 0..1000 {
        let stream = raw.begin(4 * n, &head(&GET), false);
        assert_eq!(raw.cancel(4 * n), [Event::Reset { stream }]);
        raw.now += Duration::from_millis(50);
    }
    assert!(!raw.engine.is_closed());
}

#[test]
fn made_you_reset_ends_the_connection() {
    // CVE-2025-8671: the client has us do the resetting, here with more body than it announced.
    let mut raw = Raw::open();
    let request =
        [head(&[&POST[..], &[("content-length", "1")]].concat()), frame(DATA, b"ab")].concat();
    let begun = flood(&mut raw, 1000, |raw, n| {
        let events = raw.send(4 * n, &request, false);
        assert!(matches!(events[..], [Event::Request { .. }, Event::Reset { .. }]), "{events:?}");
        if !raw.engine.is_closed() {
            assert_eq!(raw.reset_with(4 * n), MESSAGE_ERROR);
            raw.cancel(4 * n);
        }
    });
    assert!(begun <= H3_CANCELLED_MAX);
}

#[test]
fn requests_that_are_malformed_or_refused_over_and_over_end_the_connection() {
    let malformed = head(&[GET[0], GET[1], GET[2], GET[3], ("connection", "x")]);
    let mut raw = Raw::open();
    flood(&mut raw, 1000, |raw, n| assert_eq!(raw.send(4 * n, &malformed, true), []));
    let refused = head(&[GET[0], GET[1], GET[2], (":path", "x")]);
    let mut raw = Raw::open();
    flood(&mut raw, 1000, |raw, n| {
        let events = raw.send(4 * n, &refused, true);
        let [Event::Refused { stream, refusal }] = events[..] else { panic!("{events:?}") };
        let now = raw.now;
        raw.engine.refuse(stream, refusal, super::DATE, now);
    });
}

/// Frames that come again and again on a stream are cut off by their number.
#[track_caller]
fn cut_off(id: u64, before: &[u8], piece: &[u8]) {
    let mut raw = Raw::open();
    raw.send(id, before, false);
    let many = piece.repeat((32 * 1024 / piece.len()).max(1));
    let rounds = flood(&mut raw, 10_000, |raw, _| {
        raw.send(id, &many, false);
    });
    let (frames, bytes) =
        ((rounds + 1) * 32 * 1024 / piece.len() as u64, (rounds + 1) * many.len() as u64);
    assert!(
        frames <= 2 * H3_FRAMES_MAX || bytes <= 2 * H3_BYTES_MAX,
        "{frames} frames, {bytes} bytes"
    );
}

#[test]
fn floods_of_control_frames_end_the_connection() {
    let mut priority = Vec::new();
    put_varint(4, &mut priority);
    priority.extend_from_slice(b"u=1");
    for piece in [
        frame(0x21, &[]),
        frame(0x21, &[7; 8000]),
        frame(0xf_0700, &priority),
        frame(13, &[9]),
        frame(7, &[0]),
    ] {
        // The control stream, whose settings were said.
        cut_off(2, &[], &piece);
    }
    // QPACK's: streams cancelled that were never begun, and a table of no capacity set again and again.
    cut_off(6, &[3], &[0x40]);
    cut_off(6, &[2], &[0x20]);
    // A stream of no known type.
    cut_off(6, &[0x40, 0x54], &[0; 1000]);
}

#[test]
fn floods_of_frames_on_a_requests_stream_end_the_connection() {
    for piece in [frame(0x21, &[]), frame(0x21, &[7; 8000]), frame(DATA, &[])] {
        cut_off(0, &head(&POST), &piece);
    }
    // Before its head.
    cut_off(0, &[], &frame(0x21, &[]));
}

#[test]
fn a_flood_of_datagrams_that_bring_nothing_ends_the_connection() {
    let mut raw = Raw::open();
    let rounds = flood(&mut raw, 100_000, |raw, _| {
        raw.client.send_ack_eliciting().unwrap();
        raw.run();
    });
    assert!(rounds > 1000, "{rounds}: a client may ping");
}

#[test]
fn a_flood_of_streams_without_a_meaning_ends_the_connection() {
    let mut raw = Raw::open();
    flood(&mut raw, 100_000, |raw, n| {
        raw.send(6 + 4 * n, &[0x21, 1, 2, 3], true);
    });
}

#[test]
fn one_byte_frames_are_not_read_one_by_one() {
    let mut raw = Raw::open_with(WIDE, super::options(1 << 30));
    let stream = raw.begin(0, &head(&POST), false);
    let many = frame(DATA, b"x").repeat(20_000);
    let events = raw.send(0, &many, false);
    let received: usize = events
        .iter()
        .map(|event| match event {
            Event::Body { data, .. } => data.len(),
            other => panic!("{other:?}"),
        })
        .sum();
    assert_eq!(received, 20_000);
    assert!(events.len() < 200, "{} events", events.len());
    let now = raw.now;
    raw.engine.credit(stream, received, now);
}

#[test]
fn a_body_in_pieces_of_one_byte_that_cannot_be_read_ends_the_connection() {
    // Each piece is kept apart by QUIC, at a hundred times its size. That it is in order makes no difference: no credit.
    let mut raw = Raw::open_with(WIDE, super::options(1 << 30));
    raw.begin(0, &head(&POST), false);
    raw.send(0, &frame(DATA, &vec![7; EXCHANGE_WINDOW]), false);
    let mut length = Vec::new();
    put_varint(1 << 20, &mut length);
    raw.send(0, &[&[0][..], &length].concat(), false);
    let before = raw.client.stats().sent_bytes;
    while !raw.engine.is_closed() {
        // One byte in each datagram: the smallest pieces that quiche's client can be had to send.
        raw.client.stream_send(0, b"x", false).expect("the window is open");
        raw.run();
    }
    let sent = raw.client.stats().sent_bytes - before;
    assert!(sent <= H3_BYTES_MAX / 4, "{sent} bytes");
    assert_eq!(raw.closed_with(), EXCESSIVE_LOAD);
}

#[test]
fn a_field_section_that_grows_when_it_is_decoded_is_refused() {
    // 30 KB that name an entry of the static table each byte: 30,000 fields.
    let mut bomb = vec![0, 0];
    bomb.resize(30_000, 0xc0 | 17);
    let mut raw = Raw::open();
    let events = raw.send(0, &frame(HEADERS, &bomb), true);
    assert!(matches!(events[..], [Event::Refused { .. }]), "{events:?}");
    assert!(raw.head.blob.len() < 64 * 1024);
    assert!(!raw.engine.is_closed());
    // Trailers are no way around that.
    let events =
        raw.send(4, &[head(&POST), frame(DATA, b"x"), frame(HEADERS, &bomb)].concat(), true);
    assert!(matches!(events.last(), Some(Event::Refused { .. })), "{events:?}");
}

#[test]
fn a_dynamic_table_that_we_did_not_offer_is_not_used() {
    for (kind, instruction, code) in [
        // Set Dynamic Table Capacity; Insert With Name Reference; Insert With Literal Name; Duplicate.
        (2, &[0x3f, 0x81, 0x01][..], 0x201),
        (2, &[0xc0, 1, b'x'], 0x201),
        (2, &[0x41, b'x', 1, b'y'], 0x201),
        (2, &[0x00], 0x201),
        // Section Acknowledgment; Insert Count Increment.
        (3, &[0x80], 0x202),
        (3, &[0x01], 0x202),
    ] {
        let mut raw = Raw::open();
        raw.send(6, &[&[kind][..], instruction].concat(), false);
        assert_eq!(raw.closed_with(), code, "{instruction:x?}");
    }
    // What is allowed: capacity 0, and cancelling streams with long numbers.
    let mut raw = Raw::open();
    raw.send(6, &[2, 0x20], false);
    raw.send(10, &[3, 0x7f, 0xff, 0xff, 0x01, 0x41], false);
    raw.begin(0, &head(&GET), true);
}

/// What is sent on which stream, and whether it ends there.
type Sent = (u64, Vec<u8>, bool);

#[test]
fn critical_streams_come_once_and_stay() {
    let settings = frame(4, &[]);
    let cases: [(&[Sent], u64); 12] = [
        // Two of a kind: H3_STREAM_CREATION_ERROR.
        (&[(6, vec![0], false)], 0x103),
        (&[(6, vec![2], false), (10, vec![2], false)], 0x103),
        (&[(6, vec![3], false), (10, vec![3], false)], 0x103),
        // A push.
        (&[(6, vec![1, 0], false)], 0x103),
        // H3_CLOSED_CRITICAL_STREAM.
        (&[(2, vec![], true)], 0x104),
        (&[(6, vec![2], true)], 0x104),
        (&[(6, vec![3, 0x40], true)], 0x104),
        // A second SETTINGS, and frames that belong elsewhere: H3_FRAME_UNEXPECTED.
        (&[(2, settings.clone(), false)], FRAME_UNEXPECTED),
        (&[(2, frame(DATA, b"x"), false)], FRAME_UNEXPECTED),
        (&[(2, frame(HEADERS, &section(&GET)), false)], FRAME_UNEXPECTED),
        (&[(2, frame(5, &[0]), false)], FRAME_UNEXPECTED),
        (&[(2, frame(6, &[0; 8]), false)], FRAME_UNEXPECTED),
    ];
    for (streams, code) in cases {
        let mut raw = Raw::open();
        for (id, bytes, fin) in streams {
            raw.send(*id, bytes, *fin);
        }
        assert_eq!(raw.closed_with(), code, "{streams:?}");
    }
    let mut raw = Raw::open();
    raw.client.stream_shutdown(2, quiche::Shutdown::Write, 0).unwrap();
    raw.run();
    assert_eq!(raw.closed_with(), 0x104);
    // Ours, too.
    let mut raw = Raw::open();
    raw.client.stream_shutdown(3, quiche::Shutdown::Read, 0).unwrap();
    raw.run();
    assert_eq!(raw.closed_with(), 0x104);
}

#[test]
fn control_frames_mean_what_they_may() {
    let id = |value: u64| {
        let mut bytes = Vec::new();
        put_varint(value, &mut bytes);
        bytes
    };
    let cases: [(Vec<u8>, u64); 9] = [
        // Limits that move back, or are about pushes that there are not: H3_ID_ERROR.
        ([frame(13, &id(9)), frame(13, &id(8))].concat(), 0x108),
        ([frame(7, &id(4)), frame(7, &id(8))].concat(), 0x108),
        (frame(3, &id(0)), 0x108),
        (frame(0xf_0701, &id(0)), 0x108),
        (frame(0xf_0700, &id(1)), 0x108),
        // Payloads that are none: H3_FRAME_ERROR.
        (frame(7, &[]), 0x106),
        (frame(13, &[0, 0]), 0x106),
        (frame(7, &[0x40]), 0x106),
        (frame(0xf_0700, &[0; 2000]), EXCESSIVE_LOAD),
    ];
    for (bytes, code) in cases {
        let mut raw = Raw::open();
        raw.send(2, &bytes, false);
        assert_eq!(raw.closed_with(), code, "{:x?}", &bytes[..bytes.len().min(20)]);
    }
    let mut raw = Raw::open();
    raw.send(
        2,
        &[frame(13, &id(9)), frame(13, &id(9)), frame(7, &id(4)), frame(7, &id(0))].concat(),
        false,
    );
    raw.begin(0, &head(&GET), true);
}

#[test]
fn settings_come_first_and_are_ones_of_http_3() {
    for (settings, code) in [
        // Not first: H3_MISSING_SETTINGS.
        (frame(0x21, b"x"), 0x10a),
        // HTTP/2's, one twice, flags that are none: H3_SETTINGS_ERROR.
        (frame(4, &[2, 0]), 0x109),
        (frame(4, &[3, 1]), 0x109),
        (frame(4, &[4, 1]), 0x109),
        (frame(4, &[5, 1]), 0x109),
        (frame(4, &[6, 1, 6, 1]), 0x109),
        (frame(4, &[8, 2]), 0x109),
        (frame(4, &[0x33, 2]), 0x109),
        // A value is missing, or cut short: H3_FRAME_ERROR.
        (frame(4, &[6]), 0x106),
        (frame(4, &[6, 0x40]), 0x106),
        (frame(4, &vec![0; 5000]), EXCESSIVE_LOAD),
    ] {
        let mut raw = Raw::new();
        raw.send(2, &[&[0][..], &settings].concat(), false);
        assert_eq!(raw.closed_with(), code, "{:x?}", &settings[..settings.len().min(20)]);
    }
    // Reserved ones, known ones and unknown ones pass.
    let mut raw = Raw::new();
    raw.send(
        2,
        &[&[0][..], &frame(4, &[1, 0, 6, 0x41, 0, 7, 0, 8, 1, 0x21, 5, 0x33, 1])].concat(),
        false,
    );
    raw.begin(0, &head(&GET), true);
}

#[test]
fn more_streams_than_announced_cannot_be_begun() {
    let mut raw = Raw::open();
    for n in 0..H3_STREAMS_MAX {
        raw.begin(4 * n, &head(&GET), true);
    }
    assert_eq!(raw.client.peer_streams_left_bidi(), 0);
    let refused = raw.client.stream_send(4 * H3_STREAMS_MAX, &head(&GET), true);
    assert_eq!(refused, Err(quiche::Error::StreamLimit));
}

#[test]
fn heads_that_are_never_whole_hold_no_more_than_the_window() {
    let mut raw = Raw::open();
    let mut most = frame(HEADERS, &vec![0; 32_000]);
    most.truncate(31_000);
    for n in 0..H3_STREAMS_MAX {
        assert_eq!(raw.send(4 * n, &most, false), []);
        if raw.engine.is_closed() {
            break;
        }
        let quic = raw.engine.quic();
        let held: usize = (0..=n).map(|n| quic.stream_readable_len(4 * n, usize::MAX)).sum();
        assert!(held <= H3_CONNECTION_WINDOW, "{held}");
        assert!(quic.stream_readable_len(4 * n, usize::MAX) <= EXCHANGE_WINDOW);
    }
    assert_eq!(raw.engine.streams(), 0);
}

#[test]
fn nothing_is_read_of_a_connection_that_was_closed() {
    let mut raw = Raw::open();
    raw.send(0, &frame(DATA, b"x"), false);
    assert_eq!(raw.closed_with(), FRAME_UNEXPECTED);
    assert_eq!(raw.send(4, &head(&GET), true), []);
    let mut datagram = vec![0x40; 1200];
    raw.give(&mut datagram);
    assert_eq!(raw.run(), []);
}
