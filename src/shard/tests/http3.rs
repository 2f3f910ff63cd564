//! HTTP/3 connections of a shard, with quiche's client: on a scripted kernel, and over loopback UDP.
#![expect(clippy::disallowed_methods, reason = "quiche goes by the real clock")]

use std::{
    collections::BTreeMap,
    net::{SocketAddr, UdpSocket},
    sync::{Arc, LazyLock},
    time::{Duration, Instant, SystemTime},
};

use quiche::h3::{Header, NameValue};
use rustix::io::Errno;

use super::{Pool, World, script::Stage};
use crate::{
    ipc::message::{Cancellation, ToWorker},
    limits,
    proto::{
        quic::{self, Endpoint, Keys},
        tls::{
            self, ServerConfig, TicketKeys, Version,
            dev::{KeyKind, self_signed},
        },
    },
    shard::{Limits, ListenerKind, Neighbour, QuicOptions, TlsOptions},
    uring::{DatagramBatch, Driver as _, prepare},
};

const CLIENT: &str = "198.51.100.7:5000";
const SERVER: &str = "127.0.0.1:443";

fn config() -> Arc<ServerConfig> {
    let identity = self_signed(KeyKind::EcdsaP256, &["localhost"], SystemTime::now()).unwrap();
    let tickets = TicketKeys::new(Instant::now()).unwrap();
    let options = tls::Options { version_min: Version::Tls12, http2: false, client_ca: None };
    Arc::new(ServerConfig::new(&[identity], &options, &tickets).unwrap())
}

static CONFIG: LazyLock<Arc<ServerConfig>> = LazyLock::new(config);

fn options(shard: u8, keys: &Arc<Keys>, neighbours: Vec<Neighbour>) -> QuicOptions {
    let now = Instant::now();
    let endpoint = quic::Options::default();
    let endpoint = Endpoint::new(shard, Arc::clone(keys), endpoint, &CONFIG, now).unwrap();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    prepare(&socket).unwrap();
    QuicOptions {
        socket: socket.into(),
        port: 443,
        endpoint: Box::new(endpoint),
        qlog_dir: None,
        neighbours,
    }
}

fn stage_of(shard: u8, keys: &Arc<Keys>, neighbours: Vec<Neighbour>) -> Stage {
    let quic = options(shard, keys, neighbours);
    let tls = TlsOptions {
        config: Arc::clone(&CONFIG),
        hsts_max_age: Some(60),
        https_port: 443,
        alt_svc: Some("h3=\":443\"".to_owned()),
    };
    let listener = (ListenerKind::Tls, Some(tls));
    Stage::speaking(Limits::default(), listener, shard.into(), Some(quic))
}

fn stage() -> Stage {
    stage_of(0, &Arc::new(Keys::new(Instant::now()).unwrap()), Vec::new())
}

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// What came of a request.
#[derive(Debug, Default)]
struct Answer {
    fields: Vec<(String, String)>,
    body: Vec<u8>,
    ended: bool,
    reset: Option<u64>,
}

impl Answer {
    fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }
}

/// quiche's client.
struct Visitor {
    quic: quiche::Connection,
    http: Option<quiche::h3::Connection>,
    address: SocketAddr,
    /// Where its packets seem to come from: somebody on the way may have given it another port.
    seen_at: SocketAddr,
    server: SocketAddr,
    answers: BTreeMap<u64, Answer>,
    went_away: bool,
}

impl Visitor {
    fn new(address: SocketAddr, server: SocketAddr) -> Self {
        let mut config = quiche::Config::new(quiche::PROTOCOL_VERSION).unwrap();
        config.set_application_protos(quiche::h3::APPLICATION_PROTOCOL).unwrap();
        config.verify_peer(false);
        config.set_initial_max_data(1 << 24);
        config.set_initial_max_stream_data_bidi_local(1 << 22);
        config.set_initial_max_stream_data_uni(1 << 16);
        config.set_initial_max_streams_uni(10);
        config.set_max_idle_timeout(30_000);
        let mut id = [0; 8];
        boring::rand::rand_bytes(&mut id).unwrap();
        let id = quiche::ConnectionId::from_ref(&id);
        let quic = quiche::connect(Some("localhost"), &id, address, server, &mut config).unwrap();
        Self {
            quic,
            http: None,
            address,
            seen_at: address,
            server,
            answers: BTreeMap::new(),
            went_away: false,
        }
    }

    /// After its handshake with a stage.
    fn welcome(stage: &mut Stage) -> Self {
        let mut visitor = Self::new(address(CLIENT), address(SERVER));
        visitor.talk(stage);
        assert!(visitor.quic.is_established());
        visitor
    }

    fn output(&mut self) -> Vec<Vec<u8>> {
        let mut sent = Vec::new();
        let mut buffer = [0; 1500];
        while let Ok((len, _)) = self.quic.send(&mut buffer) {
            sent.push(buffer[..len].to_vec());
        }
        sent
    }

    fn input(&mut self, datagram: &mut [u8]) {
        let info = quiche::RecvInfo { from: self.server, to: self.address };
        self.quic.recv(datagram, info).unwrap();
        self.look();
    }

    fn look(&mut self) {
        if self.http.is_none() && self.quic.is_established() {
            let config = quiche::h3::Config::new().unwrap();
            let http = quiche::h3::Connection::with_transport(&mut self.quic, &config);
            self.http = Some(http.unwrap());
        }
        let Some(http) = &mut self.http else { return };
        while let Ok((id, event)) = http.poll(&mut self.quic) {
            let answer = self.answers.entry(id).or_default();
            match event {
                quiche::h3::Event::Headers { list, .. } => {
                    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                    let fields = list.iter().map(|f| (text(f.name()), text(f.value())));
                    answer.fields = fields.collect();
                }
                quiche::h3::Event::Data => {
                    let mut piece = [0; 16384];
                    while let Ok(read) = http.recv_body(&mut self.quic, id, &mut piece) {
                        answer.body.extend_from_slice(&piece[..read]);
                    }
                }
                quiche::h3::Event::Finished => answer.ended = true,
                quiche::h3::Event::Reset(code) => answer.reset = Some(code),
                quiche::h3::Event::GoAway => self.went_away = true,
                quiche::h3::Event::PriorityUpdate => {}
            }
        }
    }

    fn ask(&mut self, method: &str, path: &str, end: bool) -> u64 {
        let fields =
            [(":method", method), (":scheme", "https"), (":authority", "test"), (":path", path)];
        let fields = fields.map(|(name, value)| Header::new(name.as_bytes(), value.as_bytes()));
        self.http.as_mut().unwrap().send_request(&mut self.quic, &fields, end).unwrap()
    }

    /// Gives the shard what there is; true if there was something.
    fn give(&mut self, stage: &mut Stage) -> bool {
        let sent = self.output();
        for datagram in &sent {
            stage.datagrams_arrive(self.seen_at, datagram, datagram.len());
        }
        stage.settle();
        stage.catch_up();
        !sent.is_empty()
    }

    /// Takes what the shard sent; true if there was something.
    fn take(&mut self, stage: &mut Stage) -> bool {
        let sent = stage.take_datagrams();
        for batch in &sent {
            for datagram in batch.data.chunks(batch.segment) {
                if batch.to == self.seen_at {
                    self.input(&mut datagram.to_vec());
                }
            }
        }
        !sent.is_empty()
    }

    /// Until neither has anything to say.
    fn talk(&mut self, stage: &mut Stage) {
        for _ in 0..100 {
            if !(self.give(stage) | self.take(stage)) {
                return;
            }
        }
        panic!("they never stop talking");
    }

    /// Until an answer has ended, with timers and all.
    fn wait(&mut self, stage: &mut Stage, asked: u64) -> &Answer {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !self.answers.get(&asked).is_some_and(|answer| answer.ended) {
            assert!(Instant::now() < deadline, "{:?}", self.answers.get(&asked));
            self.give(stage);
            self.take(stage);
            if self.quic.timeout().is_some_and(|left| left.is_zero()) {
                self.quic.on_timeout();
            }
        }
        self.answer(asked)
    }

    fn answer(&self, id: u64) -> &Answer {
        self.answers.get(&id).expect("something came of it")
    }
}

#[test]
fn a_request_reaches_its_worker_and_the_answer_its_client() {
    let mut stage = stage();
    let mut visitor = Visitor::welcome(&mut stage);
    let asked = visitor.ask("GET", "/user/7", true);
    visitor.talk(&mut stage);
    let id = match stage.lane.receive().unwrap() {
        Some((id, ToWorker::Request(request))) => {
            assert!(request.secure && request.version == 30, "{request:?}");
            assert!(request.tls.is_some_and(|tls| tls.version == 0x0304 && tls.cipher_suite > 0));
            id
        }
        other => panic!("{other:?}"),
    };
    stage.respond(id, Some(2), b"ok", true);
    stage.publish();
    stage.catch_up();
    visitor.talk(&mut stage);
    let answer = visitor.answer(asked);
    assert_eq!(
        (answer.field(":status"), &*answer.body, answer.ended),
        (Some("200"), &b"ok"[..], true)
    );
    assert_eq!(answer.field("strict-transport-security"), Some("max-age=60"));
    assert_eq!(answer.field("alt-svc"), None, "it is here already");
    assert_eq!(stage.gauge(|g| &g.quic_connections), 1);
    assert_eq!((stage.gauge(|g| &g.handshakes), stage.gauge(|g| &g.handshaking)), (1, 0));
    let log = stage.log();
    assert!(log.starts_with(CLIENT) && log.contains("\"GET /user/7 HTTP/3.0\" 200 2 "), "{log}");
}

#[test]
fn many_streams_go_at_once_and_each_gets_its_own() {
    let mut stage = stage();
    let mut visitor = Visitor::welcome(&mut stage);
    let asked: Vec<u64> =
        (0..50).map(|n| visitor.ask("GET", &format!("/user/{n}"), true)).collect();
    visitor.talk(&mut stage);
    let taken: Vec<(u64, String)> = (0..50).map(|_| stage.take_tagged()).collect();
    for (id, tag) in taken.into_iter().rev() {
        stage.respond(id, Some(tag.len() as u64), tag.as_bytes(), true);
    }
    stage.publish();
    stage.catch_up();
    visitor.talk(&mut stage);
    for (n, id) in asked.into_iter().enumerate() {
        assert_eq!(visitor.answer(id).body, n.to_string().as_bytes());
    }
}

#[test]
fn datagrams_that_come_together_are_taken_apart() {
    let mut stage = stage();
    let mut visitor = Visitor::welcome(&mut stage);
    let asked = visitor.ask("POST", "/echo", false);
    let http = visitor.http.as_mut().unwrap();
    http.send_body(&mut visitor.quic, asked, &[7; 5000], true).unwrap();
    let sent = visitor.output();
    let segment = sent[0].len();
    let (last, rest) = sent.split_last().unwrap();
    assert!(rest.len() >= 2 && rest.iter().all(|datagram| datagram.len() == segment));
    assert!(last.len() <= segment);
    stage.datagrams_arrive(visitor.address, &sent.concat(), segment);
    stage.settle();
    let (id, mut body, mut over) = match stage.lane.receive().unwrap() {
        Some((id, ToWorker::Request(request))) => (id, request.body.to_vec(), request.end),
        other => panic!("{other:?}"),
    };
    while !over {
        match stage.lane.receive().unwrap() {
            Some((_, ToWorker::Body { data, end })) => {
                body.extend_from_slice(data);
                over = end;
            }
            other => panic!("{id}: {other:?}"),
        }
    }
    assert!(body == [7; 5000]);
}

#[test]
fn a_client_that_resets_its_stream_cancels_its_request_only() {
    let mut stage = stage();
    let mut visitor = Visitor::welcome(&mut stage);
    let (gone, stays) = (visitor.ask("GET", "/user/1", true), visitor.ask("GET", "/user/2", true));
    visitor.talk(&mut stage);
    let (first, second) = (stage.take(), stage.take());
    visitor.quic.stream_shutdown(gone, quiche::Shutdown::Read, 0x10c).unwrap();
    visitor.talk(&mut stage);
    match stage.lane.receive().unwrap() {
        Some((id, ToWorker::Cancel(why))) => {
            assert_eq!((id, why), (first, Cancellation::ClientGone));
        }
        other => panic!("{other:?}"),
    }
    stage.respond(second, Some(2), b"ok", true);
    stage.publish();
    stage.catch_up();
    visitor.talk(&mut stage);
    assert_eq!(visitor.answer(stays).body, b"ok");
    assert_eq!(stage.gauge(|g| &g.abandoned), 1);
}

#[test]
fn a_client_that_moves_keeps_its_requests_and_is_known_by_its_new_address() {
    let mut stage = stage();
    let mut visitor = Visitor::welcome(&mut stage);
    let before = visitor.ask("GET", "/user/1", true);
    visitor.talk(&mut stage);
    let id = stage.take();
    // The client knows nothing of it.
    visitor.seen_at = address("198.51.100.7:5999");
    let after = visitor.ask("GET", "/user/2", true);
    visitor.talk(&mut stage);
    let other = stage.take();
    let third = visitor.ask("GET", "/user/3", true);
    visitor.talk(&mut stage);
    for id in [id, other, stage.take()] {
        stage.respond(id, Some(2), b"ok", true);
    }
    stage.publish();
    stage.catch_up();
    visitor.talk(&mut stage);
    for id in [before, after, third] {
        assert_eq!(visitor.answer(id).body, b"ok");
    }
    assert!(stage.log().contains("198.51.100.7:5999 "), "the last request came from there");
    assert_eq!(stage.gauge(|g| &g.quic_connections), 1);
}

#[test]
fn a_client_that_moves_in_the_middle_of_a_response_gets_all_of_it() {
    let mut stage = stage();
    let mut visitor = Visitor::welcome(&mut stage);
    let asked = visitor.ask("GET", "/user/1", true);
    visitor.talk(&mut stage);
    let id = stage.take();
    let body: Vec<u8> = (0..=250).cycle().take(60_000).collect();
    stage.respond(id, Some(60_000), &body[..16_000], false);
    assert_eq!(stage.lane.send_body(id, &body[16_000..], true).unwrap(), Some(44_000));
    stage.publish();
    stage.catch_up();
    // What was sent goes to an address where nobody is any more.
    let lost = stage.take_datagrams();
    assert!(lost.iter().map(|batch| batch.data.len()).sum::<usize>() > 10_000);
    visitor.seen_at = address("198.51.100.7:5999");
    visitor.quic.send_ack_eliciting().unwrap();
    assert!(visitor.wait(&mut stage, asked).body == body);
}

#[test]
fn what_tells_of_a_loss_on_a_path_that_was_left_may_be_lost_itself() {
    let mut stage = stage();
    let mut visitor = Visitor::welcome(&mut stage);
    let asked = visitor.ask("GET", "/user/1", true);
    visitor.talk(&mut stage);
    let id = stage.take();
    stage.respond(id, Some(6_000), &[7; 6_000], true);
    stage.publish();
    stage.catch_up();
    assert!(!stage.take_datagrams().is_empty(), "nobody is there to get them");
    visitor.seen_at = address("198.51.100.7:5999");
    visitor.quic.send_ack_eliciting().unwrap();
    visitor.give(&mut stage);
    let ping = |batch: &DatagramBatch| batch.data.len() <= limits::QUIC_PING_SIZE_MAX;
    let lost = stage.take_datagrams();
    assert!(lost.iter().any(|batch| batch.to == visitor.seen_at && ping(batch)), "{lost:?}");
    assert!(visitor.wait(&mut stage, asked).body == [7; 6_000]);
}

#[test]
fn a_client_whose_proof_of_its_new_address_is_lost_is_asked_again() {
    let mut stage = stage();
    let mut visitor = Visitor::welcome(&mut stage);
    visitor.seen_at = address("198.51.100.7:5999");
    visitor.quic.send_ack_eliciting().unwrap();
    visitor.give(&mut stage);
    // What it answers to the challenge is lost; it does not say so again, but acknowledges what came.
    visitor.take(&mut stage);
    assert!(!visitor.output().is_empty());
    visitor.quic.send_ack_eliciting().unwrap();
    visitor.talk(&mut stage);
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        // Large enough to earn what asking again takes.
        let asked = visitor.ask("GET", &format!("/user/1?{}", "x".repeat(3000)), true);
        visitor.talk(&mut stage);
        let id = stage.take();
        stage.respond(id, Some(2), b"ok", true);
        stage.publish();
        assert!(visitor.wait(&mut stage, asked).body == b"ok");
        if stage.log().contains("198.51.100.7:5999 ") {
            break;
        }
        assert!(Instant::now() < deadline, "it is not known by its new address");
    }
}

#[test]
fn a_datagram_at_the_wrong_shard_is_handed_on() {
    let keys = Arc::new(Keys::new(Instant::now()).unwrap());
    let mut right = stage_of(1, &keys, Vec::new());
    let mut visitor = Visitor::welcome(&mut right);
    let neighbours = vec![right.neighbour(), right.neighbour()];
    let mut wrong = stage_of(0, &keys, neighbours);
    let asked = visitor.ask("GET", "/user/1", true);
    for datagram in visitor.output() {
        wrong.datagrams_arrive(visitor.address, &datagram, datagram.len());
    }
    wrong.settle();
    assert_eq!(wrong.gauge(|g| &g.datagrams_forwarded), 1);
    assert!(wrong.take_datagrams().is_empty());
    right.obey();
    let id = right.take();
    right.respond(id, Some(2), b"ok", true);
    right.publish();
    right.catch_up();
    visitor.take(&mut right);
    assert_eq!(visitor.answer(asked).body, b"ok");
}

#[test]
fn more_than_the_right_shard_takes_is_dropped() {
    let keys = Arc::new(Keys::new(Instant::now()).unwrap());
    let mut right = stage_of(1, &keys, Vec::new());
    let mut visitor = Visitor::welcome(&mut right);
    let neighbours = vec![right.neighbour(), right.neighbour()];
    let mut wrong = stage_of(0, &keys, neighbours);
    visitor.ask("GET", "/user/1", true);
    let datagram = visitor.output().remove(0);
    for _ in 0..limits::FORWARDS_MAX + 50 {
        wrong.datagrams_arrive(visitor.address, &datagram, datagram.len());
        wrong.settle();
    }
    assert_eq!(wrong.gauge(|g| &g.datagrams_dropped), 50);
    right.obey();
    right.take();
}

#[test]
fn receiving_is_started_again_whenever_it_ends() {
    let mut stage = stage();
    for error in [Errno::NOBUFS, Errno::CANCELED] {
        stage.receive_ends(error);
        assert!(stage.is_receiving_datagrams());
    }
    // What may not go away at once is tried again later.
    stage.receive_ends(Errno::NOMEM);
    assert!(!stage.is_receiving_datagrams());
    stage.wait(limits::SWEEP_INTERVAL * 2);
    assert!(stage.is_receiving_datagrams());
    let mut visitor = Visitor::welcome(&mut stage);
    visitor.talk(&mut stage);
}

#[test]
fn a_draining_shard_says_so_serves_what_it_has_and_ends() {
    let mut stage = stage();
    let mut visitor = Visitor::welcome(&mut stage);
    let asked = visitor.ask("GET", "/user/1", true);
    visitor.talk(&mut stage);
    let id = stage.take();
    stage.drain();
    visitor.talk(&mut stage);
    assert!(visitor.went_away, "GOAWAY");
    let mut late = Visitor::new(address("198.51.100.8:1"), address(SERVER));
    late.give(&mut stage);
    assert!(stage.take_datagrams().iter().all(|batch| batch.to != late.address));
    stage.respond(id, Some(2), b"ok", true);
    stage.publish();
    stage.catch_up();
    for _ in 0..20 {
        visitor.talk(&mut stage);
        stage.wait(Duration::from_millis(300));
    }
    assert_eq!(visitor.answer(asked).body, b"ok");
    visitor.take(&mut stage);
    assert!(!stage.turn(), "nothing is left");
}

#[test]
fn a_client_that_vanished_behind_its_last_request_does_not_hold_up_a_draining_shard() {
    let mut stage = stage();
    let mut visitor = Visitor::welcome(&mut stage);
    visitor.ask("GET", "/user/1", true);
    visitor.talk(&mut stage);
    let id = stage.take();
    stage.respond(id, Some(2), b"ok", true);
    stage.publish();
    stage.catch_up();
    // Nobody acknowledges it, now or later.
    assert!(!stage.take_datagrams().is_empty());
    stage.drain_within(Duration::from_secs(25));
    let started = stage.shard.driver.now();
    while stage.turn() {
        stage.take_datagrams();
        stage.wait(Duration::from_millis(100));
        let waited = stage.shard.driver.now() - started;
        assert!(waited < limits::H3_LEAVE_TIMEOUT + Duration::from_secs(1), "{waited:?}");
    }
    let waited = stage.shard.driver.now() - started;
    assert!(waited >= limits::H3_LEAVE_TIMEOUT, "{waited:?}: it may only be slow");
}

#[test]
fn whoever_is_left_when_the_time_for_draining_is_over_is_told_and_let_go() {
    let mut stage = stage();
    let mut visitor = Visitor::welcome(&mut stage);
    visitor.ask("GET", "/user/1", true);
    visitor.talk(&mut stage);
    let id = stage.take();
    stage.drain();
    stage.wait(Duration::from_secs(3));
    visitor.take(&mut stage);
    assert!(
        visitor.quic.peer_error().is_some_and(|error| error.is_app && error.error_code == 0x100)
    );
    match stage.lane.receive().unwrap() {
        Some((of, ToWorker::Cancel(why))) => {
            assert_eq!((of, why), (id, Cancellation::ServerLeaves));
        }
        other => panic!("{other:?}"),
    }
    assert!(!stage.turn());
}

#[test]
fn garbage_and_strangers_leave_nothing_behind() {
    let mut stage = stage();
    let from = address("203.0.113.5:9");
    for len in [1, 20, 100, 1200, 1400] {
        for first in [0x40, 0xc0, 0xff] {
            let mut datagram = vec![0x5a; len];
            datagram[0] = first;
            stage.datagrams_arrive(from, &datagram, len);
        }
    }
    stage.settle();
    let answered: usize = stage.take_datagrams().iter().map(|batch| batch.data.len()).sum();
    // Version Negotiation, for those that are long enough to be asked about.
    assert!(answered < 4 * 1200, "{answered}");
    assert_eq!(stage.gauge(|g| &g.quic_connections), 0);
    assert!(stage.gauge(|g| &g.datagrams_dropped) >= 10);
}

#[test]
fn certificates_are_exchanged_under_connections() {
    let mut stage = stage();
    let mut early = Visitor::welcome(&mut stage);
    let before = early.quic.peer_cert().unwrap().to_vec();
    stage.exchange_certificates(config());
    let mut late = Visitor::new(address("198.51.100.8:1"), address(SERVER));
    late.talk(&mut stage);
    assert!(late.quic.peer_cert().is_some_and(|after| after != before));
    early.ask("GET", "/user/1", true);
    early.talk(&mut stage);
    stage.take();
}

/// Over loopback, against a shard on its thread.
#[test]
fn a_long_response_and_a_long_request_pass_over_the_real_kernel() {
    let keys = Arc::new(Keys::new(Instant::now()).unwrap());
    let mut quic = options(0, &keys, Vec::new());
    let socket = UdpSocket::from(quic.socket);
    let server = socket.local_addr().unwrap();
    quic.port = server.port();
    quic.socket = socket.into();
    let pool = Pool::of(World::speaking(Limits::default(), Some(quic)));
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut visitor = Visitor::new(socket.local_addr().unwrap(), server);
    let deadline = Instant::now() + Duration::from_secs(60);
    let (mut big, mut echo, mut left) = (None, None, 2_000_000);
    loop {
        assert!(Instant::now() < deadline, "it takes too long");
        for datagram in visitor.output() {
            socket.send_to(&datagram, server).unwrap();
        }
        let timeout = visitor.quic.timeout().unwrap_or(Duration::from_secs(1));
        socket.set_read_timeout(Some(timeout.max(Duration::from_millis(1)))).unwrap();
        let mut buffer = [0; 2000];
        match socket.recv(&mut buffer) {
            Ok(len) => visitor.input(&mut buffer[..len]),
            Err(_) => visitor.quic.on_timeout(),
        }
        if visitor.http.is_none() {
            continue;
        }
        let get = *big.get_or_insert_with(|| visitor.ask("GET", "/big", true));
        let post = *echo.get_or_insert_with(|| visitor.ask("POST", "/echo", false));
        let http = visitor.http.as_mut().unwrap();
        while left > 0 {
            let piece = &[b'x'; 16384][..left.min(16384)];
            let end = piece.len() == left;
            let Ok(taken) = http.send_body(&mut visitor.quic, post, piece, end) else { break };
            left -= taken;
        }
        let ended = |id| visitor.answers.get(&id).is_some_and(|answer| answer.ended);
        if ended(get) && ended(post) {
            assert_eq!(visitor.answer(get).body.len(), 20_000_000);
            assert!(
                visitor.answer(get).body.iter().zip((b'a'..=b'z').cycle()).all(|(a, b)| *a == b)
            );
            assert!(visitor.answer(post).body == vec![b'x'; 2_000_000]);
            break;
        }
    }
    visitor.quic.close(true, 0x100, b"").unwrap();
    for datagram in visitor.output() {
        socket.send_to(&datagram, server).unwrap();
    }
    assert!(pool.end().is_empty());
}
