//! Windows and bounds, in both directions.

use super::{
    DATE, Head, Options,
    client::{Client, GET, POST},
    raw::{DATA, HEADERS, Raw, frame, head, section},
};
use crate::{
    limits::{
        EXCHANGE_WINDOW, H3_CONNECTION_WINDOW, H3_DISCARDED_MAX, H3_LINGERING_MAX, H3_PIECES_MAX,
        H3_QUANTUM, H3_STREAM_WINDOW_MAX, H3_STREAMS_MAX, H3_UNACKED_SIZE_MAX, H3_UNRETURNED_MAX,
        H3_UNSENT_SIZE_MAX,
    },
    proto::{
        error::Refusal,
        h3::{
            frames::put_varint,
            peer::{Pair, Server, WIDE, Windows},
        },
        head::BodyLength,
        stream::{Cut, Event, Requests, Responses, StreamKey},
    },
};

const BIG: Options = super::options(1 << 40);

/// Begins the answer to a GET.
#[track_caller]
fn answering(client: &mut Client) -> StreamKey {
    let stream = client.ask(&GET);
    let head = Head::new(200, &[], BodyLength::Unknown);
    client.engine.respond(stream, &head.get(), DATE, false).unwrap();
    stream
}

fn give(client: &mut Client, stream: StreamKey, data: &[u8], end: bool) -> usize {
    let now = client.now;
    client.engine.body(stream, data, end, now).unwrap()
}

/// Uploads to a stream as much as the windows take; what arrived of it.
fn upload(client: &mut Client, id: u64, total: usize) -> Vec<Event> {
    let piece = vec![7; 100_000];
    let mut left = total;
    let mut events = Vec::new();
    loop {
        let sent = client.send_body(id, &piece[..left.min(piece.len())], false);
        left -= sent;
        let found = client.run();
        if sent == 0 && found.is_empty() {
            return events;
        }
        events.extend(found);
    }
}

fn size(events: &[Event]) -> usize {
    events
        .iter()
        .map(|event| match event {
            Event::Body { data, .. } => data.len(),
            other => panic!("{other:?}"),
        })
        .sum()
}

#[test]
fn a_large_response_arrives_whole_and_in_batches() {
    let mut client = Client::new();
    let stream = answering(&mut client);
    let source: Vec<u8> = (0..=250).cycle().take(3_000_000).collect();
    let mut sent = 0;
    while sent < source.len() {
        let taken = give(&mut client, stream, &source[sent..], true);
        sent += taken;
        let events = client.run();
        if sent < source.len() {
            assert_eq!(events, [Event::Writable { stream }]);
        }
    }
    client.run();
    let seen = &client.seen[&0];
    assert!(seen.body == source && seen.ended, "{} bytes arrived", seen.body.len());
    assert!(client.longest_batch > 30, "{} datagrams at once", client.longest_batch);
    assert!(client.engine.is_idle());
}

#[test]
fn the_clients_windows_hold_a_body_back() {
    let mut client = Client::with(Windows { stream: 2000, ..WIDE }, super::OPTIONS);
    let stream = answering(&mut client);
    client.is_deaf = true;
    let first = give(&mut client, stream, &[7; 5000], true);
    assert!((1800..2000).contains(&first), "{first}: less the head");
    assert_eq!(client.run(), [], "nobody reads");
    assert_eq!(give(&mut client, stream, &[7; 3000], true), 0);
    client.is_deaf = false;
    client.take(0);
    assert_eq!(client.run(), [Event::Writable { stream }]);
    let second = give(&mut client, stream, &[7; 3000], true);
    assert!(second > 1000, "{second}");
}

#[test]
fn a_client_that_reads_nothing_gets_no_more_than_its_window() {
    let mut client = Client::with(Windows { stream: 65_536, ..WIDE }, super::OPTIONS);
    client.is_deaf = true;
    let stream = answering(&mut client);
    let mut taken = 0;
    for _ in 0..100 {
        taken += give(&mut client, stream, &[7; 10_000], false);
        client.run();
    }
    assert!((65_000..65_536).contains(&taken), "{taken}");
    assert!(client.engine.held.bytes() < 70_000, "{}", client.engine.held.bytes());
}

#[test]
fn zero_windows_on_all_streams_cost_one_head_each() {
    let mut client = Client::with(Windows { stream: 0, ..WIDE }, super::OPTIONS);
    for _ in 0..H3_STREAMS_MAX {
        client.send(&GET, true);
    }
    for event in client.run() {
        let Event::Request { stream, .. } = event else { panic!("{event:?}") };
        let head = Head::new(200, &[], BodyLength::Unknown);
        client.engine.respond(stream, &head.get(), DATE, false).unwrap();
        assert_eq!(give(&mut client, stream, &[7; 100_000], false), 0);
    }
    client.run();
    let waiting: usize = client.engine.streams.iter().map(|(_, stream)| stream.outbox.len()).sum();
    assert!(waiting < 128 * 200, "{waiting}: heads only");
    assert_eq!(client.engine.held.bytes(), 0);
}

#[test]
fn an_edge_answer_waits_for_the_window_and_is_not_cut() {
    let mut client = Client::with(Windows { stream: 10, ..WIDE }, super::OPTIONS);
    let stream = client.ask(&GET);
    let answer = crate::proto::answer::EdgeAnswer::new(404, Some("Not Found"), &[]);
    client.engine.answer(stream, &answer, DATE).unwrap();
    assert_eq!(client.engine.streams(), 0, "the caller is done with it");
    assert!(!client.engine.is_idle());
    client.run();
    let seen = &client.seen[&0];
    assert_eq!((seen.statuses(), seen.ended), (vec!["404"], true));
    assert_eq!(seen.body, br#"{"detail":"Not Found"}"#);
    assert!(client.engine.is_idle());
}

#[test]
fn output_is_bounded_and_its_room_goes_round() {
    // It is not to be the network that holds them back.
    let mut server = Server::new();
    server.0.set_initial_congestion_window_packets(2000);
    let mut client = Client::over(Pair::open_on(&mut server, WIDE, super::OPTIONS));
    let streams: Vec<_> = (0..4).map(|_| answering(&mut client)).collect();
    client.run();
    let piece = vec![7; 2 * EXCHANGE_WINDOW];
    assert_eq!(give(&mut client, streams[0], &piece, false), H3_UNSENT_SIZE_MAX);
    for stream in &streams {
        assert_eq!(give(&mut client, *stream, &piece, false), 0);
    }
    let mut events = Vec::new();
    client.poll(&mut events);
    assert_eq!(events, [], "no room");
    client.server_sends();
    let mut turns = Vec::new();
    for _ in 0..8 {
        let Client { pair, .. } = &mut client;
        let event = pair.engine.poll_event(&mut pair.head, pair.now);
        let Some(Event::Writable { stream }) = event else { panic!("{event:?}") };
        turns.push(stream);
        assert_eq!(give(&mut client, stream, &piece, false), H3_QUANTUM);
    }
    assert_eq!(turns, [&streams[..], &streams[..]].concat());
}

#[test]
fn what_is_not_acknowledged_is_bounded() {
    let windows = Windows { connection: 1 << 40, stream: 1 << 40, control: 10_000 };
    let mut client = Client::with(windows, super::OPTIONS);
    let stream = answering(&mut client);
    let piece = vec![7; EXCHANGE_WINDOW];
    // A congestion window as wide as a long fat network's.
    let mut total = 0;
    while total < 30 << 20 {
        total += give(&mut client, stream, &piece, false);
        client.run();
        client.seen.get_mut(&0).unwrap().body.clear();
    }
    // Now nothing comes back any more.
    for _ in 0..200 {
        give(&mut client, stream, &piece, false);
        let mut events = Vec::new();
        client.poll(&mut events);
        client.server_sends();
    }
    let held = client.engine.held.bytes();
    assert!(held > EXCHANGE_WINDOW, "{held}: the test has to fill it");
    assert!(held <= H3_UNACKED_SIZE_MAX + 64 * 1024, "{held}");
}

#[test]
fn uploads_wait_for_the_workers_credit() {
    let mut client = Client::with(WIDE, BIG);
    let id = client.send(&POST, false);
    let events = client.run();
    let [Event::Request { stream, end: false, .. }] = events[..] else { panic!("{events:?}") };
    let source: Vec<u8> = (0..=250).cycle().take(5 * EXCHANGE_WINDOW).collect();
    let (mut sent, mut received, mut ended) = (0, Vec::new(), false);
    while !ended {
        sent += client.send_body(id, &source[sent..], true);
        let mut got = 0;
        for event in client.run() {
            let Event::Body { data, end, .. } = event else { panic!("{event:?}") };
            got += data.len();
            received.extend_from_slice(&data);
            ended = end;
        }
        assert!(got <= EXCHANGE_WINDOW, "{got} without credit");
        assert!(got > 0 || sent < source.len() || ended, "stands still at {}", received.len());
        let now = client.now;
        client.engine.credit(stream, got, now);
    }
    assert!(received == source, "byte for byte");
    assert_eq!(client.engine.unreturned, 0);
}

#[test]
fn without_credit_an_upload_stops_at_its_windows() {
    let mut client = Client::with(WIDE, BIG);
    let id = client.send(&POST, false);
    client.run();
    let events = upload(&mut client, id, 4 * EXCHANGE_WINDOW);
    assert_eq!(size(&events), EXCHANGE_WINDOW);
    let held = client.engine.quic().stream_readable_len(id, usize::MAX);
    assert!(held as u64 <= H3_STREAM_WINDOW_MAX, "{held} wait in QUIC's buffers");
}

/// Begins uploads.
fn uploads(client: &mut Client, number: u64) -> Vec<u64> {
    let ids: Vec<_> = (0..number).map(|_| client.send(&POST, false)).collect();
    let events = client.run();
    assert_eq!(events.len() as u64, number);
    assert!(events.iter().all(|event| matches!(event, Event::Request { end: false, .. })));
    ids
}

#[test]
fn all_uploads_of_a_connection_share_a_bound_and_none_starves() {
    let mut client = Client::with(WIDE, BIG);
    let mut ids = uploads(&mut client, 40);
    let mut events = Vec::new();
    for _ in 0..3 {
        for id in &ids {
            events.extend(upload(&mut client, *id, EXCHANGE_WINDOW));
        }
    }
    let first = size(&events);
    assert!(first <= H3_UNRETURNED_MAX, "{first}");
    assert!(first >= H3_CONNECTION_WINDOW, "{first}");
    let mut received: std::collections::HashMap<u64, usize> = std::collections::HashMap::new();
    for _ in 0..400 {
        let now = client.now;
        for event in events.drain(..) {
            let Event::Body { stream, data, .. } = event else { panic!("{event:?}") };
            *received.entry(stream.id()).or_default() += data.len();
            client.engine.credit(stream, data.len(), now);
        }
        // A client that is fair to its own streams.
        ids.rotate_left(1);
        for id in &ids {
            client.send_body(*id, &[7; 100_000], false);
        }
        events = client.run();
        if received.values().all(|&received| received > EXCHANGE_WINDOW) && received.len() == 40 {
            return;
        }
    }
    panic!("{received:?}");
}

#[test]
fn uploads_that_lie_with_slow_workers_do_not_hold_up_another() {
    let mut client = Client::with(WIDE, BIG);
    for id in uploads(&mut client, 8) {
        let events = upload(&mut client, id, 3 * EXCHANGE_WINDOW);
        assert_eq!(size(&events), EXCHANGE_WINDOW);
    }
    let id = client.send(&POST, false);
    client.send_body(id, &[7; 1000], true);
    let events = client.run();
    assert!(
        matches!(&events[..], [Event::Request { .. }, Event::Body { end: true, .. }]),
        "{events:?}"
    );
    client.ask(&GET);
}

#[test]
fn a_reset_stream_gives_its_share_of_the_bound_back() {
    let mut client = Client::with(WIDE, BIG);
    for round in 0..20 {
        let id = client.send(&POST, false);
        let events = client.run();
        let [Event::Request { stream, .. }] = events[..] else { panic!("{round}: {events:?}") };
        assert_eq!(size(&upload(&mut client, id, EXCHANGE_WINDOW / 2)), EXCHANGE_WINDOW / 2);
        if round % 2 == 0 {
            client.engine.reset(stream, Cut::Cancelled);
        } else {
            client.client.stream_shutdown(id, quiche::Shutdown::Write, 0x10c).unwrap();
            assert_eq!(client.run(), [Event::Reset { stream }]);
        }
        assert_eq!(client.engine.unreturned, 0);
    }
}

#[test]
fn a_head_is_left_to_quic_until_it_is_whole() {
    let mut raw = Raw::open();
    let block = section(&[&GET[..], &[("x", &"y".repeat(20_000))]].concat());
    let bytes = frame(HEADERS, &block);
    for piece in bytes[..bytes.len() - 1].chunks(1000) {
        assert_eq!(raw.send(0, piece, false), []);
    }
    assert!(raw.engine.block.capacity() < 4096, "{}", raw.engine.block.capacity());
    raw.begin(0, &bytes[bytes.len() - 1..], true);
}

/// Answers a request whose body is still coming, and goes on sending it.
fn answered_early(raw: &mut Raw, id: u64, more: usize) {
    let stream = raw.begin(id, &head(&POST), false);
    let now = raw.now;
    raw.engine.refuse(stream, Refusal::TooSlow, DATE, now);
    raw.run();
    raw.send(id, &frame(DATA, &vec![7; more]), false);
    raw.received(id);
}

#[test]
fn of_a_body_that_nobody_wants_little_is_read_before_its_client_is_asked_to_stop() {
    let mut raw = Raw::open_with(WIDE, BIG);
    let limit = usize::try_from(H3_DISCARDED_MAX).unwrap();
    answered_early(&mut raw, 0, limit / 2);
    assert_eq!(raw.client.stats().stopped_stream_count_remote, 0, "a short rest is taken");
    assert_eq!(raw.send(0, &[], true), []);
    answered_early(&mut raw, 4, 2 * limit);
    assert_eq!(raw.client.stats().stopped_stream_count_remote, 1);
    assert!(raw.engine.is_idle());
}

#[test]
fn streams_that_were_answered_early_or_reset_leave_nothing_behind() {
    let mut raw = Raw::open_with(WIDE, BIG);
    // More than can be open at one time.
    for n in 0..3 * H3_STREAMS_MAX {
        let id = 4 * n;
        if n % 3 == 2 {
            answered_early(&mut raw, id, 2 * usize::try_from(H3_DISCARDED_MAX).unwrap());
        } else {
            let stream = raw.begin(id, &head(&POST), false);
            if n % 3 == 0 {
                raw.engine.reset(stream, Cut::Internal);
            } else {
                raw.answer(stream, b"ok");
            }
            raw.run();
            raw.received(id);
        }
        // The client ends its half late, after it has acknowledged everything.
        raw.client.stream_shutdown(id, quiche::Shutdown::Write, 0x10c).ok();
        raw.run();
        // It is not the rate of such requests that is looked at here.
        raw.now += std::time::Duration::from_secs(10);
        eprintln!(
            "{n} closed {} places {:?} stopped {} lingering {} left {}",
            raw.engine.is_closed(),
            raw.engine.places.len(),
            raw.engine.stopped.len(),
            raw.engine.lingering,
            raw.client.peer_streams_left_bidi()
        );
    }
    assert!(!raw.engine.is_closed());
    assert_eq!((raw.engine.places.len(), raw.engine.stopped.len()), (0, 0));
    assert_eq!(raw.engine.lingering, 0);
    raw.begin(4 * 3 * H3_STREAMS_MAX, &head(&GET), true);
}

#[test]
fn a_connection_that_quic_keeps_dead_streams_of_is_replaced() {
    let mut raw = Raw::open_with(WIDE, BIG);
    let mut n = 0;
    while !raw.engine.timers.is_leaving() {
        let stream = raw.begin(4 * n, &head(&POST), false);
        raw.engine.reset(stream, Cut::Internal);
        raw.run();
        // It goes on until it is asked to stop, and then ends its half.
        raw.send(4 * n, &frame(DATA, &[7; 128 * 1024]), false);
        raw.received(4 * n);
        raw.client.stream_shutdown(4 * n, quiche::Shutdown::Write, 0x10c).ok();
        raw.run();
        raw.wait(std::time::Duration::from_secs(10));
        n += 1;
        assert!(n < H3_STREAMS_MAX, "{} linger", raw.engine.lingering);
    }
    assert_eq!(raw.engine.lingering, H3_LINGERING_MAX);
}

#[test]
fn what_quic_keeps_is_counted_in_pieces_until_it_was_read() {
    let mut raw = Raw::open_with(WIDE, BIG);
    let request = head(&POST);
    // quiche decrypts in place; were it not so, nothing would be seen here.
    raw.send(0, &request[..3], false);
    raw.send(0, &request[3..5], false);
    assert!((2..10).contains(&raw.engine.pieces.total), "{:?}", raw.engine.pieces);
    let stream = raw.begin(0, &request[5..], false);
    let mut length = Vec::new();
    put_varint(1 << 20, &mut length);
    raw.send(0, &[&[0][..], &length].concat(), false);
    let mut buffer = [0; 1500];
    for _ in 0..H3_PIECES_MAX.div_ceil(50) + 50 {
        for _ in 0..50 {
            raw.client.stream_send(0, b"x", false).unwrap();
            let (len, _) = raw.client.send(&mut buffer).unwrap();
            raw.give(&mut buffer[..len]);
        }
        let events = raw.run();
        assert_eq!(size(&events), 50, "{events:?}");
        let now = raw.now;
        raw.engine.credit(stream, 50, now);
        // So that the datagrams are forgiven.
        raw.now += std::time::Duration::from_secs(2);
    }
    assert!(raw.engine.pieces.total <= H3_PIECES_MAX);
}
