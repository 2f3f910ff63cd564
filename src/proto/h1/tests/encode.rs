//! Responses: framing, persistence, and what an application may not say.

use super::{super::Next, *};
use crate::{
    proto::{
        error::BadResponse,
        head::{BodyLength, ResponseHead},
    },
    span::{Field, Span},
};

/// Encodes one response to a request made of this request line and these fields.
fn respond(
    request: &str,
    status: u16,
    fields: &[(&str, &str)],
    body: BodyLength,
    data: &str,
) -> Result<(String, Next), BadResponse> {
    let mut engine = accepted(request).engine;
    let mut out = Vec::new();
    encode_head(&mut engine, status, fields, body, &mut out)?;
    for piece in data.split_inclusive(' ') {
        engine.encode_body(piece.as_bytes(), &mut out)?;
    }
    let next = engine.encode_end(&mut out)?;
    Ok((String::from_utf8(out).expect("UTF-8"), next))
}

fn encode_head(
    engine: &mut H1,
    status: u16,
    fields: &[(&str, &str)],
    body: BodyLength,
    out: &mut Vec<u8>,
) -> Result<(), BadResponse> {
    let (blob, fields) = spans(fields);
    engine.encode_head(&ResponseHead { status, blob: &blob, fields: &fields, body }, DATE, out)
}

fn spans(fields: &[(&str, &str)]) -> (Vec<u8>, Vec<Field>) {
    let mut blob = Vec::new();
    let mut span = |text: &str| {
        let start = blob.len();
        blob.extend_from_slice(text.as_bytes());
        Span::new(start, text.len()).expect("short")
    };
    let fields =
        fields.iter().map(|(name, value)| Field { name: span(name), value: span(value) }).collect();
    (blob, fields)
}

/// Encodes `hello` in pieces with these trailers behind it.
fn trail(
    request: &str,
    body: BodyLength,
    trailers: &[(&str, &str)],
) -> Result<(String, Next), BadResponse> {
    let mut engine = accepted(request).engine;
    let mut out = Vec::new();
    encode_head(&mut engine, 200, &[], body, &mut out)?;
    engine.encode_body(b"hello", &mut out)?;
    let (blob, fields) = spans(trailers);
    let trailers =
        ResponseHead { status: 0, blob: &blob, fields: &fields, body: BodyLength::Empty };
    engine.encode_trailers(&trailers, &mut out)?;
    let next = engine.encode_end(&mut out)?;
    Ok((String::from_utf8(out).expect("UTF-8"), next))
}

#[test]
fn trailers_follow_a_chunked_body_for_a_client_that_keeps_them() {
    let request = get("TE: gzip, Trailers\r\n");
    let trailers = [("x-sum", "42"), ("content-length", "7"), ("x-end", "yes")];
    let (out, next) = trail(&request, BodyLength::Unknown, &trailers).expect("valid");
    let end = "\r\n\r\n5\r\nhello\r\n0\r\nx-sum: 42\r\nx-end: yes\r\n\r\n";
    assert!(out.ends_with(end), "{out}");
    assert_eq!(next, Next::KeepAlive);
}

#[test]
fn trailers_are_dropped_where_they_have_no_place() {
    let trailers = [("x-sum", "42")];
    let (out, _) = trail(&get(""), BodyLength::Unknown, &trailers).expect("not asked for");
    assert!(out.ends_with("hello\r\n0\r\n\r\n"), "{out}");
    let request = get("TE: trailers\r\n");
    let (out, _) = trail(&request, BodyLength::Known(5), &trailers).expect("not chunked");
    assert!(out.ends_with("\r\n\r\nhello"), "{out}");
}

#[test]
fn trailers_cannot_break_out_of_their_section() {
    let request = get("TE: trailers\r\n");
    let found = trail(&request, BodyLength::Unknown, &[("x", "a\r\n\r\nHTTP/1.1 200 OK")]);
    assert_eq!(found.unwrap_err(), BadResponse::FieldValue);
}

#[test]
fn an_informational_response_goes_ahead_and_leaves_the_response_to_come() {
    let inform = |request: &str, status| {
        let mut engine = accepted(request).engine;
        let mut out = Vec::new();
        let (blob, fields) = spans(&[("link", "</a.css>; rel=preload")]);
        let head = ResponseHead { status, blob: &blob, fields: &fields, body: BodyLength::Empty };
        engine.encode_informational(&head, &mut out)?;
        encode_head(&mut engine, 200, &[], BodyLength::Empty, &mut out)?;
        let late = engine.encode_informational(&head, &mut out);
        assert_eq!(late, Err(BadResponse::OutOfOrder));
        engine.encode_end(&mut out)?;
        Ok(String::from_utf8(out).expect("UTF-8"))
    };
    let out = inform(&get(""), 103).expect("valid");
    let hints =
        "HTTP/1.1 103 Early Hints\r\nlink: </a.css>; rel=preload\r\n\r\nHTTP/1.1 200 OK\r\n";
    assert!(out.starts_with(hints), "{out}");
    let out = inform("GET / HTTP/1.0\r\n\r\n", 103).expect("valid");
    assert!(out.starts_with("HTTP/1.1 200 OK\r\n"), "HTTP/1.0 knows none: {out}");
    for status in [100, 101, 200] {
        assert_eq!(inform(&get(""), status), Err(BadResponse::Status));
    }
}

const DATE_AND_SERVER: &str = "date: Sun, 06 Nov 1994 08:49:37 GMT\r\nserver: fasterapi\r\n";

#[test]
fn a_known_length_is_announced() {
    let (out, next) =
        respond(&get(""), 200, &[("content-type", "text/plain")], BodyLength::Known(5), "hello")
            .expect("valid");
    assert_eq!(
        out,
        format!(
            "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 5\r\n{DATE_AND_SERVER}\r\nhello"
        )
    );
    assert_eq!(next, Next::KeepAlive);
}

#[test]
fn an_unknown_length_is_chunked_in_http_1_1() {
    let (out, next) =
        respond(&get(""), 200, &[], BodyLength::Unknown, "hello world").expect("valid");
    assert!(out.contains("\r\ntransfer-encoding: chunked\r\n"));
    assert!(!out.contains("content-length"));
    assert!(out.ends_with("\r\n\r\n6\r\nhello \r\n5\r\nworld\r\n0\r\n\r\n"));
    assert_eq!(next, Next::KeepAlive);
}

#[test]
fn an_empty_piece_does_not_end_a_chunked_body() {
    let mut engine = accepted(get("")).engine;
    let mut out = Vec::new();
    encode_head(&mut engine, 200, &[], BodyLength::Unknown, &mut out).expect("valid");
    let mark = out.len();
    engine.encode_body(b"", &mut out).expect("valid");
    assert_eq!(out.len(), mark);
    engine.encode_body(&[b'a'; 0x1b0], &mut out).expect("valid");
    assert!(out[mark..].starts_with(b"1b0\r\naaa"));
}

#[test]
fn an_unknown_length_ends_with_the_connection_in_http_1_0() {
    let request = "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n";
    let (out, next) = respond(request, 200, &[], BodyLength::Unknown, "hello").expect("valid");
    assert!(!out.contains("transfer-encoding") && !out.contains("content-length"));
    assert!(out.contains("\r\nconnection: close\r\n") && out.ends_with("\r\n\r\nhello"));
    assert_eq!(next, Next::Close);
}

#[test]
fn connections_persist_as_the_client_asks() {
    let cases = [
        ("HTTP/1.1", "", Next::KeepAlive, None),
        ("HTTP/1.1", "Connection: close\r\n", Next::Close, Some("close")),
        ("HTTP/1.1", "Connection: x, CLOSE ,y\r\n", Next::Close, Some("close")),
        ("HTTP/1.1", "Connection: closed\r\n", Next::KeepAlive, None),
        ("HTTP/1.1", "Connection: keep-alive\r\nConnection: close\r\n", Next::Close, Some("close")),
        ("HTTP/1.0", "", Next::Close, Some("close")),
        ("HTTP/1.0", "Connection: Keep-Alive\r\n", Next::KeepAlive, Some("keep-alive")),
        ("HTTP/1.0", "Connection: keep-alive, close\r\n", Next::Close, Some("close")),
    ];
    for (version, fields, next, announced) in cases {
        let request = format!("GET / {version}\r\nHost: a\r\n{fields}\r\n");
        let (out, found) = respond(&request, 200, &[], BodyLength::Empty, "").expect("valid");
        assert_eq!(found, next, "{version} {fields:?}");
        let line = out.lines().find_map(|line| line.strip_prefix("connection: "));
        assert_eq!(line, announced, "{version} {fields:?}");
    }
}

#[test]
fn framing_and_hop_by_hop_fields_of_the_application_are_dropped() {
    let fields = [
        ("Transfer-Encoding", "chunked"),
        ("connection", "keep-alive, x-private"),
        ("keep-alive", "timeout=5"),
        ("upgrade", "h2c"),
        ("proxy-connection", "keep-alive"),
        ("X-Kept", "yes"),
    ];
    let (out, next) = respond(&get(""), 200, &fields, BodyLength::Known(2), "ok").expect("valid");
    assert_eq!(
        out,
        format!("HTTP/1.1 200 OK\r\nx-kept: yes\r\ncontent-length: 2\r\n{DATE_AND_SERVER}\r\nok")
    );
    assert_eq!(next, Next::KeepAlive);
}

#[test]
fn an_application_may_close_date_and_name_itself() {
    let fields = [("connection", "close"), ("date", "now"), ("server", "mine")];
    let (out, next) = respond(&get(""), 200, &fields, BodyLength::Empty, "").expect("valid");
    assert_eq!(
        out,
        "HTTP/1.1 200 OK\r\ndate: now\r\nserver: mine\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
    );
    assert_eq!(next, Next::Close);
}

#[test]
fn a_content_length_of_the_application_counts_if_it_is_consistent() {
    let length = |value| [("content-length", value)];
    let (out, _) =
        respond(&get(""), 200, &length("5"), BodyLength::Unknown, "hello").expect("valid");
    assert!(out.contains("\r\ncontent-length: 5\r\n") && !out.contains("chunked"));
    respond(&get(""), 200, &length("5"), BodyLength::Known(5), "hello").expect("valid");
    for (value, body) in [
        ("4", BodyLength::Known(5)),
        ("4", BodyLength::Empty),
        ("x", BodyLength::Unknown),
        ("", BodyLength::Unknown),
        ("5, 5", BodyLength::Unknown),
    ] {
        assert_eq!(
            respond(&get(""), 200, &length(value), body, ""),
            Err(BadResponse::Length),
            "{value}"
        );
    }
    let twice = [("content-length", "4"), ("content-length", "5")];
    assert_eq!(respond(&get(""), 200, &twice, BodyLength::Unknown, ""), Err(BadResponse::Length));
}

#[test]
fn a_body_is_as_long_as_announced() {
    let (known, get) = (BodyLength::Known(5), get(""));
    assert_eq!(respond(&get, 200, &[], known, "hello!"), Err(BadResponse::BodyTooLong));
    assert_eq!(respond(&get, 200, &[], known, "hell"), Err(BadResponse::BodyTooShort));
    assert_eq!(respond(&get, 200, &[], BodyLength::Empty, "x"), Err(BadResponse::BodyTooLong));
}

#[test]
fn answers_to_head_say_what_get_would_have_said() {
    let head = "HEAD / HTTP/1.1\r\nHost: a\r\n\r\n";
    let ends = |out: &str| out.ends_with("\r\n\r\n");
    let (out, next) = respond(head, 200, &[], BodyLength::Known(5), "hello").expect("valid");
    assert!(out.contains("\r\ncontent-length: 5\r\n") && ends(&out));
    assert_eq!(next, Next::KeepAlive);
    let (out, _) =
        respond(head, 200, &[("content-length", "7")], BodyLength::Empty, "").expect("valid");
    assert!(out.contains("\r\ncontent-length: 7\r\n") && ends(&out));
    let (out, _) = respond(head, 200, &[], BodyLength::Unknown, "hello").expect("valid");
    assert!(!out.contains("content-length") && ends(&out) && !out.contains("hello"));
}

#[test]
fn statuses_without_a_body_have_none() {
    for (status, announced) in [(204, false), (304, true)] {
        let fields = [("content-length", "5")];
        let (out, next) =
            respond(&get(""), status, &fields, BodyLength::Unknown, "hello").expect("valid");
        assert_eq!(out.contains("content-length: 5"), announced, "{status}");
        assert!(out.ends_with("\r\n\r\n") && !out.contains("chunked"));
        assert_eq!(next, Next::KeepAlive);
    }
    let (out, _) = respond(&get(""), 204, &[], BodyLength::Empty, "").expect("valid");
    assert!(!out.contains("content-length"));
}

#[test]
fn a_head_that_could_split_a_response_is_not_sent() {
    for (name, value, error) in [
        ("x", "a\r\nset-cookie: b", BadResponse::FieldValue),
        ("x", "a\nb", BadResponse::FieldValue),
        ("x", "a\rb", BadResponse::FieldValue),
        ("x", "a\0b", BadResponse::FieldValue),
        ("connection", "\r\n\r\n", BadResponse::FieldValue),
        ("", "a", BadResponse::FieldName),
        ("x y", "a", BadResponse::FieldName),
        ("x:", "a", BadResponse::FieldName),
        ("x\r\ny", "a", BadResponse::FieldName),
        ("x\0", "a", BadResponse::FieldName),
    ] {
        let mut engine = accepted(get("")).engine;
        let mut out = b"before".to_vec();
        let fields = [("fine", "yes"), (name, value)];
        assert_eq!(
            encode_head(&mut engine, 200, &fields, BodyLength::Empty, &mut out),
            Err(error),
            "{name:?}"
        );
        assert_eq!(out, b"before");
        // The edge can still answer in its place, and keep the connection.
        assert_eq!(
            engine.edge_answer(502, Some("Bad Gateway"), &[], DATE, &mut out),
            Ok(Next::KeepAlive)
        );
    }
}

#[test]
fn spans_outside_the_blob_are_refused() {
    let mut engine = accepted(get("")).engine;
    let field =
        Field { name: Span::new(0, 1).expect("short"), value: Span::new(1, 5).expect("short") };
    let head = ResponseHead { status: 200, blob: b"xy", fields: &[field], body: BodyLength::Empty };
    assert_eq!(engine.encode_head(&head, DATE, &mut Vec::new()), Err(BadResponse::FieldValue));
}

#[test]
fn statuses_are_final_and_have_three_digits() {
    for status in [0, 99, 100, 101, 199, 600, 1000] {
        assert_eq!(respond(&get(""), status, &[], BodyLength::Empty, ""), Err(BadResponse::Status));
    }
    let (out, _) = respond(&get(""), 299, &[], BodyLength::Empty, "").expect("valid");
    assert!(out.starts_with("HTTP/1.1 299 \r\n"));
}

#[test]
fn head_body_and_end_come_in_order() {
    let mut engine = accepted(get("")).engine;
    let mut out = Vec::new();
    assert_eq!(engine.encode_body(b"x", &mut out), Err(BadResponse::OutOfOrder));
    assert_eq!(engine.encode_end(&mut out), Err(BadResponse::OutOfOrder));
    encode_head(&mut engine, 200, &[], BodyLength::Empty, &mut out).expect("valid");
    assert_eq!(
        encode_head(&mut engine, 200, &[], BodyLength::Empty, &mut out),
        Err(BadResponse::OutOfOrder)
    );
}

#[test]
fn a_request_that_was_not_read_closes_the_connection() {
    let mut engine = H1::new();
    let mut head = RequestHead::default();
    let input = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n";
    engine.decode(input, &OPTIONS, &mut head).expect("accepted");
    let mut out = Vec::new();
    encode_head(&mut engine, 200, &[], BodyLength::Empty, &mut out).expect("valid");
    assert_eq!(engine.encode_end(&mut out), Ok(Next::Close));
    // What comes after it is not a request: it may be the body.
    assert_eq!(engine.decode(get("").as_bytes(), &OPTIONS, &mut head), Ok(Step::NeedMore));
}

#[test]
fn an_edge_answer_to_an_unread_request_announces_the_close() {
    let mut engine = H1::new();
    let mut head = RequestHead::default();
    let input = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n";
    engine.decode(input, &OPTIONS, &mut head).expect("accepted");
    let mut out = Vec::new();
    assert_eq!(engine.edge_answer(404, Some("Not Found"), &[], DATE, &mut out), Ok(Next::Close));
    assert!(String::from_utf8_lossy(&out).contains("\r\nconnection: close\r\n"));
}

#[test]
fn edge_answers_read_like_fastapis_and_keep_the_connection() {
    let mut engine = accepted(get("")).engine;
    let mut out = Vec::new();
    let allow = [("allow", &b"GET, HEAD"[..])];
    let next = engine.edge_answer(405, Some("Method Not Allowed"), &allow, DATE, &mut out);
    assert_eq!(next, Ok(Next::KeepAlive));
    assert!(engine.is_idle());
    assert_eq!(
        String::from_utf8_lossy(&out),
        format!(
            "HTTP/1.1 405 Method Not Allowed\r\ncontent-type: application/json\r\nallow: GET, HEAD\r\n\
             content-length: 31\r\n{DATE_AND_SERVER}\r\n{{\"detail\":\"Method Not Allowed\"}}"
        )
    );
}

#[test]
fn a_refusal_is_answered_and_closes() {
    let mut engine = H1::new();
    let mut out = Vec::new();
    let refusal = engine.decode(b"GET / HTTP/2.0\r\n\r\n", &OPTIONS, &mut RequestHead::default());
    engine.refuse(refusal.expect_err("refused"), DATE, &mut out);
    assert_eq!(
        String::from_utf8_lossy(&out),
        format!(
            "HTTP/1.1 505 HTTP Version Not Supported\r\ncontent-type: application/json\r\ncontent-length: 39\r\n\
             {DATE_AND_SERVER}connection: close\r\n\r\n{{\"detail\":\"HTTP Version Not Supported\"}}"
        )
    );
}

#[test]
fn a_refusal_in_the_middle_of_a_response_says_nothing() {
    let mut engine = H1::new();
    let mut head = RequestHead::default();
    let input = chunked("");
    engine.decode(input.as_bytes(), &OPTIONS, &mut head).expect("accepted");
    let mut out = Vec::new();
    encode_head(&mut engine, 200, &[], BodyLength::Unknown, &mut out).expect("valid");
    let mark = out.len();
    let refusal = engine.decode(b"x", &OPTIONS, &mut head).expect_err("refused");
    engine.refuse(refusal, DATE, &mut out);
    assert_eq!(out.len(), mark);
    assert_eq!(engine.encode_body(b"x", &mut out), Err(BadResponse::OutOfOrder));
}

#[test]
fn shutdown_forces_a_close() {
    let mut engine = accepted(get("")).engine;
    engine.close_after_response();
    let mut out = Vec::new();
    assert_eq!(engine.edge_answer(200, None, &[], DATE, &mut out), Ok(Next::Close));
    assert!(String::from_utf8_lossy(&out).contains("\r\nconnection: close\r\n"));
}
