//! What a shard holds of one worker: its end of the lane and the means to notice its death.
//!
//! Invariant: a link belongs to exactly one incarnation; it is made when the worker is spawned, given to its shard when
//! the worker is ready, and dropped (unmapping the segments) when the worker is gone. It is never repaired.

use std::{
    os::fd::OwnedFd,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use crate::ipc::{Doorbell, EdgeLane};

/// A place in the pool, `0..workers`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkerId(pub u16);

/// How many times this place was filled; 1 for the first process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Incarnation(pub u32);

/// Exchanges in flight at one worker incarnation, over all shards. A relaxed hint for dispatch, never a bound.
#[derive(Clone, Debug, Default)]
pub struct Load(Arc<AtomicU32>);

impl Load {
    /// One more.
    pub fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// One less.
    pub fn remove(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    /// As of a moment ago.
    pub fn get(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }
}

/// One shard's connection to one worker.
#[derive(Debug)]
pub struct Link {
    /// The worker's place.
    pub worker: WorkerId,
    /// Its incarnation.
    pub incarnation: Incarnation,
    /// The shard's end of the lane.
    pub lane: EdgeLane,
    /// Becomes readable when the worker wants the shard to look at the lane.
    pub bell: Doorbell,
    /// Becomes readable when the process ends.
    pub pidfd: OwnedFd,
    /// Shared with the other shards' links to the same incarnation.
    pub load: Load,
}
