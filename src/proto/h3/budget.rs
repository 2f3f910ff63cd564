//! What a client may make us do that serves no request: a budget of frames, one of datagrams' bytes, one of cancelled requests.
//!
//! Invariant: each is finite whatever the client sends, and each comes back with time and, where that is just, with work
//! that serves somebody; so a client that behaves never meets its end. The bytes are those of whole datagrams, so that
//! frames of QUIC that nobody reports here (PING, ACK, PATH_CHALLENGE, retransmissions, pieces of one byte) count too.

use std::time::Instant;

pub(super) use crate::proto::budget::Exhausted;
use crate::{
    limits::{
        H3_BYTES_MAX, H3_BYTES_PER_PAYLOAD, H3_BYTES_PER_REQUEST, H3_BYTES_PER_S,
        H3_BYTES_PER_SENT_PIECE, H3_CANCELLED_MAX, H3_CANCELLED_PER_S, H3_DATAGRAM_COST,
        H3_FRAMES_MAX, H3_FRAMES_PER_REQUEST, H3_FRAMES_PER_S,
    },
    proto::budget::Budget,
};

/// All budgets of one connection.
#[derive(Debug)]
pub(super) struct Budgets {
    frames: Budget,
    bytes: Budget,
    cancelled: Budget,
}

impl Budgets {
    pub(super) const fn new(now: Instant) -> Self {
        Self {
            frames: Budget::new(H3_FRAMES_MAX, H3_FRAMES_PER_S, now),
            bytes: Budget::new(H3_BYTES_MAX, H3_BYTES_PER_S, now),
            cancelled: Budget::new(H3_CANCELLED_MAX, H3_CANCELLED_PER_S, now),
        }
    }

    /// A datagram came.
    pub(super) fn datagram(&mut self, len: usize, now: Instant) -> Result<(), Exhausted> {
        self.bytes.spend(H3_DATAGRAM_COST + len as u64, now)
    }

    /// A frame came that is neither the head of a request nor some of its body.
    pub(super) fn frame(&mut self, now: Instant) -> Result<(), Exhausted> {
        self.frames.spend(1, now)
    }

    /// A request came, with a head of so many bytes.
    pub(super) fn request(&mut self, len: usize) {
        self.frames.earn(H3_FRAMES_PER_REQUEST);
        self.bytes.earn(H3_BYTES_PER_REQUEST + H3_BYTES_PER_PAYLOAD * len as u64);
    }

    /// Some of a request's body came.
    pub(super) fn received(&mut self, bytes: usize) {
        self.bytes.earn(H3_BYTES_PER_PAYLOAD * bytes as u64);
    }

    /// Some of a request came that is not wanted any more; it is read, which costs little.
    pub(super) fn discarded(&mut self, bytes: usize) {
        self.bytes.earn(bytes as u64);
    }

    /// A piece of a response was taken; the client will acknowledge it and open its windows.
    pub(super) fn sent(&mut self, bytes: usize) {
        self.bytes.earn(H3_BYTES_PER_SENT_PIECE + H3_BYTES_PER_PAYLOAD * bytes as u64);
    }

    /// A request was begun and the client let it come to nothing.
    pub(super) fn cancelled(&mut self, now: Instant) -> Result<(), Exhausted> {
        self.cancelled.spend(1, now)
    }
}
