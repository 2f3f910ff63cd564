//! permessage-deflate: the examples of RFC 7692, and its limits. The other side is miniz.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};

use super::*;
use crate::{
    limits::{WS_DEFLATE_SIZE_MIN, WS_PIECE_SIZE_MAX, WS_SPARE_CODERS_MAX},
    proto::ws::{Kind, Piece, Step, Violation, deflate::FLUSH_END},
};

/// RFC 7692 §7.2.1 by another compressor; its context is the caller's.
pub(super) fn pack(compressor: &mut Compress, data: &[u8]) -> Vec<u8> {
    let mut packed = Vec::with_capacity(data.len() + data.len() / 8 + 100);
    compressor.compress_vec(data, &mut packed, FlushCompress::Sync).expect("it compresses");
    assert!(packed.ends_with(&FLUSH_END));
    packed.truncate(packed.len() - 4);
    packed
}

pub(super) fn packed(data: &[u8]) -> Vec<u8> {
    pack(&mut Compress::new(Compression::best(), false), data)
}

/// RFC 7692 §7.2.2 by another decompressor; its context is the caller's.
pub(super) fn unpack(decompressor: &mut Decompress, packed: &[u8]) -> Vec<u8> {
    let input = [packed, &FLUSH_END].concat();
    let begin = decompressor.total_in();
    let mut data = Vec::new();
    loop {
        data.reserve(64 * 1024);
        let used = usize::try_from(decompressor.total_in() - begin).expect("it fits");
        let full = data.capacity();
        decompressor
            .decompress_vec(&input[used..], &mut data, FlushDecompress::Sync)
            .expect("it decompresses");
        if data.len() < full {
            return data;
        }
    }
}

fn hello() -> WsEvent {
    WsEvent::Message(Kind::Text, b"Hello".to_vec())
}

#[test]
fn rfc_7692_7_2_3_1_a_message_compressed_using_one_block() {
    let packed = [0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00];
    assert_eq!(events(Some(NO_TAKEOVER), frame(FIN | RSV1 | TEXT, packed)), [hello()]);
    let fragments =
        [frame(RSV1 | TEXT, &packed[..3]), frame(FIN | CONTINUE, &packed[3..])].concat();
    assert_eq!(events(Some(NO_TAKEOVER), fragments), [hello()]);
}

#[test]
fn rfc_7692_7_2_3_2_sharing_the_window() {
    let first = frame(FIN | RSV1 | TEXT, [0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00]);
    let second = frame(FIN | RSV1 | TEXT, [0xf2, 0x00, 0x11, 0x00, 0x00]);
    let stream = [first, second].concat();
    assert_eq!(events(Some(TAKEOVER), &stream), [hello(), hello()]);
    let refusal = WsEvent::Violated(Violation::DeflateMalformed);
    assert_eq!(events(Some(NO_TAKEOVER), stream), [hello(), refusal]);
}

#[test]
fn rfc_7692_7_2_3_3_a_block_without_compression() {
    let packed = [0x00, 0x05, 0x00, 0xfa, 0xff, 0x48, 0x65, 0x6c, 0x6c, 0x6f, 0x00];
    assert_eq!(events(Some(NO_TAKEOVER), frame(FIN | RSV1 | TEXT, packed)), [hello()]);
}

#[test]
fn rfc_7692_7_2_3_4_a_block_with_bfinal() {
    let packed = [0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x00];
    assert_eq!(events(Some(NO_TAKEOVER), frame(FIN | RSV1 | TEXT, packed)), [hello()]);
}

#[test]
fn rfc_7692_7_2_3_5_two_blocks_in_one_message() {
    let packed = [0xf2, 0x48, 0x05, 0x00, 0x00, 0x00, 0xff, 0xff, 0xca, 0xc9, 0xc9, 0x07, 0x00];
    assert_eq!(events(Some(NO_TAKEOVER), frame(FIN | RSV1 | TEXT, packed)), [hello()]);
}

#[test]
fn rfc_7692_7_2_3_6_an_empty_message() {
    let empty = WsEvent::Message(Kind::Text, Vec::new());
    let stream = frame(FIN | RSV1 | TEXT, [0x00]);
    assert_eq!(events(Some(TAKEOVER), [&stream[..], &stream].concat()), [empty.clone(), empty]);
}

#[test]
fn messages_need_not_be_compressed_where_that_was_negotiated() {
    assert_eq!(events(Some(NO_TAKEOVER), frame(FIN | TEXT, "Hello")), [hello()]);
}

#[test]
fn what_is_not_deflate_is_refused() {
    let stream = frame(FIN | RSV1 | BINARY, [0xff, 0xff, 0xff]);
    let refusal = [WsEvent::Violated(Violation::DeflateMalformed)];
    assert_eq!(events(Some(NO_TAKEOVER), stream), refusal);
}

#[test]
fn a_kibibyte_that_inflates_beyond_the_limit_is_refused_within_one_piece() {
    let limit = 10_000;
    let bomb = packed(&vec![0; 1_000_000]);
    assert!(bomb.len() < 1100, "{}", bomb.len());
    let options = Options { message_size_max: limit, ..options(Some(NO_TAKEOVER)) };
    let mut engine = Ws::new(options, origin());
    let mut work = Workspace::default();
    let refused = engine.decode(&frame(FIN | RSV1 | BINARY, &bomb), &mut work);
    assert_eq!(refused, Err(Violation::MessageTooLarge));
    // The workspace is all there is to inflate into, and it does not grow.
    assert_eq!(work.piece.len(), WS_PIECE_SIZE_MAX);
    let fits = packed(&vec![0; 10_000]);
    let stream = frame(FIN | RSV1 | BINARY, fits);
    let found = ws_events(&options, &stream, std::iter::once(stream.len()));
    assert!(found == [WsEvent::Message(Kind::Binary, vec![0; 10_000])]);
}

#[test]
fn blocks_that_inflate_to_nothing_are_limited_too() {
    let options = Options { message_size_max: 100, ..options(Some(NO_TAKEOVER)) };
    let empty_blocks = [0, 0, 0, 0xff, 0xff].repeat(100);
    let stream = frame(FIN | RSV1 | BINARY, empty_blocks);
    let found = ws_events(&options, &stream, std::iter::once(stream.len()));
    assert_eq!(found, [WsEvent::Violated(Violation::MessageTooLarge)]);
}

#[test]
fn a_large_message_inflates_in_pieces() {
    let (mut engine, mut work) = engine(Some(NO_TAKEOVER));
    let stream = frame(FIN | RSV1 | BINARY, packed(&vec![0; 200_000]));
    let (mut at, mut size) = (0, 0);
    loop {
        match engine.decode(&stream[at..], &mut work) {
            Ok(Step::Piece { consumed, data, more, .. }) => {
                assert!(data.len() <= WS_PIECE_SIZE_MAX);
                at += consumed;
                size += data.len();
                if !more {
                    break;
                }
            }
            other => panic!("{:.200}", format!("{other:?}")),
        }
    }
    assert_eq!((at, size), (stream.len(), 200_000));
}

fn sent(engine: &mut Ws, work: &mut Workspace, data: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let piece = Piece { data, kind: Kind::Binary, more: false };
    engine.encode_piece(piece, work, &mut out).expect("valid");
    out
}

#[test]
fn a_message_is_compressed_where_it_pays() {
    let (mut engine, mut work) = engine(Some(NO_TAKEOVER));
    let out = sent(&mut engine, &mut work, &[b'a'; WS_DEFLATE_SIZE_MIN]);
    assert_eq!(out[0], FIN | RSV1 | BINARY);
    assert!(out.len() < 20);
    let short = sent(&mut engine, &mut work, &[b'a'; WS_DEFLATE_SIZE_MIN - 1]);
    assert_eq!(short[0], FIN | BINARY);
    // De Bruijn-like bytes: nothing repeats.
    let dense: Vec<u8> = (0..=255).collect();
    let out = sent(&mut engine, &mut work, &dense);
    assert_eq!((out[0], out.len()), (FIN | BINARY, 4 + 256));
}

#[test]
fn context_takeover_makes_the_second_message_shorter_and_only_where_it_is_allowed() {
    let mut message: Vec<u8> = Vec::new();
    let mut seed = 1_u32;
    while message.len() < 400 {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        message.push(b'a' + u8::try_from(seed >> 28).expect("four bits"));
    }
    let (mut with, mut work) = engine(Some(TAKEOVER));
    let (first, second) =
        (sent(&mut with, &mut work, &message), sent(&mut with, &mut work, &message));
    assert!(second.len() * 4 < first.len(), "{} then {}", first.len(), second.len());
    let mut context = Decompress::new(false);
    assert!(unpack(&mut context, &first[4..]) == message);
    assert!(unpack(&mut context, &second[2..]) == message);
    let (mut without, mut work) = engine(Some(NO_TAKEOVER));
    let first = sent(&mut without, &mut work, &message);
    assert_eq!(sent(&mut without, &mut work, &message), first);
}

#[test]
fn a_smaller_window_is_kept_to() {
    let deflate = Deflate { server_window_bits: 9, ..NO_TAKEOVER };
    // The same 300 bytes far apart: a window of 512 bytes cannot refer back.
    let mut seed = 7_u32;
    let mut noise = |size: usize| -> Vec<u8> {
        let mut next = || {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            u8::try_from(seed >> 24).expect("a byte")
        };
        (0..size).map(|_| next()).collect()
    };
    let (repeated, between) = (noise(300), noise(1000));
    let data = [&repeated[..], &between, &repeated].concat();
    let (mut narrow, mut work) = engine(Some(deflate));
    let (mut wide, _) = engine(Some(NO_TAKEOVER));
    let narrow = sent(&mut narrow, &mut work, &data).len();
    let wide = sent(&mut wide, &mut work, &data).len();
    assert!(wide + 200 < narrow, "{wide} with 15 bits, {narrow} with 9");
}

#[test]
fn a_message_in_pieces_is_compressed_as_one() {
    let (mut engine, mut work) = engine(Some(NO_TAKEOVER));
    let mut out = Vec::new();
    for at in 0..10 {
        let piece = Piece { data: &[b'z'; 1000], kind: Kind::Text, more: at < 9 };
        engine.encode_piece(piece, &mut work, &mut out).expect("valid");
    }
    let (mut firsts, mut packed) = (Vec::new(), Vec::new());
    let mut rest = &out[..];
    while let [first, len, payload @ ..] = rest {
        let (payload, behind) = payload.split_at(usize::from(*len));
        firsts.push(*first);
        packed.extend_from_slice(payload);
        rest = behind;
    }
    assert!(packed.len() < 100);
    assert_eq!(firsts[0] | FIN, FIN | RSV1 | TEXT, "the first says that it is compressed");
    assert!(firsts[1..].iter().all(|first| first & !FIN == CONTINUE), "{firsts:?}");
    assert_eq!(firsts.iter().filter(|first| **first & FIN != 0).count(), 1);
    assert!(unpack(&mut Decompress::new(false), &packed) == [b'z'; 10_000]);
    assert!(engine.deflater.is_none(), "without takeover nothing is kept");
}

#[test]
fn coders_are_kept_by_the_shard_and_not_without_bound() {
    let mut work = Workspace::default();
    let many: Vec<_> = (0..WS_SPARE_CODERS_MAX + 5)
        .map(|_| (work.take_inflater(), work.take_deflater(15)))
        .collect();
    for (inflater, deflater) in many {
        work.keep_inflater(inflater);
        work.keep_deflater(deflater);
    }
    let kept = format!("Workspace {{ inflaters: {0}, deflaters: {0}, .. }}", WS_SPARE_CODERS_MAX);
    assert_eq!(format!("{work:?}"), kept);
    let (mut engine, _) = engine(Some(NO_TAKEOVER));
    let stream = frame(FIN | RSV1 | TEXT, packed(b"Hello"));
    engine.decode(&stream, &mut work).expect("valid");
    assert!(engine.inflater.is_none(), "an idle connection has no window");
}
