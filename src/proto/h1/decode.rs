//! From the bytes of a request head to a [`RequestHead`]: where it ends, then what it says.
//!
//! Invariant: the head's blob is the head as it was sent, names in lower case, followed by what had to be
//! made up (a decoded path, a missing `/`); every span points into it. httparse judges bytes; every rule
//! about the message as a whole (line ends, Host, framing, target) is here.

use std::{mem::MaybeUninit, ops::Range};

use memchr::{memchr, memchr_iter, memrchr};

use crate::{
    limits::{HEAD_FIELDS_MAX, HEAD_SIZE_MAX, LEADING_EMPTY_LINES_MAX, START_LINE_SIZE_MAX},
    proto::{
        error::Refusal,
        field::{is_token, list, lower_token, parse_length, trim},
        head::{BodyLength, Method, RequestHead, Version},
        target::{is_authority, split_absolute, split_path},
    },
    span::{Field, Span},
};

/// How far the search for the end of a head has come. Each line is looked at once, however the head trickles in.
#[derive(Clone, Copy, Debug)]
pub(super) struct HeadScan {
    /// Where the request line begins, after empty lines.
    start: u32,
    /// Where the current line begins.
    line: u32,
    /// The current line has no LF before this.
    scanned: u32,
    lines: u32,
}

impl HeadScan {
    pub(super) const fn new() -> Self {
        Self { start: 0, line: 0, scanned: 0, lines: 0 }
    }

    /// No byte was looked at.
    const fn is_fresh(&self) -> bool {
        self.scanned == 0
    }

    /// The bytes of a complete head, or `None` if its end has not arrived. Refuses what is too large, and line
    /// ends that are not CRLF, as soon as they are seen and independently of how the bytes were split.
    fn find(&mut self, input: &[u8]) -> Result<Option<Range<usize>>, Refusal> {
        let mut start = self.start as usize;
        let mut line = self.line as usize;
        let mut scanned = self.scanned as usize;
        if self.lines == 0 {
            // RFC 9112 §2.2: ignore at least one empty line before the request line.
            while input.get(start..).is_some_and(|rest| rest.starts_with(b"\r\n")) {
                start += 2;
                line = start;
                scanned = start;
                if start > 2 * LEADING_EMPTY_LINES_MAX {
                    return Err(Refusal::StartLineMalformed);
                }
            }
        }
        let limit = start + HEAD_SIZE_MAX;
        let window = input.get(..limit).unwrap_or(input);
        while let Some(offset) = window.get(scanned..).and_then(|rest| memchr(b'\n', rest)) {
            let lf = scanned + offset;
            // The line with its CR; a lone LF leaves it empty.
            let text = window.get(line..lf).unwrap_or_default();
            if self.lines == 0 && text.len() > START_LINE_SIZE_MAX + 1 {
                return Err(Refusal::StartLineTooLong);
            }
            match text {
                [b'\r'] => return Ok(Some(start..lf + 1)),
                // RFC 9112 §2.2 lets a recipient take a bare LF for a line end; one in front of us may not.
                [.., b'\r'] => {}
                _ => return Err(Refusal::LineEndingBare),
            }
            self.lines += 1;
            if self.lines as usize > 1 + HEAD_FIELDS_MAX {
                return Err(Refusal::TooManyFields);
            }
            line = lf + 1;
            scanned = line;
        }
        if self.lines == 0 && window.len().saturating_sub(line) > START_LINE_SIZE_MAX + 1 {
            return Err(Refusal::StartLineTooLong);
        }
        if window.len() >= limit {
            return Err(Refusal::HeadTooLarge);
        }
        // All three are at most `limit`.
        let narrow = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        (self.start, self.line) = (narrow(start), narrow(line));
        self.scanned = narrow(window.len().max(line));
        Ok(None)
    }
}

/// What a head says that is not kept in a [`RequestHead`].
#[derive(Clone, Copy)]
pub(super) struct Facts {
    /// RFC 9112 §9.3: the connection may be used again.
    pub(super) persists: bool,
    /// RFC 9110 §10.1.4: the client keeps trailer fields.
    pub(super) takes_trailers: bool,
}

/// Fields that frame the message or rule the connection, gathered in one pass.
#[derive(Default)]
struct Framing {
    length: Option<u64>,
    coding: Option<Coding>,
    /// The index of Host among the fields.
    host: Option<usize>,
    close: bool,
    keep_alive: bool,
    expects_continue: bool,
    has_upgrade: bool,
    takes_trailers: bool,
}

/// Transfer-Encoding so far, over all its fields.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Coding {
    /// Exactly one `chunked`.
    Chunked,
    /// Codings that we do not know, and no `chunked` yet.
    Unknown,
    /// Codings that we do not know, then one `chunked`.
    UnknownChunked,
}

/// A place for each field that a head may have.
type Slots<'b> = [MaybeUninit<httparse::Header<'b>>; HEAD_FIELDS_MAX];

/// Takes a head off the front of `input`, as soon as it is complete, and says how many bytes that were.
pub(super) fn head(
    scan: &mut HeadScan,
    input: &[u8],
    head: &mut RequestHead,
) -> Result<Option<(Facts, usize)>, Refusal> {
    // Nearly every head arrives whole. Then httparse finds its end, and what [`HeadScan`] would ask of each line
    // is asked of the few places where lines meet. Whatever this does not take goes the long way, which knows why.
    if scan.is_fresh() {
        let mut slots = [const { MaybeUninit::uninit() }; HEAD_FIELDS_MAX];
        if let Some((bytes, parsed)) = parse_whole(input, &mut slots) {
            return fill(bytes, &parsed, head).map(|facts| Some((facts, bytes.len())));
        }
    }
    head_in_pieces(scan, input, head)
}

/// The head at the very front of `input` if it is whole, well-formed, and too short to break a limit on sizes.
#[inline]
fn parse_whole<'s, 'b>(
    input: &'b [u8],
    slots: &'s mut Slots<'b>,
) -> Option<(&'b [u8], httparse::Request<'s, 'b>)> {
    let window = input.get(..START_LINE_SIZE_MAX).unwrap_or(input);
    let mut parsed = httparse::Request::new(&mut []);
    let Ok(httparse::Status::Complete(len)) = parsed.parse_with_uninit_headers(window, slots)
    else {
        return None;
    };
    let bytes = window.get(..len)?;
    let is_at_front = offset(bytes, parsed.method?.as_bytes()) == 0;
    // Each name stands behind the end of a line, and the last line is empty. httparse knows no other CR.
    let mut names = parsed.headers.iter().map(|field| offset(bytes, field.name.as_bytes()));
    let ends_in_crlf = bytes.ends_with(b"\r\n\r\n")
        && names.all(|at| bytes.get(at.wrapping_sub(2)..at) == Some(b"\r\n"));
    (is_at_front && ends_in_crlf).then_some((bytes, parsed))
}

/// As [`head`], for what [`parse_whole`] does not take.
#[inline(never)]
fn head_in_pieces(
    scan: &mut HeadScan,
    input: &[u8],
    head: &mut RequestHead,
) -> Result<Option<(Facts, usize)>, Refusal> {
    let Some(range) = scan.find(input)? else { return Ok(None) };
    let consumed = range.end;
    let bytes = input.get(range).unwrap_or_default();
    let mut slots: Slots<'_> = [const { MaybeUninit::uninit() }; HEAD_FIELDS_MAX];
    let mut parsed = httparse::Request::new(&mut []);
    match parsed.parse_with_uninit_headers(bytes, &mut slots) {
        Ok(httparse::Status::Complete(n)) if n == bytes.len() => {}
        Ok(_) => return Err(Refusal::StartLineMalformed),
        Err(error) => return Err(refusal(error, bytes)),
    }
    fill(bytes, &parsed, head).map(|facts| Some((facts, consumed)))
}

/// Makes a [`RequestHead`] of what httparse found in `bytes`, a complete head.
fn fill(
    bytes: &[u8],
    parsed: &httparse::Request<'_, '_>,
    head: &mut RequestHead,
) -> Result<Facts, Refusal> {
    head.clear();
    let (Some(method), Some(target)) = (parsed.method, parsed.path) else {
        return Err(Refusal::StartLineMalformed);
    };
    head.version = if parsed.version == Some(0) { Version::Http10 } else { Version::Http11 };
    head.method = Method::of(method.as_bytes());
    head.blob.extend_from_slice(bytes);
    head.method_name = place(bytes, method.as_bytes())?;

    let mut framing = Framing::default();
    for field in parsed.headers.iter() {
        let name = place(bytes, field.name.as_bytes())?;
        let value = place(bytes, field.value)?;
        if let Some(name) = head.blob.get_mut(name.start()..name.start() + name.len()) {
            lower_token(name);
            framing.take(name, field.value, head.fields.len())?;
        }
        head.fields.push(Field { name, value });
    }

    let host = framing.host.and_then(|at| head.fields.get(at)).map(|field| field.value);
    match host {
        Some(host) if !is_authority(head.bytes(host)) => return Err(Refusal::HostMalformed),
        Some(host) => head.authority = host,
        // RFC 9112 §3.2.
        None if head.version == Version::Http11 => return Err(Refusal::HostMissing),
        None => {}
    }
    set_target(bytes, target.as_bytes(), head)?;
    // RFC 9112 §3.2.2: the authority of an absolute-form target replaces the received Host.
    if let Some(field) = framing.host.and_then(|at| head.fields.get_mut(at)) {
        field.value = head.authority;
    }
    head.body = framing.body(head.version)?;
    // RFC 9110 §10.1.1: void without a body, and in HTTP/1.0.
    head.expects_continue = framing.expects_continue
        && head.version == Version::Http11
        && head.body != BodyLength::Empty;
    head.has_upgrade = framing.has_upgrade;
    let persists = !framing.close && (framing.keep_alive || head.version == Version::Http11);
    Ok(Facts { persists, takes_trailers: framing.takes_trailers })
}

impl Framing {
    fn take(&mut self, name: &[u8], value: &[u8], index: usize) -> Result<(), Refusal> {
        match name {
            b"host" => self.host_at(index)?,
            b"content-length" => {
                // RFC 9110 §8.6 lets equal ones be merged; refusing is the other choice it gives.
                if self.length.is_some() {
                    return Err(Refusal::LengthRepeated);
                }
                self.length = Some(parse_length(value).ok_or(Refusal::LengthMalformed)?);
            }
            b"transfer-encoding" => self.codings(value)?,
            // RFC 9110 §7.6.1. Nearly always it is exactly this.
            b"connection" if value == b"keep-alive" => self.keep_alive = true,
            b"connection" => {
                for option in list(value) {
                    self.close |= option.eq_ignore_ascii_case(b"close");
                    self.keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
                }
            }
            b"expect" => {
                // RFC 9110 §10.1.1.
                if !value.eq_ignore_ascii_case(b"100-continue") {
                    return Err(Refusal::ExpectationUnknown);
                }
                self.expects_continue = true;
            }
            b"upgrade" => self.has_upgrade = true,
            b"te" => {
                let mut codings = list(value);
                self.takes_trailers |=
                    codings.any(|coding| coding.eq_ignore_ascii_case(b"trailers"));
            }
            _ => {}
        }
        Ok(())
    }

    /// RFC 9112 §3.2: more than one Host is refused.
    fn host_at(&mut self, index: usize) -> Result<(), Refusal> {
        match self.host.replace(index) {
            None => Ok(()),
            Some(_) => Err(Refusal::HostRepeated),
        }
    }

    /// RFC 9112 §6.3: chunked must be the last coding; §7.1: and be applied once, without parameters.
    fn codings(&mut self, value: &[u8]) -> Result<(), Refusal> {
        for coding in list(value) {
            let is_chunked = coding.eq_ignore_ascii_case(b"chunked");
            let name = coding.split(|&b| b == b';').next().unwrap_or_default();
            self.coding = match (self.coding, is_chunked) {
                (Some(Coding::Chunked | Coding::UnknownChunked), _) => {
                    return Err(Refusal::CodingMalformed);
                }
                (None, true) => Some(Coding::Chunked),
                (Some(Coding::Unknown), true) => Some(Coding::UnknownChunked),
                (None | Some(Coding::Unknown), false) => {
                    let name = trim(name);
                    if !is_token(name) || name.eq_ignore_ascii_case(b"chunked") {
                        return Err(Refusal::CodingMalformed);
                    }
                    Some(Coding::Unknown)
                }
            };
        }
        Ok(())
    }

    fn body(&self, version: Version) -> Result<BodyLength, Refusal> {
        match (self.coding, self.length) {
            (None, None | Some(0)) => Ok(BodyLength::Empty),
            (None, Some(length)) => Ok(BodyLength::Known(length)),
            // RFC 9112 §6.1: a sign of smuggling, or of a sender too confused to trust.
            (Some(_), Some(_)) => Err(Refusal::LengthWithCoding),
            // RFC 9112 §6.1: HTTP/1.0 has no transfer codings; its framing is faulty.
            (Some(_), None) if version == Version::Http10 => Err(Refusal::CodingInHttp10),
            (Some(Coding::Chunked), None) => Ok(BodyLength::Unknown),
            // RFC 9112 §6.1.
            (Some(Coding::Unknown | Coding::UnknownChunked), None) => Err(Refusal::CodingUnknown),
        }
    }
}

/// The four forms of RFC 9112 §3.2.
fn set_target(bytes: &[u8], target: &[u8], head: &mut RequestHead) -> Result<(), Refusal> {
    if head.method == Method::Connect {
        return Err(Refusal::ConnectUnsupported);
    }
    let span = place(bytes, target)?;
    if target == b"*" {
        if head.method != Method::Options {
            return Err(Refusal::TargetMalformed);
        }
        (head.raw_path, head.path) = (span, span);
        return Ok(());
    }
    let rest = if target.starts_with(b"/") {
        target
    } else {
        let (authority, rest) = split_absolute(target).ok_or(Refusal::TargetMalformed)?;
        if !is_authority(authority) {
            return Err(Refusal::TargetMalformed);
        }
        head.authority = place(bytes, authority)?;
        rest
    };
    let parts = split_path(rest).ok_or(Refusal::TargetMalformed)?;
    if !parts.query.is_empty() {
        head.query = place(bytes, parts.query)?;
    }
    if parts.path.is_empty() {
        // RFC 9110 §4.2.3: an empty path is `/`; RFC 9112 §3.2.4: `*` for OPTIONS without a query.
        let is_asterisk = head.method == Method::Options && rest.is_empty();
        head.raw_path =
            head.append(if is_asterisk { b"*" } else { b"/" }).ok_or(Refusal::HeadTooLarge)?;
        head.path = head.raw_path;
        return Ok(());
    }
    head.raw_path = place(bytes, parts.path)?;
    head.path = head.raw_path;
    if parts.is_encoded && memchr(b'%', parts.path).is_some() {
        head.decode_path(parts.path).ok_or(Refusal::StartLineTooLong)?;
    }
    Ok(())
}

/// Where `part`, a slice of `whole`, lies in it; the blob begins with a copy of `whole`.
#[inline]
fn place(whole: &[u8], part: &[u8]) -> Result<Span, Refusal> {
    Span::new(offset(whole, part), part.len()).ok_or(Refusal::HeadTooLarge)
}

#[inline]
fn offset(whole: &[u8], part: &[u8]) -> usize {
    part.as_ptr().addr().wrapping_sub(whole.as_ptr().addr())
}

fn refusal(error: httparse::Error, bytes: &[u8]) -> Refusal {
    match error {
        // RFC 9112 §5.1 (white space before the colon), §5.2 (folded lines).
        httparse::Error::HeaderName => Refusal::FieldNameMalformed,
        httparse::Error::HeaderValue => Refusal::FieldValueMalformed,
        httparse::Error::NewLine if has_bare_cr(bytes) => Refusal::LineEndingBare,
        httparse::Error::TooManyHeaders => Refusal::TooManyFields,
        httparse::Error::Version if names_other_version(bytes) => Refusal::VersionUnsupported,
        httparse::Error::Version
        | httparse::Error::Token
        | httparse::Error::Status
        | httparse::Error::NewLine => Refusal::StartLineMalformed,
    }
}

fn has_bare_cr(bytes: &[u8]) -> bool {
    memchr_iter(b'\r', bytes).any(|at| bytes.get(at + 1) != Some(&b'\n'))
}

/// True when the request line ends in a well-formed HTTP-version (RFC 9112 §2.3) that is not 1.0 or 1.1.
fn names_other_version(bytes: &[u8]) -> bool {
    let line = bytes.split(|&b| b == b'\r').next().unwrap_or_default();
    let version = memrchr(b' ', line).and_then(|at| line.get(at + 1..)).unwrap_or_default();
    matches!(
        version,
        [b'H', b'T', b'T', b'P', b'/', major, b'.', minor]
            if major.is_ascii_digit() && minor.is_ascii_digit() && version != b"HTTP/1.0" && version != b"HTTP/1.1"
    )
}
