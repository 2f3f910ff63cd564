//! Any bytes as an HTTP/2 connection, with somebody who answers.

use std::{collections::BTreeMap, time::Instant};

use super::{DATE, check_head, describe};
use crate::{
    limits::{H2_INPUT_SIZE_MAX, H2_UNSENT_SIZE_MAX},
    proto::{
        error::Refusal,
        h2::{H2, Options, PREFACE},
        head::{BodyLength, RequestHead, ResponseHead},
        stream::{Cut, Event, Requests, Responses, StreamKey},
    },
};

const BODY_SIZE_MAX: u64 = 4096;

/// What became of one stream; pieces of its body are joined.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Everything that its head says, in readable form.
    pub head: String,
    /// Body bytes.
    pub body: Vec<u8>,
    /// The request ended.
    pub ended: bool,
    /// It was refused.
    pub refused: Option<Refusal>,
    /// It was reset.
    pub reset: bool,
}

/// Any bytes behind a preface. The first one says into how large pieces the others are split.
pub fn h2_session(data: &[u8]) {
    let Some((size, data)) = data.split_first() else { return };
    let stream = [&PREFACE[..], data].concat();
    h2_events(&stream, usize::from(*size) + 1);
}

/// What a connection made of these bytes comes to when they arrive in pieces of this size, each followed by a look at
/// what happened, and requests are answered once they have ended. Panics where the engine breaks a promise.
#[expect(clippy::disallowed_methods, reason = "a fuzz target has no shard to give it the time")]
pub fn h2_events(stream: &[u8], size: usize) -> BTreeMap<u64, Seen> {
    let now = Instant::now();
    let mut engine = H2::new(Options { body_size_max: BODY_SIZE_MAX, ..Options::default() }, now);
    let mut head = RequestHead::default();
    let mut seen: BTreeMap<u64, Seen> = BTreeMap::new();
    let mut out = Vec::new();
    for mut piece in stream.chunks(size.max(1)) {
        while !piece.is_empty() {
            let taken = engine.handle(piece, now);
            assert!(taken <= piece.len(), "took more than there is");
            assert!(taken > 0, "everything was read and output, and nothing is taken");
            piece = piece.get(taken..).unwrap_or_default();
            while let Some(event) = engine.poll_event(&mut head, now) {
                note(&mut engine, event, &head, &mut seen, now);
            }
            assert!(engine.streams() <= 256, "streams pile up");
            out.clear();
            engine.output(&mut out, now);
            // Answers to at most one feed, and heads and bodies of ours.
            assert!(out.len() <= H2_UNSENT_SIZE_MAX + 16 * H2_INPUT_SIZE_MAX, "output piles up");
        }
    }
    engine.handle_end();
    while let Some(event) = engine.poll_event(&mut head, now) {
        note(&mut engine, event, &head, &mut seen, now);
    }
    assert!(engine.is_closed() && engine.streams() == 0, "nothing outlives the connection");
    seen
}

fn note(
    engine: &mut H2,
    event: Event,
    head: &RequestHead,
    seen: &mut BTreeMap<u64, Seen>,
    now: Instant,
) {
    match event {
        Event::Request { stream, end, .. } => {
            check_head(head);
            assert_eq!(end, head.body == BodyLength::Empty);
            let before = seen
                .insert(stream.id(), Seen { head: describe(head), ended: end, ..Seen::default() });
            assert!(before.is_none(), "one request for each stream");
            if end {
                answer(engine, stream, now);
            }
        }
        Event::Body { stream, data, end } => {
            let entry = seen.get_mut(&stream.id()).expect("its head came first");
            assert!(!entry.ended && entry.refused.is_none() && !entry.reset, "after its end");
            assert!(end || !data.is_empty());
            entry.body.extend_from_slice(&data);
            assert!(entry.body.len() as u64 <= BODY_SIZE_MAX);
            entry.ended = end;
            engine.credit(stream, data.len(), now);
            if end {
                answer(engine, stream, now);
            }
        }
        Event::Refused { stream, refusal } => {
            let entry = seen.entry(stream.id()).or_default();
            assert!(!entry.ended && entry.refused.is_none() && !entry.reset, "after its end");
            entry.refused = Some(refusal);
            engine.refuse(stream, refusal, DATE, now);
        }
        Event::Reset { stream } => {
            let entry = seen.entry(stream.id()).or_default();
            assert!(!entry.reset, "once only");
            entry.reset = true;
        }
        Event::Writable { stream } => engine.reset(stream, Cut::Cancelled),
    }
}

fn answer(engine: &mut H2, stream: StreamKey, now: Instant) {
    let head = ResponseHead { status: 200, blob: &[], fields: &[], body: BodyLength::Unknown };
    engine.respond(stream, &head, DATE, false).expect("a valid head");
    engine.body(stream, b"ok", true, now).expect("any length is allowed");
}
