//! The parts of a request's head that HTTP/2 and HTTP/3 say alike, with pseudo-header fields (RFC 9113 §8.3.1, RFC 9114 §4.3.1).
//!
//! Invariant: what is written here reads like an HTTP/1.1 request of the same meaning: `host` first and equal to the
//! authority, a WebSocket's GET, no pseudo-header. Deliberately absent: how fields arrive; each engine has its own.

#![forbid(unsafe_code)]

use super::{
    error::Refusal,
    head::{Method, RequestHead},
    target::{is_authority, split_path},
};
use crate::{
    limits::{HEAD_FIELDS_MAX, START_LINE_SIZE_MAX},
    span::{Field, Span},
};

/// What a request asks for beside an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// An answer only.
    Response,
    /// A WebSocket (RFC 8441, RFC 9220).
    WebSocket,
}

/// `:authority` takes Host's place; one of them must be there, and two must not differ. Begins the fields.
pub(super) fn set_authority(
    authority: Option<&[u8]>,
    host: Option<&[u8]>,
    head: &mut RequestHead,
) -> Result<(), Refusal> {
    let authority = match (authority, host) {
        (Some(authority), Some(host)) if !authority.eq_ignore_ascii_case(host) => {
            return Err(Refusal::HostContradicts);
        }
        (Some(authority), _) => authority,
        (None, Some(host)) => host,
        (None, None) => return Err(Refusal::HostMissing),
    };
    if !is_authority(authority) {
        return Err(Refusal::HostMalformed);
    }
    push_field(b"host", authority, head)?;
    head.authority = head.fields.first().map(|field| field.value).unwrap_or_default();
    Ok(())
}

/// Appends a field; the name is a lower-case token.
pub(super) fn push_field(name: &[u8], value: &[u8], head: &mut RequestHead) -> Result<(), Refusal> {
    if head.fields.len() == HEAD_FIELDS_MAX {
        return Err(Refusal::TooManyFields);
    }
    let name = head.append(name).ok_or(Refusal::HeadTooLarge)?;
    let value = head.append(value).ok_or(Refusal::HeadTooLarge)?;
    head.fields.push(Field { name, value });
    Ok(())
}

/// A WebSocket is asked for with CONNECT here and with GET in HTTP/1.1; routes know one of them.
pub(super) fn set_method(name: &[u8], asked: Asked, head: &mut RequestHead) -> Result<(), Refusal> {
    let name = if asked == Asked::WebSocket { b"GET" } else { name };
    head.method = Method::of(name);
    head.method_name = head.append(name).ok_or(Refusal::HeadTooLarge)?;
    Ok(())
}

/// Sets path and query from `:path`.
pub(super) fn set_target(target: &[u8], head: &mut RequestHead) -> Result<(), Refusal> {
    if target.len() > START_LINE_SIZE_MAX {
        return Err(Refusal::StartLineTooLong);
    }
    let whole = head.append(target).ok_or(Refusal::HeadTooLarge)?;
    if target == b"*" {
        if head.method != Method::Options {
            return Err(Refusal::TargetMalformed);
        }
        (head.raw_path, head.path) = (whole, whole);
        return Ok(());
    }
    let parts = split_path(target).ok_or(Refusal::TargetMalformed)?;
    if parts.path.is_empty() {
        return Err(Refusal::TargetMalformed);
    }
    let part = |from: usize, len| Span::new(whole.start() + from, len).ok_or(Refusal::HeadTooLarge);
    head.raw_path = part(0, parts.path.len())?;
    head.path = head.raw_path;
    if !parts.query.is_empty() {
        head.query = part(target.len() - parts.query.len(), parts.query.len())?;
    }
    if parts.is_encoded && memchr::memchr(b'%', parts.path).is_some() {
        head.decode_path(parts.path).ok_or(Refusal::StartLineTooLong)?;
    }
    Ok(())
}
