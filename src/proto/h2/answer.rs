//! The response side: heads, bodies as far as the client's windows and the output have room, trailers, refusals.
//!
//! Invariant: the library is given no more of a worker's body than it can write at once, so nothing of it piles up there;
//! a body is held to its announced length.

use std::{task::Context, time::Instant};

use h2::Reason;

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
        stream::{Cut, Responses},
    },
};

impl Responses for H2 {
    fn respond(
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
        // RFC 8441 §5.
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

    fn body(
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

    fn trailers(
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

    fn informational(
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

    fn go_on(&mut self, stream: StreamKey) {
        let Some(entry) = find(&mut self.streams, stream) else { return };
        if std::mem::take(&mut entry.continue_due) && entry.sending == Sending::Head {
            let mut head = http::Response::new(());
            *head.status_mut() = http::StatusCode::CONTINUE;
            entry.send_informational(head);
            self.flush_due = true;
        }
    }

    fn refuse(&mut self, stream: StreamKey, refusal: Refusal, date: &[u8], now: Instant) {
        let Some(entry) = find(&mut self.streams, stream) else { return };
        entry.reading = Reading::Refused;
        let answer = EdgeAnswer::new(refusal.status(), Some(refusal.detail()), &[]);
        if self.answer(stream, &answer, date).is_err() {
            self.reset(stream, Cut::Cancelled);
        }
        self.charge(now);
    }

    fn answer(
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

    fn reset(&mut self, stream: StreamKey, why: Cut) {
        if let Some(entry) = find(&mut self.streams, stream) {
            // RFC 9113 §7.
            entry.send_reset(match why {
                Cut::Internal => Reason::INTERNAL_ERROR,
                Cut::Cancelled => Reason::CANCEL,
                Cut::Refused => Reason::REFUSED_STREAM,
            });
            self.forget(stream.slot);
        }
    }

    fn response_waits(&self, stream: StreamKey) -> bool {
        let entry = self.streams.get(stream.slot).filter(|entry| entry.id == stream.id);
        entry.is_some_and(|entry| entry.sending == Sending::Head)
    }
}
