//! WebSockets on streams of HTTP/2 (RFC 8441): several on one connection, and every end of one that leaves the others alone.

use std::{pin::Pin, task::Poll};

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream, client::ResponseFuture, ext::Protocol};
use http::Request;

use super::{
    http2::peer::{Peer, body, cx},
    script::Stage,
    websocket::{CLOSE, TEXT, answer, asked, frame},
};
use crate::{
    ipc::message::{Cancellation, Close, Piece, ToWorker},
    limits,
};

/// A WebSocket as its client holds it.
struct Socket {
    id: u64,
    up: SendStream<Bytes>,
    down: RecvStream,
}

/// Asks for a WebSocket, as RFC 8441 §5.1 has it.
fn ask(
    peer: &mut Peer,
    path: &str,
    fields: &[(&str, &str)],
) -> (ResponseFuture, SendStream<Bytes>) {
    assert!(peer.requests.poll_ready(&mut cx()).is_ready());
    let mut request = Request::builder().method("CONNECT").uri(format!("http://test{path}"));
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    let mut request = request.body(()).unwrap();
    request.extensions_mut().insert(Protocol::from_static("websocket"));
    peer.requests.send_request(request, false).unwrap()
}

const VERSION: (&str, &str) = ("sec-websocket-version", "13");

impl Socket {
    fn new(stage: &mut Stage, peer: &mut Peer) -> Self {
        let (mut future, up) = ask(peer, "/ws", &[VERSION]);
        peer.run(stage);
        let id = asked(stage);
        answer(stage, id, 101, &[("x-mine", "1"), ("sec-websocket-accept", "not mine to say")]);
        peer.run(stage);
        let Poll::Ready(Ok(response)) = Pin::new(&mut future).poll(&mut cx()) else {
            panic!("no answer")
        };
        assert_eq!(response.status(), 200);
        let names: Vec<_> = response.headers().keys().map(|name| name.as_str()).collect();
        assert_eq!(names, ["x-mine", "date", "server"]);
        Self { id, up, down: response.into_body() }
    }

    fn says(&mut self, bytes: Vec<u8>) {
        self.up.send_data(bytes.into(), false).unwrap();
    }

    /// What has arrived, and whether that is the end.
    fn hears(&mut self) -> (Result<Vec<u8>, Option<Reason>>, bool) {
        (body(&mut self.down), self.down.is_end_stream())
    }
}

fn worker_says(stage: &mut Stage, id: u64, data: &[u8]) {
    let piece = Piece { data, is_text: true, more: false };
    assert_eq!(stage.lane.send_message(id, piece), Ok(Some(data.len())));
    stage.publish();
}

/// The next message at the worker.
#[track_caller]
fn got(stage: &mut Stage) -> (u64, Vec<u8>) {
    match stage.lane.receive().unwrap() {
        Some((id, ToWorker::Message(piece))) => (id, piece.data.to_vec()),
        other => panic!("{other:?}"),
    }
}

/// A server's Close.
fn close(code: u16, reason: &str) -> Vec<u8> {
    let len = u8::try_from(2 + reason.len()).unwrap();
    [&[CLOSE, len], &code.to_be_bytes()[..], reason.as_bytes()].concat()
}

#[test]
fn several_websockets_share_a_connection() {
    let mut stage = Stage::new();
    let mut peer = Peer::new(&mut stage);
    let mut sockets: Vec<_> = (0..3).map(|_| Socket::new(&mut stage, &mut peer)).collect();
    for (text, socket) in ["one", "two", "three"].iter().zip(&mut sockets) {
        socket.says(frame(TEXT, text.as_bytes()));
        peer.run(&mut stage);
        assert_eq!(got(&mut stage), (socket.id, text.as_bytes().to_vec()));
        worker_says(&mut stage, socket.id, text.as_bytes());
        peer.run(&mut stage);
        let len = u8::try_from(text.len()).unwrap();
        assert_eq!(socket.hears(), (Ok([&[TEXT, len], text.as_bytes()].concat()), false));
    }
    // The first is closed by its client, the second by its worker, the third stays.
    sockets[0].says(frame(CLOSE, &1000_u16.to_be_bytes()));
    peer.run(&mut stage);
    assert_eq!(sockets[0].hears(), (Ok(close(1000, "")), true));
    let told = stage.lane.receive().unwrap();
    assert!(matches!(told, Some((_, ToWorker::Close(Close { code: 1000, .. })))), "{told:?}");
    assert!(stage.lane.send_close(sockets[0].id, Close { code: 1000, reason: b"" }).unwrap());
    assert!(stage.lane.send_close(sockets[1].id, Close { code: 4001, reason: b"bye" }).unwrap());
    stage.publish();
    peer.run(&mut stage);
    assert_eq!(sockets[1].hears(), (Ok(close(4001, "bye")), false), "the answer is awaited");
    sockets[1].says(frame(CLOSE, &4001_u16.to_be_bytes()));
    peer.run(&mut stage);
    assert_eq!(sockets[1].hears(), (Ok(vec![]), true));
    sockets[2].says(frame(TEXT, b"still"));
    peer.run(&mut stage);
    assert_eq!(got(&mut stage), (sockets[2].id, b"still".to_vec()));
    assert_eq!(stage.held(), (1, 1));
}

#[test]
fn what_is_no_request_for_a_websocket_is_answered_by_the_edge() {
    let mut stage = Stage::new();
    let mut peer = Peer::new(&mut stage);
    for (path, fields, status) in [
        ("/nowhere", &[VERSION][..], 404),
        ("/hang", &[VERSION], 404),
        ("/ws", &[], 400),
        ("/ws", &[VERSION, ("sec-websocket-protocol", "a b")], 400),
    ] {
        let (mut future, _up) = ask(&mut peer, path, fields);
        peer.run(&mut stage);
        let Poll::Ready(Ok(response)) = Pin::new(&mut future).poll(&mut cx()) else {
            panic!("{path}")
        };
        assert_eq!(response.status(), status, "{path} {fields:?}");
    }
    assert!(stage.lane.receive().unwrap().is_none());
}

#[test]
fn a_denial_is_an_ordinary_response() {
    let mut stage = Stage::new();
    let mut peer = Peer::new(&mut stage);
    let (mut future, _up) = ask(&mut peer, "/ws", &[VERSION]);
    peer.run(&mut stage);
    let id = asked(&mut stage);
    answer(&mut stage, id, 403, &[]);
    peer.run(&mut stage);
    let Poll::Ready(Ok(response)) = Pin::new(&mut future).poll(&mut cx()) else { panic!() };
    assert_eq!(response.status(), 403);
    assert_eq!((stage.load.get(), stage.held()), (0, (1, 0)));
}

#[test]
fn messages_wait_for_the_worker_and_the_client_for_its_window() {
    let mut stage = Stage::new();
    let mut peer = Peer::new(&mut stage);
    let mut socket = Socket::new(&mut stage, &mut peer);
    let message = vec![b'x'; 40_000];
    let total = 40;
    for _ in 0..total {
        socket.says(frame(TEXT, &message));
    }
    peer.run(&mut stage);
    let mut taken = 0;
    for _ in 0..1000 {
        let mut bytes = 0;
        while let Some((id, got)) = stage.lane.receive().unwrap() {
            if let ToWorker::Message(piece) = got {
                bytes += piece.data.len();
                assert_eq!(id, socket.id);
            }
        }
        taken += bytes;
        if taken == total * message.len() {
            break;
        }
        if bytes > 0 {
            assert!(stage.lane.send_credit(socket.id, bytes as u64).unwrap());
        }
        stage.publish();
        peer.run(&mut stage);
    }
    assert_eq!(taken, total * message.len());
}

#[test]
fn a_worker_that_dies_closes_its_websockets_with_1012_and_the_connection_lives() {
    let mut stage = Stage::new();
    let mut peer = Peer::new(&mut stage);
    let mut socket = Socket::new(&mut stage, &mut peer);
    stage.worker_dies();
    peer.run(&mut stage);
    assert_eq!(socket.hears(), (Ok(close(1012, "Service Restart")), false));
    stage.attach();
    let mut again = Socket::new(&mut stage, &mut peer);
    again.says(frame(TEXT, b"hi"));
    peer.run(&mut stage);
    assert_eq!(got(&mut stage), (again.id, b"hi".to_vec()));
}

#[test]
fn a_worker_that_is_retired_loses_its_websockets_at_once() {
    let mut stage = Stage::new();
    let mut peer = Peer::new(&mut stage);
    let mut socket = Socket::new(&mut stage, &mut peer);
    stage.retire(0);
    peer.run(&mut stage);
    assert_eq!(socket.hears(), (Ok(close(1012, "Service Restart")), false));
    let told = stage.lane.receive().unwrap();
    assert!(matches!(told, Some((_, ToWorker::Close(Close { code: 1012, .. })))), "{told:?}");
}

#[test]
fn a_violation_ends_its_stream_with_its_code_and_the_worker_is_told() {
    let mut stage = Stage::new();
    let mut peer = Peer::new(&mut stage);
    let mut socket = Socket::new(&mut stage, &mut peer);
    // Not masked.
    socket.says(vec![TEXT, 2, b'h', b'i']);
    peer.run(&mut stage);
    let (heard, over) = socket.hears();
    let heard = heard.unwrap();
    assert_eq!((heard[0], &heard[2..4]), (CLOSE, &1002_u16.to_be_bytes()[..]));
    assert!(over);
    let told = stage.lane.receive().unwrap();
    assert!(matches!(told, Some((_, ToWorker::Cancel(Cancellation::ClientGone)))), "{told:?}");
}

#[test]
fn a_stream_that_is_reset_or_ended_without_a_close_is_a_lost_client() {
    let mut stage = Stage::new();
    let mut peer = Peer::new(&mut stage);
    for reset in [true, false] {
        let mut socket = Socket::new(&mut stage, &mut peer);
        if reset {
            socket.up.send_reset(Reason::CANCEL);
        } else {
            socket.up.send_data(Bytes::new(), true).unwrap();
        }
        peer.run(&mut stage);
        let told = stage.lane.receive().unwrap();
        assert!(matches!(told, Some((_, ToWorker::Cancel(Cancellation::ClientGone)))), "{told:?}");
        assert!(stage.lane.send_close(socket.id, Close { code: 1006, reason: b"" }).unwrap());
        stage.publish();
        assert_eq!(stage.held(), (1, 0), "{reset}");
    }
}

#[test]
fn a_client_that_answers_no_ping_is_given_up() {
    let mut stage = Stage::new();
    let mut peer = Peer::new(&mut stage);
    let mut socket = Socket::new(&mut stage, &mut peer);
    stage.wait(limits::WS_PING_INTERVAL);
    peer.run(&mut stage);
    assert_eq!(socket.hears().0.unwrap()[0], 0x89, "a Ping");
    stage.wait(limits::WS_PING_TIMEOUT);
    peer.run(&mut stage);
    let heard = socket.hears().0.unwrap();
    assert_eq!((heard[0], &heard[2..4]), (CLOSE, &1011_u16.to_be_bytes()[..]));
    let told = stage.lane.receive().unwrap();
    assert!(matches!(told, Some((_, ToWorker::Cancel(Cancellation::ClientGone)))), "{told:?}");
}

#[test]
fn a_server_that_stops_closes_its_websockets_with_1012() {
    let mut stage = Stage::new();
    let mut peer = Peer::new(&mut stage);
    let mut socket = Socket::new(&mut stage, &mut peer);
    stage.drain();
    peer.run(&mut stage);
    assert_eq!(socket.hears(), (Ok(close(1012, "Service Restart")), false));
    socket.says(frame(CLOSE, &1012_u16.to_be_bytes()));
    peer.run(&mut stage);
    assert!(socket.hears().1);
    assert!(peer.over.is_some(), "and the connection ends with the last of them");
}
