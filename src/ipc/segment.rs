//! A segment: the memory that one side of a lane writes and the other side reads.
//!
//! Invariant: every access is bounds-checked against the mapping, whose size cannot change because the memfd is
//! sealed before the peer gets it. No reference to the bytes is ever formed, except to the atomic words: the peer
//! may write them at any moment. Deliberately absent: any meaning of the bytes.
#![expect(
    unsafe_code,
    reason = "shared memory is raw memory; this module makes it bounds-checked copies"
)]

use std::{
    cell::UnsafeCell,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    ptr,
};

use memmap2::{MmapOptions, MmapRaw};
use rustix::fs::{
    FallocateFlags, MemfdFlags, SealFlags, fallocate, fcntl_add_seals, ftruncate, memfd_create,
};
use thiserror::Error;
use zerocopy::{FromBytes, IntoBytes};

use super::{
    layout::{Geometry, HASH, Header, MAGIC, RING_OFFSET, VERSION, Word},
    record::RecordHeader,
    sync::AtomicU64,
};
use crate::limits::RECORD_ALIGN;

/// Who may write to a segment besides its owner's mapping, once it has been passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writer {
    /// The process that creates it: it keeps the only writable mapping there can ever be.
    Creator,
    /// The process that it is passed to.
    Receiver,
}

/// Why a segment could not be attached.
#[derive(Debug, Error)]
pub enum AttachError {
    /// The kernel refused the mapping.
    #[error("cannot map the segment: {0}")]
    Map(#[from] io::Error),
    /// The file is smaller than its header says, or than any segment.
    #[error("the segment is {actual} bytes, expected {expected}")]
    Size {
        /// Bytes of the file.
        actual: u64,
        /// Bytes that the geometry needs.
        expected: u64,
    },
    /// Not a segment, or one of another build.
    #[error(
        "the segment's layout is version {version}, hash {hash:#018x}; this side has version {VERSION}, hash {HASH:#018x}: \
         server and Python package are of different builds"
    )]
    Layout {
        /// The version found.
        version: u32,
        /// The hash found.
        hash: u64,
    },
}

/// 128 bytes, so that a heap-backed segment has the alignment that the layout relies on.
#[repr(align(128))]
struct Block(#[expect(dead_code, reason = "only its address is used")] UnsafeCell<[u8; 128]>);

enum Memory {
    Map(#[expect(dead_code, reason = "keeps the mapping alive")] MmapRaw),
    /// A `Vec`, because moving a `Box` asserts unique access to what `base` points to.
    Heap(#[expect(dead_code, reason = "keeps the allocation alive")] Vec<Block>),
}

/// A mapped segment. Shared by the two halves of a lane through an `Arc`.
pub struct Segment {
    base: *mut u8,
    size: usize,
    geometry: Geometry,
    writable: bool,
    _memory: Memory,
}

// SAFETY: the pointer stays valid for the segment's life (it owns `_memory`) and every access goes through atomics or
// through copies that the ring's protocol keeps disjoint between its one writer and its one reader.
unsafe impl Send for Segment {}
// SAFETY: as for `Send`; `&Segment` offers nothing that `&mut` would not.
unsafe impl Sync for Segment {}

impl std::fmt::Debug for Segment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Segment")
            .field("size", &self.size)
            .field("writable", &self.writable)
            .finish_non_exhaustive()
    }
}

impl Segment {
    /// Makes a memfd, maps it for this process, seals it, and returns it with the descriptor to pass on.
    ///
    /// The words and the ring are allocated at once (a full system says so here, not by SIGBUS later); the arena's
    /// pages are committed when a chunk is first written.
    pub fn create(name: &str, geometry: Geometry, writer: Writer) -> io::Result<(Self, OwnedFd)> {
        let fd = memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        ftruncate(&fd, geometry.segment_size() as u64)?;
        fallocate(&fd, FallocateFlags::empty(), 0, (RING_OFFSET + geometry.ring_size()) as u64)?;
        rustix::io::pwrite(&fd, header_of(geometry).as_bytes(), 0)?;
        for word in [Word::Event, Word::SpaceEvent] {
            rustix::io::pwrite(&fd, &DISARMED.to_ne_bytes(), word as u64)?;
        }
        let (segment, seals) = match writer {
            // FUTURE_WRITE: mappings that exist stay writable, no new one can be.
            Writer::Creator => (Self::map(fd.as_fd(), geometry, true)?, SealFlags::FUTURE_WRITE),
            Writer::Receiver => (Self::map(fd.as_fd(), geometry, false)?, SealFlags::empty()),
        };
        fcntl_add_seals(&fd, seals | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        Ok((segment, fd))
    }

    /// Maps a segment that the peer created, after checking that it is one.
    pub fn attach(fd: BorrowedFd<'_>, writable: bool) -> Result<Self, AttachError> {
        let actual = u64::try_from(rustix::fs::fstat(fd).map_err(io::Error::from)?.st_size)
            .unwrap_or_default();
        let mut bytes = [0; size_of::<Header>()];
        if actual < RING_OFFSET as u64 {
            return Err(AttachError::Size { actual, expected: RING_OFFSET as u64 });
        }
        rustix::io::pread(fd, &mut bytes, 0).map_err(io::Error::from)?;
        let header = Header::read_from_bytes(&bytes)
            .unwrap_or_else(|_| unreachable!("the buffer has the header's size"));
        let mismatch = AttachError::Layout { version: header.version, hash: header.layout_hash };
        if header.magic != MAGIC || header.version != VERSION || header.layout_hash != HASH {
            return Err(mismatch);
        }
        let geometry = Geometry::new(
            header.ring_size as usize,
            header.chunk_size as usize,
            header.chunk_count as usize,
        );
        let Some(geometry) = geometry else { return Err(mismatch) };
        let expected = geometry.segment_size() as u64;
        if actual != expected {
            return Err(AttachError::Size { actual, expected });
        }
        Ok(Self::map(fd, geometry, writable)?)
    }

    /// A segment in this process's own memory: for tests, models and fuzzing, where both ends share it.
    pub fn heap(geometry: Geometry) -> Self {
        let count = geometry.segment_size().div_ceil(size_of::<Block>());
        let blocks: Vec<Block> = (0..count).map(|_| Block(UnsafeCell::new([0; 128]))).collect();
        let base = blocks.as_ptr().cast_mut().cast::<u8>();
        let segment = Self {
            base,
            size: geometry.segment_size(),
            geometry,
            writable: true,
            _memory: Memory::Heap(blocks),
        };
        segment.write(0, header_of(geometry).as_bytes());
        for word in [Word::Event, Word::SpaceEvent] {
            segment.write(word as usize, &DISARMED.to_ne_bytes());
        }
        segment
    }

    fn map(fd: BorrowedFd<'_>, geometry: Geometry, writable: bool) -> io::Result<Self> {
        let mut options = MmapOptions::new();
        options.len(geometry.segment_size());
        let fd = &fd;
        let map = if writable { options.map_raw(fd)? } else { options.map_raw_read_only(fd)? };
        Ok(Self {
            base: map.as_mut_ptr(),
            size: map.len(),
            geometry,
            writable,
            _memory: Memory::Map(map),
        })
    }

    /// Sizes of the parts.
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// One of the shared words.
    pub(crate) fn word(&self, word: Word) -> &AtomicU64 {
        let at = self.checked(word as usize, size_of::<u64>());
        // SAFETY: in bounds and 8-aligned (`Word` offsets are, the base is 128-aligned or a page), alive as long as
        // `self`; every process touches these eight bytes only as an atomic. On the peer's read-only mapping `ring`
        // does nothing but relaxed loads, which is what core::sync::atomic allows on read-only memory.
        unsafe { AtomicU64::from_ptr(at.cast::<u64>()) }
    }

    /// The first eight bytes of a record's payload, as a word.
    pub(crate) fn mark(&self, offset: usize) -> &AtomicU64 {
        assert!(offset.is_multiple_of(RECORD_ALIGN), "payloads stand on their alignment");
        let at = self.checked(offset, size_of::<u64>());
        // SAFETY: in bounds, aligned (offset above; the base is 128-aligned or a page), alive as long as `self`. Once the record is
        // published its owner stores here atomically only; a copy of the payload that meets such a store is not used, because
        // `ring` looks here again, with an atomic load. On the peer's read-only mapping it only ever loads, relaxed.
        unsafe { AtomicU64::from_ptr(at.cast::<u64>()) }
    }

    /// Copies `bytes` to `offset`. Panics out of bounds or on the peer's segment: that would be our own mistake.
    pub(crate) fn write(&self, offset: usize, bytes: &[u8]) {
        assert!(self.writable, "a segment has one writer, its owner");
        let to = self.checked(offset, bytes.len());
        // SAFETY: in bounds (checked above), cannot overlap a borrowed slice because nobody borrows from a segment.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
    }

    /// Copies from `offset` into `out`. The bytes may change at any time: copy once, then look at the copy.
    #[cfg(test)]
    pub(crate) fn read(&self, offset: usize, out: &mut [u8]) {
        let from = self.checked(offset, out.len());
        // SAFETY: in bounds (checked above); `out` is ours alone.
        unsafe { ptr::copy_nonoverlapping(from, out.as_mut_ptr(), out.len()) };
    }

    /// The record header at `offset`, each byte of it fetched exactly once: what was checked is what is used, even
    /// while the peer writes.
    pub(crate) fn read_header(&self, offset: usize) -> RecordHeader {
        assert!(offset.is_multiple_of(RECORD_ALIGN), "headers stand on their alignment");
        let from = self.checked(offset, size_of::<RecordHeader>());
        // SAFETY: in bounds (checked above), aligned (offset above; the base is 128-aligned or a page), and any bytes
        // are a `RecordHeader` (it is `FromBytes`).
        unsafe { ptr::read_volatile(from.cast::<RecordHeader>()) }
    }

    /// As [`Segment::read`], onto the end of `out`.
    pub(crate) fn read_onto(&self, offset: usize, len: usize, out: &mut Vec<u8>) {
        let from = self.checked(offset, len);
        out.reserve(len);
        let to = out.spare_capacity_mut().as_mut_ptr().cast::<u8>();
        // SAFETY: `from` is in bounds for `len`, `to` has at least `len` bytes of spare capacity (reserved above).
        unsafe { ptr::copy_nonoverlapping(from, to, len) };
        let filled = out.len() + len;
        // SAFETY: the copy above initialised the bytes up to `filled`, which is within the reserved capacity.
        unsafe { out.set_len(filled) };
    }

    fn checked(&self, offset: usize, len: usize) -> *mut u8 {
        let end = offset.checked_add(len);
        assert!(
            end.is_some_and(|end| end <= self.size),
            "access at {offset}+{len} of a segment of {}",
            self.size
        );
        self.base.wrapping_add(offset)
    }
}

/// What EVENT and SPACE_EVENT hold while nobody waits: no position ever crosses it.
pub(crate) const DISARMED: u64 = u64::MAX;

fn header_of(geometry: Geometry) -> Header {
    let word = |size: usize| {
        u32::try_from(size).unwrap_or_else(|_| unreachable!("Geometry::new bounds it"))
    };
    Header {
        magic: MAGIC,
        layout_hash: HASH,
        version: VERSION,
        ring_size: word(geometry.ring_size()),
        chunk_size: word(geometry.chunk_size()),
        chunk_count: word(geometry.chunk_count()),
    }
}

#[cfg(all(test, not(miri)))]
mod tests {
    use super::*;

    const SMALL: Geometry = Geometry::new(4096, 4096, 2).unwrap();

    #[test]
    fn the_receiver_of_a_creator_written_segment_can_only_read_it() {
        let (own, fd) = Segment::create("test-e", SMALL, Writer::Creator).unwrap();
        let peer = Segment::attach(fd.as_fd(), false).unwrap();
        own.write(RING_OFFSET, b"request");
        let mut seen = [0; 7];
        peer.read(RING_OFFSET, &mut seen);
        assert_eq!(&seen, b"request");

        assert!(Segment::attach(fd.as_fd(), true).is_err(), "a second writable mapping");
        assert_eq!(rustix::io::pwrite(&fd, b"x", 0), Err(rustix::io::Errno::PERM));
        assert_eq!(ftruncate(&fd, 0), Err(rustix::io::Errno::PERM));
        assert_eq!(fcntl_add_seals(&fd, SealFlags::WRITE), Err(rustix::io::Errno::PERM));
    }

    #[test]
    fn the_receiver_of_a_segment_of_its_own_writes_it_but_cannot_resize_it() {
        let (edge, fd) = Segment::create("test-w", SMALL, Writer::Receiver).unwrap();
        let worker = Segment::attach(fd.as_fd(), true).unwrap();
        worker.write(RING_OFFSET, b"answer");
        let mut seen = [0; 6];
        edge.read(RING_OFFSET, &mut seen);
        assert_eq!(&seen, b"answer");
        assert_eq!(ftruncate(&fd, 0), Err(rustix::io::Errno::PERM));
        assert_eq!(ftruncate(&fd, 1 << 20), Err(rustix::io::Errno::PERM));
    }

    #[test]
    #[should_panic(expected = "one writer")]
    fn writing_to_the_peers_segment_is_our_own_mistake() {
        let (edge, _fd) = Segment::create("test-w", SMALL, Writer::Receiver).unwrap();
        edge.write(RING_OFFSET, b"x");
    }

    #[test]
    fn a_segment_of_another_build_is_refused_with_both_hashes() {
        let fd = memfd_create("other", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&fd, SMALL.segment_size() as u64).unwrap();
        let header = Header { layout_hash: HASH ^ 1, ..header_of(SMALL) };
        rustix::io::pwrite(&fd, header.as_bytes(), 0).unwrap();
        let error = Segment::attach(fd.as_fd(), false).unwrap_err();
        assert!(matches!(error, AttachError::Layout { .. }));
        assert!(error.to_string().contains("different builds"));
    }

    #[test]
    fn a_file_that_is_too_small_is_refused_before_it_is_mapped() {
        let fd = memfd_create("small", MemfdFlags::CLOEXEC).unwrap();
        assert!(matches!(Segment::attach(fd.as_fd(), false), Err(AttachError::Size { .. })));
        ftruncate(&fd, RING_OFFSET as u64).unwrap();
        rustix::io::pwrite(&fd, header_of(SMALL).as_bytes(), 0).unwrap();
        assert!(matches!(Segment::attach(fd.as_fd(), false), Err(AttachError::Size { .. })));
    }
}
