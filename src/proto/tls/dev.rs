//! Certificates made on the spot, for `--tls-dev` and for tests: self-signed, trusted by nobody.
//!
//! Invariant: rcgen writes the certificate and BoringSSL signs it; no second library of cryptography is linked.

#![forbid(unsafe_code)]

use std::time::SystemTime;

use boring::{
    ec::{EcGroup, EcKey},
    error::ErrorStack,
    hash::MessageDigest,
    nid::Nid,
    pkey::{PKey, Private},
    rand::rand_bytes,
    rsa::Rsa,
    sign::Signer,
    x509::X509,
};
use rcgen::{CertificateParams, DnType, PublicKeyData, SerialNumber, SignatureAlgorithm};

use super::{TlsError, identity::Identity, reason};
use crate::limits;

/// The names that `--tls-dev` vouches for.
pub const LOCAL_NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// Kinds of keys that can be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyKind {
    /// ECDSA on P-256: quick to make and to use.
    EcdsaP256,
    /// RSA with 2048 bits.
    Rsa2048,
}

/// A key, and a certificate for these DNS names and IP addresses that it signed itself.
///
/// # Errors
/// When a name is none, or memory ran out.
pub fn self_signed(kind: KeyKind, names: &[&str], now: SystemTime) -> Result<Identity, TlsError> {
    let failed = |error: ErrorStack| TlsError::System(reason(&error));
    let key = SigningKey::generate(kind).map_err(failed)?;
    let mut parameters = parameters(names, now)?;
    parameters.distinguished_name.push(DnType::CommonName, "FasterAPI development");
    let certificate = parameters.self_signed(&key).map_err(unwritable)?;
    let certificate = X509::from_der(certificate.der()).map_err(failed)?;
    Identity::new(vec![certificate], key.key).map_err(failed)
}

#[expect(clippy::needless_pass_by_value, reason = "the shape that map_err takes")]
pub(super) fn unwritable(error: rcgen::Error) -> TlsError {
    TlsError::System(format!("certificate: {error}"))
}

/// What every certificate says: its names, and when it is valid.
pub(super) fn parameters(names: &[&str], now: SystemTime) -> Result<CertificateParams, TlsError> {
    let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
    let mut parameters = CertificateParams::new(names).map_err(unwritable)?;
    let mut serial = [0; 16];
    rand_bytes(&mut serial).map_err(|error| TlsError::System(reason(&error)))?;
    parameters.serial_number = Some(SerialNumber::from_slice(&serial));
    parameters.distinguished_name = rcgen::DistinguishedName::new();
    // A client whose clock is a little slow accepts it too.
    let start = now - limits::SWEEP_INTERVAL;
    (parameters.not_before, parameters.not_after) =
        (start.into(), (now + limits::TLS_DEV_VALIDITY).into());
    Ok(parameters)
}

/// A key as rcgen wants it.
pub(super) struct SigningKey {
    pub(super) key: PKey<Private>,
    /// As `subjectPublicKey` holds it.
    public: Vec<u8>,
    kind: KeyKind,
}

impl SigningKey {
    pub(super) fn generate(kind: KeyKind) -> Result<Self, ErrorStack> {
        match kind {
            KeyKind::EcdsaP256 => {
                let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1)?;
                let key = EcKey::generate(&group)?;
                let mut context = boring::bn::BigNumContext::new()?;
                let form = boring::ec::PointConversionForm::UNCOMPRESSED;
                let public = key.public_key().to_bytes(&group, form, &mut context)?;
                Ok(Self { key: PKey::from_ec_key(key)?, public, kind })
            }
            KeyKind::Rsa2048 => {
                let key = Rsa::generate(2048)?;
                let public = key.public_key_to_der_pkcs1()?;
                Ok(Self { key: PKey::from_rsa(key)?, public, kind })
            }
        }
    }
}

impl PublicKeyData for SigningKey {
    fn der_bytes(&self) -> &[u8] {
        &self.public
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        match self.kind {
            KeyKind::EcdsaP256 => &rcgen::PKCS_ECDSA_P256_SHA256,
            KeyKind::Rsa2048 => &rcgen::PKCS_RSA_SHA256,
        }
    }
}

impl rcgen::SigningKey for SigningKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        Signer::new(MessageDigest::sha256(), &self.key)
            .and_then(|mut signer| {
                signer.update(message)?;
                signer.sign_to_vec()
            })
            .map_err(|_| rcgen::Error::RemoteKeyError)
    }
}
