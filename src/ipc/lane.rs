//! A lane: the two rings and arenas between one shard and one worker, as one side holds them.
//!
//! Invariant: whatever was committed leaves with the next [`Lane::publish`]; chunks that were read are given back with it.
//! [`EdgeLane`] and [`WorkerLane`] fix the direction; everything else is shared. Deliberately absent: which exchange a
//! message belongs to, and how much credit it has (the shard's and the worker's books).

mod recall;

use std::sync::Arc as StdArc;

use zerocopy::IntoBytes;

use super::{
    chunk::Arena,
    doorbell::Doorbell,
    fault::Fault,
    message::{
        Cancellation, ChunkRef, Close, FromWorker, Kind, Parsed, Piece, Request, Response,
        ToWorker, flags, parse, parse_chunk, parse_piece, parse_release,
    },
    ring::{Claim, Consumer, Producer, Record, publish},
    segment::Segment,
    sync::Arc,
};
use crate::limits::INLINE_BODY_SIZE_MAX;

/// How the records of one payload are marked.
#[derive(Clone, Copy, Debug)]
struct Marks {
    kind: Kind,
    /// Flags of the record that takes the last bytes.
    last: u16,
    /// Flags of those before it.
    others: u16,
}

impl Marks {
    fn body(end: bool) -> Self {
        Self { kind: Kind::Body, last: if end { flags::END } else { 0 }, others: 0 }
    }

    fn message(piece: &Piece<'_>) -> Self {
        let last = piece.flags();
        Self { kind: Kind::Message, last, others: last | flags::MORE }
    }

    fn may_be_chunked(record: &Record) -> bool {
        let carries = [Kind::Body, Kind::Message].iter().any(|kind| *kind as u16 == record.kind);
        carries && record.flags & flags::CHUNK != 0 && record.flags & flags::CLOSE == 0
    }
}

/// A record that was taken; its bytes lie with the lane.
#[derive(Debug)]
enum Taken {
    Inline(Record),
    Chunked(Record),
    /// Nothing of it counts.
    Withdrawn(Record),
}

impl Taken {
    fn record(&self) -> &Record {
        match self {
            Self::Inline(record) | Self::Chunked(record) | Self::Withdrawn(record) => record,
        }
    }
}

/// What both directions have in common.
#[derive(Debug)]
struct Lane {
    own: Arc<Segment>,
    peer: Arc<Segment>,
    tx: Producer,
    rx: Consumer,
    arena: Arena,
    bell: StdArc<Doorbell>,
    /// The payload of the record that was taken last.
    payload: Vec<u8>,
    /// The bytes of the chunk that it named.
    chunk: Vec<u8>,
    /// Chunks of the peer that were read and not given back yet; at most its arena.
    to_release: Vec<u32>,
    /// The shortest payload that found no room in the ring since there last was enough for it.
    starved: Option<usize>,
    kicks: u64,
    /// The peer wanted a kick, and the system had no memory for it.
    kick_due: bool,
}

impl Lane {
    fn new(own: Arc<Segment>, peer: Arc<Segment>, bell: StdArc<Doorbell>) -> Self {
        Self {
            tx: Producer::new(Arc::clone(&own), Arc::clone(&peer)),
            rx: Consumer::new(Arc::clone(&own), Arc::clone(&peer)),
            arena: Arena::new(own.geometry().chunk_count()),
            own,
            peer,
            bell,
            payload: Vec::new(),
            chunk: Vec::new(),
            to_release: Vec::new(),
            starved: None,
            kicks: 0,
            kick_due: false,
        }
    }

    /// Room for a record. A refusal is remembered, so that [`Lane::arm`] waits for exactly what was missing.
    fn claim(&mut self, payload_len: usize) -> Result<Option<Claim<'_>>, Fault> {
        let claim = self.tx.claim(payload_len)?;
        if claim.is_none() {
            self.starved = Some(self.starved.map_or(payload_len, |least| least.min(payload_len)));
        }
        Ok(claim)
    }

    /// Writes one small record; false when the ring is full for now.
    fn put(
        &mut self,
        kind: Kind,
        flags: u16,
        exchange: u64,
        payload: &[u8],
    ) -> Result<bool, Fault> {
        let Some(mut claim) = self.claim(payload.len())? else { return Ok(false) };
        claim.put(payload);
        claim.commit(kind as u16, flags, exchange);
        Ok(true)
    }

    /// Writes as much of a body or message as there is room for; the number of bytes that were taken.
    fn put_payload(
        &mut self,
        marks: Marks,
        exchange: u64,
        data: &[u8],
    ) -> Result<Option<usize>, Fault> {
        let mut taken = 0;
        loop {
            let rest = data.get(taken..).unwrap_or_default();
            let written = if rest.len() <= INLINE_BODY_SIZE_MAX.min(self.inline_max()) {
                self.put(marks.kind, marks.last, exchange, rest)?.then_some(rest.len())
            } else {
                self.put_chunk(marks, exchange, rest)?
            };
            match written {
                Some(count) => taken += count,
                None if taken == 0 => return Ok(None),
                None => return Ok(Some(taken)),
            }
            if taken == data.len() {
                return Ok(Some(taken));
            }
        }
    }

    fn inline_max(&self) -> usize {
        self.own.geometry().record_size_max() / 2
    }

    fn put_chunk(
        &mut self,
        marks: Marks,
        exchange: u64,
        data: &[u8],
    ) -> Result<Option<usize>, Fault> {
        let geometry = self.own.geometry();
        if self.claim(size_of::<ChunkRef>())?.is_none() {
            return Ok(None);
        }
        let Some(index) = self.arena.lease() else { return Ok(None) };
        let len = data.len().min(geometry.chunk_size());
        self.own.write(geometry.chunk_offset(index as usize), data.get(..len).unwrap_or_default());
        let reference = ChunkRef {
            index,
            len: u32::try_from(len).unwrap_or_else(|_| unreachable!("Geometry bounds it")),
        };
        let marked = if len == data.len() { marks.last } else { marks.others };
        let written =
            self.put(marks.kind, flags::CHUNK | marked, exchange, reference.as_bytes())?;
        assert!(
            written,
            "room that was there a moment ago cannot be gone: this side alone takes it"
        );
        Ok(Some(len))
    }

    /// Takes the next record that concerns an exchange, for [`Lane::parsed`]; gives and takes chunks on the way.
    fn take(&mut self) -> Result<Option<Taken>, Fault> {
        loop {
            self.payload.clear();
            let Some(record) = self.rx.take(&mut self.payload)? else { return Ok(None) };
            // Before anybody acts on it: a request whose record counts as not taken was never begun.
            let stands = record.kind != Kind::Request as u16 || self.rx.keep();
            if !stands || record.kind == Kind::Withdrawn as u16 {
                return Ok(Some(Taken::Withdrawn(record)));
            }
            if record.kind == Kind::Release as u16 {
                // Each index ends a lease, so that a peer cannot keep this loop busy.
                for index in parse_release(&self.payload)? {
                    self.arena.release(index.get())?;
                }
            } else if Marks::may_be_chunked(&record) {
                let chunk = parse_chunk(&self.payload)?;
                self.read_chunk(chunk)?;
                return Ok(Some(Taken::Chunked(record)));
            } else {
                return Ok(Some(Taken::Inline(record)));
            }
        }
    }

    /// What was taken last.
    fn parsed(&self, taken: &Taken) -> Result<Parsed<'_>, Fault> {
        match taken {
            Taken::Inline(record) => parse(record, &self.payload),
            Taken::Chunked(record) if record.kind == Kind::Message as u16 => {
                Ok(parse_piece(record, &self.chunk))
            }
            Taken::Chunked(record) => {
                Ok(Parsed::Body { data: &self.chunk, end: record.flags & flags::END != 0 })
            }
            // The edge withdraws, nobody else.
            Taken::Withdrawn(record) => Err(Fault::Kind { kind: record.kind }),
        }
    }

    fn read_chunk(&mut self, chunk: ChunkRef) -> Result<(), Fault> {
        let geometry = self.peer.geometry();
        let (index, len) = (chunk.index as usize, chunk.len as usize);
        // A chunk is named once until it was given back, so `to_release` never outgrows the arena.
        let twice = self.to_release.len() >= geometry.chunk_count();
        if index >= geometry.chunk_count() || len > geometry.chunk_size() || twice {
            return Err(Fault::Chunk { index: chunk.index, len: chunk.len });
        }
        self.chunk.clear();
        self.peer.read_onto(geometry.chunk_offset(index), len, &mut self.chunk);
        self.to_release.push(chunk.index);
        Ok(())
    }

    fn give_back(&mut self) -> Result<(), Fault> {
        while !self.to_release.is_empty() {
            let mut indices = std::mem::take(&mut self.to_release);
            let count = (self.inline_max() / size_of::<u32>()).min(indices.len());
            let now = indices.get(..count).unwrap_or_default();
            let written = self.put(Kind::Release, 0, 0, now.as_bytes());
            if written == Ok(true) {
                indices.drain(..count);
            }
            self.to_release = indices;
            if !written? {
                break;
            }
        }
        Ok(())
    }

    /// True when the peer was kicked.
    fn publish(&mut self) -> Result<bool, Fault> {
        self.give_back()?;
        let wanted = publish(&mut self.tx, &mut self.rx);
        if wanted {
            self.kick();
        }
        Ok(wanted)
    }

    fn kick(&mut self) {
        // Any other failure is that of a descriptor that is none, which `Doorbell` rules out.
        let rung = self.bell.kick();
        self.kick_due = !rung.unwrap_or_else(|error| panic!("kicking a doorbell: {error}"));
        self.kicks += u64::from(!self.kick_due);
    }

    /// True when there is something to do instead of sleeping.
    ///
    /// Want of room in the ring ends by the peer's HEAD, want of a chunk by a RELEASE record: only the first needs
    /// SPACE_EVENT, and only for the shortest record that was refused: waiting for less would find it there and spin,
    /// waiting for more would sleep beside room.
    fn arm(&mut self) -> Result<bool, Fault> {
        let room = match self.starved {
            Some(payload_len) => self.tx.arm_space(payload_len)?,
            None => self.tx.unpublished(),
        };
        if self.kick_due {
            self.kick();
        }
        // Whoever still owes a kick does not sleep on it.
        let awake = room || self.kick_due || self.rx.arm();
        if awake {
            self.disarm();
        }
        if room {
            // Once: the caller tries again now, and is refused again if it still matters.
            self.starved = None;
        }
        Ok(awake)
    }

    fn disarm(&self) {
        self.rx.disarm();
        self.tx.disarm_space();
    }
}

macro_rules! shared_by_both_sides {
    () => {
        /// Makes everything written since the last time visible and kicks the peer if it sleeps.
        pub fn publish(&mut self) -> Result<bool, Fault> {
            self.0.publish()
        }

        /// Asks for a kick, after everything was published; true when there is something to do already, and nothing
        /// is armed. A kick comes for the next record, and for room if a send was refused for want of it.
        ///
        /// After every wake-up: receive, try again what was refused, publish (it also gives chunks back).
        pub fn arm(&mut self) -> Result<bool, Fault> {
            self.0.arm()
        }

        /// Takes the wish for a kick back.
        pub fn disarm(&mut self) {
            self.0.disarm();
        }

        /// True when the peer has published something new; no system call.
        pub fn pending(&self) -> bool {
            self.0.rx.pending()
        }

        /// Writes as much of a body as there is room for: `None` when there is none, else the bytes taken, of which
        /// the last carries END if `end`. Empty `data` with `end` writes a bare END.
        pub fn send_body(
            &mut self,
            exchange: u64,
            data: &[u8],
            end: bool,
        ) -> Result<Option<usize>, Fault> {
            self.0.put_payload(Marks::body(end), exchange, data)
        }

        /// Writes as much of a piece of a message as there is room for: `None` when there is none, else the bytes taken.
        pub fn send_message(
            &mut self,
            exchange: u64,
            piece: Piece<'_>,
        ) -> Result<Option<usize>, Fault> {
            self.0.put_payload(Marks::message(&piece), exchange, piece.data)
        }

        /// Ends this side's messages; false when the ring is full.
        pub fn send_close(&mut self, exchange: u64, close: Close<'_>) -> Result<bool, Fault> {
            let payload = [&close.code.to_be_bytes(), close.reason].concat();
            self.0.put(Kind::Message, flags::CLOSE | flags::END, exchange, &payload)
        }

        /// Grants that many more body bytes; false when the ring is full.
        pub fn send_credit(&mut self, exchange: u64, bytes: u64) -> Result<bool, Fault> {
            self.0.put(Kind::Credit, 0, exchange, bytes.as_bytes())
        }

        /// Kicks sent since the lane was made.
        pub fn kicks(&self) -> u64 {
            self.0.kicks
        }

        /// Chunks of this side's arena that are with the peer.
        pub fn leased_chunks(&self) -> usize {
            self.0.arena.leased_count()
        }
    };
}

/// The edge's end. The peer is not trusted.
#[derive(Debug)]
pub struct EdgeLane(Lane);

impl EdgeLane {
    /// `own` is the E segment, `peer` the W segment, `bell` the worker's doorbell.
    pub fn new(
        own: impl Into<Arc<Segment>>,
        peer: impl Into<Arc<Segment>>,
        bell: StdArc<Doorbell>,
    ) -> Self {
        Self(Lane::new(own.into(), peer.into(), bell))
    }

    /// Hands a request over; false when the ring is full for now.
    pub fn send_request(&mut self, exchange: u64, request: &Request<'_>) -> Result<bool, Fault> {
        let Some(claim) = self.0.claim(request.payload_len())? else { return Ok(false) };
        request.write(claim, exchange);
        Ok(true)
    }

    /// True when there is room for any but the largest requests; if not, [`Self::arm`] waits for it.
    pub fn has_room(&mut self) -> Result<bool, Fault> {
        let record = self.0.own.geometry().record_size_max() / 2;
        Ok(self.0.claim(record)?.is_some())
    }

    /// Tells the worker that nobody waits any more; false when the ring is full for now.
    pub fn send_cancel(&mut self, exchange: u64, why: Cancellation) -> Result<bool, Fault> {
        self.0.put(Kind::Cancel, 0, exchange, &[why as u8])
    }

    /// The next message, with the id of the exchange that the worker says it belongs to.
    pub fn receive(&mut self) -> Result<Option<(u64, FromWorker<'_>)>, Fault> {
        let Some(taken) = self.0.take()? else { return Ok(None) };
        let record = *taken.record();
        let message = match self.0.parsed(&taken)? {
            Parsed::Response(response) => FromWorker::Response(response),
            Parsed::Body { data, end } => FromWorker::Body { data, end },
            Parsed::Message(piece) => FromWorker::Message(piece),
            Parsed::Close(close) => FromWorker::Close(close),
            Parsed::Credit(bytes) => FromWorker::Credit(bytes),
            Parsed::Abort => FromWorker::Abort,
            Parsed::Informational(response) => FromWorker::Informational(response),
            Parsed::Trailers(trailers) => FromWorker::Trailers(trailers),
            Parsed::Request(_) | Parsed::Cancel(_) => {
                return Err(Fault::Kind { kind: record.kind });
            }
        };
        Ok(Some((record.exchange, message)))
    }

    shared_by_both_sides!();
}

/// The worker's end.
#[derive(Debug)]
pub struct WorkerLane(Lane);

impl WorkerLane {
    /// `own` is the W segment, `peer` the E segment, `bell` the shard's doorbell.
    pub fn new(
        own: impl Into<Arc<Segment>>,
        peer: impl Into<Arc<Segment>>,
        bell: StdArc<Doorbell>,
    ) -> Self {
        Self(Lane::new(own.into(), peer.into(), bell))
    }

    /// Answers; false when the ring is full for now.
    pub fn send_response(&mut self, exchange: u64, response: &Response<'_>) -> Result<bool, Fault> {
        self.send_head(Kind::Response, exchange, response)
    }

    /// Sends a 1xx ahead of the answer; false when the ring is full for now.
    pub fn send_informational(
        &mut self,
        exchange: u64,
        response: &Response<'_>,
    ) -> Result<bool, Fault> {
        self.send_head(Kind::Informational, exchange, response)
    }

    /// Ends a body that was not ended, with these fields behind it; false when the ring is full for now.
    pub fn send_trailers(&mut self, exchange: u64, trailers: &Response<'_>) -> Result<bool, Fault> {
        self.send_head(Kind::Trailers, exchange, trailers)
    }

    fn send_head(&mut self, kind: Kind, exchange: u64, head: &Response<'_>) -> Result<bool, Fault> {
        let Some(claim) = self.0.claim(head.payload_len())? else { return Ok(false) };
        head.write(kind, claim, exchange);
        Ok(true)
    }

    /// Ends an exchange whose answer cannot be completed; false when the ring is full for now.
    pub fn send_abort(&mut self, exchange: u64) -> Result<bool, Fault> {
        self.0.put(Kind::Abort, 0, exchange, &[])
    }

    /// The next message, with the id of its exchange. A request that was withdrawn is not among them; what was written behind it
    /// for its exchange is.
    pub fn receive(&mut self) -> Result<Option<(u64, ToWorker<'_>)>, Fault> {
        let taken = loop {
            match self.0.take()? {
                None => return Ok(None),
                Some(Taken::Withdrawn(_)) => {}
                Some(taken) => break taken,
            }
        };
        let record = *taken.record();
        let message = match self.0.parsed(&taken)? {
            Parsed::Request(request) => ToWorker::Request(request),
            Parsed::Body { data, end } => ToWorker::Body { data, end },
            Parsed::Message(piece) => ToWorker::Message(piece),
            Parsed::Close(close) => ToWorker::Close(close),
            Parsed::Credit(bytes) => ToWorker::Credit(bytes),
            Parsed::Cancel(why) => ToWorker::Cancel(why),
            Parsed::Response(_)
            | Parsed::Abort
            | Parsed::Informational(_)
            | Parsed::Trailers(_) => return Err(Fault::Kind { kind: record.kind }),
        };
        Ok(Some((record.exchange, message)))
    }

    shared_by_both_sides!();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        ipc::{
            layout::Geometry,
            message::{CERTIFICATE_OVERHEAD, Certificate, Tls},
        },
        limits::{
            CLIENT_CERTIFICATE_SIZE_MAX, EXCHANGE_WINDOW, HEAD_FIELDS_MAX, HEAD_SIZE_MAX,
            ROUTE_PARAMS_MAX, START_LINE_SIZE_MAX,
        },
        span::{Field, Span},
    };

    fn pair(geometry: Geometry) -> (EdgeLane, WorkerLane) {
        let (e, w) = (Arc::new(Segment::heap(geometry)), Arc::new(Segment::heap(geometry)));
        let bell = || StdArc::new(Doorbell::new().unwrap());
        let edge = EdgeLane::new(Arc::clone(&e), Arc::clone(&w), bell());
        (edge, WorkerLane::new(w, e, bell()))
    }

    #[test]
    fn a_request_and_its_response_arrive_as_they_were_sent() {
        let (mut edge, mut worker) = pair(Geometry::PRODUCT);
        let span = |start, len| Span::new(start, len).unwrap();
        let request = Request {
            route: 7,
            method: 2,
            version: 11,
            method_name: span(0, 4),
            raw_path: span(4, 8),
            path: span(4, 8),
            query: span(12, 3),
            authority: span(15, 1),
            fields: &[Field { name: span(15, 1), value: span(16, 2) }],
            params: &[span(10, 2)],
            blob: b"POST/user/42q=1hxy",
            content_length: Some(5),
            peer: Some("127.0.0.1:4711".parse().unwrap()),
            secure: false,
            tls: None,
            websocket: false,
            halvings: 0,
            body: b"hello",
            end: true,
        };
        assert_eq!(edge.send_request(9, &request), Ok(true));
        edge.publish().unwrap();
        let Ok(Some((9, ToWorker::Request(got)))) = worker.receive() else { panic!("the request") };
        assert_eq!((got.route, got.method, got.version, got.end), (7, 2, 11, true));
        assert_eq!(got.path.of(got.blob), Some(&b"/user/42"[..]));
        assert_eq!(got.params[0].of(got.blob), Some(&b"42"[..]));
        assert_eq!((got.fields, got.body, got.peer), (request.fields, request.body, request.peer));
        assert_eq!(got.content_length, Some(5));

        let blob = b"content-typetext/plain";
        let fields = [Field { name: span(0, 12), value: span(12, 10) }];
        let response = Response {
            status: 201,
            fields: &fields,
            blob,
            content_length: Some(2),
            body: b"ok",
            end: true,
        };
        assert_eq!(worker.send_response(9, &response), Ok(true));
        worker.publish().unwrap();
        let Ok(Some((9, FromWorker::Response(got)))) = edge.receive() else {
            panic!("the response")
        };
        assert_eq!(
            (got.status, got.body, got.end, got.content_length),
            (201, &b"ok"[..], true, Some(2))
        );
        assert_eq!(got.fields[0].value.of(got.blob), Some(&b"text/plain"[..]));
    }

    #[test]
    fn a_body_longer_than_the_arena_passes_chunk_by_chunk_and_every_chunk_comes_back() {
        let (mut edge, mut worker) = pair(Geometry::new(4096, 8192, 4).unwrap());
        let body: Vec<u8> = (0..200_000_u32).map(|i| u8::try_from(i % 251).unwrap()).collect();
        let (mut sent, mut got, mut ended) = (0, Vec::new(), false);
        while !ended {
            while sent < body.len() {
                let Some(taken) = worker.send_body(3, &body[sent..], true).unwrap() else { break };
                sent += taken;
            }
            worker.publish().unwrap();
            while let Some((3, FromWorker::Body { data, end })) = edge.receive().unwrap() {
                got.extend_from_slice(data);
                ended = end;
            }
            edge.publish().unwrap();
            assert!(worker.receive().unwrap().is_none());
        }
        assert_eq!(got, body);
        assert_eq!(worker.leased_chunks(), 0);
    }

    #[test]
    fn a_message_keeps_its_kind_and_its_end_however_long_it_is() {
        let (mut edge, mut worker) = pair(SMALL);
        let data = [7; 500];
        for (is_text, more, len) in
            [(true, false, 5), (false, true, 0), (true, true, 300), (false, false, 500)]
        {
            let piece = Piece { data: &data[..len], is_text, more };
            assert_eq!(edge.send_message(3, piece), Ok(Some(len)));
            edge.publish().unwrap();
            let (mut got, mut open) = (0, true);
            while open {
                let Ok(Some((3, ToWorker::Message(part)))) = worker.receive() else {
                    panic!("a part of the message")
                };
                assert_eq!(part.is_text, is_text);
                got += part.data.len();
                open = got < len;
                assert_eq!(part.more, more || open);
            }
            worker.publish().unwrap();
            assert!(edge.receive().unwrap().is_none(), "chunks came back");
        }
        let close = Close { code: 4000, reason: b"enough" };
        assert_eq!(worker.send_close(3, close), Ok(true));
        worker.publish().unwrap();
        let Ok(Some((3, FromWorker::Close(got)))) = edge.receive() else { panic!("the close") };
        assert_eq!(got, close);
    }

    #[test]
    fn a_kick_is_sent_only_to_a_side_that_armed() {
        let (mut edge, mut worker) = pair(Geometry::PRODUCT);
        edge.send_cancel(1, Cancellation::ClientGone).unwrap();
        assert_eq!(edge.publish(), Ok(false));
        assert_eq!(worker.arm(), Ok(true), "there is a record already");
        while worker.receive().unwrap().is_some() {}
        worker.publish().unwrap();
        assert_eq!(worker.arm(), Ok(false));
        edge.send_cancel(2, Cancellation::ClientGone).unwrap();
        assert_eq!(edge.publish(), Ok(true));
        edge.send_cancel(3, Cancellation::ClientGone).unwrap();
        assert_eq!(edge.publish(), Ok(false), "one kick a sleep");
    }

    /// 128 bytes of inline body, records of up to 256.
    const SMALL: Geometry = Geometry::new(1024, 256, 2).unwrap();

    #[test]
    fn a_side_that_waits_for_a_chunk_sleeps_until_the_release_instead_of_finding_room_in_the_ring()
    {
        let (mut edge, mut worker) = pair(SMALL);
        assert_eq!(worker.send_body(1, &[5; 2000], true), Ok(Some(512)), "the whole arena");
        assert_eq!(worker.send_body(1, &[5; 1488], true), Ok(None));
        worker.publish().unwrap();
        assert_eq!(worker.arm(), Ok(false));
        while edge.receive().unwrap().is_some() {}
        assert_eq!(edge.publish(), Ok(true), "the RELEASE wakes it");
        assert!(worker.receive().unwrap().is_none());
        assert_eq!(worker.send_body(1, &[5; 1488], true), Ok(Some(512)));
    }

    #[test]
    fn a_side_that_waits_for_a_long_record_is_not_woken_by_room_for_a_short_one() {
        let (mut edge, mut worker) = pair(SMALL);
        let blob = [b'x'; 160];
        let response = Response {
            status: 200,
            fields: &[],
            blob: &blob,
            content_length: None,
            body: &[],
            end: true,
        };
        while worker.send_response(1, &response).unwrap() {}
        worker.publish().unwrap();
        assert_eq!(worker.send_credit(1, 1), Ok(true), "a short one still fits");
        worker.publish().unwrap();
        assert_eq!(worker.arm(), Ok(false), "but the long one does not");
        assert!(edge.receive().unwrap().is_some());
        assert_eq!(edge.publish(), Ok(true));
        assert_eq!(worker.send_response(1, &response), Ok(true));
    }

    #[test]
    fn of_two_records_that_were_refused_the_shorter_decides_when_to_wake() {
        let (mut edge, mut worker) = pair(SMALL);
        let response = |blob| Response {
            status: 200,
            fields: &[],
            blob,
            content_length: None,
            body: &[],
            end: true,
        };
        while worker.send_abort(1).unwrap() {}
        assert_eq!(worker.send_response(1, &response(&[b'x'; 200])), Ok(false));
        worker.publish().unwrap();
        assert_eq!(worker.arm(), Ok(false));
        assert!(edge.receive().unwrap().is_some());
        assert_eq!(edge.publish(), Ok(true), "room for an ABORT");
        assert_eq!(worker.send_abort(1), Ok(true));
        assert_eq!(worker.send_response(1, &response(&[b'x'; 200])), Ok(false));
        worker.publish().unwrap();
        assert_eq!(worker.arm(), Ok(false));
        while edge.receive().unwrap().is_some() {}
        assert_eq!(edge.publish(), Ok(true));
        assert_eq!(worker.send_response(1, &response(&[b'x'; 200])), Ok(true));
    }

    #[test]
    fn chunks_that_could_not_be_given_back_for_want_of_room_are_given_back_after_the_kick() {
        let (mut edge, mut worker) = pair(SMALL);
        while edge.send_cancel(1, Cancellation::ClientGone).unwrap() {}
        edge.publish().unwrap();
        assert_eq!(worker.send_body(2, &[6; 512], true), Ok(Some(512)));
        worker.publish().unwrap();
        while edge.receive().unwrap().is_some() {}
        edge.publish().unwrap();
        assert_eq!(edge.arm(), Ok(false), "the RELEASE found no room");
        assert_eq!(worker.leased_chunks(), 2);
        while worker.receive().unwrap().is_some() {}
        assert_eq!(worker.publish(), Ok(true), "there is room now");
        edge.publish().unwrap();
        assert!(worker.receive().unwrap().is_none());
        assert_eq!(worker.leased_chunks(), 0);
    }

    #[test]
    fn what_is_known_of_the_clients_tls_arrives_in_front_of_the_body() {
        let (mut edge, mut worker) = pair(Geometry::PRODUCT);
        let certificate =
            Certificate { subject: b"CN=client", issuer: b"CN=authority", chain: &[0x30, 1, 7] };
        let blob = b"GET/";
        for certificate in [None, Some(certificate), Some(Certificate::default())] {
            let tls = Tls { version: 0x0304, cipher_suite: 0x1302, certificate };
            let span = |start, len| Span::new(start, len).unwrap();
            let request = Request {
                route: 0,
                method: 0,
                version: 11,
                method_name: span(0, 3),
                raw_path: span(3, 1),
                path: span(3, 1),
                query: span(4, 0),
                authority: span(4, 0),
                fields: &[],
                params: &[],
                blob,
                content_length: Some(4),
                peer: None,
                secure: true,
                tls: Some(tls),
                websocket: true,
                halvings: 3,
                body: b"body",
                end: true,
            };
            assert_eq!(edge.send_request(1, &request), Ok(true));
            edge.publish().unwrap();
            let Ok(Some((1, ToWorker::Request(got)))) = worker.receive() else { panic!() };
            assert_eq!((got.tls, got.blob, got.body), (Some(tls), &blob[..], &b"body"[..]));
            assert!(got.secure && got.websocket);
            assert_eq!(got.halvings, 3);
        }
    }

    #[test]
    fn an_absurd_credit_is_a_fault_and_never_reaches_the_books() {
        let (mut edge, mut worker) = pair(SMALL);
        worker.send_credit(1, EXCHANGE_WINDOW as u64).unwrap();
        worker.send_credit(1, u64::MAX).unwrap();
        worker.publish().unwrap();
        assert!(matches!(edge.receive(), Ok(Some((1, FromWorker::Credit(_))))));
        assert_eq!(edge.receive().unwrap_err(), Fault::Payload { what: "credit" });
    }

    #[test]
    fn the_longest_request_that_the_limits_allow_fits_a_record() {
        let (mut edge, mut worker) = pair(Geometry::PRODUCT);
        let blob = vec![b'a'; HEAD_SIZE_MAX + START_LINE_SIZE_MAX];
        let body = vec![b'b'; INLINE_BODY_SIZE_MAX];
        let chain = vec![b'c'; CLIENT_CERTIFICATE_SIZE_MAX - CERTIFICATE_OVERHEAD];
        let certificate = Certificate { chain: &chain, ..Certificate::default() };
        let whole = Span::new(0, blob.len()).unwrap();
        let request = Request {
            route: 0,
            method: 0,
            version: 11,
            method_name: whole,
            raw_path: whole,
            path: whole,
            query: whole,
            authority: whole,
            fields: &[Field { name: whole, value: whole }; HEAD_FIELDS_MAX],
            params: &[whole; ROUTE_PARAMS_MAX],
            blob: &blob,
            content_length: None,
            peer: None,
            secure: false,
            tls: Some(Tls {
                version: 0x0304,
                cipher_suite: 0x1302,
                certificate: Some(certificate),
            }),
            websocket: false,
            halvings: 0,
            body: &body,
            end: false,
        };
        assert!(request.fits());
        let more = Certificate { subject: b"x", ..certificate };
        let tls = Tls { version: 0x0304, cipher_suite: 0x1302, certificate: Some(more) };
        assert!(!Request { tls: Some(tls), ..request }.fits());
        assert_eq!(edge.send_request(1, &request), Ok(true));
        edge.publish().unwrap();
        assert!(matches!(worker.receive(), Ok(Some((1, ToWorker::Request(_))))));
        let response = Response {
            status: 200,
            fields: &[Field::default(); HEAD_FIELDS_MAX + 1],
            blob: &[],
            content_length: None,
            body: &[],
            end: true,
        };
        assert!(!response.fits(), "the edge would take it for a fault");
    }
}
