//! Which streams the library has news of.
//!
//! Invariant: a slot that the library woke is handed out once more after that, at the latest by the next drain of
//! [`Ready::next`]; being handed out without news does no harm. Slots beyond [`SLOTS`] share the bits of those below.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Wake, Waker},
};

/// Slots that have a bit of their own: more than the streams that can be open at one time.
const SLOTS: usize = 256;
const WORDS: usize = SLOTS / 64;

/// The bits, and who sets them.
#[derive(Debug, Default)]
pub(super) struct Ready {
    bits: Arc<Bits>,
    /// Each made when its slot is first used.
    wakers: Vec<Waker>,
    /// Bits taken out of a word and not handed out yet: slots of this word.
    taken: u64,
    word: usize,
}

#[derive(Debug, Default)]
struct Bits([AtomicU64; WORDS]);

#[derive(Debug)]
struct Bell {
    bits: Arc<Bits>,
    bit: usize,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.bits.set(self.bit);
    }
}

impl Bits {
    fn set(&self, bit: usize) {
        if let Some(word) = self.0.get(bit / 64) {
            // One thread sets and reads them; atomic only because a waker must be able to travel.
            word.fetch_or(1 << (bit % 64), Ordering::Relaxed);
        }
    }
}

impl Ready {
    /// Notes news of a slot.
    pub(super) fn set(&self, slot: usize) {
        self.bits.set(slot % SLOTS);
    }

    /// What the library shall call when there is news of this slot.
    pub(super) fn waker(&mut self, slot: usize) -> Waker {
        let bit = slot % SLOTS;
        while self.wakers.len() <= bit {
            let bell = Bell { bits: Arc::clone(&self.bits), bit: self.wakers.len() };
            self.wakers.push(Waker::from(Arc::new(bell)));
        }
        self.wakers.get(bit).cloned().unwrap_or_else(|| Waker::noop().clone())
    }

    /// Takes out a bit of which there is news: slots `bit`, `bit + SLOTS`, and so on.
    pub(super) fn next(&mut self) -> Option<usize> {
        for _ in 0..=WORDS {
            if self.taken != 0 {
                let bit = self.taken.trailing_zeros() as usize;
                self.taken &= self.taken - 1;
                return Some(self.word * 64 + bit);
            }
            self.word = (self.word + 1) % WORDS;
            let word = self.bits.0.get(self.word);
            self.taken = word.map_or(0, |word| word.swap(0, Ordering::Relaxed));
        }
        None
    }

    /// The slots that share a bit, up to the highest in use.
    pub(super) fn slots(bit: usize, bound: usize) -> impl Iterator<Item = usize> {
        (bit..bound).step_by(SLOTS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_slot_that_was_woken_is_handed_out_once() {
        let mut ready = Ready::default();
        for slot in [3, 64, 255, 3] {
            ready.waker(slot).wake();
        }
        let mut found: Vec<_> = std::iter::from_fn(|| ready.next()).collect();
        found.sort_unstable();
        assert_eq!(found, [3, 64, 255]);
        ready.set(3);
        assert_eq!(ready.next(), Some(3));
        assert_eq!(ready.next(), None);
    }

    #[test]
    fn slots_beyond_the_bits_share_them() {
        let mut ready = Ready::default();
        ready.waker(SLOTS + 5).wake();
        assert_eq!(ready.next(), Some(5));
        assert_eq!(Ready::slots(5, 2 * SLOTS).collect::<Vec<_>>(), [5, SLOTS + 5]);
        assert_eq!(Ready::slots(5, 5).count(), 0);
    }
}
