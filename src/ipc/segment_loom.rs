//! The segment of the loom models: the same interface over memory that loom watches.
//!
//! Invariant: every word is a loom atomic and every 16 bytes of ring and arena are a loom cell, so that any two accesses to
//! one place without an edge between them fail the model. Deliberately absent: memfds, mapping.
#![expect(unsafe_code, reason = "loom hands out its cells as raw pointers")]

use loom::cell::UnsafeCell;
use zerocopy::FromBytes;

use super::{
    layout::{Geometry, RING_OFFSET, Word},
    record::RecordHeader,
    sync::AtomicU64,
};
use crate::limits::RECORD_ALIGN;

/// What EVENT and SPACE_EVENT hold while nobody waits: no position ever crosses it.
pub(crate) const DISARMED: u64 = u64::MAX;

type Cell = UnsafeCell<[u8; RECORD_ALIGN]>;

/// A segment that both threads of a model hold.
pub struct Segment {
    geometry: Geometry,
    tail: AtomicU64,
    head: AtomicU64,
    event: AtomicU64,
    space_event: AtomicU64,
    /// Ring and arena.
    cells: Vec<Cell>,
    /// The marks, apart from the cells that they lie in: a copy of a payload may meet one, and is then not used.
    marks: Vec<AtomicU64>,
}

// SAFETY: loom fails the model when two threads touch a cell without happens-before between them, which is the very
// property under test; loom itself runs one thread at a time.
unsafe impl Sync for Segment {}

impl std::fmt::Debug for Segment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Segment").field("geometry", &self.geometry).finish_non_exhaustive()
    }
}

impl Segment {
    /// A fresh segment.
    pub fn heap(geometry: Geometry) -> Self {
        let cells = (geometry.segment_size() - RING_OFFSET).div_ceil(RECORD_ALIGN);
        Self {
            geometry,
            tail: AtomicU64::new(0),
            head: AtomicU64::new(0),
            event: AtomicU64::new(DISARMED),
            space_event: AtomicU64::new(DISARMED),
            cells: (0..cells).map(|_| UnsafeCell::new([0; RECORD_ALIGN])).collect(),
            marks: (0..cells).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// Sizes of the parts.
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// One of the shared words.
    pub(crate) fn word(&self, word: Word) -> &AtomicU64 {
        match word {
            Word::Tail => &self.tail,
            Word::Head => &self.head,
            Word::Event => &self.event,
            Word::SpaceEvent => &self.space_event,
        }
    }

    /// The first eight bytes of a record's payload, as a word.
    pub(crate) fn mark(&self, offset: usize) -> &AtomicU64 {
        &self.marks[(offset - RING_OFFSET) / RECORD_ALIGN]
    }

    /// Copies `bytes` to `offset`.
    pub(crate) fn write(&self, offset: usize, bytes: &[u8]) {
        if let Some(word) = bytes.first_chunk().filter(|_| offset.is_multiple_of(RECORD_ALIGN)) {
            // As the words' bytes in memory: whoever writes over a mark is seen by who looks for it.
            self.mark(offset).store(u64::from_ne_bytes(*word), super::sync::Ordering::Relaxed);
        }
        for (i, byte) in bytes.iter().enumerate() {
            let at = offset - RING_OFFSET + i;
            self.cells[at / RECORD_ALIGN].with_mut(|cell| {
                // SAFETY: `cell` is valid inside the closure; loom has checked that the access is exclusive.
                let cell = unsafe { &mut *cell };
                cell[at % RECORD_ALIGN] = *byte;
            });
        }
    }

    /// The record header at `offset`.
    pub(crate) fn read_header(&self, offset: usize) -> RecordHeader {
        let mut bytes = Vec::new();
        self.read_onto(offset, RECORD_ALIGN, &mut bytes);
        RecordHeader::read_from_bytes(&bytes).unwrap_or_default()
    }

    /// Copies from `offset` onto the end of `out`.
    pub(crate) fn read_onto(&self, offset: usize, len: usize, out: &mut Vec<u8>) {
        for at in offset - RING_OFFSET..offset - RING_OFFSET + len {
            self.cells[at / RECORD_ALIGN].with(|cell| {
                // SAFETY: `cell` is valid inside the closure; loom has checked that nobody writes to it.
                let cell = unsafe { &*cell };
                out.push(cell[at % RECORD_ALIGN]);
            });
        }
    }
}
