//! Certificates and connections for the tests of this folder.

use std::{
    path::Path,
    sync::{Arc, LazyLock},
    time::{Duration, Instant, SystemTime},
};

use boring::{
    pkey::{PKey, Private},
    ssl::Error,
    x509::X509,
};
use rcgen::{BasicConstraints, DnType, IsCa, Issuer, KeyUsagePurpose};

use crate::proto::tls::{
    Identity, Options, PemFile, Progress, ServerConfig, Session, TicketKeys, TlsError, Version,
    client::{Client, Household, Wishes},
    dev::{KeyKind, SigningKey, parameters},
};

/// BoringSSL itself has the system's clock, so tests do too.
#[expect(
    clippy::disallowed_methods,
    reason = "certificates are compared with the real clock by BoringSSL"
)]
pub(super) fn now() -> SystemTime {
    SystemTime::now()
}

#[expect(clippy::disallowed_methods, reason = "a starting point for arithmetic")]
pub(super) fn instant() -> Instant {
    Instant::now()
}

/// A certificate with its key.
#[derive(Clone)]
pub(super) struct Pair {
    pub(super) certificate: X509,
    pub(super) key: PKey<Private>,
}

impl Pair {
    pub(super) fn certificate_pem(&self) -> Vec<u8> {
        self.certificate.to_pem().unwrap()
    }

    pub(super) fn key_pem(&self) -> Vec<u8> {
        self.key.private_key_to_pem_pkcs8().unwrap()
    }

    pub(super) fn identity(&self) -> Identity {
        let (certificate, key) = (self.certificate_pem(), self.key_pem());
        Identity::from_pem(&file("a.crt", &certificate), &file("a.key", &key), now()).unwrap()
    }
}

pub(super) fn file<'a>(path: &'a str, text: &'a [u8]) -> PemFile<'a> {
    PemFile { path: Path::new(path), text }
}

/// Issues certificates.
pub(super) struct Authority {
    key: SigningKey,
    name: &'static str,
    pub(super) certificate: X509,
}

impl Authority {
    pub(super) fn new(name: &'static str) -> Self {
        let key = SigningKey::generate(KeyKind::EcdsaP256).unwrap();
        let certificate = Self::parameters(name).self_signed(&key).unwrap();
        let certificate = X509::from_der(certificate.der()).unwrap();
        Self { key, name, certificate }
    }

    fn parameters(name: &str) -> rcgen::CertificateParams {
        let mut own = parameters(&[], now()).unwrap();
        own.distinguished_name.push(DnType::CommonName, name);
        own.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        own.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        own
    }

    pub(super) fn issue(&self, names: &[&str]) -> Pair {
        self.issue_at(KeyKind::EcdsaP256, names, now())
    }

    /// Valid from then on, for a month.
    pub(super) fn issue_at(&self, kind: KeyKind, names: &[&str], then: SystemTime) -> Pair {
        let key = SigningKey::generate(kind).unwrap();
        let mut wanted = parameters(names, then).unwrap();
        wanted.distinguished_name.push(DnType::CommonName, *names.first().unwrap_or(&"nobody"));
        let own = Self::parameters(self.name);
        let issuer = Issuer::from_params(&own, &self.key);
        let certificate = wanted.signed_by(&key, &issuer).unwrap();
        Pair { certificate: X509::from_der(certificate.der()).unwrap(), key: key.key }
    }
}

pub(super) static AUTHORITY: LazyLock<Authority> = LazyLock::new(|| Authority::new("tests"));
pub(super) static SERVER: LazyLock<Pair> = LazyLock::new(|| AUTHORITY.issue(&["example.org"]));

pub(super) const OPTIONS: Options =
    Options { version_min: Version::Tls12, http2: true, client_ca: None };

pub(super) fn keys() -> Arc<TicketKeys> {
    TicketKeys::new(instant()).unwrap()
}

pub(super) fn server(options: &Options) -> ServerConfig {
    ServerConfig::new(&[SERVER.identity()], options, &keys()).unwrap()
}

/// A client and a session, and what each has received in clear.
pub(super) struct Pipe {
    pub(super) client: Client,
    pub(super) session: Session,
    pub(super) at_client: Vec<u8>,
    pub(super) at_session: Vec<u8>,
    /// What the session made and the client has not seen.
    pub(super) to_client: Vec<u8>,
}

/// Why a handshake went wrong, as both sides saw it.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) session: Option<TlsError>,
    pub(super) client: Option<Error>,
}

impl Pipe {
    pub(super) fn new(config: &ServerConfig, client: Client) -> Self {
        let session = config.session().unwrap();
        let (at_client, at_session, to_client) = (Vec::new(), Vec::new(), Vec::new());
        Self { client, session, at_client, at_session, to_client }
    }

    /// A connection after its handshake.
    pub(super) fn open(config: &ServerConfig, wishes: &Wishes<'_>) -> Self {
        Self::try_open(config, wishes).unwrap()
    }

    pub(super) fn try_open(config: &ServerConfig, wishes: &Wishes<'_>) -> Result<Self, Failure> {
        let household = Household::new(wishes);
        let mut pipe = Self::new(config, household.client(wishes.name, None));
        pipe.exchange(usize::MAX)?;
        assert!(pipe.client.is_connected() && !pipe.session.is_handshaking());
        Ok(pipe)
    }

    /// Carries bytes, cut into pieces, until nobody has anything to say.
    pub(super) fn exchange(&mut self, piece: usize) -> Result<(), Failure> {
        let mut client = self.client.handle(&[], &mut self.at_client).err();
        let mut session = None;
        loop {
            let to_session = self.client.output();
            for part in to_session.chunks(piece) {
                let took = self.session.handle(part, &mut self.at_session, &mut self.to_client);
                let failed = took.err();
                session = session.or(failed);
            }
            let to_client = std::mem::take(&mut self.to_client);
            for part in to_client.chunks(piece) {
                let failed = self.client.handle(part, &mut self.at_client).err();
                client = client.or(failed);
            }
            if to_session.is_empty() && to_client.is_empty() {
                let failed = session.is_some() || client.is_some();
                return if failed { Err(Failure { session, client }) } else { Ok(()) };
            }
        }
    }

    /// Sends both ways and compares.
    pub(super) fn talk(&mut self, piece: usize, request: &[u8], response: &[u8]) {
        self.at_session.clear();
        self.at_client.clear();
        self.client.write(request);
        self.session.encrypt(response, &mut self.to_client).unwrap();
        self.exchange(piece).unwrap();
        assert!(self.at_session == request, "{} bytes arrived", self.at_session.len());
        assert!(self.at_client == response, "{} bytes arrived", self.at_client.len());
    }

    /// Hands bytes to the session alone.
    pub(super) fn give(&mut self, bytes: &[u8]) -> Result<Progress, TlsError> {
        self.session.handle(bytes, &mut self.at_session, &mut self.to_client)
    }
}

/// Long enough ago that nothing made then is valid.
pub(super) const LONG: Duration = Duration::from_secs(400 * 24 * 60 * 60);
