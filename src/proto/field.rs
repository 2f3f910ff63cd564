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

/// How a field name is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameCase {
    /// As HTTP/2 asks and as a worker sends it.
    Lower,
    /// A token with upper-case letters in it.
    Mixed,
}

/// The case of a name that we send; `None` if it is no token.
#[inline]
pub fn name_case(name: &[u8]) -> Option<NameCase> {
    const UPPER: u8 = 1;
    const NO_TOKEN: u8 = 2;
    const MARKS: [u8; 256] = {
        let mut table = [NO_TOKEN; 256];
        let mut byte: u8 = 0;
        while byte < 128 {
            if token_lower(byte) != 0 {
                table[byte as usize] = if byte.is_ascii_uppercase() { UPPER } else { 0 };
            }
            byte += 1;
        }
        table
    };
    if is_plain_lower(name) {
        return Some(NameCase::Lower);
    }
    match marks_of(name, &MARKS) {
        0 if !name.is_empty() => Some(NameCase::Lower),
        UPPER => Some(NameCase::Mixed),
        _ => None,
    }
}

/// What the table says of any of the bytes. Without an early exit: what is asked is short, and a branch per byte
/// costs more than the byte.
#[inline]
pub(super) fn marks_of(bytes: &[u8], table: &[u8; 256]) -> u8 {
    bytes.iter().fold(0, |marks, &byte| marks | table[usize::from(byte)])
}

/// True only for names of the letters and the dash that nearly every name is made of: asked of eight bytes at a
/// time, the last eight once more.
#[inline]
fn is_plain_lower(name: &[u8]) -> bool {
    let is_plain = |word: &[u8; 8]| {
        let word = u64::from_ne_bytes(*word);
        // The high bit of each byte, free in ASCII: set from 'a' on and not behind 'z', or at the dash.
        let from_a = word.wrapping_add(EACH * (0x80 - b'a' as u64));
        let behind_z = word.wrapping_add(EACH * (0x7f - b'z' as u64));
        let from_dash = word.wrapping_add(EACH * (0x80 - b'-' as u64));
        let behind_dash = word.wrapping_add(EACH * (0x7f - b'-' as u64));
        let plain = (from_a & !behind_z) | (from_dash & !behind_dash);
        plain & !word & (EACH * 0x80) == EACH * 0x80
    };
    name.last_chunk().is_some_and(is_plain) && name.as_chunks().0.iter().all(is_plain)
}

/// Writes a token, thus ASCII, in lower case: eight bytes at a time, the last ones once more.
#[inline]
pub(super) fn lower_token(token: &mut [u8]) {
    for word in token.as_chunks_mut().0 {
        *word = lower_word(*word);
    }
    if let Some(word) = token.last_chunk_mut() {
        *word = lower_word(*word);
    } else if let (Some(&[a, b, c, d]), Some(&[e, f, g, h])) =
        (token.first_chunk(), token.last_chunk())
    {
        let [a, b, c, d, e, f, g, h] = lower_word([a, b, c, d, e, f, g, h]);
        if let Some(half) = token.first_chunk_mut() {
            *half = [a, b, c, d];
        }
        if let Some(half) = token.last_chunk_mut() {
            *half = [e, f, g, h];
        }
    } else {
        for byte in token {
            byte.make_ascii_lowercase();
        }
    }
}

/// Eight ASCII bytes in lower case.
#[inline]
const fn lower_word(word: [u8; 8]) -> [u8; 8] {
    let word = u64::from_ne_bytes(word);
    // The high bit of each byte, free in ASCII: set from 'A' on, and set behind 'Z'.
    let from_a = word.wrapping_add(EACH * (0x80 - b'A' as u64));
    let behind_z = word.wrapping_add(EACH * (0x7f - b'Z' as u64));
    let upper = from_a & !behind_z & (EACH * 0x80);
    // 0x80 >> 2 is the bit between the cases.
    (word | upper >> 2).to_ne_bytes()
}

/// One in each byte of a word.
const EACH: u64 = u64::from_ne_bytes([1; 8]);

/// True for a byte that RFC 9110 §5.5 lets stand in a received value: no control character but HTAB.
#[inline]
pub const fn is_value_byte(byte: u8) -> bool {
    byte == b'\t' || (byte >= b' ' && byte != 0x7f)
}

/// True when a value that we send can neither end its line nor be cut short (RFC 9110 §5.5: CR, LF, NUL).
#[inline]
pub fn is_sendable_value(value: &[u8]) -> bool {
    !may_hold_control(value) || memchr3(b'\r', b'\n', 0, value).is_none()
}

/// False only if no byte is below SP: asked of eight bytes at a time, the last eight once more.
#[inline]
fn may_hold_control(value: &[u8]) -> bool {
    // A byte below SP borrows and had no high bit of its own; what it borrows may only accuse one more.
    let accuses = |word: &[u8; 8]| {
        let word = u64::from_ne_bytes(*word);
        word.wrapping_sub(EACH * 0x20) & !word & (EACH * 0x80) != 0
    };
    match value.last_chunk() {
        Some(last) => accuses(last) || value.as_chunks().0.iter().any(accuses),
        None => value.iter().any(|&byte| byte < b' '),
    }
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
    fn every_byte_at_every_place_is_judged_like_a_lone_one() {
        for len in 1..20 {
            for at in 0..len {
                for byte in 0..=u8::MAX {
                    let mut bytes = vec![b'x'; len];
                    bytes[at] = byte;
                    let is_sendable = !matches!(byte, b'\r' | b'\n' | 0);
                    assert_eq!(is_sendable_value(&bytes), is_sendable, "{bytes:?}");
                    let case = match token_lower(byte) {
                        0 => None,
                        lower if lower == byte => Some(NameCase::Lower),
                        _ => Some(NameCase::Mixed),
                    };
                    assert_eq!(name_case(&bytes), case, "{bytes:?}");
                    if case.is_some() {
                        let lower = bytes.to_ascii_lowercase();
                        lower_token(&mut bytes);
                        assert_eq!(bytes, lower);
                    }
                }
            }
        }
        assert_eq!(name_case(b""), None);
        assert!(is_sendable_value(b""));
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
