//! One direction of a lane: a single-producer single-consumer ring of records between two processes.
//!
//! Positions are free-running byte counts; a position modulo the ring's size is a place. Invariant, kept by the
//! producer and checked by the consumer: `head ≤ tail ≤ head + ring_size`, both multiples of 16, and a record never
//! wraps. The tail is stored once per batch, after the records are whole: whatever a producer's death leaves behind
//! is invisible.
//!
//! Happens-before edges (each named at its store and at its load):
//! - `record-published`: producer's Release store of TAIL → consumer's load and Acquire fence.
//! - `slot-released`: consumer's Release store of HEAD → producer's load and Acquire fence.
//! - `armed`: both sides fence SeqCst between their store and their look at the other's word, so that at least one of
//!   "consumer sees the record" and "producer sees the wish for a kick" holds.
//! - `withdrawn`: the same between a producer's mark in a record and a consumer's HEAD: at least one of "producer sees that it
//!   was taken" and "consumer sees the mark" holds. Both may.
//!
//! Loads of the peer's words are relaxed with a fence behind them: its segment is mapped read-only, where nothing
//! stronger than a relaxed load is defined (core::sync::atomic, "Atomic accesses to read-only memory").
//!
//! Deliberately absent: doorbells (the lane rings them), meaning of payloads.

use zerocopy::IntoBytes;

use super::{
    fault::Fault,
    layout::{RING_OFFSET, WITHDRAWN, Word},
    record::{PAD, RecordHeader, padded},
    segment::{DISARMED, Segment},
    sync::{Arc, Ordering, fence},
};
use crate::limits::RECORD_ALIGN;

/// True when a move from `old` to `new` passes `event`: `old ≤ event < new`, modulo 2^64 (virtio 1.2 §2.7.7.2).
fn crossed(event: u64, new: u64, old: u64) -> bool {
    new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
}

/// The writing half.
#[derive(Debug)]
pub struct Producer {
    own: Arc<Segment>,
    peer: Arc<Segment>,
    /// End of what was claimed and committed; `published ≤ tail`.
    tail: u64,
    /// The last value stored to TAIL.
    published: u64,
    /// The last value loaded from the peer's HEAD; `head ≤ published`.
    head: u64,
    /// Where the record that was committed last begins.
    newest: u64,
}

/// What came of [`Producer::withdraw`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Withdrawal {
    /// The peer has not taken the record, and will see the mark when it does.
    Done,
    /// It had taken the record before.
    TooLate,
    /// It took the record at this moment. Whether it saw the mark only it knows.
    Unsure,
}

/// Room for one record. Dropped without [`Claim::commit`] it leaves no trace.
#[derive(Debug)]
pub struct Claim<'a> {
    producer: &'a mut Producer,
    /// Position of the record, behind a PAD if the ring wraps here.
    start: u64,
    payload_len: usize,
    /// Bytes of the payload so far.
    written: usize,
    /// Where the payload begins in the segment.
    payload_at: usize,
}

impl Producer {
    /// Writes the ring of `own`, reads HEAD in `peer`. A segment has one producer in its life.
    pub fn new(own: Arc<Segment>, peer: Arc<Segment>) -> Self {
        Self { own, peer, tail: 0, published: 0, head: 0, newest: 0 }
    }

    fn ring_size(&self) -> u64 {
        self.own.geometry().ring_size() as u64
    }

    /// How much of the ring a record takes at the current place, with the PAD that may have to go before it.
    fn span_of(&self, payload_len: usize) -> (u64, u64) {
        let record = padded(RECORD_ALIGN + payload_len) as u64;
        let ring_size = self.own.geometry().ring_size();
        let to_end = (ring_size - place(self.tail, ring_size)) as u64;
        if record > to_end { (to_end, to_end + record) } else { (0, record) }
    }

    /// Room for a record with this payload, or `None` when the ring is full for now.
    ///
    /// Panics when the record is longer than the geometry allows: callers split before they come here.
    pub fn claim(&mut self, payload_len: usize) -> Result<Option<Claim<'_>>, Fault> {
        assert!(
            RECORD_ALIGN + payload_len <= self.own.geometry().record_size_max(),
            "record of {payload_len}"
        );
        let (pad, total) = self.span_of(payload_len);
        if self.tail + total - self.head > self.ring_size() {
            self.refresh_head()?;
            if self.tail + total - self.head > self.ring_size() {
                return Ok(None);
            }
        }
        let start = self.tail + pad;
        let payload_at = self.offset(start) + RECORD_ALIGN;
        Ok(Some(Claim { producer: self, start, payload_len, written: 0, payload_at }))
    }

    /// Looks how far the peer has read.
    fn refresh_head(&mut self) -> Result<(), Fault> {
        let head = self.peer.word(Word::Head).load(Ordering::Relaxed);
        fence(Ordering::Acquire); // edge: slot-released
        if head < self.head || head > self.published || !head.is_multiple_of(RECORD_ALIGN as u64) {
            return Err(Fault::Head { head, floor: self.head, tail: self.published });
        }
        self.head = head;
        Ok(())
    }

    /// Stores the tail. [`Producer::kick_wanted`] must follow, behind a SeqCst fence.
    fn publish(&mut self) -> Option<(u64, u64)> {
        if self.tail == self.published {
            return None;
        }
        let old = std::mem::replace(&mut self.published, self.tail);
        self.own.word(Word::Tail).store(self.tail, Ordering::Release); // edge: record-published
        Some((self.tail, old))
    }

    /// Where the record that was committed last begins: to compare with [`Producer::taken`], and for [`Producer::read_back`].
    pub fn newest(&self) -> u64 {
        self.newest
    }

    /// The position behind everything that was committed.
    pub fn tail(&self) -> u64 {
        self.tail
    }

    /// The end of what the peer can see.
    pub fn published(&self) -> u64 {
        self.published
    }

    /// How far the peer has read, as it says now.
    pub fn taken(&mut self) -> Result<u64, Fault> {
        self.refresh_head()?;
        Ok(self.head)
    }

    /// Copies a record of this side's own out again, appending its payload; with the position behind it. `None` when its
    /// place was written again since, or nothing was committed there.
    ///
    /// `position` must come from [`Producer::newest`] or from this function: only there a record begins. What the
    /// peer says is no such source, and none of this depends on it.
    pub fn read_back(&self, position: u64, payload: &mut Vec<u8>) -> Option<(Record, u64)> {
        let (start, header) = self.header(position)?;
        let len = (header.len as usize).checked_sub(RECORD_ALIGN)?;
        self.own.read_onto(self.offset(start) + RECORD_ALIGN, len, payload);
        let RecordHeader { kind, flags, exchange, .. } = header;
        Some((Record { kind, flags, exchange }, start + padded(header.len as usize) as u64))
    }

    /// The header of the record at `position`, as for [`Producer::read_back`], and where it begins if that is behind padding.
    pub(super) fn header(&self, mut position: u64) -> Option<(u64, RecordHeader)> {
        // Written by this side alone, so a header that was committed is sound for as long as it is not written over.
        while position < self.tail && self.tail - position <= self.ring_size() {
            let header = self.own.read_header(self.offset(position));
            if header.kind != PAD {
                return Some((position, header));
            }
            position += padded(header.len as usize) as u64;
        }
        None
    }

    /// Marks a record of at least eight bytes of payload as withdrawn, for [`Consumer::keep`], unless the peer has taken it.
    ///
    /// `position` is one of [`Producer::newest`]. A peer that says it took less than it did sees no mark and is told
    /// nothing more of the record: it deceives itself alone.
    pub fn withdraw(&mut self, position: u64) -> Result<Withdrawal, Fault> {
        self.refresh_head()?;
        if self.head > position {
            return Ok(Withdrawal::TooLate);
        }
        // Nothing is written over a record in front of HEAD, so it is still that record which lies there.
        self.own.mark(self.offset(position) + RECORD_ALIGN).store(WITHDRAWN, Ordering::Relaxed);
        fence(Ordering::SeqCst); // edge: withdrawn
        self.refresh_head()?;
        Ok(if self.head <= position { Withdrawal::Done } else { Withdrawal::Unsure })
    }

    /// Makes a record another kind's that the peer cannot see yet.
    pub(super) fn rewrite(&mut self, position: u64, kind: u16) {
        assert!(
            position >= self.published && position < self.tail,
            "what is published is the peer's"
        );
        let at = self.offset(position);
        let header = RecordHeader { kind, ..self.own.read_header(at) };
        self.own.write(at, header.as_bytes());
    }

    /// Asks for a kick when a record with this payload will fit. True if it fits already, or if there is something to
    /// publish first (the peer cannot free what it never saw): then nothing is armed.
    pub fn arm_space(&mut self, payload_len: usize) -> Result<bool, Fault> {
        if self.unpublished() {
            self.disarm_space();
            return Ok(true);
        }
        let (_, total) = self.span_of(payload_len);
        let needed = (self.tail + total).saturating_sub(self.ring_size());
        self.own.word(Word::SpaceEvent).store(needed.saturating_sub(1), Ordering::Relaxed);
        fence(Ordering::SeqCst); // edge: armed
        self.refresh_head()?;
        let fits = self.head >= needed;
        if fits {
            self.disarm_space();
        }
        Ok(fits)
    }

    /// True when something was committed that the peer cannot see yet.
    pub fn unpublished(&self) -> bool {
        self.tail != self.published
    }

    /// Takes the wish for a kick back.
    pub fn disarm_space(&self) {
        self.own.word(Word::SpaceEvent).store(DISARMED, Ordering::Relaxed);
    }

    fn write_header(&self, at: u64, header: RecordHeader) {
        self.own.write(self.offset(at), header.as_bytes());
    }

    fn offset(&self, position: u64) -> usize {
        RING_OFFSET + place(position, self.own.geometry().ring_size())
    }
}

/// `position` modulo the ring's size: a mask, because only `Geometry` knows that it is a power of two, and the compiler
/// would divide.
#[inline]
fn place(position: u64, ring_size: usize) -> usize {
    usize::try_from(position & (ring_size as u64 - 1))
        .unwrap_or_else(|_| unreachable!("less than ring_size"))
}

impl Claim<'_> {
    /// Appends to the payload. Panics past what was claimed.
    pub fn put(&mut self, bytes: &[u8]) {
        assert!(self.written + bytes.len() <= self.payload_len, "payload longer than claimed");
        self.producer.own.write(self.payload_at + self.written, bytes);
        self.written += bytes.len();
    }

    /// Makes the record part of the next publication.
    pub fn commit(self, kind: u16, flags: u16, exchange: u64) {
        assert!(self.written == self.payload_len, "payload shorter than claimed");
        assert!(kind != PAD, "PAD is the ring's own");
        let len = |bytes: u64| {
            u32::try_from(bytes).unwrap_or_else(|_| unreachable!("rings are below 4 GiB"))
        };
        let producer = self.producer;
        if self.start != producer.tail {
            let pad = RecordHeader {
                len: len(self.start - producer.tail),
                kind: PAD,
                flags: 0,
                exchange: 0,
            };
            producer.write_header(producer.tail, pad);
        }
        let total = RECORD_ALIGN + self.payload_len;
        producer.write_header(
            self.start,
            RecordHeader { len: len(total as u64), kind, flags, exchange },
        );
        producer.newest = self.start;
        producer.tail = self.start + padded(total) as u64;
    }
}

/// The reading half.
#[derive(Debug)]
pub struct Consumer {
    own: Arc<Segment>,
    peer: Arc<Segment>,
    /// Start of the next record; `judged ≤ published ≤ head ≤ tail`.
    head: u64,
    /// Start of the record that was taken last, and its length without the header.
    latest: (u64, usize),
    /// The last value stored to HEAD.
    published: u64,
    /// What HEAD was when [`publish`] asked last whether the producer wants a kick for the room.
    judged: u64,
    /// The last value loaded from the peer's TAIL.
    tail: u64,
}

/// A record that was found whole and within bounds; its payload was copied out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// What the payload is.
    pub kind: u16,
    /// By kind.
    pub flags: u16,
    /// The exchange it belongs to, as claimed by the peer.
    pub exchange: u64,
}

impl Consumer {
    /// Reads the ring of `peer`, writes HEAD in `own`. A segment has one consumer in its life.
    pub fn new(own: Arc<Segment>, peer: Arc<Segment>) -> Self {
        Self { own, peer, head: 0, latest: (0, 0), published: 0, judged: 0, tail: 0 }
    }

    fn ring_size(&self) -> u64 {
        self.peer.geometry().ring_size() as u64
    }

    /// True when the peer has published something that was not read yet.
    pub fn pending(&self) -> bool {
        self.head != self.tail || self.peer.word(Word::Tail).load(Ordering::Relaxed) != self.head
    }

    /// Looks how far the peer has written.
    fn refresh_tail(&mut self) -> Result<(), Fault> {
        let tail = self.peer.word(Word::Tail).load(Ordering::Relaxed);
        fence(Ordering::Acquire); // edge: record-published
        let ahead = tail.wrapping_sub(self.head);
        if tail < self.tail || ahead > self.ring_size() || !tail.is_multiple_of(RECORD_ALIGN as u64)
        {
            return Err(Fault::Tail { tail, head: self.head });
        }
        self.tail = tail;
        Ok(())
    }

    /// Takes the next record out, appending its payload to `payload`; `None` when the ring is empty.
    ///
    /// The place is free for the producer once [`Consumer::acknowledge`] or [`publish`] was called.
    pub fn take(&mut self, payload: &mut Vec<u8>) -> Result<Option<Record>, Fault> {
        loop {
            if self.head == self.tail {
                self.refresh_tail()?;
                if self.head == self.tail {
                    return Ok(None);
                }
            }
            let place = place(self.head, self.peer.geometry().ring_size());
            let available = (self.tail - self.head).min(self.ring_size() - place as u64);
            let header = self.peer.read_header(RING_OFFSET + place);
            let len = header.len as usize;
            let bound = self.peer.geometry().record_size_max();
            if len < RECORD_ALIGN || len > bound || padded(len) as u64 > available {
                return Err(Fault::RecordLength { len: header.len, available });
            }
            let record = header.kind != PAD;
            // A PAD fills the ring to its end and was published together with the record behind it. So this loop
            // turns twice at most, however fast a hostile peer moves its tail.
            let fills = place + len == self.peer.geometry().ring_size();
            let followed = self.tail - self.head > len as u64;
            if !record && (!fills || !followed) {
                return Err(Fault::Pad { len: header.len, available });
            }
            let start = self.head;
            self.head += padded(len) as u64;
            if record {
                self.latest = (start, len - RECORD_ALIGN);
                self.peer.read_onto(
                    RING_OFFSET + place + RECORD_ALIGN,
                    len - RECORD_ALIGN,
                    payload,
                );
                let RecordHeader { kind, flags, exchange, .. } = header;
                return Ok(Some(Record { kind, flags, exchange }));
            }
        }
    }

    /// Says that the record which [`Consumer::take`] gave last is taken, so that whoever outlives this side knows, whatever becomes
    /// of it next. False: its producer withdrew it before.
    pub fn keep(&mut self) -> bool {
        let (start, payload_len) = self.latest;
        let mut stands = true;
        // A peer that marks nothing sends no such record without payload, but a hostile one may.
        if payload_len >= size_of::<u64>() {
            // Into the record, not behind it: the producer may write over what lies below HEAD, and the mark does not.
            let unit = RECORD_ALIGN as u64;
            self.own.word(Word::Head).store(start + unit, Ordering::Release); // edge: slot-released
            fence(Ordering::SeqCst); // edge: withdrawn
            let at = RING_OFFSET + place(start, self.peer.geometry().ring_size()) + RECORD_ALIGN;
            stands = self.peer.mark(at).load(Ordering::Relaxed) != WITHDRAWN;
        }
        self.acknowledge();
        stands
    }

    /// Stores the head. Whether the producer waits for the room is asked by [`publish`], which must still follow.
    fn acknowledge(&mut self) {
        if self.head != self.published {
            self.published = self.head;
            self.own.word(Word::Head).store(self.head, Ordering::Release); // edge: slot-released
        }
    }

    /// Stores the head, so that the producer may write over what was taken. The move since the producer's wish was looked
    /// at last, not since the last store: in between it may have gone to sleep.
    fn publish(&mut self) -> Option<(u64, u64)> {
        self.acknowledge();
        if self.head == self.judged {
            return None;
        }
        Some((self.head, std::mem::replace(&mut self.judged, self.head)))
    }

    /// Asks for a kick at the next record. True if there is one already, or if [`publish`] was not called since one was
    /// taken (the peer may sleep for want of that room): then nothing is armed.
    pub fn arm(&self) -> bool {
        if self.head != self.tail || self.head != self.judged {
            self.disarm();
            return true;
        }
        self.own.word(Word::Event).store(self.head, Ordering::Relaxed);
        fence(Ordering::SeqCst); // edge: armed
        let found = self.peer.word(Word::Tail).load(Ordering::Relaxed) != self.head;
        if found {
            self.disarm();
        }
        found
    }

    /// Takes the wish for a kick back.
    pub fn disarm(&self) {
        self.own.word(Word::Event).store(DISARMED, Ordering::Relaxed);
    }
}

/// Publishes both halves of one side. True when the peer sleeps and wants a kick for what was published.
pub fn publish(producer: &mut Producer, consumer: &mut Consumer) -> bool {
    let written = producer.publish();
    let read = consumer.publish();
    if written.is_none() && read.is_none() {
        return false;
    }
    fence(Ordering::SeqCst); // edge: armed
    let passed = |word, moved: Option<(u64, u64)>| {
        moved.is_some_and(|(new, old)| {
            crossed(producer.peer.word(word).load(Ordering::Relaxed), new, old)
        })
    };
    // Both questions are asked: a crossing must not be lost because the other one was answered first.
    let record_wanted = passed(Word::Event, written);
    let space_wanted = passed(Word::SpaceEvent, read);
    record_wanted || space_wanted
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;
    use crate::ipc::layout::Geometry;

    /// Quarter: 64 bytes, so payloads of up to 48.
    const SMALL: Geometry = Geometry::new(256, 64, 1).unwrap();

    struct Ends {
        here: Arc<Segment>,
        there: Arc<Segment>,
    }

    impl Ends {
        fn new() -> Self {
            Self { here: Arc::new(Segment::heap(SMALL)), there: Arc::new(Segment::heap(SMALL)) }
        }

        fn here(&self) -> (Producer, Consumer) {
            let (own, peer) = (&self.here, &self.there);
            (
                Producer::new(Arc::clone(own), Arc::clone(peer)),
                Consumer::new(Arc::clone(own), Arc::clone(peer)),
            )
        }

        fn there(&self) -> (Producer, Consumer) {
            Self { here: Arc::clone(&self.there), there: Arc::clone(&self.here) }.here()
        }

        /// What a hostile peer writes: a header at a place of its ring.
        fn forge(&self, place: usize, len: u32, kind: u16) {
            let header = RecordHeader { len, kind, flags: 0, exchange: 0 };
            self.there.write(RING_OFFSET + place, header.as_bytes());
        }

        fn forge_word(&self, word: Word, value: u64) {
            self.there.word(word).store(value, Ordering::Relaxed);
        }
    }

    fn send(producer: &mut Producer, payload: &[u8]) -> bool {
        let Some(mut claim) = producer.claim(payload.len()).unwrap() else { return false };
        claim.put(payload);
        claim.commit(1, 0, 7);
        true
    }

    #[test]
    fn a_padding_with_no_record_behind_it_is_a_fault_so_that_take_cannot_be_kept_busy() {
        let ends = Ends::new();
        let (_, mut consumer) = ends.here();
        for place in (0..256).step_by(16) {
            ends.forge(place, 16, PAD);
        }
        ends.forge_word(Word::Tail, 256);
        let fault = consumer.take(&mut Vec::new());
        assert_eq!(fault, Err(Fault::Pad { len: 16, available: 256 }), "one in the middle");

        let ends = Ends::new();
        let (_, mut consumer) = ends.here();
        ends.forge(0, 64, 1);
        ends.forge(64, 64, 1);
        ends.forge(128, 64, 1);
        ends.forge(192, 64, PAD);
        ends.forge_word(Word::Tail, 256);
        for _ in 0..3 {
            assert!(consumer.take(&mut Vec::new()).unwrap().is_some());
        }
        let fault = consumer.take(&mut Vec::new());
        assert_eq!(fault, Err(Fault::Pad { len: 64, available: 64 }), "one at the end, alone");
    }

    #[test]
    fn every_impossible_tail_is_a_fault() {
        for tail in [8, 15, 272, 1 << 63, u64::MAX, u64::MAX - 15] {
            let ends = Ends::new();
            let (_, mut consumer) = ends.here();
            ends.forge_word(Word::Tail, tail);
            assert!(consumer.arm(), "there is something to look at");
            assert_eq!(consumer.take(&mut Vec::new()), Err(Fault::Tail { tail, head: 0 }));
        }
    }

    #[test]
    fn a_tail_that_goes_backwards_is_a_fault_even_within_the_ring() {
        let ends = Ends::new();
        let (_, mut consumer) = ends.here();
        ends.forge(0, 16, 1);
        ends.forge_word(Word::Tail, 16);
        assert!(consumer.take(&mut Vec::new()).unwrap().is_some());
        ends.forge_word(Word::Tail, 0);
        assert_eq!(consumer.take(&mut Vec::new()), Err(Fault::Tail { tail: 0, head: 16 }));
    }

    #[test]
    fn every_impossible_record_length_is_a_fault() {
        for len in [0, 15, 33, 65, 1 << 31, u32::MAX - 14, u32::MAX] {
            for kind in [PAD, 1] {
                let ends = Ends::new();
                let (_, mut consumer) = ends.here();
                ends.forge(0, len, kind);
                ends.forge_word(Word::Tail, 32);
                let fault = Fault::RecordLength { len, available: 32 };
                assert_eq!(consumer.take(&mut Vec::new()), Err(fault));
            }
        }
    }

    #[test]
    fn every_impossible_head_is_a_fault() {
        for head in [8, 48, 1 << 63, u64::MAX] {
            let ends = Ends::new();
            let (mut producer, mut consumer) = ends.here();
            assert!(send(&mut producer, &[1; 16]));
            publish(&mut producer, &mut consumer);
            ends.forge_word(Word::Head, head);
            let fault = Fault::Head { head, floor: 0, tail: 32 };
            assert_eq!(producer.arm_space(48), Err(fault));
        }
    }

    #[test]
    fn arming_with_unpublished_progress_says_that_there_is_something_to_do() {
        let ends = Ends::new();
        let (mut producer, mut consumer) = ends.here();
        let (mut peer_producer, mut peer_consumer) = ends.there();
        while send(&mut producer, &[2; 48]) {}
        assert_eq!(producer.arm_space(48), Ok(true), "the peer cannot free what it never saw");
        publish(&mut producer, &mut consumer);
        assert_eq!(producer.arm_space(48), Ok(false));

        while peer_consumer.take(&mut Vec::new()).unwrap().is_some() {}
        assert!(peer_consumer.arm(), "the other side sleeps for want of the room just read");
        assert!(publish(&mut peer_producer, &mut peer_consumer), "which is what the kick is for");
        assert!(!peer_consumer.arm());
        assert_eq!(producer.arm_space(48), Ok(true));
    }

    #[test]
    fn room_that_was_acknowledged_early_is_still_kicked_for() {
        let ends = Ends::new();
        let (mut producer, mut consumer) = ends.here();
        let (mut peer_producer, mut peer_consumer) = ends.there();
        while send(&mut producer, &[2; 48]) {}
        publish(&mut producer, &mut consumer);
        assert_eq!(producer.arm_space(48), Ok(false), "the ring is full");
        while peer_consumer.take(&mut Vec::new()).unwrap().is_some() {}
        assert!(peer_consumer.keep());
        assert_eq!(producer.taken(), Ok(256));
        assert!(peer_consumer.arm(), "nobody has asked yet who waits for the room");
        assert!(publish(&mut peer_producer, &mut peer_consumer));
        assert!(!peer_consumer.arm());
    }

    #[test]
    fn a_record_can_be_read_back_until_its_place_is_written_again() {
        let ends = Ends::new();
        let (mut producer, mut consumer) = ends.here();
        let (mut peer_producer, mut peer_consumer) = ends.there();
        let mut places = Vec::new();
        for (fill, len) in [(1, 48), (2, 20), (3, 48), (4, 40)] {
            assert!(send(&mut producer, &vec![fill; len]));
            places.push(producer.newest());
        }
        publish(&mut producer, &mut consumer);
        while peer_consumer.take(&mut Vec::new()).unwrap().is_some() {}
        publish(&mut peer_producer, &mut peer_consumer);
        // That it was taken does not matter.
        let mut payload = Vec::new();
        let (record, next) = producer.read_back(places[0], &mut payload).unwrap();
        assert_eq!((record, next), (Record { kind: 1, flags: 0, exchange: 7 }, places[1]));
        assert_eq!(payload, [1; 48]);
        // Behind the padding before the wrap, where the first one was.
        assert!(send(&mut producer, &[5; 48]));
        assert_eq!(producer.read_back(places[0], &mut payload), None, "written again");
        let (_, padding) = producer.read_back(places[3], &mut payload).unwrap();
        payload.clear();
        let (_, end) = producer.read_back(padding, &mut payload).unwrap();
        assert_eq!((payload.as_slice(), end), (&[5; 48][..], producer.tail()));
        assert_eq!(producer.read_back(end, &mut payload), None, "nothing is there yet");
    }

    #[test]
    fn a_record_that_was_withdrawn_does_not_stand_and_its_neighbours_do() {
        let ends = Ends::new();
        let (mut producer, mut consumer) = ends.here();
        let (_, mut peer_consumer) = ends.there();
        let mut places = Vec::new();
        for fill in 1..=3 {
            assert!(send(&mut producer, &[fill; 32]));
            places.push(producer.newest());
        }
        publish(&mut producer, &mut consumer);
        assert_eq!(producer.withdraw(places[1]), Ok(Withdrawal::Done));
        for (place, stands) in places.iter().zip([true, false, true]) {
            assert_eq!(producer.taken().unwrap(), *place);
            assert!(peer_consumer.take(&mut Vec::new()).unwrap().is_some());
            assert_eq!(peer_consumer.keep(), stands);
            assert_eq!(producer.withdraw(*place), Ok(Withdrawal::TooLate));
        }
    }

    #[test]
    fn a_head_that_lies_when_something_is_withdrawn_is_a_fault() {
        let ends = Ends::new();
        let (mut producer, mut consumer) = ends.here();
        assert!(send(&mut producer, &[1; 16]));
        publish(&mut producer, &mut consumer);
        ends.forge_word(Word::Head, 64);
        assert_eq!(producer.withdraw(0), Err(Fault::Head { head: 64, floor: 0, tail: 32 }));
    }

    #[test]
    fn a_record_without_payload_that_should_have_some_has_no_mark_behind_the_ring() {
        let ends = Ends::new();
        let (_, mut consumer) = ends.here();
        for place in (0..256).step_by(64) {
            ends.forge(place, if place == 192 { 48 } else { 64 }, 1);
        }
        ends.forge(240, 16, 1);
        ends.forge_word(Word::Tail, 256);
        for _ in 0..5 {
            assert!(consumer.take(&mut Vec::new()).unwrap().is_some());
            assert!(consumer.keep());
        }
    }

    #[test]
    fn a_wish_that_was_taken_back_costs_no_kick() {
        let ends = Ends::new();
        let (mut producer, mut consumer) = ends.here();
        let (_, peer_consumer) = ends.there();
        assert!(!peer_consumer.arm());
        peer_consumer.disarm();
        assert!(send(&mut producer, b"x"));
        assert!(!publish(&mut producer, &mut consumer));
    }

    #[test]
    fn a_dropped_claim_leaves_no_trace_even_at_the_wrap() {
        let ends = Ends::new();
        let (mut producer, mut consumer) = ends.here();
        let (mut peer_producer, mut peer_consumer) = ends.there();
        for _ in 0..3 {
            assert!(send(&mut producer, &[3; 48]));
        }
        assert!(send(&mut producer, &[3; 16]));
        publish(&mut producer, &mut consumer);
        while peer_consumer.take(&mut Vec::new()).unwrap().is_some() {}
        publish(&mut peer_producer, &mut peer_consumer);
        producer.claim(48).unwrap().unwrap().put(&[9; 48]);
        assert!(send(&mut producer, &[4; 16]), "takes the place before the wrap");
        publish(&mut producer, &mut consumer);
        let mut payload = Vec::new();
        assert!(peer_consumer.take(&mut payload).unwrap().is_some());
        assert_eq!(payload, [4; 16]);
        assert_eq!(peer_consumer.take(&mut payload), Ok(None));
    }
}
