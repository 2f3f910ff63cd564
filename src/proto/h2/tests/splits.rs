//! However a connection's bytes are split, its requests are the same.

use proptest::{collection::vec, prelude::*, sample::select};

use super::raw::{
    DATA, END_HEADERS, END_STREAM, HEADERS, POST, block, frame, settings, settings_ack,
};
use crate::proto::{
    fuzzing::{h2_events, h2_session},
    h2::PREFACE,
};

/// One request: its frames, in the order in which they must come.
#[derive(Clone, Debug)]
enum Kind {
    Get,
    Post(Vec<Vec<u8>>),
    /// With trailers behind the body.
    Trailed(Vec<u8>),
    /// A rule of ours is broken.
    Bad,
}

fn kinds() -> impl Strategy<Value = Kind> {
    prop_oneof![
        3 => Just(Kind::Get),
        3 => vec(vec(any::<u8>(), 0..40), 1..5).prop_map(Kind::Post),
        1 => vec(any::<u8>(), 0..40).prop_map(Kind::Trailed),
        1 => Just(Kind::Bad),
    ]
}

fn frames(kind: &Kind, stream: u32) -> Vec<Vec<u8>> {
    let head = |flags, changes: &[(&str, &str)]| {
        frame(HEADERS, END_HEADERS | flags, stream, &block(&[&POST[..], changes].concat()))
    };
    let path = format!("{stream}");
    match kind {
        Kind::Get => vec![head(END_STREAM, &[("x-stream", &path)])],
        Kind::Post(pieces) => {
            let mut frames = vec![head(0, &[("x-stream", &path)])];
            let last = pieces.len() - 1;
            frames.extend(pieces.iter().enumerate().map(|(at, piece)| {
                frame(DATA, if at == last { END_STREAM } else { 0 }, stream, piece)
            }));
            frames
        }
        Kind::Trailed(body) => vec![
            head(0, &[]),
            frame(DATA, 0, stream, body),
            frame(HEADERS, END_HEADERS | END_STREAM, stream, &block(&[("x-sum", "1")])),
        ],
        Kind::Bad => vec![head(END_STREAM, &[("host", "b")])],
    }
}

/// Requests whose heads come in order and whose bodies are mixed as `turns` say.
fn stream(kinds: &[Kind], turns: &[usize]) -> Vec<u8> {
    let mut out = [&PREFACE[..], &settings(&[]), &settings_ack()].concat();
    let mut waiting: Vec<std::vec::IntoIter<Vec<u8>>> = Vec::new();
    for (at, kind) in kinds.iter().enumerate() {
        let id = u32::try_from(2 * at + 1).unwrap();
        let mut frames = frames(kind, id).into_iter();
        out.extend(frames.next().unwrap());
        waiting.push(frames);
    }
    let mut turns = turns.iter().cycle();
    while !waiting.is_empty() {
        let at = turns.next().unwrap() % waiting.len();
        match waiting[at].next() {
            Some(frame) => out.extend(frame),
            None => drop(waiting.remove(at)),
        }
    }
    out
}

/// Pieces of a connection, well-formed and not, so that random ones get far.
fn pieces() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        8 => (select(vec![0_u8, 1, 2, 3, 4, 6, 7, 8, 9, 0xbb]), any::<u8>(), 0..6_u32, vec(any::<u8>(), 0..20))
            .prop_map(|(kind, flags, stream, payload)| frame(kind, flags, stream, &payload)),
        8 => (kinds(), 0..9_u32).prop_map(|(kind, stream)| frames(&kind, 2 * stream + 1).concat()),
        4 => (0..9_u32, 0..20_u32).prop_map(|(stream, by)| super::raw::window_update(stream, by)),
        4 => (0..9_u32).prop_map(super::raw::rst_stream),
        1 => vec(any::<u8>(), 0..12),
    ];
    vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn splits_do_not_matter(
        kinds in vec(kinds(), 1..12),
        turns in vec(any::<usize>(), 1..20),
        size in 1_usize..200,
    ) {
        let stream = stream(&kinds, &turns);
        let whole = h2_events(&stream, stream.len());
        prop_assert_eq!(whole.len(), kinds.len(), "each request is one");
        for (kind, seen) in kinds.iter().zip(whole.values()) {
            match kind {
                Kind::Post(pieces) => prop_assert_eq!(&pieces.concat(), &seen.body),
                Kind::Trailed(body) => prop_assert_eq!(body, &seen.body),
                Kind::Get => prop_assert!(seen.body.is_empty()),
                Kind::Bad => prop_assert!(seen.refused.is_some()),
            }
            prop_assert!(seen.ended ^ seen.refused.is_some());
        }
        prop_assert_eq!(&whole, &h2_events(&stream, size));
    }

    #[test]
    fn any_bytes_hold_the_invariants(data in vec(any::<u8>(), 0..200), pieces in pieces(), size: u8) {
        h2_session(&data);
        h2_session(&[&[size], &pieces[..]].concat());
    }
}
