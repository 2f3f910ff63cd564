//! From a response as the application gave it to the bytes on the wire.
//!
//! Invariant: the framing is ours. Whatever the application says about the connection or the coding is
//! dropped, its Content-Length is believed only if it is consistent, and a head is appended whole or not at all.

use super::{BadResponse, H1, Next, Refusal, Request, Response};
use crate::{
    limits::HEAD_FIELDS_MAX,
    proto::{
        answer::EdgeAnswer,
        head::ResponseHead,
        response::{Extent, Given, Writer, check_final, check_informational, checked, extent},
    },
};

impl H1 {
    /// Appends an encoded response head. `date` is an IMF-fixdate.
    ///
    /// # Errors
    /// The head is invalid; nothing was appended, and another (an edge answer) may be encoded in its place.
    pub fn encode_head(
        &mut self,
        head: &ResponseHead<'_>,
        date: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), BadResponse> {
        if self.response != Response::Waiting {
            return Err(BadResponse::OutOfOrder);
        }
        let mark = out.len();
        let written = self.write_head(head, date, out);
        if written.is_err() {
            out.truncate(mark);
        }
        written
    }

    fn write_head(
        &mut self,
        head: &ResponseHead<'_>,
        date: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), BadResponse> {
        // 101 hands the connection to another protocol: see `encode_switch`.
        check_final(head.status)?;
        if head.fields.len() > HEAD_FIELDS_MAX {
            return Err(BadResponse::TooManyFields);
        }
        out.reserve(head.blob.len() + 4 * head.fields.len() + 192);
        push_status_line(head.status, out);
        let given = push_fields(head, out)?;
        let response = self.frame(head, given.length, out)?;
        if !given.date {
            out.extend_from_slice(b"date: ");
            out.extend_from_slice(date);
            out.extend_from_slice(b"\r\n");
        }
        if !given.server {
            out.extend_from_slice(b"server: fasterapi\r\n");
        }
        self.close |= given.close || response == Response::ToClose;
        if self.close {
            // RFC 9112 §9.6.
            out.extend_from_slice(b"connection: close\r\n");
        } else if self.is_http10 {
            out.extend_from_slice(b"connection: keep-alive\r\n");
        }
        out.extend_from_slice(b"\r\n");
        self.response = response;
        self.continue_due = false;
        Ok(())
    }

    /// Appends a 101 with `ours`, which the application cannot overrule, and the application's other fields. What follows on
    /// the connection, either way, is no HTTP (RFC 9110 §7.8).
    ///
    /// # Errors
    /// The head is invalid, or the request cannot be answered with 101; nothing was appended.
    pub fn encode_switch(
        &mut self,
        head: &ResponseHead<'_>,
        ours: &[(&str, String)],
        date: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), BadResponse> {
        if self.response != Response::Waiting || !self.request_done() || self.is_http10 {
            return Err(BadResponse::OutOfOrder);
        }
        if head.status != 101 {
            return Err(BadResponse::Status);
        }
        if head.fields.len() > HEAD_FIELDS_MAX {
            return Err(BadResponse::TooManyFields);
        }
        let mark = out.len();
        push_status_line(101, out);
        for (name, value) in ours {
            push_field(name.as_bytes(), value.as_bytes(), out);
        }
        let given = push_fields(head, out).inspect_err(|_| out.truncate(mark))?;
        if !given.date {
            push_field(b"date", date, out);
        }
        if !given.server {
            push_field(b"server", b"fasterapi", out);
        }
        out.extend_from_slice(b"\r\n");
        self.request = Request::Closed;
        self.response = Response::Over;
        Ok(())
    }

    /// Decides how the body is delimited, RFC 9112 §6.3, and appends the field that says so.
    fn frame(
        &self,
        head: &ResponseHead<'_>,
        given: Option<u64>,
        out: &mut Vec<u8>,
    ) -> Result<Response, BadResponse> {
        Ok(match extent(head, given, self.is_head)? {
            Extent::Bodiless(length) => {
                if let Some(length) = length {
                    push_length(length, out);
                }
                Response::Bodiless
            }
            Extent::Sized(length) => {
                push_length(length, out);
                Response::Sized(length)
            }
            Extent::Open if self.is_http10 => Response::ToClose,
            Extent::Open => {
                out.extend_from_slice(b"transfer-encoding: chunked\r\n");
                Response::Chunked
            }
        })
    }

    /// Appends a piece of the body, as a chunk where the body is chunked; drops it where there is none to send.
    ///
    /// # Errors
    /// More body than announced (nothing of `data` was appended), or no head: close the connection.
    pub fn encode_body(&mut self, data: &[u8], out: &mut Vec<u8>) -> Result<(), BadResponse> {
        match &mut self.response {
            Response::Waiting | Response::Trailed | Response::Over => {
                return Err(BadResponse::OutOfOrder);
            }
            Response::Bodiless => {}
            Response::Sized(left) => {
                let Some(rest) = left.checked_sub(data.len() as u64) else {
                    self.close = true;
                    return Err(BadResponse::BodyTooLong);
                };
                *left = rest;
                out.extend_from_slice(data);
            }
            Response::ToClose => out.extend_from_slice(data),
            // An empty chunk would be the last one.
            Response::Chunked if data.is_empty() => {}
            Response::Chunked => {
                out.reserve(data.len() + 20);
                push_hex(data.len() as u64, out);
                out.extend_from_slice(b"\r\n");
                out.extend_from_slice(data);
                out.extend_from_slice(b"\r\n");
            }
        }
        Ok(())
    }

    /// Appends the trailer fields behind a chunked body, if the client keeps any; [`Self::encode_end`] must follow.
    /// Elsewhere they have no place and are dropped (RFC 9110 §6.5.1).
    ///
    /// # Errors
    /// A field is invalid (nothing was appended), or there is no head: close the connection.
    pub fn encode_trailers(
        &mut self,
        trailers: &ResponseHead<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), BadResponse> {
        match self.response {
            Response::Waiting | Response::Trailed | Response::Over => {
                return Err(BadResponse::OutOfOrder);
            }
            Response::Chunked if self.takes_trailers && !trailers.fields.is_empty() => {}
            Response::Chunked | Response::Sized(_) | Response::Bodiless | Response::ToClose => {
                return Ok(());
            }
        }
        let mark = out.len();
        out.extend_from_slice(b"0\r\n");
        if let Err(error) = push_fields(trailers, out) {
            out.truncate(mark);
            return Err(error);
        }
        out.extend_from_slice(b"\r\n");
        self.response = Response::Trailed;
        Ok(())
    }

    /// Appends an informational response ahead of the response. HTTP/1.0 knows none (RFC 9110 §15.2), and 100 and 101 are
    /// the engine's own to say.
    ///
    /// # Errors
    /// The head is invalid, or the response's own head is out; nothing was appended.
    pub fn encode_informational(
        &mut self,
        head: &ResponseHead<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), BadResponse> {
        if self.response != Response::Waiting {
            return Err(BadResponse::OutOfOrder);
        }
        check_informational(head.status)?;
        if self.is_http10 {
            return Ok(());
        }
        let mark = out.len();
        push_status_line(head.status, out);
        if let Err(error) = push_fields(head, out) {
            out.truncate(mark);
            return Err(error);
        }
        out.extend_from_slice(b"\r\n");
        Ok(())
    }

    /// Ends the response and, if the connection lives on, makes ready for the next request.
    ///
    /// # Errors
    /// Less body than announced, or no head: close the connection without another byte, so that the client
    /// sees a truncated message.
    pub fn encode_end(&mut self, out: &mut Vec<u8>) -> Result<Next, BadResponse> {
        match self.response {
            Response::Waiting | Response::Over => return Err(BadResponse::OutOfOrder),
            Response::Sized(left) if left > 0 => {
                self.close = true;
                return Err(BadResponse::BodyTooShort);
            }
            Response::Chunked => out.extend_from_slice(b"0\r\n\r\n"),
            Response::Sized(_) | Response::Bodiless | Response::ToClose | Response::Trailed => {}
        }
        // RFC 9112 §9.3: a server that did not read the whole request must close after its response.
        if self.close || !self.request_done() {
            self.request = Request::Closed;
            self.response = Response::Over;
            return Ok(Next::Close);
        }
        *self = Self::new();
        Ok(Next::KeepAlive)
    }

    /// Appends `100 Continue` if the client waits for one (RFC 9110 §10.1.1); at most once per exchange.
    pub fn encode_continue(&mut self, out: &mut Vec<u8>) {
        if std::mem::take(&mut self.continue_due) {
            out.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
        }
    }

    /// Appends the complete answer to a message that is not accepted, unless a response has begun already.
    /// Either way the connection is to be closed.
    pub fn refuse(&mut self, refusal: Refusal, date: &[u8], out: &mut Vec<u8>) {
        self.request = Request::Closed;
        self.close = true;
        if self.response == Response::Waiting {
            let answer = EdgeAnswer::new(refusal.status(), Some(refusal.detail()), &[]);
            // The answer is ours and valid; were it not, closing says enough.
            let _: Result<Next, BadResponse> = self.write_answer(&answer, date, out);
        }
        self.response = Response::Over;
    }

    /// Appends a complete response made by the edge: `{"detail": …}`, or without a body if there is no detail.
    /// Closes if the request has not been read to its end; drain it first where that is cheap.
    ///
    /// # Errors
    /// [`BadResponse::OutOfOrder`] if a response has begun already: close the connection.
    pub fn edge_answer(
        &mut self,
        status: u16,
        detail: Option<&str>,
        extra: &[(&str, &[u8])],
        date: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<Next, BadResponse> {
        self.close |= !self.request_done();
        self.write_answer(&EdgeAnswer::new(status, detail, extra), date, out)
    }

    fn write_answer(
        &mut self,
        answer: &EdgeAnswer,
        date: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<Next, BadResponse> {
        self.encode_head(&answer.head(), date, out)?;
        self.encode_body(answer.body(), out)?;
        self.encode_end(out)
    }
}

/// Appends the application's fields, without those that are the engine's to write.
fn push_fields(head: &ResponseHead<'_>, out: &mut Vec<u8>) -> Result<Given, BadResponse> {
    let mut given = Given::default();
    for field in head.fields {
        let (name, value) = checked(head, field)?;
        // RFC 9110 §15.5.22: a 426 says what to upgrade to, which takes a connection option (§7.8).
        if head.status == 426 && *name == *b"upgrade" {
            push_field(b"connection", b"upgrade", out);
        } else if given.note(head.status, &name, value)? == Writer::Engine {
            continue;
        }
        push_field(&name, value, out);
    }
    Ok(given)
}

fn push_field(name: &[u8], value: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

fn push_length(length: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(b"content-length: ");
    push_decimal(length, out);
    out.extend_from_slice(b"\r\n");
}

/// Each digit is below its base, so it fits a byte and the table.
fn push_digits<const BASE: u64>(mut number: u64, out: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut digits = [0_u8; 20];
    let mut used = 0;
    for slot in digits.iter_mut().rev() {
        *slot = DIGITS[usize::try_from(number % BASE).unwrap_or(0) & 15];
        number /= BASE;
        used += 1;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(digits.get(digits.len() - used..).unwrap_or_default());
}

fn push_decimal(number: u64, out: &mut Vec<u8>) {
    push_digits::<10>(number, out);
}

fn push_hex(number: u64, out: &mut Vec<u8>) {
    push_digits::<16>(number, out);
}

fn push_status_line(status: u16, out: &mut Vec<u8>) {
    let line: &[u8] = match status {
        101 => b"HTTP/1.1 101 Switching Protocols\r\n",
        102 => b"HTTP/1.1 102 Processing\r\n",
        103 => b"HTTP/1.1 103 Early Hints\r\n",
        200 => b"HTTP/1.1 200 OK\r\n",
        201 => b"HTTP/1.1 201 Created\r\n",
        202 => b"HTTP/1.1 202 Accepted\r\n",
        204 => b"HTTP/1.1 204 No Content\r\n",
        206 => b"HTTP/1.1 206 Partial Content\r\n",
        301 => b"HTTP/1.1 301 Moved Permanently\r\n",
        302 => b"HTTP/1.1 302 Found\r\n",
        303 => b"HTTP/1.1 303 See Other\r\n",
        304 => b"HTTP/1.1 304 Not Modified\r\n",
        307 => b"HTTP/1.1 307 Temporary Redirect\r\n",
        308 => b"HTTP/1.1 308 Permanent Redirect\r\n",
        400 => b"HTTP/1.1 400 Bad Request\r\n",
        401 => b"HTTP/1.1 401 Unauthorized\r\n",
        403 => b"HTTP/1.1 403 Forbidden\r\n",
        404 => b"HTTP/1.1 404 Not Found\r\n",
        405 => b"HTTP/1.1 405 Method Not Allowed\r\n",
        406 => b"HTTP/1.1 406 Not Acceptable\r\n",
        408 => b"HTTP/1.1 408 Request Timeout\r\n",
        409 => b"HTTP/1.1 409 Conflict\r\n",
        410 => b"HTTP/1.1 410 Gone\r\n",
        412 => b"HTTP/1.1 412 Precondition Failed\r\n",
        413 => b"HTTP/1.1 413 Content Too Large\r\n",
        414 => b"HTTP/1.1 414 URI Too Long\r\n",
        415 => b"HTTP/1.1 415 Unsupported Media Type\r\n",
        416 => b"HTTP/1.1 416 Range Not Satisfiable\r\n",
        417 => b"HTTP/1.1 417 Expectation Failed\r\n",
        418 => b"HTTP/1.1 418 I'm a Teapot\r\n",
        422 => b"HTTP/1.1 422 Unprocessable Content\r\n",
        425 => b"HTTP/1.1 425 Too Early\r\n",
        429 => b"HTTP/1.1 429 Too Many Requests\r\n",
        431 => b"HTTP/1.1 431 Request Header Fields Too Large\r\n",
        500 => b"HTTP/1.1 500 Internal Server Error\r\n",
        501 => b"HTTP/1.1 501 Not Implemented\r\n",
        502 => b"HTTP/1.1 502 Bad Gateway\r\n",
        503 => b"HTTP/1.1 503 Service Unavailable\r\n",
        504 => b"HTTP/1.1 504 Gateway Timeout\r\n",
        505 => b"HTTP/1.1 505 HTTP Version Not Supported\r\n",
        other => {
            // RFC 9112 §4: the reason may be empty, the space before it may not be missing.
            out.extend_from_slice(b"HTTP/1.1 ");
            push_decimal(u64::from(other), out);
            b" \r\n"
        }
    };
    out.extend_from_slice(line);
}
