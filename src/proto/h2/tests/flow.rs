//! Windows and bounds, in both directions.

use super::{
    DATE, Head,
    client::Pair,
    raw::{DATA, PING, Raw, WINDOW_UPDATE, frame, get, post, settings, window_update},
};
use crate::{
    limits::{
        EXCHANGE_WINDOW, H2_CONNECTION_WINDOW, H2_CONNECTION_WINDOW_MAX, H2_QUANTUM,
        H2_UNSENT_SIZE_MAX,
    },
    proto::{
        h2::{Event, Options, PREFACE, StreamKey},
        head::BodyLength,
        stream::{Cut, Requests, Responses},
    },
};

const BIG: Options = super::options(1 << 40);

/// Begins the answer to a GET on a connection with these SETTINGS of the client's.
fn answering(raw: &mut Raw, id: u32) -> StreamKey {
    let stream = raw.begin(&get(id));
    let head = Head::new(200, &[], BodyLength::Unknown);
    raw.engine.respond(stream, &head.get(), DATE, false).unwrap();
    stream
}

/// Bytes of body in what was output for each stream.
fn bodies(raw: &mut Raw) -> Vec<(u32, usize)> {
    let data = raw.frames().into_iter().filter(|frame| frame.kind == DATA);
    data.map(|frame| (frame.stream, frame.payload.len())).collect()
}

#[test]
fn windows_are_announced() {
    let mut raw = Raw::new();
    let first = raw.frames();
    let setting = |id: u16| {
        let pairs = first[0].payload.chunks(6);
        let found =
            pairs.map(|pair| (pair[1], u32::from_be_bytes([pair[2], pair[3], pair[4], pair[5]])));
        found.into_iter().find(|(found, _)| u16::from(*found) == id).map(|(_, value)| value)
    };
    assert_eq!(setting(3), Some(128), "MAX_CONCURRENT_STREAMS");
    assert_eq!(setting(4), Some(256 * 1024), "INITIAL_WINDOW_SIZE");
    assert_eq!(setting(6), Some(32 * 1024), "MAX_HEADER_LIST_SIZE");
    assert_eq!(setting(8), Some(1), "ENABLE_CONNECT_PROTOCOL");
    raw.send(PREFACE);
    raw.send(&settings(&[]));
    let update = raw.frames().into_iter().find(|frame| frame.kind == WINDOW_UPDATE).expect("one");
    assert_eq!(update.stream, 0);
    assert_eq!(update.number() as usize + 65_535, H2_CONNECTION_WINDOW);
}

#[test]
fn the_clients_window_holds_a_body_back() {
    let mut raw = Raw::open_with(&[(4, 1000)]);
    let stream = answering(&mut raw, 1);
    assert_eq!(raw.engine.body(stream, &[7; 1500], true, raw.now), Ok(1000));
    assert_eq!(bodies(&mut raw), [(1, 1000)]);
    assert_eq!(raw.engine.body(stream, &[7; 500], true, raw.now), Ok(0));
    assert_eq!(raw.events(), [], "nothing has changed");
    assert_eq!(raw.send(&window_update(1, 200)), [Event::Writable { stream }]);
    assert_eq!(raw.engine.body(stream, &[7; 500], true, raw.now), Ok(200));
    assert_eq!(raw.send(&window_update(1, 1000)), [Event::Writable { stream }]);
    assert_eq!(raw.engine.body(stream, &[7; 300], true, raw.now), Ok(300));
    assert_eq!(bodies(&mut raw), [(1, 200), (1, 300)]);
    assert_eq!(raw.engine.streams(), 0);
}

#[test]
fn the_connections_window_is_shared() {
    let mut raw = Raw::open();
    let (a, b) = (answering(&mut raw, 1), answering(&mut raw, 3));
    assert_eq!(raw.engine.body(a, &[7; 60_000], false, raw.now), Ok(60_000));
    assert_eq!(raw.engine.body(b, &[7; 60_000], false, raw.now), Ok(5_535));
    raw.frames();
    assert_eq!(raw.send(&window_update(0, 54_465)), [Event::Writable { stream: b }]);
    assert_eq!(raw.engine.body(b, &[7; 54_465], false, raw.now), Ok(54_465));
    assert_eq!(bodies(&mut raw).iter().map(|(_, len)| len).sum::<usize>(), 54_465);
}

#[test]
fn a_window_that_shrinks_below_zero_is_waited_for() {
    let mut raw = Raw::open();
    let stream = answering(&mut raw, 1);
    assert_eq!(raw.engine.body(stream, &[7; 1000], false, raw.now), Ok(1000));
    raw.frames();
    raw.send(&settings(&[(4, 100)]));
    assert_eq!(raw.engine.body(stream, &[7; 1000], false, raw.now), Ok(0));
    assert_eq!(raw.send(&window_update(1, 900)), [], "from -900 to 0");
    assert_eq!(raw.send(&window_update(1, 1)), [Event::Writable { stream }]);
    assert_eq!(raw.engine.body(stream, &[7; 1000], false, raw.now), Ok(1));
}

#[test]
fn output_is_bounded_and_its_room_goes_round() {
    let mut raw = Raw::open_with(&[(4, 0x7fff_ffff)]);
    raw.send(&window_update(0, 0x7fff_0000));
    let streams: Vec<_> = (0..4).map(|n| answering(&mut raw, 2 * n + 1)).collect();
    raw.frames();
    let piece = vec![7; EXCHANGE_WINDOW];
    assert_eq!(raw.engine.body(streams[0], &piece, false, raw.now), Ok(H2_UNSENT_SIZE_MAX));
    for stream in &streams {
        assert_eq!(raw.engine.body(*stream, &piece, false, raw.now), Ok(0));
    }
    assert_eq!(raw.events(), [], "no room");
    let held = raw.engine.queues.borrow().output.len();
    assert!(held <= H2_UNSENT_SIZE_MAX + 4096, "{held}");
    raw.frames();
    let mut turns = Vec::new();
    for _ in 0..8 {
        let event = raw.engine.poll_event(&mut raw.head, raw.now);
        let Some(Event::Writable { stream }) = event else { panic!("{event:?}") };
        turns.push(stream);
        let crowd = raw.engine.writable.len();
        let taken = raw.engine.body(stream, &piece, false, raw.now).unwrap();
        assert_eq!(taken, H2_QUANTUM, "{crowd} others wait");
    }
    assert_eq!(turns, [&streams[..], &streams[..]].concat());
}

#[test]
fn nothing_is_read_while_the_output_is_full() {
    let mut raw = Raw::open_with(&[(4, 0x7fff_ffff)]);
    raw.send(&window_update(0, 0x7fff_0000));
    let stream = answering(&mut raw, 1);
    raw.frames();
    let piece = vec![7; H2_UNSENT_SIZE_MAX];
    assert_eq!(raw.engine.body(stream, &piece, false, raw.now), Ok(H2_UNSENT_SIZE_MAX));
    raw.engine.flush();
    let mut taken = 0;
    let ping = frame(PING, 0, 0, &[0; 8]);
    for piece in std::iter::once(&get(3)).chain(std::iter::repeat_n(&ping, 1000)) {
        taken += raw.engine.handle(piece, raw.now);
        assert_eq!(raw.events(), []);
    }
    assert_eq!(taken, crate::limits::H2_INPUT_SIZE_MAX);
    raw.frames();
    assert!(
        matches!(raw.events()[..], [Event::Request { .. }, ..]),
        "it goes on when there is room"
    );
}

#[test]
fn uploads_wait_for_the_workers_credit() {
    let mut pair = Pair::with(&h2::client::Builder::new(), BIG);
    let (_future, mut upload) = pair.send(Pair::request("POST"), false);
    let events = pair.run();
    let [Event::Request { stream, end: false, .. }] = events[..] else { panic!("{events:?}") };
    let total = 3 * EXCHANGE_WINDOW;
    upload.send_data(vec![7; total].into(), true).unwrap();
    let mut received = 0;
    let mut unreturned = 0;
    let mut ended = false;
    while !ended {
        let mut got = 0;
        for event in pair.run() {
            let Event::Body { data, end, .. } = event else { panic!("{event:?}") };
            got += data.len();
            ended = end;
        }
        received += got;
        unreturned += got;
        assert!(unreturned <= EXCHANGE_WINDOW, "{unreturned} without credit");
        assert!(got > 0, "the client stands still after {received} bytes");
        pair.engine.credit(stream, unreturned, pair.now);
        unreturned = 0;
    }
    assert_eq!(received, total);
}

#[test]
fn without_credit_an_upload_stops_at_its_window() {
    let mut pair = Pair::with(&h2::client::Builder::new(), BIG);
    let (_future, mut upload) = pair.send(Pair::request("POST"), false);
    pair.run();
    upload.send_data(vec![7; 2 * EXCHANGE_WINDOW].into(), true).unwrap();
    let received: usize = pair
        .run()
        .into_iter()
        .map(|event| match event {
            Event::Body { data, end: false, .. } => data.len(),
            other => panic!("{other:?}"),
        })
        .sum();
    assert_eq!(received, EXCHANGE_WINDOW);
    assert_eq!(pair.run(), []);
}

#[test]
fn uploads_of_one_connection_share_a_window() {
    let mut pair = Pair::with(&h2::client::Builder::new(), BIG);
    let uploads: Vec<_> = (0..40)
        .map(|_| {
            let (future, mut upload) = pair.send(Pair::request("POST"), false);
            upload.send_data(vec![7; EXCHANGE_WINDOW].into(), false).unwrap();
            (future, upload)
        })
        .collect();
    let mut received = 0;
    let mut streams = Vec::new();
    for event in pair.run() {
        match event {
            Event::Request { stream, .. } => streams.push(stream),
            Event::Body { data, .. } => received += data.len(),
            other => panic!("{other:?}"),
        }
    }
    // Of the first, which nobody has taken, no more than this is held for the sake of the others.
    assert_eq!(received, H2_CONNECTION_WINDOW_MAX);
    // What ends gives its part back, credit or not.
    for stream in &streams[..4] {
        pair.engine.reset(*stream, Cut::Cancelled);
    }
    let more = pair.run().len();
    assert!(more > 0, "the others go on");
    drop(uploads);
}

#[test]
fn uploads_that_lie_with_slow_workers_do_not_hold_up_another() {
    let mut pair = Pair::with(&h2::client::Builder::new(), BIG);
    let mut uploads = Vec::new();
    for _ in 0..8 {
        let (future, mut upload) = pair.send(Pair::request("POST"), false);
        upload.send_data(vec![7; EXCHANGE_WINDOW].into(), false).unwrap();
        uploads.push((future, upload));
    }
    assert_eq!(bytes_of(&pair.run()), 8 * EXCHANGE_WINDOW);
    let (_future, mut upload) = pair.send(Pair::request("POST"), false);
    upload.send_data(vec![7; 1000].into(), true).unwrap();
    assert_eq!(bytes_of(&pair.run()), 1000);
}

fn bytes_of(events: &[Event]) -> usize {
    let bodies = events.iter().map(|event| match event {
        Event::Body { data, .. } => data.len(),
        _ => 0,
    });
    bodies.sum()
}

#[test]
fn a_client_that_sends_beyond_its_window_is_cut_off() {
    let mut raw = Raw::open();
    raw.engine.options = BIG;
    let stream = raw.begin(&post(1));
    let piece = frame(DATA, 0, 1, &[7; 16 * 1024]);
    for _ in 0..16 {
        assert_eq!(raw.send(&piece).len(), 1);
    }
    assert_eq!(raw.send(&piece), [Event::Reset { stream }]);
    assert_eq!(raw.reset_with(1), super::raw::FLOW_CONTROL_ERROR);
}

#[test]
fn a_download_is_flat_in_memory_and_whole() {
    let mut pair = Pair::with(h2::client::Builder::new().initial_window_size(100_000), BIG);
    let (future, _) = pair.send(Pair::request("GET"), true);
    let events = pair.run();
    let [Event::Request { stream, .. }] = events[..] else { panic!("{events:?}") };
    let total: usize = 5_000_000;
    let head = Head::new(200, &[], BodyLength::Known(total as u64));
    pair.engine.respond(stream, &head.get(), DATE, false).unwrap();
    pair.run();
    let (_, mut body) = pair.begun(future);
    let source: Vec<u8> = (0..=250).cycle().take(total).collect();
    let (mut sent, mut received) = (0, Vec::new());
    while received.len() < total {
        if sent < total {
            let piece = &source[sent..total.min(sent + 50_000)];
            let end = sent + piece.len() == total;
            sent += pair.engine.body(stream, piece, end, pair.now).unwrap();
        }
        for event in pair.run() {
            assert_eq!(event, Event::Writable { stream });
        }
        let piece = Pair::take(&mut body);
        assert!(piece.len() <= 100_000);
        received.extend_from_slice(&piece);
    }
    assert!(received == source, "byte for byte");
    assert!(pair.engine.is_idle());
}

#[test]
fn a_client_that_reads_nothing_gets_no_more_than_its_window() {
    let mut pair = Pair::new();
    let (future, _) = pair.send(Pair::request("GET"), true);
    let events = pair.run();
    let [Event::Request { stream, .. }] = events[..] else { panic!("{events:?}") };
    let head = Head::new(200, &[], BodyLength::Unknown);
    pair.engine.respond(stream, &head.get(), DATE, false).unwrap();
    let mut taken = 0;
    for _ in 0..100 {
        taken += pair.engine.body(stream, &[7; 10_000], false, pair.now).unwrap();
        pair.run();
    }
    assert_eq!(taken, 65_535);
    let (_, mut body) = pair.begun(future);
    assert_eq!(Pair::look(&mut body), 65_535);
}
