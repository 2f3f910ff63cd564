//! The request side: from the bytes of a stream to heads, pieces of body, and the end (RFC 9114 §4.1).
//!
//! Invariant: body is taken from QUIC only as far as there is credit, so that what a worker does not take closes the
//! client's window. Whatever ends a stream or the connection is found out by reading, in the order in which it was sent.

use std::time::Instant;

use bytes::{BufMut, Bytes, BytesMut};
use quiche::h3::qpack::{self, Decoder};

use super::{
    Discarded, H3, Place, StreamKey,
    code::Code,
    find,
    frames::{FrameHead, Input, kind},
    request::{self, Rejected},
    stream::{Awaits, Caller, Reading, Stream},
};
use crate::{
    limits::{
        EXCHANGE_WINDOW, H3_DISCARDED_MAX, H3_LINGERING_MAX, H3_PIECE_SIZE_MAX, H3_UNRETURNED_MAX,
        HEAD_SIZE_MAX,
    },
    proto::{
        error::Refusal,
        head::{BodyLength, Method, RequestHead},
        request::Asked,
        stream::Event,
    },
};

/// What one step of reading comes to.
enum Step {
    /// More can be read.
    On,
    /// More has to arrive, or credit to come back; or there is enough for one event.
    Halt,
    /// The request is here as a whole.
    End,
    /// The client broke it off.
    Lost,
    /// It is malformed (RFC 9114 §4.1.2).
    Malformed(Code),
    /// It is not accepted.
    Refused(Refusal),
    /// A head was read.
    Request,
    /// The connection cannot go on.
    Close(Code),
}

impl H3 {
    /// Reads from a stream up to the next thing to report.
    pub(super) fn read(
        &mut self,
        key: StreamKey,
        head: &mut RequestHead,
        now: Instant,
    ) -> Option<Event> {
        let mut body = BytesMut::new();
        loop {
            match self.step(key, &mut body, head, now) {
                Step::On => {}
                Step::Halt if body.is_empty() => return None,
                Step::Halt => return self.body_event(key, body, false, now),
                Step::End => return self.body_event(key, body, true, now),
                Step::Lost => {
                    if let Some(stream) = find(&mut self.streams, key) {
                        stream.inlet.fin = true;
                    }
                    self.lost(key, now);
                    return None;
                }
                Step::Malformed(code) => {
                    self.malformed(key, code, now);
                    return None;
                }
                Step::Refused(refusal) => return Some(self.refused(key, refusal)),
                Step::Request => return self.request_event(key, head, now),
                Step::Close(code) => {
                    self.close(code);
                    return None;
                }
            }
        }
    }

    fn step(
        &mut self,
        key: StreamKey,
        body: &mut BytesMut,
        head: &mut RequestHead,
        now: Instant,
    ) -> Step {
        let Some(stream) = find(&mut self.streams, key) else { return Step::Halt };
        if matches!(stream.reading, Reading::Done | Reading::Refused) {
            return Step::Halt;
        }
        match stream.awaits {
            Awaits::Frame => match stream.inlet.frame(&mut self.quic, key.id) {
                Input::Got(frame) => self.begin(key, frame, now),
                Input::Blocked => Step::Halt,
                Input::Ended if stream.reading == Reading::Head => {
                    Step::Malformed(Code::RequestIncomplete)
                }
                Input::Ended => Step::End,
                // RFC 9114 §7.1.
                Input::Truncated => Step::Close(Code::FrameError),
                Input::Reset => Step::Lost,
            },
            Awaits::Fields(len) => {
                match stream.inlet.payload(&mut self.quic, key.id, len, &mut self.block) {
                    Input::Got(()) => self.fields(key, head),
                    Input::Blocked => Step::Halt,
                    Input::Ended | Input::Truncated => Step::Close(Code::FrameError),
                    Input::Reset => Step::Lost,
                }
            }
            Awaits::Data(0) | Awaits::Skipped(0) => {
                stream.awaits = Awaits::Frame;
                Step::On
            }
            Awaits::Data(left) => {
                let room = (EXCHANGE_WINDOW.saturating_sub(stream.unreturned))
                    .min(H3_UNRETURNED_MAX.saturating_sub(self.unreturned))
                    .saturating_sub(body.len());
                stream.is_starved = room == 0;
                let room = room.min(H3_PIECE_SIZE_MAX - body.len().min(H3_PIECE_SIZE_MAX));
                if room == 0 {
                    return Step::Halt;
                }
                if stream.inlet.fin {
                    return Step::Close(Code::FrameError);
                }
                let wanted = usize::try_from(left).map_or(room, |left| left.min(room));
                body.reserve(self.quic.stream_readable_len(key.id, wanted));
                match self.quic.stream_recv_buf(key.id, (&mut *body).limit(wanted)) {
                    Ok((read, fin)) => {
                        stream.inlet.took(read, fin);
                        stream.awaits = Awaits::Data(left - read as u64);
                        Step::On
                    }
                    Err(quiche::Error::Done) => Step::Halt,
                    Err(_) => Step::Lost,
                }
            }
            Awaits::Skipped(left) => match stream.inlet.discard(&mut self.quic, key.id, left) {
                Input::Got(read) => {
                    stream.awaits = Awaits::Skipped(left - read);
                    Step::On
                }
                Input::Blocked => Step::Halt,
                Input::Ended | Input::Truncated => Step::Close(Code::FrameError),
                Input::Reset => Step::Lost,
            },
        }
    }

    /// RFC 9114 §4.1, §7.2: what may stand on a request's stream, and where.
    fn begin(&mut self, key: StreamKey, frame: FrameHead, now: Instant) -> Step {
        let Some(stream) = find(&mut self.streams, key) else { return Step::Halt };
        match (frame.kind, stream.reading) {
            (kind::HEADERS, Reading::Head | Reading::Body) => {
                match usize::try_from(frame.len) {
                    Ok(len) if len <= HEAD_SIZE_MAX => stream.awaits = Awaits::Fields(len),
                    _ if stream.reading == Reading::Head => {
                        return Step::Refused(Refusal::HeadTooLarge);
                    }
                    _ => return Step::Refused(Refusal::TrailersTooLarge),
                }
                return Step::On;
            }
            (kind::DATA, Reading::Body) => {
                stream.awaits = Awaits::Data(frame.len);
                if frame.len > 0 {
                    return Step::On;
                }
            }
            (
                kind::HEADERS
                | kind::DATA
                | kind::CANCEL_PUSH
                | kind::SETTINGS
                | kind::PUSH_PROMISE
                | kind::GOAWAY
                | kind::MAX_PUSH_ID
                | kind::PRIORITY_UPDATE
                | kind::PRIORITY_UPDATE_PUSH,
                _,
            ) => return Step::Close(Code::FrameUnexpected),
            (other, _) if kind::RESERVED.contains(&other) => {
                return Step::Close(Code::FrameUnexpected);
            }
            // RFC 9114 §9.
            _ => stream.awaits = Awaits::Skipped(frame.len),
        }
        if self.budgets.frame(now).is_err() {
            return Step::Close(Code::ExcessiveLoad);
        }
        Step::On
    }

    /// A field section is here as a whole, in `block`.
    fn fields(&mut self, key: StreamKey, head: &mut RequestHead) -> Step {
        let early = self.quic.is_in_early_data();
        let Some(stream) = find(&mut self.streams, key) else { return Step::Halt };
        stream.awaits = Awaits::Frame;
        let is_head = stream.reading == Reading::Head;
        if is_head {
            self.budgets.request(self.block.len());
        }
        // RFC 9204 §4.5.1, §2.2: it refers to no entry of a table that has none.
        if self.block.first().is_some_and(|&count| count != 0) {
            return Step::Close(Code::DecompressionFailed);
        }
        let fields = match Decoder::new().decode(&self.block, HEAD_SIZE_MAX as u64) {
            Ok(fields) => fields,
            Err(qpack::Error::HeaderListTooLarge) if is_head => {
                return Step::Refused(Refusal::HeadTooLarge);
            }
            Err(qpack::Error::HeaderListTooLarge) => {
                return Step::Refused(Refusal::TrailersTooLarge);
            }
            Err(_) => return Step::Close(Code::DecompressionFailed),
        };
        if !is_head {
            stream.reading = Reading::Trailers;
            return match request::check_trailers(&fields) {
                Ok(()) => Step::On,
                Err(Rejected::Malformed) => Step::Malformed(Code::MessageError),
                Err(Rejected::Refused(refusal)) => Step::Refused(refusal),
            };
        }
        match request::fill(&fields, stream.inlet.fin, early, head) {
            Ok(asked) => {
                stream.is_websocket = asked == Asked::WebSocket;
                Step::Request
            }
            Err(Rejected::Malformed) => Step::Malformed(Code::MessageError),
            Err(Rejected::Refused(refusal)) => Step::Refused(refusal),
        }
    }

    /// A request's head is here, and filled.
    fn request_event(&mut self, key: StreamKey, head: &RequestHead, now: Instant) -> Option<Event> {
        let stream = find(&mut self.streams, key)?;
        let end = stream.inlet.fin;
        stream.is_head = head.method == Method::Head;
        stream.reading = if end { Reading::Done } else { Reading::Body };
        stream.last_data = now;
        if let BodyLength::Known(length) = head.body
            && !stream.is_websocket
        {
            // RFC 9110 §15.5.14: straight from the head, before any of it is read.
            if length > self.options.body_size_max {
                return Some(self.refused(key, Refusal::BodyTooLarge));
            }
            stream.announced = Some(length);
        } else if head.field(b"content-length").is_some() && !stream.is_websocket {
            stream.announced = Some(0);
        }
        stream.continue_due = head.expects_continue;
        stream.caller = Caller::Serves;
        let websocket = stream.is_websocket;
        self.served += 1;
        if !end {
            self.queue(key);
        }
        Some(Event::Request { stream: key, end, websocket })
    }

    fn body_event(
        &mut self,
        key: StreamKey,
        body: BytesMut,
        end: bool,
        now: Instant,
    ) -> Option<Event> {
        let stream = find(&mut self.streams, key)?;
        stream.received += body.len() as u64;
        stream.last_data = now;
        stream.continue_due = false;
        if !body.is_empty() {
            self.budgets.received(body.len());
        }
        if !agrees(stream, end) {
            self.malformed(key, Code::MessageError, now);
            return None;
        }
        if stream.received > self.options.body_size_max && !stream.is_websocket {
            return Some(self.refused(key, Refusal::BodyTooLarge));
        }
        stream.unreturned += body.len();
        self.unreturned += body.len();
        if end {
            stream.reading = Reading::Done;
        } else {
            self.queue(key);
        }
        Some(Event::Body { stream: key, data: Bytes::from(body), end })
    }

    /// A rule is broken on one stream.
    fn malformed(&mut self, key: StreamKey, code: Code, now: Instant) {
        let is_served = self.serving(key).is_some();
        self.abandon(key, code);
        if is_served {
            self.events.push_back(Event::Reset { stream: key });
        }
        self.charge(now);
    }

    /// Drops what has come on a stream that nobody wants; of too much the client is asked to send no more.
    pub(super) fn discard(&mut self, id: u64) {
        let Some(Place::Discarded(rest)) = self.places.get_mut(&id) else { return };
        let is_over = loop {
            match self.quic.stream_discard(id, H3_PIECE_SIZE_MAX) {
                Ok((read, fin)) => {
                    rest.bytes += read as u64;
                    rest.taken += read as u64;
                    self.budgets.discarded(read);
                    if fin {
                        break true;
                    }
                    if rest.bytes > H3_DISCARDED_MAX {
                        break false;
                    }
                }
                Err(quiche::Error::Done) => return,
                Err(_) => break true,
            }
        };
        let Some(Place::Discarded(Discarded { last_piece, .. })) = self.places.remove(&id) else {
            return;
        };
        if !is_over
            && self.quic.stream_shutdown(id, quiche::Shutdown::Read, Code::NoError.number()).is_ok()
        {
            self.stopped.push((id, last_piece));
        }
    }

    /// QUIC notices that both halves of a stream are over when one of ours is acknowledged, and not when the client's end
    /// of a stopped one comes after that. A reset of what has arrived as a whole, which the client ignores (RFC 9000 §3.2),
    /// makes it look again. Where there was a reset already there is no other; such streams are counted, and a connection
    /// that has lost many of its streams to them is replaced.
    pub(super) fn collect_stopped(&mut self) {
        let mut at = 0;
        while let Some((id, last_piece)) = self.stopped.get(at) {
            let id = *id;
            if !self.quic.stream_finished(id) || last_piece.strong_count() > 0 {
                at += 1;
                continue;
            }
            self.stopped.swap_remove(at);
            let is_there =
                !matches!(self.quic.stream_capacity(id), Err(quiche::Error::InvalidStreamState(_)));
            let shut =
                self.quic.stream_shutdown(id, quiche::Shutdown::Write, Code::NoError.number());
            if is_there && shut.is_err() {
                self.lingering += 1;
            }
        }
        if self.lingering >= H3_LINGERING_MAX {
            self.timers.is_worn_out();
        }
    }
}

/// RFC 9114 §4.1.2: a body is as long as its Content-Length says.
fn agrees(stream: &Stream, end: bool) -> bool {
    match stream.announced {
        Some(length) if end => stream.received == length,
        Some(length) => stream.received <= length,
        None => true,
    }
}
