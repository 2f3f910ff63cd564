//! The unidirectional streams: SETTINGS and GOAWAY in both directions, QPACK's, and what is not known (RFC 9114 §6.2, §7.2; RFC 9204 §4).
//!
//! Invariant: of what arrives nothing is kept but which streams are critical and the two limits that may not move back.
//! Deliberately absent: push, priorities, QPACK's dynamic table and the streams of ours that it would take; datagrams.

use std::collections::HashMap;

use super::{
    buffers::Quic,
    code::Code,
    frames::{FrameHead, Inlet, Input, kind, put_head, put_varint, stopped, varint},
};
use crate::limits::{H3_CONTROL_FRAME_SIZE_MAX, HEAD_SIZE_MAX};

/// Our control stream: the first unidirectional one of a server.
const OURS: u64 = 3;
/// Types of unidirectional streams.
const CONTROL: u64 = 0;
const PUSH: u64 = 1;
const QPACK_ENCODER: u64 = 2;
const QPACK_DECODER: u64 = 3;

/// Identifiers of settings.
mod setting {
    pub(super) const MAX_FIELD_SECTION_SIZE: u64 = 6;
    pub(super) const ENABLE_CONNECT_PROTOCOL: u64 = 8;
    pub(super) const H3_DATAGRAM: u64 = 0x33;
    /// HTTP/2's without a counterpart; RFC 9114 §7.2.4.1.
    pub(super) const RESERVED: [u64; 4] = [2, 3, 4, 5];
}

/// What a stream of the client's is for.
#[derive(Debug)]
enum Purpose {
    /// Its type is not here.
    Unknown,
    Control(Awaits),
    Encoder,
    /// Within an integer, if true.
    Decoder(bool),
    /// Dropped as it comes.
    Ignored,
}

#[derive(Clone, Copy, Debug)]
enum Awaits {
    Frame,
    Payload(FrameHead),
    Skipped(u64),
}

#[derive(Debug)]
struct Peer {
    purpose: Purpose,
    inlet: Inlet,
}

/// What reading comes to for the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Read {
    /// Nothing more is here.
    Blocked,
    /// A frame, or an instruction, that serves no request.
    Charged,
    /// A stream that served no request has ended.
    Over,
}

#[derive(Debug, Default)]
pub(super) struct Control {
    streams: HashMap<u64, Peer>,
    /// The client has a stream of these types.
    has_control: bool,
    has_encoder: bool,
    has_decoder: bool,
    has_settings: bool,
    max_push_id: u64,
    goaway: Option<u64>,
    /// For our stream, and not with QUIC.
    outbox: Vec<u8>,
}

impl Control {
    /// Queues the start of our stream.
    pub(super) fn open(&mut self) {
        let mut settings = Vec::new();
        put_varint(setting::MAX_FIELD_SECTION_SIZE, &mut settings);
        put_varint(HEAD_SIZE_MAX as u64, &mut settings);
        // RFC 9220 §3.
        put_varint(setting::ENABLE_CONNECT_PROTOCOL, &mut settings);
        put_varint(1, &mut settings);
        put_varint(CONTROL, &mut self.outbox);
        put_head(kind::SETTINGS, settings.len(), &mut self.outbox);
        self.outbox.append(&mut settings);
    }

    /// Queues a GOAWAY: requests on streams from this one on are not served.
    pub(super) fn goaway(&mut self, stream: u64) {
        let mut id = Vec::new();
        put_varint(stream, &mut id);
        put_head(kind::GOAWAY, id.len(), &mut self.outbox);
        self.outbox.append(&mut id);
    }

    /// Gives QUIC what it takes. It refuses as long as the client allows no stream of ours.
    pub(super) fn flush(&mut self, quic: &mut Quic) {
        if self.outbox.is_empty() {
            return;
        }
        if let Ok(sent) = quic.stream_send(OURS, &self.outbox, false) {
            self.outbox.drain(..sent);
        }
    }

    /// Whether the client has asked us to end our stream, which it must not (RFC 9114 §6.2.1).
    pub(super) fn is_stopped(&self, quic: &mut Quic) -> bool {
        matches!(quic.stream_capacity(OURS), Err(quiche::Error::StreamStopped(_)))
    }

    /// Bytes that were read of one of the client's streams.
    pub(super) fn taken(&self, id: u64) -> u64 {
        self.streams.get(&id).map_or(0, |peer| peer.inlet.taken)
    }

    /// Reads from one of the client's streams.
    ///
    /// # Errors
    /// The connection is to be closed.
    pub(super) fn read(&mut self, quic: &mut Quic, id: u64) -> Result<Read, Code> {
        let mut peer = self
            .streams
            .remove(&id)
            .unwrap_or_else(|| Peer { purpose: Purpose::Unknown, inlet: Inlet::default() });
        let read = self.read_from(&mut peer, quic, id)?;
        if peer.inlet.fin {
            return Ok(Read::Over);
        }
        self.streams.insert(id, peer);
        Ok(read)
    }

    fn read_from(&mut self, peer: &mut Peer, quic: &mut Quic, id: u64) -> Result<Read, Code> {
        let Peer { purpose, inlet } = peer;
        match purpose {
            Purpose::Unknown => match inlet.integer(quic, id) {
                Input::Got(found) => {
                    *purpose = self.purpose(found)?;
                    // RFC 9114 §6.2: closing a critical one is an error even with its first byte.
                    if inlet.fin && !matches!(purpose, Purpose::Ignored) {
                        return Err(Code::ClosedCriticalStream);
                    }
                    Ok(Read::Charged)
                }
                Input::Blocked => Ok(Read::Blocked),
                // RFC 9114 §6.2: it may be gone before its type is known.
                Input::Ended | Input::Truncated | Input::Reset => {
                    inlet.fin = true;
                    Ok(Read::Over)
                }
            },
            Purpose::Control(awaits) => self.control(awaits, inlet, quic, id),
            Purpose::Encoder => instructions(inlet, quic, id, |byte| {
                // RFC 9204 §4.3.1, §3.2.3: a table of no capacity can be given no capacity, and nothing else.
                if byte == 0x20 { Ok(()) } else { Err(Code::EncoderStreamError) }
            }),
            Purpose::Decoder(within) => instructions(inlet, quic, id, |byte| {
                match byte {
                    _ if *within => *within = byte & 0x80 != 0,
                    // RFC 9204 §4.4.2: a stream was cancelled. There is nothing that it could have referred to.
                    0x40..=0x7f => *within = byte == 0x7f,
                    // Of what we never sent there is nothing to acknowledge.
                    _ => return Err(Code::DecoderStreamError),
                }
                Ok(())
            }),
            Purpose::Ignored => match inlet.discard(quic, id, u64::MAX) {
                Input::Got(_) => Ok(Read::Charged),
                Input::Blocked => Ok(Read::Blocked),
                Input::Ended | Input::Truncated | Input::Reset => {
                    inlet.fin = true;
                    Ok(Read::Over)
                }
            },
        }
    }

    fn purpose(&mut self, found: u64) -> Result<Purpose, Code> {
        let (seen, purpose) = match found {
            CONTROL => (&mut self.has_control, Purpose::Control(Awaits::Frame)),
            QPACK_ENCODER => (&mut self.has_encoder, Purpose::Encoder),
            QPACK_DECODER => (&mut self.has_decoder, Purpose::Decoder(false)),
            // RFC 9114 §6.2.2: only servers push.
            PUSH => return Err(Code::StreamCreationError),
            _ => return Ok(Purpose::Ignored),
        };
        if std::mem::replace(seen, true) {
            return Err(Code::StreamCreationError);
        }
        Ok(purpose)
    }

    fn control(
        &mut self,
        awaits: &mut Awaits,
        inlet: &mut Inlet,
        quic: &mut Quic,
        id: u64,
    ) -> Result<Read, Code> {
        match *awaits {
            Awaits::Frame => match critical(inlet.frame(quic, id))? {
                Some(frame) => {
                    *awaits = self.begin(frame)?;
                    Ok(Read::Charged)
                }
                None => Ok(Read::Blocked),
            },
            Awaits::Payload(frame) => {
                // `begin` has bounded it.
                let len = usize::try_from(frame.len).unwrap_or(usize::MAX);
                let mut payload = Vec::new();
                match critical(inlet.payload(quic, id, len, &mut payload))? {
                    Some(()) => {
                        *awaits = Awaits::Frame;
                        self.frame(frame.kind, &payload)?;
                        Ok(Read::Charged)
                    }
                    None => Ok(Read::Blocked),
                }
            }
            Awaits::Skipped(0) => {
                *awaits = Awaits::Frame;
                Ok(Read::Charged)
            }
            Awaits::Skipped(left) => match critical(inlet.discard(quic, id, left))? {
                Some(read) => {
                    *awaits = Awaits::Skipped(left - read);
                    Ok(Read::Charged)
                }
                None => Ok(Read::Blocked),
            },
        }
    }

    /// RFC 9114 §7.2: what may stand on a control stream.
    fn begin(&mut self, frame: FrameHead) -> Result<Awaits, Code> {
        match frame.kind {
            kind::SETTINGS if self.has_settings => return Err(Code::FrameUnexpected),
            kind::SETTINGS => self.has_settings = true,
            _ if !self.has_settings => return Err(Code::MissingSettings),
            kind::DATA | kind::HEADERS | kind::PUSH_PROMISE => return Err(Code::FrameUnexpected),
            kind::GOAWAY
            | kind::MAX_PUSH_ID
            | kind::CANCEL_PUSH
            | kind::PRIORITY_UPDATE
            | kind::PRIORITY_UPDATE_PUSH => {}
            other if kind::RESERVED.contains(&other) => return Err(Code::FrameUnexpected),
            _ => return Ok(Awaits::Skipped(frame.len)),
        }
        if frame.len > H3_CONTROL_FRAME_SIZE_MAX {
            return Err(Code::ExcessiveLoad);
        }
        Ok(Awaits::Payload(frame))
    }

    fn frame(&mut self, kind: u64, payload: &[u8]) -> Result<(), Code> {
        if kind == kind::SETTINGS {
            return check_settings(payload);
        }
        let (id, len) = varint(payload).ok_or(Code::FrameError)?;
        let is_alone = len == payload.len();
        match kind {
            // RFC 9218 §7.2: for a request or a push, with a value behind. They are not honoured.
            kind::PRIORITY_UPDATE if id % 4 != 0 => return Err(Code::IdError),
            kind::PRIORITY_UPDATE => return Ok(()),
            // Nothing is pushed, so nothing can be said about a push.
            kind::PRIORITY_UPDATE_PUSH => return Err(Code::IdError),
            _ if !is_alone => return Err(Code::FrameError),
            kind::CANCEL_PUSH => return Err(Code::IdError),
            // RFC 9114 §5.2, §7.2.7: neither may move back.
            kind::GOAWAY if self.goaway.is_some_and(|before| id > before) => {
                return Err(Code::IdError);
            }
            kind::GOAWAY => self.goaway = Some(id),
            _ if id < self.max_push_id => return Err(Code::IdError),
            _ => self.max_push_id = id,
        }
        Ok(())
    }
}

/// RFC 9114 §6.2.1: a control stream may not end.
fn critical<T>(input: Input<T>) -> Result<Option<T>, Code> {
    match input {
        Input::Got(got) => Ok(Some(got)),
        Input::Blocked => Ok(None),
        Input::Ended | Input::Truncated | Input::Reset => Err(Code::ClosedCriticalStream),
    }
}

/// Reads some of QPACK's instructions, byte by byte.
fn instructions(
    inlet: &mut Inlet,
    quic: &mut Quic,
    id: u64,
    mut look: impl FnMut(u8) -> Result<(), Code>,
) -> Result<Read, Code> {
    let mut bytes = [0; 256];
    let input = match quic.stream_recv(id, &mut bytes) {
        Ok((read, fin)) => {
            inlet.took(read, fin);
            for byte in bytes.iter().take(read) {
                look(*byte)?;
            }
            if fin { Input::Ended } else { Input::Got(()) }
        }
        Err(error) => stopped(error),
    };
    Ok(critical(input)?.map_or(Read::Blocked, |()| Read::Charged))
}

/// RFC 9114 §7.2.4; RFC 9220 §3; RFC 9297 §2.1.1. What a client's settings would allow us, we do not use.
fn check_settings(mut payload: &[u8]) -> Result<(), Code> {
    let mut seen = Vec::new();
    while !payload.is_empty() {
        let (id, len) = varint(payload).ok_or(Code::FrameError)?;
        payload = payload.get(len..).unwrap_or_default();
        let (value, len) = varint(payload).ok_or(Code::FrameError)?;
        payload = payload.get(len..).unwrap_or_default();
        let is_flag = matches!(id, setting::ENABLE_CONNECT_PROTOCOL | setting::H3_DATAGRAM);
        if setting::RESERVED.contains(&id) || seen.contains(&id) || (is_flag && value > 1) {
            return Err(Code::SettingsError);
        }
        // As many as fit a frame.
        seen.push(id);
    }
    Ok(())
}
