//! However a stream is split, it means the same.

use proptest::{collection::vec, prelude::*, sample::select};

use super::*;
use crate::proto::fuzzing::ws_frames;

/// Frames, well-formed and not, so that random streams get far.
fn piece() -> impl Strategy<Value = Vec<u8>> {
    let first = select(vec![
        FIN | TEXT,
        FIN | BINARY,
        TEXT,
        CONTINUE,
        FIN | CONTINUE,
        FIN | PING,
        FIN | PONG,
    ]);
    let odd = select(vec![FIN | RSV1 | TEXT, RSV1 | BINARY, FIN | CLOSE, FIN | 3, PING]);
    let text = select(vec!["", "a", "\u{3ba}\u{1f79}", "\u{10ffff}", "{\"a\": [1, 2, 3]}"]);
    let plain = (first, text).prop_map(|(first, text)| frame(first, text));
    let large = (select(vec![FIN | BINARY, TEXT]), 120_usize..70_000)
        .prop_map(|(first, size)| frame(first, vec![b'x'; size]));
    let packed = (select(vec![FIN | RSV1 | TEXT, RSV1 | BINARY]), 0_usize..100_000)
        .prop_map(|(first, size)| frame(first, deflate::packed(&vec![b'y'; size])));
    let wild = (odd, vec(any::<u8>(), 0..6)).prop_map(|(first, data)| frame(first, data));
    let bytes = vec(any::<u8>(), 0..6);
    prop_oneof![8 => plain, 1 => large, 3 => packed, 1 => wild, 1 => bytes]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn splits_do_not_matter(
        choice in any::<u8>(),
        pieces in vec(piece(), 0..12),
        sizes in vec(1_usize..2000, 1..20),
    ) {
        let stream = pieces.concat();
        ws_frames(&[&[choice][..], &stream].concat());
        let options = options((choice & 1 != 0).then_some(TAKEOVER));
        let whole = ws_events(&options, &stream, std::iter::once(stream.len()));
        let split = ws_events(&options, &stream, sizes.into_iter().cycle());
        prop_assert!(whole == split);
    }

    #[test]
    fn any_bytes_hold_the_invariants(data in vec(any::<u8>(), 0..200)) {
        ws_frames(&data);
    }
}
