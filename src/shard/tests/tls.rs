//! TLS connections on a scripted kernel: the same requests, and what only TLS has.

use std::{
    sync::{Arc, LazyLock},
    time::{Duration, Instant, SystemTime},
};

use super::script::Stage;
use crate::{
    limits,
    proto::tls::{
        self, ServerConfig, TicketKeys, Version,
        client::{Client, Household, Wishes},
        dev::{KeyKind, self_signed},
    },
    shard::{Limits, ListenerKind, TlsOptions},
    uring::Token,
};

const SECOND: Duration = Duration::from_secs(1);
const HELLO: &[u8] = b"GET /user/7 HTTP/1.1\r\nhost: test\r\n\r\n";

#[expect(clippy::disallowed_methods, reason = "certificates have dates")]
fn config() -> Arc<ServerConfig> {
    let identity = self_signed(KeyKind::EcdsaP256, &["localhost"], SystemTime::now()).unwrap();
    let tickets = TicketKeys::new(Instant::now()).unwrap();
    let options = tls::Options { version_min: Version::Tls12, http2: false, client_ca: None };
    Arc::new(ServerConfig::new(&[identity], &options, &tickets).unwrap())
}

static CONFIG: LazyLock<Arc<ServerConfig>> = LazyLock::new(config);
static HOUSEHOLD: LazyLock<Wishes<'static>> = LazyLock::new(Wishes::default);

fn options(hsts_max_age: Option<u64>) -> Option<TlsOptions> {
    Some(TlsOptions { config: Arc::clone(&CONFIG), hsts_max_age, https_port: 8443, alt_svc: None })
}

/// A client on a stage.
struct Visitor {
    token: Token,
    tls: Client,
    plain: Vec<u8>,
    /// The server announced its end.
    ended: bool,
}

impl Visitor {
    fn new(stage: &mut Stage) -> Self {
        let token = stage.connect();
        let tls = Household::new(&HOUSEHOLD).client(Some("localhost"), None);
        Self { token, tls, plain: Vec::new(), ended: false }
    }

    /// After its handshake.
    fn welcome(stage: &mut Stage) -> Self {
        let mut visitor = Self::new(stage);
        visitor.talk(stage);
        assert!(visitor.tls.is_connected());
        visitor
    }

    /// Carries bytes in both directions until there are none.
    fn talk(&mut self, stage: &mut Stage) {
        loop {
            let sent = stage.take_sent(self.token);
            self.ended |= self.tls.handle(&sent, &mut self.plain).unwrap();
            let output = self.tls.output();
            if output.is_empty() {
                return;
            }
            for piece in output.chunks(4096) {
                stage.send(self.token, piece);
            }
        }
    }

    fn ask(&mut self, stage: &mut Stage, request: &[u8]) {
        self.tls.write(request);
        self.talk(stage);
    }

    /// Everything that it has read since the last time.
    fn answer(&mut self, stage: &mut Stage) -> String {
        self.talk(stage);
        String::from_utf8(std::mem::take(&mut self.plain)).unwrap()
    }
}

fn stage() -> Stage {
    Stage::listening(Limits::default(), ListenerKind::Tls, options(None))
}

#[test]
fn requests_over_tls_are_secure_and_answered_on_one_connection() {
    let mut stage = stage();
    let mut visitor = Visitor::welcome(&mut stage);
    for _ in 0..3 {
        visitor.ask(&mut stage, HELLO);
        let id = take_secure(&mut stage);
        stage.respond(id, Some(2), b"ok", true);
        stage.publish();
        let answer = visitor.answer(&mut stage);
        assert!(
            answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\nok"),
            "{answer}"
        );
        assert!(!answer.contains("strict-transport-security"), "{answer}");
    }
    let gauges = (stage.gauge(|g| &g.handshakes), stage.gauge(|g| &g.handshaking));
    assert_eq!((gauges, stage.held()), ((1, 0), (1, 0)));
}

fn take_secure(stage: &mut Stage) -> u64 {
    use crate::ipc::message::ToWorker;
    match stage.lane.receive().unwrap() {
        Some((id, ToWorker::Request(request))) => {
            assert!(request.secure);
            let tls = request.tls.unwrap();
            assert_eq!((tls.version, tls.certificate), (0x0304, None));
            assert!((0x1301..=0x1303).contains(&tls.cipher_suite), "{:04x}", tls.cipher_suite);
            id
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_large_response_passes_in_records() {
    let mut stage = stage();
    let mut visitor = Visitor::welcome(&mut stage);
    visitor.ask(&mut stage, HELLO);
    let id = stage.take();
    let body = vec![b'x'; 60_000];
    stage.respond(id, Some(60_000), &body[..10_000], false);
    assert_eq!(stage.lane.send_body(id, &body[10_000..], true).unwrap(), Some(50_000));
    stage.publish();
    let answer = visitor.answer(&mut stage);
    assert!(answer.ends_with(&"x".repeat(60_000)), "{} bytes", answer.len());
}

#[test]
fn http_in_clear_on_the_tls_port_is_answered_in_clear() {
    let mut stage = stage();
    let client = stage.connect();
    stage.send(client, b"GET / HTTP/1.1\r\nhost: test\r\n\r\n");
    let answer = stage.sent(client);
    assert!(answer.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{answer}");
    assert!(answer.ends_with(r#"{"detail":"This port speaks HTTPS only"}"#), "{answer}");
    stage.finish(client);
    assert_eq!((stage.held(), stage.gauge(|g| &g.handshakes_failed)), ((0, 0), 1));
}

#[test]
fn what_is_not_tls_is_closed_without_a_word() {
    let mut stage = stage();
    let client = stage.connect();
    stage.send(client, b"\x00\x01\x02\x03");
    assert_eq!(stage.sent(client), "");
    stage.finish(client);
    assert_eq!((stage.held(), stage.gauge(|g| &g.handshaking)), ((0, 0), 0));
}

#[test]
fn a_handshake_has_a_deadline_that_no_trickle_moves() {
    let mut stage = stage();
    let mut visitor = Visitor::new(&mut stage);
    visitor.tls.handle(&[], &mut Vec::new()).unwrap();
    let hello = visitor.tls.output();
    for byte in hello.iter().take(4) {
        stage.send(visitor.token, &[*byte]);
        stage.wait(limits::HANDSHAKE_TIMEOUT / 5);
    }
    assert_eq!((stage.held().0, stage.gauge(|g| &g.handshaking)), (1, 1));
    stage.wait(limits::HANDSHAKE_TIMEOUT / 5 + SECOND);
    let gauges = (stage.gauge(|g| &g.handshaking), stage.gauge(|g| &g.handshakes_failed));
    assert_eq!((stage.held().0, gauges), (0, (0, 1)));
}

#[test]
fn the_part_of_a_record_counts_as_the_part_of_a_head() {
    let mut stage = stage();
    let mut visitor = Visitor::welcome(&mut stage);
    visitor.tls.write(HELLO);
    let output = visitor.tls.output();
    stage.send(visitor.token, &output[..20]);
    stage.wait(limits::HEAD_TIMEOUT + SECOND);
    let answer = visitor.answer(&mut stage);
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert!(visitor.ended);
}

#[test]
fn for_one_handshake_too_many_the_oldest_goes() {
    let limits = Limits { handshakes_max: 2, ..Limits::default() };
    let mut stage = Stage::listening(limits, ListenerKind::Tls, options(None));
    // Through: not one of those that count.
    let mut through = Visitor::welcome(&mut stage);
    let mut idle: Vec<Visitor> = (0..3).map(|_| Visitor::new(&mut stage)).collect();
    let gauges = (stage.gauge(|g| &g.handshaking), stage.gauge(|g| &g.handshakes_evicted));
    assert_eq!((stage.held().0, gauges), (3, (2, 1)));
    assert!(!stage.is_receiving(idle.remove(0).token));
    // The others can still go through, and so can new ones.
    for mut visitor in idle {
        visitor.talk(&mut stage);
        assert!(visitor.tls.is_connected());
    }
    for _ in 0..10 {
        Visitor::welcome(&mut stage);
    }
    through.ask(&mut stage, HELLO);
    stage.take();
    assert_eq!(stage.gauge(|g| &g.handshakes), 13);
}

#[test]
fn an_idle_connection_is_ended_with_a_word() {
    let mut stage = stage();
    let mut visitor = Visitor::welcome(&mut stage);
    stage.wait(limits::KEEPALIVE_TIMEOUT + SECOND);
    assert_eq!(visitor.answer(&mut stage), "");
    assert!(visitor.ended, "close_notify came");
    stage.finish(visitor.token);
    assert_eq!(stage.held().0, 0);
}

#[test]
fn draining_ends_idle_connections_with_a_word_and_others_behind_their_response() {
    let mut stage = stage();
    let mut idle = Visitor::welcome(&mut stage);
    let mut busy = Visitor::welcome(&mut stage);
    let shaking = Visitor::new(&mut stage);
    busy.ask(&mut stage, HELLO);
    let id = stage.take();
    stage.drain();
    assert!(!stage.is_receiving(shaking.token), "who has not even begun is let go");
    assert_eq!(idle.answer(&mut stage), "");
    assert!(idle.ended);
    stage.respond(id, Some(2), b"ok", true);
    stage.publish();
    let answer = busy.answer(&mut stage);
    assert!(answer.contains("connection: close\r\n") && answer.ends_with("ok"), "{answer}");
    assert!(busy.ended);
}

#[test]
fn a_client_that_ends_in_order_gets_an_end_in_order() {
    let mut stage = stage();
    let mut visitor = Visitor::welcome(&mut stage);
    visitor.tls.stream.shutdown().unwrap();
    visitor.talk(&mut stage);
    assert!(visitor.ended);
    assert_eq!(stage.held().0, 0);
}

#[test]
fn a_forged_record_is_answered_with_an_alert_and_its_exchange_cancelled() {
    let mut stage = stage();
    let mut visitor = Visitor::welcome(&mut stage);
    visitor.ask(&mut stage, HELLO);
    let id = stage.take();
    visitor.tls.write(b"more");
    let mut output = visitor.tls.output();
    *output.last_mut().unwrap() ^= 1;
    stage.send(visitor.token, &output);
    let sent = stage.take_sent(visitor.token);
    assert!(visitor.tls.handle(&sent, &mut Vec::new()).is_err(), "the alert");
    assert!(stage.lane.send_abort(id).unwrap());
    stage.publish();
    stage.finish(visitor.token);
    assert_eq!(stage.held(), (0, 0));
}

#[test]
fn new_certificates_are_for_new_connections() {
    let mut stage = stage();
    let mut before = Visitor::welcome(&mut stage);
    stage.exchange_certificates(config());
    let mut after = Visitor::welcome(&mut stage);
    let served =
        |visitor: &Visitor| visitor.tls.stream.ssl().peer_certificate().unwrap().to_der().unwrap();
    assert!(served(&before) != served(&after));
    for visitor in [&mut before, &mut after] {
        visitor.ask(&mut stage, HELLO);
        let id = stage.take();
        stage.respond(id, Some(2), b"ok", true);
        stage.publish();
        assert!(visitor.answer(&mut stage).ends_with("ok"));
    }
}

#[test]
fn with_hsts_every_response_over_tls_says_so_and_at_most_once() {
    let mut stage = Stage::listening(Limits::default(), ListenerKind::Tls, options(Some(60)));
    let mut visitor = Visitor::welcome(&mut stage);
    let told = "\r\nstrict-transport-security: max-age=60\r\n";
    visitor.ask(&mut stage, b"GET /nowhere HTTP/1.1\r\nhost: test\r\n\r\n");
    let answer = visitor.answer(&mut stage);
    assert!(answer.starts_with("HTTP/1.1 404 ") && answer.contains(told), "{answer}");

    visitor.ask(&mut stage, HELLO);
    let id = stage.take();
    stage.respond(id, Some(2), b"ok", true);
    stage.publish();
    let answer = visitor.answer(&mut stage);
    assert!(answer.contains(told) && answer.ends_with("\r\n\r\nok"), "{answer}");

    // The application has its own.
    visitor.ask(&mut stage, HELLO);
    let id = stage.take();
    respond_with_own(&mut stage, id);
    stage.publish();
    let answer = visitor.answer(&mut stage);
    assert_eq!(answer.matches("trict-").count(), 1, "{answer}");
}

#[test]
fn where_http3_is_to_be_had_is_said_over_tls_only() {
    let advertising = || {
        let alt_svc = Some("h3=\":443\"; ma=60".to_owned());
        options(Some(60)).map(|options| TlsOptions { alt_svc, ..options })
    };
    let mut stage = Stage::listening(Limits::default(), ListenerKind::Tls, advertising());
    let mut visitor = Visitor::welcome(&mut stage);
    visitor.ask(&mut stage, HELLO);
    let id = stage.take();
    stage.respond(id, Some(2), b"ok", true);
    stage.publish();
    let answer = visitor.answer(&mut stage);
    for told in ["\r\nalt-svc: h3=\":443\"; ma=60\r\n", "\r\nstrict-transport-security: "] {
        assert!(answer.contains(told) && answer.ends_with("\r\n\r\nok"), "{answer}");
    }
    let mut stage = Stage::listening(Limits::default(), ListenerKind::Plain, advertising());
    let client = stage.connect();
    stage.send(client, HELLO);
    let id = stage.take();
    stage.respond(id, Some(2), b"ok", true);
    stage.publish();
    assert!(!stage.sent(client).contains("alt-svc"), "{}", stage.sent(client));
}

fn respond_with_own(stage: &mut Stage, id: u64) {
    use crate::{
        ipc::message::Response,
        span::{Field, Span},
    };
    let blob = b"Strict-Transport-Securitymax-age=1";
    let field = Field { name: Span::new(0, 25).unwrap(), value: Span::new(25, 9).unwrap() };
    let (fields, content_length) = (&[field], Some(0));
    let response = Response { status: 200, fields, blob, content_length, body: b"", end: true };
    assert!(stage.lane.send_response(id, &response).unwrap());
}

#[test]
fn a_redirecting_listener_sends_everything_to_the_tls_port() {
    let mut stage = Stage::listening(Limits::default(), ListenerKind::Redirect, options(Some(60)));
    let client = stage.connect();
    for (request, location) in [
        (
            "GET /a%20b?c=d HTTP/1.1\r\nhost: example.org\r\n\r\n",
            "https://example.org:8443/a%20b?c=d",
        ),
        ("GET / HTTP/1.1\r\nhost: [::1]:8080\r\n\r\n", "https://[::1]:8443/"),
        ("OPTIONS * HTTP/1.1\r\nhost: example.org:80\r\n\r\n", "https://example.org:8443/"),
        (
            "POST /form HTTP/1.1\r\nhost: example.org\r\ncontent-length: 3\r\n\r\nabc",
            "https://example.org:8443/form",
        ),
    ] {
        stage.send(client, request.as_bytes());
        let answer = String::from_utf8(stage.take_sent(client)).unwrap();
        assert!(answer.starts_with("HTTP/1.1 308 Permanent Redirect\r\n"), "{answer}");
        assert!(answer.contains(&format!("\r\nlocation: {location}\r\n")), "{answer}");
        // RFC 6797 §7.2: not in clear.
        assert!(!answer.contains("strict"), "{answer}");
    }
    stage.send(client, b"GET / HTTP/1.0\r\n\r\n");
    let answer = stage.sent(client);
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    assert_eq!(stage.held().1, 0, "no worker hears of it");
}

#[test]
fn plain_connections_carry_no_tls() {
    let mut stage = Stage::new();
    let client = stage.connect();
    stage.send(client, b"GET /nowhere HTTP/1.1\r\nhost: test\r\n\r\n");
    assert!(stage.sent(client).starts_with("HTTP/1.1 404 "));
    assert!(stage.shard.core.connections.iter().all(|(_, connection)| connection.tls.is_none()));
}
