//! When a client has been waited for long enough.
//!
//! Invariant: whatever is awaited from the client has a deadline here or in QUIC, and what is awaited from the application
//! or the worker has none. `wake_at` is never later than the earliest of ours; it may be earlier. Deliberately absent:
//! QUIC's own (loss, idleness, draining), which run on its own clock; they are only passed on.

use std::time::{Duration, Instant};

use super::{
    H3, Options, Phase, StreamKey,
    code::Code,
    find,
    stream::{Caller, Reading, Stream},
};
use crate::{
    limits::{
        EXCHANGE_WINDOW, H3_CONNECTION_WINDOW, H3_GOAWAY_WAIT, H3_LEAVE_TIMEOUT, H3_PING_INTERVAL,
        RATE_GRACE_MS, RATE_MIN_BYTES_PER_S, SEND_TIMEOUT,
    },
    proto::{error::Refusal, rate::MinRate},
};

/// What a client is waited for with, as far as that concerns the whole connection.
#[derive(Debug)]
pub(super) struct Timers {
    /// When the handshake must be over; `None` once it is.
    handshake_due: Option<Instant>,
    last_input: Instant,
    /// Since when there is no stream; found out when looked for.
    idle_since: Option<Instant>,
    /// Since when request bodies are awaited, and how much arrived since.
    upload: Option<(Instant, u64)>,
    /// What is not acknowledged.
    unacked: Option<Unacked>,
    /// When the client was told that we leave.
    leaving: Option<Leaving>,
    /// The connection should be replaced.
    worn_out: bool,
    wake_at: Instant,
}

/// How things stood when something was found to be without acknowledgement.
#[derive(Clone, Copy, Debug)]
struct Unacked {
    since: Instant,
    /// Bytes that had been acknowledged by then.
    released: u64,
    /// The same, and those that had not.
    all: u64,
}

#[derive(Clone, Copy, Debug)]
struct Leaving {
    since: Instant,
    /// The client was told which request is the last.
    last_is_said: bool,
}

impl Timers {
    pub(super) fn new(options: &Options, now: Instant) -> Self {
        let handshake_due = now + options.header_timeout;
        Self {
            handshake_due: Some(handshake_due),
            last_input: now,
            idle_since: Some(now),
            upload: None,
            unacked: None,
            leaving: None,
            worn_out: false,
            wake_at: handshake_due,
        }
    }

    pub(super) fn established(&mut self) {
        self.handshake_due = None;
    }

    /// A datagram arrived.
    pub(super) fn received(&mut self, bytes: usize, now: Instant) {
        self.last_input = now;
        if let Some((_, received)) = &mut self.upload {
            *received += bytes as u64;
        }
    }

    /// A stream has begun.
    pub(super) fn stream_opened(&mut self, options: &Options, now: Instant) {
        self.idle_since = None;
        self.upload.get_or_insert((now, 0));
        let grace = Duration::from_millis(RATE_GRACE_MS);
        let first = options.header_timeout.min(options.body_timeout).min(grace);
        self.arm(now + first.min(H3_PING_INTERVAL));
    }

    /// A response waits for the client, or the network, from now on.
    pub(super) fn blocked(&mut self, now: Instant) {
        self.arm(now + SEND_TIMEOUT);
    }

    /// The client was told that we leave.
    pub(super) fn leaves(&mut self, now: Instant) {
        self.leaving = Some(Leaving { since: now, last_is_said: false });
        self.look_again();
    }

    pub(super) fn is_leaving(&self) -> bool {
        self.leaving.is_some()
    }

    /// The connection has lost too much to go on for long.
    pub(super) fn is_worn_out(&mut self) {
        self.worn_out = true;
        self.look_again();
    }

    /// Something may have become due that was not.
    pub(super) fn look_again(&mut self) {
        self.arm(self.last_input);
    }

    fn arm(&mut self, deadline: Instant) {
        self.wake_at = self.wake_at.min(deadline);
    }
}

/// What is due of a stream.
#[derive(Clone, Copy)]
enum Due {
    /// Its head does not come.
    Forget,
    /// Its body does not come.
    Refuse,
    /// Its response is not taken.
    Reset,
}

/// Remembers the earliest deadline that has not passed.
struct Clock {
    now: Instant,
    next: Instant,
}

impl Clock {
    fn is_due(&mut self, deadline: Option<Instant>) -> bool {
        match deadline {
            Some(deadline) if deadline <= self.now => true,
            Some(deadline) => {
                self.next = self.next.min(deadline);
                false
            }
            None => false,
        }
    }
}

impl H3 {
    /// When [`Self::handle_timeout`] is to be called; `None` once the connection is drained.
    pub fn timeout(&self) -> Option<Instant> {
        let ours = (self.phase != Phase::Closed).then_some(self.timers.wake_at);
        ours.into_iter().chain(self.quic.timeout_instant()).min()
    }

    /// Ends what the client was waited for too long, and sends again what was lost; then poll for events, and take the
    /// output.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.quic.timeout_instant().is_some_and(|due| due <= now) {
            self.quic.on_timeout();
            self.look_due = true;
        }
        if self.phase == Phase::Closed || now < self.timers.wake_at {
            return;
        }
        let mut clock = Clock { now, next: now + self.options.keepalive_timeout };
        if clock.is_due(self.timers.handshake_due) {
            return self.close(Code::NoError);
        }
        if std::mem::take(&mut self.timers.worn_out) {
            self.graceful_goaway(now);
        }
        if self.leave(&mut clock) || self.idle(&mut clock) || self.unacked(&mut clock) {
            return self.close(Code::NoError);
        }
        let due = self.due_streams(&mut clock);
        self.timers.wake_at = clock.next;
        for (key, due) in due {
            self.expire(key, due, now);
        }
    }

    /// RFC 9114 §5.2. True when we have left.
    fn leave(&mut self, clock: &mut Clock) -> bool {
        let Some(leaving) = self.timers.leaving else { return false };
        let patience = self.patience().min(H3_GOAWAY_WAIT);
        if !leaving.last_is_said {
            if !clock.is_due(Some(leaving.since + patience)) {
                return false;
            }
            self.timers.leaving = Some(Leaving { last_is_said: true, ..leaving });
            self.requests_end = self.next_request;
            self.control.goaway(self.requests_end);
        }
        if !self.is_idle() {
            // Nobody waits for its requests any more, so all that is missing is a sign of it.
            let silent_since = leaving.since.max(self.timers.last_input);
            let lost = silent_since + H3_LEAVE_TIMEOUT.max(self.patience());
            return self.served == 0 && clock.is_due(Some(lost));
        }
        // The end of the last response may be on its way, alone.
        let since = *self.timers.idle_since.get_or_insert(clock.now);
        clock.is_due(Some(since + patience))
    }

    /// True when the connection has been idle for long enough.
    fn idle(&mut self, clock: &mut Clock) -> bool {
        if self.streams.is_empty() {
            let since = *self.timers.idle_since.get_or_insert(clock.now);
            return clock.is_due(Some(since + self.options.keepalive_timeout));
        }
        if clock.is_due(Some(self.timers.last_input + H3_PING_INTERVAL)) {
            // It fails when there is no path left, of which QUIC's own timer tells.
            let _: quiche::Result<()> = self.quic.send_ack_eliciting();
            clock.is_due(Some(clock.now + H3_PING_INTERVAL));
        }
        false
    }

    /// True when what was sent is acknowledged too slowly.
    fn unacked(&mut self, clock: &mut Clock) -> bool {
        if self.held.bytes() == 0 {
            self.timers.unacked = None;
            return false;
        }
        let released = self.held.released();
        let fresh =
            Unacked { since: clock.now, released, all: released + self.held.bytes() as u64 };
        let Unacked { since, released: before, all } = *self.timers.unacked.get_or_insert(fresh);
        if !clock.is_due(Some(since + SEND_TIMEOUT)) {
            return false;
        }
        // Each time anew: what went well for an hour is no reason to wait for another.
        self.timers.unacked = Some(fresh);
        clock.is_due(Some(clock.now + SEND_TIMEOUT));
        released < all && released - before < RATE_MIN_BYTES_PER_S * SEND_TIMEOUT.as_secs()
    }

    fn due_streams(&mut self, clock: &mut Clock) -> Vec<(StreamKey, Due)> {
        let Options { header_timeout, body_timeout, .. } = self.options;
        let mut due = Vec::new();
        // Since when a body is awaited: the one that is awaited longest.
        let mut since: Option<Instant> = None;
        // What slow workers leave lying may have closed QUIC's window, for all streams.
        let crowded = self.unreturned >= H3_CONNECTION_WINDOW / 2;
        // A slow network is shared by all that wait for it, and is not the fault of one.
        let blocked = self.streams.iter().filter(|(_, stream)| stream.blocked.is_some()).count();
        let share = RATE_MIN_BYTES_PER_S * SEND_TIMEOUT.as_secs() / blocked.max(1) as u64;
        for (slot, stream) in &mut self.streams {
            let key = StreamKey { slot, id: stream.id };
            if stream.reading == Reading::Head && clock.is_due(Some(stream.opened + header_timeout))
            {
                due.push((key, Due::Forget));
            }
            if !crowded && awaits(stream) {
                since = Some(since.map_or(stream.opened, |since| since.min(stream.opened)));
                if clock.is_due(Some(stream.last_data + body_timeout)) {
                    due.push((key, Due::Refuse));
                }
            }
            if let Some((since, sent)) = stream.blocked
                && clock.is_due(Some(since + SEND_TIMEOUT))
            {
                if sent < share.max(1) {
                    due.push((key, Due::Reset));
                }
                stream.blocked = Some((clock.now, 0));
                clock.is_due(Some(clock.now + SEND_TIMEOUT));
            }
        }
        if let Some(opened) = since {
            let (since, received) = *self.timers.upload.get_or_insert((clock.now, 0));
            if clock.is_due(Some(since.max(opened) + MinRate::default().allowance(received))) {
                let late = self.streams.iter().filter(|(_, stream)| awaits(stream));
                due.extend(
                    late.map(|(slot, stream)| (StreamKey { slot, id: stream.id }, Due::Refuse)),
                );
                self.timers.upload = None;
            }
        } else {
            self.timers.upload = None;
        }
        due
    }

    fn expire(&mut self, key: StreamKey, due: Due, now: Instant) {
        let Some(stream) = find(&mut self.streams, key) else { return };
        match due {
            Due::Forget => {
                self.abandon(key, Code::RequestIncomplete);
                self.charge(now);
            }
            Due::Refuse if matches!(stream.reading, Reading::Body | Reading::Trailers) => {
                let event = self.refused(key, Refusal::TooSlow);
                self.events.push_back(event);
            }
            Due::Refuse => {}
            Due::Reset => self.lost(key, now),
        }
    }
}

/// True when it is the client's turn: a body is under way, and neither the worker nor another stream's is to blame if
/// nothing comes.
fn awaits(stream: &Stream) -> bool {
    matches!(stream.reading, Reading::Body | Reading::Trailers)
        && stream.caller == Caller::Serves
        && !stream.is_websocket
        && stream.unreturned < EXCHANGE_WINDOW / 2
}
