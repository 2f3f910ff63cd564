//! Both ends of a lane and one oracle: nothing lost, nothing torn, nobody asleep beside work, every chunk back.
//!
//! Invariant of the model: each direction is a queue of what was sent; a body may arrive in pieces, everything else
//! as it was. A side that sleeps (its `arm` said so) may be left alone only while there is nothing for it.

use std::{collections::VecDeque, sync::Arc};

use crate::{
    ipc::{
        Doorbell, EdgeLane, Segment, WorkerLane,
        layout::Geometry,
        message::{
            Cancellation, Certificate, Close, FromWorker, Piece, Request, Response, Tls, ToWorker,
        },
        ring::Withdrawal,
    },
    span::{Field, Span},
};

/// Records of up to 256 bytes, 128 of a body inline.
const GEOMETRY: Geometry = Geometry::new(1024, 256, 4).unwrap();
/// Turns that a side may need until it finds nothing more to do.
const TURNS_MAX: usize = 4;
const RESPONSE: u16 = 200;
const INFORMATIONAL: u16 = 103;
const TRAILERS: u16 = 1;
/// No exchange has this number.
const GONE: u64 = u64::MAX;

#[derive(Clone, Copy, Debug)]
pub(super) enum Action {
    /// A request from the edge, a response from the worker.
    Head {
        size: u8,
        end: bool,
    },
    Body {
        len: u16,
        end: bool,
    },
    /// A piece of a message.
    Piece {
        len: u16,
        more: bool,
    },
    Close {
        reason: u8,
    },
    Credit {
        bytes: u8,
    },
    /// CANCEL from the edge, ABORT from the worker.
    Stop,
    /// The edge takes a request back, or tries to take back the one that was received last.
    Withdraw {
        which: u8,
    },
    Publish,
    Receive,
    /// What an event loop does before it blocks.
    Settle,
    Disarm,
}

/// An action, who does it, and on which exchange.
#[derive(Clone, Copy, Debug)]
pub(super) struct Operation {
    side: usize,
    exchange: u64,
    action: Action,
}

impl Operation {
    pub(super) fn decode([selector, a, b, exchange]: [u8; super::OPERATION_SIZE]) -> Self {
        let end = selector & 0x20 != 0;
        let action = match selector >> 1 & 15 {
            0..=2 => Action::Head { size: a, end },
            3 | 4 => Action::Body { len: u16::from_le_bytes([a, b & 7]), end },
            5 if b & 8 != 0 => Action::Close { reason: a },
            5 => Action::Piece { len: u16::from_le_bytes([a, b & 7]), more: end },
            6 => Action::Credit { bytes: a },
            7 if b & 8 != 0 => Action::Withdraw { which: a },
            7 => Action::Stop,
            8 | 9 => Action::Publish,
            10..=12 => Action::Receive,
            13 | 14 => Action::Settle,
            _ => Action::Disarm,
        };
        Self { side: usize::from(selector & 1), exchange: u64::from(exchange), action }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Message {
    /// `status` tells a response from what looks like one.
    Head {
        status: u16,
        blob: Vec<u8>,
        end: bool,
    },
    Body {
        data: Vec<u8>,
        end: bool,
        /// So many bytes of it, from the first on, are in chunks.
        chunked: usize,
    },
    /// Text if it was sent on an odd exchange.
    Piece {
        data: Vec<u8>,
        is_text: bool,
        more: bool,
    },
    Close {
        code: u16,
        reason: Vec<u8>,
    },
    Credit(u64),
    Stop,
}

fn body(data: &[u8], end: bool) -> Message {
    Message::Body { data: data.to_vec(), end, chunked: 0 }
}

/// How much of a body of this length goes in chunks: all but a rest that fits a record.
fn chunked(len: usize) -> usize {
    let (inline_max, chunk) = (GEOMETRY.record_size_max() / 2, GEOMETRY.chunk_size());
    let mut at = 0;
    while len - at > inline_max {
        at += chunk.min(len - at);
    }
    at
}

fn piece(got: Piece<'_>) -> Message {
    Message::Piece { data: got.data.to_vec(), is_text: got.is_text, more: got.more }
}

fn close(got: Close<'_>) -> Message {
    Message::Close { code: got.code, reason: got.reason.to_vec() }
}

enum End {
    Edge(EdgeLane),
    Worker(WorkerLane),
}

macro_rules! either {
    ($end:expr, $lane:ident => $call:expr) => {
        match $end {
            End::Edge($lane) => $call,
            End::Worker($lane) => $call,
        }
    };
}

/// What a request with this blob says of its client: nothing, or something in each part.
fn tls_of(blob: &[u8]) -> Option<Tls<'_>> {
    let (subject, issuer, chain) = (&b"CN=a"[..], &b""[..], blob.get(..blob.len() % 5)?);
    let certificate =
        blob.len().is_multiple_of(2).then_some(Certificate { subject, issuer, chain });
    blob.len().is_multiple_of(3).then_some(Tls {
        version: 0x0304,
        cipher_suite: 0x1301,
        certificate,
    })
}

impl End {
    /// The status that goes with a head of this length.
    fn status(&self, len: usize) -> u16 {
        match self {
            Self::Edge(_) => 0,
            Self::Worker(_) => [RESPONSE, INFORMATIONAL, TRAILERS][len % 3],
        }
    }

    fn send_head(&mut self, exchange: u64, blob: &[u8], end: bool) -> bool {
        let status = self.status(blob.len());
        let whole = Span::new(0, blob.len()).unwrap();
        let fields = [Field { name: whole, value: whole }];
        match self {
            Self::Edge(lane) => {
                let request = Request {
                    route: 1,
                    method: 2,
                    version: 11,
                    method_name: whole,
                    raw_path: whole,
                    path: whole,
                    query: whole,
                    authority: whole,
                    fields: &fields,
                    params: &[whole],
                    blob,
                    content_length: None,
                    peer: None,
                    secure: false,
                    tls: tls_of(blob),
                    websocket: false,
                    halvings: 0,
                    body: b"inline",
                    end,
                };
                lane.send_request(exchange, &request).unwrap()
            }
            Self::Worker(lane) => {
                let response = Response {
                    status,
                    fields: &fields,
                    blob,
                    content_length: Some(9),
                    body: b"inline",
                    end,
                };
                match status {
                    RESPONSE => lane.send_response(exchange, &response).unwrap(),
                    INFORMATIONAL => lane.send_informational(exchange, &response).unwrap(),
                    _ => lane.send_trailers(exchange, &response).unwrap(),
                }
            }
        }
    }

    fn stop(&mut self, exchange: u64) -> bool {
        match self {
            Self::Edge(lane) => lane.send_cancel(exchange, Cancellation::DeadlinePassed).unwrap(),
            Self::Worker(lane) => lane.send_abort(exchange).unwrap(),
        }
    }

    fn receive(&mut self) -> Option<(u64, Message)> {
        let head = |fields: &[Field], blob: &[u8], body: &[u8], (status, end)| {
            assert_eq!(fields[0].value.of(blob), Some(blob));
            assert_eq!(body, b"inline");
            Message::Head { status, blob: blob.to_vec(), end }
        };
        match self {
            Self::Edge(lane) => lane.receive().unwrap().map(|(exchange, message)| {
                let message = match message {
                    FromWorker::Response(r) => head(r.fields, r.blob, r.body, (RESPONSE, r.end)),
                    FromWorker::Informational(r) => {
                        head(r.fields, r.blob, r.body, (INFORMATIONAL, r.end))
                    }
                    FromWorker::Trailers(r) => {
                        assert!(r.end, "a body ends with its trailers");
                        head(r.fields, r.blob, r.body, (TRAILERS, true))
                    }
                    FromWorker::Body { data, end } => body(data, end),
                    FromWorker::Message(got) => piece(got),
                    FromWorker::Close(got) => close(got),
                    FromWorker::Credit(bytes) => Message::Credit(bytes),
                    FromWorker::Abort => Message::Stop,
                };
                (exchange, message)
            }),
            Self::Worker(lane) => lane.receive().unwrap().map(|(exchange, message)| {
                let message = match message {
                    ToWorker::Request(r) => {
                        assert_eq!(r.tls, tls_of(r.blob));
                        head(r.fields, r.blob, r.body, (0, r.end))
                    }
                    ToWorker::Body { data, end } => body(data, end),
                    ToWorker::Message(got) => piece(got),
                    ToWorker::Close(got) => close(got),
                    ToWorker::Credit(bytes) => Message::Credit(bytes),
                    ToWorker::Cancel(_) => Message::Stop,
                };
                (exchange, message)
            }),
        }
    }
}

struct Side {
    end: End,
    /// Sent by this side, not published.
    committed: VecDeque<(u64, Message)>,
    /// Published by this side, not received by the other.
    visible: VecDeque<(u64, Message)>,
    /// Where requests begin that were sent by this side and not received by the other, in order; and the one received last.
    positions: VecDeque<u64>,
    received: Option<u64>,
    /// A head that found no room: its blob's length.
    refused: Option<usize>,
    /// `arm` said that there is nothing to do, and no kick came since.
    asleep: bool,
    /// Kicks since `arm` last said so.
    kicked: usize,
}

/// Runs the operations, then both event loops until all is quiet.
pub(super) fn run(operations: &[Operation]) {
    let (e, w) = (Arc::new(Segment::heap(GEOMETRY)), Arc::new(Segment::heap(GEOMETRY)));
    let bell = Arc::new(Doorbell::new().unwrap());
    let edge = EdgeLane::new(Arc::clone(&e), Arc::clone(&w), Arc::clone(&bell));
    let side = |end| Side {
        end,
        committed: VecDeque::new(),
        visible: VecDeque::new(),
        positions: VecDeque::new(),
        received: None,
        refused: None,
        asleep: false,
        kicked: 0,
    };
    let worker = WorkerLane::new(w, e, bell);
    let mut model = Model { sides: [side(End::Edge(edge)), side(End::Worker(worker))], sent: 0 };
    for operation in operations {
        model.step(*operation);
    }
    for _ in 0..4 {
        model.settle(0);
        model.settle(1);
    }
    for side in &model.sides {
        assert!(side.committed.is_empty() && side.visible.is_empty(), "something was lost");
        assert_eq!(either!(&side.end, lane => lane.leased_chunks()), 0, "a chunk was lost");
    }
}

struct Model {
    sides: [Side; 2],
    sent: u8,
}

impl Model {
    fn step(&mut self, Operation { side, exchange, action }: Operation) {
        self.sides[side].asleep = false;
        match action {
            Action::Head { size, end } => {
                self.send_head(side, exchange, usize::from(size) % 97, end);
            }
            Action::Body { len, end } => self.send_body(side, exchange, usize::from(len), end),
            Action::Piece { len, more } => {
                self.send_message(side, exchange, usize::from(len), more);
            }
            Action::Close { reason } => self.send_close(side, exchange, usize::from(reason) % 100),
            Action::Credit { bytes } => {
                let side = &mut self.sides[side];
                let bytes = u64::from(bytes);
                if either!(&mut side.end, lane => lane.send_credit(exchange, bytes)).unwrap() {
                    side.committed.push_back((exchange, Message::Credit(bytes)));
                }
            }
            Action::Stop => {
                if self.sides[side].end.stop(exchange) {
                    self.sides[side].committed.push_back((exchange, Message::Stop));
                }
            }
            Action::Withdraw { which } => self.withdraw(usize::from(which)),
            Action::Publish => self.publish(side),
            Action::Receive => {
                self.receive(side);
            }
            Action::Settle => self.settle(side),
            Action::Disarm => either!(&mut self.sides[side].end, lane => lane.disarm()),
        }
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        self.sent = self.sent.wrapping_add(1);
        let first = usize::from(self.sent);
        (first..first + len).map(|i| u8::try_from(i % 251).unwrap()).collect()
    }

    fn send_head(&mut self, side: usize, exchange: u64, len: usize, end: bool) {
        let blob = self.bytes(len);
        let side = &mut self.sides[side];
        if side.end.send_head(exchange, &blob, end) {
            let status = side.end.status(len);
            let end = end || status == TRAILERS;
            side.committed.push_back((exchange, Message::Head { status, blob, end }));
            side.refused = None;
            if let End::Edge(lane) = &side.end {
                side.positions.push_back(lane.newest());
            }
        } else {
            side.refused = Some(len);
        }
    }

    fn send_body(&mut self, side: usize, exchange: u64, len: usize, end: bool) {
        let mut data = self.bytes(len);
        let side = &mut self.sides[side];
        let taken = either!(&mut side.end, lane => lane.send_body(exchange, &data, end)).unwrap();
        if let Some(taken) = taken {
            assert!(taken <= len && (taken > 0 || len == 0));
            data.truncate(taken);
            let chunked = chunked(len).min(taken);
            let end = end && taken == len;
            side.committed.push_back((exchange, Message::Body { data, end, chunked }));
        }
        assert!(either!(&side.end, lane => lane.leased_chunks()) <= GEOMETRY.chunk_count());
    }

    fn send_message(&mut self, side: usize, exchange: u64, len: usize, more: bool) {
        let mut data = self.bytes(len);
        let side = &mut self.sides[side];
        let is_text = exchange % 2 == 1;
        let sent = Piece { data: &data, is_text, more };
        let taken = either!(&mut side.end, lane => lane.send_message(exchange, sent)).unwrap();
        if let Some(taken) = taken {
            data.truncate(taken);
            let more = more || taken < len;
            side.committed.push_back((exchange, Message::Piece { data, is_text, more }));
        }
    }

    fn send_close(&mut self, side: usize, exchange: u64, len: usize) {
        let reason = self.bytes(len);
        let side = &mut self.sides[side];
        let sent = Close { code: 4000, reason: &reason };
        if either!(&mut side.end, lane => lane.send_close(exchange, sent)).unwrap() {
            side.committed.push_back((exchange, Message::Close { code: 4000, reason }));
        }
    }

    /// The edge's requests are withdrawn, nobody else's.
    fn withdraw(&mut self, which: usize) {
        let side = &mut self.sides[0];
        let End::Edge(lane) = &mut side.end else { return };
        let which = which % (side.positions.len() + 1);
        let Some(position) = side.positions.remove(which) else {
            if let Some(received) = side.received {
                assert_eq!(lane.withdraw_request(received, 0), Ok(Withdrawal::TooLate));
            }
            return;
        };
        let is_head = |(_, message): &(u64, Message)| matches!(message, Message::Head { .. });
        let published = side.visible.iter().filter(|sent| is_head(sent)).count();
        let (queue, nth) = match which.checked_sub(published) {
            None => (&mut side.visible, which),
            Some(nth) => (&mut side.committed, nth),
        };
        let at = queue.iter().enumerate().filter(|(_, sent)| is_head(sent)).nth(nth).unwrap().0;
        let (exchange, message) = queue.remove(at).unwrap();
        assert_eq!(lane.withdraw_request(position, exchange), Ok(Withdrawal::Done));
        // Of its body what is in chunks goes with it, as long as nobody can have seen it.
        let from = if which < published { 0 } else { at };
        if matches!(message, Message::Head { end: false, .. }) {
            for (other, message) in side.committed.iter_mut().skip(from) {
                if *other == exchange
                    && let Message::Body { data, chunked, .. } = message
                {
                    data.drain(..*chunked);
                    if data.is_empty() && *chunked > 0 {
                        *other = GONE;
                    }
                    *chunked = 0;
                }
            }
            side.committed.retain(|(other, _)| *other != GONE);
        }
    }

    fn publish(&mut self, side: usize) {
        let this = &mut self.sides[side];
        let kicked = either!(&mut this.end, lane => lane.publish()).unwrap();
        this.visible.append(&mut this.committed);
        let other = &mut self.sides[1 - side];
        if kicked {
            other.asleep = false;
            other.kicked += 1;
            assert!(other.kicked <= 2, "one kick for a record, one for room, and no more");
        }
        if other.asleep {
            assert!(!either!(&other.end, lane => lane.pending()), "asleep beside a record");
            if let Some(len) = other.refused {
                let blob = vec![0; len];
                assert!(!other.end.send_head(0, &blob, false), "asleep beside the room it wants");
            }
        }
    }

    fn receive(&mut self, side: usize) -> bool {
        let got = self.sides[side].end.receive();
        let Some((exchange, message)) = got else {
            let expected = &self.sides[1 - side].visible;
            assert!(expected.is_empty(), "published and not found");
            return false;
        };
        let (sent_on, sent) = self.sides[1 - side].visible.pop_front().expect("nothing was sent");
        assert_eq!(exchange, sent_on);
        if side == 1 && matches!(message, Message::Head { .. }) {
            self.sides[0].received = self.sides[0].positions.pop_front();
        }
        let expected = &mut self.sides[1 - side].visible;
        match (message, sent) {
            (Message::Body { data, end, .. }, Message::Body { data: mut rest, end: last, .. }) => {
                assert!(rest.starts_with(&data));
                assert!(!data.is_empty() || rest.is_empty());
                rest.drain(..data.len());
                assert_eq!(end, last && rest.is_empty());
                if !rest.is_empty() {
                    let rest = Message::Body { data: rest, end: last, chunked: 0 };
                    expected.push_front((exchange, rest));
                }
            }
            (
                Message::Piece { data, is_text, more },
                Message::Piece { data: mut rest, is_text: sent_text, more: last },
            ) => {
                assert!(rest.starts_with(&data) && is_text == sent_text);
                rest.drain(..data.len());
                assert_eq!(more, last || !rest.is_empty());
                if !rest.is_empty() {
                    let rest = Message::Piece { data: rest, is_text, more: last };
                    expected.push_front((exchange, rest));
                }
            }
            (message, sent) => assert_eq!(message, sent),
        }
        true
    }

    /// An event loop's turns until it may sleep.
    fn settle(&mut self, side: usize) {
        for _ in 0..TURNS_MAX {
            while self.receive(side) {}
            if let Some(len) = self.sides[side].refused.take() {
                self.send_head(side, 0, len, false);
            }
            self.publish(side);
            if !either!(&mut self.sides[side].end, lane => lane.arm()).unwrap() {
                assert!(self.sides[1 - side].visible.is_empty(), "asleep beside a record");
                self.sides[side].asleep = true;
                self.sides[side].kicked = 0;
                return;
            }
        }
        panic!("a side keeps finding something to do, and does nothing");
    }
}
