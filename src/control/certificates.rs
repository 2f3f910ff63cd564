//! Certificates from files to the shards: at start, on SIGHUP, and when a file has changed.
//!
//! Invariant: what cannot be loaded changes nothing: at start the server does not begin, later the certificates that are
//! served stay. The keys of session tickets outlive every reload.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Instant, SystemTime},
};

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::error::SystemError;
use crate::{
    config::{
        Config, HttpVersions,
        tls::{Source, Tls, Version},
    },
    limits::CERTIFICATE_WATCH_INTERVAL,
    proto::tls::{
        self, CertificateError, ClientCa, Fault, Identity, PemFile, ServerConfig, TicketKeys,
        TlsError,
        dev::{self, KeyKind, LOCAL_NAMES},
    },
    shard::{Command, Handle},
};

/// Where the certificates come from, and what goes with them.
#[derive(Debug)]
pub(super) struct Certificates {
    config: Tls,
    /// Clients may choose HTTP/2.
    http2: bool,
    tickets: Arc<TicketKeys>,
    /// Of the files that were loaded last, or tried to.
    stamp: Vec<Option<Stamp>>,
    hang_up: Signal,
}

/// What tells a file from the one that was there before.
type Stamp = (u64, u64, i64, i64);

/// Why there is nothing to serve with.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A file is not what it should be.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// BoringSSL does not take what the files hold.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

impl Certificates {
    /// Loads everything for the first time, if TLS is to be spoken. Inside the runtime.
    pub(super) fn load(config: &Config) -> Result<Option<(Self, Arc<ServerConfig>)>, SystemError> {
        let http2 = config.http == HttpVersions::Auto;
        let Some(config) = &config.tls else { return Ok(None) };
        let tickets = TicketKeys::new(now()).map_err(|error| {
            SystemError::Certificates(TlsError::System(error.to_string()).into())
        })?;
        let hang_up = signal(SignalKind::hangup()).map_err(SystemError::other("signals"))?;
        let certificates =
            Self { stamp: stamp(config), config: config.clone(), http2, tickets, hang_up };
        let loaded = certificates.read().map_err(SystemError::Certificates)?;
        Ok(Some((certificates, loaded)))
    }

    /// Keeps the shards up to date until the server ends.
    pub(super) async fn watch(mut self, shards: Vec<Handle>) {
        let mut pending = None;
        loop {
            let asked = tokio::select! {
                _ = self.hang_up.recv() => true,
                () = tokio::time::sleep(CERTIFICATE_WATCH_INTERVAL) => false,
            };
            if let Err(error) = self.tickets.rotate(now()) {
                tracing::error!("the keys of session tickets stay as they are: {error}");
            }
            let found = stamp(&self.config);
            // Certificate and key change one after the other: what is still changing is left for the next time.
            let settled = pending.as_ref() == Some(&found);
            if asked || (found != self.stamp && settled) {
                self.reload(found, &shards);
                pending = None;
            } else {
                pending = Some(found);
            }
        }
    }

    fn reload(&mut self, found: Vec<Option<Stamp>>, shards: &[Handle]) {
        self.stamp = found;
        match self.read() {
            Ok(config) => {
                for shard in shards {
                    // False: the shard has ended, and the server is about to.
                    shard.send(Command::Certificates(Arc::clone(&config)));
                }
                tracing::info!("certificates reloaded; connections keep the ones they began with");
            }
            Err(error) => tracing::error!("certificates not reloaded, the old ones stay: {error}"),
        }
    }

    fn read(&self) -> Result<Arc<ServerConfig>, LoadError> {
        let identities = match &self.config.source {
            Source::Dev => vec![dev::self_signed(KeyKind::EcdsaP256, &LOCAL_NAMES, today())?],
            Source::Files(pairs) => pairs
                .iter()
                .map(|(certificate, key)| {
                    let (chain, private) = (read(certificate)?, read(key)?);
                    let chain = PemFile { path: certificate, text: &chain };
                    let private = PemFile { path: key, text: &private };
                    Identity::from_pem(&chain, &private, today())
                })
                .collect::<Result<_, _>>()?,
        };
        let client_ca = self.config.client_ca.as_ref().map(|path| {
            let text = read(path)?;
            ClientCa::from_pem(&PemFile { path, text: &text })
        });
        let options = tls::Options {
            version_min: match self.config.version_min {
                Version::Tls12 => tls::Version::Tls12,
                Version::Tls13 => tls::Version::Tls13,
            },
            http2: self.http2,
            client_ca: client_ca.transpose()?,
        };
        Ok(Arc::new(ServerConfig::new(&identities, &options, &self.tickets)?))
    }
}

fn read(path: &Path) -> Result<Vec<u8>, CertificateError> {
    fs::read(path).map_err(|error| CertificateError {
        file: path.to_owned(),
        fault: Fault::Unreadable(error),
    })
}

/// Of every file, through symbolic links: that is how orchestrators exchange them.
fn stamp(config: &Tls) -> Vec<Option<Stamp>> {
    let pairs: &[(PathBuf, PathBuf)] = match &config.source {
        Source::Files(pairs) => pairs,
        Source::Dev => &[],
    };
    let files = pairs.iter().flat_map(|(chain, key)| [chain, key]).chain(&config.client_ca);
    let of = |file: &PathBuf| -> io::Result<Stamp> {
        let found = fs::metadata(file)?;
        // The change time too: a file may be replaced by one with an older date and the same length.
        Ok((found.ino(), found.size(), found.ctime(), found.ctime_nsec()))
    };
    files.map(|file| of(file).ok()).collect()
}

/// The runtime's clock.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

#[expect(clippy::disallowed_methods, reason = "the validity of certificates is a matter of dates")]
fn today() -> SystemTime {
    SystemTime::now()
}
