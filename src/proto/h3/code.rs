//! What is said to a client that breaks a rule, or whose stream or connection we end.
//!
//! Invariant: the numbers are those of RFC 9114 §8.1, RFC 9204 §6.

/// An error code of HTTP/3 or QPACK.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub(super) enum Code {
    NoError = 0x100,
    InternalError = 0x102,
    StreamCreationError = 0x103,
    ClosedCriticalStream = 0x104,
    FrameUnexpected = 0x105,
    FrameError = 0x106,
    ExcessiveLoad = 0x107,
    IdError = 0x108,
    SettingsError = 0x109,
    MissingSettings = 0x10a,
    RequestRejected = 0x10b,
    RequestCancelled = 0x10c,
    RequestIncomplete = 0x10d,
    MessageError = 0x10e,
    DecompressionFailed = 0x200,
    EncoderStreamError = 0x201,
    DecoderStreamError = 0x202,
}

impl Code {
    pub(super) const fn number(self) -> u64 {
        self as u64
    }
}
