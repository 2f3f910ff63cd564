//! The sender's view of its arena: which chunks are out.
//!
//! Invariant: `free + leased = chunk_count`; a chunk is written only between lease and the record that names it, and
//! comes back only through the peer's RELEASE. The bookkeeping is private memory: a lying peer can at most be found out.

use super::fault::Fault;

/// Free list over the chunks of one arena.
#[derive(Debug)]
pub struct Arena {
    free: Vec<u32>,
    /// True exactly while the chunk is with the peer.
    leased: Vec<bool>,
}

impl Arena {
    /// All chunks free. Low indices are handed out first, so that pages that were never needed stay uncommitted.
    pub fn new(chunk_count: usize) -> Self {
        let count =
            u32::try_from(chunk_count).unwrap_or_else(|_| unreachable!("Geometry bounds it"));
        Self { free: (0..count).rev().collect(), leased: vec![false; chunk_count] }
    }

    /// A free chunk, `None` when all are out.
    pub fn lease(&mut self) -> Option<u32> {
        let index = self.free.pop()?;
        self.leased[index as usize] = true;
        Some(index)
    }

    /// The peer gives a chunk back.
    pub fn release(&mut self, index: u32) -> Result<(), Fault> {
        match self.leased.get_mut(index as usize) {
            Some(leased) if *leased => {
                *leased = false;
                self.free.push(index);
                Ok(())
            }
            _ => Err(Fault::Release { index }),
        }
    }

    /// Chunks that are with the peer.
    pub fn leased_count(&self) -> usize {
        self.leased.len() - self.free.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_is_out_once_and_comes_back_once() {
        let mut arena = Arena::new(2);
        assert_eq!((arena.lease(), arena.lease(), arena.lease()), (Some(0), Some(1), None));
        assert_eq!(arena.release(1), Ok(()));
        assert_eq!(arena.release(1), Err(Fault::Release { index: 1 }));
        assert_eq!(arena.release(2), Err(Fault::Release { index: 2 }));
        assert_eq!(arena.leased_count(), 1);
        assert_eq!(arena.lease(), Some(1));
    }
}
