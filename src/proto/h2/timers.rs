//! When a client has been waited for long enough.
//!
//! Invariant: whatever is awaited from the client has a deadline here, and what is awaited from the application or the
//! worker has none. `wake_at` is never later than the earliest of them; it may be earlier. Deliberately absent: the time
//! that the socket takes for what was output; the caller's own.

use std::{
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use h2::{Ping, Reason};

use super::{
    H2, Options, StreamKey,
    frames::Partial,
    stream::{Reading, Stream},
};
use crate::{
    limits::{
        EXCHANGE_WINDOW, H2_CONNECTION_WINDOW_MAX, H2_LEAVE_TIMEOUT, H2_PING_INTERVAL,
        H2_PING_TIMEOUT, RATE_GRACE_MS, SEND_TIMEOUT,
    },
    proto::{error::Refusal, rate::MinRate},
};

/// What a client is waited for with, as far as that concerns the whole connection.
#[derive(Debug)]
pub(super) struct Timers {
    /// When preface and acknowledged SETTINGS must be here; `None` once they are.
    settings_due: Option<Instant>,
    /// Since when a frame, or a block of HEADERS, is incomplete; and which.
    partial: Option<(Instant, u64)>,
    /// The stream whose frame of body is incomplete.
    partial_data: Option<u64>,
    last_input: Instant,
    /// The last time that the client was seen to live: it sent something, or took what was output before.
    last_sign: Instant,
    /// Since when there is no stream; found out when looked for.
    idle_since: Option<Instant>,
    /// Since when request bodies are awaited, and how much arrived since.
    upload: Option<(Instant, u64)>,
    /// When a sign of life was asked for, and whether that went out with the latest output.
    pinged: Option<(Instant, bool)>,
    /// When the client was told that we leave.
    leaving: Option<Instant>,
    wake_at: Instant,
}

impl Timers {
    pub(super) fn new(options: &Options, now: Instant) -> Self {
        let settings_due = now + options.header_timeout;
        Self {
            settings_due: Some(settings_due),
            partial: None,
            partial_data: None,
            last_input: now,
            last_sign: now,
            idle_since: Some(now),
            upload: None,
            pinged: None,
            leaving: None,
            wake_at: settings_due,
        }
    }

    /// The client has applied our SETTINGS.
    pub(super) fn settings_acknowledged(&mut self) {
        self.settings_due = None;
    }

    /// Bytes arrived, and left this incomplete.
    pub(super) fn received(
        &mut self,
        bytes: usize,
        partial: Partial,
        header_timeout: Duration,
        now: Instant,
    ) {
        self.last_input = now;
        self.seen(now);
        if let Some((_, received)) = &mut self.upload {
            *received += bytes as u64;
        }
        self.partial_data = None;
        self.partial = match (partial, self.partial) {
            (Partial::None, _) => None,
            (Partial::Data(stream), _) => {
                self.partial_data = Some(u64::from(stream));
                None
            }
            (Partial::Other(frame), Some((since, same))) if frame == same => Some((since, same)),
            (Partial::Other(frame), _) => {
                self.arm(now + header_timeout);
                Some((now, frame))
            }
        };
    }

    /// Something was output: what was output before is with the client, or on its way there.
    pub(super) fn output(&mut self, now: Instant) {
        match &mut self.pinged {
            Some((_, is_out @ false)) => *is_out = true,
            _ => self.seen(now),
        }
    }

    fn seen(&mut self, now: Instant) {
        (self.last_sign, self.pinged) = (now, None);
    }

    /// A request has begun.
    pub(super) fn stream_opened(&mut self, body_timeout: Duration, now: Instant) {
        self.idle_since = None;
        self.upload.get_or_insert((now, 0));
        self.arm(now + body_timeout.min(Duration::from_millis(RATE_GRACE_MS)));
    }

    /// A response waits for the client's window from now on.
    pub(super) fn blocked(&mut self, now: Instant) {
        self.arm(now + SEND_TIMEOUT);
    }

    /// The client was told that we leave.
    pub(super) fn leaves(&mut self, now: Instant) {
        self.leaving = Some(now);
        self.arm(now + H2_LEAVE_TIMEOUT);
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
enum Due {
    /// Its body does not come.
    Refuse,
    /// Its response is not taken.
    Reset,
}

impl H2 {
    /// When [`Self::handle_timeout`] is to be called; `None` once the connection is closed.
    pub fn timeout(&self) -> Option<Instant> {
        (!self.is_closed()).then_some(self.timers.wake_at)
    }

    /// Ends what the client was waited for too long; then poll for events, and take the output.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.is_closed() || now < self.timers.wake_at {
            return;
        }
        let Options { header_timeout, body_timeout, keepalive_timeout, .. } = self.options;
        let mut next = now + keepalive_timeout;
        let mut is_due = |deadline: Option<Instant>| match deadline {
            Some(deadline) if deadline <= now => true,
            Some(deadline) => {
                next = next.min(deadline);
                false
            }
            None => false,
        };
        // RFC 9113 §6.5.3.
        if is_due(self.timers.settings_due) {
            return self.close(Reason::SETTINGS_TIMEOUT);
        }
        if is_due(self.timers.partial.map(|(since, _)| since + header_timeout)) {
            return self.close(Reason::ENHANCE_YOUR_CALM);
        }
        if self.streams.is_empty() {
            let since = *self.timers.idle_since.get_or_insert(now);
            let leaving = self.timers.leaving.map(|since| since + H2_LEAVE_TIMEOUT);
            if is_due(Some(since + keepalive_timeout)) || is_due(leaving) {
                return self.close(Reason::NO_ERROR);
            }
        } else if is_due(self.timers.pinged.map(|(since, _)| since + H2_PING_TIMEOUT)) {
            return self.close(Reason::NO_ERROR);
        } else if self.timers.pinged.is_none()
            && is_due(Some(self.timers.last_sign + H2_PING_INTERVAL))
        {
            self.ping(now);
            // An answer counts from when it comes, which is not earlier.
            is_due(Some(now + H2_PING_INTERVAL.min(H2_PING_TIMEOUT)));
        }
        let mut due = Vec::new();
        // Since when a body is awaited: the one that is awaited longest.
        let mut since: Option<Instant> = None;
        let crowded = self.unreturned >= H2_CONNECTION_WINDOW_MAX / 2;
        for (slot, stream) in &self.streams {
            let key = StreamKey { slot, id: stream.id };
            if !crowded && awaits(stream) {
                since = Some(since.map_or(stream.opened, |since| since.min(stream.opened)));
                let is_arriving = self.timers.partial_data == Some(stream.id);
                let last = if is_arriving { self.timers.last_input } else { stream.last_data };
                if is_due(Some(last + body_timeout)) {
                    due.push((key, Due::Refuse));
                }
            }
            let rate = MinRate { grace: SEND_TIMEOUT, ..MinRate::default() };
            if is_due(stream.blocked.map(|(since, sent)| since + rate.allowance(sent))) {
                due.push((key, Due::Reset));
            }
        }
        if let Some(opened) = since {
            let (since, received) = *self.timers.upload.get_or_insert((now, 0));
            if is_due(Some(since.max(opened) + MinRate::default().allowance(received))) {
                let late = self.streams.iter().filter(|(_, stream)| awaits(stream));
                due.extend(
                    late.map(|(slot, stream)| (StreamKey { slot, id: stream.id }, Due::Refuse)),
                );
                self.timers.upload = None;
            }
        } else {
            self.timers.upload = None;
        }
        self.timers.wake_at = next;
        for (key, due) in due {
            self.expire(key, &due, now);
        }
    }

    fn expire(&mut self, key: StreamKey, due: &Due, now: Instant) {
        let Some(stream) = super::find(&mut self.streams, key) else { return };
        match due {
            Due::Refuse if matches!(stream.reading, Reading::Body) => {
                let event = self.refused(key, Refusal::TooSlow);
                self.events.push_back(event);
            }
            Due::Refuse => {}
            Due::Reset => {
                stream.send_reset(Reason::CANCEL);
                let event = self.lost(key, now);
                self.events.push_back(event);
            }
        }
    }

    fn ping(&mut self, now: Instant) {
        let Some(pings) = &mut self.pings else { return };
        // The answer to an earlier one has to be taken before another can be sent.
        let _: Poll<Result<_, h2::Error>> =
            pings.poll_pong(&mut Context::from_waker(Waker::noop()));
        // It fails while one is under way, which asks the same.
        let _: Result<(), h2::Error> = pings.send_ping(Ping::opaque());
        self.timers.pinged = Some((now, false));
        self.flush_due = true;
    }
}

/// True when it is the client's turn: a body is under way, and neither the worker nor another stream's is to blame if
/// nothing comes.
fn awaits(stream: &Stream) -> bool {
    matches!(stream.reading, Reading::Body)
        && !stream.is_websocket
        && stream.unreturned < EXCHANGE_WINDOW / 2
}
