//! The minimum rate of a transfer: what stands between a shard and peers that send a byte a second.
//!
//! Invariant: a transfer of `n` bytes is given the grace plus the time that `n` bytes take at the minimum
//! rate, however its bytes are spread. Deliberately absent: the clock and the timers; idleness is the
//! caller's own, shorter, limit.

#![forbid(unsafe_code)]

use std::time::Duration;

use crate::limits::{RATE_GRACE_MS, RATE_MIN_BYTES_PER_S};

/// A rate below which a transfer is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MinRate {
    /// Bytes per second; zero lets every transfer take for ever.
    pub bytes_per_s: u64,
    /// Time that is not counted.
    pub grace: Duration,
}

impl Default for MinRate {
    fn default() -> Self {
        Self { bytes_per_s: RATE_MIN_BYTES_PER_S, grace: Duration::from_millis(RATE_GRACE_MS) }
    }
}

impl MinRate {
    /// How long after its start a transfer with this many bytes becomes too slow: the deadline for a timer.
    pub fn allowance(self, received: u64) -> Duration {
        if self.bytes_per_s == 0 {
            return Duration::MAX;
        }
        let whole = Duration::from_secs(received / self.bytes_per_s);
        let rest_ms = (received % self.bytes_per_s).saturating_mul(1000) / self.bytes_per_s;
        self.grace.saturating_add(whole).saturating_add(Duration::from_millis(rest_ms))
    }

    /// True when the transfer is slower than the minimum: answer 408.
    pub fn is_too_slow(self, received: u64, elapsed: Duration) -> bool {
        elapsed > self.allowance(received)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_too_slow_within_the_grace() {
        let rate = MinRate::default();
        assert!(!rate.is_too_slow(0, Duration::from_secs(10)));
        assert!(rate.is_too_slow(0, Duration::from_millis(10_001)));
    }

    #[test]
    fn each_kibibyte_buys_a_second() {
        let rate = MinRate::default();
        assert_eq!(rate.allowance(1536), Duration::from_millis(11_500));
        assert!(!rate.is_too_slow(20 * 1024, Duration::from_secs(30)));
        assert!(rate.is_too_slow(20 * 1024, Duration::from_secs(31)));
    }

    #[test]
    fn a_byte_a_second_is_cut_off_and_extremes_do_not_overflow() {
        let rate = MinRate::default();
        assert!((1..=10).all(|s| !rate.is_too_slow(s, Duration::from_secs(s))));
        assert!(rate.is_too_slow(11, Duration::from_secs(11)));
        assert!(!rate.is_too_slow(u64::MAX, Duration::from_secs(1 << 50)));
        let off = MinRate { bytes_per_s: 0, ..rate };
        assert!(!off.is_too_slow(0, Duration::MAX));
    }
}
