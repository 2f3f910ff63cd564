//! The opening handshake, RFC 6455 §4 and RFC 7692 §7.1.

use crate::{
    proto::{
        error::BadResponse,
        h1::{self, H1},
        head::{BodyLength, RequestHead, ResponseHead},
        ws::{BadUpgrade, Deflate, DeflatePolicy, Upgrade, handshake},
    },
    span::{Field, Span},
};

const KEY: &str = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
const VERSION: &str = "Sec-WebSocket-Version: 13\r\n";
const ASKS: &str = "Host: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n";
const NO_TAKEOVER: Option<DeflatePolicy> = Some(DeflatePolicy { context_takeover: false });
const TAKEOVER: Option<DeflatePolicy> = Some(DeflatePolicy { context_takeover: true });

fn head(line: &str, fields: &str) -> RequestHead {
    let mut head = RequestHead::default();
    let request = format!("{line}\r\n{fields}\r\n");
    let options = h1::Options { body_size_max: 10 };
    let step = H1::new().decode(request.as_bytes(), &options, &mut head);
    assert!(matches!(step, Ok(h1::Step::Head { .. })), "{step:?}");
    head
}

fn ask(fields: &str, policy: Option<DeflatePolicy>) -> Result<Option<Upgrade>, BadUpgrade> {
    handshake(&head("GET /chat HTTP/1.1", fields), policy)
}

#[track_caller]
fn upgrade(fields: &str) -> Upgrade {
    let fields = format!("{ASKS}{KEY}{VERSION}{fields}");
    ask(&fields, NO_TAKEOVER).expect("accepted").expect("asked for")
}

/// The fields of the 101 when the application chose these.
fn accept(upgrade: &Upgrade, chosen: &[&str]) -> Result<Vec<(&'static str, String)>, BadResponse> {
    let name = "sec-websocket-protocol";
    let mut blob = name.as_bytes().to_vec();
    let mut fields = Vec::new();
    for value in chosen {
        let value_span = Span::new(blob.len(), value.len()).expect("short");
        blob.extend_from_slice(value.as_bytes());
        fields.push(Field { name: Span::new(0, name.len()).expect("short"), value: value_span });
    }
    let head = ResponseHead { status: 101, blob: &blob, fields: &fields, body: BodyLength::Empty };
    upgrade.accept(&head)
}

#[test]
fn rfc_6455_1_3_the_key_is_answered() {
    let fields = accept(&upgrade(""), &[]).expect("valid");
    let expected = [
        ("connection", "Upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
    ];
    assert_eq!(fields, expected.map(|(name, value)| (name, value.to_owned())));
}

#[test]
fn what_http_has_a_server_ignore_is_an_ordinary_request() {
    for fields in [
        "Host: a\r\n".to_owned(),
        format!("Host: a\r\nUpgrade: websocket\r\n{KEY}{VERSION}"),
        format!("Host: a\r\nConnection: upgrade\r\nUpgrade: h2c\r\n{KEY}{VERSION}"),
        format!("Host: a\r\nConnection: upgrade\r\nUpgrade: websockets\r\n{KEY}{VERSION}"),
    ] {
        assert_eq!(ask(&fields, None), Ok(None), "{fields}");
    }
    let old = head("GET / HTTP/1.0", &format!("{ASKS}{KEY}{VERSION}"));
    assert_eq!(handshake(&old, None), Ok(None));
}

#[test]
fn tokens_are_found_in_lists_and_in_any_case() {
    let fields = "Host: a\r\nconnection: a\r\nConnection: b,UPGRADE\r\nUpgrade: h2c, WEBSOCKET\r\n";
    assert!(matches!(ask(&format!("{fields}{KEY}{VERSION}"), None), Ok(Some(_))));
}

#[test]
fn a_websocket_is_opened_with_get_and_without_a_body() {
    let fields = format!("{ASKS}{KEY}{VERSION}");
    for (line, more, refusal) in [
        ("POST / HTTP/1.1", "", BadUpgrade::Method),
        ("HEAD / HTTP/1.1", "", BadUpgrade::Method),
        ("GET / HTTP/1.1", "Content-Length: 3\r\n", BadUpgrade::Body),
        ("GET / HTTP/1.1", "Transfer-Encoding: chunked\r\n", BadUpgrade::Body),
    ] {
        let head = head(line, &format!("{fields}{more}"));
        assert_eq!(handshake(&head, None), Err(refusal));
    }
}

#[test]
fn another_version_is_told_which_one_there_is() {
    for version in ["", "Sec-WebSocket-Version: 8\r\n", "Sec-WebSocket-Version: 13, 8\r\n"] {
        assert_eq!(ask(&format!("{ASKS}{KEY}{version}"), None), Err(BadUpgrade::Version));
    }
    let (status, _, fields) = BadUpgrade::Version.answer();
    assert_eq!(status, 426);
    let expected: [(&str, &[u8]); 2] =
        [("upgrade", b"websocket"), ("sec-websocket-version", b"13")];
    assert_eq!(fields, expected);
}

#[test]
fn a_key_is_the_base64_of_sixteen_bytes_and_there_is_one() {
    for key in [
        "",
        "Sec-WebSocket-Key:\r\n",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ\r\n",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25j\r\n",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZWU=\r\n",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZWVl\r\n",
        "Sec-WebSocket-Key: !GhlIHNhbXBsZSBub25jZQ==\r\n",
        &format!("Sec-WebSocket-Key: {}\r\n", "A".repeat(4000)),
        &format!("{KEY}{KEY}"),
    ] {
        assert_eq!(ask(&format!("{ASKS}{VERSION}{key}"), None), Err(BadUpgrade::Key), "{key:.80}");
    }
}

#[test]
fn only_an_offered_subprotocol_is_confirmed() {
    let upgrade =
        upgrade("Sec-WebSocket-Protocol: chat, superchat\r\nSec-WebSocket-Protocol: b\r\n");
    for chosen in [&[][..], &["chat"], &["superchat"], &["b"]] {
        assert!(accept(&upgrade, chosen).is_ok(), "{chosen:?}");
    }
    for chosen in [&["Chat"][..], &["c"], &[""], &["chat, b"], &["chat", "b"], &["chat", "chat"]] {
        assert_eq!(accept(&upgrade, chosen), Err(BadResponse::Subprotocol), "{chosen:?}");
    }
}

#[test]
fn subprotocols_are_different_tokens() {
    for offered in ["a b", "a, a", "\"a\"", "a;b"] {
        let fields = format!("{ASKS}{KEY}{VERSION}Sec-WebSocket-Protocol: {offered}\r\n");
        assert_eq!(ask(&fields, None), Err(BadUpgrade::Subprotocol), "{offered}");
    }
}

fn negotiate(
    offers: &str,
    policy: Option<DeflatePolicy>,
) -> Result<Option<(Deflate, String)>, BadUpgrade> {
    let extensions = format!("Sec-WebSocket-Extensions: {offers}\r\n");
    let upgrade = ask(&format!("{ASKS}{KEY}{VERSION}{extensions}"), policy)?.expect("asked for");
    let confirmed =
        accept(&upgrade, &[]).expect("valid").into_iter().nth(3).map(|(_, value)| value);
    Ok(upgrade.deflate().zip(confirmed))
}

#[test]
fn deflate_is_negotiated_without_takeover_unless_configured() {
    let (deflate, confirmed) = negotiate("permessage-deflate; client_max_window_bits", NO_TAKEOVER)
        .expect("valid")
        .expect("met");
    let blank = Deflate { server_takeover: false, client_takeover: false, server_window_bits: 15 };
    assert_eq!(deflate, blank);
    assert_eq!(
        confirmed,
        "permessage-deflate; server_no_context_takeover; client_no_context_takeover"
    );
    let (deflate, confirmed) =
        negotiate("permessage-deflate", TAKEOVER).expect("valid").expect("met");
    assert!(deflate.server_takeover && deflate.client_takeover);
    assert_eq!(confirmed, "permessage-deflate");
    assert_eq!(negotiate("permessage-deflate", None), Ok(None));
}

#[test]
fn the_clients_wishes_are_met() {
    let offer = "permessage-deflate; server_no_context_takeover; server_max_window_bits=\"10\"; \
                 client_max_window_bits=12";
    let (deflate, confirmed) = negotiate(offer, TAKEOVER).expect("valid").expect("met");
    let expected =
        Deflate { server_takeover: false, client_takeover: true, server_window_bits: 10 };
    assert_eq!(deflate, expected);
    assert_eq!(
        confirmed,
        "permessage-deflate; server_no_context_takeover; server_max_window_bits=10"
    );
    let (deflate, _) = negotiate("permessage-deflate; client_no_context_takeover", TAKEOVER)
        .expect("valid")
        .expect("met");
    assert!(deflate.server_takeover && !deflate.client_takeover);
}

#[test]
fn an_offer_that_cannot_be_met_is_declined_and_the_next_one_tried() {
    for bad in [
        "permessage-deflate; server_max_window_bits=8",
        "permessage-deflate; server_max_window_bits=16",
        "permessage-deflate; server_max_window_bits=09",
        "permessage-deflate; server_max_window_bits",
        "permessage-deflate; client_max_window_bits=7",
        "permessage-deflate; server_no_context_takeover=1",
        "permessage-deflate; client_no_context_takeover; client_no_context_takeover",
        "permessage-deflate; unknown",
        "permessage-bzip2",
    ] {
        assert_eq!(negotiate(bad, TAKEOVER), Ok(None), "{bad}");
        let second = format!("{bad}, , permessage-deflate; server_max_window_bits=11");
        let (deflate, _) = negotiate(&second, TAKEOVER).expect("valid").expect("met");
        assert_eq!(deflate.server_window_bits, 11, "{bad}");
    }
}

#[test]
fn extensions_that_are_malformed_fail_the_handshake() {
    for bad in
        ["a b", ";", "permessage-deflate; ", "permessage-deflate; a=", "x; =1", "x; a=\"b c\""]
    {
        assert_eq!(negotiate(bad, NO_TAKEOVER), Err(BadUpgrade::Extension), "{bad}");
    }
}
