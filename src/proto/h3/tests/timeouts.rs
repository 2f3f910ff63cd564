//! Whatever is awaited from the client has its time. It is the engine's time that passes here, not quiche's.

use std::time::Duration;

use super::{
    DATE, Head, OPTIONS,
    client::{GET, POST},
    raw::{DATA, NO_ERROR, REQUEST_CANCELLED, Raw, frame, head},
};
use crate::{
    limits::{
        BODY_TIMEOUT, EXCHANGE_WINDOW, H3_PING_INTERVAL, HEAD_TIMEOUT, KEEPALIVE_TIMEOUT,
        SEND_TIMEOUT, SWEEP_INTERVAL,
    },
    proto::{
        error::Refusal,
        h3::peer::{WIDE, Windows},
        head::BodyLength,
        stream::{Event, Requests, Responses, StreamKey},
    },
};

const MS: Duration = Duration::from_millis(1);

/// Lets time pass as a shard does, looking twice a second.
fn pass(raw: &mut Raw, time: Duration) -> Vec<Event> {
    let end = raw.now + time;
    let mut events = Vec::new();
    while raw.now < end {
        let step = (end - raw.now).min(SWEEP_INTERVAL);
        events.extend(raw.wait(step));
    }
    events
}

#[test]
fn a_head_that_does_not_come_ends_its_stream_only() {
    let request = head(&GET);
    for begun in [1, 2, request.len() - 1] {
        let mut raw = Raw::open();
        let sibling = raw.begin(4, &head(&GET), true);
        raw.send(0, &request[..begun], false);
        pass(&mut raw, HEAD_TIMEOUT - MS);
        assert_eq!(raw.engine.streams.len(), 2);
        assert_eq!(pass(&mut raw, 2 * MS), [], "nobody had heard of it");
        assert_eq!(raw.reset_with(0), 0x10d, "H3_REQUEST_INCOMPLETE");
        raw.answer(sibling, b"ok");
        assert!(raw.received(4).1);
    }
}

#[test]
fn a_head_in_a_trickle_has_no_more_time_than_one_that_stands_still() {
    let mut raw = Raw::open();
    let request = head(&[&GET[..], &[("x", "more than a byte for each second")]].concat());
    for (at, byte) in request.iter().enumerate().take(11) {
        raw.send(0, &[*byte], false);
        pass(&mut raw, Duration::from_secs(1));
        assert_eq!(raw.engine.streams.is_empty(), at >= 9, "{at}");
    }
    assert_eq!(raw.reset_with(0), 0x10d);
}

#[test]
fn an_idle_connection_is_closed() {
    let mut raw = Raw::open();
    let stream = raw.begin(0, &head(&GET), true);
    pass(&mut raw, Duration::from_secs(5));
    raw.answer(stream, b"ok");
    pass(&mut raw, KEEPALIVE_TIMEOUT - Duration::from_secs(1));
    // Asking for signs of life does not make it busy.
    raw.client.send_ack_eliciting().unwrap();
    raw.run();
    assert!(!raw.engine.is_closed());
    assert_eq!(pass(&mut raw, Duration::from_secs(2)), []);
    assert_eq!(raw.closed_with(), NO_ERROR);
}

#[test]
fn a_silent_client_that_waits_is_asked_for_a_sign_of_life() {
    let mut raw = Raw::open();
    let stream = raw.begin(0, &head(&GET), true);
    for _ in 0..10 {
        let before = raw.client.stats().recv;
        assert_eq!(pass(&mut raw, H3_PING_INTERVAL + MS), []);
        assert!(raw.client.stats().recv > before, "QUIC's idle timer does not run out meanwhile");
    }
    raw.answer(stream, b"ok");
    assert!(raw.received(0).1);
}

#[test]
fn a_body_that_stands_still_is_refused() {
    let mut raw = Raw::open();
    let stream = raw.begin(0, &head(&POST), false);
    let events = pass(&mut raw, BODY_TIMEOUT);
    assert_eq!(events, [Event::Refused { stream, refusal: Refusal::TooSlow }]);
    let now = raw.now;
    raw.engine.refuse(stream, Refusal::TooSlow, DATE, now);
    raw.run();
    assert!(raw.received(0).1);
    assert!(!raw.engine.is_closed());
}

#[test]
fn a_body_that_trickles_is_refused() {
    let mut raw = Raw::open();
    let stream = raw.begin(0, &head(&POST), false);
    let mut waited = Duration::ZERO;
    loop {
        let events = pass(&mut raw, Duration::from_secs(1));
        waited += Duration::from_secs(1);
        if !events.is_empty() {
            assert_eq!(events, [Event::Refused { stream, refusal: Refusal::TooSlow }]);
            break;
        }
        raw.send(0, &frame(DATA, b"x"), false);
        assert!(waited < Duration::from_secs(25), "a byte a second is not enough");
    }
}

#[test]
fn a_body_that_comes_slowly_but_well_is_not_refused() {
    let mut raw = Raw::open_with(WIDE, super::options(1 << 20));
    let stream = raw.begin(0, &head(&POST), false);
    for _ in 0..60 {
        assert_eq!(pass(&mut raw, Duration::from_secs(1)), []);
        let events = raw.send(0, &frame(DATA, &[7; 1100]), false);
        assert!(matches!(events[..], [Event::Body { .. }]), "{events:?}");
    }
    raw.answer(stream, b"ok");
}

#[test]
fn a_body_that_waits_for_the_worker_has_all_the_time() {
    let mut raw = Raw::open_with(WIDE, super::options(1 << 20));
    let stream = raw.begin(0, &head(&POST), false);
    raw.send(0, &frame(DATA, &vec![7; EXCHANGE_WINDOW]), false);
    for _ in 0..6 {
        assert_eq!(pass(&mut raw, BODY_TIMEOUT), []);
    }
    let now = raw.now;
    raw.engine.credit(stream, EXCHANGE_WINDOW, now);
    raw.run();
    assert_eq!(pass(&mut raw, Duration::from_secs(5)), [], "now it is the client's turn");
    let events = pass(&mut raw, BODY_TIMEOUT);
    assert_eq!(events, [Event::Refused { stream, refusal: Refusal::TooSlow }]);
}

#[test]
fn a_websocket_may_be_silent() {
    let mut raw = Raw::open();
    let connect = [
        (":method", "CONNECT"),
        (":protocol", "websocket"),
        (":scheme", "https"),
        (":path", "/"),
        (":authority", "a"),
    ];
    let stream = raw.begin(0, &head(&connect), false);
    let accept = Head::new(101, &[], BodyLength::Unknown);
    raw.engine.respond(stream, &accept.get(), DATE, false).unwrap();
    assert_eq!(pass(&mut raw, 10 * BODY_TIMEOUT), []);
    assert!(matches!(raw.send(0, &frame(DATA, b"x"), false)[..], [Event::Body { .. }]));
}

/// A connection whose client lets nothing in.
fn shut() -> Raw {
    Raw::open_with(Windows { stream: 0, ..WIDE }, OPTIONS)
}

/// A response of which the client's window has taken nothing.
#[track_caller]
fn stalled(raw: &mut Raw, id: u64) -> StreamKey {
    let stream = raw.begin(id, &head(&GET), true);
    let head = Head::new(200, &[], BodyLength::Unknown);
    raw.engine.respond(stream, &head.get(), DATE, false).unwrap();
    let now = raw.now;
    assert_eq!(raw.engine.body(stream, &[7; 100_000], false, now), Ok(0));
    stream
}

#[test]
fn a_zero_window_stall_ends_its_stream() {
    let mut raw = shut();
    let stream = stalled(&mut raw, 0);
    let other = raw.begin(4, &head(&GET), true);
    assert_eq!(pass(&mut raw, SEND_TIMEOUT - MS), []);
    // Signs of life are no reason to hold a response for ever.
    raw.client.send_ack_eliciting().unwrap();
    assert_eq!(raw.run(), []);
    assert_eq!(pass(&mut raw, 2 * MS), [Event::Reset { stream }]);
    assert_eq!(raw.reset_with(0), REQUEST_CANCELLED);
    assert!(raw.engine.response_waits(other), "its sibling waits for its answer");
}

#[test]
fn an_answer_of_the_edge_that_is_not_taken_goes_the_same_way() {
    let mut raw = shut();
    let stream = raw.begin(0, &head(&GET), true);
    let answer = crate::proto::answer::EdgeAnswer::new(404, Some("Not Found"), &[]);
    raw.engine.answer(stream, &answer, DATE).unwrap();
    raw.run();
    assert_eq!(pass(&mut raw, SEND_TIMEOUT + MS), [], "the caller was done with it");
    assert_eq!(raw.reset_with(0), REQUEST_CANCELLED);
    assert!(raw.engine.is_idle());
}

#[test]
fn zero_window_stalls_on_every_stream_cost_the_connection_nothing_that_grows() {
    let mut raw = shut();
    for round in 0..3 {
        let streams: Vec<_> = (0..40).map(|n| stalled(&mut raw, 4 * (round * 40 + n))).collect();
        let held: usize = raw.engine.streams.iter().map(|(_, stream)| stream.outbox.len()).sum();
        assert!(held < 64 * 1024, "{held}: heads only");
        let events = pass(&mut raw, SEND_TIMEOUT + MS);
        assert!(streams.iter().all(|stream| events.contains(&Event::Reset { stream: *stream })));
        for stream in streams {
            raw.received(stream.id());
        }
        raw.run();
        assert!(raw.engine.is_idle());
    }
}

#[test]
fn a_slow_reader_that_reads_is_served_and_one_that_hardly_does_is_not() {
    for (a_second, is_served) in [(2_000, true), (100, false)] {
        let windows = Windows { stream: 4_000, ..WIDE };
        let mut raw = Raw::open_with(windows, OPTIONS);
        let stream = raw.begin(0, &head(&GET), true);
        let head = Head::new(200, &[], BodyLength::Unknown);
        raw.engine.respond(stream, &head.get(), DATE, false).unwrap();
        let now = raw.now;
        raw.engine.body(stream, &[7; 100_000], false, now).unwrap();
        raw.run();
        let mut reset = false;
        for _ in 0..90 {
            let mut events = pass(&mut raw, Duration::from_secs(1));
            raw.client.stream_recv(0, &mut vec![0; a_second]).ok();
            events.extend(raw.run());
            for event in events {
                match event {
                    Event::Writable { .. } => {
                        let now = raw.now;
                        raw.engine.body(stream, &[7; 100_000], false, now).unwrap();
                    }
                    Event::Reset { .. } => reset = true,
                    other => panic!("{other:?}"),
                }
            }
        }
        assert_eq!(reset, !is_served, "{a_second} bytes a second");
    }
}

#[test]
fn a_client_that_acknowledges_nothing_is_given_up() {
    let mut raw = Raw::open();
    let stream = raw.begin(0, &head(&GET), true);
    raw.weather.lost = 100;
    let now = raw.now;
    super::answer(&mut raw.engine, stream, &[7; 10_000], now);
    let mut waited = Duration::ZERO;
    while !raw.engine.is_closed() {
        pass(&mut raw, Duration::from_secs(1));
        waited += Duration::from_secs(1);
        assert!(
            waited <= SEND_TIMEOUT + Duration::from_secs(15),
            "{} held",
            raw.engine.held.bytes()
        );
    }
}

#[test]
fn what_went_well_before_a_stall_does_not_prolong_it() {
    let mut raw = Raw::open_with(Windows { stream: 200_000, ..WIDE }, OPTIONS);
    let stream = raw.begin(0, &head(&GET), true);
    let head = Head::new(200, &[], BodyLength::Unknown);
    raw.engine.respond(stream, &head.get(), DATE, false).unwrap();
    let mut taken = 0;
    // Fast, and always held back by something.
    while taken < 3_000_000 {
        let now = raw.now;
        taken += raw.engine.body(stream, &vec![7; 1_000_000], false, now).unwrap();
        raw.run();
        raw.received(0);
        raw.run();
    }
    // Then nothing is read any more.
    let mut waited = Duration::ZERO;
    let mut events = Vec::new();
    while !events.contains(&Event::Reset { stream }) {
        for event in std::mem::take(&mut events) {
            assert_eq!(event, Event::Writable { stream });
            let now = raw.now;
            raw.engine.body(stream, &vec![7; 1_000_000], false, now).unwrap();
        }
        events = pass(&mut raw, Duration::from_secs(1));
        waited += Duration::from_secs(1);
        assert!(waited <= 2 * SEND_TIMEOUT + Duration::from_secs(1), "still held");
    }
}

#[test]
fn a_response_of_which_a_little_is_always_on_its_way_goes_on() {
    let mut raw = Raw::open();
    let stream = raw.begin(0, &head(&GET), true);
    let head = Head::new(200, &[], BodyLength::Unknown);
    raw.engine.respond(stream, &head.get(), DATE, false).unwrap();
    for _ in 0..200 {
        // The piece before has arrived; this one has not when the clock is looked at.
        let now = raw.now;
        assert_eq!(raw.engine.body(stream, b"event", false, now), Ok(5));
        raw.now += Duration::from_secs(1);
        let now = raw.now;
        raw.engine.handle_timeout(now);
        assert!(raw.engine.held.bytes() > 0);
        assert_eq!(raw.run(), []);
    }
    assert!(!raw.engine.is_closed());
}
