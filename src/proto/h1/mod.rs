//! HTTP/1.1 and 1.0, RFC 9112: one connection's requests and responses.
//!
//! ```text
//!   request   Head ──► Sized | Chunked ──► Done        response   Waiting ──► Sized | Chunked | ToClose | Bodiless
//!     ▲                                      │              ▲                              │
//!     └──────────── both ended, and nothing asked for a close: KeepAlive ──────────────────┘
//! ```
//!
//! Invariant: `decode` never consumes a byte past the request of the current exchange, so pipelined requests
//! wait in the caller's buffer; once a message was refused, or its end is in doubt, nothing after it is read as
//! a request. Framing that RFC 9112 lets a server repair is refused instead: what we would repair, somebody
//! in front of us may have read otherwise. Deliberately absent: upgrades, a request's trailers (validated, then dropped), clocks.

#![forbid(unsafe_code)]

mod chunked;
mod decode;
mod encode;
#[cfg(test)]
mod tests;

use std::ops::Range;

pub use super::error::{BadResponse, Refusal};
use super::head::{BodyLength, Method, RequestHead, Version};
use chunked::{Chunked, Progress};
use decode::{Facts, HeadScan};

/// The state of one HTTP/1 connection.
#[derive(Debug)]
pub struct H1 {
    request: Request,
    response: Response,
    /// The connection does not outlive this exchange.
    close: bool,
    /// The client can be told `100 Continue`: it asked, and none of its body was seen.
    continue_due: bool,
    is_head: bool,
    is_http10: bool,
    takes_trailers: bool,
}

// There is one per idle connection.
const _: () = assert!(size_of::<H1>() <= 96);

#[derive(Clone, Copy, Debug)]
enum Request {
    /// No byte of the next request was consumed.
    Head(HeadScan),
    /// So many bytes of the body are still to come; zero when only `End` is left to be reported.
    Sized(u64),
    Chunked(Chunked),
    Done,
    /// Nothing that arrives is a request any more.
    Closed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Response {
    Waiting,
    /// So many bytes of the announced length are still to be sent.
    Sized(u64),
    Chunked,
    /// As `Chunked`, and the last chunk is out, with trailer fields behind it.
    Trailed,
    /// HTTP/1.0 without a length: the end of the connection is the end of the body (RFC 9112 §6.3).
    ToClose,
    /// HEAD, 204, 304: what body there is, is dropped.
    Bodiless,
    /// The last response of the connection has ended.
    Over,
}

/// What the engine has to be told; it reads no configuration itself.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Larger bodies are refused with 413.
    pub body_size_max: u64,
}

/// One step through a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing to report, nothing consumed: call again with more input appended to the same bytes, or, if the
    /// request is done, after its response ended.
    NeedMore,
    /// `head` is filled. If its body is `Empty` the request ends here, without an `End`.
    Head {
        /// Bytes to drop from the input.
        consumed: usize,
    },
    /// A piece of the body, never empty.
    Body {
        /// Bytes to drop from the input, when `data` has been taken out of it.
        consumed: usize,
        /// Where in the input the piece lies.
        data: Range<usize>,
    },
    /// The body has ended. Only for requests that have one.
    End {
        /// Bytes to drop from the input.
        consumed: usize,
    },
}

/// What becomes of the connection after a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// The next request may be decoded.
    KeepAlive,
    /// Close once all output is sent; whatever still arrives is not a request.
    Close,
}

impl Default for H1 {
    fn default() -> Self {
        Self::new()
    }
}

impl H1 {
    /// A fresh connection.
    pub const fn new() -> Self {
        Self {
            request: Request::Head(HeadScan::new()),
            response: Response::Waiting,
            close: false,
            continue_due: false,
            is_head: false,
            is_http10: false,
            takes_trailers: false,
        }
    }

    /// Takes the next step from `input`: everything received and not yet consumed. Until a step consumes, each
    /// call must see the bytes of the call before it, with more appended: what was scanned is not scanned again.
    ///
    /// # Errors
    /// A [`Refusal`] ends the reading side for good; answer with [`Self::refuse`].
    pub fn decode(
        &mut self,
        input: &[u8],
        options: &Options,
        head: &mut RequestHead,
    ) -> Result<Step, Refusal> {
        let step = match &mut self.request {
            Request::Head(scan) => match decode::head(scan, input, head) {
                Ok(Some((facts, consumed))) => self.start(facts, options, head, consumed),
                Ok(None) => Ok(Step::NeedMore),
                Err(refusal) => Err(refusal),
            },
            Request::Sized(0) => {
                self.request = Request::Done;
                Ok(Step::End { consumed: 0 })
            }
            Request::Sized(left) => {
                let taken = usize::try_from(*left).unwrap_or(usize::MAX).min(input.len());
                if taken == 0 {
                    return Ok(Step::NeedMore);
                }
                *left -= taken as u64;
                self.continue_due = false;
                Ok(Step::Body { consumed: taken, data: 0..taken })
            }
            Request::Chunked(chunked) => {
                chunked.step(input, options.body_size_max).map(|progress| match progress {
                    Progress::NeedMore => Step::NeedMore,
                    Progress::Data { consumed, data } => {
                        self.continue_due = false;
                        Step::Body { consumed, data }
                    }
                    Progress::End { consumed } => {
                        self.request = Request::Done;
                        Step::End { consumed }
                    }
                })
            }
            Request::Done | Request::Closed => Ok(Step::NeedMore),
        };
        if step.is_err() {
            self.request = Request::Closed;
            self.close = true;
        }
        step
    }

    /// Enters the exchange whose head was just parsed.
    fn start(
        &mut self,
        facts: Facts,
        options: &Options,
        head: &RequestHead,
        consumed: usize,
    ) -> Result<Step, Refusal> {
        self.is_head = head.method == Method::Head;
        self.is_http10 = head.version == Version::Http10;
        self.close |= !facts.persists;
        self.continue_due = head.expects_continue;
        self.takes_trailers = facts.takes_trailers;
        self.request = match head.body {
            BodyLength::Empty => Request::Done,
            // RFC 9110 §15.5.14: straight from the head, before any of it is read.
            BodyLength::Known(length) if length > options.body_size_max => {
                return Err(Refusal::BodyTooLarge);
            }
            BodyLength::Known(length) => Request::Sized(length),
            BodyLength::Unknown => Request::Chunked(Chunked::new()),
        };
        Ok(Step::Head { consumed })
    }

    /// True between requests: nothing of a next request was consumed. (An incomplete head may lie in the
    /// caller's buffer.)
    pub const fn is_idle(&self) -> bool {
        matches!(self.request, Request::Head(_)) && matches!(self.response, Response::Waiting)
    }

    /// True when the request of the current exchange has been read to its end.
    pub const fn request_done(&self) -> bool {
        matches!(self.request, Request::Done)
    }

    /// True when no head of a response to the current request was encoded. (Informational ones are none.)
    pub const fn response_waits(&self) -> bool {
        matches!(self.response, Response::Waiting)
    }

    /// Forgets the response under way, all of whose bytes the caller has taken back: another may be encoded in its place.
    pub const fn retract(&mut self) {
        if !matches!(self.response, Response::Over) {
            self.response = Response::Waiting;
        }
    }

    /// Announces `Connection: close` on this response if its head is not out yet, and closes after it in any case.
    pub const fn close_after_response(&mut self) {
        self.close = true;
    }
}
