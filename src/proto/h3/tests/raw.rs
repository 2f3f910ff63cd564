//! Frames written by hand, on streams of a client that knows nothing of HTTP.

use std::{
    ops::{Deref, DerefMut},
    time::Duration,
};

use quiche::{Shutdown, h3::qpack::Encoder};

use super::{OPTIONS, answer, client::headers};
use crate::proto::{
    h3::{
        Options,
        frames::put_varint,
        peer::{Pair, WIDE, Windows},
    },
    stream::{Event, StreamKey},
};

pub(super) const DATA: u64 = 0;
pub(super) const HEADERS: u64 = 1;

pub(super) const NO_ERROR: u64 = 0x100;
pub(super) const FRAME_UNEXPECTED: u64 = 0x105;
pub(super) const EXCESSIVE_LOAD: u64 = 0x107;
pub(super) const REQUEST_REJECTED: u64 = 0x10b;
pub(super) const REQUEST_CANCELLED: u64 = 0x10c;
pub(super) const MESSAGE_ERROR: u64 = 0x10e;

/// A frame of any type.
pub(super) fn frame(kind: u64, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    put_varint(kind, &mut bytes);
    put_varint(payload.len() as u64, &mut bytes);
    bytes.extend_from_slice(payload);
    bytes
}

/// A field section.
pub(super) fn section(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = vec![0; 200_000];
    let len = Encoder::new().encode(&headers(fields), &mut block).unwrap();
    block.truncate(len);
    block
}

/// Names and values as they are, which the library's encoder would put in lower case.
pub(super) fn literal_section(fields: &[(&[u8], &[u8])]) -> Vec<u8> {
    let mut block = vec![0, 0];
    for (name, value) in fields {
        // RFC 9204 §4.5.6, without Huffman; a length of 7 or more goes on behind its prefix.
        if name.len() < 7 {
            block.push(0x20 | u8::try_from(name.len()).unwrap());
        } else {
            block.push(0x27);
            block.push(u8::try_from(name.len() - 7).unwrap());
        }
        block.extend_from_slice(name);
        assert!(value.len() < 127);
        block.push(u8::try_from(value.len()).unwrap());
        block.extend_from_slice(value);
    }
    block
}

pub(super) fn head(fields: &[(&str, &str)]) -> Vec<u8> {
    frame(HEADERS, &section(fields))
}

pub(super) struct Raw {
    pub(super) pair: Pair,
}

impl Deref for Raw {
    type Target = Pair;

    fn deref(&self) -> &Pair {
        &self.pair
    }
}

impl DerefMut for Raw {
    fn deref_mut(&mut self) -> &mut Pair {
        &mut self.pair
    }
}

impl Raw {
    pub(super) fn new() -> Self {
        Self::with(WIDE, OPTIONS)
    }

    pub(super) fn with(windows: Windows, options: Options) -> Self {
        Self { pair: Pair::open(windows, options) }
    }

    /// With a control stream that has said its settings.
    pub(super) fn open() -> Self {
        Self::open_with(WIDE, OPTIONS)
    }

    pub(super) fn open_with(windows: Windows, options: Options) -> Self {
        let mut raw = Self::with(windows, options);
        assert_eq!(raw.send(2, &[&[0][..], &frame(4, &[])].concat(), false), []);
        raw
    }

    /// Sends bytes on a stream, and says what that led to.
    #[track_caller]
    pub(super) fn send(&mut self, id: u64, bytes: &[u8], fin: bool) -> Vec<Event> {
        let mut rest = bytes;
        let mut events = Vec::new();
        loop {
            let before = events.len();
            let sent = match self.client.stream_send(id, rest, fin) {
                Ok(sent) => sent,
                Err(quiche::Error::Done) => 0,
                // The engine has had enough of it.
                Err(quiche::Error::StreamStopped(_) | quiche::Error::InvalidStreamState(_)) => {
                    rest.len()
                }
                Err(error) => panic!("{error}"),
            };
            rest = &rest[sent..];
            events.extend(self.run());
            if rest.is_empty() || (sent == 0 && events.len() == before) {
                return events;
            }
        }
    }

    /// Begins a request and names it.
    #[track_caller]
    pub(super) fn begin(&mut self, id: u64, bytes: &[u8], fin: bool) -> StreamKey {
        let events = self.send(id, bytes, fin);
        match events.as_slice() {
            [Event::Request { stream, .. }, ..] => *stream,
            other => panic!("no request: {other:?}"),
        }
    }

    #[track_caller]
    pub(super) fn answer(&mut self, stream: StreamKey, body: &[u8]) -> Vec<Event> {
        let now = self.now;
        answer(&mut self.engine, stream, body, now);
        self.run()
    }

    /// Gives a stream up in both directions, as a browser does.
    pub(super) fn cancel(&mut self, id: u64) -> Vec<Event> {
        self.client.stream_shutdown(id, Shutdown::Read, REQUEST_CANCELLED).ok();
        self.client.stream_shutdown(id, Shutdown::Write, REQUEST_CANCELLED).ok();
        self.run()
    }

    /// The code with which the connection was closed.
    #[track_caller]
    pub(super) fn closed_with(&mut self) -> u64 {
        self.run();
        assert!(self.engine.is_closed(), "not closed");
        let error = self.client.peer_error().expect("the client was told");
        assert!(error.is_app, "{error:?}");
        error.error_code
    }

    /// The code with which a response was reset.
    #[track_caller]
    pub(super) fn reset_with(&mut self, id: u64) -> u64 {
        match self.client.stream_recv(id, &mut [0; 100]) {
            Err(quiche::Error::StreamReset(code)) => code,
            other => panic!("not reset: {other:?}"),
        }
    }

    /// What has come on a stream.
    pub(super) fn received(&mut self, id: u64) -> (Vec<u8>, bool) {
        let mut bytes = Vec::new();
        let mut piece = [0; 4096];
        while let Ok((read, fin)) = self.client.stream_recv(id, &mut piece) {
            bytes.extend_from_slice(&piece[..read]);
            if fin {
                return (bytes, true);
            }
        }
        (bytes, false)
    }

    pub(super) fn wait(&mut self, time: Duration) -> Vec<Event> {
        self.now += time;
        let now = self.now;
        self.engine.handle_timeout(now);
        self.run()
    }

    pub(super) fn field(&self, name: &str) -> Option<String> {
        let value = self.head.field(name.as_bytes())?;
        Some(String::from_utf8(value.to_vec()).expect("UTF-8"))
    }

    pub(super) fn text(&self, span: crate::span::Span) -> String {
        String::from_utf8_lossy(self.head.bytes(span)).into_owned()
    }
}
