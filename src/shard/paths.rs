//! Where the client of a QUIC connection is: the path that it is on, and those that it has left.
//!
//! Invariant: what was on its way on a path that was left is taken for lost as soon as the client acknowledges the PING that
//! stands for it, and an address that is not proven is asked for again until it is. quiche does neither of itself
//! (RFC 9000 §9.3, §9.4): of a path without traffic it waits for acknowledgements of later packets, and a PATH_CHALLENGE that was
//! acknowledged and not answered it does not repeat, so that the client gets three bytes for each of its own, for ever.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use crate::{limits, proto::h3, uring::DatagramBatch};

/// The paths of one connection.
#[derive(Debug)]
pub(super) struct Paths {
    /// What QUIC sends on: our address, and the client's.
    active: (SocketAddr, SocketAddr),
    /// True from the time on that the client was seen elsewhere.
    several: bool,
    left: Vec<Left>,
    challenge: Option<Challenge>,
}

/// A path that the client was on.
#[derive(Debug)]
struct Left {
    local: SocketAddr,
    peer: SocketAddr,
    /// How often its timer had expired when the PING was sent. If it does so again, the PING was lost.
    timeouts: Option<usize>,
}

/// An address that is not proven.
#[derive(Debug)]
struct Challenge {
    /// When the client was last asked whether it is there.
    asked: Instant,
    times: u32,
    /// When it is to be asked again.
    at: Instant,
}

impl Paths {
    pub(super) const fn new(local: SocketAddr, peer: SocketAddr) -> Self {
        Self { active: (local, peer), several: false, left: Vec::new(), challenge: None }
    }

    /// The client was seen at another address.
    pub(super) const fn appeared(&mut self) {
        self.several = true;
    }

    /// When there is something to be done here, if nothing happens before.
    pub(super) fn wake(&self) -> Option<Instant> {
        self.challenge.as_ref().map(|challenge| challenge.at)
    }

    /// Does what is due; what is to be sent for it goes to `send`.
    pub(super) fn follow(
        &mut self,
        transport: &mut h3::Quic,
        now: Instant,
        mut send: impl FnMut(DatagramBatch),
    ) {
        if !self.several {
            return;
        }
        let stats: Vec<_> = transport.path_stats().collect();
        let Some(active) = stats.iter().find(|path| path.active) else { return };
        let here = (active.local_addr, active.peer_addr);
        if here != self.active {
            tracing::debug!("a QUIC client has moved to {}", here.1);
            let (local, peer) = std::mem::replace(&mut self.active, here);
            self.left.push(Left { local, peer, timeouts: None });
            self.left.retain(|path| (path.local, path.peer) != here);
            self.challenge = None;
        }
        self.left.retain_mut(|path| {
            let found =
                |p: &&quiche::PathStats| (p.local_addr, p.peer_addr) == (path.local, path.peer);
            let Some(timeouts) = stats.iter().find(found).map(|found| found.total_pto_count) else {
                return false;
            };
            if path.timeouts == Some(timeouts) {
                return true;
            }
            match ping(transport, path, here.1) {
                Ok(batch) => {
                    path.timeouts = Some(timeouts);
                    send(batch);
                    true
                }
                // As soon as a timer of the path has expired it may send, however much is on its way there.
                Err(error) => error == quiche::Error::Done,
            }
        });
        self.ask_again(transport, here, active.rtt, now);
    }

    /// Asks for the proof of an address, if it is not there in time.
    fn ask_again(
        &mut self,
        transport: &mut h3::Quic,
        (local, peer): (SocketAddr, SocketAddr),
        rtt: Duration,
        now: Instant,
    ) {
        if transport.is_path_validated(local, peer).unwrap_or(true) {
            self.challenge = None;
            return;
        }
        // The first time quiche does it, now or in a moment.
        let challenge = self.challenge.get_or_insert(Challenge { asked: now, times: 0, at: now });
        if challenge.due(rtt) <= now {
            challenge.asked = now;
            challenge.times += 1;
            // It fails when the client has given us no id for the path.
            let asked = transport.probe_path(local, peer);
            tracing::trace!("asked {peer} again: {asked:?}");
        }
        challenge.at = challenge.due(rtt);
    }
}

impl Challenge {
    /// After the longest that an answer should take (RFC 9002 §6.2.1), and twice as long each time.
    fn due(&self, rtt: Duration) -> Instant {
        let patience = rtt * 3 + limits::QUIC_ACK_DELAY_MAX;
        self.asked + patience.saturating_mul(1 << self.times.min(8))
    }
}

/// A PING of a path that was left, for where the client is now: packets are bound to keys and not to addresses. As small as it can
/// be, for the address need not be proven.
fn ping(transport: &mut h3::Quic, path: &Left, to: SocketAddr) -> quiche::Result<DatagramBatch> {
    transport.send_ack_eliciting_on_path(path.local, path.peer)?;
    let mut data = vec![0; limits::QUIC_PING_SIZE_MAX];
    let (len, _) = transport.send_on_path(&mut data, Some(path.local), Some(path.peer))?;
    data.truncate(len);
    Ok(DatagramBatch { data, segment: len, from: path.local.ip(), to, ecn: 0 })
}
