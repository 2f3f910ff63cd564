//! Clients of HTTP/2 on the scripted kernel: the library's own, and frames by hand for what it would not send.
//!
//! Invariant: what a client has sent reaches the shard before its answer is looked for.

use std::{
    cell::RefCell,
    future::Future,
    io,
    pin::{Pin, pin},
    rc::Rc,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use h2::{
    Reason, RecvStream, SendStream,
    client::{Builder, Connection, ResponseFuture, SendRequest},
};
use http::Request;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::{limits, proto::h2::PREFACE, shard::tests::script::Stage, uring::Token};

/// Both directions, as seen by the client.
#[derive(Debug, Default)]
struct Wire {
    input: Vec<u8>,
    output: Vec<u8>,
}

#[derive(Clone)]
struct Pipe(Rc<RefCell<Wire>>);

impl AsyncRead for Pipe {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut wire = self.0.borrow_mut();
        if wire.input.is_empty() {
            return Poll::Pending;
        }
        let taken = wire.input.len().min(buffer.remaining());
        buffer.put_slice(&wire.input[..taken]);
        wire.input.drain(..taken);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.0.borrow_mut().output.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

pub(in crate::shard::tests) fn cx() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

/// An honest client with one connection.
pub(in crate::shard::tests) struct Peer {
    pub(in crate::shard::tests) token: Token,
    pub(in crate::shard::tests) requests: SendRequest<Bytes>,
    connection: Connection<Pipe, Bytes>,
    wire: Rc<RefCell<Wire>>,
    /// The connection has ended, from the client's point of view.
    pub(in crate::shard::tests) over: Option<Result<(), h2::Error>>,
}

/// A response: its status and body, or why there is none.
pub(super) type Seen = Result<(u16, Vec<u8>), Option<Reason>>;

impl Peer {
    pub(in crate::shard::tests) fn new(stage: &mut Stage) -> Self {
        Self::with(stage, &Builder::new())
    }

    pub(super) fn with(stage: &mut Stage, builder: &Builder) -> Self {
        let token = stage.connect();
        let wire = Rc::new(RefCell::new(Wire::default()));
        let handshake = pin!(builder.handshake(Pipe(Rc::clone(&wire))));
        let Poll::Ready(Ok((requests, connection))) = handshake.poll(&mut cx()) else {
            panic!("the client waits for nothing");
        };
        let mut peer = Self { token, requests, connection, wire, over: None };
        peer.run(stage);
        peer
    }

    /// Carries bytes to and fro until nothing moves.
    pub(in crate::shard::tests) fn run(&mut self, stage: &mut Stage) {
        loop {
            if self.over.is_none()
                && let Poll::Ready(end) = Pin::new(&mut self.connection).poll(&mut cx())
            {
                self.over = Some(end);
            }
            let output = std::mem::take(&mut self.wire.borrow_mut().output);
            for piece in output.chunks(limits::RECV_BUFFER_SIZE as usize) {
                if stage.is_receiving(self.token) {
                    stage.send(self.token, piece);
                }
            }
            stage.settle();
            let sent = stage.take_sent(self.token);
            let idle = output.is_empty() && sent.is_empty();
            self.wire.borrow_mut().input.extend_from_slice(&sent);
            if idle {
                return;
            }
        }
    }

    /// Sends a request without a body.
    pub(super) fn ask(&mut self, stage: &mut Stage, method: &str, path: &str) -> ResponseFuture {
        let (future, _) = self.send(method, path, true);
        self.run(stage);
        future
    }

    pub(super) fn send(
        &mut self,
        method: &str,
        path: &str,
        end: bool,
    ) -> (ResponseFuture, SendStream<Bytes>) {
        assert!(self.requests.poll_ready(&mut cx()).is_ready());
        let request = Request::builder().method(method).uri(format!("http://test{path}"));
        self.requests.send_request(request.body(()).unwrap(), end).unwrap()
    }
}

/// What has become of a request; `None`: nothing yet.
pub(super) fn seen(future: &mut ResponseFuture) -> Option<Seen> {
    match Pin::new(future).poll(&mut cx()) {
        Poll::Pending => None,
        Poll::Ready(Err(error)) => Some(Err(error.reason())),
        Poll::Ready(Ok(response)) => {
            let status = response.status().as_u16();
            Some(body(&mut response.into_body()).map(|body| (status, body)))
        }
    }
}

/// What has arrived of a body, with the window given back.
pub(in crate::shard::tests) fn body(stream: &mut RecvStream) -> Result<Vec<u8>, Option<Reason>> {
    let mut body = Vec::new();
    while let Poll::Ready(Some(data)) = stream.poll_data(&mut cx()) {
        let data = data.map_err(|error| error.reason())?;
        body.extend_from_slice(&data);
        stream.flow_control().release_capacity(data.len()).unwrap();
    }
    Ok(body)
}

pub(super) fn ok(body: &[u8]) -> Option<Seen> {
    Some(Ok((200, body.to_vec())))
}

/// A frame by hand (RFC 9113 §4.1).
pub(in crate::shard::tests) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
    frame.extend_from_slice(&[kind, flags]);
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// A whole GET for `/hang`, as HPACK literals.
pub(super) fn get(stream: u32) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in
        [(":method", "GET"), (":scheme", "http"), (":path", "/hang"), (":authority", "a")]
    {
        block.push(0);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).unwrap());
            block.extend_from_slice(text.as_bytes());
        }
    }
    frame(1, 5, stream, &block)
}

/// A connection of frames by hand; its preface and SETTINGS are sent.
pub(in crate::shard::tests) fn raw(stage: &mut Stage) -> Token {
    let client = stage.connect();
    stage.send(client, &[&PREFACE[..], &frame(4, 0, 0, &[]), &frame(4, 1, 0, &[])].concat());
    stage.take_sent(client);
    client
}

/// Kind, stream and first number of the payload of each frame that was sent.
pub(super) fn frames(sent: &[u8]) -> Vec<(u8, u32, u32)> {
    let mut rest = sent;
    let mut found = Vec::new();
    while let Some((head, tail)) = rest.split_at_checked(9) {
        let len = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let number = |bytes: &[u8]| bytes.first_chunk().map_or(0, |b| u32::from_be_bytes(*b));
        found.push((head[3], number(&head[5..]), number(&tail[..len])));
        rest = &tail[len..];
    }
    found
}
