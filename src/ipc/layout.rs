//! Where things lie in a segment. No logic.
//!
//! ```text
//!      0  Header        magic, version, geometry, layout hash; written once, before the segment is shared
//!    128  TAIL          how far the owner has written its ring             (edge: record-published)
//!    256  HEAD          how far the owner has read the peer's ring         (edge: slot-released)
//!    384  EVENT         kick me when your tail passes this                 (edge: armed)
//!    392  SPACE_EVENT   kick me when your head passes this                 (edge: armed)
//!   4096  ring          ring_size bytes of records
//!    ...  arena         chunk_count chunks of chunk_size bytes
//! ```
//!
//! Invariant: a segment has one writer, its owner; the peer maps it read-only. Both directions of a lane have this
//! same layout, so there is one implementation for both sides. Words that different sides poll stand 128 bytes apart
//! (two lines: x86 prefetches the neighbour).

use core::mem::{offset_of, size_of};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::limits;

/// "FAEdLane", little-endian: what a segment starts with.
pub const MAGIC: u64 = u64::from_le_bytes(*b"FAEdLane");
/// Grows with every change of what either side writes.
pub const VERSION: u32 = 7;

/// First bytes of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Header {
    /// [`MAGIC`].
    pub magic: u64,
    /// [`HASH`].
    pub layout_hash: u64,
    /// [`VERSION`].
    pub version: u32,
    /// Bytes of the ring.
    pub ring_size: u32,
    /// Bytes of one chunk.
    pub chunk_size: u32,
    /// Chunks in the arena.
    pub chunk_count: u32,
}

const _: () = assert!(offset_of!(Header, chunk_count) + size_of::<u32>() == size_of::<Header>());
const _: () = assert!(size_of::<Header>() <= Word::Tail as usize);

/// The shared words, by offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Word {
    /// How far the owner has written its ring, in bytes since the beginning.
    Tail = 128,
    /// How far the owner has read the peer's ring.
    Head = 256,
    /// The owner wants a kick when the peer's tail passes this position.
    Event = 384,
    /// The owner wants a kick when the peer's head passes this position.
    SpaceEvent = 392,
}

/// What the first eight bytes of a record's payload become when it is withdrawn. Only REQUEST records are, and none begins so: that
/// would be a blob of 4 GiB.
pub const WITHDRAWN: u64 = u64::MAX;

/// Where the ring begins: a page of its own, so that the words above never share one with data.
pub const RING_OFFSET: usize = 4096;

/// Sizes of a segment's parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    ring_size: usize,
    chunk_size: usize,
    chunk_count: usize,
}

impl Geometry {
    /// What the product uses.
    pub const PRODUCT: Self = Self {
        ring_size: limits::RING_SIZE,
        chunk_size: limits::CHUNK_SIZE,
        chunk_count: limits::CHUNK_COUNT,
    };

    /// `None` unless the ring is a power of two whose quarter holds a record of one alignment unit of payload (credit,
    /// chunk reference), there is something to put a long body into, and everything fits 32 bits.
    pub const fn new(ring_size: usize, chunk_size: usize, chunk_count: usize) -> Option<Self> {
        let fits = ring_size <= 1 << 30 && chunk_size <= 1 << 24 && chunk_count <= 1 << 16;
        let ring_sound = ring_size.is_power_of_two() && ring_size >= 8 * limits::RECORD_ALIGN;
        let arena_sound = chunk_size >= 1 && chunk_count >= 1;
        if fits && ring_sound && arena_sound {
            Some(Self { ring_size, chunk_size, chunk_count })
        } else {
            None
        }
    }

    /// Bytes of the ring.
    pub const fn ring_size(self) -> usize {
        self.ring_size
    }

    /// Bytes of one chunk.
    pub const fn chunk_size(self) -> usize {
        self.chunk_size
    }

    /// Chunks in the arena.
    pub const fn chunk_count(self) -> usize {
        self.chunk_count
    }

    /// The largest record, header included.
    pub const fn record_size_max(self) -> usize {
        self.ring_size / 4
    }

    /// Where chunk `index` begins.
    pub const fn chunk_offset(self, index: usize) -> usize {
        RING_OFFSET + self.ring_size + index * self.chunk_size
    }

    /// Bytes of the whole segment.
    pub const fn segment_size(self) -> usize {
        self.chunk_offset(self.chunk_count)
    }
}

/// What both sides must agree on, folded into one number (FNV-1a, 64 bit).
pub const HASH: u64 = {
    let facts = [
        VERSION as usize,
        Word::Tail as usize,
        Word::Head as usize,
        Word::Event as usize,
        Word::SpaceEvent as usize,
        RING_OFFSET,
        size_of::<Header>(),
        size_of::<super::record::RecordHeader>(),
        size_of::<super::message::RequestFixed>(),
        size_of::<super::message::ResponseFixed>(),
        size_of::<super::message::ChunkRef>(),
        size_of::<crate::span::Field>(),
        limits::RECORD_ALIGN,
        limits::INLINE_BODY_SIZE_MAX,
        limits::EXCHANGE_WINDOW,
    ];
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut i = 0;
    while i < facts.len() {
        let bytes = (facts[i] as u64).to_le_bytes();
        let mut j = 0;
        while j < bytes.len() {
            hash = (hash ^ bytes[j] as u64).wrapping_mul(0x0000_0100_0000_01b3);
            j += 1;
        }
        i += 1;
    }
    hash
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_geometry_that_could_not_carry_a_body_does_not_exist() {
        assert_eq!(Geometry::new(64, 64, 1), None, "a chunk reference is longer than a record");
        assert_eq!(
            Geometry::new(128, 0, 1),
            None,
            "a body would be cut into empty chunks for ever"
        );
        assert_eq!(Geometry::new(128, 64, 0), None, "a long body would wait for a chunk for ever");
        assert_eq!(Geometry::new(192, 64, 1), None, "places are positions modulo a power of two");
        assert!(Geometry::new(128, 1, 1).is_some());
    }
}
