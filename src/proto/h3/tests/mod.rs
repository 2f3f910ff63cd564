//! What the HTTP/3 engine accepts, what it refuses, what it sends, and what it does not let a client do.
//!
//! Honest clients are `quiche::h3`, whose frames and field sections are not ours; attacks are frames written by hand.

mod attacks;
mod client;
mod flow;
mod lifecycle;
mod loss;
mod raw;
mod requests;
mod responses;
mod timeouts;

use super::{H3, Options, StreamKey};
use crate::{
    limits::{BODY_TIMEOUT, HEAD_TIMEOUT, KEEPALIVE_TIMEOUT},
    proto::{
        head::{BodyLength, ResponseHead},
        stream::Responses,
    },
    span::{Field, Span},
};

const OPTIONS: Options = options(1000);

const fn options(body_size_max: u64) -> Options {
    Options {
        body_size_max,
        header_timeout: HEAD_TIMEOUT,
        body_timeout: BODY_TIMEOUT,
        keepalive_timeout: KEEPALIVE_TIMEOUT,
    }
}
const DATE: &[u8] = b"Sun, 06 Nov 1994 08:49:37 GMT";

/// A head as an application makes it.
struct Head {
    status: u16,
    blob: Vec<u8>,
    fields: Vec<Field>,
    body: BodyLength,
}

impl Head {
    fn new(status: u16, fields: &[(&str, &str)], body: BodyLength) -> Self {
        let mut blob = Vec::new();
        let mut span = |text: &str| {
            let start = blob.len();
            blob.extend_from_slice(text.as_bytes());
            Span::new(start, text.len()).expect("short")
        };
        let fields = fields
            .iter()
            .map(|(name, value)| Field { name: span(name), value: span(value) })
            .collect();
        Self { status, blob, fields, body }
    }

    fn get(&self) -> ResponseHead<'_> {
        ResponseHead {
            status: self.status,
            blob: &self.blob,
            fields: &self.fields,
            body: self.body,
        }
    }
}

/// Answers 200 with this body.
#[track_caller]
fn answer(engine: &mut H3, stream: StreamKey, body: &[u8], now: std::time::Instant) {
    let head = Head::new(200, &[], BodyLength::Known(body.len() as u64));
    engine.respond(stream, &head.get(), DATE, false).expect("valid");
    let taken = engine.body(stream, body, true, now).expect("as announced");
    assert_eq!(taken, body.len(), "a short body fits any window that a test leaves it");
}
