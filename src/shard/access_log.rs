//! Lines for the access log, made here and written by the control thread.
//!
//! Invariant: a line has no control character and no quote that the client chose, so one request is one line whatever
//! it contains. Buffered up to a bound, then handed over whole.

use std::{io::Write as _, net::SocketAddr, time::Duration};

use crate::proto::head::{RequestHead, Version};

/// Handed over when it has grown to this, and at every sweep.
const BUFFER_SIZE: usize = 32 * 1024;

/// What a line needs of the request, kept until the response has ended.
#[derive(Debug)]
pub(super) struct Line {
    peer: Option<SocketAddr>,
    request: Vec<u8>,
    /// Set with the response's head.
    pub(super) status: u16,
    /// Body bytes of the response.
    pub(super) bytes: u64,
}

impl Line {
    pub(super) fn new(peer: Option<SocketAddr>, head: &RequestHead) -> Self {
        let mut request = Vec::with_capacity(64);
        request.extend_from_slice(head.bytes(head.method_name));
        request.push(b' ');
        escape(head.bytes(head.raw_path), &mut request);
        let query = head.bytes(head.query);
        if !query.is_empty() {
            request.push(b'?');
            escape(query, &mut request);
        }
        request.extend_from_slice(match head.version {
            Version::Http10 => b" HTTP/1.0",
            Version::Http11 => b" HTTP/1.1",
            Version::Http2 => b" HTTP/2.0",
            Version::Http3 => b" HTTP/3.0",
        });
        Self { peer, request, status: 0, bytes: 0 }
    }
}

fn escape(bytes: &[u8], out: &mut Vec<u8>) {
    for &byte in bytes {
        if byte.is_ascii_graphic() && byte != b'"' && byte != b'\\' {
            out.push(byte);
        } else {
            out.extend_from_slice(format!("\\x{byte:02x}").as_bytes());
        }
    }
}

/// Lines that were not handed over yet.
#[derive(Debug, Default)]
pub(super) struct AccessLog {
    lines: Vec<u8>,
}

impl AccessLog {
    /// `peer [date] "METHOD target version" status bytes seconds`.
    pub(super) fn write(&mut self, line: &Line, date: &[u8], took: Duration) {
        let out = &mut self.lines;
        let written = match line.peer {
            Some(peer) => write!(out, "{peer}"),
            None => write!(out, "unix"),
        };
        out.extend_from_slice(b" [");
        out.extend_from_slice(date);
        out.extend_from_slice(b"] \"");
        out.extend_from_slice(&line.request);
        let rest = writeln!(out, "\" {} {} {:.6}", line.status, line.bytes, took.as_secs_f64());
        debug_assert!(written.is_ok() && rest.is_ok(), "writing to a Vec cannot fail");
    }

    /// True when nothing waits to be handed over.
    pub(super) fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// The lines to hand over, if there are enough of them, or any when `all`.
    pub(super) fn take(&mut self, all: bool) -> Option<Vec<u8>> {
        let due = self.lines.len() >= BUFFER_SIZE || (all && !self.lines.is_empty());
        due.then(|| std::mem::take(&mut self.lines))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_cannot_break_out_of_its_line() {
        let mut out = Vec::new();
        escape(b"/a\"b\n\x7f\\", &mut out);
        assert_eq!(out, br"/a\x22b\x0a\x7f\x5c");
    }

    #[test]
    fn a_line_tells_who_what_and_how_long() {
        let line = Line { peer: None, request: b"GET / HTTP/1.1".to_vec(), status: 200, bytes: 12 };
        let mut log = AccessLog::default();
        log.write(&line, b"Sun, 22 Nov 2026 12:00:00 GMT", Duration::from_micros(1500));
        assert_eq!(log.take(false), None);
        let lines = log.take(true).unwrap();
        assert_eq!(
            lines,
            b"unix [Sun, 22 Nov 2026 12:00:00 GMT] \"GET / HTTP/1.1\" 200 12 0.001500\n"
        );
        assert_eq!(log.take(true), None);
    }
}
