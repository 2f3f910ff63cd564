//! The sweep: everything that may not last for ever is looked at twice a second.
//!
//! Invariant: a state in which somebody else is awaited (client, worker, room) ends by a deadline of its own, late by one
//! sweep at the most.

use std::time::Instant;

use super::{
    Core, Report,
    conn::{Expiry, Verdict},
    turn::Shard,
};
use crate::{ipc::message::Cancellation, limits, proto::h1::Refusal, uring::Driver};

impl<D: Driver> Shard<D> {
    /// Looks at every deadline, unless that was done a moment ago.
    pub(super) fn sweep(&mut self) {
        let now = self.core.clock.now;
        if now < self.next_sweep {
            return;
        }
        self.next_sweep = now + limits::SWEEP_INTERVAL;
        if self.drain_until.is_some_and(|until| now >= until) {
            self.core.cut_off();
            self.core.cut_off_quic();
        }
        self.core.sweep_connections(now);
        self.core.sweep_websockets(now);
        self.core.sweep_exchanges(now);
        self.core.expire_queue();
        self.core.find_stuck(now);
        self.resume_accepting();
        self.resume_receiving();
        self.hand_over_log(true);
    }
}

impl Core {
    /// The time for draining is over: whoever is left is let go.
    fn cut_off(&mut self) {
        let all: Vec<usize> = self.connections.iter().map(|(index, _)| index).collect();
        for index in all {
            // No status was sent, so none is logged.
            self.abandon(index, Cancellation::ServerLeaves, 0);
            self.close(index);
        }
    }

    fn sweep_connections(&mut self, now: Instant) {
        let due = self.connections.iter();
        let due = due.map(|(index, connection)| (index, connection.expired(now)));
        let due: Vec<_> = due.filter(|(_, expiry)| *expiry != Expiry::Never).collect();
        self.probe_half_closed();
        self.look_at_held();
        for (index, expiry) in due {
            if expiry == Expiry::Engine {
                self.time_out(index);
                continue;
            }
            let answered =
                self.connections.get(index).is_some_and(|connection| connection.unsent() > 0);
            if expiry == Expiry::TooSlow && !answered {
                self.refuse(index, Refusal::TooSlow);
            } else if self.connections.get(index).is_some_and(|c| c.is_idle() && c.owes_end()) {
                if let Some(connection) = self.connections.get_mut(index) {
                    connection.begin_leave();
                }
                self.touch(index);
            } else {
                self.lose(index);
            }
        }
    }

    /// Requests that were held back because there was so much under way: nobody says when there is less.
    fn look_at_held(&mut self) {
        let held = self.connections.iter().filter(|(_, connection)| {
            connection.streams.as_ref().is_some_and(|streams| streams.holds)
        });
        let held: Vec<_> = held.map(|(index, _)| index).collect();
        let quic = self.quic_connections.iter().filter(|(_, connection)| {
            connection.streams.as_ref().is_some_and(|streams| streams.holds)
        });
        let quic: Vec<_> = quic.map(|(index, _)| index).collect();
        for index in held {
            self.touch(index);
        }
        for index in quic {
            self.touch_quic(index);
        }
    }

    /// Ends what has lasted longer than any request may.
    fn sweep_exchanges(&mut self, now: Instant) {
        let Some(then) = now.checked_sub(self.options.limits.request_timeout) else { return };
        let late = self
            .exchanges
            .iter()
            // A WebSocket may last; its request may not.
            .filter(|(_, exchange)| !exchange.accepted && exchange.client.is_some())
            .filter(|(_, exchange)| exchange.started <= then);
        let late: Vec<usize> = late.map(|(index, _)| index).collect();
        for index in late {
            self.answer_instead(index, &Verdict::new(504, Some("Gateway Timeout")));
            self.tally.overdue += 1;
            let Some(entry) = self.exchanges.get_mut(index) else { continue };
            entry.overdue = true;
            self.cancel(index, Cancellation::DeadlinePassed);
        }
    }

    /// Reports the workers whose event loop has stopped: they hold an exchange that is overdue, whose CANCEL lies in the ring
    /// or behind what lies there, and they take nothing. A handler that ignores the CANCEL does not: its loop takes it.
    fn find_stuck(&mut self, now: Instant) {
        for (index, slot) in self.links.iter_mut().filter(|(_, slot)| slot.usable()) {
            let looked = slot.lane.taken().and_then(|taken| Ok((taken, slot.lane.is_unread()?)));
            let (taken, unread) = match looked {
                Ok(looked) => looked,
                Err(fault) => {
                    slot.fault = Some(fault);
                    continue;
                }
            };
            let moved = std::mem::replace(&mut slot.taken, taken) != taken;
            if moved || !unread {
                slot.still_since = None;
                continue;
            }
            let standing = now.duration_since(*slot.still_since.get_or_insert(now));
            let late = standing >= self.options.limits.stuck_timeout && !slot.stuck;
            if late && self.exchanges.iter().any(|(_, e)| e.overdue && e.link == Some(index)) {
                slot.stuck = true;
                let (worker, incarnation) = (slot.worker, slot.incarnation);
                let report = Report::Stuck { worker, incarnation, standing };
                if self.reports.send(report).is_err() {
                    tracing::debug!("nobody listens to this shard any more");
                }
            }
        }
    }
}
