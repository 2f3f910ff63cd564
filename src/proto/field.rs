//! The grammar of header fields, for whatever version carries them.
//!
//! Invariant: a name that passes is a non-empty lower-case token; a value that passes cannot end its line.
//! Deliberately absent: the meaning of any field.

#![forbid(unsafe_code)]

use memchr::memchr3;

/// Each token character in lower case; zero for every other byte. RFC 9110 §5.6.2.
const TOKEN_LOWER: [u8; 256] = {
    let mut table = [0; 256];
    let mut byte: u8 = 0;
    while byte < 128 {
        if byte.is_ascii_alphanumeric() {
            table[byte as usize] = byte.to_ascii_lowercase();
        }
        byte += 1;
    }
    let marks = b"!#$%&'*+-.^_`|~";
    let mut at = 0;
    while at < marks.len() {
        table[marks[at] as usize] = marks[at];
        at += 1;
    }
    table
};

/// The byte in lower case if it may stand in a token, else zero.
#[inline]
pub const fn token_lower(byte: u8) -> u8 {
    TOKEN_LOWER[byte as usize]
}

/// True for a non-empty token.
pub fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|&b| token_lower(b) != 0)
}

/// True for a byte that RFC 9110 §5.5 lets stand in a received value: no control character but HTAB.
#[inline]
pub const fn is_value_byte(byte: u8) -> bool {
    byte == b'\t' || (byte >= b' ' && byte != 0x7f)
}

/// True when a value that we send can neither end its line nor be cut short (RFC 9110 §5.5: CR, LF, NUL).
#[inline]
pub fn is_sendable_value(value: &[u8]) -> bool {
    memchr3(b'\r', b'\n', 0, value).is_none()
}

/// One run of decimal digits, as Content-Length has it (RFC 9110 §8.6): no sign, no space, no list.
pub fn parse_length(value: &[u8]) -> Option<u64> {
    if value.is_empty() {
        return None;
    }
    value.iter().try_fold(0_u64, |length, &byte| {
        if !byte.is_ascii_digit() {
            return None;
        }
        length.checked_mul(10)?.checked_add(u64::from(byte - b'0'))
    })
}

/// The elements of a comma-separated list, without the white space around them. RFC 9110 §5.6.1.
pub fn list(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|&b| b == b',').map(trim)
}

/// Without leading and trailing SP and HTAB.
pub fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_lower_cased_and_nothing_else_passes() {
        assert_eq!(token_lower(b'A'), b'a');
        assert_eq!(token_lower(b'_'), b'_');
        for byte in b"\0\t\r\n :;,\"(){}[]<>@\\/?=\x7f\x80\xff" {
            assert_eq!(token_lower(*byte), 0, "{byte:#x}");
        }
        assert!(!is_token(b""));
    }

    #[test]
    fn a_length_is_digits_that_fit() {
        assert_eq!(parse_length(b"0"), Some(0));
        assert_eq!(parse_length(b"18446744073709551615"), Some(u64::MAX));
        for bad in ["", "18446744073709551616", "+1", "-1", "1 ", "1,1", "0x1", "1.0"] {
            assert_eq!(parse_length(bad.as_bytes()), None, "{bad:?}");
        }
    }

    #[test]
    fn a_list_loses_its_white_space_only() {
        let parts: Vec<_> = list(b" a ,\tb,, c d").collect();
        assert_eq!(parts, [&b"a"[..], b"b", b"", b"c d"]);
    }
}
