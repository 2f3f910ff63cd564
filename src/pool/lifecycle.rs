//! How the workers of a pool come and go, without I/O.
//!
//! ```text
//!            ready            stop, failed             exited
//! Starting ────────► Ready ──────────────► Draining ──────────► Gone (the pool stops)
//!    ▲  │              │ exited               ▲  ╰────────────► Waiting (the pool serves) ──╮
//!    │  ╰──────────────┼──── failed, late ────╯                    ▲                        │
//!    │                 ╰───────────────────────────────────────────╯                        │
//!    ╰───────────────────────────── the delay has passed ───────────────────────────────────╯
//! ```
//!
//! Invariant: a place has at most one process, and is left for `Waiting` or `Gone` only by its exit. Inputs are `handle_*`,
//! outputs `poll_*`; inputs about an earlier incarnation are ignored. No application error restarts workers for ever: as long
//! as none was ever ready, the first failure ends the pool.
#![forbid(unsafe_code)]

use std::{
    collections::VecDeque,
    process::ExitStatus,
    time::{Duration, Instant},
};

use super::{
    channel::Manifest,
    fault::WorkerError,
    link::{Incarnation, WorkerId},
};
use crate::limits::{
    DRAIN_MAX, REAP_MAX, RESPAWN_DELAY_MAX, RESPAWN_DELAY_MIN, STOP_MAX, WORKER_EXIT_MAX,
    WORKER_HEALTHY_AFTER, WORKER_START_MAX,
};

/// One process: a place and which filling of it.
pub type Id = (WorkerId, Incarnation);

/// What the driver is to do.
#[derive(Debug, PartialEq, Eq)]
pub enum Action {
    /// Start a process; then `handle_spawn_failed` or, in time, `handle_exited`.
    Spawn(Id),
    /// Give its links to the shards, routing by the manifest that was accepted.
    Attach(Id),
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
        /// When the place is filled again; `None` when it is not.
        retry: Option<Duration>,
    },
    /// Let the shards finish what is in flight, at most that long; then `handle_shards_drained`.
    DrainShards(Duration),
    /// The pool is gone: nothing more will come.
    Finish(Outcome),
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

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// No process until then.
    Waiting { until: Instant },
    /// Must be ready by then.
    Starting { until: Instant },
    /// Serves, from then on.
    Ready { since: Instant },
    /// Is to end by itself until then; `None`: has been killed.
    Draining { until: Option<Instant> },
    /// No process, for good.
    Gone,
}

#[derive(Debug)]
struct Place {
    state: State,
    incarnation: Incarnation,
    /// Since it was last healthy.
    failures: u32,
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

/// All places of a pool.
#[derive(Debug)]
pub struct Lifecycle {
    places: Vec<Place>,
    phase: Phase,
    outcome: Outcome,
    /// When workers are killed that were asked to stop.
    stop_deadline: Option<Instant>,
    /// The first one that was accepted. Every later worker must announce the same.
    manifest: Option<Manifest>,
    actions: VecDeque<Action>,
}

impl Lifecycle {
    /// A pool of that many places, all to be filled at once.
    pub fn new(workers: u16, now: Instant) -> Self {
        let place = || Place {
            state: State::Waiting { until: now },
            incarnation: Incarnation(0),
            failures: 0,
        };
        let mut pool = Self {
            places: (0..workers).map(|_| place()).collect(),
            phase: Phase::Serving,
            outcome: Outcome::Stopped,
            stop_deadline: None,
            manifest: None,
            actions: VecDeque::new(),
        };
        pool.handle_timeout(now);
        pool
    }

    /// What to do next.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When to call [`Self::handle_timeout`].
    pub fn poll_timeout(&self) -> Option<Instant> {
        let of_place = |place: &Place| match place.state {
            State::Waiting { until } | State::Starting { until } => Some(until),
            State::Draining { until } => until,
            State::Ready { .. } | State::Gone => None,
        };
        let of_phase = match self.phase {
            Phase::Draining { until } | Phase::Reaping { until } => Some(until),
            Phase::Serving | Phase::Stopping => None,
            Phase::Finished => return None,
        };
        self.places.iter().filter_map(of_place).chain(of_phase).min()
    }

    /// Workers that serve.
    pub fn ready_count(&self) -> usize {
        self.places.iter().filter(|place| matches!(place.state, State::Ready { .. })).count()
    }

    /// True until something asked the pool to end.
    pub fn is_serving(&self) -> bool {
        self.phase == Phase::Serving
    }

    /// True when this process was asked to end, or killed.
    pub fn is_leaving(&self, (worker, incarnation): Id) -> bool {
        self.places.get(usize::from(worker.0)).is_some_and(|place| {
            place.incarnation == incarnation && matches!(place.state, State::Draining { .. })
        })
    }

    /// The manifest that was accepted.
    pub fn manifest(&self) -> Option<&Manifest> {
        self.manifest.as_ref()
    }

    /// A worker announced that it serves.
    pub fn handle_ready(&mut self, id: Id, manifest: Manifest, now: Instant) {
        let Some(place) = self.place(id) else { return };
        match place.state {
            State::Starting { .. } => {}
            State::Ready { .. } => {
                let error = WorkerError::Channel("ready twice".to_owned());
                return self.handle_failed(id, error, now);
            }
            // Too late: it was given up.
            State::Draining { .. } | State::Waiting { .. } | State::Gone => return,
        }
        place.state = State::Ready { since: now };
        match &self.manifest {
            Some(accepted) if *accepted != manifest => {
                return self.handle_failed(id, WorkerError::Changed, now);
            }
            Some(_) => {}
            None => self.manifest = Some(manifest),
        }
        self.actions.push_back(Action::Attach(id));
    }

    /// A worker is of no use (any more): by its own report or by somebody's finding.
    pub fn handle_failed(&mut self, id: Id, error: WorkerError, now: Instant) {
        let Some(place) = self.place(id) else { return };
        if !matches!(place.state, State::Starting { .. } | State::Ready { .. }) {
            return;
        }
        // One that says so itself is about to end, and may have something to clean up.
        let until = matches!(error, WorkerError::Application { .. }).then(|| now + WORKER_EXIT_MAX);
        place.fail(now);
        place.state = State::Draining { until };
        if until.is_none() {
            self.actions.push_back(Action::Kill(id));
        }
        self.report(id, error, now);
    }

    /// There is no process: it could not be started.
    pub fn handle_spawn_failed(&mut self, id: Id, error: String, now: Instant) {
        let Some(place) = self.place(id) else { return };
        place.fail(now);
        place.state = State::Draining { until: None };
        self.report(id, WorkerError::Spawn(error), now);
        self.vacate(id, now);
    }

    /// A process has ended and is reaped.
    pub fn handle_exited(&mut self, id: Id, status: ExitStatus, now: Instant) {
        let Some(place) = self.place(id) else { return };
        if matches!(place.state, State::Starting { .. } | State::Ready { .. }) {
            place.fail(now);
            place.state = State::Draining { until: None };
            self.report(id, WorkerError::Exited(status), now);
        }
        self.vacate(id, now);
    }

    /// Finish what is in flight, then end.
    pub fn handle_stop(&mut self, now: Instant) {
        self.wind_down(Outcome::Stopped, DRAIN_MAX, now);
    }

    /// The server cannot go on (a shard failed).
    pub fn handle_server_failed(&mut self, now: Instant) {
        self.wind_down(Outcome::Failed, DRAIN_MAX, now);
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
        for id in self.ids() {
            let until = self.stop_deadline;
            let Some(place) = self.place(id) else { continue };
            if matches!(place.state, State::Ready { .. }) {
                place.state = State::Draining { until };
                self.actions.push_back(Action::SendStop(id));
            }
        }
        self.finish_if_gone();
    }

    /// The time of [`Self::poll_timeout`] has come.
    pub fn handle_timeout(&mut self, now: Instant) {
        for id in self.ids() {
            let Some(place) = self.place(id) else { continue };
            match place.state {
                State::Waiting { until } if until <= now => {
                    place.incarnation.0 += 1;
                    place.state = State::Starting { until: now + WORKER_START_MAX };
                    let id = (id.0, place.incarnation);
                    self.actions.push_back(Action::Spawn(id));
                }
                State::Starting { until } if until <= now => {
                    self.handle_failed(id, WorkerError::StartTimeout(WORKER_START_MAX), now);
                }
                State::Draining { until: Some(until) } if until <= now => {
                    place.state = State::Draining { until: None };
                    self.actions.push_back(Action::Kill(id));
                }
                _ => {}
            }
        }
        match self.phase {
            Phase::Draining { until } if until <= now => self.handle_shards_drained(),
            Phase::Reaping { until } if until <= now => self.finish(),
            _ => {}
        }
    }

    fn ids(&self) -> Vec<Id> {
        let id = |(worker, place): (u16, &Place)| (WorkerId(worker), place.incarnation);
        (0..).zip(&self.places).map(id).collect()
    }

    /// The place, if it is this incarnation that fills it.
    fn place(&mut self, (worker, incarnation): Id) -> Option<&mut Place> {
        let place = self.places.get_mut(usize::from(worker.0))?;
        (place.incarnation == incarnation).then_some(place)
    }

    fn report(&mut self, id: Id, error: WorkerError, now: Instant) {
        match self.phase {
            Phase::Serving if self.manifest.is_none() => {
                self.actions.push_back(Action::Report { id, error, retry: None });
                self.wind_down(Outcome::Failed, Duration::ZERO, now);
            }
            Phase::Serving => {
                let retry = self.place(id).map(|place| place.delay());
                self.actions.push_back(Action::Report { id, error, retry });
            }
            // Workers of an application that cannot start fail alike: once is enough.
            _ if self.manifest.is_none() => {}
            _ => self.actions.push_back(Action::Report { id, error, retry: None }),
        }
    }

    /// The process is gone: refill its place, or not.
    fn vacate(&mut self, id: Id, now: Instant) {
        let serving = self.is_serving();
        let Some(place) = self.place(id) else { return };
        place.state = match serving {
            true => State::Waiting { until: now + place.delay() },
            false => State::Gone,
        };
        self.finish_if_gone();
    }

    fn wind_down(&mut self, outcome: Outcome, drain: Duration, now: Instant) {
        if !self.is_serving() {
            return;
        }
        self.outcome = outcome;
        self.phase = Phase::Draining { until: now + drain + REAP_MAX };
        self.stop_deadline = Some(now + STOP_MAX);
        self.actions.push_back(Action::DrainShards(drain));
        for id in self.ids() {
            let Some(place) = self.place(id) else { continue };
            match place.state {
                State::Waiting { .. } => place.state = State::Gone,
                // It holds no exchange; it need not wait for the shards.
                State::Starting { .. } => {
                    place.state = State::Draining { until: Some(now + WORKER_EXIT_MAX) };
                    self.actions.push_back(Action::SendStop(id));
                }
                State::Ready { .. } | State::Draining { .. } | State::Gone => {}
            }
        }
    }

    fn kill_all(&mut self, now: Instant) {
        self.phase = Phase::Reaping { until: now + REAP_MAX };
        for id in self.ids() {
            let Some(place) = self.place(id) else { continue };
            match place.state {
                State::Waiting { .. } | State::Gone => place.state = State::Gone,
                State::Starting { .. } | State::Ready { .. } | State::Draining { .. } => {
                    place.state = State::Draining { until: None };
                    self.actions.push_back(Action::Kill(id));
                }
            }
        }
        self.finish_if_gone();
    }

    fn finish_if_gone(&mut self) {
        let gone = self.places.iter().all(|place| place.state == State::Gone);
        if gone && matches!(self.phase, Phase::Stopping | Phase::Reaping { .. }) {
            self.finish();
        }
    }

    fn finish(&mut self) {
        self.phase = Phase::Finished;
        self.actions.push_back(Action::Finish(self.outcome));
    }
}

impl Place {
    fn fail(&mut self, now: Instant) {
        let healthy =
            matches!(self.state, State::Ready { since } if now - since >= WORKER_HEALTHY_AFTER);
        self.failures = if healthy { 1 } else { self.failures.saturating_add(1) };
    }

    fn delay(&self) -> Duration {
        let doublings = self.failures.saturating_sub(1).min(16);
        (RESPAWN_DELAY_MIN * (1 << doublings)).min(RESPAWN_DELAY_MAX)
    }
}

#[cfg(test)]
mod tests;
