//! From decoded fields to a [`RequestHead`]: RFC 9114 §4.2 and §4.3.
//!
//! Invariant: the head says what an HTTP/1.1 request of the same meaning would say, and no more than one way of reading it
//! is left; what is malformed by the RFC is told from what we refuse. Deliberately absent: bodies.

use quiche::h3::{Header, NameValue};

use crate::{
    limits::{HEAD_FIELDS_MAX, TRAILERS_SIZE_MAX},
    proto::{
        error::Refusal,
        field::{is_token, is_value_byte, parse_length, token_lower},
        head::{BodyLength, RequestHead, Version},
        request::{Asked, push_field, set_authority, set_method, set_target},
    },
    span::Span,
};

/// Why there is no request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rejected {
    /// RFC 9114 §4.1.2: a stream error, and nobody hears of it.
    Malformed,
    /// Answered.
    Refused(Refusal),
}

impl From<Refusal> for Rejected {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// The pseudo-header fields (RFC 9114 §4.3.1, RFC 9220 §3).
#[derive(Default)]
struct Pseudo<'a> {
    method: Option<&'a [u8]>,
    scheme: Option<&'a [u8]>,
    authority: Option<&'a [u8]>,
    path: Option<&'a [u8]>,
    protocol: Option<&'a [u8]>,
}

/// What the fields say about the message itself.
#[derive(Default)]
struct Said<'a> {
    host: Option<&'a [u8]>,
    length: Option<u64>,
    expects_continue: bool,
    early: bool,
}

/// Fills `head`. `end`: no body follows. `early`: it came in early data.
pub(super) fn fill(
    fields: &[Header],
    end: bool,
    early: bool,
    head: &mut RequestHead,
) -> Result<Asked, Rejected> {
    head.clear();
    head.version = Version::Http3;
    let first = fields.iter().position(|field| !field.name().starts_with(b":"));
    let (pseudo, fields) = fields.split_at(first.unwrap_or(fields.len()));
    let pseudo = parse_pseudo(pseudo)?;
    // Malformed before anything else: what is refused is answered as a request that has a meaning.
    for field in fields {
        check(field)?;
    }
    let asked = asked(&pseudo)?;
    let said = parse_fields(fields)?;
    if end && said.length.is_some_and(|length| length > 0) {
        return Err(Rejected::Malformed);
    }
    set_authority(pseudo.authority, said.host, head)?;
    push_fields(fields, head)?;
    if early && !said.early {
        // RFC 8470 §5.1: whoever answers may know better what may be repeated.
        push_field(b"early-data", b"1", head)?;
    }
    set_method(pseudo.method.unwrap_or_default(), asked, head)?;
    if !matches!(pseudo.scheme, Some(b"https" | b"http")) {
        return Err(Refusal::TargetMalformed.into());
    }
    set_target(pseudo.path.unwrap_or_default(), head)?;
    head.body = match said.length {
        _ if end => BodyLength::Empty,
        Some(length) if length > 0 => BodyLength::Known(length),
        // Nothing will come, but its end has yet to.
        Some(_) | None => BodyLength::Unknown,
    };
    head.expects_continue = said.expects_continue && !end;
    if early && (asked == Asked::WebSocket || !head.method.is_safe()) {
        return Err(Refusal::TooEarly.into());
    }
    Ok(asked)
}

/// Checks the trailer section of a request; nobody asks for its fields.
pub(super) fn check_trailers(fields: &[Header]) -> Result<(), Rejected> {
    let size: usize = fields.iter().map(|field| field.name().len() + field.value().len()).sum();
    if size > TRAILERS_SIZE_MAX || fields.len() > HEAD_FIELDS_MAX {
        return Err(Refusal::TrailersTooLarge.into());
    }
    fields.iter().try_for_each(check)
}

fn parse_pseudo(fields: &[Header]) -> Result<Pseudo<'_>, Rejected> {
    let mut pseudo = Pseudo::default();
    for field in fields {
        let place = match field.name() {
            b":method" => &mut pseudo.method,
            b":scheme" => &mut pseudo.scheme,
            b":authority" => &mut pseudo.authority,
            b":path" => &mut pseudo.path,
            b":protocol" => &mut pseudo.protocol,
            _ => return Err(Rejected::Malformed),
        };
        if place.replace(field.value()).is_some() || ends_a_line(field.value()) {
            return Err(Rejected::Malformed);
        }
    }
    Ok(pseudo)
}

/// RFC 9114 §4.2, §10.3: what makes a message malformed. A pseudo-header behind other fields is no token.
fn check(field: &Header) -> Result<(), Rejected> {
    let (name, value) = (field.name(), field.value());
    let is_lower =
        !name.is_empty() && name.iter().all(|&byte| byte != 0 && token_lower(byte) == byte);
    let is_allowed = match name {
        b"connection" | b"keep-alive" | b"proxy-connection" | b"transfer-encoding" | b"upgrade" => {
            false
        }
        b"te" => value.eq_ignore_ascii_case(b"trailers"),
        _ => true,
    };
    if is_lower && is_allowed && !ends_a_line(value) { Ok(()) } else { Err(Rejected::Malformed) }
}

fn ends_a_line(value: &[u8]) -> bool {
    memchr::memchr3(b'\r', b'\n', 0, value).is_some()
}

/// RFC 9114 §4.3.1, §4.4; RFC 9220 §3 with RFC 8441 §4.
fn asked(pseudo: &Pseudo<'_>) -> Result<Asked, Rejected> {
    let method = pseudo.method.ok_or(Rejected::Malformed)?;
    let asked = match (method, pseudo.protocol) {
        (b"CONNECT", None) => {
            return Err(match (pseudo.authority, pseudo.scheme, pseudo.path) {
                (Some(_), None, None) => Refusal::ConnectUnsupported.into(),
                _ => Rejected::Malformed,
            });
        }
        (b"CONNECT", Some(_)) if pseudo.authority.is_none() => return Err(Rejected::Malformed),
        (b"CONNECT", Some(protocol)) if protocol.eq_ignore_ascii_case(b"websocket") => {
            Asked::WebSocket
        }
        (b"CONNECT", Some(_)) => return Err(Refusal::ProtocolUnsupported.into()),
        (_, Some(_)) => return Err(Rejected::Malformed),
        (_, None) => Asked::Response,
    };
    let is_whole = pseudo.scheme.is_some() && pseudo.path.is_some_and(|path| !path.is_empty());
    if is_token(method) && is_whole { Ok(asked) } else { Err(Rejected::Malformed) }
}

fn parse_fields(fields: &[Header]) -> Result<Said<'_>, Refusal> {
    let mut said = Said::default();
    for field in fields {
        let value = field.value();
        if let [b' ' | b'\t', ..] | [.., b' ' | b'\t'] = value {
            return Err(Refusal::FieldValueMalformed);
        }
        if !value.iter().all(|&byte| is_value_byte(byte)) {
            return Err(Refusal::FieldValueMalformed);
        }
        match field.name() {
            b"host" if said.host.replace(value).is_some() => return Err(Refusal::HostRepeated),
            // RFC 9110 §8.6, as strictly as HTTP/1.1 has it.
            b"content-length" => {
                if said.length.is_some() {
                    return Err(Refusal::LengthRepeated);
                }
                said.length = Some(parse_length(value).ok_or(Refusal::LengthMalformed)?);
            }
            // RFC 9110 §10.1.1.
            b"expect" => {
                if !value.eq_ignore_ascii_case(b"100-continue") {
                    return Err(Refusal::ExpectationUnknown);
                }
                said.expects_continue = true;
            }
            b"early-data" => said.early = true,
            _ => {}
        }
    }
    Ok(said)
}

/// RFC 9114 §4.2.1: crumbs of a cookie are joined before anybody without HTTP/3 sees them.
fn push_fields(fields: &[Header], head: &mut RequestHead) -> Result<(), Refusal> {
    let mut cookie_is_pushed = false;
    for (at, field) in fields.iter().enumerate() {
        match field.name() {
            b"host" => {}
            b"cookie" if cookie_is_pushed => {}
            b"cookie" => {
                cookie_is_pushed = true;
                push_field(b"cookie", field.value(), head)?;
                let crumbs = fields.iter().skip(at + 1).filter(|other| other.name() == b"cookie");
                for crumb in crumbs {
                    extend_last(crumb.value(), head)?;
                }
            }
            name => push_field(name, field.value(), head)?,
        }
    }
    Ok(())
}

/// The last field's value is the end of the blob.
fn extend_last(crumb: &[u8], head: &mut RequestHead) -> Result<(), Refusal> {
    head.blob.extend_from_slice(b"; ");
    head.blob.extend_from_slice(crumb);
    let end = head.blob.len();
    if let Some(last) = head.fields.last_mut() {
        let start = last.value.start();
        last.value = Span::new(start, end - start).ok_or(Refusal::HeadTooLarge)?;
    }
    Ok(())
}
