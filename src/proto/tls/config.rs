//! What all sessions of a listener have in common: certificates, versions, suites, protocols.
//!
//! Invariant: a [`ServerConfig`] never changes. A reload makes a new one; sessions keep the one that they began with.
//! Versions and suites are Mozilla's "intermediate", less what BoringSSL has not (finite-field Diffie-Hellman).

#![forbid(unsafe_code)]

use std::{
    collections::HashMap,
    fmt::{self, Debug, Formatter},
    sync::Arc,
};

use boring::{
    error::ErrorStack,
    sha::Sha256,
    ssl::{
        AlpnError, NameType, SniError, Ssl, SslContext, SslContextBuilder, SslMethod, SslOptions,
        SslSessionCacheMode, SslVerifyMode, SslVersion, select_next_proto,
    },
    x509::{X509, store::X509StoreBuilder},
};

use super::{
    TlsError,
    identity::{CertificateError, Identity, PemFile},
    reason,
    session::Session,
    tickets::TicketKeys,
};

/// Those of TLS 1.2, in our order; BoringSSL's of TLS 1.3 are the three of RFC 8446 and depend on the client's hardware.
const CIPHERS: &str = "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:\
    ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384:\
    ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305";
const GROUPS: &str = "X25519MLKEM768:X25519:P-256:P-384";
/// Without SHA-1.
const SIGNATURES: &str = "ecdsa_secp256r1_sha256:rsa_pss_rsae_sha256:rsa_pkcs1_sha256:\
    ecdsa_secp384r1_sha384:rsa_pss_rsae_sha384:rsa_pkcs1_sha384:ecdsa_secp521r1_sha512:rsa_pss_rsae_sha512:\
    rsa_pkcs1_sha512:ed25519";

/// A version of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// RFC 5246.
    Tls12,
    /// RFC 8446.
    Tls13,
}

impl Version {
    const fn to_boring(self) -> SslVersion {
        match self {
            Self::Tls12 => SslVersion::TLS1_2,
            Self::Tls13 => SslVersion::TLS1_3,
        }
    }
}

/// Who vouches for clients.
#[derive(Clone)]
pub struct ClientCa {
    certificates: Vec<X509>,
}

impl ClientCa {
    /// Reads the certificates of one or more authorities.
    ///
    /// # Errors
    /// A line that names the file.
    pub fn from_pem(file: &PemFile<'_>) -> Result<Self, CertificateError> {
        Ok(Self { certificates: file.certificates()? })
    }
}

impl Debug for ClientCa {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientCa").field("certificates", &self.certificates.len()).finish()
    }
}

/// What sessions accept.
#[derive(Debug)]
pub struct Options {
    /// The oldest version.
    pub version_min: Version,
    /// Offer HTTP/2 before HTTP/1.1.
    pub http2: bool,
    /// Every client must show a certificate that one of these vouches for.
    pub client_ca: Option<ClientCa>,
}

/// Makes sessions. Shards share it.
pub struct ServerConfig {
    /// Serves the first identity, and switches to that of the name that the client asks for.
    context: SslContext,
    /// What it was made of, because each shard makes one for QUIC.
    identities: Vec<Identity>,
    client_ca: Option<ClientCa>,
    tickets: Arc<TicketKeys>,
}

/// What a context is for.
#[derive(Clone, Copy)]
struct Purpose<'a> {
    version_min: Version,
    /// In our order, as RFC 7301 §3.1 lays them out.
    protocols: &'static [u8],
    client_ca: Option<&'a ClientCa>,
}

impl ServerConfig {
    /// Serves the first identity to clients that name none, or none of ours. Of two with the same name the first counts.
    ///
    /// # Errors
    /// When there is no identity, or BoringSSL does not accept what it was given.
    pub fn new(
        identities: &[Identity],
        options: &Options,
        tickets: &Arc<TicketKeys>,
    ) -> Result<Self, TlsError> {
        let purpose = Purpose {
            version_min: options.version_min,
            protocols: if options.http2 { b"\x02h2\x08http/1.1" } else { b"\x08http/1.1" },
            client_ca: options.client_ca.as_ref(),
        };
        let context = switching(identities, purpose, tickets)
            .map_err(|error| TlsError::System(reason(&error)))?
            .ok_or_else(no_certificate)?;
        Ok(Self {
            context: context.build(),
            identities: identities.to_vec(),
            client_ca: options.client_ca.clone(),
            tickets: Arc::clone(tickets),
        })
    }

    /// The same for QUIC, which is TLS 1.3 (RFC 9001) with HTTP/3 inside. It shares the keys of tickets; a ticket is good on
    /// the transport that it was issued on.
    ///
    /// # Errors
    /// When memory ran out.
    pub fn quic_context(&self) -> Result<SslContextBuilder, TlsError> {
        let purpose = Purpose {
            version_min: Version::Tls13,
            protocols: b"\x02h3",
            client_ca: self.client_ca.as_ref(),
        };
        switching(&self.identities, purpose, &self.tickets)
            .map_err(|error| TlsError::System(reason(&error)))?
            .ok_or_else(no_certificate)
    }

    /// A session for a connection that was just accepted.
    ///
    /// # Errors
    /// When memory ran out.
    pub fn session(&self) -> Result<Session, TlsError> {
        Ssl::new(&self.context)
            .and_then(Session::new)
            .map_err(|error| TlsError::System(reason(&error)))
    }
}

fn no_certificate() -> TlsError {
    TlsError::System("no certificate".to_owned())
}

/// Serves the first identity, and switches to the others by name.
fn switching(
    identities: &[Identity],
    purpose: Purpose<'_>,
    tickets: &Arc<TicketKeys>,
) -> Result<Option<SslContextBuilder>, ErrorStack> {
    let Some((first, others)) = identities.split_first() else { return Ok(None) };
    let mut names = Names::default();
    // Known, and served by the context that the session has already.
    names.add(&first.names, None);
    for identity in others {
        let context = context(identity, purpose, tickets)?.build();
        names.add(&identity.names, Some(&context));
    }
    let mut context = context(first, purpose, tickets)?;
    context.set_servername_callback(move |ssl, _| {
        let Some(name) = ssl.servername(NameType::HOST_NAME) else {
            return Err(SniError::NOACK);
        };
        match names.find(name) {
            // RFC 6066 §3 lets a server go on with a name that it does not know, and it is what clients expect.
            None => Err(SniError::NOACK),
            Some(None) => Ok(()),
            Some(Some(context)) => ssl.set_ssl_context(context).map_err(|_| SniError::ALERT_FATAL),
        }
    });
    Ok(Some(context))
}

impl Debug for ServerConfig {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerConfig").finish_non_exhaustive()
    }
}

/// One context per identity. All have the same callbacks, because BoringSSL looks for them in the context that a session
/// was switched to.
fn context(
    identity: &Identity,
    purpose: Purpose<'_>,
    tickets: &Arc<TicketKeys>,
) -> Result<SslContextBuilder, ErrorStack> {
    let mut context = SslContextBuilder::new(SslMethod::tls())?;
    context.set_options(SslOptions::CIPHER_SERVER_PREFERENCE);
    context.set_min_proto_version(Some(purpose.version_min.to_boring()))?;
    context.set_max_proto_version(Some(SslVersion::TLS1_3))?;
    context.set_strict_cipher_list(CIPHERS)?;
    context.set_curves_list(GROUPS)?;
    context.set_sigalgs_list(SIGNATURES)?;

    let mut chain = identity.chain.iter();
    if let Some(leaf) = chain.next() {
        context.set_certificate(leaf)?;
    }
    for issuer in chain {
        context.add_extra_chain_cert(issuer.clone())?;
    }
    context.set_private_key(&identity.key)?;
    context.check_private_key()?;

    let protocols = purpose.protocols;
    context.set_alpn_select_callback(move |_, offered| {
        // RFC 7301 §3.2: a client that wants only what we do not speak is told so.
        select_next_proto(protocols, offered).ok_or(AlpnError::ALERT_FATAL)
    });

    context.set_session_cache_mode(SslSessionCacheMode::OFF);
    tickets.install(&mut context);
    // A ticket is good only for the identity that it was made under, and for clients whose certificate was checked
    // against the same authorities.
    let mut scope = Sha256::new();
    for certificate in &identity.chain {
        scope.update(&certificate.to_der()?);
    }
    if let Some(ca) = purpose.client_ca {
        scope.update(b"client-ca");
        let mut store = X509StoreBuilder::new()?;
        for certificate in &ca.certificates {
            scope.update(&certificate.to_der()?);
            store.add_cert(certificate)?;
            context.add_client_ca(certificate)?;
        }
        context.set_cert_store(store.build());
        context.set_verify(SslVerifyMode::PEER | SslVerifyMode::FAIL_IF_NO_PEER_CERT);
    }
    context.set_session_id_context(&scope.finish())?;
    Ok(context)
}

/// Which context serves a name: an exact one before a wildcard, which stands for exactly one label (RFC 6125 §6.4.3).
#[derive(Default)]
struct Names {
    exact: HashMap<String, Option<SslContext>>,
    /// By what follows `*.`.
    wildcards: HashMap<String, Option<SslContext>>,
}

impl Names {
    fn add(&mut self, names: &[String], context: Option<&SslContext>) {
        for name in names {
            let (table, name) = match name.strip_prefix("*.") {
                Some(parent) => (&mut self.wildcards, parent),
                None => (&mut self.exact, name.as_str()),
            };
            table.entry(name.to_owned()).or_insert_with(|| context.cloned());
        }
    }

    fn find(&self, name: &str) -> Option<Option<&SslContext>> {
        let name = name.to_ascii_lowercase();
        let found = self.exact.get(&name).or_else(|| {
            let (label, parent) = name.split_once('.')?;
            self.wildcards.get(parent).filter(|_| !label.is_empty())
        });
        found.map(Option::as_ref)
    }
}
