//! What a worker writes: credit, answers whole or in pieces, inline or in chunks, and that it gives up.
//!
//! Invariant: never beyond the edge's credit, never into a chunk that is out, never where the ring has no room; what is
//! written is what the tag's plan says.

use std::time::Instant;

use super::{
    book::Book,
    plan::{Plan, Sabotage, Shape, Side, Tag, body},
    wire::{CHUNK, Crash, END, kind},
    worker::Worker,
};
use crate::limits::INLINE_BODY_SIZE_MAX;

impl Worker {
    /// Writes some records; false when there is none to write.
    pub(super) fn produce(
        &mut self,
        most: usize,
        now: Instant,
        book: &mut Book,
    ) -> Result<bool, Crash> {
        let mut acted = false;
        let ids: Vec<u64> = self.jobs.keys().copied().collect();
        let first = self.rng.below(ids.len());
        for at in 0..ids.len().min(most) {
            let id = ids[(first + at) % ids.len()];
            acted |= self.produce_one(id, now, book)?;
        }
        Ok(acted)
    }

    fn produce_one(&mut self, id: u64, now: Instant, book: &mut Book) -> Result<bool, Crash> {
        let Some(job) = self.jobs.get_mut(&id) else { return Ok(false) };
        if job.cancelled {
            if self.rng.chance(700) || !self.jobs[&id].can_answer() || now < self.jobs[&id].ready_at
            {
                return self.abort(id, book);
            }
        } else if job.owed > 0 && !job.request_ended && self.rng.chance(600) {
            let owed = job.owed;
            if !self.room(8) {
                return Ok(false);
            }
            let owed = match book.profile.sabotage {
                Some(Sabotage::KeepCredit) => 0,
                Some(Sabotage::InventCredit) => owed as u64 + 1,
                _ => owed as u64,
            };
            self.wire.put(kind::CREDIT, 0, id, &[&owed.to_ne_bytes()])?;
            if let Some(job) = self.jobs.get_mut(&id) {
                job.owed = 0;
            }
            return Ok(true);
        }
        let job = &self.jobs[&id];
        if now < job.ready_at || !job.can_answer() {
            // What is owed is given in the end, or the client would wait for ever.
            return Ok(job.owed > 0 && !job.request_ended);
        }
        match job.plan.shape {
            Shape::AbortedBefore => self.abort(id, book),
            Shape::AbortedAfter if job.head_sent => self.abort(id, book),
            _ if !job.head_sent => self.respond(id, book),
            _ => self.piece(id, book),
        }
    }

    fn abort(&mut self, id: u64, book: &mut Book) -> Result<bool, Crash> {
        if !self.room(0) {
            return Ok(false);
        }
        self.wire.put(kind::ABORT, 0, id, &[])?;
        book.trace(|| format!("worker {:?} aborts {id:#x}", self.who));
        self.end(id, book);
        Ok(true)
    }

    fn end(&mut self, id: u64, book: &mut Book) {
        if let Some(job) = self.jobs.remove(&id) {
            // Whether the edge has seen that by the time of a crash is not known here.
            book.begun_by_fallen(job.tag);
        }
        self.ended.insert(id);
    }

    fn respond(&mut self, id: u64, book: &mut Book) -> Result<bool, Crash> {
        let job = &self.jobs[&id];
        let Plan { shape, status, length, known, .. } = job.plan;
        let mut tag = job.tag;
        if book.profile.sabotage == Some(Sabotage::SwapAnswers) {
            tag = self.jobs.values().map(|job| job.tag).find(|other| *other != tag).unwrap_or(tag);
        }
        let first = match shape {
            Shape::Whole => length,
            _ => self.rng.below(2) * length.min(INLINE_BODY_SIZE_MAX),
        };
        let first = first.min(job.credit);
        let end = first == length && (shape == Shape::Whole || first > 0 && self.rng.chance(500));
        let payload =
            response(status, known.then_some(length), tag, &body(tag, Side::Response, 0, first));
        if !self.room(payload.len()) {
            return Ok(false);
        }
        let parts: [&[u8]; 2] = [&payload[..16], &payload[16..]];
        self.wire.put(kind::RESPONSE, if end { END } else { 0 }, id, &parts)?;
        book.trace(|| {
            format!("worker {:?} answers {id:#x}, tag {tag}, {first} of {length}", self.who)
        });
        self.sent(id, first, end, book);
        Ok(true)
    }

    fn sent(&mut self, id: u64, bytes: usize, end: bool, book: &mut Book) {
        if let Some(job) = self.jobs.get_mut(&id) {
            job.head_sent = true;
            job.sent += bytes;
            job.credit -= bytes;
        }
        if end {
            self.end(id, book);
        }
    }

    /// The next piece of an answer, inline or in a chunk.
    fn piece(&mut self, id: u64, book: &mut Book) -> Result<bool, Crash> {
        let job = &self.jobs[&id];
        let (tag, at, length) = (job.tag, job.sent, job.plan.length);
        let left = length - at;
        let most = left.min(job.credit);
        if most == 0 && left > 0 {
            return Ok(false);
        }
        let chunk_size = self.wire.geometry().chunk_size();
        let len = if self.rng.chance(500) { most } else { self.rng.between(most.min(64), most) };
        let inline_max = INLINE_BODY_SIZE_MAX.min(self.wire.geometry().record_size_max() / 2);
        let chunked = len > inline_max || len > 0 && self.rng.chance(100);
        if !self.room(if chunked { 8 } else { len }) {
            return Ok(false);
        }
        let chunk = if chunked { self.free.pop() } else { None };
        let len = len.min(if chunk.is_some() { chunk_size } else { inline_max });
        if !self.room(if chunk.is_some() { 8 } else { len }) {
            self.free.extend(chunk);
            return Ok(false);
        }
        let swap = book.profile.sabotage == Some(Sabotage::SwapBytes);
        let data = body(tag + u32::from(swap), Side::Response, at, len);
        let end = len == left && (len == 0 || self.rng.chance(600));
        let flag = if end { END } else { 0 };
        if let Some(index) = chunk {
            let offset = self.wire.geometry().chunk_offset(index as usize);
            self.leased.insert(index);
            self.wire.write(offset, &data)?;
            let len = u32::try_from(len).unwrap();
            let reference = [index.to_ne_bytes(), len.to_ne_bytes()].concat();
            self.wire.put(kind::BODY, flag | CHUNK, id, &[&reference])?;
        } else {
            self.wire.put(kind::BODY, flag, id, &[&data])?;
        }
        self.sent(id, len, end, book);
        Ok(true)
    }
}

/// A response record's payload: the fixed part, one field, and the first bytes of the body.
pub(super) fn response(status: u16, length: Option<usize>, tag: Tag, body: &[u8]) -> Vec<u8> {
    let value = tag.to_string();
    let mut out = Vec::with_capacity(64 + body.len());
    out.extend_from_slice(&length.map_or(u64::MAX, |length| length as u64).to_ne_bytes());
    out.extend_from_slice(&u32::try_from(5 + value.len()).unwrap().to_ne_bytes());
    out.extend_from_slice(&status.to_ne_bytes());
    out.extend_from_slice(&1_u16.to_ne_bytes());
    for word in [0, 5, 5, u16::try_from(value.len()).unwrap()] {
        out.extend_from_slice(&word.to_le_bytes());
    }
    out.extend_from_slice(b"x-tag");
    out.extend_from_slice(value.as_bytes());
    out.extend_from_slice(body);
    out
}
