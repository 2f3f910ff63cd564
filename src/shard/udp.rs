//! The shard's UDP socket: datagrams in, batches out, and the way to other shards.
//!
//! Invariant: one receive operation is in flight or none; at most [`limits::UDP_SENDS_MAX`] sends are. A datagram that belongs to
//! another shard goes into that shard's bounded queue, or is lost as on the network. Deliberately absent: what is in them.

use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;

use super::{
    handle::Neighbour,
    turn::{Shard, kind, token},
};
use crate::{
    limits,
    uring::{Driver, Event},
};

/// See the module.
#[derive(Debug)]
pub(super) struct Udp {
    socket: OwnedFd,
    receiving: Receiving,
    /// The other shards, by number; our own place is of no use.
    neighbours: Vec<Neighbour>,
    /// Names the sends, so that no two in flight have one token.
    sent: u32,
}

/// The receive operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Receiving {
    /// Not submitted; will be with the next turn.
    Idle,
    Armed,
    /// It failed; the next sweep makes it `Idle`.
    Paused,
}

impl Udp {
    pub(super) fn new(socket: OwnedFd, neighbours: Vec<Neighbour>) -> Self {
        Self { socket, receiving: Receiving::Idle, neighbours, sent: 0 }
    }

    /// True when the sweep is to bring it to life again.
    pub(super) fn is_paused(&self) -> bool {
        self.receiving == Receiving::Paused
    }
}

impl<D: Driver> Shard<D> {
    /// Starts to receive if that has ended or has not begun. Not before there are routes, as with connections.
    pub(super) fn receive_datagrams(&mut self) {
        if self.core.routes.is_none() {
            return;
        }
        if let Some(udp) = &mut self.udp
            && udp.receiving == Receiving::Idle
        {
            udp.receiving = Receiving::Armed;
            self.driver.recv_datagrams(udp.socket.as_fd(), token(kind::DATAGRAMS, 0, 0));
        }
    }

    pub(super) fn datagrams_arrived(&mut self, event: Event, more: bool) {
        let Some(udp) = &mut self.udp else { return };
        if !more {
            udp.receiving = Receiving::Idle;
        }
        match event {
            Event::Datagrams(lease) => {
                if let Some(arrived) = self.driver.datagrams(&lease) {
                    for datagram in arrived.data.chunks_mut(arrived.segment.max(1)) {
                        self.core.receive_datagram(datagram, arrived.from, arrived.to, false);
                    }
                }
                self.driver.recycle_datagrams(lease);
            }
            // The buffers of this turn are on their way back: try again.
            Event::Failed(Errno::NOBUFS | Errno::CANCELED | Errno::INTR | Errno::AGAIN) => {}
            Event::Failed(error) => {
                tracing::warn!("receiving datagrams: {error}");
                if !more {
                    udp.receiving = Receiving::Paused;
                }
            }
            _ => {}
        }
    }

    /// Submits what HTTP/3 has to send, and hands on what belongs to other shards.
    pub(super) fn flush_quic(&mut self) {
        let Some(udp) = &mut self.udp else { return };
        while let Some(index) = self.core.quic.as_mut().and_then(|quic| quic.dirty.pop()) {
            self.core.attend_quic(index, self.drain_until.is_some(), self.driver.now());
        }
        self.core.recall_postponed();
        let Some(quic) = &mut self.core.quic else { return };
        while quic.sending < limits::UDP_SENDS_MAX {
            let Some(batch) = quic.outgoing.pop_front() else { break };
            quic.sending += 1;
            udp.sent = udp.sent.wrapping_add(1);
            let token = token(kind::SEND_DATAGRAMS, 0, udp.sent);
            self.driver.send_datagrams(udp.socket.as_fd(), batch, token);
        }
        for (shard, datagram) in quic.forwards.drain(..) {
            let neighbour = udp.neighbours.get(shard);
            if !neighbour.is_some_and(|neighbour| neighbour.pass(datagram)) {
                self.core.tally.datagrams_dropped += 1;
            }
        }
    }

    pub(super) fn datagrams_sent(&mut self, event: Event) {
        let Some(quic) = &mut self.core.quic else { return };
        quic.sending -= 1;
        match event {
            Event::Sent(buffer) => quic.give(buffer),
            // Lost, as far as QUIC is concerned, which finds that out.
            Event::Failed(error) => tracing::debug!("sending datagrams: {error}"),
            _ => {}
        }
        self.core.resume_quic();
    }

    /// Takes what other shards have handed on, for a while; true when there may be more.
    pub(super) fn take_forwarded(&mut self) -> bool {
        for _ in 0..limits::FORWARDS_MAX {
            let Ok(mut datagram) = self.mailbox.datagrams.try_recv() else { return false };
            self.core.receive_datagram(&mut datagram.data, datagram.from, datagram.to, true);
        }
        true
    }

    /// A receive that failed is tried again.
    pub(super) fn resume_receiving(&mut self) {
        if let Some(udp) = &mut self.udp
            && udp.receiving == Receiving::Paused
        {
            udp.receiving = Receiving::Idle;
        }
    }

    /// True when nothing of HTTP/3 is left to be done.
    pub(super) fn is_quic_over(&self) -> bool {
        let quic = self.core.quic.as_ref();
        self.core.quic_connections.is_empty()
            && quic.is_none_or(|quic| quic.sending == 0 && quic.outgoing.is_empty())
    }
}
