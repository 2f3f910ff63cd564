//! What can be wrong with a message, split by whose fault it is.
//!
//! Invariant: a [`Refusal`] blames the client and maps to exactly one status and one text, in one exhaustive
//! match; a [`BadResponse`] blames the application (or us) and never reaches the client as such. Nothing here
//! describes a failure of the system: engines do no I/O, so they have none.

#![forbid(unsafe_code)]

use thiserror::Error;

/// Why the client's message is not accepted. An HTTP/1 connection cannot be used for another exchange; of HTTP/2 and HTTP/3 it
/// is the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Error)]
#[error("{}", self.detail())]
pub enum Refusal {
    /// The request line is not `method SP target SP version`.
    StartLineMalformed,
    /// The target has none of the four forms, or not the one that its method asks for.
    TargetMalformed,
    /// A line ends in LF without CR, or a CR stands alone.
    LineEndingBare,
    /// A field name, or its colon, is malformed; includes a folded line.
    FieldNameMalformed,
    /// A field value holds a control character.
    FieldValueMalformed,
    /// HTTP/1.1 without Host.
    HostMissing,
    /// More than one Host.
    HostRepeated,
    /// Host is not `uri-host [":" port]`.
    HostMalformed,
    /// HTTP in clear where TLS is spoken.
    HttpsRequired,
    /// Host names another authority than `:authority`.
    HostContradicts,
    /// Content-Length is not one run of digits that fits 64 bits.
    LengthMalformed,
    /// More than one Content-Length.
    LengthRepeated,
    /// Content-Length beside Transfer-Encoding.
    LengthWithCoding,
    /// Transfer-Encoding whose last coding is not exactly one `chunked`.
    CodingMalformed,
    /// Transfer-Encoding in an HTTP/1.0 request.
    CodingInHttp10,
    /// The size line or the end of a chunk.
    ChunkMalformed,
    /// Chunk extensions that sum to more than the limit.
    ChunkExtensionsTooLarge,
    /// A trailer field.
    TrailerMalformed,
    /// Head or body arrived slower than the minimum rate, or not at all.
    TooSlow,
    /// The body is, or says it will be, larger than the limit.
    BodyTooLarge,
    /// The request line is longer than the limit.
    StartLineTooLong,
    /// A method that is not safe, in early data that anybody could have sent again (RFC 8470 §5.2).
    TooEarly,
    /// An expectation other than `100-continue`.
    ExpectationUnknown,
    /// The head is larger than the limit.
    HeadTooLarge,
    /// More fields than the limit.
    TooManyFields,
    /// The trailer section is larger than the limit.
    TrailersTooLarge,
    /// A transfer coding that we do not implement.
    CodingUnknown,
    /// CONNECT: we are no tunnel.
    ConnectUnsupported,
    /// Extended CONNECT (RFC 8441, RFC 9220) for a protocol other than `websocket`.
    ProtocolUnsupported,
    /// A version that this engine does not speak.
    VersionUnsupported,
}

impl Refusal {
    /// The status to answer, and the text for the client.
    const fn answer(self) -> (u16, &'static str) {
        match self {
            Self::StartLineMalformed => (400, "Malformed request line"),
            Self::TargetMalformed => (400, "Malformed request target"),
            Self::LineEndingBare => (400, "Bare CR or LF in the request head"),
            Self::FieldNameMalformed => (400, "Malformed header name"),
            Self::FieldValueMalformed => (400, "Malformed header value"),
            Self::HostMissing => (400, "Missing Host header"),
            Self::HostRepeated => (400, "Repeated Host header"),
            Self::HostMalformed => (400, "Malformed Host header"),
            Self::HttpsRequired => (400, "This port speaks HTTPS only"),
            Self::HostContradicts => (400, "Host differs from :authority"),
            Self::LengthMalformed => (400, "Malformed Content-Length"),
            Self::LengthRepeated => (400, "Repeated Content-Length"),
            Self::LengthWithCoding => (400, "Content-Length beside Transfer-Encoding"),
            Self::CodingMalformed => (400, "Malformed Transfer-Encoding"),
            Self::CodingInHttp10 => (400, "Transfer-Encoding in an HTTP/1.0 request"),
            Self::ChunkMalformed => (400, "Malformed chunk"),
            Self::ChunkExtensionsTooLarge => (400, "Chunk extensions too large"),
            Self::TrailerMalformed => (400, "Malformed trailer"),
            Self::TooSlow => (408, "Request Timeout"),
            Self::BodyTooLarge => (413, "Content Too Large"),
            Self::StartLineTooLong => (414, "URI Too Long"),
            Self::TooEarly => (425, "Too Early"),
            Self::ExpectationUnknown => (417, "Expectation Failed"),
            Self::HeadTooLarge => (431, "Request header section too large"),
            Self::TooManyFields => (431, "Too many request headers"),
            Self::TrailersTooLarge => (431, "Trailer section too large"),
            Self::CodingUnknown => (501, "Unknown transfer coding"),
            Self::ConnectUnsupported => (501, "CONNECT is not supported"),
            Self::ProtocolUnsupported => (501, "The protocol of CONNECT is not supported"),
            Self::VersionUnsupported => (505, "HTTP Version Not Supported"),
        }
    }

    /// The status to answer.
    pub const fn status(self) -> u16 {
        self.answer().0
    }

    /// The text for the client, as FastAPI's `detail`.
    pub const fn detail(self) -> &'static str {
        self.answer().1
    }
}

/// Why a response cannot be sent as it was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Error)]
pub enum BadResponse {
    /// Not within 200-599.
    #[error("status is not within 200-599")]
    Status,
    /// Empty, or not a token.
    #[error("field name is not a token")]
    FieldName,
    /// Holds CR, LF or NUL, or lies outside the blob.
    #[error("field value holds CR, LF or NUL")]
    FieldValue,
    /// More fields than the limit.
    #[error("too many fields")]
    TooManyFields,
    /// Content-Length is malformed, or contradicts itself or the known length of the body.
    #[error("content-length is malformed or contradicts the body")]
    Length,
    /// More body than announced. The connection must be closed.
    #[error("body is longer than announced")]
    BodyTooLong,
    /// Less body than announced. The connection must be closed.
    #[error("body is shorter than announced")]
    BodyTooShort,
    /// A WebSocket's subprotocol that the client did not offer, or more than one.
    #[error("subprotocol was not offered")]
    Subprotocol,
    /// A second head, or a body without a head.
    #[error("head, body and end came out of order")]
    OutOfOrder,
}
