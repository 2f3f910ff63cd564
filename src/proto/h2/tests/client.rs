//! An honest client: the library's own client half, its pipe joined to the engine's.

use std::{
    cell::RefCell,
    future::Future,
    pin::pin,
    rc::Rc,
    task::{Context, Poll, Waker},
    time::Instant,
};

use bytes::Bytes;
use h2::{
    RecvStream, SendStream,
    client::{Connection, ResponseFuture, SendRequest},
};
use http::{HeaderMap, Request, Response};

use super::{H2, OPTIONS};
use crate::proto::{
    h2::{
        Event, Options,
        pipe::{Pipe, Queues},
    },
    head::RequestHead,
    stream::Requests,
};

/// A response as its client saw it.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) head: Response<()>,
    pub(super) body: Vec<u8>,
    pub(super) trailers: Option<HeaderMap>,
}

/// A client and an engine.
pub(super) struct Pair {
    pub(super) engine: H2,
    pub(super) head: RequestHead,
    pub(super) now: Instant,
    requests: SendRequest<Bytes>,
    client: Connection<Pipe, Bytes>,
    queues: Rc<RefCell<Queues>>,
    /// What the client said and the engine did not take.
    sent: Vec<u8>,
    /// What the engine said and the client did not take.
    received: Vec<u8>,
}

fn cx() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

impl Pair {
    pub(super) fn new() -> Self {
        Self::with(&h2::client::Builder::new(), OPTIONS)
    }

    pub(super) fn with(builder: &h2::client::Builder, options: Options) -> Self {
        let now = Instant::now();
        let queues = Rc::new(RefCell::new(Queues::default()));
        let handshake = pin!(builder.handshake(Pipe(Rc::clone(&queues))));
        let Poll::Ready(Ok((requests, client))) = handshake.poll(&mut cx()) else {
            panic!("the client waits for nothing");
        };
        let mut pair = Self {
            engine: H2::new(options, now),
            head: RequestHead::default(),
            now,
            requests,
            client,
            queues,
            sent: Vec::new(),
            received: Vec::new(),
        };
        assert_eq!(pair.run(), []);
        pair
    }

    /// Carries bytes to and fro until nothing moves; what the engine reported.
    pub(super) fn run(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        loop {
            let _: Poll<Result<(), h2::Error>> =
                std::pin::Pin::new(&mut self.client).poll(&mut cx());
            self.sent.append(&mut self.queues.borrow_mut().output);
            let taken = self.engine.handle(&self.sent, self.now);
            self.sent.drain(..taken);
            let before = events.len();
            while let Some(event) = self.engine.poll_event(&mut self.head, self.now) {
                events.push(event);
            }
            self.engine.output(&mut self.received, self.now);
            let mut queues = self.queues.borrow_mut();
            let room = queues.room().min(self.received.len());
            queues.push(&self.received[..room]);
            self.received.drain(..room);
            if taken == 0 && room == 0 && events.len() == before {
                return events;
            }
        }
    }

    /// Sends a request; its body goes through the handle unless `end`.
    pub(super) fn send(
        &mut self,
        request: Request<()>,
        end: bool,
    ) -> (ResponseFuture, SendStream<Bytes>) {
        assert!(self.requests.poll_ready(&mut cx()).is_ready());
        self.requests.send_request(request, end).expect("valid")
    }

    /// A request of this method, for `/`.
    pub(super) fn request(method: &str) -> Request<()> {
        Request::builder().method(method).uri("http://a/").body(()).expect("valid")
    }

    /// What has arrived of a response, which must be whole.
    #[track_caller]
    pub(super) fn response(&mut self, future: ResponseFuture) -> Seen {
        let (head, mut stream) = self.begun(future);
        let body = Self::take(&mut stream);
        let Poll::Ready(trailers) = stream.poll_trailers(&mut cx()) else {
            panic!("the response has not ended after {} bytes", body.len());
        };
        Seen { head, body, trailers: trailers.expect("no reset") }
    }

    /// The head of a response, and the handle for its body.
    #[track_caller]
    pub(super) fn begun(&mut self, mut future: ResponseFuture) -> (Response<()>, RecvStream) {
        match std::pin::Pin::new(&mut future).poll(&mut cx()) {
            Poll::Ready(response) => {
                let (parts, stream) = response.expect("a response").into_parts();
                (Response::from_parts(parts, ()), stream)
            }
            Poll::Pending => panic!("no response"),
        }
    }

    /// What has arrived of a body, with the window given back.
    pub(super) fn take(stream: &mut RecvStream) -> Vec<u8> {
        let mut body = Vec::new();
        while let Poll::Ready(Some(Ok(data))) = stream.poll_data(&mut cx()) {
            body.extend_from_slice(&data);
            stream.flow_control().release_capacity(data.len()).expect("it came");
        }
        body
    }

    /// What has arrived of a body, with the window kept.
    pub(super) fn look(stream: &mut RecvStream) -> usize {
        let mut len = 0;
        while let Poll::Ready(Some(Ok(data))) = stream.poll_data(&mut cx()) {
            len += data.len();
        }
        len
    }
}
