//! Frames by hand, in both directions.

use std::time::{Duration, Instant};

use super::{H2, OPTIONS, answer};
use crate::{
    limits::{H2_INPUT_SIZE_MAX, H2_UNSENT_SIZE_MAX},
    proto::{
        h2::{Event, PREFACE, StreamKey},
        head::RequestHead,
        stream::Requests,
    },
};

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const PRIORITY: u8 = 2;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PING: u8 = 6;
pub(super) const GOAWAY: u8 = 7;
pub(super) const WINDOW_UPDATE: u8 = 8;
pub(super) const CONTINUATION: u8 = 9;

pub(super) const END_STREAM: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;

pub(super) const NO_ERROR: u32 = 0;
pub(super) const PROTOCOL_ERROR: u32 = 1;
pub(super) const FLOW_CONTROL_ERROR: u32 = 3;
pub(super) const SETTINGS_TIMEOUT: u32 = 4;
pub(super) const CANCEL: u32 = 8;
pub(super) const ENHANCE_YOUR_CALM: u32 = 11;

/// What one frame was made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) stream: u32,
    pub(super) payload: Vec<u8>,
}

impl Frame {
    /// The first number of its payload: a reset's reason, a window's increment.
    pub(super) fn number(&self) -> u32 {
        self.payload.first_chunk().map_or(0, |bytes| u32::from_be_bytes(*bytes))
    }
}

pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).expect("short").to_be_bytes();
    let mut bytes = vec![len[1], len[2], len[3], kind, flags];
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// Fields as HPACK literals that leave the table alone (RFC 7541 §6.2.2).
pub(super) fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in fields {
        out.push(0);
        for text in [name, value] {
            push_length(text.len(), &mut out);
            out.extend_from_slice(text.as_bytes());
        }
    }
    out
}

/// RFC 7541 §5.1, with a prefix of seven bits.
fn push_length(len: usize, out: &mut Vec<u8>) {
    let byte = |n: usize| u8::try_from(n).expect("it was made to fit");
    if len < 127 {
        return out.push(byte(len));
    }
    out.push(127);
    let mut rest = len - 127;
    while rest >= 128 {
        out.push(byte(rest % 128 + 128));
        rest /= 128;
    }
    out.push(byte(rest));
}

pub(super) const GET: [(&str, &str); 4] =
    [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "a")];
pub(super) const POST: [(&str, &str); 4] =
    [(":method", "POST"), (":scheme", "http"), (":path", "/"), (":authority", "a")];

/// A GET, whole.
pub(super) fn get(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_STREAM | END_HEADERS, stream, &block(&GET))
}

/// The head of a POST.
pub(super) fn post(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, &block(&POST))
}

pub(super) fn window_update(stream: u32, increment: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, &increment.to_be_bytes())
}

pub(super) fn rst_stream(stream: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &CANCEL.to_be_bytes())
}

/// A setting and its value (RFC 9113 §6.5.1).
pub(super) fn settings(pairs: &[(u16, u32)]) -> Vec<u8> {
    let mut payload = Vec::new();
    for (setting, value) in pairs {
        payload.extend_from_slice(&setting.to_be_bytes());
        payload.extend_from_slice(&value.to_be_bytes());
    }
    frame(SETTINGS, 0, 0, &payload)
}

pub(super) fn settings_ack() -> Vec<u8> {
    frame(SETTINGS, 1, 0, &[])
}

/// A client whose every byte is written by hand.
pub(super) struct Raw {
    pub(super) engine: H2,
    pub(super) head: RequestHead,
    pub(super) now: Instant,
    /// Output that was not looked at.
    output: Vec<u8>,
}

impl Raw {
    /// A connection whose preface was not sent.
    pub(super) fn new() -> Self {
        let now = Instant::now();
        let engine = H2::new(OPTIONS, now);
        Self { engine, head: RequestHead::default(), now, output: Vec::new() }
    }

    /// A connection with the preface and SETTINGS behind it.
    pub(super) fn open() -> Self {
        Self::open_with(&[])
    }

    pub(super) fn open_with(pairs: &[(u16, u32)]) -> Self {
        let mut raw = Self::new();
        let first = [PREFACE, &settings(pairs)[..], &settings_ack()].concat();
        assert_eq!(raw.send(&first), []);
        raw.frames();
        raw
    }

    /// Sends it all, as far as the engine takes it, and says what that led to.
    #[track_caller]
    pub(super) fn send(&mut self, bytes: &[u8]) -> Vec<Event> {
        let mut rest = bytes;
        let mut events = Vec::new();
        loop {
            let taken = self.engine.handle(rest, self.now);
            assert!(taken <= rest.len());
            rest = &rest[taken..];
            let before = events.len();
            events.extend(self.events());
            self.check();
            if rest.is_empty() || (taken == 0 && events.len() == before) {
                break;
            }
        }
        events
    }

    /// What is there without anything being sent.
    pub(super) fn events(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.engine.poll_event(&mut self.head, self.now)).collect()
    }

    /// The bounds that the engine promises.
    #[track_caller]
    fn check(&self) {
        let queues = self.engine.queues.borrow();
        assert!(queues.waiting() <= H2_INPUT_SIZE_MAX);
        // One read of the library behind the bound: it answers no frame with more than three times its bytes.
        assert!(
            queues.output.len() <= H2_UNSENT_SIZE_MAX + 64 * 1024,
            "{} bytes of output",
            queues.output.len()
        );
        assert!(self.engine.streams.len() <= 256, "{} streams", self.engine.streams.len());
    }

    /// Everything that was output since the last look.
    pub(super) fn frames(&mut self) -> Vec<Frame> {
        self.engine.output(&mut self.output, self.now);
        let mut frames = Vec::new();
        let mut rest = self.output.as_slice();
        while let Some((head, tail)) = rest.split_at_checked(9) {
            let len = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
            let (payload, tail) = tail.split_at_checked(len).expect("output holds whole frames");
            frames.push(Frame {
                kind: head[3],
                flags: head[4],
                stream: u32::from_be_bytes([head[5], head[6], head[7], head[8]]),
                payload: payload.to_vec(),
            });
            rest = tail;
        }
        assert!(rest.is_empty(), "output holds whole frames");
        self.output.clear();
        frames
    }

    /// The error code of the GOAWAY with which the connection was closed.
    #[track_caller]
    pub(super) fn closed_with(&mut self) -> u32 {
        let frames = self.frames();
        assert!(self.engine.is_closed());
        let last = frames.last().expect("something was said");
        assert_eq!(last.kind, GOAWAY, "{last:?}");
        u32::from_be_bytes([last.payload[4], last.payload[5], last.payload[6], last.payload[7]])
    }

    /// The reason for which this stream was reset.
    #[track_caller]
    pub(super) fn reset_with(&mut self, stream: u32) -> u32 {
        let frames = self.frames();
        let reset = frames.iter().find(|frame| frame.kind == RST_STREAM && frame.stream == stream);
        reset.unwrap_or_else(|| panic!("no reset among {frames:?}")).number()
    }

    /// Begins a request and names it.
    #[track_caller]
    pub(super) fn begin(&mut self, bytes: &[u8]) -> StreamKey {
        let events = self.send(bytes);
        match events.as_slice() {
            [Event::Request { stream, .. }, ..] => *stream,
            other => panic!("no request: {other:?}"),
        }
    }

    pub(super) fn answer(&mut self, stream: StreamKey, body: &[u8]) {
        answer(&mut self.engine, stream, body);
    }

    pub(super) fn wait(&mut self, time: Duration) {
        self.now += time;
        self.engine.handle_timeout(self.now);
    }

    pub(super) fn field(&self, name: &str) -> Option<String> {
        let value = self.head.field(name.as_bytes())?;
        Some(String::from_utf8(value.to_vec()).expect("UTF-8"))
    }

    pub(super) fn text(&self, span: crate::span::Span) -> String {
        String::from_utf8_lossy(self.head.bytes(span)).into_owned()
    }
}
