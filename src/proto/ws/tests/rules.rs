//! Framing: the examples of RFC 6455, and each rule by name.

use super::*;
use crate::{
    limits::{WS_CONTROL_SIZE_MAX, WS_PIECE_SIZE_MAX, WS_PONGS_MAX},
    proto::ws::{Kind, Phase, Step, Violation},
};

fn text(text: &str) -> WsEvent {
    WsEvent::Message(Kind::Text, text.as_bytes().to_vec())
}

#[track_caller]
fn refused(stream: impl AsRef<[u8]>, violation: Violation) {
    assert_eq!(events(None, stream), [WsEvent::Violated(violation)]);
}

#[test]
fn rfc_6455_5_7_a_single_frame_masked_text_message() {
    let stream = [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
    assert_eq!(events(None, stream), [text("Hello")]);
}

#[test]
fn rfc_6455_5_7_a_fragmented_message_in_both_directions() {
    let stream = [frame(TEXT, "Hel"), frame(FIN | CONTINUE, "lo")].concat();
    assert_eq!(events(None, stream), [text("Hello")]);
    let (mut engine, mut work) = engine(None);
    let mut out = Vec::new();
    for (data, more) in [("Hel", true), ("lo", false)] {
        let piece = crate::proto::ws::Piece { data: data.as_bytes(), kind: Kind::Text, more };
        engine.encode_piece(piece, &mut work, &mut out).expect("valid");
    }
    assert_eq!(out, [0x01, 0x03, 0x48, 0x65, 0x6c, 0x80, 0x02, 0x6c, 0x6f]);
}

#[test]
fn rfc_6455_5_7_a_ping_and_its_masked_response() {
    let (mut engine, mut work) = engine(None);
    engine.decode(&frame(FIN | PING, "Hello"), &mut work).expect("valid");
    assert_eq!(output(&mut engine), [0x8a, 0x05, 0x48, 0x65, 0x6c, 0x6c, 0x6f]);
    let pong = [0x8a, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
    assert_eq!(engine.decode(&pong, &mut work), Ok(Step::NeedMore { consumed: 11 }));
}

#[test]
fn rfc_6455_5_7_256_bytes_and_64_kib_of_binary() {
    for size in [256, 65_536] {
        let data = vec![7; size];
        let stream = frame(FIN | BINARY, &data);
        assert_eq!(stream[1], if size == 256 { 0xfe } else { 0xff });
        assert!(events(None, stream) == [WsEvent::Message(Kind::Binary, data)]);
    }
}

#[test]
fn an_empty_message_is_a_message() {
    assert_eq!(events(None, frame(FIN | TEXT, "")), [text("")]);
    let stream = [frame(TEXT, ""), frame(CONTINUE, ""), frame(FIN | CONTINUE, "")].concat();
    assert_eq!(events(None, stream), [text("")]);
}

#[test]
fn control_frames_may_come_between_fragments() {
    let stream = [
        frame(TEXT, "a"),
        frame(FIN | PING, "p"),
        frame(CONTINUE, "b"),
        frame(FIN | PONG, ""),
        frame(FIN | CONTINUE, "c"),
    ]
    .concat();
    assert_eq!(events(None, &stream), [text("abc")]);
    let (mut engine, mut work) = engine(None);
    let Ok(Step::Piece { data: b"abc", more: false, .. }) = engine.decode(&stream, &mut work)
    else {
        panic!("fragments in one input are one piece");
    };
    assert_eq!(output(&mut engine), [0x8a, 1, b'p']);
}

#[test]
fn a_frame_that_is_not_masked_is_refused() {
    refused([0x81, 0x05, b'H', b'e', b'l', b'l', b'o'], Violation::FrameUnmasked);
    refused([0x89, 0x00], Violation::FrameUnmasked);
}

#[test]
fn reserved_bits_are_refused() {
    for bit in [0x40, 0x20, 0x10] {
        for opcode in [TEXT, BINARY, CLOSE, PING, PONG] {
            refused(frame(FIN | bit | opcode, ""), Violation::ReservedBit);
        }
    }
    let deflated = [frame(RSV1 | TEXT, "a"), frame(FIN | RSV1 | CONTINUE, "b")].concat();
    let refusal = [WsEvent::Violated(Violation::ReservedBit)];
    assert_eq!(events(Some(NO_TAKEOVER), deflated), refusal);
    assert_eq!(events(Some(NO_TAKEOVER), frame(FIN | RSV1 | PING, "")), refusal);
    assert_eq!(events(Some(NO_TAKEOVER), frame(FIN | 0x20 | TEXT, "")), refusal);
}

#[test]
fn reserved_opcodes_are_refused() {
    for opcode in [3, 4, 5, 6, 7, 11, 12, 13, 14, 15] {
        refused(frame(FIN | opcode, ""), Violation::ReservedOpcode);
    }
}

#[test]
fn a_length_is_written_in_the_fewest_bytes() {
    let cut = |head: &[u8]| [head, &MASK].concat();
    refused(cut(&[0x82, 0xfe, 0, 125]), Violation::LengthMalformed);
    refused(cut(&[0x82, 0xff, 0, 0, 0, 0, 0, 0, 0xff, 0xff]), Violation::LengthMalformed);
    refused(cut(&[0x82, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0]), Violation::LengthMalformed);
}

#[test]
fn control_frames_are_whole_and_short() {
    for opcode in [CLOSE, PING, PONG] {
        refused(frame(opcode, ""), Violation::ControlFragmented);
        refused(frame(FIN | opcode, [b'a'; 126]), Violation::ControlTooLong);
    }
    // From the header alone: what follows need not arrive.
    refused([&[0x89, 0xfe, 0, 126][..], &MASK].concat(), Violation::ControlTooLong);
}

#[test]
fn fragments_come_in_order() {
    refused(frame(FIN | CONTINUE, ""), Violation::ContinuationUnexpected);
    refused(frame(CONTINUE, ""), Violation::ContinuationUnexpected);
    for opcode in [FIN | TEXT, BINARY] {
        refused([frame(TEXT, "a"), frame(opcode, "b")].concat(), Violation::ContinuationExpected);
    }
    let after = [frame(FIN | TEXT, "a"), frame(FIN | CONTINUE, "b")].concat();
    let refusal = WsEvent::Violated(Violation::ContinuationUnexpected);
    assert_eq!(events(None, after), [text("a"), refusal]);
}

#[test]
fn a_close_is_echoed_and_ends_everything() {
    let (mut engine, mut work) = engine(None);
    let stream = [frame(FIN | CLOSE, b"\x03\xe9bye"), frame(FIN | PING, "late")].concat();
    let step = engine.decode(&stream, &mut work);
    assert_eq!(step, Ok(Step::Close { consumed: 11, code: 1001, reason: b"bye" }));
    assert_eq!(engine.phase(), Phase::Over);
    assert_eq!(output(&mut engine), b"\x88\x05\x03\xe9bye");
    assert_eq!(engine.decode(&stream[11..], &mut work), Ok(Step::NeedMore { consumed: 10 }));
    assert!(output(&mut engine).is_empty());
    assert_eq!(engine.poll_timeout(), None);
}

#[test]
fn a_close_without_a_code_is_1005_and_is_answered_without_one() {
    let (mut engine, mut work) = engine(None);
    let step = engine.decode(&frame(FIN | CLOSE, ""), &mut work);
    assert_eq!(step, Ok(Step::Close { consumed: 6, code: 1005, reason: b"" }));
    assert_eq!(output(&mut engine), [0x88, 0]);
}

#[test]
fn a_close_inside_a_message_drops_what_there_is_of_it() {
    let stream = [frame(TEXT, "half"), frame(FIN | CLOSE, b"\x03\xe8")].concat();
    assert_eq!(events(None, stream), [WsEvent::Close(1000, Vec::new())]);
}

#[test]
fn a_close_body_is_a_code_and_utf8() {
    refused(frame(FIN | CLOSE, [3]), Violation::CloseMalformed);
    refused(frame(FIN | CLOSE, [0x03, 0xe8, 0xff]), Violation::CloseReasonNotUtf8);
    // The reason cannot go on in another frame.
    refused(frame(FIN | CLOSE, [0x03, 0xe8, 0xce]), Violation::CloseReasonNotUtf8);
    let longest = [&1000_u16.to_be_bytes()[..], &[b'x'; WS_CONTROL_SIZE_MAX - 2]].concat();
    let expected = WsEvent::Close(1000, vec![b'x'; 123]);
    assert_eq!(events(None, frame(FIN | CLOSE, longest)), [expected]);
}

#[test]
fn close_codes_are_those_that_may_be_sent() {
    for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535_u16] {
        refused(frame(FIN | CLOSE, code.to_be_bytes()), Violation::CloseCodeReserved);
    }
    for code in [1000, 1001, 1002, 1003, 1007, 1011, 1012, 1014, 3000, 3999, 4000, 4999_u16] {
        let expected = WsEvent::Close(code, Vec::new());
        assert_eq!(events(None, frame(FIN | CLOSE, code.to_be_bytes())), [expected]);
    }
}

#[test]
fn a_violation_is_told_in_a_close_with_its_code() {
    let (mut engine, mut work) = engine(None);
    assert_eq!(engine.decode(&[0x81, 0], &mut work), Err(Violation::FrameUnmasked));
    assert_eq!(output(&mut engine), b"\x88\x15\x03\xeaframe is not masked");
    assert_eq!(engine.phase(), Phase::Over);
}

#[test]
fn a_message_that_will_be_too_large_is_refused_from_its_header() {
    let limit = 1_000_000_u64;
    let header = |first: u8, size: u64| [&[first, 0xff][..], &size.to_be_bytes(), &MASK].concat();
    refused(header(FIN | BINARY, limit + 1), Violation::MessageTooLarge);
    refused(header(FIN | BINARY, u64::MAX / 2), Violation::MessageTooLarge);
    let second = [frame(BINARY, "1"), header(FIN | CONTINUE, limit)].concat();
    refused(second, Violation::MessageTooLarge);
    let data = vec![0; 1_000_000];
    let fits = events(None, frame(FIN | BINARY, &data));
    assert!(fits == [WsEvent::Message(Kind::Binary, data)]);
}

#[test]
fn a_large_message_passes_in_pieces_while_it_arrives() {
    let (mut engine, mut work) = engine(None);
    let stream = frame(FIN | BINARY, vec![9; 200_000]);
    // Nothing is said before a byte of it is there, and then all that is there.
    assert_eq!(engine.decode(&stream[..10], &mut work), Ok(Step::NeedMore { consumed: 0 }));
    assert_eq!(engine.decode(&stream[..14], &mut work), Ok(Step::NeedMore { consumed: 14 }));
    let mut at = 14;
    let mut sizes = Vec::new();
    for end in [15, 100_000, 200_014] {
        while at < end {
            match engine.decode(&stream[at..end], &mut work) {
                Ok(Step::Piece { consumed, data, kind: Kind::Binary, more }) => {
                    assert_eq!(more, at + consumed < 200_014);
                    sizes.push(data.len());
                    at += consumed;
                }
                other => panic!("{:.200}", format!("{other:?}")),
            }
        }
    }
    let max = WS_PIECE_SIZE_MAX;
    assert_eq!(sizes, [1, max, 99_985 - max, max, 100_014 - max]);
    let whole = frame(FIN | BINARY, vec![9; max]);
    let step = engine.decode(&whole, &mut work);
    assert!(matches!(step, Ok(Step::Piece { more: false, .. })), "one that fills a piece is one");
}

#[test]
fn a_flood_of_tiny_fragments_becomes_one_piece_and_no_output() {
    let (mut engine, mut work) = engine(None);
    let mut stream = frame(TEXT, "");
    for _ in 0..10_000 {
        stream.extend(frame(CONTINUE, "x"));
        stream.extend(frame(CONTINUE, ""));
    }
    match engine.decode(&stream, &mut work) {
        Ok(Step::Piece { consumed, data, more: true, .. }) => {
            assert_eq!((consumed, data.len()), (stream.len(), 10_000));
        }
        other => panic!("{:.200}", format!("{other:?}")),
    }
    assert!(!engine.has_output());
}

#[test]
fn of_a_flood_of_pings_the_latest_are_answered_when_the_client_reads() {
    let (mut engine, mut work) = engine(None);
    let stream: Vec<u8> = (0..1000).flat_map(|n| frame(FIN | PING, format!("{n:0125}"))).collect();
    let step = engine.decode(&stream, &mut work);
    assert_eq!(step, Ok(Step::NeedMore { consumed: stream.len() }));
    let out = output(&mut engine);
    assert_eq!(out.len(), WS_PONGS_MAX * (2 + WS_CONTROL_SIZE_MAX));
    assert!(out.ends_with(b"999"), "RFC 6455 §5.5.3: the latest will do");
}
