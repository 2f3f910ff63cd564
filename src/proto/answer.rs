//! Answers that the edge makes itself: no such route, no worker, too slow.
//!
//! Invariant: an answer is an ordinary response head and body, so it goes through an engine like any worker's
//! and keeps the connection alive where that may be. Bodies read like FastAPI's: `{"detail":"Not Found"}`.

#![forbid(unsafe_code)]

use super::head::{BodyLength, ResponseHead};
use crate::span::{Field, Span};

/// FastAPI's text for 404.
pub const NOT_FOUND: &str = "Not Found";
/// FastAPI's text for 405.
pub const METHOD_NOT_ALLOWED: &str = "Method Not Allowed";

/// A response made by the edge, for any HTTP version.
#[derive(Clone, Debug)]
pub struct EdgeAnswer {
    status: u16,
    blob: Vec<u8>,
    fields: Vec<Field>,
    body: Vec<u8>,
}

impl EdgeAnswer {
    /// A JSON answer with this detail, or an empty one without. `extra` fields are `(name, value)`; one that
    /// does not fit a span is left out.
    pub fn new(status: u16, detail: Option<&str>, extra: &[(&str, &[u8])]) -> Self {
        let mut answer =
            Self { status, blob: Vec::with_capacity(64), fields: Vec::new(), body: Vec::new() };
        if let Some(detail) = detail {
            answer.push("content-type", b"application/json");
            answer.body = json_detail(detail);
        }
        for (name, value) in extra {
            answer.push(name, value);
        }
        answer
    }

    /// The head, to be encoded by an engine.
    pub fn head(&self) -> ResponseHead<'_> {
        let body = match self.body.len() {
            0 => BodyLength::Empty,
            n => BodyLength::Known(n as u64),
        };
        ResponseHead { status: self.status, blob: &self.blob, fields: &self.fields, body }
    }

    /// The body, to be encoded after the head.
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    fn push(&mut self, name: &str, value: &[u8]) {
        let start = self.blob.len();
        let spans = (Span::new(start, name.len()), Span::new(start + name.len(), value.len()));
        if let (Some(name_span), Some(value_span)) = spans {
            self.blob.extend_from_slice(name.as_bytes());
            self.blob.extend_from_slice(value);
            self.fields.push(Field { name: name_span, value: value_span });
        }
    }
}

/// `{"detail":"…"}`, escaped as RFC 8259 §7 asks.
fn json_detail(detail: &str) -> Vec<u8> {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let mut json = Vec::with_capacity(detail.len() + 13);
    json.extend_from_slice(b"{\"detail\":\"");
    for byte in detail.bytes() {
        match byte {
            b'"' | b'\\' => json.extend_from_slice(&[b'\\', byte]),
            0..=0x1f => {
                let digits = [HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]];
                json.extend_from_slice(b"\\u00");
                json.extend_from_slice(&digits);
            }
            _ => json.push(byte),
        }
    }
    json.extend_from_slice(b"\"}");
    json
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_detail_reads_like_fastapis_and_cannot_break_out_of_its_string() {
        assert_eq!(json_detail(NOT_FOUND), br#"{"detail":"Not Found"}"#);
        assert_eq!(
            json_detail("a\"\\\n\u{e9}"),
            "{\"detail\":\"a\\\"\\\\\\u000a\u{e9}\"}".as_bytes()
        );
    }

    #[test]
    fn an_answer_without_detail_has_no_body_and_no_type() {
        let answer = EdgeAnswer::new(307, None, &[("location", b"/a/")]);
        let head = answer.head();
        assert_eq!(head.body, BodyLength::Empty);
        assert_eq!(head.fields.len(), 1);
        assert_eq!(head.fields[0].value.of(head.blob), Some(&b"/a/"[..]));
    }
}
