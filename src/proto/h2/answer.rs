//! The response side: heads, bodies as far as the client's windows and the output have room, trailers, refusals.
//!
//! Invariant: the library is given no more of a worker's body than it can write at once, so nothing of it piles up there;
//! a body is held to its announced length. Calls about a stream that has ended do nothing and say that all is well: its
//! `Reset` was reported, or is about to be.

use std::{task::Context, time::Instant};

use super::{
    H2, StreamKey, find,
    response::{self, Sending},
    stream::{Reading, Turn},
};
use crate::{
    limits::{H2_QUANTUM, H2_UNSENT_SIZE_MAX},
    proto::{
        answer::EdgeAnswer,
        error::{BadResponse, Refusal},
        head::ResponseHead,
        stream::Cut,
    },
};

impl H2 {
    /// Takes a response's head. `date` is an IMF-fixdate. `end`: there is no body; the stream has ended then. What
    /// accepts a WebSocket is 101 here as in HTTP/1.1, and 200 on the wire (RFC 8441 §5).
    ///
    /// # Errors
    /// The head is invalid; nothing was taken, and another (an edge answer) may be given in its place.
    pub fn respond(
        &mut self,
        stream: StreamKey,
        head: &ResponseHead<'_>,
        date: &[u8],
        end: bool,
    ) -> Result<(), BadResponse> {
        let Some(entry) = find(&mut self.streams, stream) else { return Ok(()) };
        if entry.sending != Sending::Head {
            return Err(BadResponse::OutOfOrder);
        }
        let accepts = entry.is_websocket && head.status == 101;
        let head = if accepts { &ResponseHead { status: 200, ..*head } } else { head };
        let (encoded, sending) = response::head(head, date, entry.is_head)?;
        if end && matches!(sending, Sending::Sized(1..)) {
            return Err(BadResponse::BodyTooShort);
        }
        entry.send_head(encoded, end || sending.is_over());
        entry.sending = sending;
        entry.continue_due = false;
        self.flush_due = true;
        if end {
            self.forget(stream.slot);
        }
        Ok(())
    }

    /// Takes the front of a piece of body; how much of it that was. For the rest wait for `Writable`. With all of the
    /// piece that has `end` the stream has ended. Where there is no body to send it is taken and dropped.
    ///
    /// # Errors
    /// More or less body than announced, or no head: reset the stream.
    pub fn body(
        &mut self,
        stream: StreamKey,
        data: &[u8],
        end: bool,
        now: Instant,
    ) -> Result<usize, BadResponse> {
        let (room, crowded) = (self.room(), !self.writable.is_empty());
        let waker = self.ready.waker(stream.slot);
        let Some(entry) = find(&mut self.streams, stream) else { return Ok(data.len()) };
        if entry.turn == Turn::Awaited {
            return Ok(0);
        }
        entry.turn = Turn::None;
        let taken = match entry.sending {
            Sending::Head => return Err(BadResponse::OutOfOrder),
            Sending::Bodiless => data.len(),
            Sending::Sized(left) if left < data.len() as u64 => {
                return Err(BadResponse::BodyTooLong);
            }
            Sending::Sized(left) if end && left > data.len() as u64 => {
                return Err(BadResponse::BodyTooShort);
            }
            Sending::Sized(_) | Sending::Open => {
                let fair = if crowded { H2_QUANTUM } else { H2_UNSENT_SIZE_MAX };
                let wanted = data.len().min(room).min(fair);
                let granted = match wanted {
                    0 => 0,
                    _ => entry.capacity(wanted, &mut Context::from_waker(&waker)),
                };
                let is_last = end && granted == data.len();
                if granted > 0 || is_last {
                    entry.send_data(data.get(..granted).unwrap_or_default(), is_last);
                    self.queued += granted;
                    self.budgets.sent(granted as u64);
                    self.flush_due = true;
                }
                if let Sending::Sized(left) = &mut entry.sending {
                    *left -= granted as u64;
                }
                if granted < wanted {
                    let (_, sent) = entry.blocked.get_or_insert((now, 0));
                    *sent += granted as u64;
                    self.timers.blocked(now);
                } else {
                    entry.blocked = None;
                    if granted < data.len() {
                        entry.turn = Turn::Awaited;
                        self.writable.push_back(stream);
                    }
                }
                granted
            }
        };
        if end && taken == data.len() {
            self.forget(stream.slot);
        }
        Ok(taken)
    }

    /// Takes the trailer fields of a response (`status` and `body` of `trailers` mean nothing); the stream has ended then.
    ///
    /// # Errors
    /// A field is invalid, less body than announced, or no head: reset the stream.
    pub fn trailers(
        &mut self,
        stream: StreamKey,
        trailers: &ResponseHead<'_>,
    ) -> Result<(), BadResponse> {
        let Some(entry) = find(&mut self.streams, stream) else { return Ok(()) };
        match entry.sending {
            Sending::Head => return Err(BadResponse::OutOfOrder),
            Sending::Sized(1..) => return Err(BadResponse::BodyTooShort),
            Sending::Sized(0) | Sending::Bodiless | Sending::Open => {}
        }
        let fields = response::trailers(trailers)?;
        if fields.is_empty() {
            entry.send_data(&[], true);
        } else {
            entry.send_trailers(fields);
        }
        self.forget(stream.slot);
        Ok(())
    }

    /// Takes an informational response (RFC 9110 §15.2) ahead of the response; 100 and 101 are the engine's own to say.
    ///
    /// # Errors
    /// The head is invalid, or the response's own head is out; nothing was taken.
    pub fn informational(
        &mut self,
        stream: StreamKey,
        head: &ResponseHead<'_>,
    ) -> Result<(), BadResponse> {
        let Some(entry) = find(&mut self.streams, stream) else { return Ok(()) };
        if entry.sending != Sending::Head {
            return Err(BadResponse::OutOfOrder);
        }
        entry.send_informational(response::informational(head)?);
        self.flush_due = true;
        Ok(())
    }

    /// Says `100 Continue` if the client waits for one (RFC 9110 §10.1.1); at most once.
    pub fn go_on(&mut self, stream: StreamKey) {
        let Some(entry) = find(&mut self.streams, stream) else { return };
        if std::mem::take(&mut entry.continue_due) && entry.sending == Sending::Head {
            let mut head = http::Response::new(());
            *head.status_mut() = http::StatusCode::CONTINUE;
            entry.send_informational(head);
            self.flush_due = true;
        }
    }

    /// Answers a request that is not accepted, or resets its stream if a response has begun already.
    pub fn refuse(&mut self, stream: StreamKey, refusal: Refusal, date: &[u8], now: Instant) {
        let Some(entry) = find(&mut self.streams, stream) else { return };
        entry.reading = Reading::Refused;
        let answer = EdgeAnswer::new(refusal.status(), Some(refusal.detail()), &[]);
        if self.answer(stream, &answer, date).is_err() {
            self.reset(stream, Cut::Cancelled);
        }
        self.charge(now);
    }

    /// Takes a complete response made by the edge; the stream has ended then.
    ///
    /// # Errors
    /// [`BadResponse::OutOfOrder`] if a response has begun already: reset the stream.
    pub fn answer(
        &mut self,
        stream: StreamKey,
        answer: &EdgeAnswer,
        date: &[u8],
    ) -> Result<(), BadResponse> {
        self.respond(stream, &answer.head(), date, false)?;
        let Some(entry) = find(&mut self.streams, stream) else { return Ok(()) };
        // Whatever the windows: it is short, and the library may keep it until they open or the connection ends.
        entry.send_data(answer.body(), true);
        self.forget(stream.slot);
        Ok(())
    }
}
