//! What the records of a lane mean, in both directions.
//!
//! Invariant: everything the peer wrote becomes a checked type here, in one place, from a private copy of the record;
//! nothing behind this module looks at raw payloads again. HTTP's own rules (status range, field grammar) are the
//! engines' business, not this module's.

use core::mem::{offset_of, size_of};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, native_endian::U32};

use super::{fault::Fault, layout::WITHDRAWN, ring::Claim, ring::Record};
use crate::{
    limits::{
        CLIENT_CERTIFICATE_SIZE_MAX, EXCHANGE_WINDOW, HEAD_FIELDS_MAX, RECORD_ALIGN,
        RECORD_SIZE_MAX, RECORD_TABLES_SIZE_MAX, ROUTE_PARAMS_MAX, WINDOW_HALVINGS_MAX,
    },
    span::{Field, Span},
};

/// Kinds of records. Those of both directions share one number space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Kind {
    /// Edge → worker: a request's head and the first bytes of its body.
    Request = 1,
    /// Worker → edge: a response's head and the first bytes of its body.
    Response = 2,
    /// Both ways: more of a body, inline or in a chunk.
    Body = 3,
    /// Both ways: the sender of this record has room for that many more body bytes. The first one for a request says that its body
    /// is wanted (100 Continue); it may be for no bytes.
    Credit = 4,
    /// Both ways: chunks of the receiver's arena, given back. Belongs to no exchange.
    Release = 5,
    /// Edge → worker: nobody waits for this answer any more, for a [`Cancellation`]. The worker ends the exchange with END or ABORT.
    Cancel = 6,
    /// Worker → edge: the exchange ends here, its answer incomplete.
    Abort = 7,
    /// Worker → edge: an informational response (RFC 9110 §15.2), ahead of the response itself.
    Informational = 8,
    /// Worker → edge: the trailer fields (RFC 9110 §6.5) of a response; its body ends here.
    Trailers = 9,
    /// Both ways, behind a 101: a piece of a WebSocket message, inline or in a chunk, or a Close.
    Message = 10,
    /// Edge → worker: part of a body, withdrawn with its request before it was published. Nothing of it counts.
    Withdrawn = 11,
}

impl Kind {
    fn parse(kind: u16) -> Result<Self, Fault> {
        [
            Self::Request,
            Self::Response,
            Self::Body,
            Self::Credit,
            Self::Release,
            Self::Cancel,
            Self::Abort,
            Self::Informational,
            Self::Trailers,
            Self::Message,
            Self::Withdrawn,
        ]
        .into_iter()
        .find(|known| *known as u16 == kind)
        .ok_or(Fault::Kind { kind })
    }
}

/// Why nobody waits for an answer any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Cancellation {
    /// The client went away, or reset its stream.
    ClientGone = 0,
    /// The request's deadline has passed; the client was told.
    DeadlinePassed = 1,
    /// The server is about to end.
    ServerLeaves = 2,
    /// As [`Self::ClientGone`], and the request was marked as withdrawn when it had just been taken: a worker that saw the mark
    /// knows no such exchange, and answers with ABORT all the same.
    WithdrawnLate = 3,
}

impl Cancellation {
    fn parse(payload: &[u8]) -> Option<Self> {
        let [reason] = payload else { return None };
        [Self::ClientGone, Self::DeadlinePassed, Self::ServerLeaves, Self::WithdrawnLate]
            .into_iter()
            .find(|known| *known as u8 == *reason)
    }
}

/// Record flags.
pub mod flags {
    /// The body ends with this record.
    pub const END: u16 = 1;
    /// The payload of a body or a message is a [`super::ChunkRef`], not the bytes themselves.
    pub const CHUNK: u16 = 2;
    /// A message is text; without, bytes.
    pub const TEXT: u16 = 4;
    /// A message goes on in the next record.
    pub const MORE: u16 = 8;
    /// No message but a [`super::Close`]: its code (big-endian, as in RFC 6455 §5.5.1) and its reason.
    pub const CLOSE: u16 = 16;
}

/// A piece of a WebSocket message. Pieces of text may end inside a character.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece<'a> {
    /// At most `WS_PIECE_SIZE_MAX`; may be empty.
    pub data: &'a [u8],
    /// The same for all pieces of a message.
    pub is_text: bool,
    /// The message goes on.
    pub more: bool,
}

impl Piece<'_> {
    /// What it costs of the receiver's credit: its size, and an empty one not nothing, or they would come without bound.
    pub fn cost(&self) -> usize {
        self.data.len().max(1)
    }

    pub(crate) fn flags(&self) -> u16 {
        (if self.is_text { flags::TEXT } else { 0 }) | if self.more { flags::MORE } else { 0 }
    }
}

/// The end of a WebSocket. Costs no credit, since there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Close<'a> {
    /// RFC 6455 §7.4; 1005 stands for none.
    pub code: u16,
    /// UTF-8 of at most 123 bytes, unless it comes from a worker that is at fault.
    pub reason: &'a [u8],
}

/// Where a chunked body record's bytes lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ChunkRef {
    /// The chunk, in the sender's arena.
    pub index: u32,
    /// How many of its bytes count.
    pub len: u32,
}

const _: () = assert!(offset_of!(ChunkRef, len) + size_of::<u32>() == size_of::<ChunkRef>());

/// Fixed part of a request record; fields, parameters, blob, the client's certificate and inline body follow.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RequestFixed {
    /// These two are what [`super::layout::WITHDRAWN`] is written over.
    blob_len: u32,
    route: u32,
    content_length: u64,
    peer_ip: [u8; 16],
    peer_port: u16,
    field_count: u16,
    param_count: u8,
    method: u8,
    version: u8,
    /// 0: none (a Unix socket), 4, 6.
    peer_family: u8,
    method_name: Span,
    raw_path: Span,
    path: Span,
    query: Span,
    authority: Span,
    /// See [`marks`].
    marks: u8,
    /// Second byte of TLS's version; 0 without TLS.
    tls_version: u8,
    cipher_suite: u16,
}

/// What is true of a request.
mod marks {
    /// It came encrypted.
    pub(super) const SECURE: u8 = 1;
    /// It asks for a WebSocket.
    pub(super) const WEBSOCKET: u8 = 2;
    /// A [`super::CertificateFixed`] and what it counts stand between blob and body.
    pub(super) const CERTIFICATE: u8 = 4;
    /// From this bit on: how often the window of its response is halved.
    pub(super) const HALVINGS_SHIFT: u32 = 3;
}

/// First byte of every version of TLS (RFC 8446 §4.2.1).
const TLS_MAJOR: u8 = 3;

/// Before the client's certificate: the lengths of its parts, which follow in this order.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct CertificateFixed {
    subject_len: u16,
    issuer_len: u16,
    chain_len: u32,
}

const _: () = assert!(offset_of!(CertificateFixed, chain_len) + 4 == size_of::<CertificateFixed>());

const _: () = assert!(offset_of!(RequestFixed, cipher_suite) + 2 == size_of::<RequestFixed>());
const _: () = assert!(size_of::<RequestFixed>() == 64);
const _: () = assert!(offset_of!(RequestFixed, content_length) == size_of_val(&WITHDRAWN));
// The tables of a request record fit what `limits` sets aside for them.
const _: () = assert!(
    size_of::<RequestFixed>()
        + HEAD_FIELDS_MAX * size_of::<Field>()
        + ROUTE_PARAMS_MAX * size_of::<Span>()
        <= RECORD_TABLES_SIZE_MAX
);

/// Fixed part of a response record; fields, blob and inline body follow.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ResponseFixed {
    content_length: u64,
    blob_len: u32,
    status: u16,
    field_count: u16,
}

const _: () = assert!(offset_of!(ResponseFixed, field_count) + 2 == size_of::<ResponseFixed>());

/// `content_length` of a body whose length nobody has said.
const LENGTH_UNKNOWN: u64 = u64::MAX;

/// The client's own connection, where it is encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tls<'a> {
    /// As in the protocol: 0x0303 is TLS 1.2, 0x0304 is TLS 1.3.
    pub version: u16,
    /// Its number in IANA's registry.
    pub cipher_suite: u16,
    /// What the client has proved to be, where it was asked for that.
    pub certificate: Option<Certificate<'a>>,
}

/// A client's certificate, which was verified.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Certificate<'a> {
    /// Distinguished name in RFC 4514's form, ASCII.
    pub subject: &'a [u8],
    /// As the subject.
    pub issuer: &'a [u8],
    /// DER, one after another: the client's own, then issuers that it sent along.
    pub chain: &'a [u8],
}

/// Bytes of a [`Certificate`] in a record beside its parts.
pub const CERTIFICATE_OVERHEAD: usize = size_of::<CertificateFixed>();

impl Certificate<'_> {
    /// Bytes that it takes in a record, at most `CLIENT_CERTIFICATE_SIZE_MAX`.
    fn len(&self) -> usize {
        CERTIFICATE_OVERHEAD + self.subject.len() + self.issuer.len() + self.chain.len()
    }
}

/// A request, borrowed: from the edge's parsed head on one side, from a copied record on the other.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The route's id, as the worker announced it.
    pub route: u32,
    /// `proto::head::Method` as a number.
    pub method: u8,
    /// `proto::head::Version` as a number: major × 10 + minor.
    pub version: u8,
    /// Spans of the blob, named as in `proto::head::RequestHead`.
    pub method_name: Span,
    /// The path as sent.
    pub raw_path: Span,
    /// The path, percent-decoded.
    pub path: Span,
    /// The query without `?`.
    pub query: Span,
    /// Host or `:authority`.
    pub authority: Span,
    /// Header fields, names in lower case.
    pub fields: &'a [Field],
    /// Path parameters in the order of the route's pattern, relative to the blob.
    pub params: &'a [Span],
    /// What all spans point into.
    pub blob: &'a [u8],
    /// Declared length of the whole body; `None` when it is not known beforehand.
    pub content_length: Option<u64>,
    /// The client's address; `None` on a Unix socket.
    pub peer: Option<SocketAddr>,
    /// The request came encrypted: on this connection, or to a proxy that is believed.
    pub secure: bool,
    /// How this connection is encrypted.
    pub tls: Option<Tls<'a>>,
    /// The client asks for a WebSocket (RFC 6455): there is no body; what follows a 101 are messages.
    pub websocket: bool,
    /// Response-body bytes that may be sent before the edge gives credit: `EXCHANGE_WINDOW`, halved so many times.
    pub halvings: u8,
    /// The first bytes of the body, at most `INLINE_BODY_SIZE_MAX`.
    pub body: &'a [u8],
    /// The body ends here.
    pub end: bool,
}

/// A response, borrowed in the same way.
#[derive(Clone, Copy, Debug)]
pub struct Response<'a> {
    /// As the application gave it.
    pub status: u16,
    /// Header fields, names in lower case.
    pub fields: &'a [Field],
    /// What the fields point into.
    pub blob: &'a [u8],
    /// Length of the whole body if the worker knows it.
    pub content_length: Option<u64>,
    /// The first bytes of the body, at most `INLINE_BODY_SIZE_MAX`.
    pub body: &'a [u8],
    /// The body ends here.
    pub end: bool,
}

impl Request<'_> {
    /// False for a request that no record can carry. [`super::EdgeLane::send_request`] panics on those; a head within
    /// `limits` always fits.
    pub fn fits(&self) -> bool {
        self.fields.len() <= HEAD_FIELDS_MAX
            && self.params.len() <= ROUTE_PARAMS_MAX
            && self.certificate().is_none_or(|found| found.len() <= CLIENT_CERTIFICATE_SIZE_MAX)
            && self.payload_len() <= RECORD_SIZE_MAX - RECORD_ALIGN
    }

    /// What the client has proved to be.
    fn certificate(&self) -> Option<&Certificate<'_>> {
        self.tls.as_ref()?.certificate.as_ref()
    }

    /// Bytes of the record's payload.
    pub fn payload_len(&self) -> usize {
        size_of::<RequestFixed>()
            + size_of_val(self.fields)
            + size_of_val(self.params)
            + self.blob.len()
            + self.certificate().map_or(0, Certificate::len)
            + self.body.len()
    }

    pub(crate) fn write(&self, mut claim: Claim<'_>, exchange: u64) {
        self.encode(|part| claim.put(part));
        claim.commit(Kind::Request as u16, if self.end { flags::END } else { 0 }, exchange);
    }

    /// The payload, part by part.
    pub(crate) fn encode(&self, mut sink: impl FnMut(&[u8])) {
        let (peer_family, peer_ip, peer_port) = encode_peer(self.peer);
        let mark = |set, mark| if set { mark } else { 0 };
        let certificate = self.certificate();
        let [_, tls_version] = self.tls.map_or(0, |tls| tls.version).to_be_bytes();
        let fixed = RequestFixed {
            content_length: self.content_length.unwrap_or(LENGTH_UNKNOWN),
            peer_ip,
            route: self.route,
            blob_len: count(self.blob.len()),
            peer_port,
            field_count: count(self.fields.len()),
            param_count: count(self.params.len()),
            method: self.method,
            version: self.version,
            peer_family,
            method_name: self.method_name,
            raw_path: self.raw_path,
            path: self.path,
            query: self.query,
            authority: self.authority,
            marks: mark(self.secure, marks::SECURE)
                | mark(self.websocket, marks::WEBSOCKET)
                | mark(certificate.is_some(), marks::CERTIFICATE)
                | (self.halvings.min(WINDOW_HALVINGS_MAX) << marks::HALVINGS_SHIFT),
            tls_version,
            cipher_suite: self.tls.map_or(0, |tls| tls.cipher_suite),
        };
        for part in [fixed.as_bytes(), self.fields.as_bytes(), self.params.as_bytes(), self.blob] {
            sink(part);
        }
        if let Some(Certificate { subject, issuer, chain }) = certificate {
            let fixed = CertificateFixed {
                subject_len: count(subject.len()),
                issuer_len: count(issuer.len()),
                chain_len: count(chain.len()),
            };
            for part in [fixed.as_bytes(), subject, issuer, chain] {
                sink(part);
            }
        }
        sink(self.body);
    }
}

impl Response<'_> {
    /// False for a response that no record can carry, or that the edge would take for a fault:
    /// [`super::WorkerLane::send_response`] must not see those.
    pub fn fits(&self) -> bool {
        self.fields.len() <= HEAD_FIELDS_MAX && self.payload_len() <= RECORD_SIZE_MAX - RECORD_ALIGN
    }

    /// Bytes of the record's payload.
    pub fn payload_len(&self) -> usize {
        size_of::<ResponseFixed>() + size_of_val(self.fields) + self.blob.len() + self.body.len()
    }

    /// `kind`: `Response`, or one of the two that look alike, `Informational` and `Trailers`.
    pub(crate) fn write(&self, kind: Kind, claim: Claim<'_>, exchange: u64) {
        let fixed = ResponseFixed {
            content_length: self.content_length.unwrap_or(LENGTH_UNKNOWN),
            blob_len: count(self.blob.len()),
            status: self.status,
            field_count: count(self.fields.len()),
        };
        let mut claim = claim;
        claim.put(fixed.as_bytes());
        claim.put(self.fields.as_bytes());
        claim.put(self.blob);
        claim.put(self.body);
        claim.commit(kind as u16, if self.end { flags::END } else { 0 }, exchange);
    }
}

/// Narrows a length that `limits` and the record bound keep far below the target type's maximum.
fn count<T: TryFrom<usize>>(value: usize) -> T {
    T::try_from(value).unwrap_or_else(|_| panic!("a count of {value} is beyond the record format"))
}

fn encode_peer(peer: Option<SocketAddr>) -> (u8, [u8; 16], u16) {
    match peer {
        None => (0, [0; 16], 0),
        Some(addr) => match addr.ip() {
            IpAddr::V4(ip) => (4, ip.to_ipv6_mapped().octets(), addr.port()),
            IpAddr::V6(ip) => (6, ip.octets(), addr.port()),
        },
    }
}

fn decode_peer(fixed: &RequestFixed) -> Option<SocketAddr> {
    let [.., a, b, c, d] = fixed.peer_ip;
    match fixed.peer_family {
        4 => Some(SocketAddr::new(Ipv4Addr::new(a, b, c, d).into(), fixed.peer_port)),
        6 => Some(SocketAddr::new(Ipv6Addr::from(fixed.peer_ip).into(), fixed.peer_port)),
        _ => None,
    }
}

/// A record as the worker sees it.
#[derive(Debug)]
pub enum ToWorker<'a> {
    /// A new exchange.
    Request(Request<'a>),
    /// More of a request's body; already copied out of its chunk.
    Body {
        /// The bytes.
        data: &'a [u8],
        /// The body ends here.
        end: bool,
    },
    /// A piece of a message.
    Message(Piece<'a>),
    /// The WebSocket is closing: nothing follows, and nothing more is sent to the client.
    Close(Close<'a>),
    /// The edge has room for more of the response.
    Credit(u64),
    /// Nobody waits any more.
    Cancel(Cancellation),
}

/// A record as the edge sees it.
#[derive(Debug)]
pub enum FromWorker<'a> {
    /// The head of an answer.
    Response(Response<'a>),
    /// More of its body; already copied out of its chunk.
    Body {
        /// The bytes.
        data: &'a [u8],
        /// The body ends here.
        end: bool,
    },
    /// A piece of a message.
    Message(Piece<'a>),
    /// The WebSocket is to be closed; the exchange ends here.
    Close(Close<'a>),
    /// The worker has room for more of the request.
    Credit(u64),
    /// The answer ends here, incomplete.
    Abort,
    /// A 1xx ahead of the answer, without a body.
    Informational(Response<'a>),
    /// The fields that follow the body, which ends here. Status and body mean nothing.
    Trailers(Response<'a>),
}

/// What a record's payload turned out to be, before the direction is considered.
pub(crate) enum Parsed<'a> {
    Request(Request<'a>),
    Response(Response<'a>),
    Body { data: &'a [u8], end: bool },
    Message(Piece<'a>),
    Close(Close<'a>),
    Credit(u64),
    Cancel(Cancellation),
    Abort,
    Informational(Response<'a>),
    Trailers(Response<'a>),
}

/// Makes sense of a record that concerns an exchange and carries its bytes inline; `payload` is a private copy.
pub(crate) fn parse<'a>(record: &Record, payload: &'a [u8]) -> Result<Parsed<'a>, Fault> {
    let end = record.flags & flags::END != 0;
    let (parsed, what) = match Kind::parse(record.kind)? {
        Kind::Request => (parse_request(payload, end).map(Parsed::Request), "request"),
        Kind::Response => (parse_response(payload, end).map(Parsed::Response), "response"),
        Kind::Body => (Some(Parsed::Body { data: payload, end }), "body"),
        Kind::Message if record.flags & flags::CLOSE != 0 => (parse_close(payload), "close"),
        Kind::Message => (Some(parse_piece(record, payload)), "message"),
        Kind::Credit => (parse_credit(payload).map(Parsed::Credit), "credit"),
        Kind::Cancel => (Cancellation::parse(payload).map(Parsed::Cancel), "cancel"),
        Kind::Abort => (payload.is_empty().then_some(Parsed::Abort), "abort"),
        Kind::Informational => {
            (parse_response(payload, end).map(Parsed::Informational), "informational response")
        }
        Kind::Trailers => (parse_response(payload, true).map(Parsed::Trailers), "trailers"),
        Kind::Release => (None, "release"),
        Kind::Withdrawn => (None, "withdrawn"),
    };
    parsed.ok_or(Fault::Payload { what })
}

/// What a record with these bytes, inline or from a chunk, is a piece of.
pub(crate) fn parse_piece<'a>(record: &Record, data: &'a [u8]) -> Parsed<'a> {
    let is_set = |flag| record.flags & flag != 0;
    Parsed::Message(Piece { data, is_text: is_set(flags::TEXT), more: is_set(flags::MORE) })
}

fn parse_close(payload: &[u8]) -> Option<Parsed<'_>> {
    let (code, reason) = payload.split_first_chunk()?;
    Some(Parsed::Close(Close { code: u16::from_be_bytes(*code), reason }))
}

/// The payload of a body or message record with the CHUNK flag.
pub(crate) fn parse_chunk(payload: &[u8]) -> Result<ChunkRef, Fault> {
    ChunkRef::read_from_bytes(payload).map_err(|_| Fault::Payload { what: "chunked body" })
}

/// The payload of a release record: at least one chunk index.
pub(crate) fn parse_release(payload: &[u8]) -> Result<&[U32], Fault> {
    let indices = <[U32]>::ref_from_bytes(payload).unwrap_or_default();
    if indices.is_empty() { Err(Fault::Payload { what: "release" }) } else { Ok(indices) }
}

/// One grant returns what was consumed of a window, so it never exceeds one; sums of grants stay far from overflow.
fn parse_credit(payload: &[u8]) -> Option<u64> {
    let bytes = u64::read_from_bytes(payload).ok()?;
    (bytes <= EXCHANGE_WINDOW as u64).then_some(bytes)
}

fn known_length(length: u64) -> Option<u64> {
    (length != LENGTH_UNKNOWN).then_some(length)
}

pub(crate) fn parse_request(payload: &[u8], end: bool) -> Option<Request<'_>> {
    let (fixed, rest) = RequestFixed::read_from_prefix(payload).ok()?;
    let (fields, rest) =
        <[Field]>::ref_from_prefix_with_elems(rest, usize::from(fixed.field_count)).ok()?;
    let (params, rest) =
        <[Span]>::ref_from_prefix_with_elems(rest, usize::from(fixed.param_count)).ok()?;
    let (blob, rest) = rest.split_at_checked(usize::try_from(fixed.blob_len).ok()?)?;
    let is_marked = |mark| fixed.marks & mark != 0;
    let (certificate, body) = match is_marked(marks::CERTIFICATE) {
        true => parse_certificate(rest).map(|(found, body)| (Some(found), body))?,
        false => (None, rest),
    };
    let named = [fixed.method_name, fixed.raw_path, fixed.path, fixed.query, fixed.authority];
    let spans = named.into_iter().chain(params.iter().copied());
    if !(within(fields, blob) && spans.into_iter().all(|span| span.of(blob).is_some())) {
        return None;
    }
    Some(Request {
        route: fixed.route,
        method: fixed.method,
        version: fixed.version,
        method_name: fixed.method_name,
        raw_path: fixed.raw_path,
        path: fixed.path,
        query: fixed.query,
        authority: fixed.authority,
        fields,
        params,
        blob,
        content_length: known_length(fixed.content_length),
        peer: decode_peer(&fixed),
        secure: is_marked(marks::SECURE),
        tls: (fixed.tls_version != 0).then_some(Tls {
            version: u16::from_be_bytes([TLS_MAJOR, fixed.tls_version]),
            cipher_suite: fixed.cipher_suite,
            certificate,
        }),
        websocket: is_marked(marks::WEBSOCKET),
        halvings: (fixed.marks >> marks::HALVINGS_SHIFT).min(WINDOW_HALVINGS_MAX),
        body,
        end,
    })
}

fn parse_certificate(rest: &[u8]) -> Option<(Certificate<'_>, &[u8])> {
    let (fixed, rest) = CertificateFixed::read_from_prefix(rest).ok()?;
    let (subject, rest) = rest.split_at_checked(fixed.subject_len.into())?;
    let (issuer, rest) = rest.split_at_checked(fixed.issuer_len.into())?;
    let (chain, body) = rest.split_at_checked(usize::try_from(fixed.chain_len).ok()?)?;
    Some((Certificate { subject, issuer, chain }, body))
}

fn parse_response(payload: &[u8], end: bool) -> Option<Response<'_>> {
    let (fixed, rest) = ResponseFixed::read_from_prefix(payload).ok()?;
    let field_count = usize::from(fixed.field_count);
    if field_count > HEAD_FIELDS_MAX {
        return None;
    }
    let (fields, rest) = <[Field]>::ref_from_prefix_with_elems(rest, field_count).ok()?;
    let (blob, body) = rest.split_at_checked(usize::try_from(fixed.blob_len).ok()?)?;
    if !within(fields, blob) {
        return None;
    }
    let content_length = known_length(fixed.content_length);
    Some(Response { status: fixed.status, fields, blob, content_length, body, end })
}

fn within(fields: &[Field], blob: &[u8]) -> bool {
    fields.iter().all(|field| field.name.of(blob).is_some() && field.value.of(blob).is_some())
}
