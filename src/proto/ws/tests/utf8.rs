//! UTF-8 in text messages, by the cases of the Autobahn test suite, section 6.

use super::*;
use crate::proto::ws::{Kind, Step, Violation};

const KOSME: &str = "\u{3ba}\u{1f79}\u{3c3}\u{3bc}\u{3b5}";

fn as_text(data: impl AsRef<[u8]>) -> Result<(), Violation> {
    let data = data.as_ref();
    let mut found = events(None, frame(FIN | TEXT, data));
    // Byte by byte as frames, and byte by byte as input.
    let mut fragments = frame(TEXT, "");
    fragments.extend(data.iter().flat_map(|byte| frame(CONTINUE, [*byte])));
    fragments.extend(frame(FIN | CONTINUE, ""));
    assert_eq!(events(None, &fragments), found);
    assert_eq!(ws_events(&options(None), &fragments, std::iter::repeat(1)), found);
    match found.pop() {
        Some(WsEvent::Message(Kind::Text, text)) => {
            assert_eq!(text, data);
            Ok(())
        }
        Some(WsEvent::Violated(violation)) => Err(violation),
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn accepted(data: impl AsRef<[u8]>) {
    assert_eq!(as_text(data), Ok(()));
}

#[track_caller]
fn refused(data: impl AsRef<[u8]>) {
    assert_eq!(as_text(data), Err(Violation::TextNotUtf8));
}

#[test]
fn autobahn_6_1_text_of_no_length() {
    accepted("");
}

#[test]
fn autobahn_6_2_valid_text_cut_between_and_inside_characters() {
    accepted("Hello-\u{b5}@\u{df}\u{f6}\u{e4}\u{fc}\u{e0}\u{e1}-UTF-8!!");
    accepted(KOSME);
}

#[test]
fn autobahn_6_3_text_with_a_surrogate_in_it() {
    refused([KOSME.as_bytes(), b"\xed\xa0\x80edited"].concat());
}

/// Autobahn 6.4: the connection fails on the first byte that cannot be, before the message ends.
#[test]
fn autobahn_6_4_fail_fast_on_the_byte_that_is_wrong() {
    for (valid, wrong) in [
        ([KOSME.as_bytes(), b"\xf4"].concat(), 0x90),
        ([KOSME.as_bytes(), b"\xed"].concat(), 0xa0),
        (b"\xe2\x82".to_vec(), b'a'),
        (b"\xf0".to_vec(), 0x80),
        (Vec::new(), 0xc0),
    ] {
        let (mut engine, mut work) = engine(None);
        // A long frame that has hardly begun.
        let whole = frame(TEXT, [&valid[..], &[wrong], &[b'x'; 100]].concat());
        let header = whole.len() - 101 - valid.len();
        let before = engine.decode(&whole[..header + valid.len()], &mut work);
        let consumed = match before {
            Ok(Step::Piece { consumed, .. } | Step::NeedMore { consumed }) => consumed,
            other => panic!("{other:?}"),
        };
        let after = &whole[consumed..=header + valid.len()];
        assert_eq!(engine.decode(after, &mut work), Err(Violation::TextNotUtf8), "{valid:x?}");
    }
}

#[test]
fn autobahn_6_5_to_6_7_first_and_last_characters_of_each_length() {
    for scalar in [0, 0x7f, 0x80, 0x7ff, 0x800, 0xffff, 0x1_0000, 0x10_ffff_u32] {
        accepted(char::from_u32(scalar).expect("a scalar").to_string());
    }
}

#[test]
fn autobahn_6_6_a_prefix_of_a_text_that_ends_inside_a_character() {
    for end in 1..KOSME.len() {
        let prefix = &KOSME.as_bytes()[..end];
        if KOSME.is_char_boundary(end) { accepted(prefix) } else { refused(prefix) }
    }
}

#[test]
fn autobahn_6_8_sequences_of_five_and_six_bytes() {
    refused(b"\xf8\x88\x80\x80\x80");
    refused(b"\xfc\x84\x80\x80\x80\x80");
}

#[test]
fn autobahn_6_9_and_6_10_last_characters_of_each_length_that_are_none() {
    refused(b"\xf7\xbf\xbf\xbf");
    refused(b"\xfb\xbf\xbf\xbf\xbf");
    refused(b"\xfd\xbf\xbf\xbf\xbf\xbf");
}

#[test]
fn autobahn_6_11_other_boundaries() {
    for good in [&b"\xed\x9f\xbf"[..], b"\xee\x80\x80", b"\xef\xbf\xbd", b"\xf4\x8f\xbf\xbf"] {
        accepted(good);
    }
    refused(b"\xf4\x90\x80\x80");
}

#[test]
fn autobahn_6_12_continuation_bytes_alone() {
    for bad in [&b"\x80"[..], b"\xbf", b"\x80\xbf", b"\x80\xbf\x80\xbf\x80\xbf"] {
        refused(bad);
    }
}

#[test]
fn autobahn_6_13_and_6_14_first_bytes_alone() {
    for first in 0xc0..=0xff_u8 {
        refused([first, b' ']);
        refused([first]);
    }
}

#[test]
fn autobahn_6_15_sequences_without_their_last_bytes_in_a_row() {
    refused(
        b"\xc0\xe0\x80\xf0\x80\x80\xf8\x80\x80\x80\xfc\x80\x80\x80\x80\xdf\xef\xbf\xf7\xbf\xbf",
    );
}

#[test]
fn autobahn_6_16_bytes_that_are_in_no_text() {
    refused(b"\xfe");
    refused(b"\xff");
    refused(b"\xfe\xfe\xff\xff");
}

#[test]
fn autobahn_6_17_to_6_19_overlong_sequences() {
    for bad in [
        &b"\xc0\xaf"[..],
        b"\xe0\x80\xaf",
        b"\xf0\x80\x80\xaf",
        b"\xf8\x80\x80\x80\xaf",
        b"\xc1\xbf",
        b"\xe0\x9f\xbf",
        b"\xf0\x8f\xbf\xbf",
        b"\xc0\x80",
        b"\xe0\x80\x80",
        b"\xf0\x80\x80\x80",
    ] {
        refused(bad);
    }
}

#[test]
fn autobahn_6_20_and_6_21_surrogates() {
    for bad in [
        &b"\xed\xa0\x80"[..],
        b"\xed\xad\xbf",
        b"\xed\xbf\xbf",
        b"\xed\xa0\x80\xed\xb0\x80",
        b"\xed\xaf\xbf\xed\xbf\xbf",
    ] {
        refused(bad);
    }
}

#[test]
fn autobahn_6_22_and_6_23_characters_that_are_none_but_are_utf8() {
    for good in ["\u{fffe}", "\u{ffff}", "\u{1fffe}", "\u{10ffff}", "\u{fff9}", "\u{fffd}"] {
        accepted(good);
    }
}

#[test]
fn bytes_need_not_be_text() {
    let stream = frame(FIN | BINARY, b"\xff\xfe");
    assert_eq!(events(None, stream), [WsEvent::Message(Kind::Binary, vec![0xff, 0xfe])]);
}

#[test]
fn a_character_may_be_cut_by_compression_frames_and_input() {
    let text = KOSME.repeat(50);
    let packed = deflate::packed(text.as_bytes());
    let mut stream = Vec::new();
    for (at, byte) in packed.iter().enumerate() {
        stream.extend(frame(if at == 0 { RSV1 | TEXT } else { CONTINUE }, [*byte]));
    }
    stream.extend(frame(FIN | CONTINUE, ""));
    let found = ws_events(&options(Some(NO_TAKEOVER)), &stream, std::iter::repeat(3));
    assert!(found == [WsEvent::Message(Kind::Text, text.into_bytes())]);
}
