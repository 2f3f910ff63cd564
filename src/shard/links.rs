//! The workers that this shard can reach, and which of them gets an exchange.
//!
//! Invariant: a link is here from the moment its worker was ready until its death was seen or it broke the lane's
//! protocol; after that no exchange is given to it and no record of it is read.

use slab::Slab;

use crate::{
    ipc::{EdgeLane, Fault},
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

    fn takes_requests(&self) -> bool {
        self.usable() && self.service == Service::Active
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
        };
        (self.slots.insert(slot), generation)
    }

    /// Gives this worker nothing new.
    pub(super) fn retire(&mut self, id: (WorkerId, Incarnation)) {
        for (_, slot) in self.slots.iter_mut() {
            if (slot.worker, slot.incarnation) == id {
                slot.service = Service::Retiring;
            }
        }
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

    /// True when a request would find room at some worker, or no worker at all: then it is refused instead of held.
    pub(super) fn have_room(&mut self) -> bool {
        let mut full = false;
        for (_, slot) in self.slots.iter_mut().filter(|(_, slot)| slot.takes_requests()) {
            match slot.lane.has_room() {
                Ok(true) => return true,
                Ok(false) => full = true,
                Err(fault) => slot.fault = Some(fault),
            }
        }
        !full
    }

    /// The least loaded usable link that `tried` does not hold.
    pub(super) fn choose(&mut self, tried: &[usize]) -> Option<usize> {
        let start = self.next;
        let free = self
            .slots
            .iter()
            .filter(|(index, slot)| slot.takes_requests() && !tried.contains(index));
        let chosen =
            free.min_by_key(|(index, slot)| (slot.load.get(), index.wrapping_sub(start)))?.0;
        self.next = chosen + 1;
        Some(chosen)
    }
}
