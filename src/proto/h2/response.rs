//! From a response as the application gave it to what the library encodes.
//!
//! Invariant: a head that passes has lower-case names, no field about a connection (RFC 9113 §8.2.2), and at most one
//! Content-Length, which its body will be held to.

use bytes::Bytes;
use http::{
    HeaderMap, Response, StatusCode,
    header::{self, HeaderName, HeaderValue},
};

pub(super) use crate::proto::response::Sending;
use crate::{
    limits::HEAD_FIELDS_MAX,
    proto::{
        error::BadResponse,
        field::trim,
        head::ResponseHead,
        response::{Given, Writer, check_final, check_informational, checked, extent},
    },
};

/// Makes the head of a final response, and says what follows it.
pub(super) fn head(
    head: &ResponseHead<'_>,
    date: &[u8],
    is_head: bool,
) -> Result<(Response<()>, Sending), BadResponse> {
    check_final(head.status)?;
    let (mut fields, given) = fields(head, 3)?;
    let extent = extent(head, given.length, is_head)?;
    let (length, sending) = extent.split();
    if let Some(length) = length {
        fields.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    }
    if !given.date {
        let date = HeaderValue::from_bytes(date).map_err(|_| BadResponse::FieldValue)?;
        fields.insert(header::DATE, date);
    }
    if !given.server {
        fields.insert(header::SERVER, HeaderValue::from_static("fasterapi"));
    }
    Ok((assemble(head.status, fields)?, sending))
}

/// Makes the head of an informational response (RFC 9110 §15.2).
pub(super) fn informational(head: &ResponseHead<'_>) -> Result<Response<()>, BadResponse> {
    check_informational(head.status)?;
    assemble(head.status, fields(head, 0)?.0)
}

/// Makes a trailer section (RFC 9110 §6.5).
pub(super) fn trailers(trailers: &ResponseHead<'_>) -> Result<HeaderMap, BadResponse> {
    Ok(fields(trailers, 0)?.0)
}

fn assemble(status: u16, fields: HeaderMap) -> Result<Response<()>, BadResponse> {
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::from_u16(status).map_err(|_| BadResponse::Status)?;
    *response.headers_mut() = fields;
    Ok(response)
}

/// `own`: how many more fields the engine will add.
fn fields(head: &ResponseHead<'_>, own: usize) -> Result<(HeaderMap, Given), BadResponse> {
    if head.fields.len() > HEAD_FIELDS_MAX {
        return Err(BadResponse::TooManyFields);
    }
    // One copy, which the values share.
    let blob = Bytes::copy_from_slice(head.blob);
    let shared = ResponseHead { blob: &blob, ..*head };
    let mut fields = HeaderMap::with_capacity(head.fields.len() + own);
    let mut given = Given::default();
    for field in shared.fields {
        let (name, value) = checked(&shared, field)?;
        if given.note(head.status, &name, value)? == Writer::Engine {
            continue;
        }
        let name = HeaderName::from_bytes(&name).map_err(|_| BadResponse::FieldName)?;
        // RFC 9113 §8.2.1: no white space around it. The library refuses other controls than CR, LF and NUL as well.
        let value = HeaderValue::from_maybe_shared(blob.slice_ref(trim(value)));
        fields.append(name, value.map_err(|_| BadResponse::FieldValue)?);
    }
    Ok((fields, given))
}
