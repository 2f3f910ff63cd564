//! However a stream is split, it means the same.

use proptest::{collection::vec, prelude::*, sample::select};

use crate::proto::fuzzing::{Event, h1_chunked, h1_events, h1_head};

/// Pieces that requests are made of, well-formed and not, so that random streams get far.
const PIECES: &[&str] = &[
    "GET / HTTP/1.1\r\n",
    "POST /a%20b?c HTTP/1.1\r\n",
    "HEAD http://b/ HTTP/1.0\r\n",
    "OPTIONS * HTTP/1.1\r\n",
    "Host: a\r\n",
    "Host: a\r\n\r\n",
    "Content-Length: 3\r\n",
    "Transfer-Encoding: chunked\r\n",
    "\r\n",
    "\r\n\r\n",
    "Connection: close\r\n",
    "Connection: keep-alive\r\n",
    "Expect: 100-continue\r\n",
    "X: y\r\n",
    " folded\r\n",
    "\n",
    "\r",
    "3\r\nabc\r\n",
    "0\r\n\r\n",
    "1;ext=\"a\"\r\nz\r\n",
    "0\r\nTrailer: x\r\n\r\n",
    "abc",
    "ffffffffffffffff\r\n",
    "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc",
    "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
];

fn stream() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        8 => select(PIECES).prop_map(|piece| piece.as_bytes().to_vec()),
        1 => vec(any::<u8>(), 0..6),
    ];
    vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn splits_do_not_matter(stream in stream(), sizes in vec(1_usize..40, 1..20)) {
        let whole = h1_events(&stream, std::iter::once(stream.len()));
        let split = h1_events(&stream, sizes.into_iter().cycle());
        prop_assert_eq!(whole, split);
    }

    #[test]
    fn any_bytes_hold_the_invariants(data in vec(any::<u8>(), 0..200), stream in stream()) {
        h1_head(&data);
        h1_head(&stream);
        h1_chunked(&data);
        h1_chunked(&stream);
    }

    #[test]
    fn what_was_framed_is_what_comes_out(bodies in vec(vec(any::<u8>(), 0..60), 1..5), chunk in 1_usize..20) {
        let mut stream = Vec::new();
        let mut expected = Vec::new();
        for (index, body) in bodies.iter().enumerate() {
            if index % 2 == 0 {
                stream.extend_from_slice(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
                for piece in body.chunks(chunk) {
                    stream.extend_from_slice(format!("{:X}\r\n", piece.len()).as_bytes());
                    stream.extend_from_slice(piece);
                    stream.extend_from_slice(b"\r\n");
                }
                stream.extend_from_slice(b"0\r\n\r\n");
            } else {
                let head = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", body.len());
                stream.extend_from_slice(head.as_bytes());
                stream.extend_from_slice(body);
            }
            expected.push(body.clone());
        }
        let mut found = Vec::new();
        let mut body = Vec::new();
        for event in h1_events(&stream, std::iter::repeat(chunk)) {
            match event {
                Event::Body(data) => body = data,
                Event::End => found.push(std::mem::take(&mut body)),
                Event::Head(_) => {}
                Event::Refused(refusal) => panic!("{refusal:?}"),
            }
        }
        prop_assert_eq!(found, expected);
    }
}
