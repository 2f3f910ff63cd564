//! A certificate chain with its private key, checked.
//!
//! Invariant: an [`Identity`] can be served: the leaf comes first, is valid now, and the key is its own and of a kind that
//! clients accept. Whatever is wrong is one line that names the file. Deliberately absent: whether anybody trusts the
//! chain, which only clients know.

#![forbid(unsafe_code)]

use std::{
    fmt::{self, Debug, Formatter},
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use boring::{
    asn1::Asn1Time,
    error::ErrorStack,
    nid::Nid,
    pkey::{Id, PKey, PKeyRef, Private},
    x509::X509,
};
use thiserror::Error;

use super::reason;
use crate::limits;

/// The text of a file, and the name to blame.
#[derive(Clone, Copy, Debug)]
pub struct PemFile<'a> {
    /// As the configuration names it.
    pub path: &'a Path,
    /// What it holds.
    pub text: &'a [u8],
}

/// What is wrong with a file of the configuration.
#[derive(Debug, Error)]
#[error("{}: {fault}", file.display())]
pub struct CertificateError {
    /// The file to blame.
    pub file: PathBuf,
    /// What is wrong with it.
    pub fault: Fault,
}

/// See [`CertificateError`].
#[derive(Debug, Error)]
pub enum Fault {
    /// The system does not hand it out.
    #[error("cannot be read: {0}")]
    Unreadable(#[from] std::io::Error),
    /// No PEM block at all; often DER.
    #[error("is not PEM: no line `-----BEGIN ...-----`")]
    NotPem,
    /// PEM, but nothing of it is a certificate.
    #[error("holds no certificate")]
    NoCertificate,
    /// A certificate that cannot be parsed.
    #[error("certificate number {number} is malformed: {reason}")]
    CertificateMalformed {
        /// From 1, in the order of the file.
        number: usize,
        /// BoringSSL's words.
        reason: String,
    },
    /// The leaf was valid once.
    #[error("the certificate has expired: it was valid until {0}")]
    Expired(String),
    /// The leaf will be valid.
    #[error("the certificate is not valid before {0}")]
    NotYetValid(String),
    /// PEM, but nothing of it is a private key.
    #[error("holds no private key")]
    NoKey,
    /// A private key that cannot be parsed.
    #[error("the private key is malformed: {0}")]
    KeyMalformed(String),
    /// Nobody is there to type a passphrase.
    #[error("the private key is encrypted: decrypt it, e.g. with `openssl pkey`")]
    KeyEncrypted,
    /// A kind of key that clients do not accept.
    #[error(
        "the private key's type, {0}, is not supported: RSA, ECDSA P-256/P-384/P-521 and Ed25519 are"
    )]
    KeyUnsupported(String),
    /// An RSA key that clients do not accept.
    #[error("the RSA key has {0} bits: at least {min} are needed", min = limits::TLS_RSA_KEY_BITS_MIN)]
    KeyTooShort(u32),
    /// Certificate and key are no pair.
    #[error("the private key does not belong to the certificate in {}", .0.display())]
    KeyMismatch(PathBuf),
    /// The chain is upside down.
    #[error("certificate number {0} is the one that the key belongs to: it must be the first")]
    LeafNotFirst(usize),
    /// BoringSSL does not take it, for a reason that has no variant of its own.
    #[error("{0}")]
    Refused(String),
}

impl PemFile<'_> {
    pub(super) fn blame(&self, fault: Fault) -> CertificateError {
        CertificateError { file: self.path.to_owned(), fault }
    }

    pub(super) fn refused(&self, stack: &ErrorStack) -> CertificateError {
        self.blame(Fault::Refused(reason(stack)))
    }

    /// The file's certificates, at least one.
    pub(super) fn certificates(&self) -> Result<Vec<X509>, CertificateError> {
        let blocks = self.blocks()?;
        let certificates = blocks.iter().filter(|block| block.label.ends_with("CERTIFICATE"));
        let parsed = (1..).zip(certificates).map(|(number, block)| {
            X509::from_pem(block.text.as_bytes()).map_err(|error| {
                self.blame(Fault::CertificateMalformed { number, reason: reason(&error) })
            })
        });
        let parsed: Vec<X509> = parsed.collect::<Result<_, _>>()?;
        if parsed.is_empty() { Err(self.blame(Fault::NoCertificate)) } else { Ok(parsed) }
    }

    /// The file's first private key.
    fn key(&self) -> Result<PKey<Private>, CertificateError> {
        let blocks = self.blocks()?;
        let block = blocks
            .iter()
            .find(|block| block.label.ends_with("PRIVATE KEY"))
            .ok_or_else(|| self.blame(Fault::NoKey))?;
        // RFC 7468 §11; the header is OpenSSL's older form (RFC 1421 §4.6.1.1).
        if block.label.starts_with("ENCRYPTED ") || block.text.contains("Proc-Type: 4,ENCRYPTED") {
            return Err(self.blame(Fault::KeyEncrypted));
        }
        if let "OPENSSH PRIVATE KEY" | "DSA PRIVATE KEY" = block.label {
            let kind = block.label.trim_end_matches(" PRIVATE KEY");
            return Err(self.blame(Fault::KeyUnsupported(kind.to_owned())));
        }
        let key = PKey::private_key_from_pem(block.text.as_bytes()).map_err(|error| {
            let unsupported = error.errors().iter().any(|error| {
                matches!(error.reason(), Some("UNSUPPORTED_ALGORITHM" | "UNKNOWN_GROUP"))
            });
            self.blame(if unsupported {
                Fault::KeyUnsupported("unknown to BoringSSL".to_owned())
            } else {
                Fault::KeyMalformed(reason(&error))
            })
        })?;
        check_kind(&key).map_err(|fault| self.blame(fault))?;
        Ok(key)
    }

    /// The file's PEM blocks, at least one. What stands between them is a comment (RFC 7468 §2).
    fn blocks(&self) -> Result<Vec<Block<'_>>, CertificateError> {
        // Of a file in another encoding only the comments suffer: the rest of PEM is ASCII.
        let text = str::from_utf8(self.text).map_err(|_| self.blame(Fault::NotPem))?;
        let mut blocks = Vec::new();
        let mut rest = text;
        while let Some((_, from)) = rest.split_once("-----BEGIN ") {
            let Some((label, _)) = from.split_once("-----") else { break };
            let end = format!("-----END {label}-----");
            let length = from.find(&end).map_or(from.len(), |at| at + end.len());
            let (body, behind) = from.split_at(length);
            blocks.push(Block { label, text: format!("-----BEGIN {body}\n") });
            rest = behind;
        }
        if blocks.is_empty() { Err(self.blame(Fault::NotPem)) } else { Ok(blocks) }
    }
}

struct Block<'a> {
    label: &'a str,
    /// From its first line to its last.
    text: String,
}

fn check_kind(key: &PKeyRef<Private>) -> Result<(), Fault> {
    match key.id() {
        Id::RSA if key.bits() < limits::TLS_RSA_KEY_BITS_MIN => Err(Fault::KeyTooShort(key.bits())),
        Id::RSA | Id::ED25519 => Ok(()),
        Id::EC => {
            let curve = key.ec_key().ok().and_then(|key| key.group().curve_name());
            match curve {
                Some(Nid::X9_62_PRIME256V1 | Nid::SECP384R1 | Nid::SECP521R1) => Ok(()),
                Some(curve) => {
                    let name = curve.short_name().unwrap_or("an unknown curve");
                    Err(Fault::KeyUnsupported(format!("ECDSA {name}")))
                }
                None => Err(Fault::KeyUnsupported("ECDSA with explicit parameters".to_owned())),
            }
        }
        Id::DSA => Err(Fault::KeyUnsupported("DSA".to_owned())),
        Id::X25519 => Err(Fault::KeyUnsupported("X25519".to_owned())),
        other => Err(Fault::KeyUnsupported(format!("number {}", other.as_raw()))),
    }
}

/// A certificate chain that can be served, with its key.
#[derive(Clone)]
pub struct Identity {
    /// The leaf, then its issuers.
    pub(super) chain: Vec<X509>,
    pub(super) key: PKey<Private>,
    /// The leaf's DNS names, in lower case; a wildcard as `*.example.org`.
    pub(super) names: Vec<String>,
}

impl Identity {
    /// Reads a chain and its key; one file may hold both. `now` decides whether the leaf is valid.
    ///
    /// # Errors
    /// A line that names the file to blame.
    pub fn from_pem(
        certificate: &PemFile<'_>,
        key: &PemFile<'_>,
        now: SystemTime,
    ) -> Result<Self, CertificateError> {
        let chain = certificate.certificates()?;
        let private = key.key()?;
        let belongs = |certificate: &X509| {
            certificate.public_key().is_ok_and(|public| public.public_eq(&private))
        };
        match chain.iter().position(belongs) {
            Some(0) => {}
            Some(at) => return Err(certificate.blame(Fault::LeafNotFirst(at + 1))),
            None => return Err(key.blame(Fault::KeyMismatch(certificate.path.to_owned()))),
        }
        let identity = Self::new(chain, private).map_err(|error| certificate.refused(&error))?;
        identity.check_validity(now).map_err(|fault| certificate.blame(fault))?;
        Ok(identity)
    }

    pub(super) fn new(chain: Vec<X509>, key: PKey<Private>) -> Result<Self, ErrorStack> {
        let names = chain.first().map_or_else(|| Ok(Vec::new()), names)?;
        Ok(Self { chain, key, names })
    }

    /// The DNS names that the leaf is valid for, in lower case; a wildcard as `*.example.org`.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    fn check_validity(&self, now: SystemTime) -> Result<(), Fault> {
        let Some(leaf) = self.chain.first() else { return Ok(()) };
        let seconds = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let now = Asn1Time::from_unix(seconds.try_into().unwrap_or(i64::MAX))
            .map_err(|error| Fault::Refused(reason(&error)))?;
        if *leaf.not_after() < now {
            return Err(Fault::Expired(leaf.not_after().to_string()));
        }
        if *leaf.not_before() > now {
            return Err(Fault::NotYetValid(leaf.not_before().to_string()));
        }
        Ok(())
    }
}

impl Debug for Identity {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("names", &self.names).finish_non_exhaustive()
    }
}

/// RFC 6125 §6.4.4: the common name counts only where there is no alternative name.
fn names(leaf: &X509) -> Result<Vec<String>, ErrorStack> {
    if let Some(alternatives) = leaf.subject_alt_names() {
        let names = alternatives.iter().filter_map(|name| name.dnsname());
        return Ok(names.map(str::to_ascii_lowercase).collect());
    }
    let common = leaf.subject_name().entries_by_nid(Nid::COMMONNAME).next();
    let Some(common) = common else { return Ok(Vec::new()) };
    Ok(vec![common.data().as_utf8()?.to_ascii_lowercase()])
}
