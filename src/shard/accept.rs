//! The shard's listening sockets, and the connections that come out of them.
//!
//! Invariant: a listener has one accept operation in flight or none; nothing is accepted before there are routes.

use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;

use super::{
    conn::Connection,
    turn::{Shard, kind, token},
};
use crate::uring::{Driver, Event, Token};

/// One of them.
pub(super) struct Socket {
    pub(super) socket: OwnedFd,
    /// A Unix socket's connections have no peer address.
    pub(super) local: bool,
    pub(super) accepting: Accepting,
}

/// A listener's accept operation.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Accepting {
    /// Not submitted; will be with the next turn.
    Idle,
    /// Submitted.
    Armed,
    /// It failed for want of descriptors or memory; the next sweep makes it `Idle`.
    Paused,
}

impl<D: Driver> Shard<D> {
    /// Starts to accept wherever that has ended or has not begun. Not before the first worker is ready: until then
    /// clients wait in the backlog instead of being turned away.
    pub(super) fn accept(&mut self) {
        if self.core.routes.is_none() {
            return;
        }
        for (index, listener) in (0..).zip(&mut self.listeners) {
            let Some(listener) = listener else { continue };
            if listener.accepting == Accepting::Idle && self.drain_until.is_none() {
                listener.accepting = Accepting::Armed;
                self.driver.accept(listener.socket.as_fd(), token(kind::ACCEPT, 0, index));
            }
        }
    }

    pub(super) fn accepted(&mut self, token: Token, event: Event, more: bool) {
        let Some(entry) = self.listeners.get_mut(token.index as usize) else { return };
        let Some(listener) = entry else { return };
        let local = listener.local;
        if !more {
            listener.accepting = Accepting::Idle;
        }
        match event {
            Event::Accepted(socket) => self.open(socket, local),
            // accept(2): errors of the one connection that was to be accepted. The others are not made to wait for it.
            Event::Failed(
                Errno::CANCELED
                | Errno::AGAIN
                | Errno::INTR
                | Errno::CONNABORTED
                | Errno::PROTO
                | Errno::NOPROTOOPT
                | Errno::NETDOWN
                | Errno::NETUNREACH
                | Errno::HOSTDOWN
                | Errno::HOSTUNREACH
                | Errno::NONET,
            ) => {}
            // Those who wait in the backlog are not turned away: the sweep tries again.
            Event::Failed(error) => {
                tracing::warn!("accept: {error}");
                listener.accepting = if more { Accepting::Armed } else { Accepting::Paused };
            }
            _ => {}
        }
        if !more && self.drain_until.is_some() {
            self.close_listener(token.index as usize);
        }
    }

    pub(super) fn close_listener(&mut self, index: usize) {
        if let Some(listener) = self.listeners.get_mut(index).and_then(Option::take) {
            self.driver.close(listener.socket);
        }
    }

    pub(super) fn open(&mut self, socket: OwnedFd, local: bool) {
        let peer = if local { None } else { peer_of(&socket) };
        self.generation = (self.generation + 1) & Token::GENERATION_MAX;
        let since = (self.core.clock.now, self.core.options.limits.keepalive_timeout);
        let mut connection = Connection::new(socket, self.generation, peer, since);
        if self.drain_until.is_some() {
            connection.h1.close_after_response();
        }
        let index = self.core.connections.insert(connection);
        self.core.touch(index);
    }

    /// Those that failed for want of something are tried again.
    pub(super) fn resume_accepting(&mut self) {
        for listener in self.listeners.iter_mut().flatten() {
            if listener.accepting == Accepting::Paused {
                listener.accepting = Accepting::Idle;
            }
        }
    }
}

fn peer_of(socket: &OwnedFd) -> Option<std::net::SocketAddr> {
    rustix::net::getpeername(socket)
        .ok()?
        .and_then(|address| std::net::SocketAddr::try_from(address).ok())
}
