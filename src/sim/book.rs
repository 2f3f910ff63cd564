//! What is known of every request of a run: what it asked, who took it, what came of it; and the first violation.
//!
//! Invariant: facts are entered by whoever causes them (client, worker, control), never by looking at the shard; so the
//! book can contradict the shard.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use super::plan::{Ask, Plan, Profile, Tag};

/// Lines of trace that a failure shows.
const TRACE_MAX: usize = 120;

/// A worker's place and incarnation.
pub(super) type Who = (u16, u32);

/// One request.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) ask: Ask,
    pub(super) plan: Plan,
    /// The workers that read its record.
    pub(super) takers: Vec<Who>,
    /// The client did something by which it may lose its answer.
    pub(super) forfeited: bool,
    /// Times that a client read the end of an answer to it.
    pub(super) answers: u32,
    /// Before its first byte was sent.
    pub(super) asked_at: Instant,
    /// A worker wrote something of an answer.
    pub(super) begun: bool,
    /// A worker found it withdrawn.
    pub(super) withdrawn: bool,
}

/// What happened, counted where it happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) answered: u64,
    pub(super) by_edge: u64,
    pub(super) cut: u64,
    pub(super) forfeited: u64,
    pub(super) crashes: u64,
    pub(super) lies: u64,
    pub(super) noticed: u64,
    /// CANCEL records for a client that is gone.
    pub(super) cancels: u64,
    /// Requests that workers found withdrawn.
    pub(super) withdrawn: u64,
    pub(super) bad_gateway: u64,
    pub(super) unavailable: u64,
    pub(super) overdue: u64,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Book {
    pub(super) seed: u64,
    pub(super) profile: Profile,
    entries: Vec<Entry>,
    /// Workers that crashed, lied or were killed.
    fallen: Vec<Who>,
    /// Those of them that lied.
    pub(super) liars: Vec<Who>,
    /// There was a time without a worker that takes requests.
    pub(super) shortage: bool,
    pub(super) draining: bool,
    /// Exchanges that workers have, for those who lie about them.
    pub(super) open: Vec<(Who, u64)>,
    /// When a client or worker last got on with something.
    pub(super) progress_at: Instant,
    pub(super) tally: Tally,
    violation: Option<String>,
    trace: Option<VecDeque<String>>,
    started: Instant,
    now: Instant,
}

impl Book {
    pub(super) fn new(seed: u64, profile: Profile, now: Instant, traced: bool) -> Self {
        Self {
            seed,
            profile,
            entries: Vec::new(),
            fallen: Vec::new(),
            liars: Vec::new(),
            shortage: false,
            draining: false,
            open: Vec::new(),
            progress_at: now,
            tally: Tally::default(),
            violation: None,
            trace: traced.then(VecDeque::new),
            started: now,
            now,
        }
    }

    /// For the trace.
    pub(super) fn tick(&mut self, now: Instant) {
        self.now = now;
    }

    pub(super) fn started(&self) -> Instant {
        self.started
    }

    /// An exchange of another worker's.
    pub(super) fn foreign(&self, to: Who) -> Option<u64> {
        self.open.iter().find(|(who, _)| *who != to).map(|(_, id)| *id)
    }

    pub(super) fn progress(&mut self) {
        self.progress_at = self.now;
    }

    /// A new request.
    pub(super) fn enter(&mut self, ask: Ask) -> Tag {
        let tag = Tag::try_from(self.entries.len() + 1).unwrap();
        let plan = Plan::of(self.seed, tag, &self.profile);
        self.entries.push(Entry {
            ask,
            plan,
            takers: Vec::new(),
            forfeited: false,
            answers: 0,
            asked_at: self.now,
            begun: false,
            withdrawn: false,
        });
        tag
    }

    pub(super) fn get(&self, tag: Tag) -> Option<&Entry> {
        self.entries.get((tag as usize).checked_sub(1)?)
    }

    pub(super) fn get_mut(&mut self, tag: Tag) -> Option<&mut Entry> {
        self.entries.get_mut((tag as usize).checked_sub(1)?)
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter()
    }

    pub(super) fn forfeit(&mut self, tag: Tag) {
        if let Some(entry) = self.get_mut(tag)
            && !std::mem::replace(&mut entry.forfeited, true)
        {
            self.tally.forfeited += 1;
        }
    }

    pub(super) fn fell(&mut self, who: Who) {
        if !self.fallen.contains(&who) {
            self.fallen.push(who);
        }
    }

    /// A worker wrote something of an answer, and the edge may have seen it.
    pub(super) fn begun_by_fallen(&mut self, tag: Tag) {
        if let Some(entry) = self.get_mut(tag) {
            entry.begun = true;
        }
    }

    /// The request may have lasted for too long by now.
    pub(super) fn may_be_overdue(&self, tag: Tag) -> bool {
        let lasted = self.get(tag).map_or(Duration::ZERO, |entry| self.now - entry.asked_at);
        lasted >= self.profile.limits.request_timeout
    }

    pub(super) fn has_fallen(&self, who: Who) -> bool {
        self.fallen.contains(&who)
    }

    pub(super) fn has_lied(&self, who: Who) -> bool {
        self.liars.contains(&who)
    }

    pub(super) fn anybody_fell(&self) -> bool {
        !self.fallen.is_empty()
    }

    /// Notes what must not be. The first one counts.
    pub(super) fn fail(&mut self, what: impl Into<String>) {
        if self.violation.is_none() {
            let mut what = what.into();
            what.truncate(2000);
            self.trace(|| format!("VIOLATION {what}"));
            self.violation = Some(what);
        }
    }

    pub(super) fn violation(&self) -> Option<&str> {
        self.violation.as_deref()
    }

    pub(super) fn trace(&mut self, line: impl FnOnce() -> String) {
        let at = self.now.duration_since(self.started).as_micros();
        if let Some(lines) = &mut self.trace {
            if lines.len() == TRACE_MAX {
                lines.pop_front();
            }
            let mut line = line();
            line.truncate(200);
            lines.push_back(format!("{at:>12} us  {line}"));
        }
    }

    pub(super) fn traced(&self) -> String {
        self.trace.iter().flatten().fold(String::new(), |all, line| all + line + "\n")
    }
}
