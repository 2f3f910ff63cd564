//! How long to look for work before going to sleep.
//!
//! A cross-CPU wake costs tens of microseconds, a look at shared memory a fraction of one. Invariant: the budget stays
//! within `floor..=max`; a spin that found work doubles it, one that ended empty halves it, as the guest's haltpoll does.

use std::time::Duration;

const FLOOR: Duration = Duration::from_micros(1);

/// Adaptive spin budget; zero for ever when `max` is zero.
#[derive(Debug)]
pub(super) struct Spin {
    budget: Duration,
    max: Duration,
    /// Spins that found work, and those that did not.
    pub(super) hits: u64,
    pub(super) misses: u64,
}

impl Spin {
    pub(super) fn new(max: Duration) -> Self {
        Self { budget: max, max, hits: 0, misses: 0 }
    }

    pub(super) fn budget(&self) -> Duration {
        self.budget
    }

    /// Tells how a spin ended.
    pub(super) fn ended(&mut self, found: bool) {
        *(if found { &mut self.hits } else { &mut self.misses }) += 1;
        let next = if found { self.budget * 2 } else { self.budget / 2 };
        self.budget = next.clamp(FLOOR.min(self.max), self.max);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budget_follows_what_spinning_brings() {
        let mut spin = Spin::new(Duration::from_micros(50));
        for _ in 0..10 {
            spin.ended(false);
        }
        assert_eq!(spin.budget(), FLOOR);
        for _ in 0..10 {
            spin.ended(true);
        }
        assert_eq!(spin.budget(), Duration::from_micros(50));
    }

    #[test]
    fn without_a_maximum_nobody_spins() {
        let mut spin = Spin::new(Duration::ZERO);
        spin.ended(true);
        assert_eq!(spin.budget(), Duration::ZERO);
    }
}
