//! Heads: start line, targets, fields, limits.

use super::*;
use crate::{
    limits::{HEAD_FIELDS_MAX, HEAD_SIZE_MAX, LEADING_EMPTY_LINES_MAX, START_LINE_SIZE_MAX},
    proto::head::{BodyLength, Method, Version},
};

#[test]
fn a_head_is_taken_apart() {
    let r = accepted(
        "GET /a%20b/?q=%20 HTTP/1.1\r\nHost: example.com:80\r\nX-Thing:\t two words \t\r\nEmpty:\r\n\r\nGET",
    );
    assert_eq!((r.head.method, r.text(r.head.method_name)), (Method::Get, "GET"));
    assert_eq!(r.head.version, Version::Http11);
    assert_eq!(r.text(r.head.raw_path), "/a%20b/");
    assert_eq!(r.text(r.head.path), "/a b/");
    assert_eq!(r.text(r.head.query), "q=%20");
    assert_eq!(r.text(r.head.authority), "example.com:80");
    assert_eq!(r.field("x-thing"), Some("two words"));
    assert_eq!(r.field("empty"), Some(""));
    assert_eq!(r.head.body, BodyLength::Empty);
    assert_eq!(r.rest, b"GET");
}

#[test]
fn a_head_without_a_body_is_also_the_end() {
    let mut engine = H1::new();
    let mut head = RequestHead::default();
    assert!(engine.is_idle());
    let step = engine.decode(get("").as_bytes(), &OPTIONS, &mut head);
    assert_eq!(step, Ok(Step::Head { consumed: get("").len() }));
    assert!(engine.request_done() && !engine.is_idle());
}

#[test]
fn a_pipelined_request_waits_for_the_response_to_the_one_before() {
    let input = get("").repeat(2);
    let mut r = accepted(&input);
    assert_eq!(r.rest, get("").as_bytes());
    let step = r.engine.decode(&r.rest, &OPTIONS, &mut r.head);
    assert_eq!(step, Ok(Step::NeedMore));
    let mut out = Vec::new();
    r.engine.edge_answer(404, None, &[], DATE, &mut out).expect("valid");
    assert!(decode_on(r.engine, &r.rest).expect("accepted").is_some());
}

#[test]
fn methods_are_case_sensitive_tokens() {
    assert_eq!(accepted("PATCH / HTTP/1.1\r\nHost: a\r\n\r\n").head.method, Method::Patch);
    let r = accepted("get / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!((r.head.method, r.text(r.head.method_name)), (Method::Other, "get"));
    refused("G(T / HTTP/1.1\r\nHost: a\r\n\r\n", Refusal::StartLineMalformed);
}

#[test]
fn the_request_line_has_exactly_two_single_spaces() {
    for line in [
        "GET  / HTTP/1.1",
        "GET / HTTP/1.1 ",
        "GET /  HTTP/1.1",
        " GET / HTTP/1.1",
        "GET\t/ HTTP/1.1",
        "GET /",
        "GET",
        "GET / a HTTP/1.1",
        "/ HTTP/1.1",
        "GET HTTP/1.1",
    ] {
        assert!(decode(format!("{line}\r\nHost: a\r\n\r\n")).is_err(), "{line:?}");
    }
}

#[test]
fn versions() {
    for version in ["HTTP/2.0", "HTTP/0.9", "HTTP/1.2", "HTTP/3.0"] {
        refused(format!("GET / {version}\r\nHost: a\r\n\r\n"), Refusal::VersionUnsupported);
    }
    for version in
        ["HTTP/1", "HTTP/1.10", "http/1.1", "HTTP/11", "HTTP/1,1", "HTTQ/1.1", "HTTP/-1.1"]
    {
        refused(format!("GET / {version}\r\nHost: a\r\n\r\n"), Refusal::StartLineMalformed);
    }
}

#[test]
fn empty_lines_before_a_request_are_skipped_but_not_for_ever() {
    let request = get("");
    let empty = "\r\n".repeat(LEADING_EMPTY_LINES_MAX);
    assert!(accepted(format!("{empty}{request}")).rest.is_empty());
    refused(format!("\r\n{empty}{request}"), Refusal::StartLineMalformed);
    refused(format!("\n{request}"), Refusal::LineEndingBare);
}

#[test]
fn bare_lf_does_not_end_a_line() {
    for head in [
        "GET / HTTP/1.1\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n\n",
        "GET / HTTP/1.1\r\nHost: a\n\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: b\nY: c\r\n\r\n",
    ] {
        refused(head, Refusal::LineEndingBare);
    }
}

#[test]
fn bare_cr_is_no_line_end_and_no_text() {
    for head in [
        "GET / HTTP/1.1\r\nHost: a\r\nX: b\rY: c\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: b\r\r\n\r\n",
        "GET / HTTP/1.1\rHost: a\r\n\r\n",
        "GET /\r HTTP/1.1\r\nHost: a\r\n\r\n",
        "\rGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX\r: b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n\r\r\n\r\n",
    ] {
        assert!(decode(head).is_err(), "{head:?}");
    }
}

#[test]
fn folded_lines_are_refused() {
    refused(get("X: a\r\n b\r\n"), Refusal::FieldNameMalformed);
    refused(get("X: a\r\n\tb\r\n"), Refusal::FieldNameMalformed);
    refused("GET / HTTP/1.1\r\n Host: a\r\n\r\n", Refusal::FieldNameMalformed);
}

#[test]
fn white_space_before_the_colon_is_refused() {
    refused(get("X : a\r\n"), Refusal::FieldNameMalformed);
    refused(get("Content-Length : 1\r\n"), Refusal::FieldNameMalformed);
    refused(get("X\t: a\r\n"), Refusal::FieldNameMalformed);
}

#[test]
fn field_names_are_tokens() {
    for line in [": a", "X", "X(: a", "X\0: a", "\u{e9}: a", "X\x0b: a"] {
        refused(get(&format!("{line}\r\n")), Refusal::FieldNameMalformed);
    }
}

#[test]
fn field_values_hold_no_control_characters() {
    for byte in (0..=0x1f_u8).chain([0x7f]).filter(|b| !b"\t\r\n".contains(b)) {
        refused(get(&format!("X: a{}b\r\n", char::from(byte))), Refusal::FieldValueMalformed);
    }
    let mut obs_text = get("X: a\r\n").into_bytes();
    let at = obs_text.windows(4).position(|w| w == b"X: a").expect("there") + 3;
    obs_text[at] = 0xff;
    assert_eq!(accepted(obs_text).head.field(b"x"), Some(&b"\xff"[..]));
}

#[test]
fn host_is_required_once_in_http_1_1() {
    refused("GET / HTTP/1.1\r\n\r\n", Refusal::HostMissing);
    refused("GET http://a/ HTTP/1.1\r\n\r\n", Refusal::HostMissing);
    refused(get("Host: a\r\n"), Refusal::HostRepeated);
    refused(get("host: b\r\n"), Refusal::HostRepeated);
    accepted("GET / HTTP/1.0\r\n\r\n");
}

#[test]
fn host_is_a_host() {
    for host in ["", "a b", "a/b", "u@a", "a:b", "a, b", "[::1", "a:99999", "http://a"] {
        refused(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"), Refusal::HostMalformed);
        refused(format!("GET / HTTP/1.0\r\nHost: {host}\r\n\r\n"), Refusal::HostMalformed);
        refused(format!("GET http://a/ HTTP/1.1\r\nHost: {host}\r\n\r\n"), Refusal::HostMalformed);
    }
    let r = accepted("GET / HTTP/1.1\r\nHost: [::1]:8000\r\n\r\n");
    assert_eq!(r.text(r.head.authority), "[::1]:8000");
}

#[test]
fn the_authority_of_an_absolute_target_replaces_host() {
    let r = accepted("GET HTTP://b:1?q HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(r.text(r.head.authority), "b:1");
    assert_eq!(r.field("host"), Some("b:1"));
    assert_eq!(
        (r.text(r.head.raw_path), r.text(r.head.path), r.text(r.head.query)),
        ("/", "/", "q")
    );
    let r = accepted("GET https://b/c%41 HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!((r.text(r.head.raw_path), r.text(r.head.path)), ("/c%41", "/cA"));
    for target in
        ["http:///", "http://u@b/", "ftp://b/", "http:b", "b", "b:80", "://b/", "http://b#c"]
    {
        refused(format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n"), Refusal::TargetMalformed);
    }
}

#[test]
fn only_options_asks_about_the_server_as_a_whole() {
    let r = accepted("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!((r.text(r.head.raw_path), r.text(r.head.path)), ("*", "*"));
    let r = accepted("OPTIONS http://b HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(r.text(r.head.path), "*");
    refused("GET * HTTP/1.1\r\nHost: a\r\n\r\n", Refusal::TargetMalformed);
    refused("OPTIONS *a HTTP/1.1\r\nHost: a\r\n\r\n", Refusal::TargetMalformed);
}

#[test]
fn connect_is_not_implemented() {
    refused("CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n", Refusal::ConnectUnsupported);
    refused("CONNECT / HTTP/1.1\r\nHost: a\r\n\r\n", Refusal::ConnectUnsupported);
}

#[test]
fn targets_are_visible_ascii_without_a_fragment() {
    refused("GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", Refusal::TargetMalformed);
    refused("GET /?a#b HTTP/1.1\r\nHost: a\r\n\r\n", Refusal::TargetMalformed);
    refused("GET /\u{e9} HTTP/1.1\r\nHost: a\r\n\r\n", Refusal::TargetMalformed);
    for byte in [0, 1, 0x0b, 0x7f] {
        refused(
            format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", char::from(byte)),
            Refusal::StartLineMalformed,
        );
    }
    assert!(decode(b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n").is_err());
}

#[test]
fn escapes_are_decoded_once_and_invalid_ones_stay() {
    let r = accepted("GET /%2541%zz%00%2F HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(r.head.bytes(r.head.path), b"/%41%zz\0/");
    assert_eq!(r.text(r.head.raw_path), "/%2541%zz%00%2F");
}

#[test]
fn a_start_line_is_bounded() {
    let line = |size: usize| format!("GET /{} HTTP/1.1", "a".repeat(size - "GET / HTTP/1.1".len()));
    accepted(format!("{}\r\nHost: a\r\n\r\n", line(START_LINE_SIZE_MAX)));
    refused(
        format!("{}\r\nHost: a\r\n\r\n", line(START_LINE_SIZE_MAX + 1)),
        Refusal::StartLineTooLong,
    );
    // Before its end was seen.
    refused(format!("{}\r", line(START_LINE_SIZE_MAX + 1)), Refusal::StartLineTooLong);
    refused("a".repeat(START_LINE_SIZE_MAX + 2), Refusal::StartLineTooLong);
}

#[test]
fn a_head_is_bounded() {
    let head = |size: usize| get(&format!("X: {}\r\n", "a".repeat(size - get("X: \r\n").len())));
    accepted(head(HEAD_SIZE_MAX));
    refused(head(HEAD_SIZE_MAX + 1), Refusal::HeadTooLarge);
    refused(&head(HEAD_SIZE_MAX + 100)[..HEAD_SIZE_MAX], Refusal::HeadTooLarge);
    // The largest head with the largest escaped path: every span still fits.
    let path = "%41".repeat(START_LINE_SIZE_MAX / 3 - 8);
    let start = format!("GET /{path} HTTP/1.1\r\nHost: a\r\nX: ");
    let r = accepted(format!("{start}{}\r\n\r\n", "a".repeat(HEAD_SIZE_MAX - start.len() - 4)));
    assert_eq!(r.head.path.len(), 1 + path.len() / 3);
}

#[test]
fn fields_are_counted() {
    accepted(get(&"X: a\r\n".repeat(HEAD_FIELDS_MAX - 1)));
    refused(get(&"X: a\r\n".repeat(HEAD_FIELDS_MAX)), Refusal::TooManyFields);
    // Before the end of the head was seen.
    refused(
        &get(&"X: a\r\n".repeat(HEAD_FIELDS_MAX))[..16 + 9 + 6 * HEAD_FIELDS_MAX],
        Refusal::TooManyFields,
    );
}

#[test]
fn expectations() {
    let post = |version: &str, rest: &str| format!("POST / HTTP/{version}\r\nHost: a\r\n{rest}");
    let mut engine = H1::new();
    let mut head = RequestHead::default();
    let input = post("1.1", "Expect: 100-Continue\r\nContent-Length: 1\r\n\r\n");
    engine.decode(input.as_bytes(), &OPTIONS, &mut head).expect("accepted");
    assert!(head.expects_continue);
    let mut out = Vec::new();
    engine.encode_continue(&mut out);
    engine.encode_continue(&mut out);
    assert_eq!(out, b"HTTP/1.1 100 Continue\r\n\r\n");
    // RFC 9110 §10.1.1: not without a body, not in HTTP/1.0, and no other expectation.
    assert!(!accepted(get("Expect: 100-continue\r\n")).head.expects_continue);
    let r = accepted(post("1.0", "Expect: 100-continue\r\nContent-Length: 1\r\n\r\nx"));
    assert!(!r.head.expects_continue);
    refused(get("Expect: 200-ok\r\n"), Refusal::ExpectationUnknown);
}

#[test]
fn a_client_that_sent_its_body_is_not_told_to_continue() {
    let mut r = accepted(
        "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\nx",
    );
    let mut out = Vec::new();
    r.engine.encode_continue(&mut out);
    assert!(out.is_empty());
}

#[test]
fn nothing_is_read_after_a_refusal() {
    let mut engine = H1::new();
    let mut head = RequestHead::default();
    engine.decode(b"GET /\n", &OPTIONS, &mut head).expect_err("refused");
    assert_eq!(engine.decode(get("").as_bytes(), &OPTIONS, &mut head), Ok(Step::NeedMore));
    assert!(!engine.request_done() && !engine.is_idle());
}

#[test]
fn upgrades_are_passed_on_and_not_acted_upon() {
    let r = accepted(get(
        "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n",
    ));
    assert_eq!(r.field("upgrade"), Some("h2c"));
    assert_eq!(r.head.version, Version::Http11);
}
