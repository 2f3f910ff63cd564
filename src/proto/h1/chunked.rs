//! The chunked transfer coding, RFC 9112 §7.1, read a byte at a time.
//!
//! Invariant: between steps `scanned` bytes of the unconsumed input have been judged and are not looked at
//! again, so framing that trickles in costs linear time and no copy. Every count is bounded by a limit.
//! Deliberately absent: extensions and trailers as values; both are validated and dropped.

use std::ops::Range;

use crate::{
    limits::{CHUNK_EXTENSIONS_SIZE_MAX, CHUNK_SIZE_DIGITS_MAX, TRAILERS_SIZE_MAX},
    proto::{
        error::Refusal,
        field::{is_value_byte, token_lower},
        target::hex_value,
    },
};

/// The decoder of one chunked body.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chunked {
    /// The size being read, then the bytes of the chunk that are still to come.
    left: u64,
    /// Sizes of all chunks so far, never above the limit on bodies.
    total: u64,
    /// Bytes of the unconsumed input that `state` already accounts for.
    scanned: u32,
    extensions: u16,
    trailers: u16,
    digits: u8,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Size,
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    /// At the first byte of a trailer line, or of the final empty one.
    Trailer,
    TrailerName,
    TrailerValue,
    TrailerLf,
    FinalLf,
}

pub(super) enum Progress {
    NeedMore,
    Data { consumed: usize, data: Range<usize> },
    End { consumed: usize },
}

impl Chunked {
    pub(super) const fn new() -> Self {
        Self {
            left: 0,
            total: 0,
            scanned: 0,
            extensions: 0,
            trailers: 0,
            digits: 0,
            state: State::Size,
        }
    }

    /// Goes on where the last step stopped, up to the next piece of data or the end.
    pub(super) fn step(&mut self, input: &[u8], size_max: u64) -> Result<Progress, Refusal> {
        let mut at = self.scanned as usize;
        loop {
            if self.state == State::Data {
                let here = input.len().saturating_sub(at);
                let taken = usize::try_from(self.left).unwrap_or(usize::MAX).min(here);
                if taken == 0 {
                    break;
                }
                self.left -= taken as u64;
                if self.left == 0 {
                    self.state = State::DataCr;
                }
                self.scanned = 0;
                return Ok(Progress::Data { consumed: at + taken, data: at..at + taken });
            }
            let Some(&byte) = input.get(at) else { break };
            at += 1;
            if self.state == State::FinalLf {
                return if byte == b'\n' {
                    Ok(Progress::End { consumed: at })
                } else {
                    Err(Refusal::TrailerMalformed)
                };
            }
            self.state = self.framing(byte, size_max)?;
        }
        // Framing between two pieces of data is bounded by the limits, far below 32 bits.
        self.scanned = u32::try_from(at).unwrap_or(u32::MAX);
        Ok(Progress::NeedMore)
    }

    fn framing(&mut self, byte: u8, size_max: u64) -> Result<State, Refusal> {
        match self.state {
            State::Size => self.size(byte),
            State::Extension => self.extension(byte),
            State::SizeLf if byte == b'\n' => self.sized(size_max),
            State::DataCr if byte == b'\r' => Ok(State::DataLf),
            State::DataLf if byte == b'\n' => {
                self.digits = 0;
                Ok(State::Size)
            }
            // RFC 9112 §7.1: chunk-size and chunk-data each end in CRLF, and in nothing else.
            State::SizeLf | State::DataCr | State::DataLf | State::Data => {
                Err(Refusal::ChunkMalformed)
            }
            State::Trailer
            | State::TrailerName
            | State::TrailerValue
            | State::TrailerLf
            | State::FinalLf => self.trailer(byte),
        }
    }

    /// RFC 9112 §7.1: `1*HEXDIG`. No sign, no `0x`, no white space; §7.1 also warns of overflow.
    fn size(&mut self, byte: u8) -> Result<State, Refusal> {
        match byte {
            b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F' if self.digits < CHUNK_SIZE_DIGITS_MAX => {
                self.left = self.left << 4 | u64::from(hex_value(byte));
                self.digits += 1;
                Ok(State::Size)
            }
            b';' if self.digits > 0 => self.extension(byte),
            b'\r' if self.digits > 0 => Ok(State::SizeLf),
            _ => Err(Refusal::ChunkMalformed),
        }
    }

    /// RFC 9112 §7.1.1: unknown extensions are ignored, but a server ought to limit their total length.
    /// A bare LF here is how Kestrel was smuggled through (CVE-2025-55315).
    fn extension(&mut self, byte: u8) -> Result<State, Refusal> {
        match byte {
            b'\r' => Ok(State::SizeLf),
            _ if !is_value_byte(byte) => Err(Refusal::ChunkMalformed),
            _ if usize::from(self.extensions) >= CHUNK_EXTENSIONS_SIZE_MAX => {
                Err(Refusal::ChunkExtensionsTooLarge)
            }
            _ => {
                self.extensions += 1;
                Ok(State::Extension)
            }
        }
    }

    fn sized(&mut self, size_max: u64) -> Result<State, Refusal> {
        if self.left == 0 {
            return Ok(State::Trailer);
        }
        self.total = match self.total.checked_add(self.left) {
            Some(total) if total <= size_max => total,
            _ => return Err(Refusal::BodyTooLarge),
        };
        Ok(State::Data)
    }

    /// RFC 9112 §7.1.2: field lines like those of the head; a folded line begins with white space, which no
    /// name does.
    fn trailer(&mut self, byte: u8) -> Result<State, Refusal> {
        if usize::from(self.trailers) >= TRAILERS_SIZE_MAX {
            return Err(Refusal::TrailersTooLarge);
        }
        self.trailers += 1;
        match (self.state, byte) {
            (State::Trailer, b'\r') => Ok(State::FinalLf),
            (State::TrailerName, b':') => Ok(State::TrailerValue),
            (State::Trailer | State::TrailerName, _) if token_lower(byte) != 0 => {
                Ok(State::TrailerName)
            }
            (State::TrailerValue, b'\r') => Ok(State::TrailerLf),
            (State::TrailerValue, _) if is_value_byte(byte) => Ok(State::TrailerValue),
            (State::TrailerLf, b'\n') => Ok(State::Trailer),
            _ => Err(Refusal::TrailerMalformed),
        }
    }
}
