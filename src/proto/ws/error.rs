//! What can go wrong on a WebSocket, split by whose fault it is.
//!
//! Invariant: a [`Violation`] blames the client and maps to exactly one close code and one text, in one exhaustive match;
//! a [`BadMessage`] blames the application (or us) and leaves the connection as it was; a [`BadUpgrade`] blames the client
//! and is an ordinary HTTP answer. 1003 (no type of message is refused here) and 1010 (the client's to send) are absent.

#![forbid(unsafe_code)]

use thiserror::Error;

/// Why what the client sent is not accepted. The WebSocket is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Error)]
#[error("{}", self.reason())]
pub enum Violation {
    /// RFC 6455 §5.1: every frame of a client is masked.
    FrameUnmasked,
    /// RFC 6455 §5.2: a reserved bit that no extension gave a meaning; RFC 7692 §6: RSV1 elsewhere than on a message's
    /// first frame.
    ReservedBit,
    /// RFC 6455 §5.2: opcodes 3-7 and 11-15.
    ReservedOpcode,
    /// RFC 6455 §5.2: a length that is not written in the fewest bytes, or uses the 64th bit.
    LengthMalformed,
    /// RFC 6455 §5.5: a control frame without FIN.
    ControlFragmented,
    /// RFC 6455 §5.5: a control frame of more than 125 bytes.
    ControlTooLong,
    /// RFC 6455 §5.4: a continuation, and nothing to continue.
    ContinuationUnexpected,
    /// RFC 6455 §5.4: a new message inside another.
    ContinuationExpected,
    /// RFC 6455 §5.5.1: a Close with a body of one byte.
    CloseMalformed,
    /// RFC 6455 §7.4: a close code that may not be sent.
    CloseCodeReserved,
    /// RFC 6455 §5.5.1: the reason of a Close is not UTF-8.
    CloseReasonNotUtf8,
    /// RFC 6455 §8.1: a text message is not UTF-8.
    TextNotUtf8,
    /// RFC 7692 §7.2.2: a message is not DEFLATE.
    DeflateMalformed,
    /// A message is, or says it will be, larger than the limit.
    MessageTooLarge,
    /// A Ping was not answered in time.
    PingTimeout,
}

impl Violation {
    /// The close code to send (RFC 6455 §7.4.1), and the reason.
    const fn close(self) -> (u16, &'static str) {
        match self {
            Self::FrameUnmasked => (1002, "frame is not masked"),
            Self::ReservedBit => (1002, "reserved bit is set"),
            Self::ReservedOpcode => (1002, "reserved opcode"),
            Self::LengthMalformed => (1002, "malformed frame length"),
            Self::ControlFragmented => (1002, "fragmented control frame"),
            Self::ControlTooLong => (1002, "control frame is too long"),
            Self::ContinuationUnexpected => (1002, "continuation without a message"),
            Self::ContinuationExpected => (1002, "message inside a message"),
            Self::CloseMalformed => (1002, "malformed close frame"),
            Self::CloseCodeReserved => (1002, "reserved close code"),
            Self::CloseReasonNotUtf8 => (1007, "close reason is not UTF-8"),
            Self::TextNotUtf8 => (1007, "text is not UTF-8"),
            Self::DeflateMalformed => (1007, "malformed compressed data"),
            Self::MessageTooLarge => (1009, "message is too large"),
            Self::PingTimeout => (1011, "keepalive ping timeout"),
        }
    }

    /// The close code to send.
    pub const fn close_code(self) -> u16 {
        self.close().0
    }

    /// The reason to send with it.
    pub const fn reason(self) -> &'static str {
        self.close().1
    }
}

/// Why a message or a Close cannot be sent as it was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Error)]
pub enum BadMessage {
    /// A Close was sent or received.
    #[error("the websocket is closing")]
    Closing,
    /// A piece of the other kind before the message's last.
    #[error("pieces of text and of bytes in one message")]
    KindChanged,
    /// A text message is not UTF-8.
    #[error("text is not UTF-8")]
    TextNotUtf8,
    /// A close code that may not be sent.
    #[error("close code is reserved")]
    CloseCode,
    /// Longer than 123 bytes, or not UTF-8.
    #[error("close reason is longer than 123 bytes or not UTF-8")]
    CloseReason,
    /// The compressor failed: ours to blame.
    #[error("compressor failed")]
    Deflate,
}

/// Why a request to open a WebSocket is not accepted. The connection may carry further requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Error)]
#[error("{}", self.answer().1)]
pub enum BadUpgrade {
    /// RFC 6455 §4.1: the method is GET.
    Method,
    /// A body would have to be read before the protocol changes (RFC 9110 §7.8).
    Body,
    /// RFC 6455 §4.4: Sec-WebSocket-Version is not 13.
    Version,
    /// RFC 6455 §4.2.1: Sec-WebSocket-Key is not the base64 of 16 bytes, once.
    Key,
    /// RFC 6455 §4.1: Sec-WebSocket-Protocol is not a list of different tokens.
    Subprotocol,
    /// RFC 6455 §9.1: Sec-WebSocket-Extensions is not a list of extensions.
    Extension,
}

/// Fields of an answer.
pub type Extra = &'static [(&'static str, &'static [u8])];

impl BadUpgrade {
    /// The status, the text for the client, and the fields that go with them.
    pub const fn answer(self) -> (u16, &'static str, Extra) {
        match self {
            Self::Method => (405, "A WebSocket is opened with GET", &[("allow", b"GET")]),
            Self::Body => (400, "A request for a WebSocket has no body", &[]),
            Self::Version => (
                426,
                "Sec-WebSocket-Version is not 13",
                &[("upgrade", b"websocket"), ("sec-websocket-version", b"13")],
            ),
            Self::Key => (400, "Malformed Sec-WebSocket-Key", &[]),
            Self::Subprotocol => (400, "Malformed Sec-WebSocket-Protocol", &[]),
            Self::Extension => (400, "Malformed Sec-WebSocket-Extensions", &[]),
        }
    }

    /// As [`Self::answer`], where no protocol can be upgraded to: 426 would have to name one (RFC 9110 §15.5.22).
    pub const fn extended_answer(self) -> (u16, &'static str, Extra) {
        match self {
            Self::Version => {
                (400, "Sec-WebSocket-Version is not 13", &[("sec-websocket-version", b"13")])
            }
            Self::Method | Self::Body | Self::Key | Self::Subprotocol | Self::Extension => {
                self.answer()
            }
        }
    }
}

/// True for a code that RFC 6455 §7.4 and its registry let a Close carry.
pub(super) const fn is_sendable_code(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}
