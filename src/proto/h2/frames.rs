//! The heads of frames, seen as their bytes pass on to the library: enough to count by, nothing to act on.
//!
//! Invariant: however the bytes are split, the same heads are reported, each once, when its ninth byte is here.
//! Deliberately absent: payloads, and any judgement about them; that is the library's.

/// What a client that speaks HTTP/2 sends first (RFC 9113 §3.4).
pub const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A PING (RFC 9113 §6.7).
pub(super) const PROBE: &[u8; 17] = b"\0\0\x08\x06\0\0\0\0\0fasterpi";

/// What the first bytes of a connection are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preface {
    /// HTTP/2 with prior knowledge (RFC 9113 §3.3).
    Whole,
    /// So far it could be.
    Partial,
    /// Something else.
    No,
}

/// Looks whether a connection begins with HTTP/2's preface.
pub fn preface(input: &[u8]) -> Preface {
    if input.starts_with(PREFACE) {
        Preface::Whole
    } else if PREFACE.starts_with(input) {
        Preface::Partial
    } else {
        Preface::No
    }
}

/// RFC 9113 §4.1.
const HEAD_SIZE: usize = 9;
/// The flag END_HEADERS of HEADERS and CONTINUATION.
const END_HEADERS: u8 = 0x4;
/// The flag ACK of SETTINGS and PING.
const ACK: u8 = 0x1;

/// RFC 9113 §6.
pub(super) mod kind {
    pub(in crate::proto::h2) const DATA: u8 = 0;
    pub(in crate::proto::h2) const HEADERS: u8 = 1;
    pub(in crate::proto::h2) const SETTINGS: u8 = 4;
    pub(in crate::proto::h2) const CONTINUATION: u8 = 9;
}

/// The head of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FrameHead {
    /// Of the payload, in bytes.
    pub(super) len: u32,
    pub(super) kind: u8,
    flags: u8,
    pub(super) stream: u32,
}

impl FrameHead {
    fn parse(bytes: [u8; HEAD_SIZE]) -> Self {
        let [a, b, c, kind, flags, e, f, g, h] = bytes;
        Self {
            len: u32::from_be_bytes([0, a, b, c]),
            kind,
            flags,
            // RFC 9113 §4.1: the first bit is reserved and ignored.
            stream: u32::from_be_bytes([e & 0x7f, f, g, h]),
        }
    }

    #[cfg(test)]
    pub(super) fn parse_for_test(len: u8, kind: u8, flags: u8) -> Self {
        Self::parse([0, 0, len, kind, flags, 0, 0, 0, 1])
    }

    /// The client has applied our settings (RFC 9113 §6.5.3).
    pub(super) fn is_settings_ack(self) -> bool {
        self.kind == kind::SETTINGS && self.flags & ACK != 0
    }
}

/// Where in the stream of frames the next byte lies.
#[derive(Debug)]
pub(super) struct FrameScan {
    preface_left: usize,
    head: [u8; HEAD_SIZE],
    filled: usize,
    /// The frame under way, and how much of its payload is to come.
    current: Option<FrameHead>,
    left: usize,
    /// Between a HEADERS and the frame that ends its block.
    in_block: bool,
    /// Frames that began, a block of HEADERS and CONTINUATION being one.
    begun: u64,
}

/// What the last byte left incomplete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Partial {
    /// Nothing.
    None,
    /// A frame of body for this stream.
    Data(u32),
    /// The preface, another frame or a block of HEADERS; the number tells one from the next.
    Other(u64),
}

impl FrameScan {
    pub(super) const fn new() -> Self {
        Self {
            preface_left: PREFACE.len(),
            head: [0; HEAD_SIZE],
            filled: 0,
            current: None,
            left: 0,
            in_block: false,
            begun: 0,
        }
    }

    /// Goes on to the next head that is complete, dropping what it has seen from the front of `input`.
    pub(super) fn next(&mut self, input: &mut &[u8]) -> Option<FrameHead> {
        self.skip_preface(input);
        self.skip_payload(input);
        if self.left > 0 || self.preface_left > 0 {
            return None;
        }
        let slots = self.head.get_mut(self.filled..).unwrap_or_default();
        let taken = slots.len().min(input.len());
        for (slot, byte) in slots.iter_mut().zip(input.iter()) {
            *slot = *byte;
        }
        *input = input.get(taken..).unwrap_or_default();
        if taken > 0 && self.filled == 0 && !self.in_block {
            self.begun += 1;
        }
        self.filled += taken;
        if self.filled < HEAD_SIZE {
            return None;
        }
        let head = FrameHead::parse(self.head);
        self.filled = 0;
        self.left = usize::try_from(head.len).unwrap_or(usize::MAX);
        if matches!(head.kind, kind::HEADERS | kind::CONTINUATION) {
            self.in_block = head.flags & END_HEADERS == 0;
        }
        self.current = Some(head);
        self.skip_payload(input);
        Some(head)
    }

    /// What the last byte left incomplete.
    pub(super) fn partial(&self) -> Partial {
        match self.current {
            Some(head) if self.left > 0 && head.kind == kind::DATA => Partial::Data(head.stream),
            _ if self.left > 0 || self.filled > 0 || self.in_block || self.preface_left > 0 => {
                Partial::Other(self.begun)
            }
            _ => Partial::None,
        }
    }

    fn skip_preface(&mut self, input: &mut &[u8]) {
        let skipped = self.preface_left.min(input.len());
        self.preface_left -= skipped;
        *input = input.get(skipped..).unwrap_or_default();
    }

    fn skip_payload(&mut self, input: &mut &[u8]) {
        let skipped = self.left.min(input.len());
        self.left -= skipped;
        *input = input.get(skipped..).unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_preface_is_told_from_any_other_start() {
        assert_eq!(preface(PREFACE), Preface::Whole);
        assert_eq!(preface(&[&PREFACE[..], b"x"].concat()), Preface::Whole);
        for len in 0..PREFACE.len() {
            assert_eq!(preface(&PREFACE[..len]), Preface::Partial, "{len}");
        }
        for other in ["GET", "POST", "PUT", "PROPFIND", "PRI / ", "PRI * HTTP/1.1", "\x16\x03\x01"]
        {
            assert_eq!(preface(other.as_bytes()), Preface::No, "{other}");
        }
    }

    #[test]
    fn any_split_of_the_bytes_gives_the_same_heads() {
        let mut stream = PREFACE.to_vec();
        // SETTINGS; HEADERS without END_HEADERS and its CONTINUATION; DATA of 300 bytes, the reserved bit set.
        stream.extend_from_slice(&[0, 0, 0, 4, 1, 0, 0, 0, 0]);
        stream.extend_from_slice(&[0, 0, 2, 1, 0, 0, 0, 0, 1, 7, 7]);
        stream.extend_from_slice(&[0, 0, 1, 9, 4, 0, 0, 0, 1, 7]);
        stream.extend_from_slice(&[0, 1, 44, 0, 0, 0x80, 0, 0, 1]);
        stream.resize(stream.len() + 300, 0);
        for step in 1..stream.len() {
            let mut scan = FrameScan::new();
            let mut found = Vec::new();
            for mut piece in stream.chunks(step) {
                while let Some(head) = scan.next(&mut piece) {
                    found.push((head.kind, head.len, head.stream));
                }
                assert!(piece.is_empty());
            }
            assert_eq!(found, [(4, 0, 0), (1, 2, 1), (9, 1, 1), (0, 300, 1)], "{step}");
            assert_eq!(scan.partial(), Partial::None);
        }
    }

    #[test]
    fn what_is_incomplete_has_a_name() {
        let mut scan = FrameScan::new();
        assert_eq!(scan.partial(), Partial::Other(0), "the preface");
        let mut feed = |mut bytes: &[u8]| {
            while scan.next(&mut bytes).is_some() {}
            scan.partial()
        };
        assert_eq!(feed(PREFACE), Partial::None);
        assert_eq!(feed(&[0, 0, 1, 1, 0]), Partial::Other(1), "a head");
        assert_eq!(feed(&[0, 0, 0, 1]), Partial::Other(1), "its payload");
        assert_eq!(feed(&[9]), Partial::Other(1), "the block has not ended");
        assert_eq!(feed(&[0, 0, 0, 9, 4, 0, 0, 0, 1]), Partial::None, "now it has");
        assert_eq!(feed(&[0, 0, 5, 0, 0, 0, 0, 0, 3, 1]), Partial::Data(3));
    }
}
