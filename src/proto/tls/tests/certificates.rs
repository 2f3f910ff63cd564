//! Files that are not what they should be: one line each, which names the file.

use boring::{
    ec::{EcGroup, EcKey},
    nid::Nid,
    pkey::{Id, PKey},
    rsa::Rsa,
    symm::Cipher,
};

use super::world::{AUTHORITY, LONG, SERVER, file, now};
use crate::proto::tls::{ClientCa, Identity, dev::KeyKind};

fn load(certificate: &[u8], key: &[u8]) -> Result<Identity, String> {
    Identity::from_pem(&file("tls.crt", certificate), &file("tls.key", key), now())
        .map_err(|error| error.to_string())
}

fn complaint(certificate: &[u8], key: &[u8]) -> String {
    let complaint = load(certificate, key).expect_err("the files are wrong");
    assert!(!complaint.contains('\n'), "{complaint}");
    complaint
}

#[test]
fn a_good_pair_is_taken_from_two_files_or_from_one() {
    let (certificate, key) = (SERVER.certificate_pem(), SERVER.key_pem());
    assert_eq!(load(&certificate, &key).unwrap().names(), ["example.org"]);
    let both = [b"Some comment\r\n", key.as_slice(), b"\n\n", &certificate].concat();
    load(&both, &both).unwrap();
}

#[test]
fn older_forms_of_keys_are_read_too() {
    let certificate = SERVER.certificate_pem();
    let sec1 = SERVER.key.ec_key().unwrap().private_key_to_pem().unwrap();
    let parameters =
        b"-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n";
    load(&certificate, &[parameters, sec1.as_slice()].concat()).unwrap();

    let rsa = AUTHORITY.issue_at(KeyKind::Rsa2048, &["example.org"], now());
    let pkcs1 = rsa.key.rsa().unwrap().private_key_to_pem().unwrap();
    load(&rsa.certificate_pem(), &pkcs1).unwrap();
}

#[test]
fn what_is_no_pem_is_named() {
    let (certificate, key) = (SERVER.certificate_pem(), SERVER.key_pem());
    let der = SERVER.certificate.to_der().unwrap();
    for text in [b"".as_slice(), b"certificate", &der] {
        assert_eq!(complaint(text, &key), "tls.crt: is not PEM: no line `-----BEGIN ...-----`");
        assert_eq!(
            complaint(&certificate, text),
            "tls.key: is not PEM: no line `-----BEGIN ...-----`"
        );
    }
}

#[test]
fn swapped_or_incomplete_files_are_told() {
    let (certificate, key) = (SERVER.certificate_pem(), SERVER.key_pem());
    assert_eq!(complaint(&key, &certificate), "tls.crt: holds no certificate");
    assert_eq!(complaint(&certificate, &certificate), "tls.key: holds no private key");

    let cut = &certificate[..certificate.len() / 2];
    let told = complaint(&[&certificate, cut].concat(), &key);
    assert!(told.starts_with("tls.crt: certificate number 2 is malformed: "), "{told}");
    let told = complaint(&certificate, &key[..key.len() / 2]);
    assert!(told.starts_with("tls.key: the private key is malformed: "), "{told}");
}

#[test]
fn a_key_of_somebody_else_is_told() {
    let other = AUTHORITY.issue(&["example.org"]);
    assert_eq!(
        complaint(&SERVER.certificate_pem(), &other.key_pem()),
        "tls.key: the private key does not belong to the certificate in tls.crt"
    );
}

#[test]
fn a_chain_that_is_upside_down_is_told() {
    let chain = [AUTHORITY.certificate.to_pem().unwrap(), SERVER.certificate_pem()].concat();
    assert_eq!(
        complaint(&chain, &SERVER.key_pem()),
        "tls.crt: certificate number 2 is the one that the key belongs to: it must be the first"
    );
}

#[test]
fn a_certificate_outside_its_validity_is_told() {
    let past = AUTHORITY.issue_at(KeyKind::EcdsaP256, &["example.org"], now() - LONG);
    let told = complaint(&past.certificate_pem(), &past.key_pem());
    assert!(
        told.starts_with("tls.crt: the certificate has expired: it was valid until "),
        "{told}"
    );
    let future = AUTHORITY.issue_at(KeyKind::EcdsaP256, &["example.org"], now() + LONG);
    let told = complaint(&future.certificate_pem(), &future.key_pem());
    assert!(told.starts_with("tls.crt: the certificate is not valid before "), "{told}");
}

#[test]
fn an_encrypted_key_is_told() {
    let certificate = SERVER.certificate_pem();
    let told = "tls.key: the private key is encrypted: decrypt it, e.g. with `openssl pkey`";
    let cipher = Cipher::aes_256_cbc();
    let pkcs8 = SERVER.key.private_key_to_pem_pkcs8_passphrase(cipher, b"secret").unwrap();
    assert_eq!(complaint(&certificate, &pkcs8), told);
    let traditional = SERVER.key.ec_key().unwrap();
    let traditional = traditional.private_key_to_pem_passphrase(cipher, b"secret").unwrap();
    assert!(String::from_utf8_lossy(&traditional).contains("Proc-Type"));
    assert_eq!(complaint(&certificate, &traditional), told);
}

#[test]
fn a_kind_of_key_that_clients_refuse_is_told() {
    let certificate = SERVER.certificate_pem();
    let short = PKey::from_rsa(Rsa::generate(1024).unwrap()).unwrap();
    assert_eq!(
        complaint(&certificate, &short.private_key_to_pem_pkcs8().unwrap()),
        "tls.key: the RSA key has 1024 bits: at least 2048 are needed"
    );
    let x25519 = PKey::generate(Id::X25519).unwrap();
    let group = EcGroup::from_curve_name(Nid::SECP224R1).unwrap();
    let p224 = PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap();
    let supported = "is not supported: RSA, ECDSA P-256/P-384/P-521 and Ed25519 are";
    for (key, kind) in [
        (x25519.private_key_to_pem_pkcs8().unwrap(), "X25519"),
        (p224.private_key_to_pem_pkcs8().unwrap(), "ECDSA secp224r1"),
        (
            b"-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n"
                .to_vec(),
            "OPENSSH",
        ),
    ] {
        assert_eq!(
            complaint(&certificate, &key),
            format!("tls.key: the private key's type, {kind}, {supported}")
        );
    }
}

#[test]
fn a_client_ca_without_certificates_is_told() {
    let told = ClientCa::from_pem(&file("ca.pem", &SERVER.key_pem())).unwrap_err().to_string();
    assert_eq!(told, "ca.pem: holds no certificate");
}
