//! The workers that this shard can reach, and which of them gets an exchange.
//!
//! Invariant: a link is here from the moment its worker was ready until its death was seen or it broke the lane's
//! protocol; after that no exchange is given to it and no record of it is read.

use std::time::Instant;

use slab::Slab;

use super::{
    Limits,
    exchange::{Exchanges, Kept},
};
use crate::{
    ipc::{EdgeLane, Fault},
    limits::{REPEATABLE_SIZE_MAX, RING_SIZE},
    pool::{Incarnation, Load, WorkerId},
};

/// A link with what the shard knows about it.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) worker: WorkerId,
    pub(super) incarnation: Incarnation,
    pub(super) lane: EdgeLane,
    pub(super) load: Load,
    /// Guards a late completion of a former tenant's pidfd.
    pub(super) generation: u32,
    /// Set when the worker broke the protocol; the link goes at the end of the turn.
    pub(super) fault: Option<Fault>,
    /// Set when the worker's process has ended.
    pub(super) dead: bool,
    /// Something was written or read since the last publication.
    pub(super) touched: bool,
    pub(super) service: Service,
    /// Exchanges of this shard that are with the worker.
    pub(super) in_flight: u32,
    /// This shard is counted among those that wait for room at the worker.
    wants: bool,
    /// Up to where in the ring the requests were kept that may have to be repeated.
    kept_to: u64,
    /// How far the worker had read when the shard last looked...
    pub(super) taken: u64,
    /// ...and since when that has been all, though there was more.
    pub(super) still_since: Option<Instant>,
    /// The worker was reported as stuck.
    pub(super) stuck: bool,
}

/// What a link is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Service {
    /// It gets requests.
    Active,
    /// It finishes those that it has; that it has none left is to be reported.
    Retiring,
    /// That was reported.
    Retired,
}

impl Slot {
    pub(super) fn usable(&self) -> bool {
        self.fault.is_none() && !self.dead
    }

    pub(super) fn takes_requests(&self) -> bool {
        self.usable() && self.service == Service::Active
    }

    /// True when the worker may have one more exchange of this shard: there is room, and no other shard waits for it that
    /// has less than its share.
    fn may_begin(&self, limits: &Limits) -> bool {
        let free = self.load.get() < limits.inflight_max;
        free && (self.in_flight < limits.inflight_share || !self.is_wanted_by_others())
    }

    fn is_wanted_by_others(&self) -> bool {
        self.load.wanted() > u32::from(self.wants)
    }

    /// One more exchange is with the worker.
    pub(super) fn begin(&mut self) {
        self.in_flight += 1;
        self.load.add();
    }

    /// One of them has ended.
    pub(super) fn end(&mut self) {
        self.in_flight -= 1;
        self.load.remove();
    }

    /// Copies the requests that may have to be repeated before their places in the ring are written again. Most have ended
    /// long before: looking only once in a quarter of the ring makes this next to nothing for each request.
    pub(super) fn keep_repeatable(&mut self, index: usize, exchanges: &mut Exchanges) {
        const STEP: u64 = RING_SIZE as u64 / 4;
        let tail = self.lane.tail();
        if tail - self.kept_to <= STEP {
            return;
        }
        self.kept_to = tail;
        let lane = &self.lane;
        for (at, id, position) in exchanges.to_keep(index, tail - STEP) {
            let request = lane.recall_request(position, id);
            let kept = request.filter(|(payload, _)| payload.len() <= REPEATABLE_SIZE_MAX);
            if let Some(exchange) = exchanges.get_mut(at) {
                exchange.repeatable = kept.is_some();
                exchange.request = kept.map(|(payload, end)| Kept { payload, end });
            }
        }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Links {
    slots: Slab<Slot>,
    generation: u32,
    /// Where the search for the least loaded begins, so that equals take turns.
    next: usize,
}

impl Links {
    /// Takes a link in; its index and generation.
    pub(super) fn insert(
        &mut self,
        (worker, incarnation): (WorkerId, Incarnation),
        lane: EdgeLane,
        load: Load,
    ) -> (usize, u32) {
        self.generation = self.generation.wrapping_add(1);
        let generation = self.generation;
        let slot = Slot {
            worker,
            incarnation,
            lane,
            load,
            generation,
            fault: None,
            dead: false,
            touched: false,
            service: Service::Active,
            in_flight: 0,
            wants: false,
            kept_to: 0,
            taken: 0,
            still_since: None,
            stuck: false,
        };
        (self.slots.insert(slot), generation)
    }

    /// Gives this worker nothing new; its links.
    pub(super) fn retire(&mut self, id: (WorkerId, Incarnation)) -> Vec<usize> {
        let its = self.slots.iter_mut();
        let its = its.filter(|(_, slot)| (slot.worker, slot.incarnation) == id);
        its.map(|(index, slot)| {
            slot.service = Service::Retiring;
            index
        })
        .collect()
    }

    pub(super) fn get_mut(&mut self, index: usize) -> Option<&mut Slot> {
        self.slots.get_mut(index)
    }

    pub(super) fn remove(&mut self, index: usize) -> Option<Slot> {
        self.slots.try_remove(index)
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (usize, &mut Slot)> {
        self.slots.iter_mut()
    }

    /// Indices below this may be in use.
    pub(super) fn bound(&self) -> usize {
        self.slots.capacity()
    }

    /// True when some lane has something to read; no system call.
    pub(super) fn pending(&self) -> bool {
        self.slots.iter().any(|(_, slot)| slot.usable() && slot.lane.pending())
    }

    /// True when some worker may have one more exchange.
    pub(super) fn have_capacity(&self, limits: &Limits) -> bool {
        self.slots.iter().any(|(_, slot)| slot.takes_requests() && slot.may_begin(limits))
    }

    /// True when more is under way than half of what the workers may have.
    pub(super) fn are_half_full(&self, limits: &Limits) -> bool {
        let active = self.slots.iter().filter(|(_, slot)| slot.takes_requests());
        let (load, count) = active.fold((0_u64, 0_u64), |(load, count), (_, slot)| {
            (load + u64::from(slot.load.get()), count + 1)
        });
        2 * load > count * u64::from(limits.inflight_max)
    }

    /// Lets the other shards know whether this one waits for room.
    pub(super) fn want(&mut self, waiting: bool) {
        for (_, slot) in &mut self.slots {
            if std::mem::replace(&mut slot.wants, waiting) != waiting {
                slot.load.want(waiting);
            }
        }
    }

    /// True when a worker is kept from this shard by what other shards have or want there: this one does not hear when
    /// that ends.
    pub(super) fn are_full_of_others(&self, limits: &Limits) -> bool {
        let others = |slot: &Slot| slot.load.get() > slot.in_flight || slot.is_wanted_by_others();
        let mut active = self.slots.iter().filter(|(_, slot)| slot.takes_requests());
        active.any(|(_, slot)| !slot.may_begin(limits) && others(slot))
    }

    /// Chunks that are with workers.
    pub(super) fn leased_chunks(&self) -> usize {
        self.slots.iter().map(|(_, slot)| slot.lane.leased_chunks()).sum()
    }

    /// The least loaded usable link that may have one more exchange and that `tried` does not hold.
    pub(super) fn choose(&mut self, limits: &Limits, tried: &[usize]) -> Option<usize> {
        let start = self.next;
        let free = self.slots.iter().filter(|(index, slot)| {
            slot.takes_requests() && slot.may_begin(limits) && !tried.contains(index)
        });
        let chosen =
            free.min_by_key(|(index, slot)| (slot.load.get(), index.wrapping_sub(start)))?.0;
        self.next = chosen + 1;
        Some(chosen)
    }
}
