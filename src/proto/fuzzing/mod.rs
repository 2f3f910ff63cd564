//! Entry points for the fuzz targets, and their corpora replayed as tests.
//!
//! Invariant checked: whatever the bytes and however they are split, the engine reports the same events, never
//! consumes past its input, and lets nothing through that could be read in two ways.

#![forbid(unsafe_code)]

mod h2;
mod h3;
mod tls;

use std::time::Instant;

pub use h2::{Seen, h2_events, h2_session};
pub use h3::h3_datagram;
pub use tls::tls_records;

use super::{
    error::Refusal,
    field::is_token,
    h1::{H1, Next, Options, Step},
    head::{BodyLength, RequestHead, ResponseHead},
    ws::{self, Deflate, Kind, Phase, Violation, Workspace, Ws},
};
use crate::limits::{WS_CONTROL_SIZE_MAX, WS_PIECE_SIZE_MAX, WS_PONGS_MAX};

const OPTIONS: Options = Options { body_size_max: 4096 };
const DATE: &[u8] = b"Sun, 06 Nov 1994 08:49:37 GMT";

/// Requests, as whoever listens to an engine sees them; pieces of one body are joined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Everything that a head says, in readable form.
    Head(String),
    /// Body bytes.
    Body(Vec<u8>),
    /// End of a request.
    End,
    /// The connection was refused.
    Refused(Refusal),
}

/// Any bytes as the start of a connection.
pub fn h1_head(data: &[u8]) {
    compare(&[], data);
}

/// Any bytes as what follows the head of a chunked request.
pub fn h1_chunked(data: &[u8]) {
    compare(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", data);
}

/// The same stream whole, byte by byte, and split where the data itself says.
fn compare(prefix: &[u8], data: &[u8]) {
    let stream = [prefix, data].concat();
    let whole = h1_events(&stream, std::iter::once(stream.len()));
    // Byte by byte costs a call each; a bounded part of the corpus is enough.
    if stream.len() <= 4096 {
        assert_eq!(whole, h1_events(&stream, std::iter::repeat(1)), "byte by byte");
    }
    let sizes = data.iter().rev().map(|&byte| 1 + usize::from(byte)).chain(std::iter::repeat(97));
    assert_eq!(whole, h1_events(&stream, sizes), "split by its own bytes");
}

/// Feeds `stream` in pieces of the given sizes to a fresh engine that answers every request.
///
/// # Panics
/// If the engine breaks an invariant.
pub fn h1_events(stream: &[u8], sizes: impl Iterator<Item = usize>) -> Vec<Event> {
    let mut engine = H1::new();
    let mut head = RequestHead::default();
    let mut events = Vec::new();
    let mut input = Vec::new();
    let mut rest = stream;
    for size in sizes {
        let (piece, tail) = rest.split_at(size.min(rest.len()));
        rest = tail;
        input.extend_from_slice(piece);
        loop {
            let consumed = match engine.decode(&input, &OPTIONS, &mut head) {
                Ok(Step::NeedMore) => break,
                Ok(Step::Head { consumed }) => {
                    check_head(&head);
                    events.push(Event::Head(describe(&head)));
                    consumed
                }
                Ok(Step::Body { consumed, data }) => {
                    assert!(!data.is_empty() && data.end <= consumed);
                    let bytes = input.get(data).expect("data lies in the input");
                    match events.last_mut() {
                        Some(Event::Body(body)) => body.extend_from_slice(bytes),
                        _ => events.push(Event::Body(bytes.to_vec())),
                    }
                    consumed
                }
                Ok(Step::End { consumed }) => {
                    assert!(engine.request_done());
                    consumed
                }
                Err(refusal) => {
                    events.push(Event::Refused(refusal));
                    check_refusal(&mut engine, refusal);
                    return events;
                }
            };
            assert!(consumed <= input.len(), "consumed past the input");
            input.drain(..consumed);
            if engine.request_done() {
                events.push(Event::End);
                if answer(&mut engine) == Next::Close {
                    return events;
                }
                assert!(engine.is_idle());
            }
        }
        if rest.is_empty() {
            break;
        }
    }
    events
}

fn answer(engine: &mut H1) -> Next {
    let mut out = Vec::new();
    let head = ResponseHead { status: 200, blob: &[], fields: &[], body: BodyLength::Unknown };
    engine.encode_head(&head, DATE, &mut out).expect("a valid head");
    engine.encode_body(b"ok", &mut out).expect("any length is allowed");
    engine.encode_end(&mut out).expect("any length is allowed")
}

fn check_refusal(engine: &mut H1, refusal: Refusal) {
    let mut out = Vec::new();
    engine.refuse(refusal, DATE, &mut out);
    assert!(out.starts_with(b"HTTP/1.1 "), "a refusal is answered");
    let mut head = RequestHead::default();
    assert_eq!(engine.decode(b"GET / HTTP/1.1\r\n\r\n", &OPTIONS, &mut head), Ok(Step::NeedMore));
    assert!(!engine.is_idle());
}

/// What must hold of every head that passes.
fn check_head(head: &RequestHead) {
    let mut framing = 0;
    for field in &head.fields {
        let name = field.name.of(&head.blob).expect("name lies in the blob");
        let value = field.value.of(&head.blob).expect("value lies in the blob");
        assert!(is_token(name) && !name.iter().any(u8::is_ascii_uppercase));
        assert!(!value.iter().any(|b| matches!(b, b'\r' | b'\n' | 0)));
        framing += usize::from(matches!(name, b"content-length" | b"transfer-encoding"));
    }
    // Transfer-Encoding may be repeated only in ways that are refused.
    assert!(framing <= 1, "one framing field at most");
    for span in [head.method_name, head.raw_path, head.path, head.query, head.authority] {
        assert!(span.of(&head.blob).is_some(), "span lies in the blob");
    }
    let raw = head.bytes(head.raw_path);
    assert!(raw.starts_with(b"/") || raw == b"*");
    assert!(raw.iter().chain(head.bytes(head.query)).all(u8::is_ascii_graphic));
}

fn describe(head: &RequestHead) -> String {
    let text = |span| head.bytes(span).escape_ascii().to_string();
    let fields: Vec<_> =
        head.fields.iter().map(|f| format!("{}: {}", text(f.name), text(f.value))).collect();
    format!(
        "{:?} {} {:?} raw={} path={} query={} authority={} {:?} continue={} {fields:?}",
        head.method,
        text(head.method_name),
        head.version,
        text(head.raw_path),
        text(head.path),
        text(head.query),
        text(head.authority),
        head.body,
        head.expects_continue,
    )
}

/// What a WebSocket client sent, as whoever listens to an engine sees it; pieces of one message are joined, and a message
/// that does not end is left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WsEvent {
    /// A whole message.
    Message(Kind, Vec<u8>),
    /// The client's Close.
    Close(u16, Vec<u8>),
    /// The connection was given up.
    Violated(Violation),
}

/// A byte of options, then any bytes as what a WebSocket's client sends.
pub fn ws_frames(data: &[u8]) {
    let (&choice, stream) = data.split_first().unwrap_or((&0, &[]));
    let deflate = Deflate {
        server_takeover: choice & 2 != 0,
        client_takeover: choice & 4 != 0,
        server_window_bits: if choice & 8 != 0 { 9 } else { 15 },
    };
    let options = ws::Options {
        message_size_max: if choice & 16 != 0 { 100 } else { 300_000 },
        deflate: (choice & 1 != 0).then_some(deflate),
        ..ws::Options::default()
    };
    let whole = ws_events(&options, stream, std::iter::once(stream.len()));
    if stream.len() <= 4096 {
        assert_eq_capped(&whole, &ws_events(&options, stream, std::iter::repeat(1)));
    }
    let sizes = data.iter().rev().map(|&byte| 1 + usize::from(byte)).chain(std::iter::repeat(97));
    assert_eq_capped(&whole, &ws_events(&options, stream, sizes));
}

/// Messages may be large; a failure is not to print them.
fn assert_eq_capped(whole: &[WsEvent], split: &[WsEvent]) {
    if whole != split {
        let show =
            |events: &[WsEvent]| -> String { format!("{events:?}").chars().take(600).collect() };
        panic!("whole and split differ:\n{}\n{}", show(whole), show(split));
    }
}

/// When virtual time begins.
#[expect(clippy::disallowed_methods, reason = "an origin for virtual time")]
pub fn origin() -> Instant {
    Instant::now()
}

/// Feeds `stream` in pieces of the given sizes to a fresh engine, and sends every piece of a message back.
///
/// # Panics
/// If the engine breaks an invariant.
pub fn ws_events(
    options: &ws::Options,
    stream: &[u8],
    sizes: impl Iterator<Item = usize>,
) -> Vec<WsEvent> {
    let mut engine = Ws::new(*options, origin());
    let mut work = Workspace::default();
    let mut events = Vec::new();
    let (mut input, mut message, mut out) = (Vec::new(), Vec::new(), Vec::new());
    let (mut sent, mut bound) = (0, 0);
    let mut rest = stream;
    for size in sizes {
        let (piece, tail) = rest.split_at(size.min(rest.len()));
        rest = tail;
        input.extend_from_slice(piece);
        loop {
            out.clear();
            let consumed = match engine.decode(&input, &mut work) {
                Ok(ws::Step::NeedMore { consumed }) => {
                    input.drain(..consumed);
                    // The header of a control frame and its body, without their last byte.
                    assert!(input.len() < 6 + WS_CONTROL_SIZE_MAX, "{} kept", input.len());
                    break;
                }
                Ok(ws::Step::Piece { consumed, data, kind, more }) => {
                    assert!(!more || !data.is_empty());
                    assert!(data.len() <= WS_PIECE_SIZE_MAX);
                    message.extend_from_slice(data);
                    assert!(message.len() as u64 <= options.message_size_max);
                    let data = data.to_vec();
                    let back = ws::Piece { data: &data, kind, more };
                    engine.encode_piece(back, &mut work, &mut out).expect("what came may go");
                    // A header each, and incompressible data at worst; a compressor may lag behind.
                    bound += data.len() + data.len() / 8 + 64;
                    sent += out.len();
                    assert!(sent <= bound, "{sent} sent, {bound} at most");
                    if !more {
                        let whole = std::mem::take(&mut message);
                        assert!(kind == Kind::Binary || str::from_utf8(&whole).is_ok());
                        events.push(WsEvent::Message(kind, whole));
                    }
                    consumed
                }
                Ok(ws::Step::Close { consumed, code, reason }) => {
                    assert!(str::from_utf8(reason).is_ok());
                    events.push(WsEvent::Close(code, reason.to_vec()));
                    consumed
                }
                Err(violation) => {
                    events.push(WsEvent::Violated(violation));
                    engine.poll_output(&mut out);
                    assert!(out.ends_with(violation.reason().as_bytes()), "a Close says why");
                    assert_eq!(engine.phase(), Phase::Over);
                    input.len()
                }
            };
            assert!(consumed <= input.len(), "consumed past the input");
            input.drain(..consumed);
            out.clear();
            engine.poll_output(&mut out);
            let most = (2 + WS_PONGS_MAX) * (2 + WS_CONTROL_SIZE_MAX);
            assert!(out.len() <= most, "unasked output is bounded");
        }
        if rest.is_empty() {
            break;
        }
    }
    events
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    fn replay(target: &str, run: fn(&[u8])) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
        let mut seen = 0;
        for entry in fs::read_dir(&folder).expect("the corpus is part of the repository") {
            let path = entry.expect("readable folder").path();
            run(&fs::read(&path).expect("readable file"));
            seen += 1;
        }
        assert!(seen >= 10, "{} holds {seen} files only", folder.display());
    }

    #[test]
    fn corpus_of_h1_head() {
        replay("h1_head", super::h1_head);
    }

    #[test]
    fn corpus_of_tls_records() {
        replay("tls_records", super::tls_records);
    }

    #[test]
    fn corpus_of_h2_session() {
        replay("h2_session", super::h2_session);
    }

    #[test]
    fn corpus_of_h3_datagram() {
        replay("h3_datagram", super::h3_datagram);
    }

    #[test]
    fn corpus_of_h1_chunked() {
        replay("h1_chunked", super::h1_chunked);
    }

    #[test]
    fn corpus_of_ws_frames() {
        replay("ws_frames", super::ws_frames);
    }
}
