//! From pieces of messages to the bytes of frames.
//!
//! Invariant: each call appends whole frames or nothing, so that a control frame may follow anywhere. A message is
//! compressed as a whole or not at all: its first piece decides.

#![forbid(unsafe_code)]

use std::time::Instant;

use tungstenite::protocol::frame::{
    FrameHeader,
    coding::{Control as ControlCode, Data, OpCode},
};

use super::{
    BadMessage, Control, Kind, Phase, Timer, Workspace, Ws, deflate::Deflater,
    error::is_sendable_code, utf8::Utf8,
};
use crate::limits::{WS_CONTROL_SIZE_MAX, WS_DEFLATE_SIZE_MIN};

pub(super) const PING: OpCode = OpCode::Control(ControlCode::Ping);
pub(super) const PONG: OpCode = OpCode::Control(ControlCode::Pong);
pub(super) const CLOSE: OpCode = OpCode::Control(ControlCode::Close);

/// A message that we began and have not ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outgoing {
    kind: Kind,
    is_packed: bool,
    /// Its first frame was written: those that follow continue it.
    has_frame: bool,
    utf8: Utf8,
}

/// A piece of a message to send.
#[derive(Clone, Copy, Debug)]
pub struct Piece<'a> {
    /// May be empty.
    pub data: &'a [u8],
    /// The same for all pieces of a message.
    pub kind: Kind,
    /// The message goes on.
    pub more: bool,
}

impl Ws {
    /// Appends a piece of a message: a frame each, or none while the compressor collects.
    ///
    /// # Errors
    /// Nothing was appended, and the message cannot go on: send a Close.
    pub fn encode_piece(
        &mut self,
        piece: Piece<'_>,
        work: &mut Workspace,
        out: &mut Vec<u8>,
    ) -> Result<(), BadMessage> {
        let Piece { data, kind, more } = piece;
        if self.phase != Phase::Open {
            return Err(BadMessage::Closing);
        }
        let mut message = self.outgoing.unwrap_or_else(|| Outgoing {
            kind,
            is_packed: self.options.deflate.is_some()
                && (more || data.len() >= WS_DEFLATE_SIZE_MIN),
            has_frame: false,
            utf8: Utf8::default(),
        });
        if message.kind != kind {
            return Err(BadMessage::KindChanged);
        }
        if kind == Kind::Text && !(message.utf8.feed(data) && (more || message.utf8.may_end())) {
            return Err(BadMessage::TextNotUtf8);
        }
        match self.options.deflate.filter(|_| message.is_packed) {
            None => {
                frame(message.header(more), data, out);
                message.has_frame = true;
            }
            Some(deflate) => {
                let mut deflater = self
                    .deflater
                    .take()
                    .unwrap_or_else(|| work.take_deflater(deflate.server_window_bits));
                work.packed.clear();
                deflater.deflate(data, !more, &mut work.packed)?;
                let is_whole = !more && !message.has_frame && self.outgoing.is_none();
                if is_whole && !deflate.server_takeover && work.packed.len() >= data.len() {
                    message.is_packed = false;
                    frame(message.header(more), data, out);
                } else if !more || !work.packed.is_empty() {
                    frame(message.header(more), &work.packed, out);
                    message.has_frame = true;
                }
                self.keep(deflater, more || deflate.server_takeover, work);
            }
        }
        self.outgoing = more.then_some(message);
        Ok(())
    }

    fn keep(&mut self, deflater: Deflater, stays: bool, work: &mut Workspace) {
        if stays {
            self.deflater = Some(deflater);
        } else {
            work.keep_deflater(deflater);
        }
    }

    /// Appends a Close, after which no message is sent; one that is under way stays unfinished (RFC 6455 §5.5.1). `None`
    /// closes without a code.
    ///
    /// # Errors
    /// The code or the reason may not be sent, or a Close was. Nothing was appended.
    pub fn encode_close(
        &mut self,
        close: Option<(u16, &[u8])>,
        now: Instant,
        out: &mut Vec<u8>,
    ) -> Result<(), BadMessage> {
        if self.phase != Phase::Open {
            return Err(BadMessage::Closing);
        }
        let body = match close {
            None => Control::new([]),
            Some((code, _)) if !is_sendable_code(code) => return Err(BadMessage::CloseCode),
            Some((_, reason))
                if reason.len() > WS_CONTROL_SIZE_MAX - 2
                    || std::str::from_utf8(reason).is_err() =>
            {
                return Err(BadMessage::CloseReason);
            }
            Some((code, reason)) => Control::close(code, reason),
        };
        control(CLOSE, body.bytes(), out);
        self.phase = Phase::Closing;
        self.timer = Timer::Close(now + self.options.close_timeout);
        self.ping_due = false;
        (self.outgoing, self.deflater) = (None, None);
        Ok(())
    }
}

impl Outgoing {
    /// The header of the message's next frame.
    fn header(&self, more: bool) -> FrameHeader {
        let data = match (self.has_frame, self.kind) {
            (true, _) => Data::Continue,
            (false, Kind::Text) => Data::Text,
            (false, Kind::Binary) => Data::Binary,
        };
        FrameHeader {
            is_final: !more,
            rsv1: self.is_packed && !self.has_frame,
            opcode: OpCode::Data(data),
            ..FrameHeader::default()
        }
    }
}

pub(super) fn control(opcode: OpCode, body: &[u8], out: &mut Vec<u8>) {
    frame(FrameHeader { opcode, ..FrameHeader::default() }, body, out);
}

#[expect(clippy::needless_pass_by_value, reason = "a header is made for one frame")]
fn frame(header: FrameHeader, payload: &[u8], out: &mut Vec<u8>) {
    let size = payload.len() as u64;
    out.reserve(header.len(size) + payload.len());
    // Writing into a Vec does not fail.
    if header.format(size, out).is_ok() {
        out.extend_from_slice(payload);
    }
}
