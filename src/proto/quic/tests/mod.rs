//! The endpoint with quiche's client, in memory; packets that no client sends are written by hand.

mod attacks;
mod connections;

use std::{
    cell::RefCell,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use quiche::ConnectionId;

use super::{Arrival, Endpoint, Keys, Options, Quic, Why};
use crate::proto::tls::{
    self, ServerConfig, TicketKeys, Version,
    dev::{KeyKind, self_signed},
};

#[expect(clippy::disallowed_methods, reason = "quiche reads the real clock, so tests do too")]
pub(super) fn now() -> Instant {
    Instant::now()
}

#[expect(clippy::disallowed_methods, reason = "certificates are valid at a time")]
fn today() -> SystemTime {
    SystemTime::now()
}

/// With a certificate for each of these names.
fn certificates(names: &[&str], tickets: &Arc<TicketKeys>) -> ServerConfig {
    let identity = |name: &&str| self_signed(KeyKind::EcdsaP256, &[name], today()).unwrap();
    let identities: Vec<_> = names.iter().map(identity).collect();
    let options = tls::Options { version_min: Version::Tls12, http2: false, client_ca: None };
    ServerConfig::new(&identities, &options, tickets).unwrap()
}

const SERVER: &str = "192.0.2.1:443";
const CLIENT: &str = "198.51.100.7:5000";

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// A shard's endpoint with its connections.
struct Server {
    endpoint: Endpoint,
    connections: Vec<Option<Box<Quic>>>,
    now: Instant,
}

impl Server {
    fn new(options: Options) -> Self {
        Self::with(options, 0, Arc::new(Keys::new(now()).unwrap()))
    }

    fn with(options: Options, shard: u8, keys: Arc<Keys>) -> Self {
        let tickets = TicketKeys::new(now()).unwrap();
        let tls = certificates(&["localhost"], &tickets);
        let endpoint = Endpoint::new(shard, keys, options, &tls, now()).unwrap();
        Self { endpoint, connections: Vec::new(), now: now() }
    }

    fn classify(&mut self, datagram: &[u8], from: SocketAddr) -> Arrival {
        let arrival = self.endpoint.classify(datagram, from, address(SERVER), self.now);
        self.endpoint.check();
        arrival
    }

    /// Does what a shard does, and gives back what is sent, apart from what connections send.
    fn receive(&mut self, datagram: &mut [u8], from: SocketAddr) -> Result<Option<Vec<u8>>, Why> {
        let slot = match self.classify(datagram, from) {
            Arrival::Known(slot) => slot,
            Arrival::New(quic, issued) => {
                let slot = self.connections.len();
                self.connections.push(Some(quic));
                self.endpoint.insert(slot, issued);
                slot
            }
            Arrival::Reply(reply) => return Ok(Some(reply)),
            Arrival::Elsewhere(shard) => panic!("shard {shard}"),
            Arrival::Dropped(why) => return Err(why),
        };
        let quic = self.connections[slot].as_mut().unwrap();
        let info = quiche::RecvInfo { from, to: address(SERVER) };
        let taken = quic.recv(datagram, info);
        self.endpoint.refresh(slot, quic).unwrap();
        if taken.is_err() && !quic.is_established() {
            self.endpoint.remove(slot);
            self.connections[slot] = None;
        }
        self.endpoint.check();
        Ok(None)
    }

    /// All that connections have to send now.
    fn output(&mut self) -> Vec<(SocketAddr, Vec<u8>)> {
        let mut sent = Vec::new();
        for (slot, quic) in self.connections.iter_mut().enumerate() {
            let Some(quic) = quic else { continue };
            let mut buffer = [0; 1500];
            while let Ok((len, info)) = quic.send(&mut buffer) {
                let len = self.endpoint.allow(slot, len, len);
                if len == 0 {
                    continue;
                }
                sent.push((info.to, buffer[..len].to_vec()));
            }
        }
        sent
    }
}

/// quiche's, at an address.
struct Client {
    quic: quiche::Connection,
    address: SocketAddr,
}

fn client_config() -> quiche::Config {
    let mut config = quiche::Config::new(quiche::PROTOCOL_VERSION).unwrap();
    config.set_application_protos(&[b"h3"]).unwrap();
    config.verify_peer(false);
    config.set_initial_max_data(1 << 20);
    config.set_initial_max_streams_bidi(10);
    config.set_initial_max_stream_data_bidi_local(1 << 16);
    config.set_active_connection_id_limit(4);
    config.set_max_idle_timeout(10_000);
    config
}

thread_local! {
    static CONFIG: RefCell<quiche::Config> = RefCell::new(client_config());
}

impl Client {
    fn new(from: &str) -> Self {
        // Making one reads the system's authorities.
        CONFIG.with_borrow_mut(|config| Self::with(from, config, "localhost"))
    }

    fn with(from: &str, config: &mut quiche::Config, name: &str) -> Self {
        let mut id = [0; 8];
        boring::rand::rand_bytes(&mut id).unwrap();
        let (address, server) = (address(from), address(SERVER));
        let id = ConnectionId::from_ref(&id);
        let quic = quiche::connect(Some(name), &id, address, server, config).unwrap();
        Self { quic, address }
    }

    fn output(&mut self) -> Vec<Vec<u8>> {
        let mut sent = Vec::new();
        let mut buffer = [0; 1500];
        while let Ok((len, _)) = self.quic.send(&mut buffer) {
            sent.push(buffer[..len].to_vec());
        }
        sent
    }

    fn input(&mut self, mut datagram: Vec<u8>) {
        let info = quiche::RecvInfo { from: address(SERVER), to: self.address };
        // What it does not understand is what the test is about.
        let _ = self.quic.recv(&mut datagram, info);
    }

    /// Both talk until neither has anything to say.
    fn talk(&mut self, server: &mut Server) {
        for _ in 0..20 {
            let mut quiet = true;
            for mut datagram in self.output() {
                quiet = false;
                if let Ok(Some(reply)) = server.receive(&mut datagram, self.address) {
                    self.input(reply);
                }
            }
            for (to, datagram) in server.output() {
                quiet = false;
                if to == self.address {
                    self.input(datagram);
                }
            }
            if quiet {
                return;
            }
        }
    }
}
