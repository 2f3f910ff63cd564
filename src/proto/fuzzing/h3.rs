//! A client whose streams hold any bytes, or whose datagrams are any bytes, and somebody who answers.

#![allow(clippy::unwrap_used, reason = "test code: what fails here fails the test")]

use std::collections::BTreeMap;

use super::{DATE, check_head};
use crate::{
    limits::H3_STREAMS_MAX,
    proto::{
        h3::{
            Options,
            peer::{Pair, Server, WIDE, client_config},
        },
        head::{BodyLength, ResponseHead},
        stream::{Cut, Event, Requests, Responses, StreamKey},
    },
};

const BODY_SIZE_MAX: u64 = 4096;

/// What became of one stream.
#[derive(Debug, Default)]
struct Seen {
    ended: bool,
    refused: bool,
    reset: bool,
    is_websocket: bool,
    body: u64,
}

/// Orders of one byte each, with what they are about behind them:
///
/// - 0 to 63: on this stream, counted in fours from the client's first of either kind, so many bytes (a byte) that follow;
/// - 64 to 127: the same, and its end;
/// - 128 to 159: the stream is reset; 160 to 191: it is not read any more;
/// - 192 to 223: a datagram to the server of so many bytes (a byte) that follow, instead of the client's;
/// - 224 to 239: the next flight is lost; 240 to 255: time passes for the engine.
///
/// # Panics
/// If the engine breaks a promise.
pub fn h3_datagram(data: &[u8]) {
    let Some((&start, mut rest)) = data.split_first() else { return };
    let options = Options { body_size_max: BODY_SIZE_MAX, ..Options::default() };
    let mut server = Server::new();
    let mut pair = match start % 3 {
        // Instead of a handshake, in the middle of it, or behind it.
        0 => Pair::new(&mut server, &mut client_config(WIDE), options, None),
        1 => {
            let mut pair = Pair::new(&mut server, &mut client_config(WIDE), options, None);
            assert!(pair.round(&mut Vec::new()));
            pair
        }
        _ => Pair::open_on(&mut server, WIDE, options),
    };
    let mut seen = BTreeMap::new();
    while let Some((&order, tail)) = rest.split_first() {
        rest = tail;
        let stream = u64::from(order & 15) * 4 + if order & 16 == 0 { 0 } else { 2 };
        let mut bytes = || {
            let (&len, tail) = rest.split_first().unwrap_or((&0, &[]));
            let (bytes, tail) = tail.split_at(tail.len().min(usize::from(len)));
            rest = tail;
            bytes.to_vec()
        };
        match order {
            0..128 => {
                // Streams that it may not write to are quiche's to refuse.
                pair.client.stream_send(stream, &bytes(), order >= 64).ok();
            }
            128..160 => {
                pair.client.stream_shutdown(stream, quiche::Shutdown::Write, 0x10c).ok();
            }
            160..192 => {
                pair.client.stream_shutdown(stream, quiche::Shutdown::Read, 0x10c).ok();
            }
            192..224 => {
                let mut datagram = bytes();
                if !datagram.is_empty() {
                    pair.give(&mut datagram);
                }
            }
            224..240 => {
                pair.weather.lost = 100;
                pair.round_with(|pair, event| note(pair, &event, &mut seen));
                pair.weather.lost = 0;
            }
            240.. => {
                pair.now += std::time::Duration::from_secs(u64::from(order - 239));
                let now = pair.now;
                pair.engine.handle_timeout(now);
            }
        }
        advance(&mut pair, &mut seen);
    }
    pair.client.close(true, 0x100, b"").ok();
    advance(&mut pair, &mut seen);
    if pair.engine.is_closed() {
        assert_eq!(pair.engine.streams(), 0, "nothing outlives the connection");
    }
}

fn advance(pair: &mut Pair, seen: &mut BTreeMap<u64, Seen>) {
    // Bounded: an engine and a client that keep each other busy for nothing are a fault.
    for _ in 0..1000 {
        let moved = pair.round_with(|pair, event| note(pair, &event, seen));
        let streams = pair.engine.streams();
        assert!(streams as u64 <= H3_STREAMS_MAX, "{streams} streams");
        if !moved {
            return;
        }
    }
    panic!("it does not come to rest");
}

fn note(pair: &mut Pair, event: &Event, seen: &mut BTreeMap<u64, Seen>) {
    let now = pair.now;
    match event {
        Event::Request { stream, end, websocket } => {
            check_head(&pair.head);
            assert_eq!(*end, pair.head.body == BodyLength::Empty);
            let before = seen.insert(
                stream.id(),
                Seen { ended: *end, is_websocket: *websocket, ..Seen::default() },
            );
            assert!(before.is_none(), "one request for each stream");
            if *end {
                answer(pair, *stream);
            }
        }
        Event::Body { stream, data, end } => {
            let entry = seen.get_mut(&stream.id()).expect("its head came first");
            assert!(!entry.ended && !entry.refused && !entry.reset, "after its end");
            assert!(*end || !data.is_empty());
            entry.body += data.len() as u64;
            assert!(entry.body <= BODY_SIZE_MAX || entry.is_websocket);
            entry.ended = *end;
            pair.engine.credit(*stream, data.len(), now);
            if *end {
                answer(pair, *stream);
            }
        }
        Event::Refused { stream, refusal } => {
            let entry = seen.entry(stream.id()).or_default();
            assert!(!entry.ended && !entry.refused && !entry.reset, "after its end");
            entry.refused = true;
            pair.engine.refuse(*stream, *refusal, DATE, now);
        }
        Event::Reset { stream } => {
            let entry = seen.get_mut(&stream.id()).expect("it was reported");
            assert!(!entry.reset, "once only");
            entry.reset = true;
        }
        Event::Writable { stream } => pair.engine.reset(*stream, Cut::Cancelled),
    }
}

fn answer(pair: &mut Pair, stream: StreamKey) {
    let head = ResponseHead { status: 200, blob: &[], fields: &[], body: BodyLength::Unknown };
    let now = pair.now;
    pair.engine.respond(stream, &head, DATE, false).expect("a valid head");
    pair.engine.body(stream, b"ok", true, now).expect("any length is allowed");
}
