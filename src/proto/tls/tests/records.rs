//! Bytes that come in pieces, forged, too many, too few, or in clear.

use boring::ssl::SslVersion;
use proptest::{collection::vec, prelude::*};

use super::world::{OPTIONS, Pipe, server};
use crate::{
    limits,
    proto::tls::{
        Progress, TlsError,
        client::{Household, Wishes},
    },
};

const VERSIONS: [SslVersion; 2] = [SslVersion::TLS1_2, SslVersion::TLS1_3];

fn open(version: SslVersion) -> Pipe {
    let (version_min, version_max) = (Some(version), Some(version));
    Pipe::open(&server(&OPTIONS), &Wishes { version_min, version_max, ..Wishes::default() })
}

/// The lengths of the records in a stream of them.
fn records(mut stream: &[u8]) -> Vec<usize> {
    let mut lengths = Vec::new();
    while let [_, _, _, high, low, rest @ ..] = stream {
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        lengths.push(length);
        stream = &rest[length..];
    }
    lengths
}

#[test]
fn long_writes_become_full_records() {
    for version in VERSIONS {
        let mut pipe = open(version);
        pipe.talk(usize::MAX, b"x", b"y");
        let mut out = Vec::new();
        pipe.session.encrypt(&[7; 100_000], &mut out).unwrap();
        let lengths = records(&out);
        assert_eq!(lengths.len(), 100_000_usize.div_ceil(limits::TLS_PLAINTEXT_SIZE_MAX));
        assert!(out.len() < 100_000 + lengths.len() * 64);
        pipe.to_client = out;
        pipe.exchange(usize::MAX).unwrap();
        assert!(pipe.at_client.ends_with(&[7; 100_000]));
    }
}

#[test]
fn one_call_gives_no_more_than_it_took_and_one_record() {
    for version in VERSIONS {
        let mut pipe = open(version);
        pipe.client.write(&vec![1; 1 << 20]);
        let ciphertext = pipe.client.output();
        let mut before = 0;
        for piece in ciphertext.chunks(4096) {
            pipe.give(piece).unwrap();
            let fresh = pipe.at_session.len() - before;
            assert!(fresh <= 4096 + limits::TLS_PLAINTEXT_SIZE_MAX, "{fresh}");
            before = pipe.at_session.len();
        }
        assert_eq!(before, 1 << 20);
    }
}

#[test]
fn a_session_between_records_owns_no_buffer() {
    let mut pipe = open(SslVersion::TLS1_3);
    pipe.talk(3, &[1; 50_000], &[2; 50_000]);
    assert_eq!(pipe.session.buffered(), 0);
    pipe.client.write(&[1; 100]);
    let ciphertext = pipe.client.output();
    pipe.give(&ciphertext[..60]).unwrap();
    assert!((60..=130).contains(&pipe.session.buffered()), "the part of a record");
    pipe.give(&ciphertext[60..]).unwrap();
    assert_eq!(pipe.session.buffered(), 0);
}

#[test]
fn the_end_of_the_client_is_told_from_a_truncation() {
    for version in VERSIONS {
        let mut pipe = open(version);
        pipe.client.write(b"half a requ");
        let ciphertext = pipe.client.output();
        assert_eq!(pipe.give(&ciphertext), Ok(Progress::Open));
        assert!(!pipe.session.has_ended(), "the connection could be cut off here");

        pipe.client.stream.shutdown().unwrap();
        let mut ciphertext = pipe.client.output();
        ciphertext.extend_from_slice(b"what follows is ignored");
        assert_eq!(pipe.give(&ciphertext), Ok(Progress::Ended));
        assert!(pipe.session.has_ended());
        assert_eq!(pipe.give(b"and this"), Ok(Progress::Ended));
        assert_eq!(pipe.session.buffered(), 0);
        assert_eq!(pipe.at_session, b"half a requ");
    }
}

#[test]
fn a_client_that_has_ended_still_reads() {
    for version in VERSIONS {
        let mut pipe = open(version);
        pipe.client.write(b"GET / HTTP/1.1\r\n\r\n");
        pipe.client.stream.shutdown().unwrap();
        let ciphertext = pipe.client.output();
        assert_eq!(pipe.give(&ciphertext), Ok(Progress::Ended));
        let mut out = Vec::new();
        pipe.session.encrypt(b"HTTP/1.1 200 OK\r\n\r\n", &mut out).unwrap();
        pipe.session.close_notify(&mut out).unwrap();
        let ended = pipe.client.handle(&out, &mut pipe.at_client).unwrap();
        assert!(ended, "our end is announced as well");
        assert_eq!(pipe.at_client, b"HTTP/1.1 200 OK\r\n\r\n");
    }
}

#[test]
fn the_end_of_the_server_is_announced() {
    for version in VERSIONS {
        let mut pipe = open(version);
        let mut out = Vec::new();
        pipe.session.close_notify(&mut out).unwrap();
        assert!(!out.is_empty());
        assert!(pipe.client.handle(&out, &mut pipe.at_client).unwrap());
    }
}

#[test]
fn http_in_clear_is_recognised_by_its_first_byte() {
    let config = server(&OPTIONS);
    for text in ["GET / HTTP/1.1\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "PROPFIND", "O"] {
        let (mut plain, mut out) = (Vec::new(), Vec::new());
        let mut session = config.session().unwrap();
        let outcome = session.handle(text.as_bytes(), &mut plain, &mut out);
        assert_eq!(outcome, Err(TlsError::PlainText), "{text:?}");
        assert_eq!((plain, out), (Vec::new(), Vec::new()), "the answer is the caller's");
        let again = session.handle(b"more", &mut Vec::new(), &mut Vec::new());
        assert_eq!(again, Err(TlsError::PlainText));
    }
}

#[test]
fn what_is_neither_tls_nor_http_is_refused() {
    let config = server(&OPTIONS);
    for bytes in [&b"\x00"[..], b"\x80\x2e\x01\x03\x01", b"SSH-2.0", b"\r\n\r\n\x00\x15", &[23; 64]]
    {
        let (mut plain, mut out) = (Vec::new(), Vec::new());
        let mut session = config.session().unwrap();
        let outcome = session.handle(bytes, &mut plain, &mut out);
        let expected = if bytes[0] == b'S' { TlsError::PlainText } else { TlsError::NotTls };
        assert_eq!(outcome, Err(expected));
    }
}

#[test]
fn a_handshake_of_garbage_is_answered_with_an_alert() {
    let config = server(&OPTIONS);
    let (mut plain, mut out) = (Vec::new(), Vec::new());
    let mut session = config.session().unwrap();
    let garbage = [&[22, 3, 1, 0, 64][..], &[0x55; 64]].concat();
    let outcome = session.handle(&garbage, &mut plain, &mut out);
    assert!(matches!(outcome, Err(TlsError::Handshake(_))), "{outcome:?}");
    assert_eq!(out.first(), Some(&21), "an alert");
    assert!(session.close_notify(&mut out).is_ok());
}

#[test]
fn a_record_that_is_too_long_is_refused_by_its_header() {
    let config = server(&OPTIONS);
    let mut session = config.session().unwrap();
    let outcome = session.handle(&[22, 3, 1, 0xff, 0xff], &mut Vec::new(), &mut Vec::new());
    assert!(matches!(outcome, Err(TlsError::Handshake(_))), "{outcome:?}");

    let mut pipe = open(SslVersion::TLS1_3);
    let outcome = pipe.give(&[23, 3, 3, 0xff, 0xff]);
    assert!(matches!(outcome, Err(TlsError::Record(_))), "{outcome:?}");
}

#[test]
fn a_client_hello_without_end_is_bounded() {
    let config = server(&OPTIONS);
    let mut session = config.session().unwrap();
    // A handshake message of 16 MiB, in records of 16 KiB.
    let record = [&[22, 3, 1, 0x40, 0][..], &[0; 0x4000]].concat();
    let mut first = record.clone();
    first[5..9].copy_from_slice(&[1, 0xff, 0xff, 0xff]);
    let mut fed = 0;
    let mut outcome = session.handle(&first, &mut Vec::new(), &mut Vec::new());
    while outcome.is_ok() && fed < 64 {
        outcome = session.handle(&record, &mut Vec::new(), &mut Vec::new());
        fed += 1;
    }
    assert_eq!(outcome, Err(TlsError::Handshake("EXCESSIVE_MESSAGE_SIZE".to_owned())));
    assert!(fed <= 1, "{fed} more records were taken");
    assert_eq!(session.buffered(), 0);
}

#[test]
fn a_forged_record_ends_the_session_with_an_alert() {
    for version in VERSIONS {
        let mut pipe = open(version);
        pipe.client.write(b"genuine");
        let mut ciphertext = pipe.client.output();
        *ciphertext.last_mut().unwrap() ^= 1;
        let expected = Err(TlsError::Record("DECRYPTION_FAILED_OR_BAD_RECORD_MAC".to_owned()));
        assert_eq!(pipe.give(&ciphertext), expected);
        assert!(pipe.at_session.is_empty());
        let alert = std::mem::take(&mut pipe.to_client);
        assert!(pipe.client.handle(&alert, &mut pipe.at_client).is_err());
        assert_eq!(pipe.give(b"more"), expected, "and it stays like this");
        assert!(pipe.session.encrypt(b"x", &mut Vec::new()).is_err());
    }
}

#[test]
fn nothing_is_encrypted_before_the_handshake_has_ended() {
    let config = server(&OPTIONS);
    let mut session = config.session().unwrap();
    let mut out = Vec::new();
    assert!(session.encrypt(b"too early", &mut out).is_err());
    session.close_notify(&mut out).unwrap();
    assert!(out.is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn any_split_gives_the_same_plaintext(
        cuts in vec(1_usize..3000, 1..40),
        messages in vec(1_usize..40_000, 1..6),
        old in any::<bool>(),
    ) {
        let version = if old { SslVersion::TLS1_2 } else { SslVersion::TLS1_3 };
        let (version_min, version_max) = (Some(version), Some(version));
        let household = Household::new(&Wishes { version_min, version_max, ..Wishes::default() });
        let mut pipe = Pipe::new(&server(&OPTIONS), household.client(None, None));
        let mut cuts = cuts.into_iter().cycle();
        let mut expected = Vec::new();
        for (length, fill) in messages.into_iter().zip(0_u8..) {
            while !pipe.client.is_connected() {
                pipe.exchange(cuts.next().unwrap_or(1)).unwrap();
            }
            let message = vec![fill; length];
            pipe.client.write(&message);
            expected.extend(message);
        }
        let ciphertext = pipe.client.output();
        let mut rest = ciphertext.as_slice();
        while !rest.is_empty() {
            let (piece, tail) = rest.split_at(cuts.next().unwrap_or(1).min(rest.len()));
            pipe.give(piece).unwrap();
            rest = tail;
        }
        prop_assert!(pipe.at_session == expected);
    }
}
