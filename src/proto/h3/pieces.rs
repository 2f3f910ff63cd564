//! What QUIC keeps of a client's streams until it can be read, counted in pieces.
//!
//! Invariant: `total` is no less than the number of STREAM frames that quiche holds, each of which is an allocation and an entry
//! of a tree (some 150 bytes for one byte), and no more than [`H3_PIECES_MAX`] and a slack; `crypto` is no less than those of
//! the handshake. quiche bounds bytes and does not say how many pieces they are in; but it decrypts in place, so the frames of a
//! packet can be looked at behind it. Deliberately absent: what they say.

use std::collections::BTreeMap;

use super::frames::varint;
use crate::limits::{H3_CRYPTO_PIECES_MAX, H3_PIECES_MAX};

/// Pieces that end within so many bytes of their stream are counted together.
const SPAN: u64 = 4096;
/// So many more may come before it is looked what was read meanwhile.
const SLACK: usize = H3_PIECES_MAX / 8;

/// A frame that may have to be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Piece {
    /// Of the handshake.
    Crypto,
    /// Of this stream, up to there.
    Stream { id: u64, end: u64 },
}

#[derive(Debug, Default)]
pub(super) struct Pieces {
    /// By stream and span.
    kept: BTreeMap<(u64, u64), usize>,
    pub(super) total: usize,
    /// The total when it was looked last.
    settled: usize,
    crypto: usize,
}

impl Pieces {
    /// QUIC has taken a piece.
    pub(super) fn note(&mut self, piece: Piece) {
        match piece {
            Piece::Crypto => self.crypto += 1,
            Piece::Stream { id, end } => {
                *self.kept.entry((id, end.saturating_sub(1) / SPAN)).or_default() += 1;
                self.total += 1;
            }
        }
    }

    /// Whether it is time to see what was read, and whether there are too many.
    pub(super) fn is_settling_due(&self) -> bool {
        self.total > SLACK && self.total > self.settled + SLACK
    }

    /// Forgets what was read; `read` says how much of a stream that is, or `None` if QUIC keeps nothing of it.
    pub(super) fn settle(&mut self, mut read: impl FnMut(u64) -> Option<u64>) {
        let mut of = None;
        self.kept.retain(|&(id, span), _| {
            let (_, read) = match of {
                Some((same, read)) if same == id => (id, read),
                _ => *of.insert((id, read(id))),
            };
            read.is_some_and(|read| (span + 1) * SPAN > read)
        });
        self.total = self.kept.values().sum();
        self.settled = self.total;
    }

    pub(super) fn are_too_many(&self) -> bool {
        self.total > H3_PIECES_MAX + SLACK
            || self.settled > H3_PIECES_MAX
            || self.crypto > H3_CRYPTO_PIECES_MAX
    }
}

/// The pieces in a packet's payload, as it was decrypted (RFC 9000 §19).
pub(super) fn pieces(payload: &[u8]) -> impl Iterator<Item = Piece> {
    let mut reader = Reader(payload);
    std::iter::from_fn(move || {
        loop {
            if let Some(piece) = reader.frame()? {
                return Some(piece);
            }
        }
    })
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn varint(&mut self) -> Option<u64> {
        let (value, len) = varint(self.0)?;
        self.skip(len as u64)?;
        Some(value)
    }

    fn varints(&mut self, number: u64) -> Option<()> {
        (0..number).try_for_each(|_| self.varint().map(drop))
    }

    fn skip(&mut self, len: u64) -> Option<()> {
        self.0 = self.0.get(usize::try_from(len).ok()?..)?;
        Some(())
    }

    fn sized(&mut self) -> Option<u64> {
        let len = self.varint()?;
        self.skip(len)?;
        Some(len)
    }

    /// The next frame, if it is one that brings a piece; `None` at the end.
    fn frame(&mut self) -> Option<Option<Piece>> {
        match self.varint()? {
            // PADDING, mostly many at once.
            0 => {
                let run = self.0.iter().position(|&byte| byte != 0).unwrap_or(self.0.len());
                self.skip(run as u64)?;
            }
            // PING, HANDSHAKE_DONE.
            1 | 0x1e => {}
            // ACK.
            kind @ (2 | 3) => {
                self.varints(2)?;
                let ranges = self.varint()?;
                self.varint()?;
                self.varints(ranges.checked_mul(2)?)?;
                self.varints(if kind == 3 { 3 } else { 0 })?;
            }
            // CRYPTO.
            6 => {
                self.varint()?;
                self.sized()?;
                return Some(Some(Piece::Crypto));
            }
            kind @ 8..=0xf => return self.stream(kind),
            // RESET_STREAM.
            4 => self.varints(3)?,
            // STOP_SENDING, MAX_STREAM_DATA, STREAM_DATA_BLOCKED.
            5 | 0x11 | 0x15 => self.varints(2)?,
            // MAX_DATA, MAX_STREAMS, DATA_BLOCKED, STREAMS_BLOCKED, RETIRE_CONNECTION_ID.
            0x10 | 0x12..=0x14 | 0x16 | 0x17 | 0x19 => self.varints(1)?,
            // NEW_CONNECTION_ID.
            0x18 => {
                self.varints(2)?;
                let (&len, rest) = self.0.split_first()?;
                self.0 = rest;
                self.skip(u64::from(len) + 16)?;
            }
            // PATH_CHALLENGE, PATH_RESPONSE.
            0x1a | 0x1b => self.skip(8)?,
            // NEW_TOKEN, DATAGRAM.
            7 | 0x31 => self.sized().map(drop)?,
            // CONNECTION_CLOSE, or what QUIC does not know: nothing of what follows is taken.
            _ => return None,
        }
        Some(None)
    }

    fn stream(&mut self, kind: u64) -> Option<Option<Piece>> {
        let id = self.varint()?;
        let start = if kind & 4 == 0 { 0 } else { self.varint()? };
        let len = if kind & 2 == 0 {
            let len = self.0.len() as u64;
            self.0 = &[];
            len
        } else {
            self.sized()?
        };
        // An end without content is one for each stream.
        Some((len > 0).then_some(Piece::Stream { id, end: start.saturating_add(len) }))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn stream(id: u64, end: u64) -> Piece {
        Piece::Stream { id, end }
    }

    #[test]
    fn every_frame_is_stepped_over() {
        let payload = [
            &[0, 0, 0, 1, 0x1e][..],
            &[2, 9, 0, 1, 2, 3, 4],
            &[3, 9, 0, 0, 2, 1, 1, 1],
            &[4, 1, 2, 3, 5, 1, 2],
            &[6, 0x40, 9, 2, 7, 7],
            &[7, 2, 9, 9],
            &[0x10, 1, 0x11, 1, 2, 0x12, 1, 0x13, 1, 0x14, 1, 0x15, 1, 2, 0x16, 1, 0x17, 1],
            &[0x18, 1, 0, 4, 1, 2, 3, 4],
            &[5; 16],
            &[0x19, 1, 0x1a, 8, 8, 8, 8, 8, 8, 8, 8, 0x1b, 8, 8, 8, 8, 8, 8, 8, 8],
            &[0x31, 1, 9],
            // With and without an offset; without content.
            &[0x0a, 4, 1, b'x', 0x0e, 4, 0x40, 0x80, 2, b'x', b'y', 0x0f, 4, 9, 0],
            // To the end.
            &[0x0c, 8, 5, b'a', b'b', b'c'],
        ]
        .concat();
        let expected = [Piece::Crypto, stream(4, 1), stream(4, 130), stream(8, 8)];
        assert_eq!(pieces(&payload).collect::<Vec<_>>(), expected);
        // Cut off anywhere, it ends.
        for len in 0..payload.len() {
            assert!(pieces(&payload[..len]).count() <= expected.len());
        }
    }

    #[test]
    fn what_was_read_does_not_count_and_what_is_kept_does() {
        let mut kept = Pieces::default();
        for end in 1..=10_000 {
            kept.note(stream(0, end));
            kept.note(stream(4, end));
            kept.note(stream(8, end));
        }
        assert!(kept.is_settling_due());
        // Of one stream all was read, of one half, and one is gone.
        kept.settle(|id| match id {
            0 => Some(10_000),
            4 => Some(5000),
            _ => None,
        });
        let left = kept.total;
        assert!((5000..5000 + 3 * usize::try_from(SPAN).unwrap()).contains(&left), "{left}");
        assert!(!kept.are_too_many() && !kept.is_settling_due());
        for end in 0..=H3_PIECES_MAX as u64 {
            kept.note(stream(4, 10_000 + end));
        }
        kept.settle(|_| Some(0));
        assert!(kept.are_too_many());
    }

    #[test]
    fn a_handshake_has_a_bounded_number_of_pieces() {
        let mut kept = Pieces::default();
        (0..H3_CRYPTO_PIECES_MAX).for_each(|_| kept.note(Piece::Crypto));
        assert!(!kept.are_too_many());
        kept.note(Piece::Crypto);
        assert!(kept.are_too_many());
    }

    proptest! {
        #[test]
        fn any_payload_comes_to_an_end(payload: Vec<u8>) {
            prop_assert!(pieces(&payload).count() <= payload.len());
        }
    }
}
