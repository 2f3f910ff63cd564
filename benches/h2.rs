//! What one request costs in the HTTP/2 engine, and in the library alone, without any I/O: ten small GETs in one feed, each
//! answered with a fixed body, on a connection that lives on.
#![allow(missing_docs, reason = "criterion's macros make undocumented functions")]
#![expect(clippy::disallowed_methods, reason = "a benchmark has no shard to give it the time")]

use std::{
    cell::RefCell,
    collections::VecDeque,
    future::Future,
    io,
    pin::{Pin, pin},
    rc::Rc,
    task::{Context, Poll, Waker},
    time::Instant,
};

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use fasterapi::{
    proto::{
        h2::{H2, Options, PREFACE},
        head::{BodyLength, RequestHead, ResponseHead},
        stream::{Event, Requests, Responses},
    },
    span::{Field, Span},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

const DATE: &[u8] = b"Sun, 06 Nov 1994 08:49:37 GMT";
const STREAMS: u32 = 10;
const BODY: &[u8] = br#"{"hello":"world"}"#;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).expect("short").to_be_bytes();
    let mut bytes = vec![len[1], len[2], len[3], kind, flags];
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// A connection's start: preface, SETTINGS with wide windows, and a first request that fills the table.
fn opening() -> Vec<u8> {
    let settings = frame(4, 0, 0, &[0, 4, 0x7f, 0xff, 0xff, 0xff]);
    let window = frame(8, 0, 0, &0x3fff_0000_u32.to_be_bytes());
    // What nghttp's client sends: three fields from the static table, three that go into the dynamic one.
    let mut block = vec![0x82, 0x86, 0x84];
    for (name, value) in [(0x41, "localhost:8000"), (0x7a, "h2load nghttp2/1.52.0"), (0x53, "*/*")]
    {
        block.extend_from_slice(&[name, u8::try_from(value.len()).expect("short")]);
        block.extend_from_slice(value.as_bytes());
    }
    [PREFACE, &settings[..], &frame(4, 1, 0, &[]), &window, &frame(1, 5, 1, &block)].concat()
}

/// Ten requests from the table, and the frame that gives back what their answers take of the window.
fn feed(next: &mut u32) -> Vec<u8> {
    let taken = u32::try_from(BODY.len()).expect("short") * STREAMS;
    let mut bytes = frame(8, 0, 0, &taken.to_be_bytes());
    for _ in 0..STREAMS {
        *next += 2;
        bytes.extend(frame(1, 5, *next, &[0x82, 0x86, 0x84, 0xc0, 0xbf, 0xbe]));
    }
    bytes
}

struct Engine {
    engine: H2,
    head: RequestHead,
    blob: Vec<u8>,
    field: Field,
    out: Vec<u8>,
    now: Instant,
}

impl Engine {
    fn new() -> Self {
        let blob = b"content-typeapplication/json".to_vec();
        let span = |start, len| Span::new(start, len).expect("short");
        let now = Instant::now();
        let mut engine = Self {
            engine: H2::new(Options::default(), now),
            head: RequestHead::default(),
            field: Field { name: span(0, 12), value: span(12, 16) },
            blob,
            out: Vec::new(),
            now,
        };
        assert_eq!(engine.serve(&opening()), 1);
        engine
    }

    fn serve(&mut self, mut input: &[u8]) -> u32 {
        let mut served = 0;
        while !input.is_empty() {
            let taken = self.engine.handle(input, self.now);
            input = &input[taken..];
            while let Some(event) = self.engine.poll_event(&mut self.head, self.now) {
                let Event::Request { stream, .. } = event else { panic!("{event:?}") };
                let head = ResponseHead {
                    status: 200,
                    blob: &self.blob,
                    fields: &[self.field],
                    body: BodyLength::Known(BODY.len() as u64),
                };
                self.engine.respond(stream, &head, DATE, false).expect("valid");
                assert_eq!(self.engine.body(stream, BODY, true, self.now), Ok(BODY.len()));
                served += 1;
            }
        }
        self.out.clear();
        self.engine.output(&mut self.out, self.now);
        served
    }
}

/// The least that a pipe can be.
#[derive(Default)]
struct Queues {
    input: VecDeque<u8>,
    output: Vec<u8>,
}
struct Pipe(Rc<RefCell<Queues>>);

impl AsyncRead for Pipe {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let input = &mut self.0.borrow_mut().input;
        if input.is_empty() {
            return Poll::Pending;
        }
        let (front, _) = input.as_slices();
        let taken = front.len().min(buffer.remaining());
        buffer.put_slice(&front[..taken]);
        input.drain(..taken);
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

struct Library {
    connection: h2::server::Connection<Pipe, Bytes>,
    queues: Rc<RefCell<Queues>>,
}

impl Library {
    fn new() -> Self {
        let queues = Rc::new(RefCell::new(Queues::default()));
        queues.borrow_mut().input.extend(opening());
        let handshake = pin!(h2::server::handshake(Pipe(Rc::clone(&queues))));
        let mut cx = Context::from_waker(Waker::noop());
        let Poll::Ready(Ok(connection)) = handshake.poll(&mut cx) else {
            panic!("preface is here")
        };
        let mut library = Self { connection, queues };
        assert_eq!(library.serve(&[]), 1);
        library
    }

    fn serve(&mut self, input: &[u8]) -> u32 {
        self.queues.borrow_mut().input.extend(input);
        let mut cx = Context::from_waker(Waker::noop());
        let mut served = 0;
        while let Poll::Ready(Some(accepted)) = self.connection.poll_accept(&mut cx) {
            let (_request, mut respond) = accepted.expect("valid");
            let response = http::Response::builder()
                .header("content-type", "application/json")
                .header("content-length", BODY.len())
                .header("date", DATE)
                .header("server", "fasterapi")
                .body(())
                .expect("valid");
            let mut stream = respond.send_response(response, false).expect("open");
            stream.send_data(Bytes::from_static(BODY), true).expect("open");
            served += 1;
        }
        self.queues.borrow_mut().output.clear();
        served
    }
}

fn requests(c: &mut Criterion) {
    let mut group = c.benchmark_group("10 GETs");
    group.throughput(Throughput::Elements(u64::from(STREAMS)));
    group.bench_function("engine", |b| {
        let (mut engine, mut next) = (Engine::new(), 1);
        b.iter(|| {
            let served = engine.serve(&feed(&mut next));
            assert_eq!(served, STREAMS);
        });
    });
    group.bench_function("library", |b| {
        let (mut library, mut next) = (Library::new(), 1);
        b.iter(|| {
            let served = library.serve(&feed(&mut next));
            assert_eq!(served, STREAMS);
        });
    });
    group.finish();
}

criterion_group!(benches, requests);
criterion_main!(benches);
