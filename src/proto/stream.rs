//! What the engines of HTTP/2 and HTTP/3 report: requests that share a connection, each on a stream of its own.
//!
//! Invariant: a key names one stream of one connection for as long as that connection lives, never another one after it.
//! Deliberately absent: HTTP/1.1, where a connection has one exchange at a time.

#![forbid(unsafe_code)]

use bytes::Bytes;

use super::error::Refusal;

/// Names a stream of one connection. A stream that has ended is named by nobody else's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StreamKey {
    /// Where the engine, and its caller, keep what they know of it; small, and used again after the stream's end.
    pub(super) slot: usize,
    pub(super) id: u64,
}

impl StreamKey {
    /// The identifier on the wire (RFC 9113 §5.1.1, RFC 9000 §2.1).
    pub const fn id(self) -> u64 {
        self.id
    }

    /// See the field: an index for what the caller keeps by stream.
    pub const fn slot(self) -> usize {
        self.slot
    }
}

/// Something that a client did, or that became possible.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// `head` is filled.
    Request {
        /// Whose it is.
        stream: StreamKey,
        /// No body follows.
        end: bool,
        /// Extended CONNECT (RFC 8441, RFC 9220) asks for a WebSocket; `head` reads like the GET that asks for one in HTTP/1.1.
        websocket: bool,
    },
    /// A piece of a request's body; give credit for it with `credit`.
    Body {
        /// Whose it is.
        stream: StreamKey,
        /// Empty only at the end.
        data: Bytes,
        /// Nothing follows.
        end: bool,
    },
    /// The request is not accepted, or not any more: answer with `refuse`. Nothing more of it will be reported.
    Refused {
        /// Whose it is.
        stream: StreamKey,
        /// Why.
        refusal: Refusal,
    },
    /// There is room for more of the response whose `body` took less than it was given.
    Writable {
        /// Whose it is.
        stream: StreamKey,
    },
    /// The stream is no more: the client cancelled it, broke a rule on it, or has gone. Its key names nothing from now on.
    Reset {
        /// Whose it is.
        stream: StreamKey,
    },
}

/// Why the edge ends a stream before its response is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// Something on our side failed.
    Internal,
    /// The response is not wanted any more, or not taken.
    Cancelled,
    /// Nothing was done about the request; it may be sent again.
    Refused,
}
