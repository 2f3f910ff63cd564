//! What goes out: datagrams in runs that the kernel takes with one system call (UDP_SEGMENT, udp(7)).
//!
//! Invariant: a [`Batch`] is for one path, its datagrams are of one size but for the last, which may be shorter, and it
//! keeps to what the kernel and the congestion controller let through at once.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use quiche::SendInfo;

use super::{H3, Phase};
use crate::limits::{H3_BATCH_SEGMENTS_MAX, H3_BATCH_SIZE_MAX, H3_PACING_TICK};

/// One run of datagrams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Our address, as the client knows it.
    pub from: SocketAddr,
    /// The client's.
    pub to: SocketAddr,
    /// Bytes of each datagram but the last.
    pub segment: usize,
    /// Not to be sent before that, for the sake of the network.
    pub at: Instant,
    /// The ECN codepoint. Not-ECT always: quiche does not validate a path for more (RFC 9000 §13.4.2).
    pub ect: u8,
}

/// Room for one datagram of a path whose size is being probed.
const FIRST_SIZE_MAX: usize = 9_000;

impl H3 {
    /// Appends one run of datagrams, ready for one system call. Again until there is none: nothing can be sent now.
    pub fn output(&mut self, out: &mut Vec<u8>, now: Instant) -> Option<Batch> {
        self.flush_all(now);
        self.unsent = 0;
        let batch = self.send(out);
        // A handshake fails here, and whoever has the connection below may have closed it.
        self.look_due |= self.phase != Phase::Closed && self.quic.local_error().is_some();
        batch
    }

    fn send(&mut self, out: &mut Vec<u8>) -> Option<Batch> {
        let start = out.len();
        out.resize(start + FIRST_SIZE_MAX, 0);
        let first = out.get_mut(start..).unwrap_or_default();
        let Ok((segment, info)) = self.quic.send(first) else {
            out.truncate(start);
            return None;
        };
        out.truncate(start + segment);
        let quantum = self.quic.send_quantum_on_path(info.from, info.to);
        let mut last_at = info.at;
        for _ in 1..H3_BATCH_SEGMENTS_MAX {
            let end = out.len();
            let len = end - start + segment;
            // What the pacer spreads over less than a tick may go at once; it knows no finer time than the caller's timers.
            let is_late = last_at.saturating_duration_since(info.at) > H3_PACING_TICK;
            if len > H3_BATCH_SIZE_MAX || (len > quantum && is_late) {
                break;
            }
            out.resize(end + segment, 0);
            let next = out.get_mut(end..).unwrap_or_default();
            match self.quic.send_on_path(next, Some(info.from), Some(info.to)) {
                Ok((len, SendInfo { at, .. })) => {
                    out.truncate(end + len);
                    last_at = at;
                    if len < segment {
                        break;
                    }
                }
                Err(_) => {
                    out.truncate(end);
                    break;
                }
            }
        }
        // Room for more may have come of it.
        self.look_due |= self.phase == Phase::Open && !self.writable.is_empty();
        Some(Batch { from: info.from, to: info.to, segment, at: info.at, ect: 0 })
    }

    /// Gives QUIC what was queued.
    fn flush_all(&mut self, now: Instant) {
        if self.phase == Phase::Closed {
            return;
        }
        if self.look_due && self.phase == Phase::Handshake {
            self.look(now);
        }
        self.control.flush(&mut self.quic);
        for key in std::mem::take(&mut self.dirty) {
            if let Some(stream) = super::find(&mut self.streams, key) {
                stream.is_dirty = false;
                self.flush(key, now);
            }
        }
    }

    /// How long the network takes to and fro, and some more: after that an acknowledgement should be here.
    pub(super) fn patience(&self) -> Duration {
        let rtt = self.quic.path_stats().find(|path| path.active).map(|path| path.rtt);
        rtt.unwrap_or_default() * 3
    }
}
