//! WebSockets through the shard: how they begin, how messages pass and wait, and every way in which they end.

use std::time::Duration;

use super::{Report, script::Stage};
use crate::{
    ipc::message::{Cancellation, Close, Piece, Response, ToWorker},
    limits,
    shard::Limits,
    span::{Field, Span},
    uring::Token,
};

const ASK: &str = "GET /ws HTTP/1.1\r\nhost: test\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
                   sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                   sec-websocket-protocol: a, b\r\n\r\n";
pub(super) const TEXT: u8 = 0x81;
pub(super) const BINARY: u8 = 0x82;
pub(super) const CLOSE: u8 = 0x88;
pub(super) const PING: u8 = 0x89;
const PONG: u8 = 0x8a;

/// A client's frame; its mask is zero.
pub(super) fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first];
    match u16::try_from(payload.len()) {
        Ok(len @ 0..126) => frame.push(0x80 | u8::try_from(len).unwrap()),
        Ok(len) => {
            frame.push(0x80 | 126);
            frame.extend_from_slice(&len.to_be_bytes());
        }
        Err(_) => {
            frame.push(0x80 | 127);
            frame.extend_from_slice(&(payload.len() as u64).to_be_bytes());
        }
    }
    [&frame[..], &[0; 4], payload].concat()
}

/// What the worker got.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Got {
    Message(Vec<u8>, bool),
    Close(u16, Vec<u8>),
    Cancel(Cancellation),
}

/// A WebSocket that the worker has accepted.
struct Session {
    stage: Stage,
    client: Token,
    id: u64,
    /// How much the client was sent before.
    seen: usize,
}

impl Session {
    fn new() -> Self {
        Self::on(Stage::new())
    }

    fn on(mut stage: Stage) -> Self {
        let client = stage.connect();
        stage.send(client, ASK.as_bytes());
        let id = asked(&mut stage);
        let mut session = Self { stage, client, id, seen: 0 };
        session.answer(101, &[]);
        let head = String::from_utf8(session.heard()).unwrap();
        assert!(head.starts_with("HTTP/1.1 101 Switching Protocols\r\n"), "{head}");
        assert!(head.contains("sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"), "{head}");
        session
    }

    fn answer(&mut self, status: u16, fields: &[(&str, &str)]) {
        answer(&mut self.stage, self.id, status, fields);
    }

    /// What the client was sent since the last time.
    fn heard(&mut self) -> Vec<u8> {
        let all = self.stage.sent_bytes(self.client);
        let fresh = all[self.seen..].to_vec();
        self.seen = all.len();
        fresh
    }

    fn says(&mut self, first: u8, payload: &[u8]) {
        let frame = frame(first, payload);
        self.stage.send(self.client, &frame);
    }

    fn worker_says(&mut self, data: &[u8], is_text: bool) {
        let piece = Piece { data, is_text, more: false };
        assert_eq!(self.stage.lane.send_message(self.id, piece), Ok(Some(data.len())));
        self.stage.publish();
    }

    fn worker_closes(&mut self, code: u16, reason: &[u8]) {
        assert!(self.stage.lane.send_close(self.id, Close { code, reason }).unwrap());
        self.stage.publish();
    }

    fn got(&mut self) -> Option<Got> {
        loop {
            return Some(match self.stage.lane.receive().unwrap()? {
                (id, ToWorker::Message(piece)) => {
                    assert_eq!(id, self.id);
                    assert!(!piece.more);
                    Got::Message(piece.data.to_vec(), piece.is_text)
                }
                (_, ToWorker::Close(close)) => Got::Close(close.code, close.reason.to_vec()),
                (_, ToWorker::Cancel(why)) => Got::Cancel(why),
                (_, ToWorker::Credit(_)) => continue,
                other => panic!("{other:?}"),
            });
        }
    }

    fn grants(&mut self, bytes: usize) {
        assert!(self.stage.lane.send_credit(self.id, bytes as u64).unwrap());
        self.stage.publish();
    }

    /// The client closes its end of the connection after the server's FIN, and nothing is left of it.
    #[track_caller]
    fn parts(&mut self) {
        self.stage.settle();
        self.stage.finish(self.client);
        self.stage.settle();
        assert_eq!(self.stage.held().0, 0, "the connection is closed");
    }
}

/// The id of the next request, which asks for a WebSocket.
pub(super) fn asked(stage: &mut Stage) -> u64 {
    match stage.lane.receive().unwrap() {
        Some((id, ToWorker::Request(request))) => {
            assert!(request.websocket && request.end && request.route == 5);
            id
        }
        other => panic!("{other:?}"),
    }
}

pub(super) fn answer(stage: &mut Stage, id: u64, status: u16, fields: &[(&str, &str)]) {
    let mut blob = Vec::new();
    let mut span = |text: &str| {
        let start = blob.len();
        blob.extend_from_slice(text.as_bytes());
        Span::new(start, text.len()).unwrap()
    };
    let fields: Vec<_> =
        fields.iter().map(|(name, value)| Field { name: span(name), value: span(value) }).collect();
    let (end, content_length) = if status == 101 { (false, None) } else { (true, Some(0)) };
    let response =
        Response { status, fields: &fields, blob: &blob, content_length, body: b"", end };
    assert!(stage.lane.send_response(id, &response).unwrap());
    stage.publish();
}

fn log(stage: &mut Stage) -> String {
    stage.wait(limits::SWEEP_INTERVAL);
    let mut all = String::new();
    while let Ok(report) = stage.reports.try_recv() {
        if let Report::AccessLog(lines) = report {
            all += std::str::from_utf8(&lines).unwrap();
        }
    }
    all
}

#[test]
fn messages_pass_both_ways_and_what_came_before_the_answer_is_not_lost() {
    let mut stage = Stage::new();
    let client = stage.connect();
    stage.send(client, &[ASK.as_bytes(), &frame(TEXT, b"early")].concat());
    let id = asked(&mut stage);
    assert!(stage.lane.receive().unwrap().is_none(), "nothing before the 101");
    answer(&mut stage, id, 101, &[("sec-websocket-protocol", "b"), ("x-own", "1")]);
    let mut session = Session { stage, client, id, seen: 0 };
    let head = String::from_utf8(session.heard()).unwrap();
    assert!(head.contains("sec-websocket-protocol: b\r\nx-own: 1\r\n"), "{head}");
    assert_eq!(session.got(), Some(Got::Message(b"early".to_vec(), true)));
    session.says(BINARY, &[0, 255]);
    session.says(TEXT, b"");
    assert_eq!(session.got(), Some(Got::Message(vec![0, 255], false)));
    assert_eq!(session.got(), Some(Got::Message(Vec::new(), true)));
    session.worker_says(b"hello", true);
    session.worker_says(&[1, 2], false);
    assert_eq!(session.heard(), b"\x81\x05hello\x82\x02\x01\x02");
    session.says(PING, b"are you there");
    assert_eq!(session.heard(), b"\x8a\x0dare you there");
    assert_eq!(session.got(), None, "pings are the edge's");
}

#[test]
fn a_denial_is_an_ordinary_response_and_the_connection_goes_on() {
    let mut stage = Stage::new();
    let client = stage.connect();
    stage.send(client, ASK.as_bytes());
    let id = asked(&mut stage);
    answer(&mut stage, id, 403, &[]);
    assert!(stage.sent(client).starts_with("HTTP/1.1 403 Forbidden\r\n"));
    stage.send(client, b"GET /user/1 HTTP/1.1\r\nhost: test\r\n\r\n");
    let id = stage.take();
    stage.respond(id, Some(1), b"1", true);
    stage.publish();
    assert!(stage.sent(client).ends_with("\r\n\r\n1"));
    assert_eq!(stage.held(), (1, 0));
}

#[test]
fn a_request_for_a_websocket_goes_to_a_route_for_one_and_others_do_not() {
    let mut stage = Stage::new();
    let client = stage.connect();
    stage.send(client, b"GET /ws HTTP/1.1\r\nhost: test\r\n\r\n");
    assert!(stage.sent(client).starts_with("HTTP/1.1 404 "), "{}", stage.sent(client));
    // RFC 9110 §7.8: a server may ignore what it does not want to upgrade to.
    stage.send(client, ASK.replace("/ws", "/user/7").as_bytes());
    let Some((id, ToWorker::Request(request))) = stage.lane.receive().unwrap() else {
        panic!("an ordinary request")
    };
    assert!(!request.websocket && request.route == 1);
    stage.respond(id, Some(1), b"7", true);
    stage.publish();
    assert!(stage.sent(client).ends_with("\r\n\r\n7"));
}

#[test]
fn a_request_for_a_websocket_that_is_none_is_answered_by_the_edge() {
    let mut stage = Stage::new();
    let client = stage.connect();
    stage.send(client, ASK.replace("version: 13", "version: 8").as_bytes());
    let sent = stage.sent(client);
    assert!(sent.starts_with("HTTP/1.1 426 "), "{sent}");
    assert!(sent.contains("sec-websocket-version: 13\r\n"), "{sent}");
    assert!(sent.contains("connection: upgrade\r\nupgrade: websocket\r\n"), "{sent}");
    assert_eq!(stage.held(), (1, 0));
}

#[test]
fn a_subprotocol_that_was_not_offered_is_the_applications_mistake() {
    let mut stage = Stage::new();
    let client = stage.connect();
    stage.send(client, ASK.as_bytes());
    let id = asked(&mut stage);
    answer(&mut stage, id, 101, &[("sec-websocket-protocol", "c")]);
    assert!(stage.sent(client).starts_with("HTTP/1.1 502 "), "{}", stage.sent(client));
    // It does not know yet, and may go on for a while.
    let mut session = Session { stage, client, id, seen: 0 };
    session.worker_says(b"hello", true);
    assert_eq!(session.got(), Some(Got::Cancel(Cancellation::ClientGone)));
    assert!(session.stage.lane.send_abort(id).unwrap());
    session.stage.publish();
    assert_eq!(session.stage.held().1, 0);
}

#[test]
fn a_worker_cannot_accept_what_nobody_asked_for() {
    let mut stage = Stage::new();
    let client = stage.connect();
    stage.send(client, b"GET /user/1 HTTP/1.1\r\nhost: test\r\n\r\n");
    let id = stage.take();
    answer(&mut stage, id, 101, &[]);
    assert!(stage.sent(client).starts_with("HTTP/1.1 502 "), "{}", stage.sent(client));
}

#[test]
fn a_client_that_closes_is_answered_and_its_worker_told() {
    let mut session = Session::new();
    session.worker_says(b"hello", true);
    session.heard();
    session.says(CLOSE, b"\x0f\xa0bye");
    assert_eq!(session.heard(), b"\x88\x05\x0f\xa0bye");
    assert_eq!(session.got(), Some(Got::Close(4000, b"bye".to_vec())));
    session.parts();
    assert!(log(&mut session.stage).contains("\"GET /ws HTTP/1.1\" 101 5 "));
    // The worker is not done for all that.
    assert_eq!(session.stage.held(), (0, 1));
    session.worker_says(b"late", true);
    session.worker_closes(1000, b"");
    assert_eq!(session.stage.held(), (0, 0));
    assert_eq!(session.stage.load.get(), 0);
}

#[test]
fn a_worker_that_closes_is_done_and_the_clients_answer_awaited() {
    let mut session = Session::new();
    session.worker_closes(4001, b"enough");
    assert_eq!(session.heard(), b"\x88\x08\x0f\xa1enough");
    assert_eq!(session.stage.held(), (1, 0));
    session.says(TEXT, b"dropped");
    session.says(CLOSE, b"\x0f\xa1");
    assert_eq!(session.heard(), b"", "one Close each");
    assert_eq!(session.got(), None);
    session.parts();
}

#[test]
fn a_client_that_does_not_answer_a_close_is_let_go() {
    let mut session = Session::new();
    session.worker_closes(1005, b"");
    assert_eq!(session.heard(), b"\x88\x00", "without a code");
    session.stage.wait(limits::WS_CLOSE_TIMEOUT);
    session.parts();
}

#[test]
fn a_client_that_is_lost_or_half_closes_cancels_its_exchange() {
    for resets in [false, true] {
        let mut session = Session::new();
        if resets {
            session.stage.reset(session.client);
        } else {
            session.stage.finish(session.client);
        }
        assert_eq!(session.got(), Some(Got::Cancel(Cancellation::ClientGone)));
        assert_eq!(session.stage.held(), (0, 1));
        session.worker_closes(1000, b"");
        assert_eq!(session.stage.held(), (0, 0));
    }
}

#[test]
fn a_client_that_breaks_the_protocol_is_told_and_its_exchange_cancelled() {
    for (bytes, code) in [
        (frame(0x83, b""), 1002_u16),
        (frame(TEXT, b"\xff"), 1007),
        (b"\x82\xff\0\0\0\0\x7f\0\0\0\0\0\0\0".to_vec(), 1009),
    ] {
        let mut session = Session::new();
        session.stage.send(session.client, &bytes);
        let heard = session.heard();
        assert_eq!((heard[0], &heard[2..4]), (CLOSE, &code.to_be_bytes()[..]));
        assert_eq!(session.got(), Some(Got::Cancel(Cancellation::ClientGone)));
        session.parts();
    }
}

#[test]
fn a_worker_that_gives_up_closes_with_1011_and_one_that_dies_with_1012() {
    let mut session = Session::new();
    assert!(session.stage.lane.send_abort(session.id).unwrap());
    session.stage.publish();
    assert_eq!(session.heard(), b"\x88\x10\x03\xf3Internal Error");
    assert_eq!((session.stage.held().1, session.stage.gauge(|g| &g.failed)), (0, 1));

    let mut session = Session::new();
    session.stage.worker_dies();
    session.stage.settle();
    assert_eq!(session.heard(), b"\x88\x11\x03\xf4Service Restart");
    assert_eq!(session.stage.held(), (1, 0), "the client's Close is awaited");
    session.says(CLOSE, b"\x03\xf4");
    session.parts();
}

#[test]
fn a_request_that_no_worker_has_accepted_survives_its_worker() {
    let mut stage = Stage::new();
    let client = stage.connect();
    stage.send(client, ASK.as_bytes());
    asked(&mut stage);
    stage.worker_dies();
    stage.attach();
    stage.settle();
    let id = asked(&mut stage);
    answer(&mut stage, id, 101, &[]);
    assert!(stage.sent(client).starts_with("HTTP/1.1 101 "));
}

#[test]
fn a_worker_that_is_retired_loses_its_websockets_at_once() {
    let mut session = Session::new();
    session.stage.retire(0);
    assert_eq!(session.heard(), b"\x88\x11\x03\xf4Service Restart");
    assert_eq!(session.got(), Some(Got::Close(1012, b"Service Restart".to_vec())));
    session.worker_closes(1000, b"");
    assert_eq!(session.stage.held(), (1, 0));
    let retired = std::iter::from_fn(|| session.stage.reports.try_recv().ok());
    assert!(retired.into_iter().any(|report| matches!(report, Report::Retired { .. })));
}

#[test]
fn a_server_that_stops_closes_its_websockets_and_those_that_are_accepted_too_late() {
    let mut session = Session::new();
    let late = session.stage.connect();
    session.stage.send(late, ASK.as_bytes());
    let id = asked(&mut session.stage);
    session.stage.drain();
    assert_eq!(session.heard(), b"\x88\x11\x03\xf4Service Restart");
    assert_eq!(session.got(), Some(Got::Close(1012, b"Service Restart".to_vec())));
    answer(&mut session.stage, id, 101, &[]);
    let sent = session.stage.sent_bytes(late);
    assert!(sent.ends_with(b"\r\n\r\n\x88\x11\x03\xf4Service Restart"));
    assert_eq!(session.got(), Some(Got::Close(1012, b"Service Restart".to_vec())));
}

#[test]
fn a_client_whose_worker_is_behind_is_held_back_and_not_blamed() {
    let mut session = Session::new();
    let large = vec![7; limits::WS_PIECE_SIZE_MAX];
    // The window is four pieces; with less than one left, nothing is read.
    for _ in 0..3 {
        session.says(BINARY, &large);
    }
    session.says(BINARY, b"x");
    let behind = [frame(BINARY, &large), frame(PING, b"?")].concat();
    session.stage.send(session.client, &behind);
    assert_eq!(session.heard(), b"", "the Ping waits behind the message");
    session.stage.wait(limits::WS_PING_INTERVAL);
    assert_eq!(session.heard()[0], PING);
    for _ in 0..5 {
        session.stage.wait(limits::WS_PING_TIMEOUT);
    }
    for _ in 0..3 {
        assert_eq!(session.got(), Some(Got::Message(large.clone(), false)));
    }
    assert_eq!(session.got(), Some(Got::Message(vec![b'x'], false)));
    assert_eq!(session.got(), None);
    session.stage.publish();
    session.grants(2 * large.len());
    assert!(session.got() == Some(Got::Message(large, false)));
    assert_eq!(session.heard(), b"\x8a\x01?");
}

#[test]
fn empty_messages_cost_credit() {
    let mut session = Session::new();
    let piece = Piece { data: b"", is_text: true, more: false };
    let mut sent = 0;
    let mut fault = None;
    while fault.is_none() && sent < 2 * limits::EXCHANGE_WINDOW {
        session.stage.shard.driver.stuck = true;
        for _ in 0..1000 {
            if session.stage.lane.send_message(session.id, piece).unwrap().is_some() {
                sent += 1;
            }
        }
        session.stage.publish();
        fault = std::iter::from_fn(|| session.stage.reports.try_recv().ok())
            .find(|report| matches!(report, Report::Faulty { .. }));
    }
    assert!((limits::EXCHANGE_WINDOW..limits::EXCHANGE_WINDOW + 1001).contains(&sent), "{sent}");
}

#[test]
fn messages_that_find_no_room_in_the_lane_wait_and_keep_their_order() {
    let mut session = Session::new();
    let frames = |from: u32| -> Vec<u8> {
        (from..from + 500).flat_map(|n| frame(TEXT, &n.to_string().into_bytes())).collect()
    };
    let mut batches: Vec<Vec<u8>> = (0..40).rev().map(|batch| frames(batch * 500)).collect();
    while session.stage.is_receiving(session.client) {
        session.stage.send(session.client, &batches.pop().expect("the ring is full before"));
    }
    let mut next = 0;
    while next < 20_000 {
        let mut fresh = 0;
        while let Some(got) = session.got() {
            assert_eq!(got, Got::Message(next.to_string().into_bytes(), true));
            fresh += next.to_string().len();
            next += 1;
        }
        if fresh > 0 {
            session.grants(fresh);
        }
        session.stage.publish();
        if session.stage.is_receiving(session.client)
            && let Some(batch) = batches.pop()
        {
            session.stage.send(session.client, &batch);
        }
    }
    session.says(CLOSE, b"\x03\xe8");
    assert_eq!(session.got(), Some(Got::Close(1000, Vec::new())));
}

#[test]
fn a_client_that_does_not_read_stops_its_worker_and_gets_few_pongs() {
    let mut session = Session::new();
    session.stage.shard.driver.stuck = true;
    let half = vec![b'x'; limits::EXCHANGE_WINDOW / 2];
    for _ in 0..2 {
        let piece = Piece { data: &half, is_text: false, more: false };
        assert_eq!(session.stage.lane.send_message(session.id, piece), Ok(Some(half.len())));
        session.stage.publish();
    }
    for n in (0..10).cycle().take(500) {
        session.says(PING, &[b'0' + n % 10; 125]);
    }
    let connection = session.stage.shard.core.connections.iter().next().unwrap().1;
    assert!(connection.output.len() <= 2 * half.len() + 2000, "{}", connection.output.len());
    assert_eq!(session.got(), None);
    assert!(matches!(session.stage.lane.receive(), Ok(None)), "no credit yet");
    session.stage.unstick();
    let heard = session.heard();
    let tail = &heard[heard.len() - 127..];
    assert_eq!(tail, [&[PONG, 125][..], &[b'9'; 125]].concat());
}

#[test]
fn a_client_that_does_not_answer_a_ping_is_given_up_with_1011() {
    let mut session = Session::new();
    session.stage.wait(limits::WS_PING_INTERVAL);
    let ping = session.heard();
    assert_eq!(ping[..2], [PING, 4]);
    session.says(PONG, &ping[2..]);
    session.stage.wait(limits::WS_PING_INTERVAL);
    assert_eq!(session.heard()[..2], [PING, 4]);
    session.stage.wait(limits::WS_PING_TIMEOUT);
    assert_eq!(session.heard(), b"\x88\x18\x03\xf3keepalive ping timeout");
    assert_eq!(session.got(), Some(Got::Cancel(Cancellation::ClientGone)));
    session.parts();
}

#[test]
fn the_deadline_is_for_the_request_and_not_for_the_websocket() {
    let limits = || Limits { request_timeout: Duration::from_secs(5), ..Limits::default() };
    let mut session = Session::on(Stage::with(limits()));
    session.stage.wait(Duration::from_secs(10));
    session.worker_says(b"still here", true);
    assert_eq!(session.heard(), b"\x81\x0astill here");

    let mut stage = Stage::with(limits());
    let client = stage.connect();
    stage.send(client, ASK.as_bytes());
    asked(&mut stage);
    stage.wait(Duration::from_secs(6));
    assert!(stage.sent(client).starts_with("HTTP/1.1 504 "));
}

#[test]
fn a_message_that_cannot_be_sent_is_the_applications_mistake() {
    let mut session = Session::new();
    session.worker_says(b"\xff", true);
    assert_eq!(session.heard(), b"\x88\x10\x03\xf3Internal Error");
    assert_eq!(session.got(), Some(Got::Cancel(Cancellation::ClientGone)));
    let mut session = Session::new();
    session.worker_closes(1006, b"");
    assert_eq!(session.heard(), b"\x88\x02\x03\xf3");
}

#[test]
fn bodies_and_messages_do_not_mix() {
    let is_faulty = |stage: &mut Stage| {
        stage.publish();
        std::iter::from_fn(|| stage.reports.try_recv().ok())
            .any(|report| matches!(report, Report::Faulty { .. }))
    };
    let mut session = Session::new();
    session.stage.lane.send_body(session.id, b"body", false).unwrap();
    assert!(is_faulty(&mut session.stage));
    assert_eq!(session.heard(), b"\x88\x11\x03\xf4Service Restart");

    let mut stage = Stage::new();
    let client = stage.connect();
    stage.send(client, ASK.as_bytes());
    let id = asked(&mut stage);
    let piece = Piece { data: b"early", is_text: true, more: false };
    stage.lane.send_message(id, piece).unwrap();
    assert!(is_faulty(&mut stage));
}
