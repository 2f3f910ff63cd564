//! One place of a pool: the processes that fill it, are to fill it, or have left it, and why they were replaced.
//!
//! Invariant: a place has at most one [`Role::Holder`] and at most one [`Role::Successor`]; it waits to be refilled (`vacant`)
//! only while it has no holder. Deliberately absent: decisions that concern more than one place.

use std::time::{Duration, Instant};

use crate::{
    limits::{PLACE_PROCESSES_MAX, RESPAWN_DELAY_MIN, WORKER_HEALTHY_AFTER},
    pool::{fault::WorkerError, link::Incarnation},
};

/// Why a worker was replaced, or taken away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// The process ended by itself.
    Exited,
    /// A signal that was not the pool's ended it.
    Killed,
    /// It broke the protocol of a lane or of its control channel.
    Faulty,
    /// Its event loop was stuck.
    Stuck,
    /// It was not ready in time.
    StartTimeout,
    /// It said that it cannot start, or could not be started, or has other routes than its generation.
    StartupFailed,
    /// It had served as many requests as it may.
    MaxRequests,
    /// It had served as long as it may.
    MaxLifetime,
    /// It held more memory than it may.
    MaxRss,
    /// The operator asked for it.
    Drain,
    /// A new generation took over.
    Reload,
    /// The operator wanted fewer workers.
    Scale,
}

impl Cause {
    /// All of them, in order.
    pub const ALL: [Self; 12] = [
        Self::Exited,
        Self::Killed,
        Self::Faulty,
        Self::Stuck,
        Self::StartTimeout,
        Self::StartupFailed,
        Self::MaxRequests,
        Self::MaxLifetime,
        Self::MaxRss,
        Self::Drain,
        Self::Reload,
        Self::Scale,
    ];

    /// As reports spell it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Exited => "exited",
            Self::Killed => "killed",
            Self::Faulty => "faulty",
            Self::Stuck => "stuck",
            Self::StartTimeout => "start-timeout",
            Self::StartupFailed => "startup-failed",
            Self::MaxRequests => "max-requests",
            Self::MaxLifetime => "max-lifetime",
            Self::MaxRss => "max-rss",
            Self::Drain => "drain",
            Self::Reload => "reload",
            Self::Scale => "scale",
        }
    }

    pub(super) fn of(error: &WorkerError) -> Self {
        match error {
            WorkerError::Exited(status) if status.code().is_some() => Self::Exited,
            WorkerError::Exited(_) => Self::Killed,
            WorkerError::StartTimeout(_) => Self::StartTimeout,
            WorkerError::Stuck(_) => Self::Stuck,
            WorkerError::Channel(_) | WorkerError::Lane(_) => Self::Faulty,
            WorkerError::Application { .. }
            | WorkerError::Changed
            | WorkerError::Routes(_)
            | WorkerError::Spawn(_) => Self::StartupFailed,
        }
    }
}

/// How often workers were replaced, by cause.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Restarts([u64; Cause::ALL.len()]);

impl Restarts {
    pub(super) fn count(&mut self, cause: Cause) {
        if let Some(count) = self.0.get_mut(cause as usize) {
            *count += 1;
        }
    }

    /// Those that happened.
    pub fn iter(&self) -> impl Iterator<Item = (Cause, u64)> {
        Cause::ALL.into_iter().zip(self.0).filter(|(_, count)| *count > 0)
    }
}

/// Where a process stands. The times are those at which the pool loses its patience.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Imports the application; to be ready by then.
    Starting {
        /// See above.
        until: Instant,
    },
    /// Ready, and waits for the rest of its generation.
    Standby,
    /// Attached to the shards: it serves, from then on.
    Ready {
        /// See above.
        since: Instant,
    },
    /// Gets nothing new; the shards may finish what is in flight there until then.
    Retiring {
        /// See above.
        until: Instant,
        /// When it is killed at the latest.
        end: Instant,
    },
    /// Its event loop hangs; it writes its stacks down until then.
    Stuck {
        /// See above.
        until: Instant,
    },
    /// Was asked to end, and is to until then; `None`: has been killed.
    Stopping {
        /// See above.
        until: Option<Instant>,
    },
}

impl State {
    /// As reports spell it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Starting { .. } => "starting",
            Self::Standby => "standby",
            Self::Ready { .. } => "ready",
            Self::Retiring { .. } => "draining",
            Self::Stuck { .. } => "stuck",
            Self::Stopping { .. } => "stopping",
        }
    }

    /// True until something was decided against it.
    pub(super) fn is_wanted(self) -> bool {
        matches!(self, Self::Starting { .. } | Self::Standby | Self::Ready { .. })
    }

    pub(super) fn deadline(self) -> Option<Instant> {
        match self {
            Self::Starting { until } | Self::Retiring { until, .. } | Self::Stuck { until } => {
                Some(until)
            }
            Self::Stopping { until } => until,
            Self::Standby | Self::Ready { .. } => None,
        }
    }
}

/// What a process is to its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// It fills the place: when it ends, the place is filled again.
    Holder,
    /// It is to become the holder.
    Successor,
    /// The place goes on without it.
    Leaver,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) incarnation: Incarnation,
    pub(super) generation: u32,
    pub(super) role: Role,
    pub(super) state: State,
    pub(super) started: Instant,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Place {
    /// False once the pool was made smaller than this.
    pub(super) wanted: bool,
    /// In order of their incarnations.
    pub(super) processes: Vec<Process>,
    /// The latest that was given.
    pub(super) incarnation: Incarnation,
    /// When it is to be filled again.
    pub(super) vacant: Option<Instant>,
    /// Of holders, since one was last healthy.
    pub(super) failures: u32,
    pub(super) restarts: Restarts,
}

impl Place {
    pub(super) fn new(vacant: Option<Instant>) -> Self {
        Self {
            wanted: true,
            processes: Vec::new(),
            incarnation: Incarnation(0),
            vacant,
            failures: 0,
            restarts: Restarts::default(),
        }
    }

    pub(super) fn get(&self, incarnation: Incarnation) -> Option<&Process> {
        self.processes.iter().find(|process| process.incarnation == incarnation)
    }

    pub(super) fn get_mut(&mut self, incarnation: Incarnation) -> Option<&mut Process> {
        self.processes.iter_mut().find(|process| process.incarnation == incarnation)
    }

    pub(super) fn of_role(&self, role: Role) -> Option<&Process> {
        self.processes.iter().find(|process| process.role == role)
    }

    pub(super) fn of_role_mut(&mut self, role: Role) -> Option<&mut Process> {
        self.processes.iter_mut().find(|process| process.role == role)
    }

    /// When it is to be filled; not while too many processes are still on their way out.
    pub(super) fn due(&self) -> Option<Instant> {
        self.vacant.filter(|_| self.processes.len() < PLACE_PROCESSES_MAX)
    }

    /// A further process; its incarnation.
    pub(super) fn add(
        &mut self,
        role: Role,
        generation: u32,
        until: Instant,
        now: Instant,
    ) -> Incarnation {
        self.incarnation.0 += 1;
        self.processes.push(Process {
            incarnation: self.incarnation,
            generation,
            role,
            state: State::Starting { until },
            started: now,
        });
        self.incarnation
    }

    /// The holder, in this state, is of no use any more.
    pub(super) fn note_failure(&mut self, state: State, now: Instant) {
        let healthy =
            matches!(state, State::Ready { since } if now - since >= WORKER_HEALTHY_AFTER);
        self.failures = if healthy { 1 } else { self.failures.saturating_add(1) };
    }
}

/// How long to wait after so many failures in a row.
pub(super) fn backoff(failures: u32, at_most: Duration) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    (RESPAWN_DELAY_MIN * (1 << doublings)).min(at_most)
}
