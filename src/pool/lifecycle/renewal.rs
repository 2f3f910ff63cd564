//! Workers that are replaced though nothing is wrong with them: recycled one by one, reloaded all together, more or fewer.
//!
//! Invariant: at most one place recycles at a time, from the start of the successor to the end of the old process; and at
//! most one generation is on its way, which begins when nobody of an earlier change is left, so that a place never has more
//! than one process beyond the two that a change needs.

use std::time::{Duration, Instant};

use super::{
    Action, Cause, Generation, Id, Lifecycle, Next, Role, State,
    place::{Place, backoff},
};
use crate::{
    limits::{WORKER_EXIT_MAX, WORKERS_MAX},
    pool::{fault::WorkerError, link::WorkerId},
};

/// A process that is to be replaced.
#[derive(Clone, Copy, Debug)]
pub(super) struct Due {
    id: Id,
    cause: Cause,
    /// Not before.
    at: Instant,
    /// Of successors.
    failures: u32,
}

/// One that is being replaced.
#[derive(Clone, Copy, Debug)]
pub(super) struct Recycling {
    due: Due,
    successor: Id,
}

impl Lifecycle {
    /// Load the application anew. The number of the generation that will tell how it went (`Action::Reloaded`); `None` when the
    /// pool ends. One that comes during another one follows it.
    pub fn handle_reload(&mut self, now: Instant) -> Option<u32> {
        if !self.is_serving() {
            return None;
        }
        let number = match self.reload_due {
            Some(number) => number,
            None => {
                self.generations += 1;
                self.generations
            }
        };
        self.reload_due = Some(number);
        self.renew(now);
        Some(number)
    }

    /// So many workers from now on; at least one. False when the pool ends.
    pub fn handle_scale(&mut self, workers: usize, now: Instant) -> bool {
        if !self.is_serving() {
            return false;
        }
        let workers = workers.clamp(1, WORKERS_MAX);
        let vacant = (self.current.number != 0).then_some(now);
        let mut missing = workers.saturating_sub(self.wanted_count());
        for place in self.places.iter_mut().filter(|place| !place.wanted).take(missing) {
            place.wanted = true;
            place.vacant = vacant;
            missing -= 1;
        }
        self.places.extend((0..missing).map(|_| Place::new(vacant)));
        let mut wanted: Vec<WorkerId> =
            self.workers().filter(|worker| self.wants(*worker)).collect();
        // Those that do not serve go first, then the last ones.
        wanted.sort_by_key(|worker| (self.serving(*worker).is_none(), worker.0));
        let mut retire = Vec::new();
        for worker in wanted.split_off(workers.min(wanted.len())) {
            let Some(place) = self.place(worker) else { continue };
            place.wanted = false;
            place.vacant = None;
            place.failures = 0;
            place.restarts.count(Cause::Scale);
            retire.extend(self.dismiss(worker, now));
        }
        if !retire.is_empty() {
            self.actions.push_back(Action::Switch { attach: Vec::new(), retire });
        }
        self.commit_if_complete(now);
        self.handle_timeout(now);
        true
    }

    /// Replace the worker of that place; `Action::Recycled` follows. False when none serves there.
    pub fn handle_drain(&mut self, worker: WorkerId, now: Instant) -> bool {
        let Some(id) = self.serving(worker).filter(|_| self.is_serving()) else { return false };
        self.schedule(Due { id, cause: Cause::Drain, at: now, failures: 0 });
        self.renew(now);
        true
    }

    /// True when [`Self::handle_usage`] can lead to something.
    pub fn wants_usage(&self) -> bool {
        self.settings.requests_max.is_some() || self.settings.rss_max.is_some()
    }

    /// What a process has done and holds, as of now.
    pub fn handle_usage(&mut self, id: Id, requests: u64, rss: Option<u64>, now: Instant) {
        if self.serving(id.0) != Some(id) {
            return;
        }
        let jitter = self.draw(id, self.settings.requests_jitter);
        let served_out = self.settings.requests_max.is_some_and(|max| requests >= max + jitter);
        let too_large = self.settings.rss_max.zip(rss).is_some_and(|(max, rss)| rss > max);
        let cause = match (served_out, too_large) {
            (true, _) => Cause::MaxRequests,
            (false, true) => Cause::MaxRss,
            (false, false) => return,
        };
        if !self.is_due(id) {
            self.schedule(Due { id, cause, at: now, failures: 0 });
            self.renew(now);
        }
    }

    /// When [`Self::renew`] has something to do, unless an event brings it first.
    pub(super) fn renewal_timeout(&self) -> Option<Instant> {
        if !self.is_serving() {
            return None;
        }
        let free = self.recycling.is_none() && self.next.is_none() && self.reload_due.is_none();
        let due = self.due.iter().map(|due| due.at).filter(|_| free);
        due.chain(self.ends_of_life().map(|(_, at)| at)).min()
    }

    /// Begins what can begin.
    pub(super) fn renew(&mut self, now: Instant) {
        if !self.is_serving() {
            return;
        }
        let over: Vec<Id> =
            self.ends_of_life().filter(|(_, at)| *at <= now).map(|(id, _)| id).collect();
        for id in over {
            self.schedule(Due { id, cause: Cause::MaxLifetime, at: now, failures: 0 });
        }
        if let Some(Recycling { due, .. }) = self.recycling
            && self.get(due.id).is_none()
        {
            self.recycling = None;
            self.tell_recycled(due.id.0, None);
        }
        if self.next.is_none()
            && !self.processes().any(|(_, process)| process.role == Role::Leaver)
            && let Some(number) = self.reload_due.take()
        {
            self.start_reload(number, now);
        }
        while self.recycling.is_none() && self.next.is_none() && self.reload_due.is_none() {
            let Some(next) = self.due.iter().position(|due| due.at <= now) else { return };
            let due = self.due.remove(next);
            if self.serving(due.id.0) == Some(due.id) {
                self.actions.push_back(Action::Recycle { id: due.id, cause: due.cause });
                let spawned = self.spawn(due.id.0, Role::Successor, self.current.number, now);
                self.recycling = spawned.map(|successor| Recycling { due, successor });
            } else {
                // It was replaced meanwhile, for another reason.
                self.tell_recycled(due.id.0, None);
            }
        }
    }

    /// One that is ready, of the generation that serves: it serves, and its predecessor does not any more.
    pub(super) fn attach(&mut self, id: Id, now: Instant) {
        let mut retire = Vec::new();
        if self.get(id).is_some_and(|process| process.role == Role::Successor) {
            let cause = self.recycling.map_or(Cause::Drain, |recycling| recycling.due.cause);
            if let Some(place) = self.place(id.0) {
                place.restarts.count(cause);
            }
            retire.extend(self.succeed(id, now));
        }
        self.actions.push_back(Action::Switch { attach: vec![id], retire });
    }

    /// A holder has failed; its successor, if there is one of the same generation, is the holder from now on.
    pub(super) fn promote(&mut self, holder: Id) -> bool {
        let Some(Recycling { due, successor }) = self.recycling else { return false };
        if due.id != holder {
            return false;
        }
        for (id, role) in [(holder, Role::Leaver), (successor, Role::Holder)] {
            if let Some(process) = self.get_mut(id) {
                process.role = role;
            }
        }
        true
    }

    /// The successor of a worker that is recycled has failed.
    pub(super) fn retry_recycling(&mut self, id: Id, error: WorkerError, now: Instant) {
        if let Some(process) = self.get_mut(id) {
            process.role = Role::Leaver;
        }
        let Some(Recycling { due, .. }) = self.recycling.take() else { return };
        let failures = due.failures.saturating_add(1);
        let delay = backoff(failures, self.settings.respawn_delay_max);
        self.schedule(Due { at: now + delay, failures, ..due });
        self.actions.push_back(Action::Report {
            id,
            error: error.clone(),
            next: Next::Retry(delay),
        });
        self.tell_recycled(id.0, Some(error));
    }

    /// A worker of the next generation has failed: all of it goes.
    pub(super) fn abandon_reload(&mut self, id: Id, error: WorkerError, now: Instant) {
        let Some(generation) = self.next.take() else { return };
        let next = if self.has_served() { Next::KeepOld } else { Next::AwaitReload };
        self.actions.push_back(Action::Report { id, error: error.clone(), next });
        for other in self.of_generation(generation.number) {
            let Some(process) = self.get_mut(other) else { continue };
            process.role = Role::Leaver;
            if process.state.is_wanted() {
                self.stop(other, Some(now + WORKER_EXIT_MAX));
            }
        }
        let generation = generation.number;
        self.actions.push_back(Action::Reloaded { generation, error: Some(error) });
    }

    /// Lets the next generation take over once all of it is ready.
    pub(super) fn commit_if_complete(&mut self, now: Instant) {
        let Some(next) = &self.next else { return };
        let attach: Vec<Id> = self
            .of_generation(next.number)
            .into_iter()
            .filter(|id| self.get(*id).is_some_and(|process| process.role == Role::Successor))
            .collect();
        let standby = |id: &Id| self.get(*id).is_some_and(|p| p.state == State::Standby);
        if !attach.iter().all(standby) {
            return;
        }
        if attach.is_empty() {
            // All that were on their way went with their places; those that are left came later.
            return self.spawn_successors(next.number, now);
        }
        let Some(next) = self.next.take() else { return };
        let mut retire = Vec::new();
        for worker in self.workers() {
            let successor = attach.iter().copied().find(|id| id.0 == worker);
            let Some(place) = self.place(worker) else { continue };
            if place.of_role(Role::Holder).is_some() {
                place.restarts.count(Cause::Reload);
            }
            place.failures = 0;
            // One that came while this generation was on its way.
            place.vacant = (successor.is_none() && place.wanted).then_some(now);
            match successor {
                Some(id) => {
                    retire.extend(self.succeed(id, now));
                    self.set(id, State::Ready { since: now });
                }
                None => retire.extend(self.dismiss(worker, now)),
            }
        }
        let generation = next.number;
        self.current = next;
        self.actions.push_back(Action::Switch { attach, retire });
        self.actions.push_back(Action::Reloaded { generation, error: None });
    }

    fn start_reload(&mut self, number: u32, now: Instant) {
        if let Some(Recycling { due, successor }) = self.recycling.take() {
            // The reload replaces the worker as well.
            self.schedule(due);
            if let Some(process) = self.get_mut(successor) {
                process.role = Role::Leaver;
                self.stop(successor, Some(now + WORKER_EXIT_MAX));
            }
        }
        self.next = Some(Generation { number, manifest: None });
        self.spawn_successors(number, now);
    }

    fn spawn_successors(&mut self, number: u32, now: Instant) {
        for worker in self.workers() {
            if self.wants(worker) {
                self.spawn(worker, Role::Successor, number, now);
            }
        }
    }

    /// The successor is the holder from now on; its predecessor, if that serves.
    fn succeed(&mut self, id: Id, now: Instant) -> Option<Id> {
        let retired = self.let_go(id.0, Role::Holder, now);
        if let Some(process) = self.get_mut(id) {
            process.role = Role::Holder;
        }
        retired
    }

    /// Lets everybody of a place go; the one that serves is returned.
    fn dismiss(&mut self, worker: WorkerId, now: Instant) -> Option<Id> {
        if let Some(Recycling { due, .. }) = self.recycling
            && due.id.0 == worker
        {
            self.recycling = None;
            self.tell_recycled(worker, None);
        }
        self.let_go(worker, Role::Successor, now);
        self.let_go(worker, Role::Holder, now)
    }

    /// The process of that role leaves: when what it has is finished, if it serves (then it is returned), else at once.
    fn let_go(&mut self, worker: WorkerId, role: Role, now: Instant) -> Option<Id> {
        let retire_max = self.settings.retire_max;
        let process = self.place(worker)?.of_role_mut(role)?;
        process.role = Role::Leaver;
        let id = (worker, process.incarnation);
        match process.state {
            State::Ready { .. } => {
                let until = now + retire_max;
                process.state = State::Retiring { until, end: until + WORKER_EXIT_MAX };
                return Some(id);
            }
            State::Starting { .. } | State::Standby => self.stop(id, Some(now + WORKER_EXIT_MAX)),
            State::Retiring { .. } | State::Stuck { .. } | State::Stopping { .. } => {}
        }
        None
    }

    fn of_generation(&self, number: u32) -> Vec<Id> {
        let of = self.processes().filter(|(_, process)| process.generation == number);
        of.map(|(id, _)| id).collect()
    }

    fn wants(&self, worker: WorkerId) -> bool {
        self.places.get(usize::from(worker.0)).is_some_and(|place| place.wanted)
    }

    /// The process that serves in this place.
    fn serving(&self, worker: WorkerId) -> Option<Id> {
        let holder = self.places.get(usize::from(worker.0))?.of_role(Role::Holder)?;
        matches!(holder.state, State::Ready { .. }).then_some((worker, holder.incarnation))
    }

    fn is_due(&self, id: Id) -> bool {
        self.due.iter().any(|due| due.id == id)
            || self.recycling.is_some_and(|recycling| recycling.due.id == id)
    }

    /// A place is due once; to ask again makes it sooner.
    fn schedule(&mut self, due: Due) {
        if self.recycling.is_some_and(|recycling| recycling.due.id == due.id) {
            return;
        }
        match self.due.iter_mut().find(|other| other.id.0 == due.id.0) {
            Some(other) if other.id == due.id => other.at = other.at.min(due.at),
            Some(other) => *other = due,
            None => self.due.push(due),
        }
    }

    fn tell_recycled(&mut self, worker: WorkerId, error: Option<WorkerError>) {
        self.actions.push_back(Action::Recycled { worker, error });
    }

    /// Those that serve and are not due yet, and until when they may.
    fn ends_of_life(&self) -> impl Iterator<Item = (Id, Instant)> {
        let lifetime = self.settings.lifetime_max;
        self.processes().filter_map(move |(id, process)| {
            let State::Ready { since } = process.state else { return None };
            let lifetime = lifetime.filter(|_| !self.is_due(id))?;
            let tenth = u64::try_from(lifetime.as_millis() / 10).unwrap_or(u64::MAX);
            Some((id, since + lifetime - Duration::from_millis(self.draw(id, tenth))))
        })
    }

    /// A number up to this, the same whenever it is asked for.
    fn draw(&self, (worker, incarnation): Id, at_most: u64) -> u64 {
        // splitmix64.
        let which = (u64::from(worker.0) << 32 | u64::from(incarnation.0)) + 1;
        let mut bits = self.settings.seed.wrapping_add(which.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^= bits >> 31;
        bits.checked_rem(at_most.saturating_add(1)).unwrap_or(bits)
    }
}
