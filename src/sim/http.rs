//! What a client makes of the bytes that it reads: responses, by RFC 9112 §6 alone.
//!
//! Invariant: however the bytes were cut, the same pieces come out. Shares no code with `proto`.

use super::plan::Tag;

/// The head of a response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) status: u16,
    /// Of a worker's answer.
    pub(super) tag: Option<Tag>,
    pub(super) close: bool,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece {
    Head(Head),
    Body(Vec<u8>),
    End,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Head,
    Sized(usize),
    ChunkSize,
    ChunkData(usize),
    ChunkEnd,
    Trailer,
    ToClose,
    Bodiless,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Parser {
    bytes: Vec<u8>,
    state: State,
}

impl Parser {
    pub(super) fn new() -> Self {
        Self { bytes: Vec::new(), state: State::Head }
    }

    pub(super) fn feed(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The end of the connection is the end of the body.
    pub(super) fn is_to_close(&self) -> bool {
        self.state == State::ToClose
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The next piece; `bodiless` when the request was HEAD.
    pub(super) fn next(&mut self, bodiless: bool) -> Result<Option<Piece>, String> {
        loop {
            match self.state {
                State::Head => {
                    let Some(end) = find(&self.bytes, b"\r\n\r\n") else { return Ok(None) };
                    let text: Vec<u8> = self.bytes.drain(..end + 4).collect();
                    let text = std::str::from_utf8(&text).map_err(|_| "a head that is no text")?;
                    let (head, state) = parse_head(text, bodiless)?;
                    if head.status < 200 {
                        continue;
                    }
                    self.state = state;
                    return Ok(Some(Piece::Head(head)));
                }
                State::Sized(0) | State::Bodiless => {
                    self.state = State::Head;
                    return Ok(Some(Piece::End));
                }
                State::Sized(left) => {
                    let Some(data) = self.data(left) else { return Ok(None) };
                    self.state = State::Sized(left - data.len());
                    return Ok(Some(Piece::Body(data)));
                }
                State::ChunkSize => {
                    let Some(line) = self.line() else { return Ok(None) };
                    let size = usize::from_str_radix(&line, 16)
                        .map_err(|_| format!("a chunk of size {line:?}"))?;
                    self.state = if size == 0 { State::Trailer } else { State::ChunkData(size) };
                }
                State::ChunkData(left) => {
                    let Some(data) = self.data(left) else { return Ok(None) };
                    let left = left - data.len();
                    self.state = if left == 0 { State::ChunkEnd } else { State::ChunkData(left) };
                    return Ok(Some(Piece::Body(data)));
                }
                State::ChunkEnd => {
                    let Some(line) = self.line() else { return Ok(None) };
                    if !line.is_empty() {
                        return Err(format!("a chunk that goes on with {line:?}"));
                    }
                    self.state = State::ChunkSize;
                }
                State::Trailer => {
                    let Some(line) = self.line() else { return Ok(None) };
                    if !line.is_empty() {
                        return Err(format!("a trailer {line:?}"));
                    }
                    self.state = State::Head;
                    return Ok(Some(Piece::End));
                }
                State::ToClose => {
                    return Ok(self.data(usize::MAX).map(Piece::Body));
                }
            }
        }
    }

    fn data(&mut self, most: usize) -> Option<Vec<u8>> {
        let len = most.min(self.bytes.len());
        (len > 0).then(|| self.bytes.drain(..len).collect())
    }

    fn line(&mut self) -> Option<String> {
        let end = find(&self.bytes, b"\r\n")?;
        let line: Vec<u8> = self.bytes.drain(..end + 2).take(end).collect();
        Some(String::from_utf8_lossy(&line).into_owned())
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    memchr::memmem::find(bytes, what)
}

fn parse_head(text: &str, bodiless: bool) -> Result<(Head, State), String> {
    let mut lines = text.split("\r\n");
    let start = lines.next().unwrap_or_default();
    let status = start
        .strip_prefix("HTTP/1.1 ")
        .and_then(|rest| rest.get(..3)?.parse().ok())
        .ok_or_else(|| format!("a status line {start:.80?}"))?;
    let mut head = Head { status, tag: None, close: false };
    let (mut length, mut chunked) = (None, false);
    for line in lines.filter(|line| !line.is_empty()) {
        let (name, value) = line.split_once(": ").ok_or_else(|| format!("a field {line:.80?}"))?;
        match name {
            "x-tag" => head.tag = Some(value.parse().map_err(|_| format!("tag {value:.80?}"))?),
            "content-length" if length.is_some() => return Err("two lengths".into()),
            "content-length" => {
                length = Some(value.parse().map_err(|_| format!("length {value:.80?}"))?);
            }
            "transfer-encoding" => chunked = value == "chunked",
            "connection" => head.close = value == "close",
            _ => {}
        }
    }
    let state = match length {
        _ if bodiless || status < 200 || matches!(status, 204 | 304) => State::Bodiless,
        Some(_) if chunked => return Err("both a length and chunks".into()),
        Some(length) => State::Sized(length),
        None if chunked => State::ChunkSize,
        None => State::ToClose,
    };
    Ok((head, state))
}
