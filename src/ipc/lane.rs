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
    /// The peer may withdraw what it wrote. The edge may, and a worker that did could keep [`Lane::take`] busy.
    passes_over: bool,
}

impl Lane {
    fn new(
        own: Arc<Segment>,
        peer: Arc<Segment>,
        bell: StdArc<Doorbell>,
        passes_over: bool,
    ) -> Self {
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
            passes_over,
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

    /// Takes the next record that concerns an exchange; gives and takes chunks on the way.
    fn take(&mut self) -> Result<Option<(Record, Parsed<'_>)>, Fault> {
        loop {
            self.payload.clear();
            let Some(record) = self.rx.take(&mut self.payload)? else { return Ok(None) };
            // Before anybody acts on it: a request whose record counts as not taken was never begun.
            let stands = record.kind != Kind::Request as u16 || self.rx.keep();
            if !stands || record.kind == Kind::Withdrawn as u16 {
                if !self.passes_over {
                    return Err(Fault::Kind { kind: record.kind });
                }
            } else if record.kind == Kind::Release as u16 {
                // Each index ends a lease, so that a peer cannot keep this loop busy.
                for index in parse_release(&self.payload)? {
                    self.arena.release(index.get())?;
                }
            } else if Marks::may_be_chunked(&record) {
                let chunk = parse_chunk(&self.payload)?;
                self.read_chunk(chunk)?;
                let parsed = if record.kind == Kind::Message as u16 {
                    parse_piece(&record, &self.chunk)
                } else {
                    Parsed::Body { data: &self.chunk, end: record.flags & flags::END != 0 }
                };
                return Ok(Some((record, parsed)));
            } else {
                let parsed = parse(&record, &self.payload)?;
                return Ok(Some((record, parsed)));
            }
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
        Self(Lane::new(own.into(), peer.into(), bell, false))
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
        let Some((record, parsed)) = self.0.take()? else { return Ok(None) };
        let message = match parsed {
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
        Self(Lane::new(own.into(), peer.into(), bell, true))
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
        let Some((record, parsed)) = self.0.take()? else { return Ok(None) };
        let message = match parsed {
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
mod tests;
