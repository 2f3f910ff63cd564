//! The header that every record in a ring begins with.
//!
//! ```text
//!  0        4      6       8                 16
//!  ├─ len ──┼ kind ┼ flags ┼─── exchange ────┤ payload … padding to 16
//! ```
//! `len` counts header and payload, not the padding.

use core::mem::{offset_of, size_of};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::limits::RECORD_ALIGN;

/// See the module's diagram.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct RecordHeader {
    /// Header and payload, in bytes.
    pub len: u32,
    /// What the payload is; [`PAD`] or one of `message`'s kinds.
    pub kind: u16,
    /// By kind.
    pub flags: u16,
    /// The exchange that the record belongs to; 0 for none.
    pub exchange: u64,
}

const _: () =
    assert!(offset_of!(RecordHeader, exchange) + size_of::<u64>() == size_of::<RecordHeader>());
const _: () = assert!(size_of::<RecordHeader>() == RECORD_ALIGN);

/// Fills the rest of the ring when the next record would not fit before its end.
pub const PAD: u16 = 0;

/// Bytes that a record of this length occupies.
pub(crate) const fn padded(len: usize) -> usize {
    len.next_multiple_of(RECORD_ALIGN)
}
