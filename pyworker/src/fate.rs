//! How far an exchange has come, as its application can tell long after the books have forgotten it.
//!
//! Invariant: a stage is only ever followed by a later one; `Ended` and `Gone` are last. The books and everything that
//! the application holds of one exchange share one [`Fate`]; only the loop's thread writes it, any thread may look.

use std::sync::atomic::{AtomicU8, Ordering};

use fasterapi::ipc::message::Cancellation;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Stage {
    /// No answer has begun.
    Unanswered,
    /// A response's head was accepted, its end was not.
    Started,
    /// A whole response was accepted.
    Ended,
    /// Nobody waits for (the rest of) a response any more.
    Gone,
}

const STAGES: [Stage; 4] = [Stage::Unanswered, Stage::Started, Stage::Ended, Stage::Gone];

#[derive(Debug, Default)]
pub(crate) struct Fate(AtomicU8);

impl Fate {
    pub(crate) fn stage(&self) -> Stage {
        let stage = self.0.load(Ordering::Relaxed);
        STAGES.get(usize::from(stage)).copied().unwrap_or(Stage::Gone)
    }

    /// Without effect once the exchange is over.
    pub(crate) fn advance(&self, stage: Stage) {
        if !self.is_over() && self.stage() < stage {
            self.0.store(stage as u8, Ordering::Relaxed);
        }
    }

    /// Nothing that the application does can reach the client any more.
    pub(crate) fn is_over(&self) -> bool {
        self.stage() >= Stage::Ended
    }

    pub(crate) fn is_gone(&self) -> bool {
        self.stage() == Stage::Gone
    }
}

/// When a disconnected client's handler is cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cancels {
    /// Whatever the reason is.
    Always,
    /// When its deadline has passed; of a client that went away it is only told.
    Deadline,
}

impl Cancels {
    pub(crate) fn on(self, why: Cancellation) -> bool {
        match self {
            Self::Always => true,
            Self::Deadline => why == Cancellation::DeadlinePassed,
        }
    }
}
