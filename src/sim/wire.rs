//! A worker's end of a lane, against the layout alone: words and bytes at offsets of the two segments.
//!
//! Shares no code with `ipc::ring`, `ipc::message` or `ipc::lane`, so that an error in those has no twin here.
//! Invariant: every store into shared memory goes through [`Wire::spend`], so a crash can follow each one of them.

use std::sync::{
    Arc,
    atomic::{Ordering, fence},
};

use crate::ipc::{
    Segment,
    layout::{Geometry, RING_OFFSET, Word},
};

pub(super) mod kind {
    pub(in crate::sim) const PAD: u16 = 0;
    pub(in crate::sim) const REQUEST: u16 = 1;
    pub(in crate::sim) const RESPONSE: u16 = 2;
    pub(in crate::sim) const BODY: u16 = 3;
    pub(in crate::sim) const CREDIT: u16 = 4;
    pub(in crate::sim) const RELEASE: u16 = 5;
    pub(in crate::sim) const CANCEL: u16 = 6;
    pub(in crate::sim) const ABORT: u16 = 7;
    pub(in crate::sim) const WITHDRAWN: u16 = 11;
}

pub(super) const END: u16 = 1;
pub(super) const CHUNK: u16 = 2;
/// What EVENT and SPACE_EVENT hold while nobody waits.
const DISARMED: u64 = u64::MAX;
const HEADER: usize = 16;

/// The process ends here.
#[derive(Clone, Copy, Debug)]
pub(super) struct Crash;

/// A record as it lay in the ring.
#[derive(Debug)]
pub(super) struct Raw {
    pub(super) kind: u16,
    pub(super) flags: u16,
    pub(super) exchange: u64,
    pub(super) payload: Vec<u8>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Wire {
    own: Arc<Segment>,
    peer: Arc<Segment>,
    geometry: Geometry,
    pub(super) head: u64,
    head_public: u64,
    pub(super) tail: u64,
    tail_public: u64,
    /// Stores so far.
    pub(super) stores: u64,
    /// The store that is the last one.
    pub(super) fuse: Option<u64>,
}

impl Wire {
    pub(super) fn new(own: Arc<Segment>, peer: Arc<Segment>, fuse: Option<u64>) -> Self {
        let geometry = own.geometry();
        Self {
            own,
            peer,
            geometry,
            head: 0,
            head_public: 0,
            tail: 0,
            tail_public: 0,
            stores: 0,
            fuse,
        }
    }

    pub(super) fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn spend(&mut self) -> Result<(), Crash> {
        if self.fuse.is_some_and(|last| self.stores >= last) {
            return Err(Crash);
        }
        self.stores += 1;
        Ok(())
    }

    pub(super) fn store(&mut self, word: Word, value: u64) -> Result<(), Crash> {
        self.spend()?;
        self.own.word(word).store(value, Ordering::SeqCst);
        Ok(())
    }

    pub(super) fn write(&mut self, offset: usize, bytes: &[u8]) -> Result<(), Crash> {
        self.spend()?;
        self.own.write(offset, bytes);
        Ok(())
    }

    /// A word of the edge's.
    pub(super) fn theirs(&self, word: Word) -> u64 {
        self.peer.word(word).load(Ordering::SeqCst)
    }

    /// A word of the worker's own.
    pub(super) fn ours(&self, word: Word) -> u64 {
        self.own.word(word).load(Ordering::SeqCst)
    }

    pub(super) fn place(&self, position: u64) -> usize {
        usize::try_from(position % self.geometry.ring_size() as u64).unwrap()
    }

    /// True when the edge has published what was not taken.
    pub(super) fn pending(&self) -> bool {
        self.theirs(Word::Tail) != self.head
    }

    /// Takes the next record. An error is the edge's: it broke the format.
    pub(super) fn take(&mut self) -> Result<Option<Raw>, String> {
        let ring = self.geometry.ring_size();
        let tail = self.theirs(Word::Tail);
        if tail < self.head || tail - self.head > ring as u64 || !tail.is_multiple_of(16) {
            return Err(format!("the edge's tail is {tail} at head {}", self.head));
        }
        while self.head != tail {
            let place = self.place(self.head);
            let mut header = [0; HEADER];
            self.peer.read(RING_OFFSET + place, &mut header);
            let len = u32::from_ne_bytes(header[..4].try_into().unwrap()) as usize;
            let kind = u16::from_ne_bytes([header[4], header[5]]);
            let padded = len.next_multiple_of(HEADER);
            if len < HEADER || place + padded > ring || self.head + padded as u64 > tail {
                return Err(format!("a record of {len} bytes at {place} of {ring}"));
            }
            self.head += padded as u64;
            if kind == kind::PAD {
                if place + len != ring || self.head == tail {
                    return Err(format!("padding of {len} bytes at {place} of {ring}"));
                }
                continue;
            }
            let mut payload = vec![0; len - HEADER];
            self.peer.read(RING_OFFSET + place + HEADER, &mut payload);
            let exchange = u64::from_ne_bytes(header[8..].try_into().unwrap());
            let flags = u16::from_ne_bytes([header[6], header[7]]);
            return Ok(Some(Raw { kind, flags, exchange, payload }));
        }
        Ok(None)
    }

    /// The bytes of one of the edge's chunks.
    pub(super) fn chunk(&self, index: usize, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.peer.read(self.geometry.chunk_offset(index), &mut bytes);
        bytes
    }

    /// How far the tail would move, and how much of that is padding.
    fn span(&self, payload: usize) -> (usize, usize) {
        let record = (HEADER + payload).next_multiple_of(HEADER);
        let to_end = self.geometry.ring_size() - self.place(self.tail);
        if record > to_end { (to_end, to_end + record) } else { (0, record) }
    }

    fn needed(&self, payload: usize) -> u64 {
        (self.tail + self.span(payload).1 as u64).saturating_sub(self.geometry.ring_size() as u64)
    }

    pub(super) fn has_room(&self, payload: usize) -> bool {
        self.theirs(Word::Head) >= self.needed(payload)
    }

    /// Writes a record behind the tail, which stays where it is for the edge. There must be room.
    pub(super) fn put(
        &mut self,
        kind: u16,
        flags: u16,
        exchange: u64,
        parts: &[&[u8]],
    ) -> Result<(), Crash> {
        let payload: usize = parts.iter().map(|part| part.len()).sum();
        let (pad, total) = self.span(payload);
        if pad > 0 {
            self.header(self.tail, pad, kind::PAD, 0, 0)?;
        }
        let start = self.tail + pad as u64;
        self.header(start, HEADER + payload, kind, flags, exchange)?;
        let mut at = RING_OFFSET + self.place(start) + HEADER;
        for part in parts.iter().filter(|part| !part.is_empty()) {
            self.write(at, part)?;
            at += part.len();
        }
        self.tail += total as u64;
        Ok(())
    }

    pub(super) fn header(
        &mut self,
        position: u64,
        len: usize,
        kind: u16,
        flags: u16,
        exchange: u64,
    ) -> Result<(), Crash> {
        let mut header = [0; HEADER];
        header[..4].copy_from_slice(&u32::try_from(len).unwrap().to_ne_bytes());
        header[4..6].copy_from_slice(&kind.to_ne_bytes());
        header[6..8].copy_from_slice(&flags.to_ne_bytes());
        header[8..].copy_from_slice(&exchange.to_ne_bytes());
        self.write(RING_OFFSET + self.place(position), &header)
    }

    pub(super) fn unpublished(&self) -> bool {
        self.tail != self.tail_public || self.head != self.head_public
    }

    /// Says at once that the record which was taken last, of so many bytes of payload, is taken. False: it was withdrawn before. Whether
    /// the edge waits for the room is looked at by [`Self::publish`].
    pub(super) fn keep(&mut self, payload: usize) -> Result<bool, Crash> {
        let start = self.head - (HEADER + payload).next_multiple_of(HEADER) as u64;
        self.store(Word::Head, start + HEADER as u64)?;
        fence(Ordering::SeqCst);
        let mut mark = [0; 8];
        self.peer.read(RING_OFFSET + self.place(start) + HEADER, &mut mark);
        // The rest of it is free with the next publication.
        Ok(mark != [0xFF; 8])
    }

    /// Stores both positions; true when the edge wants a kick for that.
    pub(super) fn publish(&mut self) -> Result<bool, Crash> {
        let passed = |event: u64, old: u64, new: u64| old <= event && event < new;
        let (old_tail, old_head) = (self.tail_public, self.head_public);
        if self.tail != old_tail {
            self.tail_public = self.tail;
            self.store(Word::Tail, self.tail)?;
        }
        if self.head != old_head {
            self.head_public = self.head;
            self.store(Word::Head, self.head)?;
        }
        fence(Ordering::SeqCst);
        Ok(passed(self.theirs(Word::Event), old_tail, self.tail)
            || passed(self.theirs(Word::SpaceEvent), old_head, self.head))
    }

    /// Asks for a kick, after everything was published. True when there is something to do instead.
    pub(super) fn arm(&mut self, starved: Option<usize>) -> Result<bool, Crash> {
        assert!(!self.unpublished(), "publish first");
        if let Some(payload) = starved {
            let needed = self.needed(payload);
            self.store(Word::SpaceEvent, needed.saturating_sub(1))?;
            if self.theirs(Word::Head) >= needed {
                self.disarm()?;
                return Ok(true);
            }
        }
        self.store(Word::Event, self.head)?;
        fence(Ordering::SeqCst);
        let found = self.pending();
        if found {
            self.disarm()?;
        }
        Ok(found)
    }

    pub(super) fn disarm(&mut self) -> Result<(), Crash> {
        self.store(Word::Event, DISARMED)?;
        self.store(Word::SpaceEvent, DISARMED)
    }

    /// True when the edge owes a kick to a worker that armed and sleeps.
    pub(super) fn is_owed_a_kick(&self) -> bool {
        let passed = |event: u64, now: u64| event != DISARMED && event < now;
        passed(self.ours(Word::Event), self.theirs(Word::Tail))
            || passed(self.ours(Word::SpaceEvent), self.theirs(Word::Head))
    }
}
