//! Something that a client may use up, and that comes back: what keeps work without a purpose finite.
//!
//! Invariant: at most `max` in a row and `per_s` in a second, whatever comes when. Deliberately absent: what is counted;
//! HTTP/2 and HTTP/3 have their own books.

#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

/// The budget is used up: the client is to calm down (RFC 9113 §7, ENHANCE_YOUR_CALM; RFC 9114 §8.1, H3_EXCESSIVE_LOAD).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Exhausted;

/// Something that is spent, and comes back.
#[derive(Debug)]
pub(super) struct Budget {
    left: u64,
    max: u64,
    per_s: u64,
    /// Up to when time has been paid out.
    paid: Instant,
}

impl Budget {
    pub(super) const fn new(max: u64, per_s: u64, now: Instant) -> Self {
        Self { left: max, max, per_s, paid: now }
    }

    /// Takes this much, if time has paid enough.
    pub(super) fn spend(&mut self, cost: u64, now: Instant) -> Result<(), Exhausted> {
        if self.left < cost {
            // Whole seconds only, so that no fraction is lost or paid twice.
            let seconds = now.saturating_duration_since(self.paid).as_secs();
            self.paid += Duration::from_secs(seconds);
            self.earn(seconds.saturating_mul(self.per_s));
        }
        self.left = self.left.checked_sub(cost).ok_or(Exhausted)?;
        Ok(())
    }

    /// Gives this much back, up to what there was at first.
    pub(super) fn earn(&mut self, amount: u64) {
        self.left = self.left.saturating_add(amount).min(self.max);
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test has no shard to give it the time")]
mod tests {
    use super::*;

    #[test]
    fn a_budget_ends_and_comes_back_with_time() {
        let start = Instant::now();
        let mut budget = Budget::new(3, 2, start);
        for _ in 0..3 {
            assert_eq!(budget.spend(1, start), Ok(()));
        }
        assert_eq!(budget.spend(1, start + Duration::from_millis(999)), Err(Exhausted));
        let later = start + Duration::from_millis(1500);
        assert_eq!(budget.spend(2, later), Ok(()), "one second was paid out");
        assert_eq!(budget.spend(1, later), Err(Exhausted));
        assert_eq!(
            budget.spend(1, start + Duration::from_secs(2)),
            Ok(()),
            "and the half is not lost"
        );
        assert_eq!(
            budget.spend(4, start + Duration::from_secs(1000)),
            Err(Exhausted),
            "never beyond"
        );
        assert_eq!(budget.spend(3, start + Duration::from_secs(1000)), Ok(()));
    }
}
