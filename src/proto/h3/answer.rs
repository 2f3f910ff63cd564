//! The response side: heads, bodies as far as the client's windows, the network and the output have room, trailers, refusals.
//!
//! Invariant: QUIC is given no more of a worker's body than it can send at once, so nothing of it piles up here; a body is
//! held to its announced length.

use std::time::Instant;

use super::{
    H3, StreamKey,
    code::Code,
    frames::{DATA_HEAD_SIZE_MAX, kind, put_head},
    response, serving,
    stream::{Caller, Reading, Turn},
};
use crate::{
    limits::{H3_QUANTUM, H3_UNSENT_SIZE_MAX},
    proto::{
        answer::EdgeAnswer,
        error::{BadResponse, Refusal},
        head::ResponseHead,
        response::Sending,
        stream::{Cut, Responses},
    },
};

impl Responses for H3 {
    fn respond(
        &mut self,
        stream: StreamKey,
        head: &ResponseHead<'_>,
        date: &[u8],
        end: bool,
    ) -> Result<(), BadResponse> {
        let Some(entry) = serving(&mut self.streams, stream) else { return Ok(()) };
        if entry.sending != Sending::Head {
            return Err(BadResponse::OutOfOrder);
        }
        // RFC 9220 §3.
        let accepts = entry.is_websocket && head.status == 101;
        let head = if accepts { &ResponseHead { status: 200, ..*head } } else { head };
        let before = entry.outbox.len();
        let sending = response::head(head, date, entry.is_head, &mut entry.outbox)?;
        if end && matches!(sending, Sending::Sized(1..)) {
            entry.outbox.truncate(before);
            return Err(BadResponse::BodyTooShort);
        }
        entry.sending = sending;
        entry.continue_due = false;
        if end {
            self.release(stream, None);
        } else {
            // It waits a moment for the body, to go with it.
            self.soil(stream);
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
        let Some(entry) = serving(&mut self.streams, stream) else { return Ok(data.len()) };
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
                let fair = if crowded { H3_QUANTUM } else { H3_UNSENT_SIZE_MAX };
                let wanted = data.len().min(room).min(fair);
                let Ok(capacity) = self.quic.stream_capacity(stream.id) else {
                    self.lost(stream, now);
                    return Ok(data.len());
                };
                let capacity = capacity.saturating_sub(entry.outbox.len() + DATA_HEAD_SIZE_MAX);
                let granted = wanted.min(capacity);
                let piece = data.get(..granted).unwrap_or_default();
                if !piece.is_empty() {
                    entry.outbox.reserve(DATA_HEAD_SIZE_MAX + granted);
                    put_head(kind::DATA, granted, &mut entry.outbox);
                    entry.outbox.extend_from_slice(piece);
                    self.budgets.sent(granted);
                    self.unsent += granted;
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
            self.release(stream, Some(now));
        } else {
            self.flush(stream, now);
            self.arm(stream);
        }
        Ok(taken)
    }

    fn trailers(
        &mut self,
        stream: StreamKey,
        trailers: &ResponseHead<'_>,
    ) -> Result<(), BadResponse> {
        let Some(entry) = serving(&mut self.streams, stream) else { return Ok(()) };
        match entry.sending {
            Sending::Head => return Err(BadResponse::OutOfOrder),
            Sending::Sized(1..) => return Err(BadResponse::BodyTooShort),
            Sending::Sized(0) | Sending::Bodiless | Sending::Open => {}
        }
        response::trailers(trailers, &mut entry.outbox)?;
        self.release(stream, None);
        Ok(())
    }

    fn informational(
        &mut self,
        stream: StreamKey,
        head: &ResponseHead<'_>,
    ) -> Result<(), BadResponse> {
        let Some(entry) = serving(&mut self.streams, stream) else { return Ok(()) };
        if entry.sending != Sending::Head {
            return Err(BadResponse::OutOfOrder);
        }
        response::informational(head, &mut entry.outbox)?;
        self.soil(stream);
        Ok(())
    }

    fn go_on(&mut self, stream: StreamKey) {
        let Some(entry) = serving(&mut self.streams, stream) else { return };
        if std::mem::take(&mut entry.continue_due) && entry.sending == Sending::Head {
            response::go_on(&mut entry.outbox);
            self.soil(stream);
        }
    }

    fn refuse(&mut self, stream: StreamKey, refusal: Refusal, date: &[u8], now: Instant) {
        let Some(entry) = serving(&mut self.streams, stream) else { return };
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
        let Some(entry) = serving(&mut self.streams, stream) else { return Ok(()) };
        // Whatever the windows: it is short, and waits here until they open or the stream ends.
        let (body, has_body) = (answer.body(), entry.sending != Sending::Bodiless);
        if has_body && !body.is_empty() {
            put_head(kind::DATA, body.len(), &mut entry.outbox);
            entry.outbox.extend_from_slice(body);
        }
        self.release(stream, None);
        Ok(())
    }

    fn reset(&mut self, stream: StreamKey, why: Cut) {
        if self.serving(stream).is_some() {
            let code = match why {
                Cut::Internal => Code::InternalError,
                Cut::Cancelled => Code::RequestCancelled,
                Cut::Refused => Code::RequestRejected,
            };
            self.abandon(stream, code);
        }
    }

    fn response_waits(&self, stream: StreamKey) -> bool {
        let entry = self.streams.get(stream.slot).filter(|entry| entry.id == stream.id);
        entry.is_some_and(|entry| entry.caller == Caller::Serves && entry.sending == Sending::Head)
    }
}

impl H3 {
    /// Has QUIC tell when there is room for more of a body that was held back.
    fn arm(&mut self, stream: StreamKey) {
        let entry = serving(&mut self.streams, stream);
        if entry.is_some_and(|entry| entry.blocked.is_some() && entry.turn == Turn::None) {
            // If the stream is gone, that is found out.
            let _: quiche::Result<bool> =
                self.quic.stream_writable(stream.id, DATA_HEAD_SIZE_MAX + 1);
        }
    }
}
