//! From the bytes of frames to pieces of messages.
//!
//! Invariant: each byte of a header or payload is consumed once; an incomplete header or control frame, at most 131
//! bytes, waits in the caller's buffer. Pieces of one message that lie in the same input come as one, whatever frames
//! they came in. A rule is judged as soon as what it is about has arrived, and the same however it was cut.

#![forbid(unsafe_code)]

use std::io::Cursor;

use tungstenite::protocol::frame::{
    FrameHeader,
    coding::{Control as ControlCode, Data, OpCode},
};

use super::{
    Control, Kind, Phase, Step, Violation, Workspace, Ws,
    deflate::{FLUSH_END, Inflater},
    error::is_sendable_code,
    utf8::Utf8,
};
use crate::limits::WS_CONTROL_SIZE_MAX;

/// RFC 6455 §7.1.5: there was no code in the Close.
const NO_CODE: u16 = 1005;
/// Payload that is unmasked at a time before it is inflated.
const UNMASKED_SIZE_MAX: usize = 4096;

/// What the next byte belongs to.
#[derive(Clone, Copy, Debug)]
pub(super) enum Frame {
    /// A header, or a control frame.
    Header,
    /// A data frame's payload: so much of it is still to come.
    Payload { left: u64, mask: [u8; 4], is_final: bool },
    /// Nothing: the message has arrived; if it is compressed, so many bytes of `FLUSH_END` went into the inflater.
    End { fed: usize },
}

/// A message under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Incoming {
    kind: Kind,
    is_packed: bool,
    /// Payload bytes that its frames announced.
    announced: u64,
    /// Bytes that the inflater made of it.
    inflated: u64,
    utf8: Utf8,
}

/// What a header, or a control frame, turned out to be.
enum Begun {
    Incomplete,
    /// So many bytes are consumed, and nobody has to know.
    Silent(usize),
    /// So many bytes are consumed; the reason is that much of the workspace's piece.
    Close {
        consumed: usize,
        code: u16,
        reason_size: usize,
    },
}

impl Ws {
    /// Takes the next step through `input`: everything received and not yet consumed.
    ///
    /// # Errors
    /// The connection is over; the Close that says why comes with the next [`Self::poll_output`].
    pub fn decode<'a>(
        &mut self,
        input: &[u8],
        work: &'a mut Workspace,
    ) -> Result<Step<'a>, Violation> {
        if self.phase == Phase::Over {
            return Ok(Step::NeedMore { consumed: input.len() });
        }
        self.heard |= !input.is_empty();
        match self.step(input, work) {
            Ok(step) => Ok(step),
            Err(violation) => Err(self.fail(violation)),
        }
    }

    fn step<'a>(&mut self, input: &[u8], work: &'a mut Workspace) -> Result<Step<'a>, Violation> {
        let (mut consumed, mut filled) = (0, 0);
        loop {
            if self.phase == Phase::Closing {
                filled = 0;
            }
            let rest = input.get(consumed..).unwrap_or_default();
            match self.frame {
                Frame::Header => match self.header(rest, work)? {
                    Begun::Incomplete => break,
                    Begun::Silent(size) => consumed += size,
                    Begun::Close { consumed: size, code, reason_size } => {
                        let reason = work.piece.get(..reason_size).unwrap_or_default();
                        return Ok(Step::Close { consumed: consumed + size, code, reason });
                    }
                },
                Frame::Payload { left: 0, is_final: true, .. } => {
                    self.frame = Frame::End { fed: 0 };
                }
                Frame::Payload { left: 0, .. } => self.frame = Frame::Header,
                Frame::Payload { .. } if rest.is_empty() => break,
                Frame::Payload { .. } if filled == work.piece.len() => break,
                Frame::End { .. } if filled == work.piece.len() && self.is_inflating() => break,
                Frame::Payload { left, mask, is_final } => {
                    let (used, made) = self.payload(rest, left, mask, filled, work)?;
                    let mask = rotated(mask, used);
                    self.frame = Frame::Payload { left: left - used as u64, mask, is_final };
                    consumed += used;
                    filled += made;
                }
                Frame::End { fed } => {
                    let (is_drained, made) = self.drain(fed, filled, work)?;
                    filled += made;
                    if is_drained {
                        let kind = self.end(work)?;
                        if self.phase == Phase::Open {
                            let data = work.piece.get(..filled).unwrap_or_default();
                            return Ok(Step::Piece { consumed, data, kind, more: false });
                        }
                    }
                }
            }
        }
        Ok(match self.incoming {
            Some(message) if filled > 0 => {
                let data = work.piece.get(..filled).unwrap_or_default();
                Step::Piece { consumed, data, kind: message.kind, more: true }
            }
            _ => Step::NeedMore { consumed },
        })
    }

    fn is_inflating(&self) -> bool {
        self.incoming.is_some_and(|message| message.is_packed)
    }

    /// Takes the header of a data frame, or a whole control frame.
    fn header(&mut self, rest: &[u8], work: &mut Workspace) -> Result<Begun, Violation> {
        let mut cursor = Cursor::new(rest);
        let parsed = FrameHeader::parse(&mut cursor).map_err(|_error| Violation::ReservedOpcode)?;
        let Some((header, size)) = parsed else { return Ok(Begun::Incomplete) };
        let header_size = usize::try_from(cursor.position()).unwrap_or(usize::MAX);
        let Some(mask) = header.mask else { return Err(Violation::FrameUnmasked) };
        if header.rsv2 || header.rsv3 {
            return Err(Violation::ReservedBit);
        }
        // RFC 6455 §5.2: the fewest bytes, and the most significant bit is 0.
        if header.len(size) != header_size || i64::try_from(size).is_err() {
            return Err(Violation::LengthMalformed);
        }
        let code = match header.opcode {
            OpCode::Data(data) => {
                let message = self.message(&header, data, size)?;
                self.incoming = Some(message);
                self.frame = Frame::Payload { left: size, mask, is_final: header.is_final };
                return Ok(Begun::Silent(header_size));
            }
            OpCode::Control(code) => code,
        };
        // RFC 7692 §6: a control frame is never compressed.
        if header.rsv1 {
            return Err(Violation::ReservedBit);
        }
        if !header.is_final {
            return Err(Violation::ControlFragmented);
        }
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        if size > WS_CONTROL_SIZE_MAX {
            return Err(Violation::ControlTooLong);
        }
        let Some(masked) = rest.get(header_size..header_size + size) else {
            return Ok(Begun::Incomplete);
        };
        let mut control = Control { len: size, body: [0; WS_CONTROL_SIZE_MAX] };
        unmask(control.body.get_mut(..size).unwrap_or_default(), masked, mask);
        let consumed = header_size + size;
        match code {
            ControlCode::Ping => self.pinged(control),
            ControlCode::Pong => self.pong(control.bytes()),
            ControlCode::Close => {
                let (code, reason) = close_body(control.bytes())?;
                // RFC 6455 §5.5.1: echo what was received.
                self.finish(Some(control));
                if let Some(kept) = work.piece.get_mut(..reason.len()) {
                    kept.copy_from_slice(reason);
                }
                return Ok(Begun::Close { consumed, code, reason_size: reason.len() });
            }
            ControlCode::Reserved(_) => return Err(Violation::ReservedOpcode),
        }
        Ok(Begun::Silent(consumed))
    }

    /// What becomes of the message with this frame's header.
    fn message(&self, header: &FrameHeader, data: Data, size: u64) -> Result<Incoming, Violation> {
        let begin = |kind| Incoming {
            kind,
            is_packed: header.rsv1,
            announced: 0,
            inflated: 0,
            utf8: Utf8::default(),
        };
        let mut message = match (data, self.incoming) {
            (Data::Continue, Some(message)) => message,
            (Data::Continue, None) => return Err(Violation::ContinuationUnexpected),
            (Data::Text | Data::Binary, Some(_)) => return Err(Violation::ContinuationExpected),
            (Data::Text, None) => begin(Kind::Text),
            (Data::Binary, None) => begin(Kind::Binary),
            (Data::Reserved(_), _) => return Err(Violation::ReservedOpcode),
        };
        let may_be_packed = data != Data::Continue && self.options.deflate.is_some();
        if header.rsv1 && !may_be_packed {
            return Err(Violation::ReservedBit);
        }
        message.announced = message.announced.saturating_add(size);
        let limit = self.options.message_size_max;
        // Fixed Huffman codes spend at most nine bits on a byte. The rest is for the ends of blocks.
        let packed_limit = limit.saturating_add(limit / 8).saturating_add(64);
        if message.announced > if message.is_packed { packed_limit } else { limit } {
            return Err(Violation::MessageTooLarge);
        }
        Ok(message)
    }

    /// Takes payload: how much of `rest`, and how much that made behind the first `filled` bytes of the piece.
    fn payload(
        &mut self,
        rest: &[u8],
        left: u64,
        mask: [u8; 4],
        filled: usize,
        work: &mut Workspace,
    ) -> Result<(usize, usize), Violation> {
        let Some(message) = &mut self.incoming else { return Ok((0, 0)) };
        let available = rest.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        if message.is_packed {
            let mut unmasked = [0; UNMASKED_SIZE_MAX];
            let size = available.min(UNMASKED_SIZE_MAX);
            let unmasked = unmasked.get_mut(..size).unwrap_or_default();
            unmask(unmasked, rest, mask);
            let inflater = self.inflater.get_or_insert_with(|| work.take_inflater());
            let limit = self.options.message_size_max;
            let room = work.piece.get_mut(filled..).unwrap_or_default();
            let (used, made) = message.inflate(inflater, unmasked, room, limit)?;
            // Never so, but a decompressor that stands still must not keep a shard.
            if used == 0 && made == 0 {
                return Err(Violation::DeflateMalformed);
            }
            return Ok((used, made));
        }
        let room = work.piece.get_mut(filled..).unwrap_or_default();
        let size = available.min(room.len());
        let piece = room.get_mut(..size).unwrap_or_default();
        unmask(piece, rest, mask);
        if message.kind == Kind::Text && !message.utf8.feed(piece) {
            return Err(Violation::TextNotUtf8);
        }
        Ok((size, size))
    }

    /// Gets out of the inflater what it holds of a message that has arrived: whether that is all, and how much it was.
    fn drain(
        &mut self,
        fed: usize,
        filled: usize,
        work: &mut Workspace,
    ) -> Result<(bool, usize), Violation> {
        let Some(message) = self.incoming.as_mut().filter(|message| message.is_packed) else {
            return Ok((true, 0));
        };
        let inflater = self.inflater.get_or_insert_with(|| work.take_inflater());
        let tail = FLUSH_END.get(fed..).unwrap_or_default();
        let room = work.piece.get_mut(filled..).unwrap_or_default();
        let room_size = room.len();
        let limit = self.options.message_size_max;
        let (used, made) = message.inflate(inflater, tail, room, limit)?;
        self.frame = Frame::End { fed: fed + used };
        Ok((made < room_size && used == tail.len(), made))
    }

    /// Closes the books of a message that has arrived.
    fn end(&mut self, work: &mut Workspace) -> Result<Kind, Violation> {
        self.frame = Frame::Header;
        let Some(message) = self.incoming.take() else { return Ok(Kind::Binary) };
        if !message.utf8.may_end() {
            return Err(Violation::TextNotUtf8);
        }
        let keeps = self.options.deflate.is_some_and(|deflate| deflate.client_takeover);
        if let Some(inflater) = self.inflater.take_if(|_| !keeps) {
            work.keep_inflater(inflater);
        }
        Ok(message.kind)
    }
}

impl Incoming {
    /// Inflates into `room`, and judges what came out: how much was used, and how much was made.
    fn inflate(
        &mut self,
        inflater: &mut Inflater,
        input: &[u8],
        room: &mut [u8],
        limit: u64,
    ) -> Result<(usize, usize), Violation> {
        let allowed = usize::try_from(limit.saturating_sub(self.inflated)).unwrap_or(usize::MAX);
        // One byte more tells a message that is too large from one that just fits.
        let size = room.len().min(allowed.saturating_add(1));
        let room = room.get_mut(..size).unwrap_or_default();
        let inflated = inflater.inflate(input, room);
        let text = room.get(..inflated.made.min(allowed)).unwrap_or_default();
        if self.kind == Kind::Text && !self.utf8.feed(text) {
            return Err(Violation::TextNotUtf8);
        }
        if inflated.made > allowed {
            return Err(Violation::MessageTooLarge);
        }
        if inflated.failed {
            return Err(Violation::DeflateMalformed);
        }
        self.inflated += inflated.made as u64;
        Ok((inflated.used, inflated.made))
    }
}

/// The code and the reason of a Close, RFC 6455 §5.5.1.
fn close_body(body: &[u8]) -> Result<(u16, &[u8]), Violation> {
    match body {
        [] => Ok((NO_CODE, &[])),
        [_] => Err(Violation::CloseMalformed),
        [high, low, reason @ ..] => {
            let code = u16::from_be_bytes([*high, *low]);
            if !is_sendable_code(code) {
                return Err(Violation::CloseCodeReserved);
            }
            if std::str::from_utf8(reason).is_err() {
                return Err(Violation::CloseReasonNotUtf8);
            }
            Ok((code, reason))
        }
    }
}

/// Fills `to` from the beginning of `from`. RFC 6455 §5.3.
fn unmask(to: &mut [u8], from: &[u8], mask: [u8; 4]) {
    let size = to.len();
    let (to_words, to_rest) = to.as_chunks_mut::<4>();
    let (from_words, from_rest) = from.get(..size).unwrap_or(from).as_chunks::<4>();
    let mask_word = u32::from_ne_bytes(mask);
    for (to, from) in to_words.iter_mut().zip(from_words) {
        *to = (u32::from_ne_bytes(*from) ^ mask_word).to_ne_bytes();
    }
    for ((to, from), mask) in to_rest.iter_mut().zip(from_rest).zip(mask) {
        *to = *from ^ mask;
    }
}

/// The mask for the payload behind the next `used` bytes.
fn rotated(mut mask: [u8; 4], used: usize) -> [u8; 4] {
    mask.rotate_left(used % 4);
    mask
}
