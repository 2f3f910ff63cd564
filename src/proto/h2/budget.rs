//! What a client may make us do that serves no request: a budget of frames, one of bytes, one of cancelled requests.
//!
//! Invariant: each is finite whatever the client sends, and each comes back with time and, where that is just, with
//! work that serves somebody; so a client that behaves never meets its end.

use std::time::Instant;

use super::frames::{FrameHead, kind};
pub(super) use crate::proto::budget::Exhausted;
use crate::{
    limits::{
        H2_CANCELLED_MAX, H2_CANCELLED_PER_S, H2_CONTROL_BYTES_MAX, H2_CONTROL_BYTES_PER_PAYLOAD,
        H2_CONTROL_BYTES_PER_S, H2_CONTROL_FRAME_EARNED_BY, H2_CONTROL_FRAMES_MAX,
        H2_CONTROL_FRAMES_PER_REQUEST, H2_CONTROL_FRAMES_PER_S, H2_SETTINGS_COST,
    },
    proto::budget::Budget,
};

/// All budgets of one connection.
#[derive(Debug)]
pub(super) struct Budgets {
    frames: Budget,
    bytes: Budget,
    cancelled: Budget,
    /// Body bytes that have not earned a frame yet.
    change: u64,
}

impl Budgets {
    pub(super) const fn new(now: Instant) -> Self {
        Self {
            frames: Budget::new(H2_CONTROL_FRAMES_MAX, H2_CONTROL_FRAMES_PER_S, now),
            bytes: Budget::new(H2_CONTROL_BYTES_MAX, H2_CONTROL_BYTES_PER_S, now),
            cancelled: Budget::new(H2_CANCELLED_MAX, H2_CANCELLED_PER_S, now),
            change: 0,
        }
    }

    /// A frame came from the client.
    pub(super) fn frame(&mut self, head: FrameHead, now: Instant) -> Result<(), Exhausted> {
        match head.kind {
            kind::DATA if head.len > 0 => {
                self.body(u64::from(head.len));
                Ok(())
            }
            kind::HEADERS => {
                self.frames.earn(H2_CONTROL_FRAMES_PER_REQUEST);
                self.bytes.earn(u64::from(head.len).saturating_mul(H2_CONTROL_BYTES_PER_PAYLOAD));
                Ok(())
            }
            // RST_STREAM, WINDOW_UPDATE, PRIORITY, PING, CONTINUATION, empty DATA, and whatever is unknown.
            other => {
                let cost = if other == kind::SETTINGS { H2_SETTINGS_COST } else { 1 };
                self.frames.spend(cost, now)?;
                self.bytes.spend(u64::from(head.len) + 9, now)
            }
        }
    }

    /// A piece of a response was taken; the client will answer with WINDOW_UPDATE, for stream and connection.
    pub(super) fn sent(&mut self, bytes: u64) {
        self.frames.earn(2);
        self.body(bytes);
    }

    /// A request was begun and the client let it come to nothing.
    pub(super) fn cancelled(&mut self, now: Instant) -> Result<(), Exhausted> {
        self.cancelled.spend(1, now)
    }

    fn body(&mut self, bytes: u64) {
        self.bytes.earn(bytes.saturating_mul(H2_CONTROL_BYTES_PER_PAYLOAD));
        self.change += bytes;
        self.frames.earn(self.change / H2_CONTROL_FRAME_EARNED_BY);
        self.change %= H2_CONTROL_FRAME_EARNED_BY;
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test has no shard to give it the time")]
mod tests {
    use super::*;

    #[test]
    fn window_updates_of_a_long_download_never_use_the_budget_up() {
        let now = Instant::now();
        let mut budgets = Budgets::new(now);
        let update = FrameHead::parse_for_test(4, 8, 0);
        for _ in 0..1_000_000 {
            budgets.sent(16 * 1024);
            assert_eq!(budgets.frame(update, now), Ok(()));
            assert_eq!(budgets.frame(update, now), Ok(()));
        }
    }

    #[test]
    fn requests_earn_what_their_client_sends_beside_them() {
        let now = Instant::now();
        let mut budgets = Budgets::new(now);
        for _ in 0..100_000 {
            assert_eq!(budgets.frame(FrameHead::parse_for_test(20, 1, 4), now), Ok(()));
            for _ in 0..8 {
                assert_eq!(budgets.frame(FrameHead::parse_for_test(5, 2, 0), now), Ok(()));
            }
        }
    }
}
