//! What a shard holds of one worker: its end of the lane and the means to notice its death.
//!
//! Invariant: a link belongs to exactly one incarnation; it is made when the worker is spawned, given to its shard when
//! the worker is ready, and dropped (unmapping the segments) when the worker is gone. It is never repaired.

use std::{
    os::fd::OwnedFd,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
};

use crate::ipc::{Doorbell, EdgeLane};

/// A place in the pool, `0..workers`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkerId(pub u16);

/// How many times this place was filled; 1 for the first process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Incarnation(pub u32);

/// Exchanges in flight at one worker incarnation, over all shards, and how many there ever were. Relaxed: a hint for
/// dispatch and for whoever watches, never a bound.
#[derive(Clone, Debug, Default)]
pub struct Load(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    in_flight: AtomicU32,
    /// Shards that have requests waiting for room here.
    wanted: AtomicU32,
    ended: AtomicU64,
}

impl Load {
    /// One more in flight.
    pub fn add(&self) {
        self.0.in_flight.fetch_add(1, Ordering::Relaxed);
    }

    /// One of them has ended.
    pub fn remove(&self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.0.ended.fetch_add(1, Ordering::Relaxed);
    }

    /// In flight, as of a moment ago.
    pub fn get(&self) -> u32 {
        self.0.in_flight.load(Ordering::Relaxed)
    }

    /// A shard has requests that wait for room here, or none any more.
    pub fn want(&self, waiting: bool) {
        if waiting {
            self.0.wanted.fetch_add(1, Ordering::Relaxed);
        } else {
            self.0.wanted.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// How many shards wait for room, as of a moment ago.
    pub fn wanted(&self) -> u32 {
        self.0.wanted.load(Ordering::Relaxed)
    }

    /// Ended, as of a moment ago.
    pub fn ended(&self) -> u64 {
        self.0.ended.load(Ordering::Relaxed)
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
