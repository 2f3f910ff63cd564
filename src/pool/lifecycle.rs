//! How the workers of a pool come and go, without I/O.
//!
//! ```text
//!           ready           retire             the shards have finished, or took too long
//! Starting ───────► Ready ──────────► Retiring ────────────╮
//!    │ │  (Standby: until its whole                        ▼   exited
//!    │ │   generation is ready)  ╭─ Stuck ── dumped ─► Stopping ───────► gone; its place is filled again after a delay,
//!    │ │              │ ─────────╯                        ▲              or has a successor, or is not wanted any more
//!    │ ╰──────────────┴──── failed, late, faulty ──────────╯
//!    ╰── exited ──► gone
//! ```
//!
//! Invariant: a process leaves only by its exit, and whoever leaves by design (recycled, reloaded) does so after its
//! successor is attached. Inputs are `handle_*`, outputs `poll_*`; inputs about processes that are gone are ignored. No
//! application error restarts workers for ever: as long as none was ever ready, the first failure ends the pool, or in
//! a patient pool (`--reload`) waits for the next reload. Routes are a generation's: what a worker announces is compared
//! with what the first one of its own generation announced.
#![forbid(unsafe_code)]

mod place;
mod renewal;

use std::{
    collections::VecDeque,
    process::ExitStatus,
    time::{Duration, Instant},
};

pub use self::place::{Cause, Restarts, State};
use self::{
    place::{Place, Process, Role, backoff},
    renewal::{Due, Recycling},
};
use super::{
    channel::Manifest,
    fault::WorkerError,
    link::{Incarnation, WorkerId},
};
use crate::limits::{
    REAP_MAX, RESPAWN_DELAY_MAX, SHUTDOWN_MAX, STACK_DUMP_MAX, WORKER_EXIT_MAX, WORKER_START_MAX,
    drain_part,
};

/// One process: a place and which filling of it.
pub type Id = (WorkerId, Incarnation);

/// What the operator may want otherwise.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// From the start of a process until it is ready.
    pub start_max: Duration,
    /// From the request to stop until workers are killed; the shards get the greater part of it.
    pub shutdown_max: Duration,
    /// For what is in flight at a worker that was replaced.
    pub retire_max: Duration,
    /// What the doubling of the pause before a respawn ends at.
    pub respawn_delay_max: Duration,
    /// Replace a worker that has served so many requests...
    pub requests_max: Option<u64>,
    /// ...and up to so many more, each worker its own number.
    pub requests_jitter: u64,
    /// Replace a worker that has served that long, or up to a tenth less.
    pub lifetime_max: Option<Duration>,
    /// Replace a worker that holds more bytes than this.
    pub rss_max: Option<u64>,
    /// An application that never got ready is waited for: a reload brings it.
    pub patient: bool,
    /// What the jitter is drawn from.
    pub seed: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            start_max: WORKER_START_MAX,
            shutdown_max: SHUTDOWN_MAX,
            retire_max: drain_part(SHUTDOWN_MAX),
            respawn_delay_max: RESPAWN_DELAY_MAX,
            requests_max: None,
            requests_jitter: 0,
            lifetime_max: None,
            rss_max: None,
            patient: false,
            seed: 0,
        }
    }
}

/// What the driver is to do.
#[derive(Debug, PartialEq, Eq)]
pub enum Action {
    /// Start a process; then `handle_spawn_failed` or, in time, `handle_exited`.
    Spawn(Id),
    /// At one stroke for each shard: give the links of some processes to it, by the routes of their generation, and let it give
    /// nothing new to others; then `handle_retired`.
    Switch {
        /// From now on these serve.
        attach: Vec<Id>,
        /// From now on these do not.
        retire: Vec<Id>,
    },
    /// Let it write down where its threads stand.
    DumpStacks(Id),
    /// Ask it to finish and end.
    SendStop(Id),
    /// End it.
    Kill(Id),
    /// Tell the operator.
    Report {
        /// Of which process.
        id: Id,
        /// What is wrong with it.
        error: WorkerError,
        /// What follows from it.
        next: Next,
    },
    /// A reload has ended: this generation serves, or will not.
    Reloaded {
        /// Which one.
        generation: u32,
        /// Why it does not serve.
        error: Option<WorkerError>,
    },
    /// This one is to be replaced; its successor is started. For the log.
    Recycle {
        /// Which process.
        id: Id,
        /// Why.
        cause: Cause,
    },
    /// A worker was replaced by its successor and is gone, or the successor failed and another one will be tried.
    Recycled {
        /// Its place.
        worker: WorkerId,
        /// Why it was not replaced.
        error: Option<WorkerError>,
    },
    /// Let the shards finish what is in flight, at most that long; then `handle_shards_drained`.
    DrainShards(Duration),
    /// The pool is gone: nothing more will come.
    Finish(Outcome),
}

/// What follows from a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// The place is filled again after this.
    Respawn(Duration),
    /// Its successor is starting already.
    Succeeded,
    /// Its predecessor goes on, and is to be replaced again after this.
    Retry(Duration),
    /// The generation that serves goes on doing so.
    KeepOld,
    /// There is none that serves: the next reload may bring one.
    AwaitReload,
    /// The pool ends.
    GiveUp,
    /// It was leaving anyway.
    Nothing,
}

/// How it all ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// As asked.
    Stopped,
    /// At once, as asked a second time, by this signal.
    Interrupted(i32),
    /// It could not start, or not go on; that has been reported.
    Failed,
}

/// A process, for whoever watches.
#[derive(Clone, Copy, Debug)]
pub struct View {
    /// Which one.
    pub id: Id,
    /// Of the application.
    pub generation: u32,
    /// Where it stands.
    pub state: State,
    /// Since when it is there.
    pub started: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Places are filled.
    Serving,
    /// The shards finish, until then at the latest; workers stay for them.
    Draining { until: Instant },
    /// Workers end.
    Stopping,
    /// Killed workers are reaped, until then at the latest.
    Reaping { until: Instant },
    /// `Finish` is out.
    Finished,
}

/// One loading of the application.
#[derive(Debug)]
struct Generation {
    number: u32,
    /// What its first worker announced. Every later one must announce the same.
    manifest: Option<Manifest>,
}

/// All places of a pool.
#[derive(Debug)]
pub struct Lifecycle {
    settings: Settings,
    places: Vec<Place>,
    phase: Phase,
    outcome: Outcome,
    /// When workers are killed that were asked to stop.
    stop_deadline: Option<Instant>,
    /// The generation that serves, or is to as soon as one of its workers is ready.
    current: Generation,
    /// The one that is to replace it once all its workers are ready.
    next: Option<Generation>,
    /// The number of a reload that was asked for and has not begun.
    reload_due: Option<u32>,
    /// The latest number that was given.
    generations: u32,
    recycling: Option<Recycling>,
    due: Vec<Due>,
    actions: VecDeque<Action>,
}

impl Lifecycle {
    /// A pool of that many places, all to be filled at once.
    pub fn new(settings: Settings, workers: u16, now: Instant) -> Self {
        let vacant = (!settings.patient).then_some(now);
        let mut pool = Self {
            places: (0..workers).map(|_| Place::new(vacant)).collect(),
            phase: Phase::Serving,
            outcome: Outcome::Stopped,
            stop_deadline: None,
            current: Generation { number: u32::from(!settings.patient), manifest: None },
            next: None,
            reload_due: None,
            generations: u32::from(!settings.patient),
            recycling: None,
            due: Vec::new(),
            actions: VecDeque::new(),
            settings,
        };
        if settings.patient {
            // The first generation comes as all later ones do, and may fail as they may.
            pool.handle_reload(now);
        }
        pool.handle_timeout(now);
        pool
    }

    /// What to do next.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When to call [`Self::handle_timeout`].
    pub fn poll_timeout(&self) -> Option<Instant> {
        let of_phase = match self.phase {
            Phase::Draining { until } | Phase::Reaping { until } => Some(until),
            Phase::Serving | Phase::Stopping => None,
            Phase::Finished => return None,
        };
        let of_processes = self.processes().filter_map(|(_, process)| process.state.deadline());
        let of_places = self.places.iter().filter_map(Place::due);
        of_processes.chain(of_places).chain(of_phase).chain(self.renewal_timeout()).min()
    }

    /// Workers that serve.
    pub fn ready_count(&self) -> usize {
        let ready = |state| matches!(state, State::Ready { .. });
        self.processes().filter(|(_, process)| ready(process.state)).count()
    }

    /// Workers that there should be.
    pub fn wanted_count(&self) -> usize {
        self.places.iter().filter(|place| place.wanted).count()
    }

    /// True until something asked the pool to end.
    pub fn is_serving(&self) -> bool {
        self.phase == Phase::Serving
    }

    /// True when this process was asked to end, or killed.
    pub fn is_leaving(&self, id: Id) -> bool {
        self.get(id).is_some_and(|process| matches!(process.state, State::Stopping { .. }))
    }

    /// The generation that serves; 0 while there never was one.
    pub fn generation(&self) -> u32 {
        self.current.number
    }

    /// The one that this process belongs to, with what its first ready worker announced; `None` when neither the one that serves
    /// nor the next one is.
    pub fn generation_of(&self, id: Id) -> Option<(u32, Option<&Manifest>)> {
        let number = self.get(id)?.generation;
        let generation = [Some(&self.current), self.next.as_ref()].into_iter().flatten();
        let found = generation.into_iter().find(|generation| generation.number == number)?;
        Some((number, found.manifest.as_ref()))
    }

    /// True when some application served, once.
    pub fn has_served(&self) -> bool {
        self.current.manifest.is_some()
    }

    /// Every process, in order.
    pub fn views(&self) -> impl Iterator<Item = View> {
        self.processes().map(|(id, process)| View {
            id,
            generation: process.generation,
            state: process.state,
            started: process.started,
        })
    }

    /// Each place, whether it is wanted, and how often its workers were replaced.
    pub fn restarts(&self) -> impl Iterator<Item = (WorkerId, bool, &Restarts)> {
        let of = |(worker, place)| {
            let place: &Place = place;
            (WorkerId(worker), place.wanted, &place.restarts)
        };
        (0..).zip(&self.places).map(of)
    }

    /// A worker announced that it serves.
    pub fn handle_ready(&mut self, id: Id, manifest: Manifest, now: Instant) {
        let Some(process) = self.get(id) else { return };
        match process.state {
            State::Starting { .. } => {}
            State::Standby | State::Ready { .. } | State::Retiring { .. } => {
                let error = WorkerError::Channel("ready twice".to_owned());
                return self.fail(id, error, now);
            }
            // Too late: it was given up.
            State::Stuck { .. } | State::Stopping { .. } => return,
        }
        let number = process.generation;
        let is_next = self.next.as_ref().is_some_and(|next| next.number == number);
        let generation = match &mut self.next {
            Some(next) if is_next => next,
            _ => &mut self.current,
        };
        match &generation.manifest {
            Some(accepted) if *accepted != manifest => {
                return self.fail(id, WorkerError::Changed, now);
            }
            Some(_) => {}
            None => generation.manifest = Some(manifest),
        }
        if is_next {
            self.set(id, State::Standby);
            self.commit_if_complete(now);
        } else {
            self.set(id, State::Ready { since: now });
            self.attach(id, now);
        }
    }

    /// A worker is of no use (any more): by its own report or by somebody's finding.
    pub fn handle_failed(&mut self, id: Id, error: WorkerError, now: Instant) {
        let Some(process) = self.get(id) else { return };
        if process.state.is_wanted() || matches!(process.state, State::Retiring { .. }) {
            self.fail(id, error, now);
        }
    }

    /// There is no process: it could not be started.
    pub fn handle_spawn_failed(&mut self, id: Id, error: String, now: Instant) {
        self.fail(id, WorkerError::Spawn(error), now);
        self.remove(id, now);
    }

    /// A process has ended and is reaped.
    pub fn handle_exited(&mut self, id: Id, status: ExitStatus, now: Instant) {
        self.handle_failed(id, WorkerError::Exited(status), now);
        self.remove(id, now);
    }

    /// No shard has anything in flight at this process any more.
    pub fn handle_retired(&mut self, id: Id) {
        if let Some(Process { state: State::Retiring { end, .. }, .. }) = self.get(id) {
            self.stop(id, Some(*end));
        }
    }

    /// Finish what is in flight, then end.
    pub fn handle_stop(&mut self, now: Instant) {
        self.wind_down(Outcome::Stopped, self.settings.shutdown_max, now);
    }

    /// The server cannot go on (a shard failed).
    pub fn handle_server_failed(&mut self, now: Instant) {
        self.wind_down(Outcome::Failed, self.settings.shutdown_max, now);
        // Also when it was about to stop anyway.
        if self.outcome == Outcome::Stopped {
            self.outcome = Outcome::Failed;
        }
    }

    /// End at once.
    pub fn handle_interrupt(&mut self, signal: i32, now: Instant) {
        if self.phase != Phase::Finished {
            self.outcome = Outcome::Interrupted(signal);
            self.kill_all(now);
        }
    }

    /// No shard has anything in flight any more.
    pub fn handle_shards_drained(&mut self) {
        if !matches!(self.phase, Phase::Draining { .. }) {
            return;
        }
        self.phase = Phase::Stopping;
        for (id, state) in self.states() {
            if matches!(state, State::Ready { .. } | State::Retiring { .. }) {
                self.stop(id, self.stop_deadline);
            }
        }
        self.finish_if_gone();
    }

    /// The time of [`Self::poll_timeout`] has come.
    pub fn handle_timeout(&mut self, now: Instant) {
        for (id, state) in self.states() {
            if state.deadline().is_none_or(|until| now < until) {
                continue;
            }
            match state {
                State::Starting { .. } => {
                    self.fail(id, WorkerError::StartTimeout(self.settings.start_max), now);
                }
                State::Retiring { end, .. } => self.stop(id, Some(end)),
                State::Stuck { .. } | State::Stopping { .. } => self.kill(id),
                State::Standby | State::Ready { .. } => {}
            }
        }
        for worker in self.workers() {
            let Some(place) = self.place(worker) else { continue };
            if place.due().is_some_and(|until| until <= now) {
                place.vacant = None;
                self.spawn(worker, Role::Holder, self.current.number, now);
            }
        }
        self.renew(now);
        match self.phase {
            Phase::Draining { until } if until <= now => self.handle_shards_drained(),
            Phase::Reaping { until } if until <= now => self.finish(),
            _ => {}
        }
    }

    fn workers(&self) -> impl Iterator<Item = WorkerId> + use<> {
        // At most `WORKERS_MAX` of them.
        (0..u16::try_from(self.places.len()).unwrap_or(u16::MAX)).map(WorkerId)
    }

    fn place(&mut self, worker: WorkerId) -> Option<&mut Place> {
        self.places.get_mut(usize::from(worker.0))
    }

    fn processes(&self) -> impl Iterator<Item = (Id, &Process)> {
        self.workers().zip(&self.places).flat_map(|(worker, place)| {
            place.processes.iter().map(move |process| ((worker, process.incarnation), process))
        })
    }

    fn states(&self) -> Vec<(Id, State)> {
        self.processes().map(|(id, process)| (id, process.state)).collect()
    }

    fn get(&self, (worker, incarnation): Id) -> Option<&Process> {
        self.places.get(usize::from(worker.0))?.get(incarnation)
    }

    fn get_mut(&mut self, (worker, incarnation): Id) -> Option<&mut Process> {
        self.place(worker)?.get_mut(incarnation)
    }

    fn set(&mut self, id: Id, state: State) {
        if let Some(process) = self.get_mut(id) {
            process.state = state;
        }
    }

    fn spawn(&mut self, worker: WorkerId, role: Role, generation: u32, now: Instant) -> Option<Id> {
        let until = now + self.settings.start_max;
        let incarnation = self.place(worker)?.add(role, generation, until, now);
        self.actions.push_back(Action::Spawn((worker, incarnation)));
        Some((worker, incarnation))
    }

    /// Asks it to end.
    fn stop(&mut self, id: Id, until: Option<Instant>) {
        self.set(id, State::Stopping { until });
        self.actions.push_back(Action::SendStop(id));
    }

    fn kill(&mut self, id: Id) {
        self.set(id, State::Stopping { until: None });
        self.actions.push_back(Action::Kill(id));
    }

    /// Something is wrong with a process that was not to end yet.
    fn fail(&mut self, id: Id, error: WorkerError, now: Instant) {
        let Some(process) = self.get(id) else { return };
        let (role, state, generation) = (process.role, process.state, process.generation);
        let over = matches!(error, WorkerError::Exited(_) | WorkerError::Spawn(_));
        match error {
            // There is nobody to be killed.
            _ if over => self.set(id, State::Stopping { until: None }),
            // One that says so itself is about to end, and may have something to clean up.
            WorkerError::Application { .. } => {
                self.set(id, State::Stopping { until: Some(now + WORKER_EXIT_MAX) });
            }
            WorkerError::Stuck(_) => {
                self.set(id, State::Stuck { until: now + STACK_DUMP_MAX });
                self.actions.push_back(Action::DumpStacks(id));
            }
            _ => self.kill(id),
        }
        let delay_max = self.settings.respawn_delay_max;
        if role != Role::Leaver
            && let Some(place) = self.place(id.0)
        {
            place.restarts.count(Cause::of(&error));
        }
        if !self.is_serving() {
            // Workers of an application that cannot start fail alike: once is enough.
            if self.has_served() {
                self.actions.push_back(Action::Report { id, error, next: Next::Nothing });
            }
            return;
        }
        match role {
            Role::Holder if !self.has_served() => {
                self.actions.push_back(Action::Report { id, error, next: Next::GiveUp });
                self.wind_down(Outcome::Failed, Duration::ZERO, now);
            }
            Role::Holder => {
                let Some(place) = self.place(id.0) else { return };
                place.note_failure(state, now);
                let delay = backoff(place.failures, delay_max);
                let next = if self.promote(id) { Next::Succeeded } else { Next::Respawn(delay) };
                self.actions.push_back(Action::Report { id, error, next });
            }
            Role::Successor if generation == self.current.number => {
                self.retry_recycling(id, error, now);
            }
            Role::Successor => self.abandon_reload(id, error, now),
            Role::Leaver => {
                self.actions.push_back(Action::Report { id, error, next: Next::Nothing });
            }
        }
    }

    /// The process is gone: its place is refilled, or not.
    fn remove(&mut self, id: Id, now: Instant) {
        let serving = self.is_serving();
        let delay_max = self.settings.respawn_delay_max;
        let Some(place) = self.place(id.0) else { return };
        let Some(process) = place.get(id.1) else { return };
        if process.role == Role::Holder && serving && place.wanted {
            place.vacant = Some(now + backoff(place.failures, delay_max));
        }
        place.processes.retain(|process| process.incarnation != id.1);
        self.renew(now);
        self.finish_if_gone();
    }

    /// Ends the pool: the shards first, then the workers.
    fn wind_down(&mut self, outcome: Outcome, at_most: Duration, now: Instant) {
        if !self.is_serving() {
            return;
        }
        let drain = drain_part(at_most);
        self.outcome = outcome;
        self.phase = Phase::Draining { until: now + drain + REAP_MAX };
        // Nothing is in flight when there is no time for it; to end takes some time none the less.
        self.stop_deadline = Some(now + at_most.max(REAP_MAX));
        (self.next, self.reload_due, self.recycling) = (None, None, None);
        self.due.clear();
        self.actions.push_back(Action::DrainShards(drain));
        for place in &mut self.places {
            place.vacant = None;
        }
        for (id, state) in self.states() {
            // They hold no exchange; they need not wait for the shards.
            if matches!(state, State::Starting { .. } | State::Standby) {
                self.stop(id, Some(now + WORKER_EXIT_MAX));
            }
        }
    }

    fn kill_all(&mut self, now: Instant) {
        self.phase = Phase::Reaping { until: now + REAP_MAX };
        for place in &mut self.places {
            place.vacant = None;
        }
        for (id, _) in self.states() {
            self.kill(id);
        }
        self.finish_if_gone();
    }

    fn finish_if_gone(&mut self) {
        let gone = self.places.iter().all(|place| place.processes.is_empty());
        if gone && matches!(self.phase, Phase::Stopping | Phase::Reaping { .. }) {
            self.finish();
        }
    }

    fn finish(&mut self) {
        self.phase = Phase::Finished;
        self.actions.push_back(Action::Finish(self.outcome));
    }
}

#[cfg(test)]
mod tests;
