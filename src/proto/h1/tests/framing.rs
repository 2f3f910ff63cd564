//! Where a body ends: every way in which two readers could disagree, and what becomes of it.

use super::*;
use crate::{
    limits::{CHUNK_EXTENSIONS_SIZE_MAX, TRAILERS_SIZE_MAX},
    proto::head::BodyLength,
};

fn post(fields: &str) -> String {
    format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n")
}

#[test]
fn a_sized_body_ends_where_it_says() {
    let r = accepted(post("Content-Length: 5\r\n") + "helloGET /");
    assert_eq!(
        (r.head.body, &r.body[..], &r.rest[..]),
        (BodyLength::Known(5), &b"hello"[..], &b"GET /"[..])
    );
    assert_eq!(accepted(post("Content-Length: 0\r\n")).head.body, BodyLength::Empty);
    assert!(decode(post("Content-Length: 5\r\n") + "hell").expect("accepted").is_none());
}

#[test]
fn content_length_beside_transfer_encoding_is_refused() {
    refused(post("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"), Refusal::LengthWithCoding);
    refused(post("Transfer-Encoding: chunked\r\nContent-Length: 0\r\n"), Refusal::LengthWithCoding);
    refused(post("Transfer-Encoding: gzip\r\nContent-Length: 5\r\n"), Refusal::LengthWithCoding);
}

#[test]
fn repeated_content_length_is_refused_even_if_equal() {
    refused(post("Content-Length: 5\r\nContent-Length: 5\r\n"), Refusal::LengthRepeated);
    refused(post("Content-Length: 5\r\ncontent-length: 6\r\n"), Refusal::LengthRepeated);
}

#[test]
fn content_length_is_one_run_of_digits() {
    for value in [
        "",
        "+5",
        "-5",
        "5, 5",
        "5,6",
        "0x5",
        "5 5",
        "5;",
        "5.0",
        "\"5\"",
        "18446744073709551616",
        "99999999999999999999999999",
        "5_0",
    ] {
        refused(post(&format!("Content-Length: {value}\r\n")), Refusal::LengthMalformed);
    }
}

#[test]
fn content_length_above_the_limit_is_refused_from_the_head() {
    refused(post("Content-Length: 1001\r\n"), Refusal::BodyTooLarge);
    refused(post("Content-Length: 18446744073709551615\r\n"), Refusal::BodyTooLarge);
}

#[test]
fn underscores_do_not_stand_for_dashes() {
    let r = accepted(post("Content_Length: 5\r\nTransfer_Encoding: chunked\r\n"));
    assert_eq!(r.head.body, BodyLength::Empty);
}

#[test]
fn unknown_transfer_codings_are_not_implemented() {
    for value in ["gzip", "identity", "gzip, chunked", "xchunked", "gzip;q=1, chunked", "chunkedx"]
    {
        refused(post(&format!("Transfer-Encoding: {value}\r\n")), Refusal::CodingUnknown);
    }
    refused(
        post("Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n"),
        Refusal::CodingUnknown,
    );
}

#[test]
fn chunked_is_last_and_once_and_plain() {
    for value in [
        "chunked, identity",
        "chunked, gzip",
        "chunked, chunked",
        "gzip, chunked, chunked",
        "",
        ",",
        "chunked,",
        ",chunked",
        "chunked;a=b",
        "chunked ;",
        "\"chunked\"",
        "chun ked",
        "'chunked",
        "chunked:",
    ] {
        let request = post(&format!("Transfer-Encoding: {value}\r\n"));
        assert!(
            matches!(decode(&request), Err(Refusal::CodingMalformed | Refusal::CodingUnknown)),
            "{value:?}"
        );
    }
    refused(post("Transfer-Encoding: chunked, identity\r\n"), Refusal::CodingMalformed);
    refused(
        post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"),
        Refusal::CodingMalformed,
    );
    refused(
        post("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n"),
        Refusal::CodingMalformed,
    );
    refused(post("Transfer-Encoding: \x0bchunked\r\n"), Refusal::FieldValueMalformed);
    refused(post("Transfer-Encoding : chunked\r\n"), Refusal::FieldNameMalformed);
    let r = accepted(post("Transfer-Encoding:\t CHUNKED \r\n") + "0\r\n\r\n");
    assert_eq!(r.head.body, BodyLength::Unknown);
}

#[test]
fn http_1_0_has_no_transfer_codings() {
    refused("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", Refusal::CodingInHttp10);
    refused("POST / HTTP/1.0\r\nTransfer-Encoding: gzip\r\n\r\n", Refusal::CodingInHttp10);
}

#[test]
fn chunks_are_joined_and_trailers_dropped() {
    let r = accepted(chunked(
        "5\r\nhello\r\n00a;x=\"y\";z\r\n, chunked!\r\n0;last\r\nX-Sum: 1\r\nY:\r\n\r\nGET",
    ));
    assert_eq!(r.body, b"hello, chunked!");
    assert_eq!(r.rest, b"GET");
    assert_eq!(r.field("x-sum"), None);
}

#[test]
fn chunk_sizes_are_plain_hexadecimal() {
    for size in [
        "",
        " 5",
        "5 ",
        "5\t",
        "+5",
        "-5",
        "0x5",
        "5h",
        "5_0",
        "\u{b2}",
        ";a",
        "5 ;a",
        "00000000000000005",
    ] {
        refused(chunked(&format!("{size}\r\nhello\r\n0\r\n\r\n")), Refusal::ChunkMalformed);
    }
    accepted(chunked("0000000000000005\r\nhello\r\n0\r\n\r\n"));
}

#[test]
fn a_chunk_size_that_would_overflow_is_too_large() {
    refused(chunked("ffffffffffffffff\r\n"), Refusal::BodyTooLarge);
    refused(chunked("1\r\na\r\nffffffffffffffff\r\n"), Refusal::BodyTooLarge);
    refused(chunked("10000000000000000\r\n"), Refusal::ChunkMalformed);
}

#[test]
fn a_chunked_body_above_the_limit_is_refused_where_it_exceeds() {
    let most = format!("3e7\r\n{}\r\n", "a".repeat(999));
    accepted(chunked(&format!("{most}1\r\nb\r\n0\r\n\r\n")));
    refused(chunked(&format!("{most}2\r\n")), Refusal::BodyTooLarge);
}

#[test]
fn a_chunk_ends_in_crlf() {
    for body in ["5\r\nhelloX\r\n", "5\r\nhello\n0\r\n\r\n", "5\r\nhello\rX", "5\r\nhello0\r\n\r\n"]
    {
        refused(chunked(body), Refusal::ChunkMalformed);
    }
}

#[test]
fn a_chunk_size_line_ends_in_crlf() {
    for body in ["5\nhello\r\n0\r\n\r\n", "5\rhello\r\n0\r\n\r\n", "0\n\r\n", "5\r\r\nhello"] {
        refused(chunked(body), Refusal::ChunkMalformed);
    }
}

#[test]
fn chunk_extensions_hold_no_bare_cr_or_lf() {
    for body in [
        "5;a\nhello\r\n0\r\n\r\n",
        "5;a\rb\r\nhello\r\n",
        "5;\n",
        "5;a=\"\n\"\r\nhello\r\n",
        "5;\0\r\n",
        "0;\n\r\n",
    ] {
        refused(chunked(body), Refusal::ChunkMalformed);
    }
}

#[test]
fn chunk_extensions_are_bounded_over_the_whole_body() {
    let chunk = format!("1;{}\r\na\r\n", "x".repeat(CHUNK_EXTENSIONS_SIZE_MAX / 4 - 1));
    accepted(chunked(&format!("{}0\r\n\r\n", chunk.repeat(4))));
    refused(chunked(&format!("{}0;\r\n\r\n", chunk.repeat(4))), Refusal::ChunkExtensionsTooLarge);
}

#[test]
fn trailers_are_field_lines() {
    for trailer in [
        "X\r\n\r\n",
        "X : a\r\n\r\n",
        " X: a\r\n\r\n",
        "X: a\r\n b\r\n\r\n",
        "X: a\n\r\n",
        "X: a\rb\r\n\r\n",
        "X: \0\r\n\r\n",
        ": a\r\n\r\n",
        "\rX",
        "\n",
        "X\u{e9}: a\r\n\r\n",
        "GET / HTTP/1.1\r\n\r\n",
    ] {
        refused(chunked(&format!("0\r\n{trailer}")), Refusal::TrailerMalformed);
    }
}

#[test]
fn trailers_are_bounded() {
    let line = |size: usize| format!("X: {}\r\n", "a".repeat(size - 5));
    accepted(chunked(&format!("0\r\n{}\r\n", line(TRAILERS_SIZE_MAX - 1))));
    refused(chunked(&format!("0\r\n{}\r\n", line(TRAILERS_SIZE_MAX))), Refusal::TrailersTooLarge);
}

#[test]
fn trailers_do_not_frame_or_route() {
    let r = accepted(chunked("0\r\nContent-Length: 5\r\nHost: b\r\n\r\nhello"));
    assert_eq!((&r.rest[..], r.field("host")), (&b"hello"[..], Some("a")));
}

#[test]
fn an_end_is_reported_once_and_consumes_no_pipelined_byte() {
    let mut engine = H1::new();
    let mut head = RequestHead::default();
    let input = post("Content-Length: 2\r\n") + "hiGET";
    let at = post("Content-Length: 2\r\n").len();
    assert_eq!(
        engine.decode(input.as_bytes(), &OPTIONS, &mut head),
        Ok(Step::Head { consumed: at })
    );
    let rest = &input.as_bytes()[at..];
    assert_eq!(
        engine.decode(rest, &OPTIONS, &mut head),
        Ok(Step::Body { consumed: 2, data: 0..2 })
    );
    assert!(!engine.request_done());
    assert_eq!(engine.decode(&rest[2..], &OPTIONS, &mut head), Ok(Step::End { consumed: 0 }));
    assert!(engine.request_done());
    assert_eq!(engine.decode(&rest[2..], &OPTIONS, &mut head), Ok(Step::NeedMore));
}
