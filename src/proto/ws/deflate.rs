//! Raw DEFLATE as RFC 7692 uses it, and the memory that all WebSockets of a shard share.
//!
//! Invariant: a coder holds state only for a message under way or, where context takeover was negotiated, for its
//! connection; all other coders are in the [`Workspace`], blank, and no more of them than `WS_SPARE_CODERS_MAX`. zlib-rs
//! does the coding; deliberately absent is any buffer that grows with what the client sent.

#![forbid(unsafe_code)]

use std::fmt;

use zlib_rs::{DeflateConfig, DeflateFlush, InflateFlush, Status};

use super::error::BadMessage;
use crate::limits::{WS_DEFLATE_LEVEL, WS_PIECE_SIZE_MAX, WS_SPARE_CODERS_MAX};

/// What a sync flush ends with; RFC 7692 §7.2.1 takes it off, §7.2.2 puts it back.
pub(super) const FLUSH_END: [u8; 4] = [0, 0, 0xff, 0xff];
/// The window unless a client asks for less; inflating always has it, whatever the client promised.
pub(super) const WINDOW_BITS_MAX: u8 = 15;

/// permessage-deflate as negotiated, RFC 7692 §7.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deflate {
    /// Our messages may refer to those before.
    pub server_takeover: bool,
    /// The client's messages may refer to those before.
    pub client_takeover: bool,
    /// The window of our messages, 9-15.
    pub server_window_bits: u8,
}

/// Scratch memory and spare coders: one for a shard.
pub struct Workspace {
    /// Where a piece of a message lies between its arrival and its hand-over.
    pub(super) piece: Box<[u8]>,
    /// Output of a compressor before its frame header is known.
    pub(super) packed: Vec<u8>,
    inflaters: Vec<Inflater>,
    deflaters: Vec<Deflater>,
}

impl Default for Workspace {
    fn default() -> Self {
        Self {
            piece: vec![0; WS_PIECE_SIZE_MAX].into_boxed_slice(),
            packed: Vec::new(),
            inflaters: Vec::new(),
            deflaters: Vec::new(),
        }
    }
}

impl fmt::Debug for Workspace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Workspace")
            .field("inflaters", &self.inflaters.len())
            .field("deflaters", &self.deflaters.len())
            .finish_non_exhaustive()
    }
}

impl Workspace {
    pub(super) fn take_inflater(&mut self) -> Inflater {
        self.inflaters.pop().unwrap_or_else(Inflater::new)
    }

    pub(super) fn keep_inflater(&mut self, mut inflater: Inflater) {
        if self.inflaters.len() < WS_SPARE_CODERS_MAX {
            inflater.reset();
            self.inflaters.push(inflater);
        }
    }

    /// Only those with the full window are kept: hardly a client asks for less.
    pub(super) fn take_deflater(&mut self, window_bits: u8) -> Deflater {
        let spare = if window_bits == WINDOW_BITS_MAX { self.deflaters.pop() } else { None };
        spare.unwrap_or_else(|| Deflater::new(window_bits))
    }

    pub(super) fn keep_deflater(&mut self, mut deflater: Deflater) {
        let is_full = deflater.window_bits == WINDOW_BITS_MAX;
        if is_full && self.deflaters.len() < WS_SPARE_CODERS_MAX {
            deflater.inner.reset();
            self.deflaters.push(deflater);
        }
    }
}

/// What one step of an [`Inflater`] did.
#[derive(Clone, Copy, Debug)]
pub(super) struct Inflated {
    pub(super) used: usize,
    pub(super) made: usize,
    /// The input is no DEFLATE from `used` on.
    pub(super) failed: bool,
}

/// A message being decompressed.
pub(super) struct Inflater(zlib_rs::Inflate);

impl fmt::Debug for Inflater {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Inflater")
    }
}

impl Inflater {
    fn new() -> Self {
        Self(zlib_rs::Inflate::new(false, WINDOW_BITS_MAX))
    }

    fn reset(&mut self) {
        self.0.reset(false);
    }

    /// Inflates until the input is used up or `out` is full. A block with BFINAL may stand anywhere (RFC 7692 §7.2.1); what
    /// follows it begins with an empty window.
    pub(super) fn inflate(&mut self, input: &[u8], out: &mut [u8]) -> Inflated {
        let (mut used, mut made) = (0, 0);
        loop {
            let rest = input.get(used..).unwrap_or_default();
            let room = out.get_mut(made..).unwrap_or_default();
            let before = (self.0.total_in(), self.0.total_out());
            let status = self.0.decompress(rest, room, InflateFlush::SyncFlush);
            let step = (self.0.total_in() - before.0, self.0.total_out() - before.1);
            used += usize::try_from(step.0).unwrap_or(usize::MAX);
            made += usize::try_from(step.1).unwrap_or(usize::MAX);
            match status {
                Ok(Status::StreamEnd) => self.reset(),
                Ok(Status::Ok | Status::BufError) if step != (0, 0) => {}
                // No progress: one of the two is used up.
                Ok(Status::Ok | Status::BufError) => return Inflated { used, made, failed: false },
                Err(_) => return Inflated { used, made, failed: true },
            }
            if used >= input.len() || made >= out.len() {
                return Inflated { used, made, failed: false };
            }
        }
    }
}

/// A message being compressed.
pub(super) struct Deflater {
    inner: zlib_rs::Deflate,
    window_bits: u8,
}

impl fmt::Debug for Deflater {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Deflater").field("window_bits", &self.window_bits).finish_non_exhaustive()
    }
}

impl Deflater {
    fn new(window_bits: u8) -> Self {
        let config = DeflateConfig {
            level: WS_DEFLATE_LEVEL,
            window_bits: -i32::from(window_bits),
            ..DeflateConfig::default()
        };
        Self { inner: zlib_rs::Deflate::new_with_config(config), window_bits }
    }

    /// Appends what comes out for `data`; with `end`, all of it, without the end that RFC 7692 §7.2.1 takes off.
    pub(super) fn deflate(
        &mut self,
        mut data: &[u8],
        end: bool,
        packed: &mut Vec<u8>,
    ) -> Result<(), BadMessage> {
        let flush = if end { DeflateFlush::SyncFlush } else { DeflateFlush::NoFlush };
        let begin = packed.len();
        let mut filled = begin;
        loop {
            packed.resize(filled + data.len() / 2 + 256, 0);
            let before = (self.inner.total_in(), self.inner.total_out());
            let room = packed.get_mut(filled..).unwrap_or_default();
            self.inner.compress(data, room, flush).map_err(|_error| BadMessage::Deflate)?;
            let used = usize::try_from(self.inner.total_in() - before.0).unwrap_or(usize::MAX);
            filled += usize::try_from(self.inner.total_out() - before.1).unwrap_or(usize::MAX);
            data = data.get(used..).unwrap_or_default();
            // Room that is left says that nothing is held back.
            if filled < packed.len() {
                break;
            }
        }
        packed.truncate(filled);
        if end {
            if packed.get(begin..).is_some_and(|made| made.ends_with(&FLUSH_END)) {
                packed.truncate(filled - FLUSH_END.len());
            }
            // Nothing since the last flush: an empty stored block, RFC 7692 §7.2.3.6.
            if packed.len() == begin {
                packed.push(0);
            }
        }
        Ok(())
    }
}
