//! Whatever is awaited from the client has its time.

use std::time::Duration;

use super::{
    DATE, Head,
    raw::{
        CANCEL, DATA, END_STREAM, ENHANCE_YOUR_CALM, NO_ERROR, PING, Raw, SETTINGS_TIMEOUT, frame,
        get, post, settings, window_update,
    },
};
use crate::{
    limits::{
        BODY_TIMEOUT, EXCHANGE_WINDOW, H2_LEAVE_TIMEOUT, H2_PING_INTERVAL, H2_PING_TIMEOUT,
        HEAD_TIMEOUT, KEEPALIVE_TIMEOUT, SEND_TIMEOUT,
    },
    proto::{
        error::Refusal,
        h2::{Event, PREFACE, StreamKey},
        head::BodyLength,
        stream::{Cut, Requests, Responses},
    },
};

const MS: Duration = Duration::from_millis(1);

/// Lets time pass as a shard does, looking twice a second.
fn pass(raw: &mut Raw, time: Duration) -> Vec<Event> {
    let end = raw.now + time;
    let mut events = Vec::new();
    while raw.now < end {
        let step = (end - raw.now).min(crate::limits::SWEEP_INTERVAL);
        raw.wait(step);
        events.extend(raw.events());
    }
    events
}

#[test]
fn a_preface_that_does_not_come_ends_the_connection() {
    let mut raw = Raw::new();
    raw.send(&PREFACE[..5]);
    pass(&mut raw, HEAD_TIMEOUT - MS);
    assert!(!raw.engine.is_closed());
    pass(&mut raw, MS);
    assert!(raw.engine.is_closed());
}

#[test]
fn settings_that_are_not_acknowledged_end_the_connection() {
    let mut raw = Raw::new();
    raw.send(&[&PREFACE[..], &settings(&[])].concat());
    let stream = raw.begin(&get(1));
    pass(&mut raw, HEAD_TIMEOUT - MS);
    assert!(!raw.engine.is_closed());
    assert_eq!(pass(&mut raw, MS), [Event::Reset { stream }]);
    assert_eq!(raw.closed_with(), SETTINGS_TIMEOUT);
}

#[test]
fn a_frame_or_block_that_does_not_end_ends_the_connection() {
    let head = get(1);
    let without_end = frame(super::raw::HEADERS, 1, 1, &super::raw::block(&super::raw::GET));
    for begun in [&head[..5], &head[..20], &without_end] {
        let mut raw = Raw::open();
        raw.send(begun);
        pass(&mut raw, HEAD_TIMEOUT - MS);
        assert!(!raw.engine.is_closed());
        pass(&mut raw, MS);
        assert_eq!(raw.closed_with(), ENHANCE_YOUR_CALM);
    }
}

#[test]
fn a_block_in_a_trickle_has_no_more_time_than_one_that_stands_still() {
    let mut raw = Raw::open();
    raw.send(&frame(super::raw::HEADERS, 1, 1, &super::raw::block(&super::raw::GET)));
    for _ in 0..4 {
        pass(&mut raw, HEAD_TIMEOUT / 4);
        raw.send(&frame(super::raw::CONTINUATION, 0, 1, &[]));
    }
    raw.wait(Duration::ZERO);
    assert_eq!(raw.closed_with(), ENHANCE_YOUR_CALM);
}

#[test]
fn frames_that_are_cut_anywhere_but_come_are_not_too_slow() {
    let mut raw = Raw::open();
    let stream = raw.begin(&get(1));
    let pings = frame(PING, 0, 0, &[0; 8]);
    raw.send(&pings[..9]);
    for _ in 0..30 {
        pass(&mut raw, Duration::from_secs(1));
        raw.send(&[&pings[9..], &pings[..9]].concat());
        raw.frames();
    }
    assert!(!raw.engine.is_closed());
    raw.answer(stream, b"ok");
}

#[test]
fn an_idle_connection_is_closed() {
    let mut raw = Raw::open();
    let stream = raw.begin(&get(1));
    pass(&mut raw, Duration::from_secs(5));
    raw.answer(stream, b"ok");
    raw.frames();
    pass(&mut raw, KEEPALIVE_TIMEOUT - Duration::from_secs(1));
    // Asking for signs of life does not make it busy.
    raw.send(&frame(PING, 0, 0, &[0; 8]));
    assert!(!raw.engine.is_closed());
    assert_eq!(pass(&mut raw, Duration::from_secs(2)), []);
    assert_eq!(raw.closed_with(), NO_ERROR);
}

#[test]
fn a_silent_client_that_waits_is_asked_for_a_sign_of_life() {
    let mut raw = Raw::open();
    let stream = raw.begin(&get(1));
    for _ in 0..3 {
        raw.frames();
        assert_eq!(pass(&mut raw, H2_PING_INTERVAL + MS), []);
        let frames = raw.frames();
        let [ping] = &frames[..] else { panic!("{frames:?}") };
        assert_eq!((ping.kind, ping.flags), (PING, 0));
        raw.send(&frame(PING, 1, 0, &ping.payload));
    }
    pass(&mut raw, H2_PING_INTERVAL);
    assert_eq!(pass(&mut raw, H2_PING_TIMEOUT + MS), [Event::Reset { stream }]);
    assert!(raw.engine.is_closed());
}

#[test]
fn a_client_that_takes_a_long_response_is_alive_though_it_says_nothing() {
    let mut raw = Raw::open_with(&[(4, 0x7fff_ffff)]);
    raw.send(&window_update(0, 0x7fff_0000));
    let stream = raw.begin(&get(1));
    let head = Head::new(200, &[], BodyLength::Unknown);
    raw.engine.respond(stream, &head.get(), DATE, false).unwrap();
    for _ in 0..20 {
        assert_eq!(raw.engine.body(stream, &[7; 1000], false, raw.now), Ok(1000));
        assert!(!raw.frames().is_empty());
        assert_eq!(pass(&mut raw, Duration::from_secs(20)), []);
    }
    assert!(!raw.engine.is_closed());
}

#[test]
fn a_body_that_stands_still_is_refused() {
    let mut raw = Raw::open();
    let stream = raw.begin(&post(1));
    let events = pass(&mut raw, BODY_TIMEOUT);
    assert_eq!(events, [Event::Refused { stream, refusal: Refusal::TooSlow }]);
    raw.engine.refuse(stream, Refusal::TooSlow, DATE, raw.now);
    assert!(!raw.engine.is_closed());
}

#[test]
fn a_body_that_trickles_is_refused() {
    let mut raw = Raw::open();
    let stream = raw.begin(&post(1));
    let mut waited = Duration::ZERO;
    loop {
        let events = pass(&mut raw, Duration::from_secs(1));
        waited += Duration::from_secs(1);
        if !events.is_empty() {
            assert_eq!(events, [Event::Refused { stream, refusal: Refusal::TooSlow }]);
            break;
        }
        raw.send(&frame(DATA, 0, 1, b"x"));
        assert!(waited < Duration::from_secs(20), "a byte a second is not enough");
    }
}

#[test]
fn a_large_frame_that_arrives_slowly_but_well_is_not_refused() {
    let mut raw = Raw::open();
    raw.engine.options.body_size_max = 1 << 20;
    let stream = raw.begin(&post(1));
    let body = frame(DATA, END_STREAM, 1, &[7; 16 * 1024]);
    for piece in body.chunks(1100) {
        assert_eq!(pass(&mut raw, Duration::from_secs(1)), []);
        let events = raw.send(piece);
        assert!(events.iter().all(|event| matches!(event, Event::Body { .. })), "{events:?}");
    }
    raw.answer(stream, b"ok");
}

#[test]
fn a_later_upload_is_not_judged_by_an_earlier_ones_start() {
    let mut raw = Raw::open();
    let waiting = raw.begin(&get(1));
    let stream = raw.begin(&post(3));
    raw.send(&frame(DATA, END_STREAM, 3, b"x"));
    raw.answer(stream, b"ok");
    pass(&mut raw, Duration::from_secs(25));
    let stream = raw.begin(&post(5));
    assert_eq!(pass(&mut raw, Duration::from_secs(5)), []);
    raw.answer(stream, b"ok");
    raw.answer(waiting, b"ok");
}

#[test]
fn a_body_that_waits_for_the_worker_has_all_the_time() {
    let mut raw = Raw::open();
    raw.engine.options.body_size_max = 1 << 20;
    let stream = raw.begin(&post(1));
    for _ in 0..EXCHANGE_WINDOW / (16 * 1024) {
        raw.send(&frame(DATA, 0, 1, &[7; 16 * 1024]));
    }
    for _ in 0..6 {
        assert_eq!(pass(&mut raw, BODY_TIMEOUT), []);
        raw.send(&frame(PING, 0, 0, &[0; 8]));
        raw.frames();
    }
    raw.engine.credit(stream, EXCHANGE_WINDOW, raw.now);
    raw.frames();
    assert_eq!(pass(&mut raw, Duration::from_secs(5)), [], "now it is the client's turn");
    let events = pass(&mut raw, BODY_TIMEOUT);
    assert_eq!(events, [Event::Refused { stream, refusal: Refusal::TooSlow }]);
}

/// A response of which the client's window has taken nothing.
fn stalled(raw: &mut Raw, id: u32) -> StreamKey {
    let stream = raw.begin(&get(id));
    let head = Head::new(200, &[], BodyLength::Unknown);
    raw.engine.respond(stream, &head.get(), DATE, false).unwrap();
    assert_eq!(raw.engine.body(stream, &[7; 100_000], false, raw.now), Ok(0));
    stream
}

#[test]
fn a_zero_window_stall_ends_its_stream() {
    let mut raw = Raw::open_with(&[(4, 0)]);
    let stream = stalled(&mut raw, 1);
    let other = raw.begin(&get(3));
    pass(&mut raw, SEND_TIMEOUT - MS);
    // Signs of life are no reason to hold a response for ever.
    raw.send(&frame(PING, 0, 0, &[0; 8]));
    raw.frames();
    assert_eq!(pass(&mut raw, MS), [Event::Reset { stream }]);
    assert_eq!(raw.reset_with(1), CANCEL);
    assert!(!raw.engine.is_closed(), "its sibling waits for its answer");
    raw.engine.reset(other, Cut::Cancelled);
}

#[test]
fn a_window_that_opens_byte_by_byte_ends_its_stream() {
    let mut raw = Raw::open_with(&[(4, 0)]);
    let stream = stalled(&mut raw, 1);
    let mut waited = Duration::ZERO;
    loop {
        let events = pass(&mut raw, Duration::from_secs(1));
        waited += Duration::from_secs(1);
        if !events.is_empty() {
            assert_eq!(events, [Event::Reset { stream }]);
            break;
        }
        assert_eq!(raw.send(&window_update(1, 1)), [Event::Writable { stream }]);
        assert_eq!(raw.engine.body(stream, &[7; 100_000], false, raw.now), Ok(1));
        assert!(waited < Duration::from_secs(40), "a byte a second is not enough");
    }
}

#[test]
fn a_slow_reader_that_reads_is_served() {
    let mut raw = Raw::open_with(&[(4, 0)]);
    let stream = stalled(&mut raw, 1);
    for _ in 0..20 {
        assert_eq!(pass(&mut raw, Duration::from_secs(5)), []);
        assert_eq!(raw.send(&window_update(1, 6000)), [Event::Writable { stream }]);
        raw.engine.body(stream, &[7; 100_000], false, raw.now).unwrap();
        raw.send(&window_update(0, 6000));
        raw.frames();
    }
}

#[test]
fn zero_window_stalls_on_every_stream_cost_the_connection_nothing_that_grows() {
    let mut raw = Raw::open_with(&[(4, 0)]);
    for round in 0..3_u32 {
        let streams: [_; 128] = std::array::from_fn(|n| {
            stalled(&mut raw, (round * 128 + u32::try_from(n).unwrap()) * 2 + 1)
        });
        let held = raw.engine.queues.borrow().output.len() + raw.engine.queued;
        assert!(held < 64 * 1024, "{held}: heads only");
        let events = pass(&mut raw, SEND_TIMEOUT);
        assert!(streams.iter().all(|stream| events.contains(&Event::Reset { stream: *stream })));
        raw.frames();
        assert!(raw.engine.is_idle());
    }
}

#[test]
fn a_client_that_ignores_our_leaving_is_left() {
    let mut raw = Raw::open();
    raw.engine.graceful_goaway(raw.now);
    raw.frames();
    pass(&mut raw, H2_LEAVE_TIMEOUT);
    assert!(raw.engine.is_closed());
}
