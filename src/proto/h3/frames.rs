//! Variable-length integers and the heads of frames (RFC 9000 §16, RFC 9114 §7.1), read from a stream as they come.
//!
//! Invariant: of a head no byte more is read than it has, so that payloads stay in QUIC's buffers, which its windows bound,
//! until somebody wants them. Deliberately absent: payloads.

use super::buffers::Quic;

/// Types of frames; RFC 9114 §7.2, RFC 9218 §7.2.
pub(super) mod kind {
    pub(in crate::proto::h3) const DATA: u64 = 0;
    pub(in crate::proto::h3) const HEADERS: u64 = 1;
    pub(in crate::proto::h3) const CANCEL_PUSH: u64 = 3;
    pub(in crate::proto::h3) const SETTINGS: u64 = 4;
    pub(in crate::proto::h3) const PUSH_PROMISE: u64 = 5;
    pub(in crate::proto::h3) const GOAWAY: u64 = 7;
    pub(in crate::proto::h3) const MAX_PUSH_ID: u64 = 13;
    pub(in crate::proto::h3) const PRIORITY_UPDATE: u64 = 0xf_0700;
    pub(in crate::proto::h3) const PRIORITY_UPDATE_PUSH: u64 = 0xf_0701;
    /// HTTP/2's without a counterpart; RFC 9114 §7.2.8.
    pub(in crate::proto::h3) const RESERVED: [u64; 4] = [2, 6, 8, 9];
}

/// Type and length of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FrameHead {
    pub(super) kind: u64,
    pub(super) len: u64,
}

/// What reading from a stream comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Input<T> {
    Got(T),
    /// More has to arrive.
    Blocked,
    /// The stream has ended, at a place where it may.
    Ended,
    /// The stream has ended within a frame.
    Truncated,
    /// The client reset it.
    Reset,
}

/// The integer at the front, and its length.
pub(super) fn varint(bytes: &[u8]) -> Option<(u64, usize)> {
    let first = *bytes.first()?;
    let len = varint_len(first);
    let rest = bytes.get(1..len)?;
    let start = u64::from(first & 0x3f);
    Some((rest.iter().fold(start, |value, &byte| value << 8 | u64::from(byte)), len))
}

/// How long an integer is that begins with this byte.
const fn varint_len(first: u8) -> usize {
    1 << (first >> 6)
}

/// Appends an integer, as short as it can be.
pub(super) fn put_varint(value: u64, out: &mut Vec<u8>) {
    let bytes = value.to_be_bytes();
    let (mark, len) = match value {
        0..0x40 => (0, 1),
        0x40..0x4000 => (0x40, 2),
        0x4000..0x4000_0000 => (0x80, 4),
        _ => (0xc0, 8),
    };
    let at = out.len();
    out.extend_from_slice(bytes.get(8 - len..).unwrap_or_default());
    if let Some(first) = out.get_mut(at) {
        *first |= mark;
    }
}

/// Appends the head of a frame.
pub(super) fn put_head(kind: u64, len: usize, out: &mut Vec<u8>) {
    put_varint(kind, out);
    put_varint(len as u64, out);
}

/// The longest head of a DATA frame: its type, and a length of four bytes.
pub(super) const DATA_HEAD_SIZE_MAX: usize = 5;

/// The receiving half of one stream.
#[derive(Debug, Default)]
pub(super) struct Inlet {
    /// Of an integer or head that is incomplete.
    bytes: [u8; 16],
    filled: usize,
    /// The client's FIN was read.
    pub(super) fin: bool,
    /// Bytes that were read.
    pub(super) taken: u64,
}

impl Inlet {
    /// So much was read.
    pub(super) fn took(&mut self, read: usize, fin: bool) {
        self.taken += read as u64;
        self.fin = fin;
    }

    /// Reads the head of the next frame.
    pub(super) fn frame(&mut self, quic: &mut Quic, id: u64) -> Input<FrameHead> {
        self.collect(quic, id, |bytes| {
            // Two bytes at least. A head that is complete wants none.
            let Some(&first) = bytes.first() else { return 2 };
            let kind = varint_len(first);
            let length = bytes.get(kind).map_or(1, |&first| varint_len(first));
            (kind + length).saturating_sub(bytes.len())
        })
        .map(|bytes| {
            let (kind, at) = varint(bytes)?;
            let (len, _) = varint(bytes.get(at..)?)?;
            Some(FrameHead { kind, len })
        })
    }

    /// Reads an integer, as a unidirectional stream begins with.
    pub(super) fn integer(&mut self, quic: &mut Quic, id: u64) -> Input<u64> {
        self.collect(quic, id, |bytes| {
            bytes.first().map_or(1, |&first| varint_len(first) - bytes.len())
        })
        .map(|bytes| varint(bytes).map(|(value, _)| value))
    }

    /// Reads into `bytes` until as many as are wanted are there.
    fn collect(
        &mut self,
        quic: &mut Quic,
        id: u64,
        wanted: impl Fn(&[u8]) -> usize,
    ) -> Input<Collected> {
        loop {
            let have = self.bytes.get(..self.filled).unwrap_or_default();
            let missing = wanted(have);
            if missing == 0 {
                let collected = Collected { bytes: self.bytes, len: self.filled };
                self.filled = 0;
                return Input::Got(collected);
            }
            let end = self.filled + missing;
            let Some(room) = self.bytes.get_mut(self.filled..end) else { return Input::Blocked };
            if self.fin {
                return if self.filled == 0 { Input::Ended } else { Input::Truncated };
            }
            match quic.stream_recv(id, room) {
                Ok((read, fin)) => {
                    self.filled += read;
                    self.took(read, fin);
                }
                Err(error) => return stopped(error),
            }
        }
    }

    /// Reads a payload that is wanted as a whole, once all of it is here. True if it is.
    pub(super) fn payload(
        &mut self,
        quic: &mut Quic,
        id: u64,
        len: usize,
        out: &mut Vec<u8>,
    ) -> Input<()> {
        out.clear();
        if len == 0 {
            return Input::Got(());
        }
        if self.fin {
            return Input::Truncated;
        }
        if quic.stream_readable_len(id, len) < len {
            // Reads nothing, but notices a reset.
            return match quic.stream_recv(id, &mut []) {
                Ok(_) => Input::Blocked,
                Err(error) => stopped(error),
            };
        }
        out.resize(len, 0);
        match quic.stream_recv(id, out) {
            Ok((read, fin)) => {
                self.took(read, fin);
                if read == len { Input::Got(()) } else { Input::Truncated }
            }
            Err(error) => stopped(error),
        }
    }

    /// Drops up to `len` bytes of payload; how many that were.
    pub(super) fn discard(&mut self, quic: &mut Quic, id: u64, len: u64) -> Input<u64> {
        if len == 0 {
            return Input::Got(0);
        }
        if self.fin {
            return Input::Ended;
        }
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        match quic.stream_discard(id, len) {
            Ok((read, fin)) => {
                self.took(read, fin);
                Input::Got(read as u64)
            }
            Err(error) => stopped(error),
        }
    }
}

/// Why a stream gives nothing.
pub(super) fn stopped<T>(error: quiche::Error) -> Input<T> {
    match error {
        quiche::Error::Done => Input::Blocked,
        // Reset, or gone.
        _ => Input::Reset,
    }
}

struct Collected {
    bytes: [u8; 16],
    len: usize,
}

impl Input<Collected> {
    fn map<T>(self, parse: impl FnOnce(&[u8]) -> Option<T>) -> Input<T> {
        match self {
            Self::Got(Collected { bytes, len }) => {
                let parsed = parse(bytes.get(..len).unwrap_or_default());
                parsed.map_or(Input::Truncated, Input::Got)
            }
            Self::Blocked => Input::Blocked,
            Self::Ended => Input::Ended,
            Self::Truncated => Input::Truncated,
            Self::Reset => Input::Reset,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_of_every_length_go_to_and_fro() {
        for value in [0, 63, 64, 16_383, 16_384, 0x3fff_ffff, 0x4000_0000, (1 << 62) - 1] {
            let mut bytes = Vec::new();
            put_varint(value, &mut bytes);
            assert_eq!(varint(&bytes), Some((value, bytes.len())));
            assert_eq!(varint(&bytes[..bytes.len() - 1]), None);
        }
        // RFC 9000 §A.1.
        assert_eq!(
            varint(&[0xc2, 0x19, 0x7c, 0x5e, 0xff, 0x14, 0xe8, 0x8c]).unwrap().0,
            151_288_809_941_952_652
        );
        assert_eq!(varint(&[0x40, 0x25]), Some((37, 2)), "longer than it must be");
    }
}
