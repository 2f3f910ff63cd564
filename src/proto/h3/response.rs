//! From a response as the application gave it to a HEADERS frame.
//!
//! Invariant: a head that passes has lower-case names, no field about a connection (RFC 9114 §4.2), and at most one
//! Content-Length, which its body will be held to. Deliberately absent: QPACK's dynamic table, in either direction:
//! without it no stream waits for another, and nothing of one request is left in the state of the next.

use std::borrow::Cow;

use quiche::h3::qpack::Encoder;

use super::frames::{kind, put_head};
use crate::{
    limits::HEAD_FIELDS_MAX,
    proto::{
        error::BadResponse,
        field::trim,
        head::ResponseHead,
        response::{Given, Sending, Writer, check_final, check_informational, checked, extent},
    },
};

/// A name and its value.
type Pair<'a> = (Cow<'a, [u8]>, Cow<'a, [u8]>);

/// Appends the head of a final response, and says what follows it.
pub(super) fn head(
    head: &ResponseHead<'_>,
    date: &[u8],
    is_head: bool,
    out: &mut Vec<u8>,
) -> Result<Sending, BadResponse> {
    check_final(head.status)?;
    let mut pairs = Vec::with_capacity(head.fields.len() + 4);
    let given = fields(head, true, &mut pairs)?;
    let (length, sending) = extent(head, given.length, is_head)?.split();
    if let Some(length) = length {
        pairs.push((Cow::Borrowed(b"content-length"), length.to_string().into_bytes().into()));
    }
    if !given.date {
        pairs.push((Cow::Borrowed(b"date"), Cow::Borrowed(date)));
    }
    if !given.server {
        pairs.push((Cow::Borrowed(b"server"), Cow::Borrowed(b"fasterapi")));
    }
    encode(&pairs, out)?;
    Ok(sending)
}

/// Appends the head of an informational response (RFC 9110 §15.2).
pub(super) fn informational(head: &ResponseHead<'_>, out: &mut Vec<u8>) -> Result<(), BadResponse> {
    check_informational(head.status)?;
    let mut pairs = Vec::new();
    fields(head, true, &mut pairs)?;
    encode(&pairs, out)
}

/// Appends `100 Continue`.
pub(super) fn go_on(out: &mut Vec<u8>) {
    // An index into the static table (RFC 9204 §A, 63): it cannot fail, and needs no encoder.
    put_head(kind::HEADERS, 4, out);
    out.extend_from_slice(&[0, 0, 0xff, 0]);
}

/// Appends a trailer section (RFC 9110 §6.5). False if there is none to send.
pub(super) fn trailers(
    trailers: &ResponseHead<'_>,
    out: &mut Vec<u8>,
) -> Result<bool, BadResponse> {
    let mut pairs = Vec::new();
    fields(trailers, false, &mut pairs)?;
    if pairs.is_empty() {
        return Ok(false);
    }
    encode(&pairs, out).map(|()| true)
}

fn fields<'a>(
    head: &ResponseHead<'a>,
    status: bool,
    pairs: &mut Vec<Pair<'a>>,
) -> Result<Given, BadResponse> {
    if head.fields.len() > HEAD_FIELDS_MAX {
        return Err(BadResponse::TooManyFields);
    }
    if status {
        let digits = head.status.to_string().into_bytes();
        pairs.push((Cow::Borrowed(b":status"), digits.into()));
    }
    let mut given = Given::default();
    for field in head.fields {
        let (name, value) = checked(head, field)?;
        if given.note(head.status, &name, value)? == Writer::Application {
            pairs.push((name, Cow::Borrowed(trim(value))));
        }
    }
    Ok(given)
}

/// Appends a HEADERS frame.
fn encode(pairs: &[Pair<'_>], out: &mut Vec<u8>) -> Result<(), BadResponse> {
    // No field takes more than its bytes and its lengths.
    let bound: usize = pairs.iter().map(|(name, value)| name.len() + value.len() + 20).sum();
    let mut block = vec![0; bound + 2];
    let len = Encoder::new().encode(pairs, &mut block).map_err(|_| BadResponse::FieldValue)?;
    put_head(kind::HEADERS, len, out);
    out.extend_from_slice(block.get(..len).unwrap_or_default());
    Ok(())
}
