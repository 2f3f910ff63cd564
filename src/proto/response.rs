//! What every version asks of a response: which fields are the application's to write, and how long its body is.
//!
//! Invariant: what passes can neither end its line nor say anything about a connection. Deliberately absent: bytes;
//! each engine has its own.

#![forbid(unsafe_code)]

use std::borrow::Cow;

use super::{
    error::BadResponse,
    field::{NameCase, is_sendable_value, list, name_case, parse_length},
    head::{BodyLength, ResponseHead},
};
use crate::span::Field;

/// What the application's own fields say about what the engine would add.
#[derive(Debug, Default)]
pub(super) struct Given {
    pub(super) length: Option<u64>,
    pub(super) date: bool,
    pub(super) server: bool,
    pub(super) close: bool,
}

/// Whose a field is to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Writer {
    Application,
    Engine,
}

/// Name, in lower case, and value of one of the application's fields.
///
/// # Errors
/// The name is no token, the value could end its line, or one of them lies outside the blob.
#[inline]
pub(super) fn checked<'a>(
    head: &ResponseHead<'a>,
    field: &Field,
) -> Result<(Cow<'a, [u8]>, &'a [u8]), BadResponse> {
    let name = field.name.of(head.blob).ok_or(BadResponse::FieldName)?;
    let value = field.value.of(head.blob).ok_or(BadResponse::FieldValue)?;
    if !is_sendable_value(value) {
        return Err(BadResponse::FieldValue);
    }
    match name_case(name).ok_or(BadResponse::FieldName)? {
        NameCase::Lower => Ok((Cow::Borrowed(name), value)),
        NameCase::Mixed => Ok((Cow::Owned(name.to_ascii_lowercase()), value)),
    }
}

impl Given {
    /// Notes what a checked field says, and whether it is passed on.
    ///
    /// # Errors
    /// Content-Length is malformed, or contradicts an earlier one.
    #[inline]
    pub(super) fn note(
        &mut self,
        status: u16,
        name: &[u8],
        value: &[u8],
    ) -> Result<Writer, BadResponse> {
        match name {
            b"content-length" => {
                let length = parse_length(value).ok_or(BadResponse::Length)?;
                if self.length.is_some_and(|other| other != length) {
                    return Err(BadResponse::Length);
                }
                self.length = Some(length);
                return Ok(Writer::Engine);
            }
            b"connection" => {
                self.close |= list(value).any(|option| option.eq_ignore_ascii_case(b"close"));
                return Ok(Writer::Engine);
            }
            // RFC 9110 §7.6.1: about one connection, and this one is not the application's.
            b"keep-alive" | b"proxy-connection" | b"transfer-encoding" | b"te" | b"upgrade" => {
                return Ok(Writer::Engine);
            }
            // RFC 6455 §4.2.2: the handshake's own.
            b"sec-websocket-accept" | b"sec-websocket-extensions" if status == 101 => {
                return Ok(Writer::Engine);
            }
            b"date" => self.date = true,
            b"server" => self.server = true,
            _ => {}
        }
        Ok(Writer::Application)
    }
}

/// How much body a response has on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Extent {
    /// None, whatever the application sends; this Content-Length is still said.
    Bodiless(Option<u64>),
    /// Exactly this many bytes.
    Sized(u64),
    /// Until it ends.
    Open,
}

impl Extent {
    /// The Content-Length to say, and what is to come behind the head.
    pub(super) fn split(self) -> (Option<u64>, Sending) {
        match self {
            Self::Bodiless(length) => (length, Sending::Bodiless),
            Self::Sized(length) => (Some(length), Sending::Sized(length)),
            Self::Open => (None, Sending::Open),
        }
    }
}

/// What of a response is still to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sending {
    /// Everything.
    Head,
    /// Body, with this many bytes of the announced length.
    Sized(u64),
    /// Body of a length that was not announced.
    Open,
    /// Nothing, and what body the application gives is dropped.
    Bodiless,
}

impl Sending {
    /// Whether so much body may come now, and the end behind it.
    ///
    /// # Errors
    /// No head was taken, or it is more or less than the head announced.
    pub(super) fn check(self, size: usize, end: bool) -> Result<(), BadResponse> {
        match self {
            Self::Head => Err(BadResponse::OutOfOrder),
            Self::Sized(left) if left < size as u64 => Err(BadResponse::BodyTooLong),
            Self::Sized(left) if end && left > size as u64 => Err(BadResponse::BodyTooShort),
            Self::Sized(_) | Self::Open | Self::Bodiless => Ok(()),
        }
    }

    /// So much body was taken, of what passed [`Self::check`].
    pub(super) fn took(&mut self, size: usize) {
        if let Self::Sized(left) = self {
            *left -= size as u64;
        }
    }

    /// The end goes out with the head.
    pub(super) fn is_over(self) -> bool {
        matches!(self, Self::Bodiless | Self::Sized(0))
    }
}

/// # Errors
/// Not the status of a final response (RFC 9110 §15).
pub(super) fn check_final(status: u16) -> Result<(), BadResponse> {
    if (200..=599).contains(&status) { Ok(()) } else { Err(BadResponse::Status) }
}

/// # Errors
/// Not the status of an informational response that an application may send: 100 and 101 are the engine's own to say.
pub(super) fn check_informational(status: u16) -> Result<(), BadResponse> {
    if (102..=199).contains(&status) { Ok(()) } else { Err(BadResponse::Status) }
}

/// Weighs what the application says of the length against the request and the status.
///
/// # Errors
/// Content-Length contradicts the known length of the body.
pub(super) fn extent(
    head: &ResponseHead<'_>,
    given: Option<u64>,
    is_head: bool,
) -> Result<Extent, BadResponse> {
    let known = match head.body {
        BodyLength::Empty => Some(0),
        BodyLength::Known(length) => Some(length),
        BodyLength::Unknown => None,
    };
    // RFC 9112 §6.3: no body whatever the fields say. RFC 9110 §8.6: no Content-Length in a 204, and in a 304
    // or an answer to HEAD only the one that a GET would have had.
    if head.status == 204 {
        return Ok(Extent::Bodiless(None));
    }
    if is_head || head.status == 304 {
        return Ok(Extent::Bodiless(match head.body {
            BodyLength::Known(length) if head.status != 304 => given.or(Some(length)),
            _ => given,
        }));
    }
    match (known, given) {
        (Some(known), Some(given)) if known != given => Err(BadResponse::Length),
        (Some(length), _) | (None, Some(length)) => Ok(Extent::Sized(length)),
        (None, None) => Ok(Extent::Open),
    }
}
