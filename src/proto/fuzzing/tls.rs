//! A TLS session and a client that is not what it seems.
//!
//! Invariant checked: no byte makes a session panic, hold more than a record, or hand out what the client did not write;
//! an error is final.

#![allow(clippy::unwrap_used, reason = "test code: what fails here fails the test")]

use std::{
    sync::{Arc, LazyLock},
    time::{Instant, SystemTime},
};

use boring::ssl::SslVersion;

use crate::{
    limits,
    proto::tls::{
        Options, ServerConfig, Session, TicketKeys, TlsError, Version,
        client::{Client, Household, Wishes},
        dev::{KeyKind, self_signed},
    },
};

#[expect(clippy::disallowed_methods, reason = "a certificate has to be valid at some time")]
static CONFIG: LazyLock<ServerConfig> = LazyLock::new(|| {
    let identity = self_signed(KeyKind::EcdsaP256, &["localhost"], SystemTime::now()).unwrap();
    let keys: Arc<TicketKeys> = TicketKeys::new(Instant::now()).unwrap();
    let options = Options { version_min: Version::Tls12, http2: true, client_ca: None };
    ServerConfig::new(&[identity], &options, &keys).unwrap()
});

/// What the client says after the handshake, if nobody interferes.
const MESSAGE: &[u8] = &[b'm'; 1000];

/// The first two bytes say where in a connection the others arrive, and how.
///
/// # Panics
/// If the session breaks an invariant.
pub fn tls_records(data: &[u8]) {
    let [point, size, rest @ ..] = data else { return };
    let version = if point & 1 == 0 { SslVersion::TLS1_3 } else { SslVersion::TLS1_2 };
    let (version_min, version_max) = (Some(version), Some(version));
    let household = Household::new(&Wishes { version_min, version_max, ..Wishes::default() });
    let mut world = World {
        session: CONFIG.session().unwrap(),
        client: household.client(None, None),
        piece: 1 + usize::from(*size),
        fed: 0,
        plain: Vec::new(),
    };
    match (point >> 1) % 6 {
        // Instead of a handshake, or in the middle of it, or behind it.
        0 => world.give(rest),
        1 => {
            world.flight(&[]);
            world.give(rest);
        }
        2 => {
            world.shake_hands();
            world.give(rest);
        }
        // The client's own bytes, some of them changed on the way.
        3 => world.flight(rest),
        4 => {
            world.flight(&[]);
            world.flight(rest);
        }
        _ => {
            world.shake_hands();
            world.client.write(MESSAGE);
            world.flight(rest);
        }
    }
    assert!(MESSAGE.starts_with(&world.plain), "what nobody wrote");
}

struct World {
    session: Session,
    client: Client,
    /// Bytes of one call.
    piece: usize,
    fed: usize,
    plain: Vec<u8>,
}

impl World {
    fn shake_hands(&mut self) {
        for _ in 0..3 {
            self.flight(&[]);
        }
        assert!(self.client.is_connected() && !self.session.is_handshaking());
    }

    /// The client's next bytes, each pair of `changes` a place and what is done to it there.
    fn flight(&mut self, changes: &[u8]) {
        // A client that gives up has said so in its output.
        let _gone = self.client.handle(&[], &mut Vec::new());
        let mut bytes = self.client.output();
        for change in changes.chunks_exact(3) {
            let [high, low, mask] = change else { continue };
            let at = usize::from(u16::from_be_bytes([*high, *low])) % bytes.len().max(1);
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= mask;
            }
        }
        self.give(&bytes);
    }

    fn give(&mut self, bytes: &[u8]) {
        let mut failure: Option<TlsError> = None;
        for piece in bytes.chunks(self.piece) {
            let mut out = Vec::new();
            self.fed += piece.len();
            let outcome = self.session.handle(piece, &mut self.plain, &mut out);
            let held = self.session.buffered();
            // Twice: a vector grows by doubling.
            assert!(held <= 2 * (limits::TLS_CIPHERTEXT_SIZE_MAX + self.piece), "{held} bytes");
            assert!(self.plain.len() <= self.fed, "{} of {} bytes", self.plain.len(), self.fed);
            assert!(failure.is_none() || outcome.as_ref().err() == failure.as_ref());
            if failure.is_none() {
                let _gone = self.client.handle(&out, &mut Vec::new());
            } else {
                assert!(out.is_empty(), "an alert is sent once");
            }
            failure = outcome.err();
        }
    }
}
