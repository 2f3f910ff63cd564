//! A client's QUIC and an engine, joined in memory, for tests and fuzzing.
//!
//! Invariant: datagrams go through a link that may lose, delay and reorder them, by numbers that a seed gives. Every output of
//! the engine is held to what a [`Batch`] promises. Time is real for quiche, which asks for no other, and virtual for the
//! engine.

#![allow(clippy::unwrap_used, reason = "test code: what fails here fails the test")]

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::LazyLock,
    time::{Instant, SystemTime},
};

use boring::ssl::{SslContextBuilder, SslMethod};

use super::{Batch, Buffers, H3, Options, Quic, bound};
use crate::{
    limits::{H3_BATCH_SEGMENTS_MAX, H3_BATCH_SIZE_MAX},
    proto::{
        head::RequestHead,
        stream::{Event, Requests},
        tls::{
            Identity,
            client::quic_server,
            dev::{KeyKind, self_signed},
        },
    },
};

pub(crate) const SERVER: &str = "192.0.2.1:443";
pub(crate) const CLIENT: &str = "192.0.2.2:50000";

#[expect(clippy::disallowed_methods, reason = "a certificate has to be valid at some time")]
static IDENTITY: LazyLock<Identity> =
    LazyLock::new(|| self_signed(KeyKind::EcdsaP256, &["localhost"], SystemTime::now()).unwrap());

#[expect(
    clippy::disallowed_methods,
    reason = "quiche has no other time, and virtual time begins somewhere"
)]
pub(crate) fn real_now() -> Instant {
    Instant::now()
}

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// A server that accepts connections.
pub(crate) struct Server(pub(crate) quiche::Config);

impl Server {
    pub(crate) fn new() -> Self {
        let context = quic_server(&IDENTITY);
        let mut config =
            quiche::Config::with_boring_ssl_ctx_builder(quiche::PROTOCOL_VERSION, context).unwrap();
        bound(&mut config).unwrap();
        config.set_max_idle_timeout(60_000);
        config.set_max_send_udp_payload_size(1350);
        config.enable_pacing(false);
        config.enable_early_data();
        Self(config)
    }

    pub(crate) fn accept(&mut self) -> Quic {
        let id = quiche::ConnectionId::from_ref(&[7; 16]);
        quiche::accept_with_buf_factory::<Buffers>(
            &id,
            None,
            address(SERVER),
            address(CLIENT),
            &mut self.0,
        )
        .unwrap()
    }
}

/// What a client allows the server to send.
#[derive(Clone, Copy)]
pub(crate) struct Windows {
    pub(crate) connection: u64,
    pub(crate) stream: u64,
    pub(crate) control: u64,
}

pub(crate) const WIDE: Windows =
    Windows { connection: 10_000_000, stream: 10_000_000, control: 10_000 };

pub(crate) fn client_config(windows: Windows) -> quiche::Config {
    // Without the system's authorities, which quiche would read: the client believes everybody.
    let context = SslContextBuilder::new(SslMethod::tls()).unwrap();
    let mut config =
        quiche::Config::with_boring_ssl_ctx_builder(quiche::PROTOCOL_VERSION, context).unwrap();
    config.set_application_protos(quiche::h3::APPLICATION_PROTOCOL).unwrap();
    config.verify_peer(false);
    config.set_max_idle_timeout(60_000);
    config.set_max_send_udp_payload_size(1350);
    config.set_initial_max_data(windows.connection);
    config.set_initial_max_stream_data_bidi_local(windows.stream);
    config.set_initial_max_stream_data_uni(windows.control);
    config.set_initial_max_streams_uni(3);
    // Not more than a test grants, whatever it reads.
    config.set_max_connection_window(windows.connection);
    config.set_max_stream_window(windows.stream);
    config.enable_early_data();
    config
}

/// Numbers from a seed: SplitMix64.
#[derive(Debug)]
pub(crate) struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

/// How a link treats datagrams, in percent.
#[derive(Debug)]
pub(crate) struct Weather {
    pub(crate) lost: u64,
    pub(crate) late: u64,
    pub(crate) twice: u64,
    chance: Chance,
}

impl Weather {
    pub(crate) const CALM: Self = Self { lost: 0, late: 0, twice: 0, chance: Chance(0) };

    pub(crate) const fn rough(lost: u64, late: u64, twice: u64, seed: u64) -> Self {
        Self { lost, late, twice, chance: Chance(seed) }
    }

    /// What of these arrives, and in which order.
    fn carry(&mut self, sent: &mut VecDeque<Vec<u8>>) -> Vec<Vec<u8>> {
        let mut arrived = Vec::new();
        let mut late = VecDeque::new();
        for datagram in sent.drain(..) {
            let mut happens = |percent| self.chance.next() % 100 < percent;
            if happens(self.lost) {
                continue;
            }
            if happens(self.twice) {
                arrived.push(datagram.clone());
            }
            if happens(self.late) { late.push_back(datagram) } else { arrived.push(datagram) }
        }
        // Behind the others of this flight, the latest first.
        arrived.extend(late.into_iter().rev());
        arrived
    }
}

/// A client and an engine.
pub(crate) struct Pair {
    pub(crate) engine: H3,
    pub(crate) client: quiche::Connection,
    pub(crate) head: RequestHead,
    pub(crate) now: Instant,
    pub(crate) weather: Weather,
    to_server: VecDeque<Vec<u8>>,
    to_client: VecDeque<Vec<u8>>,
    out: Vec<u8>,
    /// The largest number of datagrams in one batch.
    pub(crate) longest_batch: usize,
}

impl Pair {
    /// Before the first datagram.
    pub(crate) fn new(
        server: &mut Server,
        client: &mut quiche::Config,
        options: Options,
        session: Option<&[u8]>,
    ) -> Self {
        let now = real_now();
        let id = quiche::ConnectionId::from_ref(&[9; 16]);
        let mut client =
            quiche::connect(Some("localhost"), &id, address(CLIENT), address(SERVER), client)
                .unwrap();
        if let Some(session) = session {
            client.set_session(session).unwrap();
        }
        Self {
            engine: H3::new(server.accept(), options, now),
            client,
            head: RequestHead::default(),
            now,
            weather: Weather::CALM,
            to_server: VecDeque::new(),
            to_client: VecDeque::new(),
            out: Vec::new(),
            longest_batch: 0,
        }
    }

    /// After the handshake.
    pub(crate) fn open(windows: Windows, options: Options) -> Self {
        Self::open_on(&mut Server::new(), windows, options)
    }

    /// The same, on a server that is set up otherwise.
    pub(crate) fn open_on(server: &mut Server, windows: Windows, options: Options) -> Self {
        let mut pair = Self::new(server, &mut client_config(windows), options, None);
        assert_eq!(pair.run(), []);
        assert!(pair.client.is_established());
        pair
    }

    /// Carries datagrams to and fro until nothing moves; what the engine reported.
    pub(crate) fn run(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        while self.round(&mut events) {}
        events
    }

    /// One flight in each direction. True if anything moved.
    pub(crate) fn round(&mut self, events: &mut Vec<Event>) -> bool {
        self.round_with(|_, event| events.push(event))
    }

    /// The same; an event is dealt with while the head is still that of its request.
    pub(crate) fn round_with(&mut self, mut deal: impl FnMut(&mut Self, Event)) -> bool {
        self.client_sends();
        let sent = !self.to_server.is_empty();
        let mut dealt = false;
        for mut datagram in self.weather.carry(&mut self.to_server) {
            self.give(&mut datagram);
            // As a shard does: as soon as something has arrived.
            dealt |= self.deal(&mut deal);
        }
        dealt |= self.deal(&mut deal);
        self.server_sends();
        let answered = !self.to_client.is_empty();
        for mut datagram in self.weather.carry(&mut self.to_client) {
            let info = quiche::RecvInfo { from: address(SERVER), to: address(CLIENT) };
            // A server's mistake would show in what the client sees.
            let _: quiche::Result<usize> = self.client.recv(&mut datagram, info);
        }
        sent || answered || dealt
    }

    fn deal(&mut self, deal: &mut impl FnMut(&mut Self, Event)) -> bool {
        let mut dealt = false;
        while let Some(event) = self.engine.poll_event(&mut self.head, self.now) {
            deal(self, event);
            dealt = true;
        }
        dealt
    }

    /// Hands a datagram to the engine, as if the client had sent it.
    pub(crate) fn give(&mut self, datagram: &mut [u8]) {
        let info = quiche::RecvInfo { from: address(CLIENT), to: address(SERVER) };
        // What is wrong with it is the client's business.
        let _: quiche::Result<()> = self.engine.handle(datagram, info, self.now);
    }

    pub(crate) fn poll(&mut self, events: &mut Vec<Event>) {
        self.deal(&mut |_, event| events.push(event));
    }

    fn client_sends(&mut self) {
        let mut buffer = [0; 1500];
        while let Ok((len, _)) = self.client.send(&mut buffer) {
            self.to_server.push_back(buffer[..len].to_vec());
        }
    }

    pub(crate) fn server_sends(&mut self) {
        self.out.clear();
        while let Some(batch) = self.engine.output(&mut self.out, self.now) {
            self.check(batch);
            self.to_client.extend(self.out.chunks(batch.segment).map(<[u8]>::to_vec));
            self.out.clear();
        }
        assert!(self.out.is_empty(), "output without a batch");
    }

    fn check(&mut self, batch: Batch) {
        assert_eq!((batch.from, batch.to), (address(SERVER), address(CLIENT)));
        assert!(batch.segment > 0 && self.out.len() <= H3_BATCH_SIZE_MAX.max(batch.segment));
        let datagrams = self.out.len().div_ceil(batch.segment);
        assert!(datagrams <= H3_BATCH_SEGMENTS_MAX, "{datagrams} datagrams");
        self.longest_batch = self.longest_batch.max(datagrams);
    }

    /// Lets quiche's timers run until one of them is due, on its own clock.
    pub(crate) fn pass_time(&mut self) {
        let deadlines = [self.client.timeout_instant(), self.engine.timeout()];
        let Some(due) = deadlines.into_iter().flatten().min() else { return };
        // A loss is found out within milliseconds here: the round trip takes none.
        while real_now() < due {
            std::thread::yield_now();
        }
        self.now = self.now.max(real_now());
        self.client.on_timeout();
        self.engine.handle_timeout(self.now);
    }
}
