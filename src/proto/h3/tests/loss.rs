//! However datagrams are lost, late, repeated and out of order, what they carry arrives as it was sent.

use proptest::prelude::*;

use super::{
    DATE, Head,
    client::{Client, GET, POST},
};
use crate::{
    limits::EXCHANGE_WINDOW,
    proto::{
        fuzzing::h3_datagram,
        h3::peer::{Pair, WIDE, Weather},
        head::BodyLength,
        stream::{Event, Requests, Responses},
    },
};

/// Bytes that tell where they belong.
fn source(len: usize, seed: u64) -> Vec<u8> {
    let byte = |at: u64| (at.wrapping_mul(31).wrapping_add(at >> 8) ^ seed).to_le_bytes()[0];
    (0..len as u64).map(byte).collect()
}

/// Sends a body to the server and has it sent back, all at once on some streams.
fn echo(weather: Weather, sizes: &[usize]) {
    let mut client = Client::over(Pair::open(WIDE, super::options(1 << 30)));
    client.weather = weather;
    let bodies: Vec<_> = sizes.iter().zip(0..).map(|(&len, seed)| source(len, seed)).collect();
    let ids: Vec<_> = sizes.iter().map(|_| client.send(&POST, false)).collect();
    let mut sent = vec![0; sizes.len()];
    let mut said = vec![false; sizes.len()];
    // What the server has of each, what of it went back, and whether it is all.
    let mut stored: Vec<(Vec<u8>, usize, bool)> = vec![(Vec::new(), 0, false); sizes.len()];
    let mut keys = vec![None; sizes.len()];
    let mut rounds = 0;
    while !ids.iter().all(|id| client.seen.get(id).is_some_and(|seen| seen.ended)) {
        rounds += 1;
        assert!(rounds < 20_000, "it does not get anywhere");
        for (at, id) in ids.iter().enumerate() {
            if !said[at] {
                let rest = &bodies[at][sent[at]..];
                sent[at] += client.send_body(*id, rest, true);
                // An empty end may have to be said again.
                said[at] =
                    client.client.stream_capacity(*id).is_err() || sent[at] == bodies[at].len();
            }
        }
        let mut events = Vec::new();
        let moved = client.pair.round(&mut events) | client.look();
        let now = client.now;
        for event in events {
            match event {
                Event::Request { stream, .. } => {
                    let at = usize::try_from(stream.id() / 4).unwrap();
                    keys[at] = Some(stream);
                    let head = Head::new(200, &[], BodyLength::Unknown);
                    client.engine.respond(stream, &head.get(), DATE, false).unwrap();
                }
                Event::Body { stream, data, end } => {
                    let at = usize::try_from(stream.id() / 4).unwrap();
                    stored[at].0.extend_from_slice(&data);
                    stored[at].2 = end;
                    client.engine.credit(stream, data.len(), now);
                }
                Event::Writable { .. } => {}
                other => panic!("{other:?}"),
            }
        }
        for (at, (bytes, back, whole)) in stored.iter_mut().enumerate() {
            let Some(stream) = keys[at] else { continue };
            if *back < bytes.len() || *whole {
                let rest = bytes.get(*back..).unwrap_or_default();
                *back += client.pair.engine.body(stream, rest, *whole, now).unwrap();
            }
        }
        if !moved {
            client.pass_time();
        }
    }
    for (id, body) in ids.iter().zip(&bodies) {
        let seen = &client.seen[id].body;
        assert!(seen == body, "{} of {} bytes, or others", seen.len(), body.len());
    }
    // And nothing is left of it.
    client.weather = Weather::CALM;
    for _ in 0..50 {
        client.run();
        if client.engine.is_idle() {
            break;
        }
        client.pass_time();
    }
    assert!(client.engine.is_idle() && client.engine.places.is_empty());
}

#[test]
fn big_transfers_in_both_directions_survive_a_bad_network() {
    echo(Weather::rough(3, 5, 2, 7), &[2_000_000, 500_000, 10, 0]);
}

#[test]
fn a_calm_network_is_no_other() {
    echo(Weather::CALM, &[10 * EXCHANGE_WINDOW, 1, 0]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn any_weather_brings_the_same(
        lost in 0..15_u64,
        late in 0..40_u64,
        twice in 0..20_u64,
        seed: u64,
        sizes in prop::collection::vec(0..60_000_usize, 1..6),
    ) {
        echo(Weather::rough(lost, late, twice, seed), &sizes);
    }

    #[test]
    fn requests_that_are_cut_into_any_pieces_are_the_same(cuts in prop::collection::vec(1..40_usize, 1..30)) {
        let bytes = [
            super::raw::frame(0x21, b"grease"),
            super::raw::head(&[&GET[..], &[("x", "y")]].concat()),
            super::raw::frame(0, b"some body"),
            super::raw::frame(0x4321, &[0; 100]),
            super::raw::frame(0, b""),
            super::raw::frame(0, b" and more"),
            super::raw::head(&[("x-sum", "1")]),
        ]
        .concat();
        let mut raw = super::raw::Raw::open();
        let mut cuts = cuts.iter().cycle();
        let mut rest = bytes.as_slice();
        let mut events = Vec::new();
        while !rest.is_empty() {
            let (piece, tail) = rest.split_at(rest.len().min(*cuts.next().unwrap()));
            rest = tail;
            events.extend(raw.send(0, piece, rest.is_empty()));
        }
        let mut body = Vec::new();
        let is_request = matches!(events.remove(0), Event::Request { end: false, .. });
        prop_assert!(is_request);
        for event in &events {
            let Event::Body { data, .. } = event else { panic!("{event:?}") };
            body.extend_from_slice(data);
        }
        prop_assert_eq!(body, b"some body and more");
        let ends = events.iter().filter(|event| matches!(event, Event::Body { end: true, .. }));
        prop_assert_eq!(ends.count(), 1);
    }

    #[test]
    fn any_orders_of_a_client_hold_the_invariants(
        start: u8,
        orders in prop::collection::vec(orders(), 0..24),
        rest in prop::collection::vec(any::<u8>(), 0..60),
    ) {
        h3_datagram(&[&[start], orders.concat().as_slice(), &rest].concat());
    }
}

/// Orders for [`h3_datagram`], well-formed and not, so that random ones get far.
fn orders() -> impl Strategy<Value = Vec<u8>> {
    let bytes = prop_oneof![
        3 => Just(super::raw::head(&GET)),
        3 => Just(super::raw::head(&POST)),
        2 => prop::collection::vec(any::<u8>(), 0..40).prop_map(|body| super::raw::frame(0, &body)),
        1 => (0..16_u64, prop::collection::vec(any::<u8>(), 0..20))
            .prop_map(|(kind, payload)| super::raw::frame(kind, &payload)),
        1 => Just([&[0][..], &super::raw::frame(4, &[])].concat()),
        1 => prop::collection::vec(any::<u8>(), 0..30),
    ];
    prop_oneof![
        12 => (0..128_u8, bytes).prop_map(|(order, bytes)| {
            let len = u8::try_from(bytes.len()).expect("short");
            [&[order & 0x73, len], bytes.as_slice()].concat()
        }),
        3 => (128..192_u8).prop_map(|order| vec![order & 0xf3]),
        2 => (224..=255_u8).prop_map(|order| vec![order]),
    ]
}
