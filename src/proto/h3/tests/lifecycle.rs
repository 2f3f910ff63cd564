//! How connections and streams begin and end.

use std::time::Duration;

use super::{
    DATE, Head, OPTIONS,
    client::{Client, GET, POST},
    raw::{NO_ERROR, REQUEST_REJECTED, Raw, frame, head},
};
use crate::{
    limits::H3_GOAWAY_WAIT,
    proto::{
        error::Refusal,
        h3::peer::{Pair, Server, WIDE, client_config},
        head::BodyLength,
        stream::{Cut, Event, Requests, Responses},
    },
};

#[test]
fn settings_go_out_as_soon_as_they_may() {
    let mut raw = Raw::new();
    let (bytes, fin) = raw.received(3);
    // A control stream: SETTINGS with MAX_FIELD_SECTION_SIZE 32768 and ENABLE_CONNECT_PROTOCOL.
    assert_eq!(bytes, [0, 4, 7, 6, 0x80, 0, 0x80, 0, 8, 1]);
    assert!(!fin);
}

#[test]
fn a_client_that_allows_no_streams_of_ours_is_served_without() {
    let mut config = client_config(WIDE);
    config.set_initial_max_streams_uni(0);
    let pair = Pair::new(&mut Server::new(), &mut config, OPTIONS, None);
    let mut raw = Raw { pair };
    assert_eq!(raw.run(), []);
    let stream = raw.begin(0, &head(&GET), true);
    raw.answer(stream, b"ok");
    assert!(raw.received(0).1);
}

#[test]
fn a_cancelled_request_is_reported_once_and_its_siblings_go_on() {
    let mut raw = Raw::open();
    let (a, b) = (raw.begin(0, &head(&POST), false), raw.begin(4, &head(&POST), false));
    assert_eq!(raw.cancel(0), [Event::Reset { stream: a }]);
    assert_eq!(raw.run(), []);
    raw.answer(b, b"ok");
    assert!(!raw.received(4).0.is_empty());
    assert_eq!(raw.engine.streams(), 0);
}

#[test]
fn either_half_that_a_client_gives_up_ends_the_request() {
    for direction in [quiche::Shutdown::Read, quiche::Shutdown::Write] {
        let mut raw = Raw::open();
        let stream = raw.begin(0, &head(&POST), false);
        raw.client.stream_shutdown(0, direction, 0x10c).unwrap();
        assert_eq!(raw.run(), [Event::Reset { stream }]);
        assert_eq!(raw.engine.streams(), 0);
    }
    // A request that was sent whole is cancelled with STOP_SENDING alone.
    let mut raw = Raw::open();
    let stream = raw.begin(0, &head(&GET), true);
    raw.client.stream_shutdown(0, quiche::Shutdown::Read, 0x10c).unwrap();
    assert_eq!(raw.run(), [Event::Reset { stream }]);
    assert!(raw.engine.is_idle());
}

#[test]
fn a_client_that_stops_reading_in_the_middle_of_a_response_is_noticed() {
    let mut client = Client::new();
    let stream = client.ask(&GET);
    let head = Head::new(200, &[], BodyLength::Unknown);
    client.engine.respond(stream, &head.get(), DATE, false).unwrap();
    let now = client.now;
    client.engine.body(stream, &[7; 1000], false, now).unwrap();
    client.run();
    client.client.stream_shutdown(0, quiche::Shutdown::Read, 0x10c).unwrap();
    assert_eq!(client.run(), [Event::Reset { stream }]);
    assert_eq!(client.engine.body(stream, &[7; 1000], false, now), Ok(1000), "dropped");
    assert!(client.engine.is_idle());
}

#[test]
fn a_reset_of_ours_says_why() {
    for (cut, code) in
        [(Cut::Internal, 0x102), (Cut::Cancelled, 0x10c), (Cut::Refused, REQUEST_REJECTED)]
    {
        let mut raw = Raw::open();
        let stream = raw.begin(0, &head(&GET), true);
        raw.engine.reset(stream, cut);
        assert_eq!(raw.run(), []);
        assert_eq!(raw.reset_with(0), code);
        assert!(raw.engine.is_idle());
    }
}

#[test]
fn when_the_connection_is_closed_each_stream_is_reported_once() {
    let mut raw = Raw::open();
    let streams: Vec<_> = (0..5).map(|n| raw.begin(4 * n, &head(&POST), false)).collect();
    // A head that is incomplete is nobody's.
    raw.send(20, &[1], false);
    raw.client.close(true, NO_ERROR, b"").unwrap();
    let mut events = raw.run();
    events.sort_by_key(|event| match event {
        Event::Reset { stream } => stream.id(),
        other => panic!("{other:?}"),
    });
    let expected: Vec<_> = streams.into_iter().map(|stream| Event::Reset { stream }).collect();
    assert_eq!(events, expected);
    assert!(raw.engine.is_closed() && raw.engine.streams() == 0);
    assert_eq!(raw.run(), []);
}

#[test]
fn a_close_behind_a_packet_that_nobody_can_open_is_heard() {
    // RFC 9000 §10.2.3, §12.2: a client that does not know that its handshake is confirmed closes in a Handshake packet, whose
    // keys are gone here, and once more in the 1-RTT packet behind it.
    let mut raw = Raw::open();
    let stream = raw.begin(0, &head(&GET), true);
    let mut datagram = vec![0xe0, 0, 0, 0, 1, 16];
    datagram.extend([7; 16]);
    datagram.extend([0, 0x40, 40]);
    datagram.extend([9; 40]);
    raw.client.close(true, NO_ERROR, b"").unwrap();
    let mut buffer = [0; 1500];
    let (len, _) = raw.client.send(&mut buffer).unwrap();
    assert!(buffer[0] & 0x80 == 0, "a short header");
    datagram.extend_from_slice(&buffer[..len]);
    raw.give(&mut datagram);
    assert_eq!(raw.run(), [Event::Reset { stream }]);
    assert!(raw.engine.is_closed());
}

#[test]
fn a_rule_of_quic_that_is_broken_ends_the_connection() {
    let mut raw = Raw::open();
    let stream = raw.begin(0, &head(&GET), true);
    raw.engine.quic().close(false, 7, b"").unwrap();
    assert_eq!(raw.run(), [Event::Reset { stream }]);
    assert!(raw.engine.is_closed() && !raw.engine.is_drained());
    assert_eq!(
        raw.client.peer_error().map(|error| (error.is_app, error.error_code)),
        Some((false, 7))
    );
    // Draining is timed by QUIC.
    assert!(raw.engine.timeout().is_some());
    while !raw.engine.is_drained() {
        raw.pass_time();
    }
    assert_eq!(raw.engine.timeout(), None);
}

#[test]
fn a_graceful_goaway_lets_what_is_under_way_end() {
    let mut raw = Raw::open();
    let first = raw.begin(0, &head(&GET), true);
    raw.received(3);
    let now = raw.now;
    raw.engine.graceful_goaway(now);
    raw.engine.graceful_goaway(now);
    raw.run();
    let highest = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfc];
    assert_eq!(raw.received(3).0, frame(7, &highest), "none is turned away before it has heard");
    let crossed = raw.begin(4, &head(&GET), true);
    assert_eq!(raw.wait(H3_GOAWAY_WAIT), []);
    assert_eq!(raw.received(3).0, frame(7, &[8]));
    assert_eq!(raw.send(8, &head(&GET), true), [], "after that no request is one");
    assert_eq!(raw.reset_with(8), REQUEST_REJECTED);
    raw.answer(first, b"ok");
    raw.wait(H3_GOAWAY_WAIT);
    assert!(!raw.engine.is_closed());
    raw.answer(crossed, b"ok");
    for _ in 0..3 {
        raw.wait(H3_GOAWAY_WAIT);
    }
    assert!(raw.received(4).1, "what was answered has arrived");
    assert_eq!(raw.closed_with(), NO_ERROR);
}

#[test]
fn a_graceful_goaway_closes_an_idle_connection() {
    let mut raw = Raw::open();
    let now = raw.now;
    raw.engine.graceful_goaway(now);
    for _ in 0..3 {
        raw.wait(H3_GOAWAY_WAIT);
    }
    assert_eq!(raw.closed_with(), NO_ERROR);
    let mut pair = Pair::new(&mut Server::new(), &mut client_config(WIDE), OPTIONS, None);
    let now = pair.now;
    pair.engine.graceful_goaway(now);
    assert!(pair.engine.is_closed(), "it had not even begun");
}

#[test]
fn a_response_that_has_not_arrived_keeps_a_leaving_connection() {
    let mut raw = Raw::open();
    let stream = raw.begin(0, &head(&GET), true);
    let now = raw.now;
    super::answer(&mut raw.engine, stream, b"ok", now);
    // It is lost on its way.
    raw.weather.lost = 100;
    raw.server_sends();
    let mut events = Vec::new();
    raw.round(&mut events);
    raw.engine.graceful_goaway(now);
    raw.now += H3_GOAWAY_WAIT;
    let now = raw.now;
    raw.engine.handle_timeout(now);
    assert!(!raw.engine.is_closed() && !raw.engine.is_idle());
    raw.weather.lost = 0;
    while !raw.received(0).1 {
        assert!(!raw.engine.is_closed());
        raw.pass_time();
        raw.run();
    }
    for _ in 0..3 {
        raw.wait(H3_GOAWAY_WAIT);
    }
    assert_eq!(raw.closed_with(), NO_ERROR);
}

/// A ticket for early data, and where it is from.
fn ticket() -> (Server, Vec<u8>) {
    let mut server = Server::new();
    let mut pair = Pair::new(&mut server, &mut client_config(WIDE), OPTIONS, None);
    assert_eq!(pair.run(), []);
    let session = pair.client.session().expect("a ticket").to_vec();
    (server, session)
}

/// What a request in early data, and in nothing else, leads to.
fn early(request: &[u8], fin: bool) -> (Raw, Vec<Event>) {
    let (mut server, session) = ticket();
    let pair = Pair::new(&mut server, &mut client_config(WIDE), OPTIONS, Some(&session));
    let mut raw = Raw { pair };
    // The first flight, with which the early data is.
    let mut buffer = [0; 1500];
    let (len, _) = raw.client.send(&mut buffer).unwrap();
    let mut flight = vec![buffer[..len].to_vec()];
    assert!(raw.client.is_in_early_data());
    raw.client.stream_send(0, request, fin).unwrap();
    while let Ok((len, _)) = raw.client.send(&mut buffer) {
        flight.push(buffer[..len].to_vec());
    }
    let mut events = Vec::new();
    for mut datagram in flight {
        raw.give(&mut datagram);
        raw.poll(&mut events);
    }
    (raw, events)
}

#[test]
fn a_safe_request_in_early_data_is_served_and_marked() {
    let (mut raw, events) = early(&head(&GET), true);
    let [Event::Request { stream, end: true, .. }] = events[..] else { panic!("{events:?}") };
    assert!(raw.engine.quic().is_in_early_data(), "the handshake is not over");
    assert_eq!(raw.field("early-data").as_deref(), Some("1"), "RFC 8470 §5.1");
    raw.answer(stream, b"ok");
    assert!(raw.client.is_established());
    assert!(raw.received(0).1);
    raw.begin(4, &head(&GET), true);
    assert_eq!(raw.field("early-data"), None, "later ones are not");
}

#[test]
fn an_unsafe_request_in_early_data_is_refused() {
    let websocket = [
        (":method", "CONNECT"),
        (":protocol", "websocket"),
        (":scheme", "https"),
        (":path", "/"),
        (":authority", "a"),
    ];
    for request in [&POST[..], &websocket] {
        let (mut raw, events) = early(&head(request), false);
        let [Event::Refused { stream, refusal: Refusal::TooEarly }] = events[..] else {
            panic!("{events:?}")
        };
        assert_eq!(Refusal::TooEarly.status(), 425);
        let now = raw.now;
        raw.engine.refuse(stream, Refusal::TooEarly, DATE, now);
        raw.run();
        assert!(raw.received(0).1);
        // Once nobody could have sent it again, it is welcome.
        raw.begin(4, &head(&POST), false);
    }
}

#[test]
fn a_handshake_that_does_not_end_is_given_up() {
    let mut pair = Pair::new(&mut Server::new(), &mut client_config(WIDE), OPTIONS, None);
    let mut buffer = [0; 1500];
    let (len, _) = pair.client.send(&mut buffer).unwrap();
    pair.give(&mut buffer[..len]);
    pair.server_sends();
    pair.now += OPTIONS.header_timeout - Duration::from_millis(1);
    let now = pair.now;
    pair.engine.handle_timeout(now);
    assert!(!pair.engine.is_closed());
    pair.now += Duration::from_millis(1);
    let now = pair.now;
    pair.engine.handle_timeout(now);
    assert!(pair.engine.is_closed());
}

#[test]
fn requests_that_are_held_are_begun_when_that_is_over() {
    let mut raw = Raw::open();
    let stream = raw.begin(0, &head(&POST), false);
    raw.engine.hold_requests(true);
    assert_eq!(raw.send(4, &head(&GET), true), []);
    assert!(!raw.engine.has_news());
    // What is under way goes on.
    let body = Event::Body { stream, data: bytes::Bytes::from_static(b"x"), end: true };
    assert_eq!(raw.send(0, &frame(0, b"x"), true), [body]);
    raw.engine.hold_requests(false);
    assert!(raw.engine.has_news());
    let events = raw.run();
    assert!(matches!(events[..], [Event::Request { end: true, .. }]), "{events:?}");
}

#[test]
fn any_datagram_may_come_at_any_time() {
    let mut raw = Raw::open();
    for len in [1, 20, 100, 1200] {
        for first in 0..=u8::MAX {
            raw.give(&mut vec![first; len]);
        }
    }
    assert!(!raw.engine.is_closed(), "forged ones harm nobody");
    raw.begin(0, &head(&GET), true);
}
