//! What the shard counts.
//!
//! Invariant: a counter moves where the event happens and nowhere else; the gauges that others read are stored once a turn,
//! and only when one of them has changed.

use std::sync::atomic::{AtomicU64, Ordering};

use super::{Core, Gauges};

/// The fields of [`Gauges`], in private.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    connections: u64,
    exchanges: u64,
    queued: u64,
    chunks: u64,
    handshaking: u64,
    quic_connections: u64,
    pub(super) begun: u64,
    pub(super) redispatched: u64,
    pub(super) failed: u64,
    pub(super) overdue: u64,
    pub(super) shed: u64,
    pub(super) abandoned: u64,
    pub(super) withdrawn: u64,
    pub(super) handshakes: u64,
    pub(super) handshakes_resumed: u64,
    pub(super) handshakes_failed: u64,
    pub(super) handshakes_evicted: u64,
    pub(super) datagrams_answered: u64,
    pub(super) datagrams_forwarded: u64,
    pub(super) datagrams_dropped: u64,
}

impl Core {
    /// Stores what has changed since the last time.
    pub(super) fn publish_tally(&mut self) {
        let queued = self.queue.len();
        let now = Tally {
            connections: (self.connections.len() + self.quic_connections.len()) as u64,
            quic_connections: self.quic_connections.len() as u64,
            exchanges: (self.exchanges.len() - queued) as u64,
            queued: queued as u64,
            chunks: self.links.leased_chunks() as u64,
            handshaking: (self.handshakes() + self.quic_handshakes()) as u64,
            ..self.tally
        };
        self.tally = now;
        let before = std::mem::replace(&mut self.told, now);
        if now != before {
            now.store(&self.gauges);
        }
    }
}

impl Tally {
    fn store(&self, gauges: &Gauges) {
        let store = |gauge: &AtomicU64, value| gauge.store(value, Ordering::Relaxed);
        store(&gauges.connections, self.connections);
        store(&gauges.exchanges, self.exchanges);
        store(&gauges.queued, self.queued);
        store(&gauges.chunks, self.chunks);
        store(&gauges.begun, self.begun);
        store(&gauges.redispatched, self.redispatched);
        store(&gauges.failed, self.failed);
        store(&gauges.overdue, self.overdue);
        store(&gauges.shed, self.shed);
        store(&gauges.abandoned, self.abandoned);
        store(&gauges.withdrawn, self.withdrawn);
        store(&gauges.handshaking, self.handshaking);
        store(&gauges.handshakes, self.handshakes);
        store(&gauges.handshakes_resumed, self.handshakes_resumed);
        store(&gauges.handshakes_failed, self.handshakes_failed);
        store(&gauges.handshakes_evicted, self.handshakes_evicted);
        store(&gauges.quic_connections, self.quic_connections);
        store(&gauges.datagrams_answered, self.datagrams_answered);
        store(&gauges.datagrams_forwarded, self.datagrams_forwarded);
        store(&gauges.datagrams_dropped, self.datagrams_dropped);
    }
}
