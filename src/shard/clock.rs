//! The shard's idea of now: read once a turn, formatted once a second.
//!
//! Invariant: `date` always holds an IMF-fixdate (RFC 9110 §5.6.7) at most one second old.

use std::time::{Duration, Instant, SystemTime};

/// Monotonic and wall time of the current turn.
#[derive(Debug)]
pub(super) struct Clock {
    /// Monotonic time of this turn.
    pub(super) now: Instant,
    date: [u8; 29],
    date_at: Instant,
    wall: SystemTime,
}

impl Clock {
    pub(super) fn new(now: Instant, wall: SystemTime) -> Self {
        let mut clock = Self { now, date: [b' '; 29], date_at: now, wall };
        clock.format(wall);
        clock
    }

    /// Moves on; `wall` is asked only when the second may have changed.
    pub(super) fn tick(&mut self, now: Instant, wall: impl FnOnce() -> SystemTime) {
        self.now = now;
        if now.duration_since(self.date_at) >= Duration::from_millis(500) {
            self.date_at = now;
            self.format(wall());
        }
    }

    fn format(&mut self, wall: SystemTime) {
        self.wall = wall;
        let text = httpdate::fmt_http_date(wall);
        if let Ok(bytes) = <[u8; 29]>::try_from(text.as_bytes()) {
            self.date = bytes;
        }
    }

    /// For the `date` field.
    pub(super) fn date(&self) -> [u8; 29] {
        self.date
    }
}
