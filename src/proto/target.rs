//! Request targets and authorities: the part of RFC 3986 that a server needs, for any HTTP version.
//!
//! Invariant: what passes holds visible ASCII only, has no fragment and no userinfo. Deliberately absent:
//! normalisation. Dot segments, repeated slashes and invalid `%zz` reach the application as they came.

#![forbid(unsafe_code)]

use std::{net::Ipv6Addr, str::FromStr};

use memchr::memchr;

use super::field::marks_of;

/// The parts of an origin-form target (RFC 9112 §3.2.1), or of what follows the authority.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathAndQuery<'a> {
    /// Still percent-encoded; begins with `/`, or is empty.
    pub path: &'a [u8],
    /// Without the `?`.
    pub query: &'a [u8],
    /// There is a `%` in one of the two.
    pub is_encoded: bool,
}

/// Splits at the first `?`. `None` for control characters, spaces, raw non-ASCII bytes and fragments.
pub fn split_path(target: &[u8]) -> Option<PathAndQuery<'_>> {
    const QUERY: u8 = 1;
    const ESCAPE: u8 = 2;
    const INVALID: u8 = 4;
    const MARKS: [u8; 256] = {
        let mut table = [INVALID; 256];
        let mut byte = b'!';
        while byte <= b'~' {
            table[byte as usize] = match byte {
                b'#' => INVALID,
                b'?' => QUERY,
                b'%' => ESCAPE,
                _ => 0,
            };
            byte += 1;
        }
        table
    };
    // One look at each byte says which of the questions below need another.
    let marks = marks_of(target, &MARKS);
    if marks & INVALID != 0 {
        return None;
    }
    let (path, query) = if marks & QUERY != 0 {
        let (path, rest) = target.split_at_checked(memchr(b'?', target)?)?;
        (path, rest.get(1..)?)
    } else {
        (target, &[][..])
    };
    let is_encoded = marks & ESCAPE != 0;
    (path.is_empty() || path.starts_with(b"/")).then_some(PathAndQuery { path, query, is_encoded })
}

/// The authority and the rest of an absolute-form target (RFC 9112 §3.2.2) of scheme http or https.
pub fn split_absolute(target: &[u8]) -> Option<(&[u8], &[u8])> {
    let colon = memchr(b':', target)?;
    let (scheme, rest) = target.split_at_checked(colon)?;
    if !scheme.eq_ignore_ascii_case(b"http") && !scheme.eq_ignore_ascii_case(b"https") {
        return None;
    }
    let rest = rest.strip_prefix(b"://")?;
    let end = rest.iter().position(|b| matches!(b, b'/' | b'?' | b'#')).unwrap_or(rest.len());
    rest.split_at_checked(end)
}

/// The host of an authority, without its port; an IPv6 address keeps its brackets. `None` when there is none.
pub fn host_of(authority: &[u8]) -> Option<&[u8]> {
    let end = match authority.first()? {
        b'[' => memchr(b']', authority)? + 1,
        _ => memchr(b':', authority).unwrap_or(authority.len()),
    };
    authority.get(..end).filter(|host| !host.is_empty())
}

/// Where a request in clear finds what it asks for over TLS: the same host and target, at `port`.
pub fn https_location(host: &[u8], port: u16, path: &[u8], query: &[u8]) -> Vec<u8> {
    let mut location = [b"https://", host].concat();
    // RFC 9110 §4.2.2.
    if port != 443 {
        location.extend_from_slice(format!(":{port}").as_bytes());
    }
    // `OPTIONS *` has no path.
    location.extend_from_slice(if path == b"*" { b"/" } else { path });
    if !query.is_empty() {
        location.push(b'?');
        location.extend_from_slice(query);
    }
    location
}

/// Appends the percent-decoded path; a `%` that two hexadecimal digits do not follow stays as it is, as
/// Python's `unquote` leaves it. Decoded bytes are arbitrary: `%00` is a NUL.
pub fn percent_decode(path: &[u8], out: &mut Vec<u8>) {
    let mut rest = path;
    while let Some(at) = memchr(b'%', rest) {
        let (plain, escape) = rest.split_at(at);
        out.extend_from_slice(plain);
        rest = match escape {
            [_, high, low, tail @ ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                out.push(hex_value(*high) << 4 | hex_value(*low));
                tail
            }
            [percent, tail @ ..] => {
                out.push(*percent);
                tail
            }
            [] => &[],
        };
    }
    out.extend_from_slice(rest);
}

/// Appends `%XX`.
pub(super) fn percent_encode(byte: u8, out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    out.extend_from_slice(&[b'%', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
}

/// The value of a hexadecimal digit; zero for any other byte.
pub(super) const fn hex_value(byte: u8) -> u8 {
    match byte {
        b'0'..=b'9' => byte - b'0',
        b'a'..=b'f' => byte - b'a' + 10,
        b'A'..=b'F' => byte - b'A' + 10,
        _ => 0,
    }
}

/// `unreserved / sub-delims` of RFC 3986 §3.2.2; escapes are checked apart.
const REG_NAME: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte: u8 = 0;
    while byte < 128 {
        table[byte as usize] = byte.is_ascii_alphanumeric();
        byte += 1;
    }
    let marks = b"-._~!$&'()*+,;=";
    let mut at = 0;
    while at < marks.len() {
        table[marks[at] as usize] = true;
        at += 1;
    }
    table
};

/// True for `uri-host [":" port]` (RFC 9110 §7.2) with a non-empty host: RFC 9110 §4.2.1 has a server reject
/// an http URI without one. Userinfo (§4.2.4), zone identifiers and IPvFuture are refused.
pub fn is_authority(authority: &[u8]) -> bool {
    let (host_is_valid, port) = if let Some(inner) = authority.strip_prefix(b"[") {
        let Some(end) = memchr(b']', inner) else { return false };
        let (address, rest) = inner.split_at(end);
        let is_address =
            str::from_utf8(address).is_ok_and(|address| Ipv6Addr::from_str(address).is_ok());
        (is_address, rest.get(1..).unwrap_or_default())
    } else {
        let rest = after_reg_name(authority);
        (rest.len() < authority.len(), rest)
    };
    let port_is_valid = match port {
        [] => true,
        [b':', digits @ ..] => digits.len() <= 5 && port_fits(digits),
        _ => false,
    };
    host_is_valid && port_is_valid
}

fn port_fits(digits: &[u8]) -> bool {
    // RFC 3986 §3.2.3: the digits may be missing after the colon.
    let port = digits
        .iter()
        .try_fold(0_u32, |port, b| b.is_ascii_digit().then(|| port * 10 + u32::from(b - b'0')));
    port.is_some_and(|port| port <= u32::from(u16::MAX))
}

/// What follows the longest reg-name at the front.
fn after_reg_name(authority: &[u8]) -> &[u8] {
    let mut rest = authority;
    loop {
        let end = rest.iter().position(|&b| !REG_NAME[usize::from(b)]).unwrap_or(rest.len());
        rest = match rest.get(end..).unwrap_or_default() {
            [b'%', high, low, tail @ ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                tail
            }
            other => return other,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redirect_keeps_the_host_and_the_target() {
        for (authority, host) in [
            ("example.org", Some("example.org")),
            ("example.org:8080", Some("example.org")),
            ("example.org:", Some("example.org")),
            ("[::1]", Some("[::1]")),
            ("[::1]:80", Some("[::1]")),
            ("", None),
            (":80", None),
        ] {
            assert_eq!(host_of(authority.as_bytes()), host.map(str::as_bytes), "{authority}");
        }
        let to = |port, path: &str, query: &str| {
            let location = https_location(b"a", port, path.as_bytes(), query.as_bytes());
            String::from_utf8(location).unwrap()
        };
        assert_eq!(to(443, "/", ""), "https://a/");
        assert_eq!(to(8443, "/%20//b", "c=?d"), "https://a:8443/%20//b?c=?d");
        assert_eq!(to(443, "*", ""), "https://a/");
    }

    #[test]
    fn authorities() {
        for good in [
            "a",
            "example.com",
            "a:80",
            "a:",
            "127.0.0.1:65535",
            "[::1]",
            "[::1]:80",
            "x%2d",
            "a_b",
        ] {
            assert!(is_authority(good.as_bytes()), "{good}");
        }
        for bad in [
            "", ":80", "a:80:80", "a:x", "a:65536", "a:000080", "u@a", "a/b", "a b", "a,b c",
            "[::1", "[]", "[::g]", "[::1]x", "::1", "a%zz", "a%2", "a?b", "a#b", "a\\b", "\u{e9}",
            "a\0",
        ] {
            assert!(!is_authority(bad.as_bytes()), "{bad}");
        }
    }

    #[test]
    fn escapes_decode_once_and_invalid_ones_stay() {
        let decode = |s: &str| {
            let mut out = Vec::new();
            percent_decode(s.as_bytes(), &mut out);
            out
        };
        assert_eq!(decode("/a%20b%2Fc%c3%A9"), "/a b/c\u{e9}".as_bytes());
        assert_eq!(decode("/%zz%2%"), b"/%zz%2%");
        assert_eq!(decode("/%2541%00"), b"/%41\0");
        assert_eq!(decode("/%%41"), b"/%A");
    }

    #[test]
    fn targets_split() {
        let parts = |s: &'static str| split_path(s.as_bytes()).map(|p| (p.path, p.query));
        assert_eq!(parts("/a?b?c"), Some((&b"/a"[..], &b"b?c"[..])));
        assert_eq!(parts("/a"), Some((&b"/a"[..], &b""[..])));
        assert_eq!(parts("?q"), Some((&b""[..], &b"q"[..])));
        for bad in ["a", "/a#b", "/\u{e9}", "/a b", "/\x7f", "/\0", "*"] {
            assert_eq!(parts(bad), None, "{bad:?}");
        }
        let absolute = |s: &'static str| split_absolute(s.as_bytes());
        assert_eq!(absolute("HTTP://a:1/b"), Some((&b"a:1"[..], &b"/b"[..])));
        assert_eq!(absolute("https://a?q"), Some((&b"a"[..], &b"?q"[..])));
        assert_eq!(absolute("ftp://a/"), None);
        assert_eq!(absolute("http:/a/"), None);
    }
}
