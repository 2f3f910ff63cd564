//! TLS between a connection's socket and its engine, and the listeners that only send clients there.
//!
//! Invariant: everything above sees plain bytes: what is received is opened before `receive`, what is encoded stays plain in
//! the connection's output until it can be submitted. A plain connection pays one test of an `Option` for it.

use std::{collections::VecDeque, net::SocketAddr, sync::Arc, time::Instant};

use boring::ssl::SslRef;

use super::{
    Core, ListenerKind,
    answer::CLIENT_GONE,
    conn::{Phase, Verdict},
};
use crate::{
    ipc::message::{CERTIFICATE_OVERHEAD, Cancellation, Certificate, Tls as About},
    limits::CLIENT_CERTIFICATE_SIZE_MAX,
    proto::{
        h1::Refusal,
        target::{host_of, https_location},
        tls::{ClientCertificate, Progress, ServerConfig, Session, TlsError, Version},
    },
};

/// The TLS half of a connection.
#[derive(Debug)]
pub(super) struct Tls {
    pub(super) session: Session,
    /// Made by the session and not submitted: handshake messages, records, alerts.
    pub(super) sealed: Vec<u8>,
    /// When the handshake must be over.
    pub(super) deadline: Instant,
    /// True exactly while it is one of the handshakes that the shard counts as in progress.
    shaking: bool,
    /// `close_notify` is made.
    ended: bool,
    /// What workers are told of the session, once there was a request.
    told: Option<Told>,
}

/// What does not change about a session once it is open.
#[derive(Debug)]
pub(super) struct Told {
    version: u16,
    cipher_suite: u16,
    client: Option<Box<ClientCertificate>>,
}

impl Tls {
    /// True while the client owes the rest of a record.
    pub(super) fn waits(&self) -> bool {
        self.session.holds_part()
    }

    /// What a worker is told of the session, which is open.
    pub(super) fn about(&mut self) -> About<'_> {
        self.told.get_or_insert_with(|| Told::of(&self.session)).about()
    }

    /// Makes records of what is encoded, and says at the end that it was all.
    fn seal(&mut self, plain: &[u8], last: bool) -> Result<(), TlsError> {
        if !plain.is_empty() {
            self.session.encrypt(plain, &mut self.sealed)?;
        }
        if last && !std::mem::replace(&mut self.ended, true) {
            self.session.close_notify(&mut self.sealed)?;
        }
        Ok(())
    }
}

impl Told {
    pub(super) fn about(&self) -> About<'_> {
        let certificate = self.client.as_ref().map(|client| Certificate {
            subject: client.subject.as_bytes(),
            issuer: client.issuer.as_bytes(),
            chain: &client.chain,
        });
        About { version: self.version, cipher_suite: self.cipher_suite, certificate }
    }

    /// Of a session of QUIC, which is TLS 1.3 always (RFC 9001 §4.2).
    pub(super) fn of_quic(ssl: &SslRef) -> Self {
        let cipher_suite = ssl.current_cipher().map_or(0, |cipher| cipher.protocol_id());
        let client = ClientCertificate::of(ssl, CLIENT_SIZE_MAX);
        Self { version: 0x0304, cipher_suite, client: passable(client) }
    }

    fn of(session: &Session) -> Self {
        let version = match session.version() {
            Some(Version::Tls13) => 0x0304,
            Some(Version::Tls12) | None => 0x0303,
        };
        let client = session.client_certificate(CLIENT_SIZE_MAX);
        let cipher_suite = session.cipher().map_or(0, |(number, _)| number);
        Self { version, cipher_suite, client: passable(client) }
    }
}

/// The record has a fixed part beside the certificates.
const CLIENT_SIZE_MAX: usize = CLIENT_CERTIFICATE_SIZE_MAX - CERTIFICATE_OVERHEAD;

fn passable(client: Result<Option<ClientCertificate>, TlsError>) -> Option<Box<ClientCertificate>> {
    let client = client.unwrap_or_else(|error| {
        tracing::error!("a client's certificate is not passed on: {error}");
        None
    });
    client.map(Box::new)
}

/// The handshakes in progress.
#[derive(Debug, Default)]
pub(super) struct Handshakes {
    count: usize,
    /// By the time they began: index and generation of each connection, also of some that are through or gone.
    order: VecDeque<(usize, u32)>,
}

/// What new connections of TLS listeners start with, and what their shard has of them all.
#[derive(Debug, Default)]
pub(super) struct Secure {
    pub(super) config: Option<Arc<ServerConfig>>,
    handshakes: Handshakes,
    /// Opened bytes on their way to the engine; kept for its buffer.
    plain: Vec<u8>,
    /// The port that clients find the TLS listener at.
    https_port: u16,
}

impl Secure {
    pub(super) fn new(options: Option<super::handle::TlsOptions>) -> Self {
        let Some(options) = options else { return Self::default() };
        Self { config: Some(options.config), https_port: options.https_port, ..Self::default() }
    }
}

impl Core {
    /// The TLS half of a connection that a listener of this kind accepted.
    ///
    /// # Errors
    /// When memory ran out: the connection is to be closed.
    pub(super) fn begin_tls(&self, kind: ListenerKind) -> Result<Option<Box<Tls>>, TlsError> {
        let Some(config) = self.secure.config.as_ref().filter(|_| kind == ListenerKind::Tls) else {
            return Ok(None);
        };
        Ok(Some(Box::new(Tls {
            session: config.session()?,
            sealed: Vec::new(),
            deadline: self.clock.now + self.options.limits.handshake_timeout,
            shaking: true,
            ended: false,
            told: None,
        })))
    }

    /// Counts a connection that has just been inserted. When there are too many handshakes, the one that began first goes:
    /// an honest client is through in a few round trips.
    pub(super) fn count_handshake(&mut self, index: usize, generation: u32) {
        if self.connections.get(index).is_none_or(|connection| connection.tls.is_none()) {
            return;
        }
        let handshakes_max = self.options.limits.handshakes_max.max(1);
        while self.secure.handshakes.count >= handshakes_max {
            let Some((oldest, generation)) = self.secure.handshakes.order.pop_front() else {
                break;
            };
            if self.is_shaking(oldest, generation) {
                self.tally.handshakes_evicted += 1;
                self.end_handshake(oldest);
                self.close(oldest);
            }
        }
        self.secure.handshakes.count += 1;
        self.secure.handshakes.order.push_back((index, generation));
        if self.secure.handshakes.order.len() > 2 * handshakes_max {
            let mut order = std::mem::take(&mut self.secure.handshakes.order);
            order.retain(|(index, generation)| self.is_shaking(*index, *generation));
            self.secure.handshakes.order = order;
        }
    }

    fn is_shaking(&self, index: usize, generation: u32) -> bool {
        self.connections.get(index).is_some_and(|connection| {
            let tls = connection.tls.as_ref();
            connection.generation == generation && tls.is_some_and(|tls| tls.shaking)
        })
    }

    /// Takes a connection out of the count of handshakes; true when it was in it. At the latest when it is removed.
    pub(super) fn end_handshake(&mut self, index: usize) -> bool {
        let tls = self.connections.get_mut(index).and_then(|connection| connection.tls.as_mut());
        let was = tls.is_some_and(|tls| std::mem::take(&mut tls.shaking));
        self.secure.handshakes.count -= usize::from(was);
        was
    }

    /// The number of handshakes in progress.
    pub(super) fn handshakes(&self) -> usize {
        self.secure.handshakes.count
    }

    /// Takes bytes that arrived on a TLS connection.
    pub(super) fn receive_sealed(&mut self, index: usize, ciphertext: &[u8]) {
        let Some(connection) = self.connections.get_mut(index) else { return };
        if connection.drops(ciphertext.len()) {
            return;
        }
        let Some(tls) = connection.tls.as_mut() else { return };
        let mut plain = std::mem::take(&mut self.secure.plain);
        let outcome = tls.session.handle(ciphertext, &mut plain, &mut tls.sealed);
        let resumed = tls.session.resumed();
        if outcome.is_ok() && !tls.session.is_handshaking() && self.end_handshake(index) {
            self.tally.handshakes += 1;
            self.tally.handshakes_resumed += u64::from(resumed);
            self.begin_agreed(index);
        }
        match outcome {
            Ok(progress) => {
                if !plain.is_empty() {
                    self.receive(index, &plain);
                } else if let Some(connection) = self.connections.get_mut(index) {
                    // The part of a record: its time begins to count.
                    connection.received(ciphertext.len(), self.clock.now);
                }
                if progress == Progress::Ended
                    && let Some(connection) = self.connections.get_mut(index)
                {
                    connection.at_end = true;
                }
            }
            Err(error) => self.refuse_tls(index, &error),
        }
        plain.clear();
        self.secure.plain = plain;
        self.touch(index);
    }

    /// The session cannot go on.
    fn refuse_tls(&mut self, index: usize, error: &TlsError) {
        let Some(connection) = self.connections.get(index) else { return };
        let peer = connection.peer;
        tracing::debug!("TLS with {}: {error}", peer.map_or_else(|| "unix".into(), of));
        if self.end_handshake(index) {
            self.tally.handshakes_failed += 1;
        }
        if *error == TlsError::PlainText {
            if let Some(connection) = self.connections.get_mut(index) {
                connection.tls = None;
            }
            return self.refuse(index, Refusal::HttpsRequired);
        }
        self.abandon(index, Cancellation::ClientGone, CLIENT_GONE);
        if let Some(connection) = self.connections.get_mut(index) {
            connection.output.clear();
            // The alert goes out first.
            connection.begin_last_send();
        }
    }

    /// Makes records of a connection's output, if they can be submitted now.
    pub(super) fn seal(&mut self, index: usize) {
        let Some(connection) = self.connections.get_mut(index) else { return };
        if connection.sending > 0 || connection.phase == Phase::Closing {
            return;
        }
        let last = connection.phase == Phase::LastSend;
        let Some(tls) = connection.tls.as_mut() else { return };
        if connection.output.is_empty() && !last {
            return;
        }
        let sealed = tls.seal(&connection.output, last);
        connection.response_at = None;
        self.spare.give(std::mem::take(&mut connection.output));
        if let Err(error) = sealed {
            tracing::error!("TLS: {error}");
            self.lose(index);
        }
    }

    /// What a listener says that is there only to send clients to the TLS one.
    pub(super) fn https_redirect(&self) -> Verdict {
        let head = &self.head;
        match host_of(head.bytes(head.authority)) {
            Some(host) => {
                let (path, query) = (head.bytes(head.raw_path), head.bytes(head.query));
                let location = https_location(host, self.secure.https_port, path, query);
                // RFC 9110 §15.4.9: as 301, but the method stays what it is.
                Verdict::new(308, None).with("location", &location)
            }
            None => Verdict::new(400, Some("Missing Host header")),
        }
    }
}

fn of(peer: SocketAddr) -> String {
    peer.to_string()
}
