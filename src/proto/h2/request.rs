//! From what the library decoded to a [`RequestHead`]: the rules of RFC 9113 §8 that are about a message as a whole.
//!
//! Invariant: the head says what an HTTP/1.1 request of the same meaning would say: `host` first and equal to the
//! authority, one `cookie`, no pseudo-header. What the library has refused already is absent here: malformed,
//! repeated, missing and misplaced pseudo-headers, names in upper case, CR, LF and NUL, connection-specific fields, a
//! content-length that contradicts the DATA. The library drops a fragment of `:path` without saying so.

use http::{HeaderMap, Request, header, uri::Uri};

pub(super) use crate::proto::request::Asked;
use crate::{
    limits::{HEAD_FIELDS_MAX, TRAILERS_SIZE_MAX},
    proto::{
        error::Refusal,
        field::parse_length,
        head::{BodyLength, RequestHead, Version},
        request::{self, push_field, set_method},
    },
    span::Span,
};

/// Fills `head`. `end`: no body follows.
pub(super) fn fill<B>(
    request: &Request<B>,
    end: bool,
    head: &mut RequestHead,
) -> Result<Asked, Refusal> {
    head.clear();
    head.version = Version::Http2;
    let asked = asked(request)?;
    set_authority(request, head)?;
    set_fields(request.headers(), head)?;
    set_method(request.method().as_str().as_bytes(), asked, head)?;
    set_path(request.uri(), head)?;
    head.body = match parse_lengths(request.headers())? {
        _ if end => BodyLength::Empty,
        Some(length) if length > 0 => BodyLength::Known(length),
        // Nothing will come, but its end has yet to.
        Some(_) | None => BodyLength::Unknown,
    };
    head.expects_continue = expects_continue(request.headers())? && !end;
    Ok(asked)
}

/// Checks the trailer section of a request; nobody asks for its fields.
pub(super) fn check_trailers(trailers: &HeaderMap) -> Result<(), Refusal> {
    let size: usize = trailers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    if size > TRAILERS_SIZE_MAX || trailers.len() > HEAD_FIELDS_MAX {
        return Err(Refusal::TrailersTooLarge);
    }
    Ok(())
}

fn asked<B>(request: &Request<B>) -> Result<Asked, Refusal> {
    if request.method() != http::Method::CONNECT {
        return Ok(Asked::Response);
    }
    match request.extensions().get::<h2::ext::Protocol>() {
        None => Err(Refusal::ConnectUnsupported),
        Some(protocol) if protocol.as_str().eq_ignore_ascii_case("websocket") => {
            Ok(Asked::WebSocket)
        }
        Some(_) => Err(Refusal::ProtocolUnsupported),
    }
}

/// RFC 9113 §8.3.1: `:authority` takes Host's place; one of them must be there, and two must not differ.
fn set_authority<B>(request: &Request<B>, head: &mut RequestHead) -> Result<(), Refusal> {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let host = hosts.next().map(header::HeaderValue::as_bytes);
    if hosts.next().is_some() {
        return Err(Refusal::HostRepeated);
    }
    let authority = request.uri().authority().map(|authority| authority.as_str().as_bytes());
    request::set_authority(authority, host, head)
}

fn set_fields(fields: &HeaderMap, head: &mut RequestHead) -> Result<(), Refusal> {
    for (name, value) in fields {
        let (name, value) = (name.as_str().as_bytes(), value.as_bytes());
        // RFC 9113 §8.2.1.
        if let [b' ' | b'\t', ..] | [.., b' ' | b'\t'] = value {
            return Err(Refusal::FieldValueMalformed);
        }
        match name {
            b"host" => {}
            // Fields of one name come one after the other.
            b"cookie" if extend_cookie(value, head)? => {}
            _ => push_field(name, value, head)?,
        }
    }
    Ok(())
}

/// RFC 9113 §8.2.3: crumbs are joined before anybody without HTTP/2 sees them. False if there is nothing to extend.
fn extend_cookie(crumb: &[u8], head: &mut RequestHead) -> Result<bool, Refusal> {
    let Some(last) = head.fields.last().copied() else { return Ok(false) };
    if last.name.of(&head.blob) != Some(b"cookie") {
        return Ok(false);
    }
    head.blob.extend_from_slice(b"; ");
    head.blob.extend_from_slice(crumb);
    let start = last.value.start();
    let value = Span::new(start, head.blob.len() - start).ok_or(Refusal::HeadTooLarge)?;
    if let Some(last) = head.fields.last_mut() {
        last.value = value;
    }
    Ok(true)
}

fn set_path(uri: &Uri, head: &mut RequestHead) -> Result<(), Refusal> {
    if !matches!(uri.scheme_str(), None | Some("http" | "https")) {
        return Err(Refusal::TargetMalformed);
    }
    let target = uri.path_and_query().map_or("", |target| target.as_str()).as_bytes();
    request::set_target(target, head)
}

/// RFC 9110 §8.6, as strictly as HTTP/1.1 has it.
fn parse_lengths(fields: &HeaderMap) -> Result<Option<u64>, Refusal> {
    let mut lengths = fields.get_all(header::CONTENT_LENGTH).iter();
    let length = lengths.next();
    if lengths.next().is_some() {
        return Err(Refusal::LengthRepeated);
    }
    length.map(|value| parse_length(value.as_bytes()).ok_or(Refusal::LengthMalformed)).transpose()
}

/// RFC 9110 §10.1.1.
fn expects_continue(fields: &HeaderMap) -> Result<bool, Refusal> {
    match fields.get(header::EXPECT) {
        None => Ok(false),
        Some(value) if value.as_bytes().eq_ignore_ascii_case(b"100-continue") => Ok(true),
        Some(_) => Err(Refusal::ExpectationUnknown),
    }
}
