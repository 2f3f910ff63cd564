//! Header fields that the operator wants in every response.
//!
//! Invariant: a [`Header`] is fit to be sent over every version of HTTP: its name is a lower-case token, its value has no control
//! characters (RFC 9110 §5), and it is none of those that an engine writes itself.

use std::str::FromStr;

use clap::Args;
use http::{HeaderName, HeaderValue, header};
use thiserror::Error;

/// Why a field cannot be sent.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum HeaderError {
    /// There is no colon.
    #[error("expected `name: value`")]
    NoColon,
    /// The name has characters that a name cannot have, or none.
    #[error("{0:?} is not the name of a header field")]
    Name(String),
    /// The value has characters that a value cannot have.
    #[error("{0:?} cannot be the value of a header field")]
    Value(String),
    /// The field says how the message is framed, or is always there.
    #[error("`{0}` is the server's own business")]
    Reserved(HeaderName),
}

/// One field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// In lower case.
    pub name: String,
    /// Without blanks around it.
    pub value: String,
}

impl FromStr for Header {
    type Err = HeaderError;

    fn from_str(text: &str) -> Result<Self, HeaderError> {
        let (name, value) = text.split_once(':').ok_or(HeaderError::NoColon)?;
        let (name, value) = (name.trim(), value.trim());
        let name: HeaderName = name.parse().map_err(|_| HeaderError::Name(name.to_owned()))?;
        if RESERVED.contains(&name) || name.as_str() == "keep-alive" {
            return Err(HeaderError::Reserved(name));
        }
        let sendable = value.is_ascii() && value.parse::<HeaderValue>().is_ok();
        if !sendable {
            return Err(HeaderError::Value(value.to_owned()));
        }
        Ok(Self { name: name.as_str().to_owned(), value: value.to_owned() })
    }
}

const RESERVED: [HeaderName; 9] = [
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::DATE,
    header::SERVER,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::HOST,
];

/// See the module.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Listening")]
pub struct Headers {
    /// Header field of every response that does not have it already, as `name: value`; repeatable
    #[arg(long = "header", value_name = "FIELD", value_delimiter = '\n', env = "FASTERAPI_HEADER")]
    pub headers: Vec<Header>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_a_name_and_a_value_without_the_blanks() {
        let header = |text: &str| text.parse::<Header>().map(|h| (h.name, h.value));
        let is = |name: &str, value: &str| Ok((name.to_owned(), value.to_owned()));
        assert_eq!(header("X-Frame-Options: DENY"), is("x-frame-options", "DENY"));
        assert_eq!(header("x-at:12:30"), is("x-at", "12:30"));
        assert_eq!(header("x-empty:"), is("x-empty", ""));
    }

    #[test]
    fn what_cannot_be_sent_is_told() {
        let error = |text: &str| text.parse::<Header>().unwrap_err();
        assert_eq!(error("X-Frame-Options"), HeaderError::NoColon);
        assert_eq!(error("x y: 1"), HeaderError::Name("x y".to_owned()));
        assert_eq!(error(": 1"), HeaderError::Name(String::new()));
        assert_eq!(
            error("x: a\r\nset-cookie: b"),
            HeaderError::Value("a\r\nset-cookie: b".to_owned())
        );
        assert_eq!(error("x: \u{e9}"), HeaderError::Value("\u{e9}".to_owned()));
        assert_eq!(error("Content-Length: 0"), HeaderError::Reserved(header::CONTENT_LENGTH));
    }
}
