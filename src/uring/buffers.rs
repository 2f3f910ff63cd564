//! The buffers that a shard lends to the kernel for receiving: one mapping that holds the shared ring of buffer
//! descriptions, then the buffers.
//!
//! Invariant: a buffer belongs either to the kernel (its description is in the ring, published or about to be) or to
//! the holder of its [`Lease`], never to both; `lent` says which. Only the second kind is ever read here.
//! Deliberately absent: incremental consumption and bundles; one completion fills one buffer.

#![expect(unsafe_code, reason = "memory shared with the kernel")]

use std::{
    io, mem,
    ptr::NonNull,
    slice,
    sync::atomic::{AtomicU16, Ordering},
};

use io_uring::{Submitter, types::BufRingEntry};
use memmap2::{Advice, MmapOptions, MmapRaw};

use super::Lease;

/// The groups under which the kernel knows the buffers: those for bytes of streams...
pub(super) const STREAM_BUFFERS: u16 = 0;
/// ...and those for datagrams.
pub(super) const DATAGRAM_BUFFERS: u16 = 1;
/// Buffers start on a page of their own, whatever the size of the ring before them.
const PAGE_SIZE: usize = 4096;

pub(super) struct BufRing {
    /// `None` only after [`BufRing::leak`], which the owner calls last.
    mapping: Option<MmapRaw>,
    /// Start of `mapping`; page-aligned and valid as long as `self`.
    base: NonNull<u8>,
    /// Where the first buffer starts, from `base`.
    buffers_at: usize,
    buffer_size: u32,
    /// Buffers, and descriptions in the ring: a power of two, and no more descriptions than buffers are ever in it.
    count: u16,
    /// Where the next description goes; free-running. The kernel sees it when it is published.
    tail: u16,
    /// The tail that the kernel has seen last.
    published: u16,
    /// True exactly while the buffer belongs to the holder of a lease.
    lent: Box<[bool]>,
}

impl BufRing {
    /// Maps `count` buffers and puts all of them into the ring. The kernel knows nothing of them yet.
    pub(super) fn new(count: u16, buffer_size: u32) -> io::Result<Self> {
        assert!(count.is_power_of_two(), "the kernel masks ring positions");
        assert!(buffer_size > 0, "an empty buffer reads as end of stream");
        let ring_size = usize::from(count) * size_of::<BufRingEntry>();
        let buffers_at = ring_size.next_multiple_of(PAGE_SIZE);
        let size = buffers_at + usize::from(count) * buffer_size as usize;
        let mapping = MmapRaw::from(MmapOptions::new().len(size).map_anon()?);
        // A child between fork and exec has no business here, and copy-on-write must not part us from the pages that
        // the kernel pinned.
        mapping.advise(Advice::DontFork)?;
        let base = NonNull::new(mapping.as_mut_ptr()).ok_or(io::ErrorKind::OutOfMemory)?;
        let lent = vec![false; usize::from(count)].into_boxed_slice();
        let mut ring = Self {
            mapping: Some(mapping),
            base,
            buffers_at,
            buffer_size,
            count,
            tail: 0,
            published: 0,
            lent,
        };
        for id in 0..count {
            ring.offer(id);
        }
        ring.publish();
        Ok(ring)
    }

    /// Makes the kernel receive into the buffers, as this group.
    ///
    /// # Safety
    ///
    /// `self` must be dropped after the last operation of that uring that selects from that group has completed, or be
    /// leaked.
    pub(super) unsafe fn register(&self, submitter: &Submitter<'_>, group: u16) -> io::Result<()> {
        let address = self.base.as_ptr().addr() as u64;
        // SAFETY: `base` is page-aligned and `new` left room for `count` descriptions; that it outlives its use is
        // the caller's promise.
        unsafe { submitter.register_buf_ring_with_flags(address, self.count, group, 0) }
    }

    /// The kernel filled this buffer; it belongs to the lease from now on.
    pub(super) fn lend(&mut self, id: u16, len: u32) -> Lease {
        assert!(len <= self.buffer_size, "the kernel overran a buffer");
        let was_lent = mem::replace(&mut self.lent[usize::from(id)], true);
        assert!(!was_lent, "the kernel filled a buffer that it does not own");
        Lease { id, len }
    }

    /// What the kernel wrote.
    pub(super) fn bytes(&self, lease: &Lease) -> &[u8] {
        assert!(self.lent[usize::from(lease.id)], "this lease is of another driver");
        assert!(lease.len <= self.buffer_size, "this lease is of another driver");
        let start = self.buffer(lease.id);
        // SAFETY: the range lies in the mapping (`id` indexed `lent`, `len` is bounded above), which `new` got zeroed;
        // while `lent` is set the kernel does not write here, and `recycle`, which clears it, needs `&mut self`.
        unsafe { slice::from_raw_parts(start.as_ptr(), lease.len as usize) }
    }

    /// The same, to be changed in place.
    pub(super) fn bytes_mut(&mut self, lease: &Lease) -> &mut [u8] {
        assert!(self.lent[usize::from(lease.id)], "this lease is of another driver");
        assert!(lease.len <= self.buffer_size, "this lease is of another driver");
        let start = self.buffer(lease.id);
        // SAFETY: as in `bytes`; and nobody else has a reference, which would borrow `self`.
        unsafe { slice::from_raw_parts_mut(start.as_ptr(), lease.len as usize) }
    }

    /// Puts the buffer of a lease that has ended back into the ring; the kernel sees it after [`BufRing::publish`].
    pub(super) fn recycle(&mut self, id: u16) {
        let was_lent = mem::replace(&mut self.lent[usize::from(id)], false);
        assert!(was_lent, "this lease is of another driver");
        self.offer(id);
    }

    /// Shows the kernel everything recycled so far: one store for the whole turn.
    pub(super) fn publish(&mut self) {
        if self.published != self.tail {
            self.published = self.tail;
            self.shared_tail().store(self.tail, Ordering::Release); // buffers-published, read by the kernel
        }
    }

    /// Gives up the memory for good, for when the kernel may still write to it.
    pub(super) fn leak(&mut self) {
        mem::forget(self.mapping.take());
    }

    fn offer(&mut self, id: u16) {
        let address = self.buffer(id).as_ptr().addr() as u64;
        let len = self.buffer_size;
        let entry = self.next_entry();
        entry.set_addr(address);
        entry.set_len(len);
        entry.set_bid(id);
        self.tail = self.tail.wrapping_add(1);
    }

    /// The description at `tail`.
    fn next_entry(&mut self) -> &mut BufRingEntry {
        let slot = usize::from(self.tail & (self.count - 1));
        // SAFETY: `slot < count`, and `new` mapped `count` entries from `base` on.
        let entry = unsafe { self.base.cast::<BufRingEntry>().add(slot) };
        // SAFETY: aligned, since `base` is, and initialised, since the mapping came zeroed. The kernel reads
        // descriptions only below the published tail; this one is at or above it, because there are as many slots as
        // buffers and this one's buffer is in none. Nobody else holds a reference: `&mut self`.
        unsafe { &mut *entry.as_ptr() }
    }

    /// The tail that the kernel reads. It shares the first description's storage, in a field that we never write
    /// through [`BufRing::next_entry`].
    fn shared_tail(&self) -> &AtomicU16 {
        let first = self.base.cast::<BufRingEntry>().as_ptr().cast_const();
        // SAFETY: `first` is the first of `count` initialised entries.
        let tail = unsafe { BufRingEntry::tail(first) };
        // SAFETY: two bytes at an even offset of the mapping, which outlives `self`; on our side written only through
        // this atomic, on the kernel's side only read.
        unsafe { AtomicU16::from_ptr(tail.cast_mut()) }
    }

    fn buffer(&self, id: u16) -> NonNull<u8> {
        assert!(id < self.count, "no such buffer");
        let offset = self.buffers_at + usize::from(id) * self.buffer_size as usize;
        // SAFETY: `new` mapped `count` buffers after `buffers_at`, and `id < count`.
        unsafe { self.base.add(offset) }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_buffer_is_either_lent_or_offered() {
        let mut ring = BufRing::new(4, 64).unwrap();
        assert_eq!(ring.published, 4);
        let first = ring.lend(0, 3);
        let second = ring.lend(1, 64);
        assert_eq!(ring.bytes(&first), [0, 0, 0]);
        assert_eq!(ring.bytes(&second).len(), 64);
        ring.recycle(first.id);
        ring.recycle(second.id);
        assert_eq!(ring.published, 4, "recycling alone publishes nothing");
        ring.publish();
        assert_eq!(ring.published, 6);
        assert_eq!(ring.shared_tail().load(Ordering::Relaxed), 6);
    }

    #[test]
    #[should_panic(expected = "does not own")]
    fn a_buffer_is_not_lent_twice() {
        let mut ring = BufRing::new(4, 64).unwrap();
        ring.lend(2, 1);
        ring.lend(2, 1);
    }

    #[test]
    #[should_panic(expected = "another driver")]
    fn a_forged_lease_reads_nothing() {
        let ring = BufRing::new(4, 64).unwrap();
        ring.bytes(&Lease { id: 1, len: 1 });
    }

    #[test]
    fn leaked_memory_stays_mapped() {
        let mut ring = BufRing::new(4, 64).unwrap();
        let address = ring.base.as_ptr().addr();
        ring.leak();
        drop(ring);
        let maps = fs::read_to_string("/proc/self/maps").unwrap();
        let is_mapped = maps.lines().any(|line| {
            let (start, rest) = line.split_once('-').unwrap();
            let end = rest.split(' ').next().unwrap();
            let [start, end] = [start, end].map(|at| usize::from_str_radix(at, 16).unwrap());
            (start..end).contains(&address)
        });
        assert!(is_mapped);
    }

    #[test]
    fn the_tail_wraps() {
        let mut ring = BufRing::new(2, 16).unwrap();
        for _ in 0..70_000 {
            let lease = ring.lend(1, 16);
            ring.recycle(lease.id);
            ring.publish();
        }
        assert_eq!(ring.shared_tail().load(Ordering::Relaxed), ring.tail);
    }
}
