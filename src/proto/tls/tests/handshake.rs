//! What the two sides agree upon, and who is turned away.

use boring::{ssl::SslVersion, x509::X509};

use super::world::{AUTHORITY, Authority, Failure, OPTIONS, Pipe, SERVER, file, keys, now, server};
use crate::proto::tls::{
    ClientCa, ClientCertificate, Options, ServerConfig, TlsError, Version,
    client::{Household, Wishes},
    dev::{KeyKind, LOCAL_NAMES, self_signed},
};

fn only(version: SslVersion) -> Wishes<'static> {
    Wishes { version_min: Some(version), version_max: Some(version), ..Wishes::default() }
}

#[test]
fn both_versions_work_however_the_bytes_are_cut() {
    let config = server(&OPTIONS);
    for (wanted, version) in
        [(SslVersion::TLS1_2, Version::Tls12), (SslVersion::TLS1_3, Version::Tls13)]
    {
        for piece in [1, 2, 5, 6, 100, 1460, usize::MAX] {
            let household = Household::new(&only(wanted));
            let mut pipe = Pipe::new(&config, household.client(Some("example.org"), None));
            pipe.exchange(piece).unwrap();
            assert_eq!(pipe.session.version(), Some(version));
            assert_eq!(pipe.session.sni(), Some("example.org"));
            assert!(!pipe.session.resumed());
            pipe.talk(piece, b"GET / HTTP/1.1\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n");
        }
    }
}

#[test]
fn rsa_serves_both_versions() {
    let identity = self_signed(KeyKind::Rsa2048, &["localhost"], now()).unwrap();
    let config = ServerConfig::new(&[identity], &OPTIONS, &keys()).unwrap();
    for (version, suite) in [
        (SslVersion::TLS1_2, "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"),
        (SslVersion::TLS1_3, "TLS_AES_128_GCM_SHA256"),
    ] {
        let pipe = Pipe::open(&config, &only(version));
        assert_eq!(pipe.session.cipher().unwrap().1, suite);
    }
}

#[test]
fn older_versions_are_turned_away_with_an_alert() {
    for (min, wanted) in [
        (Version::Tls12, SslVersion::TLS1),
        (Version::Tls12, SslVersion::TLS1_1),
        (Version::Tls13, SslVersion::TLS1_2),
    ] {
        let config = server(&Options { version_min: min, ..OPTIONS });
        let Err(Failure { session, client }) = Pipe::try_open(&config, &only(wanted)) else {
            panic!("{wanted:?} was accepted");
        };
        assert_eq!(session, Some(TlsError::Handshake("UNSUPPORTED_PROTOCOL".to_owned())));
        assert!(client.unwrap().to_string().contains("PROTOCOL_VERSION"));
    }
}

fn served(pipe: &Pipe) -> X509 {
    pipe.client.stream.ssl().peer_certificate().unwrap()
}

#[test]
fn the_certificate_is_that_of_the_name_that_the_client_asks_for() {
    let first = AUTHORITY.issue(&["first.example"]);
    let exact = AUTHORITY.issue(&["a.example.org", "example.org"]);
    let wildcard = AUTHORITY.issue(&["*.Example.org"]);
    let identities = [&first, &wildcard, &exact].map(super::world::Pair::identity);
    let config = ServerConfig::new(&identities, &OPTIONS, &keys()).unwrap();
    for (name, expected) in [
        (None, &first),
        (Some("first.example"), &first),
        (Some("unknown.example"), &first),
        (Some("example.org"), &exact),
        // The exact name counts, although the wildcard was configured before it.
        (Some("a.example.org"), &exact),
        (Some("A.EXAMPLE.ORG"), &exact),
        (Some("b.example.org"), &wildcard),
        // One label, not two.
        (Some("c.b.example.org"), &first),
    ] {
        for version in [SslVersion::TLS1_2, SslVersion::TLS1_3] {
            let pipe = Pipe::open(&config, &Wishes { name, ..only(version) });
            let right = served(&pipe).to_der().unwrap() == expected.certificate.to_der().unwrap();
            assert!(right, "{name:?} got {:?}", served(&pipe).subject_name());
        }
    }
}

#[test]
fn of_two_certificates_for_one_name_the_first_counts() {
    let (one, two) = (AUTHORITY.issue(&["example.org"]), AUTHORITY.issue(&["example.org"]));
    let config = ServerConfig::new(&[one.identity(), two.identity()], &OPTIONS, &keys()).unwrap();
    let pipe = Pipe::open(&config, &Wishes { name: Some("example.org"), ..Wishes::default() });
    assert!(served(&pipe).to_der().unwrap() == one.certificate.to_der().unwrap());
}

#[test]
fn issuers_of_the_file_are_sent_along() {
    let pair = AUTHORITY.issue(&["example.org"]);
    let mut pem = pair.certificate_pem();
    pem.extend(AUTHORITY.certificate.to_pem().unwrap());
    let key = pair.key_pem();
    let identity =
        crate::proto::tls::Identity::from_pem(&file("a", &pem), &file("b", &key), now()).unwrap();
    let config = ServerConfig::new(&[identity], &OPTIONS, &keys()).unwrap();
    let pipe = Pipe::open(&config, &Wishes::default());
    assert_eq!(pipe.client.stream.ssl().peer_cert_chain().unwrap().len(), 2);
}

#[test]
fn the_application_protocol_is_ours_to_choose_and_must_be_one_of_ours() {
    let h1: &[u8] = b"\x08http/1.1";
    let both: &[u8] = b"\x08http/1.1\x02h2";
    for (http2, offered, agreed) in [
        (true, &b""[..], None),
        (true, h1, Some("http/1.1")),
        (true, both, Some("h2")),
        (false, both, Some("http/1.1")),
    ] {
        let config = server(&Options { http2, ..OPTIONS });
        let pipe = Pipe::open(&config, &Wishes { protocols: offered, ..Wishes::default() });
        assert_eq!(pipe.session.alpn(), agreed.map(str::as_bytes));
    }
    let config = server(&Options { http2: false, ..OPTIONS });
    let failure = Pipe::try_open(&config, &Wishes { protocols: b"\x02h2", ..Wishes::default() });
    let Err(Failure { session, client }) = failure else { panic!("h2 was accepted") };
    assert_eq!(session, Some(TlsError::Handshake("NO_APPLICATION_PROTOCOL".to_owned())));
    assert!(client.unwrap().to_string().contains("NO_APPLICATION_PROTOCOL"));
}

fn with_client_ca(authority: &Authority) -> Options {
    let pem = authority.certificate.to_pem().unwrap();
    Options { client_ca: Some(ClientCa::from_pem(&file("ca.pem", &pem)).unwrap()), ..OPTIONS }
}

#[test]
fn with_client_ca_only_its_clients_get_in() {
    let config = server(&with_client_ca(&AUTHORITY));
    let (good, stranger) = (AUTHORITY.issue(&["client"]), Authority::new("other").issue(&["x"]));
    let past = AUTHORITY.issue_at(KeyKind::EcdsaP256, &["old"], now() - super::world::LONG);
    for version in [SslVersion::TLS1_2, SslVersion::TLS1_3] {
        let wishes = Wishes { certificate: Some((&good.certificate, &good.key)), ..only(version) };
        let mut pipe = Pipe::open(&config, &wishes);
        pipe.talk(usize::MAX, b"ping", b"pong");
        let peer = pipe.session.peer_certificates().unwrap();
        assert!(peer == [good.certificate.to_der().unwrap()]);

        for (certificate, blame) in [
            (None, "none was sent"),
            (
                Some((&stranger.certificate, &stranger.key)),
                "unable to get local issuer certificate",
            ),
            (Some((&past.certificate, &past.key)), "certificate has expired"),
        ] {
            // In TLS 1.3 the client takes its handshake for complete before it is turned away (RFC 8446 §4.4.2.4).
            let failure = Pipe::try_open(&config, &Wishes { certificate, ..only(version) });
            let Err(Failure { session, client }) = failure else { panic!("{blame} got in") };
            assert_eq!(session, Some(TlsError::ClientCertificate(blame.to_owned())));
            assert!(client.is_some(), "the client was told");
        }
    }
}

#[test]
fn a_client_is_named_as_its_certificate_says_in_so_many_bytes_as_there_are() {
    let config = server(&with_client_ca(&AUTHORITY));
    let good = AUTHORITY.issue(&["client"]);
    let wishes = Wishes { certificate: Some((&good.certificate, &good.key)), ..Wishes::default() };
    let mut pipe = Pipe::open(&config, &wishes);
    pipe.talk(usize::MAX, b"ping", b"pong");
    let der = good.certificate.to_der().unwrap();
    let found = |size_max| pipe.session.client_certificate(size_max).unwrap().unwrap();
    let all = found(4096);
    assert_eq!((all.subject.as_str(), all.issuer.as_str()), ("CN=client", "CN=tests"));
    assert!(all.chain == der);
    let names = found(der.len() - 1);
    assert_eq!((names.subject.as_str(), names.chain.len()), ("CN=client", 0));
    assert_eq!(found(der.len() + 8), ClientCertificate { subject: String::new(), ..all });
    assert_eq!(found(0), ClientCertificate::default());
}

#[test]
fn without_client_ca_no_certificate_is_asked_for() {
    let good = AUTHORITY.issue(&["client"]);
    let wishes = Wishes { certificate: Some((&good.certificate, &good.key)), ..Wishes::default() };
    let pipe = Pipe::open(&server(&OPTIONS), &wishes);
    assert!(pipe.session.peer_certificates().unwrap().is_empty());
    assert_eq!(pipe.session.client_certificate(4096).unwrap(), None);
}

#[test]
fn a_client_that_does_not_trust_us_is_quoted() {
    let other = Authority::new("other");
    for version in [SslVersion::TLS1_2, SslVersion::TLS1_3] {
        let wishes = Wishes { trusted: Some(&other.certificate), ..only(version) };
        let Err(Failure { session, .. }) = Pipe::try_open(&server(&OPTIONS), &wishes) else {
            panic!("the client trusted us");
        };
        assert_eq!(session, Some(TlsError::Alert("TLSV1_ALERT_UNKNOWN_CA".to_owned())));
    }
    let wishes = Wishes { trusted: Some(&AUTHORITY.certificate), ..Wishes::default() };
    Pipe::open(&server(&OPTIONS), &wishes);
}

#[test]
fn development_certificates_are_for_this_machine() {
    let identity = self_signed(KeyKind::EcdsaP256, &LOCAL_NAMES, now()).unwrap();
    assert_eq!(identity.names(), ["localhost"]);
    let config = ServerConfig::new(&[identity], &OPTIONS, &keys()).unwrap();
    let pipe = Pipe::open(&config, &Wishes { name: Some("localhost"), ..Wishes::default() });
    let certificate = served(&pipe);
    for address in ["127.0.0.1", "::1"] {
        assert!(certificate.check_ip_asc(address).unwrap(), "{address}");
    }
    assert!(certificate.check_host("localhost").unwrap());
    assert!(certificate.verify(&certificate.public_key().unwrap()).unwrap(), "self-signed");
}

#[test]
fn a_configuration_without_a_certificate_is_refused() {
    assert!(ServerConfig::new(&[], &OPTIONS, &keys()).is_err());
}

#[test]
fn a_session_keeps_the_configuration_that_it_began_with() {
    let config = server(&OPTIONS);
    let household = Household::new(&Wishes::default());
    let mut pipe = Pipe::new(&config, household.client(None, None));
    drop(config);
    pipe.exchange(usize::MAX).unwrap();
    pipe.talk(usize::MAX, b"still", b"here");
    assert!(served(&pipe).to_der().unwrap() == SERVER.certificate.to_der().unwrap());
}
