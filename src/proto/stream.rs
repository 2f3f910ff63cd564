//! What the engines of HTTP/2 and HTTP/3 have in common: requests that share a connection, each on a stream of its own.
//!
//! Invariant: a key names one stream of one connection for as long as that connection lives, never another one after it;
//! every stream that was reported ends by the caller's answer or by exactly one `Reset`. Deliberately absent: HTTP/1.1,
//! where a connection has one exchange at a time; how bytes or datagrams get into an engine and out of it.

#![forbid(unsafe_code)]

use std::time::Instant;

use bytes::Bytes;

use super::{
    answer::EdgeAnswer,
    error::{BadResponse, Refusal},
    head::{RequestHead, ResponseHead},
};

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

/// The requests of a connection.
pub trait Requests {
    /// The next thing that happened; `head` is filled for a `Request`.
    fn poll_event(&mut self, head: &mut RequestHead, now: Instant) -> Option<Event>;

    /// The next thing that happened on one stream, never a `Request`: a short body may be here with its head.
    fn poll_stream_event(&mut self, stream: StreamKey, now: Instant) -> Option<Event>;

    /// Whether requests are to wait: those that were not begun are not reported until this is over.
    fn hold_requests(&mut self, hold: bool);

    /// The worker has taken so many bytes of the request's body: the client may send as many more.
    fn credit(&mut self, stream: StreamKey, bytes: usize, now: Instant);
}

/// The responses to them. Calls about a stream that has ended do nothing and say that all is well: its `Reset` was
/// reported, or is about to be.
pub trait Responses {
    /// Takes a response's head. `date` is an IMF-fixdate. `end`: there is no body; the stream has ended then. What
    /// accepts a WebSocket is 101 here as in HTTP/1.1, and 200 on the wire.
    ///
    /// # Errors
    /// The head is invalid; nothing was taken, and another (an edge answer) may be given in its place.
    fn respond(
        &mut self,
        stream: StreamKey,
        head: &ResponseHead<'_>,
        date: &[u8],
        end: bool,
    ) -> Result<(), BadResponse>;

    /// Takes the front of a piece of body; how much of it that was. For the rest wait for `Writable`. With all of the
    /// piece that has `end` the stream has ended. Where there is no body to send it is taken and dropped.
    ///
    /// # Errors
    /// More or less body than announced, or no head: reset the stream.
    fn body(
        &mut self,
        stream: StreamKey,
        data: &[u8],
        end: bool,
        now: Instant,
    ) -> Result<usize, BadResponse>;

    /// Takes the trailer fields of a response (`status` and `body` of `trailers` mean nothing); the stream has ended then.
    ///
    /// # Errors
    /// A field is invalid, less body than announced, or no head: reset the stream.
    fn trailers(
        &mut self,
        stream: StreamKey,
        trailers: &ResponseHead<'_>,
    ) -> Result<(), BadResponse>;

    /// Takes an informational response (RFC 9110 §15.2) ahead of the response; 100 and 101 are the engine's own to say.
    ///
    /// # Errors
    /// The head is invalid, or the response's own head is out; nothing was taken.
    fn informational(
        &mut self,
        stream: StreamKey,
        head: &ResponseHead<'_>,
    ) -> Result<(), BadResponse>;

    /// Says `100 Continue` if the client waits for one (RFC 9110 §10.1.1); at most once.
    fn go_on(&mut self, stream: StreamKey);

    /// Answers a request that is not accepted, or resets its stream if a response has begun already.
    fn refuse(&mut self, stream: StreamKey, refusal: Refusal, date: &[u8], now: Instant);

    /// Takes a complete response made by the edge; the stream has ended then.
    ///
    /// # Errors
    /// [`BadResponse::OutOfOrder`] if a response has begun already: reset the stream.
    fn answer(
        &mut self,
        stream: StreamKey,
        answer: &EdgeAnswer,
        date: &[u8],
    ) -> Result<(), BadResponse>;

    /// Ends a stream without, or in the middle of, an answer.
    fn reset(&mut self, stream: StreamKey, why: Cut);

    /// True when no head of a response to this request was taken, and one may be. (Informational ones are none.)
    fn response_waits(&self, stream: StreamKey) -> bool;
}
