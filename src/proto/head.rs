//! Version-neutral request and response heads.
//!
//! Invariant: every [`Span`] in a [`RequestHead`] lies inside its `blob`, because only the engines fill one
//! and they append to the blob and to the tables together.

use super::target::percent_decode;
use crate::span::{Field, Span};

/// Request methods that routing knows by name; the bytes of any other stay in the blob.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Method {
    /// RFC 9110 §9.3.1.
    #[default]
    Get = 0,
    /// RFC 9110 §9.3.2.
    Head = 1,
    /// RFC 9110 §9.3.3.
    Post = 2,
    /// RFC 9110 §9.3.4.
    Put = 3,
    /// RFC 9110 §9.3.5.
    Delete = 4,
    /// RFC 9110 §9.3.6.
    Connect = 5,
    /// RFC 9110 §9.3.7.
    Options = 6,
    /// RFC 9110 §9.3.8.
    Trace = 7,
    /// RFC 5789.
    Patch = 8,
    /// Any other token; see [`RequestHead::method_name`].
    Other = 9,
}

impl Method {
    /// The method of this name; names are case-sensitive (RFC 9110 §9.1).
    pub fn of(name: &[u8]) -> Self {
        match name {
            b"GET" => Self::Get,
            b"HEAD" => Self::Head,
            b"POST" => Self::Post,
            b"PUT" => Self::Put,
            b"DELETE" => Self::Delete,
            b"CONNECT" => Self::Connect,
            b"OPTIONS" => Self::Options,
            b"TRACE" => Self::Trace,
            b"PATCH" => Self::Patch,
            _ => Self::Other,
        }
    }

    /// The method with this number.
    pub fn from_number(number: u8) -> Option<Self> {
        [
            Self::Get,
            Self::Head,
            Self::Post,
            Self::Put,
            Self::Delete,
            Self::Connect,
            Self::Options,
            Self::Trace,
            Self::Patch,
            Self::Other,
        ]
        .into_iter()
        .find(|method| *method as u8 == number)
    }

    /// True when a request asks for nothing to be changed (RFC 9110 §9.2.1).
    pub const fn is_safe(self) -> bool {
        matches!(self, Self::Get | Self::Head | Self::Options | Self::Trace)
    }

    /// True when a request may be sent twice with the effect of once (RFC 9110 §9.2.2).
    pub const fn is_idempotent(self) -> bool {
        match self {
            Self::Get | Self::Head | Self::Put | Self::Delete | Self::Options | Self::Trace => true,
            Self::Post | Self::Connect | Self::Patch | Self::Other => false,
        }
    }
}

/// HTTP version of the message, as `major * 10 + minor`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Version {
    /// HTTP/1.0.
    Http10 = 10,
    /// HTTP/1.1.
    #[default]
    Http11 = 11,
    /// HTTP/2.
    Http2 = 20,
    /// HTTP/3.
    Http3 = 30,
}

/// A parsed request head. Owned by the shard and refilled for each request, so that its buffers are
/// allocated once.
#[derive(Debug, Default)]
pub struct RequestHead {
    /// All bytes that the spans below point into.
    pub blob: Vec<u8>,
    /// Header fields in order of arrival, names in lower case.
    pub fields: Vec<Field>,
    /// The method, and its bytes as sent.
    pub method: Method,
    /// The method's bytes as sent.
    pub method_name: Span,
    /// HTTP version.
    pub version: Version,
    /// The target's path as sent: still percent-encoded, without the query. `*` for `OPTIONS *`.
    pub raw_path: Span,
    /// The percent-decoded path; equals `raw_path` when nothing was encoded.
    pub path: Span,
    /// The query string without `?`; empty when there is none.
    pub query: Span,
    /// The authority: of an absolute-form target, else of Host.
    pub authority: Span,
    /// What follows the head.
    pub body: BodyLength,
    /// `Expect: 100-continue` (RFC 9110 §10.1.1) was sent and a body follows.
    pub expects_continue: bool,
    /// There is an Upgrade field (RFC 9110 §7.8), whatever it says.
    pub has_upgrade: bool,
}

/// How long a message body is, as its head tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BodyLength {
    /// No body.
    #[default]
    Empty,
    /// Exactly this many bytes, at least one.
    Known(u64),
    /// Delimited by the framing (chunked, or an HTTP/2-3 end of stream).
    Unknown,
}

impl RequestHead {
    /// Empties the head for the next request; keeps its buffers.
    pub fn clear(&mut self) {
        // In place: moving the whole struct out and back costs more than all of this.
        let Self {
            blob,
            fields,
            method,
            method_name,
            version,
            raw_path,
            path,
            query,
            authority,
            body,
            expects_continue,
            has_upgrade,
        } = self;
        blob.clear();
        fields.clear();
        (*method, *version) = (Method::default(), Version::default());
        (*method_name, *raw_path, *path) = (Span::default(), Span::default(), Span::default());
        (*query, *authority) = (Span::default(), Span::default());
        (*body, *expects_continue, *has_upgrade) = (BodyLength::default(), false, false);
    }

    /// The bytes of a span of this head.
    pub fn bytes(&self, span: Span) -> &[u8] {
        span.of(&self.blob).unwrap_or_default()
    }

    /// Appends to the blob; `None` if no span reaches that far.
    pub(super) fn append(&mut self, bytes: &[u8]) -> Option<Span> {
        let start = self.blob.len();
        self.blob.extend_from_slice(bytes);
        Span::new(start, bytes.len())
    }

    /// Sets the decoded path. `raw`, of which `raw_path` is a span, holds an escape.
    pub(super) fn decode_path(&mut self, raw: &[u8]) -> Option<()> {
        let start = self.blob.len();
        percent_decode(raw, &mut self.blob);
        self.path = Span::new(start, self.blob.len() - start)?;
        Some(())
    }

    /// The value of the first field of this (lower-case) name.
    pub fn field(&self, name: &[u8]) -> Option<&[u8]> {
        self.fields.iter().find(|f| self.bytes(f.name) == name).map(|f| self.bytes(f.value))
    }
}

/// A response head as the worker or the edge itself made it, before it is validated and encoded.
#[derive(Clone, Copy, Debug)]
pub struct ResponseHead<'a> {
    /// 200-599; an engine refuses any other.
    pub status: u16,
    /// Bytes that the fields point into.
    pub blob: &'a [u8],
    /// Header fields in order, names in lower case.
    pub fields: &'a [Field],
    /// What the sender says of the body's length. The engine adds the framing fields itself and drops
    /// any that came in `fields`.
    pub body: BodyLength,
}
