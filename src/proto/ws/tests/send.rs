//! What is sent: fragmentation, Close, and what an application may not say.

use super::*;
use crate::proto::ws::{BadMessage, Kind, Phase, Piece, Step};

fn encode(
    engine: &mut Ws,
    work: &mut Workspace,
    (data, kind, more): (&[u8], Kind, bool),
) -> Result<Vec<u8>, BadMessage> {
    let mut out = b"before".to_vec();
    let encoded = engine.encode_piece(Piece { data, kind, more }, work, &mut out);
    let out = out.strip_prefix(b"before").expect("only appended to").to_vec();
    assert!(encoded.is_ok() || out.is_empty());
    encoded.map(|()| out)
}

#[test]
fn each_piece_is_a_frame_and_the_first_says_the_kind() {
    let (mut engine, mut work) = engine(None);
    let mut send = |data: &[u8], more| {
        encode(&mut engine, &mut work, (data, Kind::Binary, more)).expect("valid")
    };
    assert_eq!(send(b"a", true), [BINARY, 1, b'a']);
    assert_eq!(send(b"", true), [CONTINUE, 0]);
    assert_eq!(send(b"b", false), [FIN | CONTINUE, 1, b'b']);
    assert_eq!(send(b"", false), [FIN | BINARY, 0]);
    assert_eq!(send(&[0; 126], false)[..4], [FIN | BINARY, 126, 0, 126]);
    assert_eq!(send(&[0; 65_536], false)[..10], [FIN | BINARY, 127, 0, 0, 0, 0, 0, 1, 0, 0]);
}

#[test]
fn a_message_does_not_change_its_kind() {
    let (mut engine, mut work) = engine(None);
    encode(&mut engine, &mut work, (b"a", Kind::Text, true)).expect("valid");
    let changed = encode(&mut engine, &mut work, (b"b", Kind::Binary, false));
    assert_eq!(changed, Err(BadMessage::KindChanged));
}

#[test]
fn text_that_is_not_utf8_is_not_sent() {
    let (mut engine, mut work) = engine(None);
    for (data, more) in [(&b"\xff"[..], false), (b"\xff", true), (b"\xce", false)] {
        let refused = encode(&mut engine, &mut work, (data, Kind::Text, more));
        assert_eq!(refused, Err(BadMessage::TextNotUtf8));
    }
    encode(&mut engine, &mut work, (b"\xce", Kind::Text, true)).expect("it may go on");
    encode(&mut engine, &mut work, (b"\xba", Kind::Text, false)).expect("and it does");
}

#[test]
fn a_close_waits_for_the_clients_and_drops_its_messages() {
    let now = origin();
    let mut engine = Ws::new(options(None), now);
    let mut work = Workspace::default();
    let mut out = Vec::new();
    engine.encode_close(Some((1000, b"done")), now, &mut out).expect("valid");
    assert_eq!(out, b"\x88\x06\x03\xe8done");
    assert_eq!(engine.phase(), Phase::Closing);
    let again = engine.encode_close(None, now, &mut out);
    assert_eq!(again, Err(BadMessage::Closing));
    let late = encode(&mut engine, &mut work, (b"late", Kind::Text, false));
    assert_eq!(late, Err(BadMessage::Closing));
    let stream = [
        frame(FIN | BINARY, vec![1; 200_000]),
        frame(TEXT, "half"),
        frame(FIN | CLOSE, b"\x03\xe8"),
    ]
    .concat();
    let step = engine.decode(&stream, &mut work);
    assert_eq!(step, Ok(Step::Close { consumed: stream.len(), code: 1000, reason: b"" }));
    assert_eq!(engine.phase(), Phase::Over);
    assert!(output(&mut engine).is_empty(), "it was said already");
}

#[test]
fn a_close_may_interrupt_a_message() {
    let (mut engine, mut work) = engine(Some(NO_TAKEOVER));
    encode(&mut engine, &mut work, (b"half", Kind::Text, true)).expect("valid");
    let mut out = Vec::new();
    engine.encode_close(Some((1012, b"")), origin(), &mut out).expect("valid");
    assert_eq!(out, b"\x88\x02\x03\xf4");
    assert!(engine.deflater.is_none());
}

#[test]
fn codes_and_reasons_that_may_not_be_sent_are_not() {
    let now = origin();
    let mut engine = Ws::new(options(None), now);
    let mut out = Vec::new();
    for code in [0, 999, 1004, 1005, 1006, 1015, 2999, 5000] {
        let refused = engine.encode_close(Some((code, b"")), now, &mut out);
        assert_eq!(refused, Err(BadMessage::CloseCode));
    }
    for reason in [&[b'x'; 124][..], b"\xff"] {
        let refused = engine.encode_close(Some((1000, reason)), now, &mut out);
        assert_eq!(refused, Err(BadMessage::CloseReason));
    }
    assert_eq!((engine.phase(), out.len()), (Phase::Open, 0));
    engine.encode_close(None, now, &mut out).expect("no code is fine");
    assert_eq!(out, [0x88, 0]);
}

#[test]
fn a_ping_is_answered_between_our_close_and_the_clients() {
    let now = origin();
    let mut engine = Ws::new(options(None), now);
    engine.encode_close(None, now, &mut Vec::new()).expect("valid");
    engine.decode(&frame(FIN | PING, "x"), &mut Workspace::default()).expect("valid");
    assert_eq!(output(&mut engine), [0x8a, 1, b'x']);
}
