//! What the HTTP/1 engine accepts, what it refuses, and what it sends.

mod decode;
mod encode;
mod framing;
mod splits;

use super::{H1, Options, Refusal, Step};
use crate::proto::head::RequestHead;

const OPTIONS: Options = Options { body_size_max: 1000 };
const DATE: &[u8] = b"Sun, 06 Nov 1994 08:49:37 GMT";

/// A request as it was decoded: its head and its whole body.
struct Request {
    engine: H1,
    head: RequestHead,
    body: Vec<u8>,
    /// What was not consumed when the request was done.
    rest: Vec<u8>,
}

impl Request {
    fn text(&self, span: crate::span::Span) -> &str {
        str::from_utf8(self.head.bytes(span)).expect("ASCII")
    }

    fn field(&self, name: &str) -> Option<&str> {
        self.head.field(name.as_bytes()).map(|v| str::from_utf8(v).expect("ASCII"))
    }
}

/// Decodes one whole request; `None` if it is incomplete.
fn decode(input: impl AsRef<[u8]>) -> Result<Option<Request>, Refusal> {
    decode_on(H1::new(), input.as_ref())
}

fn decode_on(mut engine: H1, input: &[u8]) -> Result<Option<Request>, Refusal> {
    let mut head = RequestHead::default();
    let mut body = Vec::new();
    let mut rest = input;
    while !engine.request_done() {
        let consumed = match engine.decode(rest, &OPTIONS, &mut head)? {
            Step::NeedMore => return Ok(None),
            Step::Body { consumed, data } => {
                body.extend_from_slice(&rest[data]);
                consumed
            }
            Step::Head { consumed } | Step::End { consumed } => consumed,
        };
        rest = &rest[consumed..];
    }
    Ok(Some(Request { engine, head, body, rest: rest.to_vec() }))
}

#[track_caller]
fn accepted(input: impl AsRef<[u8]>) -> Request {
    decode(input).expect("accepted").expect("complete")
}

#[track_caller]
fn refused(input: impl AsRef<[u8]>, refusal: Refusal) {
    let input = input.as_ref();
    match decode(input) {
        Err(found) => assert_eq!(found, refusal, "{}", input.escape_ascii()),
        Ok(request) => panic!(
            "{}: {} not refused",
            input.escape_ascii(),
            request.map_or("incomplete", |_| "complete")
        ),
    }
}

/// A GET with these field lines, each with its own line end.
fn get(fields: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n")
}

/// A chunked POST with this body.
fn chunked(body: &str) -> String {
    format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{body}")
}
