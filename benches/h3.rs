//! What an HTTP/3 request costs, from the datagrams that ask to the datagrams that answer, QUIC and its cryptography
//! included: with the engine, and with `quiche::h3` as a server. Both have the same client, whose share is in both figures.
//!
//! Ten requests at a time, each with the fields of a plain client and a body of 27 bytes in its answer.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "criterion makes public functions; a benchmark may stop where it stands, and has the system's clock"
)]

use std::{hint::black_box, net::SocketAddr, time::Instant};

use boring::{
    asn1::Asn1Time,
    bn::BigNum,
    ec::{EcGroup, EcKey},
    hash::MessageDigest,
    nid::Nid,
    pkey::PKey,
    ssl::{SslContextBuilder, SslMethod},
    x509::{X509, X509Name},
};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use fasterapi::{
    proto::{
        h3::{Buffers, H3, Options, bound},
        head::{BodyLength, RequestHead, ResponseHead},
        stream::{Event, Requests, Responses},
    },
    span::{Field, Span},
};
use quiche::{ConnectionId, RecvInfo, h3};

const REQUESTS: u64 = 10;
const BODY: &[u8] = br#"{"message":"Hello, World!"}"#;
const DATE: &[u8] = b"Sun, 06 Nov 1994 08:49:37 GMT";

fn addresses() -> (SocketAddr, SocketAddr) {
    ("192.0.2.1:443".parse().unwrap(), "192.0.2.2:50000".parse().unwrap())
}

/// A certificate that signs itself.
fn context() -> SslContextBuilder {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
    let key = PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap();
    let mut name = X509Name::builder().unwrap();
    name.append_entry_by_text("CN", "localhost").unwrap();
    let name = name.build();
    let mut certificate = X509::builder().unwrap();
    certificate.set_version(2).unwrap();
    certificate
        .set_serial_number(&BigNum::from_u32(1).unwrap().to_asn1_integer().unwrap())
        .unwrap();
    certificate.set_subject_name(&name).unwrap();
    certificate.set_issuer_name(&name).unwrap();
    certificate.set_pubkey(&key).unwrap();
    certificate.set_not_before(&Asn1Time::days_from_now(0).unwrap()).unwrap();
    certificate.set_not_after(&Asn1Time::days_from_now(2).unwrap()).unwrap();
    certificate.sign(&key, MessageDigest::sha256()).unwrap();
    let mut context = SslContextBuilder::new(SslMethod::tls()).unwrap();
    context.set_certificate(&certificate.build()).unwrap();
    context.set_private_key(&key).unwrap();
    context
}

fn server_config() -> quiche::Config {
    let mut config =
        quiche::Config::with_boring_ssl_ctx_builder(quiche::PROTOCOL_VERSION, context()).unwrap();
    bound(&mut config).unwrap();
    config.set_max_send_udp_payload_size(1350);
    config
}

fn client_config() -> quiche::Config {
    let mut config = quiche::Config::new(quiche::PROTOCOL_VERSION).unwrap();
    config.set_application_protos(h3::APPLICATION_PROTOCOL).unwrap();
    config.verify_peer(false);
    config.set_max_send_udp_payload_size(1350);
    config.set_initial_max_data(10_000_000);
    config.set_initial_max_stream_data_bidi_local(1_000_000);
    config.set_initial_max_stream_data_uni(10_000);
    config.set_initial_max_streams_uni(3);
    config
}

/// Whoever answers: takes datagrams, and appends those that it sends, each with its length before it.
trait Server {
    fn take(&mut self, datagram: &mut [u8], info: RecvInfo);
    fn serve(&mut self) -> u64;
    fn send(&mut self, each: &mut dyn FnMut(&mut [u8]));
}

struct Engine {
    engine: H3,
    head: RequestHead,
    blob: Vec<u8>,
    field: Field,
    out: Vec<u8>,
    now: Instant,
}

impl Engine {
    fn new() -> Self {
        let (server, client) = addresses();
        let id = ConnectionId::from_ref(&[7; 16]);
        let config = &mut server_config();
        let quic =
            quiche::accept_with_buf_factory::<Buffers>(&id, None, server, client, config).unwrap();
        let now = Instant::now();
        let span = |start, len| Span::new(start, len).unwrap();
        Self {
            engine: H3::new(quic, Options::default(), now),
            head: RequestHead::default(),
            blob: b"content-typeapplication/json".to_vec(),
            field: Field { name: span(0, 12), value: span(12, 16) },
            out: Vec::new(),
            now,
        }
    }
}

impl Server for Engine {
    fn take(&mut self, datagram: &mut [u8], info: RecvInfo) {
        self.engine.handle(datagram, info, self.now).unwrap();
    }

    fn serve(&mut self) -> u64 {
        let mut served = 0;
        while let Some(event) = self.engine.poll_event(&mut self.head, self.now) {
            let Event::Request { stream, .. } = event else { panic!("{event:?}") };
            let head = ResponseHead {
                status: 200,
                blob: &self.blob,
                fields: &[self.field],
                body: BodyLength::Known(BODY.len() as u64),
            };
            self.engine.respond(stream, &head, DATE, false).unwrap();
            assert_eq!(self.engine.body(stream, BODY, true, self.now), Ok(BODY.len()));
            served += 1;
        }
        served
    }

    fn send(&mut self, each: &mut dyn FnMut(&mut [u8])) {
        while let Some(batch) = self.engine.output(&mut self.out, self.now) {
            self.out.chunks_mut(batch.segment).for_each(&mut *each);
            self.out.clear();
        }
    }
}

struct Library {
    quic: quiche::Connection,
    http: Option<h3::Connection>,
    response: Vec<h3::Header>,
    out: Vec<u8>,
}

impl Library {
    fn new() -> Self {
        let (server, client) = addresses();
        let id = ConnectionId::from_ref(&[7; 16]);
        let quic = quiche::accept(&id, None, server, client, &mut server_config()).unwrap();
        let length = BODY.len().to_string();
        let response = vec![
            h3::Header::new(b":status", b"200"),
            h3::Header::new(b"content-type", b"application/json"),
            h3::Header::new(b"content-length", length.as_bytes()),
            h3::Header::new(b"date", DATE),
            h3::Header::new(b"server", b"fasterapi"),
        ];
        Self { quic, http: None, response, out: vec![0; 1350] }
    }
}

impl Server for Library {
    fn take(&mut self, datagram: &mut [u8], info: RecvInfo) {
        self.quic.recv(datagram, info).unwrap();
    }

    fn serve(&mut self) -> u64 {
        if self.http.is_none() && self.quic.is_established() {
            let config = h3::Config::new().unwrap();
            self.http = Some(h3::Connection::with_transport(&mut self.quic, &config).unwrap());
        }
        let Some(http) = &mut self.http else { return 0 };
        let mut served = 0;
        loop {
            match http.poll(&mut self.quic) {
                Ok((id, h3::Event::Headers { list, .. })) => {
                    black_box(list);
                    http.send_response(&mut self.quic, id, &self.response, false).unwrap();
                    http.send_body(&mut self.quic, id, BODY, true).unwrap();
                    served += 1;
                }
                Ok(_) => {}
                Err(_) => return served,
            }
        }
    }

    fn send(&mut self, each: &mut dyn FnMut(&mut [u8])) {
        while let Ok((len, _)) = self.quic.send(&mut self.out) {
            each(&mut self.out[..len]);
        }
    }
}

struct Pair<S> {
    server: S,
    client: quiche::Connection,
    http: Option<h3::Connection>,
    request: Vec<h3::Header>,
    buffer: Vec<u8>,
}

impl<S: Server> Pair<S> {
    fn new(server: S) -> Self {
        let (to, from) = addresses();
        let id = ConnectionId::from_ref(&[9; 16]);
        let client =
            quiche::connect(Some("localhost"), &id, from, to, &mut client_config()).unwrap();
        let request = vec![
            h3::Header::new(b":method", b"GET"),
            h3::Header::new(b":scheme", b"https"),
            h3::Header::new(b":authority", b"localhost:8443"),
            h3::Header::new(b":path", b"/hello"),
            h3::Header::new(b"user-agent", b"h2load nghttp2/1.52.0"),
            h3::Header::new(b"accept", b"*/*"),
        ];
        let mut pair = Self { server, client, http: None, request, buffer: vec![0; 1350] };
        for _ in 0..10 {
            pair.flights();
        }
        let config = h3::Config::new().unwrap();
        pair.http = Some(h3::Connection::with_transport(&mut pair.client, &config).unwrap());
        for _ in 0..100 {
            pair.requests();
        }
        pair
    }

    /// What either side has to send; requests that were answered.
    fn flights(&mut self) -> u64 {
        let (to, from) = addresses();
        while let Ok((len, _)) = self.client.send(&mut self.buffer) {
            self.server.take(&mut self.buffer[..len], RecvInfo { from, to });
        }
        let served = self.server.serve();
        let client = &mut self.client;
        self.server.send(&mut |datagram| {
            client.recv(datagram, RecvInfo { from: to, to: from }).unwrap();
        });
        served
    }

    fn requests(&mut self) {
        let http = self.http.as_mut().unwrap();
        for _ in 0..REQUESTS {
            http.send_request(&mut self.client, &self.request, true).unwrap();
        }
        let (mut served, mut answered) = (0, 0);
        while answered < REQUESTS {
            served += self.flights();
            let http = self.http.as_mut().unwrap();
            let mut body = [0; 64];
            loop {
                match http.poll(&mut self.client) {
                    Ok((id, h3::Event::Data)) => {
                        assert_eq!(http.recv_body(&mut self.client, id, &mut body), Ok(BODY.len()));
                    }
                    Ok((_, h3::Event::Finished)) => answered += 1,
                    Ok(_) => {}
                    Err(_) => break,
                }
            }
        }
        assert_eq!(served, REQUESTS);
    }
}

fn requests(c: &mut Criterion) {
    let mut group = c.benchmark_group("10 GETs over QUIC");
    group.throughput(Throughput::Elements(REQUESTS));
    group.bench_function("engine", |b| {
        let mut pair = Pair::new(Engine::new());
        b.iter(|| pair.requests());
    });
    group.bench_function("library", |b| {
        let mut pair = Pair::new(Library::new());
        b.iter(|| pair.requests());
    });
    group.finish();
}

criterion_group!(benches, requests);
criterion_main!(benches);
