//! A byte range inside a head's blob: how a parsed head travels from the protocol engines through
//! the lane into Python without being copied field by field.
//!
//! Invariant: a `Span` alone promises nothing; [`Span::of`] checks it against the blob it is used on.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// `start..start + len`, in bytes, relative to the blob that carries it.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
    Unaligned,
)]
#[repr(C)]
pub struct Span {
    start: [u8; 2],
    len: [u8; 2],
}

impl Span {
    /// The range `start..start + len`; `None` if either does not fit 16 bits.
    pub fn new(start: usize, len: usize) -> Option<Self> {
        let start = u16::try_from(start).ok()?.to_le_bytes();
        let len = u16::try_from(len).ok()?.to_le_bytes();
        Some(Self { start, len })
    }

    /// First byte of the range.
    pub fn start(self) -> usize {
        usize::from(u16::from_le_bytes(self.start))
    }

    /// Length in bytes.
    pub fn len(self) -> usize {
        usize::from(u16::from_le_bytes(self.len))
    }

    /// True when the range holds no byte.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// The bytes of the range, `None` if it reaches outside the blob.
    pub fn of(self, blob: &[u8]) -> Option<&[u8]> {
        blob.get(self.start()..self.start() + self.len())
    }
}

/// One header field: where its name and its value lie in the blob.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
    Unaligned,
)]
#[repr(C)]
pub struct Field {
    /// The field name, lower case.
    pub name: Span,
    /// The field value, without surrounding white space.
    pub value: Span,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_reaches_only_into_its_own_blob() {
        let blob = b"host: example";
        assert_eq!(Span::new(0, 4).and_then(|s| s.of(blob)), Some(&b"host"[..]));
        assert_eq!(Span::new(6, 8).and_then(|s| s.of(blob)), None);
        assert_eq!(Span::new(65_536, 0), None);
        assert_eq!(Span::new(0, 65_536), None);
    }
}
