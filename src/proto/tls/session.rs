//! One connection's TLS: ciphertext in, plaintext out, and back.
//!
//! Invariant: BoringSSL is shown whole records only, so it never holds a part of one, and a session between records owns no
//! buffer. After an error nothing is read any more and the same error comes back.

#![forbid(unsafe_code)]

use std::{
    fmt::{self, Debug, Formatter},
    io::{self, Read, Write},
};

use boring::{
    error::ErrorStack,
    ssl::{Error, ErrorCode, NameType, Ssl, SslRef, SslStream},
    x509::X509NameRef,
};

use super::{TlsError, config::Version, reason};
use crate::limits;

/// How names are written: RFC 4514, ASCII (OpenSSL's XN_FLAG_RFC2253, its predecessor, whose output conforms to both).
const NAME_FORMAT: i32 = 0x0111_0317;
/// Type, version and length of a record.
const HEADER_SIZE: usize = 5;
/// What a record adds to its plaintext at most: header, nonce, tag, padding to a block, inner type.
const OVERHEAD_MAX: usize = 64;
/// BoringSSL reports alert n of the peer as reason 1000 + n.
const ALERT_REASON_FIRST: i32 = 1000;

/// Where a session stands after it has taken what there was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// More of the client's handshake is awaited; nothing can be encrypted yet.
    Handshaking,
    /// Both directions are open.
    Open,
    /// The client has sent its last byte, and said so (`close_notify`); it still reads.
    Ended,
}

/// What a client has proved to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientCertificate {
    /// The certificate's subject, in RFC 4514's form; empty where it is beyond the bound.
    pub subject: String,
    /// Its issuer, likewise.
    pub issuer: String,
    /// DER, one after another: the certificate, then issuers that the client sent along.
    pub chain: Vec<u8>,
}

/// See the module.
pub struct Session {
    stream: SslStream<Wire>,
    progress: Progress,
    /// No byte of the client was looked at.
    fresh: bool,
    failure: Option<Box<TlsError>>,
}

impl Session {
    pub(super) fn new(ssl: Ssl) -> Result<Self, ErrorStack> {
        let stream = SslStream::new(ssl, Wire::default())?;
        Ok(Self { stream, progress: Progress::Handshaking, fresh: true, failure: None })
    }

    /// Takes what arrived from the socket. Plaintext is appended to `plain`: at most as much as the ciphertext that was
    /// given, and one record. What has to be sent is appended to `out`, also when the call fails.
    ///
    /// # Errors
    /// The connection is to be closed once `out` is sent; with [`TlsError::PlainText`], after an answer in clear.
    pub fn handle(
        &mut self,
        ciphertext: &[u8],
        plain: &mut Vec<u8>,
        out: &mut Vec<u8>,
    ) -> Result<Progress, TlsError> {
        if let Some(failure) = &self.failure {
            return Err(TlsError::clone(failure));
        }
        if self.progress == Progress::Ended || ciphertext.is_empty() {
            // RFC 8446 §6.1: what follows close_notify is ignored.
            return Ok(self.progress);
        }
        let outcome = self.check_first(ciphertext).and_then(|()| {
            self.stream.get_mut().feed(ciphertext);
            self.writing_to(out, |session| session.advance(plain))
        });
        self.stream.get_mut().forget_read();
        match outcome {
            Ok(progress) => {
                self.progress = progress;
                Ok(progress)
            }
            Err(error) => {
                self.stream.get_mut().input = Vec::new();
                self.failure = Some(Box::new(error.clone()));
                Err(error)
            }
        }
    }

    /// The first byte of a connection tells TLS (a handshake record, RFC 8446 §5.1) from HTTP, whose methods are in
    /// upper case.
    fn check_first(&mut self, ciphertext: &[u8]) -> Result<(), TlsError> {
        match (std::mem::take(&mut self.fresh), ciphertext.first()) {
            (false, _) | (true, None | Some(22)) => Ok(()),
            (true, Some(byte)) if byte.is_ascii_uppercase() => Err(TlsError::PlainText),
            (true, Some(_)) => Err(TlsError::NotTls),
        }
    }

    fn advance(&mut self, plain: &mut Vec<u8>) -> Result<Progress, TlsError> {
        if self.progress == Progress::Handshaking {
            if !self.stream.get_ref().has_record() {
                return Ok(Progress::Handshaking);
            }
            match self.stream.accept() {
                Ok(()) => self.progress = Progress::Open,
                Err(error) if error.code() == ErrorCode::WANT_READ => {
                    return Ok(Progress::Handshaking);
                }
                Err(error) => return Err(self.blame(&error)),
            }
        }
        loop {
            let bound = match self.stream.ssl().pending() {
                0 => match self.stream.get_ref().next_record_size() {
                    Some(size) => size.clamp(1, limits::TLS_PLAINTEXT_SIZE_MAX),
                    None => return Ok(Progress::Open),
                },
                pending => pending,
            };
            let start = plain.len();
            plain.resize(start + bound, 0);
            let read = self.stream.ssl_read(plain.get_mut(start..).unwrap_or_default());
            plain.truncate(start + read.as_ref().map_or(0, |read| *read));
            match read {
                Ok(_) => {}
                Err(error) if error.code() == ErrorCode::WANT_READ => return Ok(Progress::Open),
                Err(error) if error.code() == ErrorCode::ZERO_RETURN => {
                    self.stream.get_mut().input = Vec::new();
                    return Ok(Progress::Ended);
                }
                Err(error) => return Err(self.blame(&error)),
            }
        }
    }

    /// Appends `plain`, in records, to `out`.
    ///
    /// # Errors
    /// When the session is not open for writing; nothing that the client does closes it after the handshake but an error.
    pub fn encrypt(&mut self, plain: &[u8], out: &mut Vec<u8>) -> Result<(), TlsError> {
        if let Some(failure) = &self.failure {
            return Err(TlsError::clone(failure));
        }
        if self.progress == Progress::Handshaking {
            return Err(TlsError::System("written to before the handshake has ended".to_owned()));
        }
        let records = plain.len().div_ceil(limits::TLS_PLAINTEXT_SIZE_MAX);
        out.reserve(plain.len() + records * OVERHEAD_MAX);
        self.writing_to(out, |session| {
            let mut rest = plain;
            while !rest.is_empty() {
                match session.stream.ssl_write(rest) {
                    Ok(written) => rest = rest.get(written..).unwrap_or_default(),
                    Err(error) => return Err(session.blame(&error)),
                }
            }
            Ok(())
        })
    }

    /// Appends the announcement that nothing follows; no more may be encrypted. Does nothing during a handshake.
    ///
    /// # Errors
    /// When memory ran out.
    pub fn close_notify(&mut self, out: &mut Vec<u8>) -> Result<(), TlsError> {
        if self.failure.is_some() || self.is_handshaking() {
            return Ok(());
        }
        self.writing_to(out, |session| match session.stream.shutdown() {
            Ok(_) => Ok(()),
            Err(error) => Err(session.blame(&error)),
        })
    }

    /// Lends the caller's buffer to BoringSSL for the time of a call.
    fn writing_to<T>(
        &mut self,
        out: &mut Vec<u8>,
        call: impl FnOnce(&mut Self) -> Result<T, TlsError>,
    ) -> Result<T, TlsError> {
        std::mem::swap(&mut self.stream.get_mut().output, out);
        let outcome = call(self);
        std::mem::swap(&mut self.stream.get_mut().output, out);
        outcome
    }

    fn blame(&self, error: &Error) -> TlsError {
        let Some(stack) = error.ssl_error() else { return TlsError::System(error.to_string()) };
        // The last one is the protocol's; those before it say what it came from.
        let Some(error) = stack.errors().last() else { return TlsError::System(error.to_string()) };
        let reason = error.reason().unwrap_or("no reason given").to_owned();
        if error.library() == Some("SSL routines") && error.reason_code() >= ALERT_REASON_FIRST {
            return TlsError::Alert(reason);
        }
        match reason.as_str() {
            "PEER_DID_NOT_RETURN_A_CERTIFICATE" => {
                TlsError::ClientCertificate("none was sent".to_owned())
            }
            "CERTIFICATE_VERIFY_FAILED" => {
                let verdict = self.stream.ssl().verify_result();
                let verdict = verdict.err().map_or("refused", |verdict| verdict.error_string());
                TlsError::ClientCertificate(verdict.to_owned())
            }
            "MALLOC_FAILURE" | "INTERNAL_ERROR" => TlsError::System(reason),
            _ if self.is_handshaking() => TlsError::Handshake(reason),
            _ => TlsError::Record(reason),
        }
    }

    /// True until the handshake has ended, well or not.
    pub fn is_handshaking(&self) -> bool {
        self.progress == Progress::Handshaking
    }

    /// True when the client said that nothing follows: an end of the connection without it is a truncation, by the
    /// client or by somebody in between.
    pub fn has_ended(&self) -> bool {
        self.progress == Progress::Ended
    }

    /// True while the client owes the rest of a record.
    pub fn holds_part(&self) -> bool {
        !self.stream.get_ref().input.is_empty()
    }

    /// Bytes that it holds; none between records.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn buffered(&self) -> usize {
        let wire = self.stream.get_ref();
        wire.input.capacity() + wire.output.capacity()
    }

    /// The application protocol that was agreed upon, e.g. `h2`.
    pub fn alpn(&self) -> Option<&[u8]> {
        self.stream.ssl().selected_alpn_protocol()
    }

    /// The host that the client asked for.
    pub fn sni(&self) -> Option<&str> {
        self.stream.ssl().servername(NameType::HOST_NAME)
    }

    /// The version that was agreed upon.
    pub fn version(&self) -> Option<Version> {
        match self.stream.ssl().version2()? {
            boring::ssl::SslVersion::TLS1_2 => Some(Version::Tls12),
            boring::ssl::SslVersion::TLS1_3 => Some(Version::Tls13),
            _ => None,
        }
    }

    /// The cipher suite: its number (IANA's registry) and its name in RFCs.
    pub fn cipher(&self) -> Option<(u16, &'static str)> {
        let cipher = self.stream.ssl().current_cipher()?;
        Some((cipher.protocol_id(), cipher.standard_name().unwrap_or_default()))
    }

    /// True when a ticket of an earlier session was taken.
    pub fn resumed(&self) -> bool {
        self.stream.ssl().session_reused()
    }

    /// The client's certificate and the issuers that it sent along, in DER; empty without `client_ca`.
    ///
    /// # Errors
    /// When memory ran out.
    pub fn peer_certificates(&self) -> Result<Vec<Vec<u8>>, TlsError> {
        peer_certificates(self.stream.ssl())
    }
}

fn peer_certificates(ssl: &SslRef) -> Result<Vec<Vec<u8>>, TlsError> {
    let Some(leaf) = ssl.peer_certificate() else { return Ok(Vec::new()) };
    let issuers = ssl.peer_cert_chain().into_iter().flatten();
    let all = std::iter::once(leaf.to_der()).chain(issuers.map(|issuer| issuer.to_der()));
    all.collect::<Result<_, _>>().map_err(|error| TlsError::System(reason(&error)))
}

impl Session {
    /// Who the client is, in at most `size_max` bytes; `None` without `client_ca`. Its own certificate comes first; of what does
    /// not fit there is nothing: a name is empty, the chain ends before that certificate.
    ///
    /// # Errors
    /// When memory ran out.
    pub fn client_certificate(
        &self,
        size_max: usize,
    ) -> Result<Option<ClientCertificate>, TlsError> {
        ClientCertificate::of(self.stream.ssl(), size_max)
    }
}

impl ClientCertificate {
    /// [`Session::client_certificate`] of a session that somebody else drives, as QUIC does.
    ///
    /// # Errors
    /// When memory ran out.
    pub fn of(ssl: &SslRef, size_max: usize) -> Result<Option<Self>, TlsError> {
        let Some(leaf) = ssl.peer_certificate() else { return Ok(None) };
        let mut left = size_max;
        let mut fits = |size: usize| {
            let rest = left.checked_sub(size);
            left = rest.unwrap_or(left);
            rest.is_some()
        };
        let certificates = peer_certificates(ssl)?;
        let mut certificates = certificates.iter();
        let own = certificates.next().filter(|own| fits(own.len()));
        let mut name = |name: &X509NameRef| {
            name.print_ex(NAME_FORMAT).filter(|name| fits(name.len())).unwrap_or_default()
        };
        let (subject, issuer) = (name(leaf.subject_name()), name(leaf.issuer_name()));
        let mut chain = own.cloned().unwrap_or_default();
        for certificate in certificates.take_while(|next| own.is_some() && fits(next.len())) {
            chain.extend_from_slice(certificate);
        }
        Ok(Some(Self { subject, issuer, chain }))
    }
}

impl Debug for Session {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("progress", &self.progress)
            .field("failure", &self.failure)
            .finish_non_exhaustive()
    }
}

/// Both directions as BoringSSL sees them.
#[derive(Debug, Default)]
pub(crate) struct Wire {
    /// Received and not read by BoringSSL.
    input: Vec<u8>,
    /// BoringSSL has read so much of it.
    at: usize,
    /// End of the last whole record, at or behind `at`. Never passed by a read.
    whole: usize,
    pub(super) output: Vec<u8>,
}

impl Wire {
    pub(super) fn feed(&mut self, ciphertext: &[u8]) {
        self.input.extend_from_slice(ciphertext);
        while let Some(size) = self.record_size(self.whole) {
            let end = self.whole + HEADER_SIZE + size;
            if size > limits::TLS_CIPHERTEXT_SIZE_MAX {
                // BoringSSL refuses its header; the rest is not waited for.
                self.whole = self.input.len();
            } else if end <= self.input.len() {
                self.whole = end;
                continue;
            } else {
                // Of which more is on its way.
                self.input.reserve_exact(end - self.input.len());
            }
            break;
        }
    }

    /// What the header at this place says.
    fn record_size(&self, at: usize) -> Option<usize> {
        match self.input.get(at..)? {
            [_, _, _, high, low, ..] => Some(usize::from(u16::from_be_bytes([*high, *low]))),
            _ => None,
        }
    }

    fn has_record(&self) -> bool {
        self.at < self.whole
    }

    /// The length of the record that BoringSSL reads next, if it is here.
    fn next_record_size(&self) -> Option<usize> {
        self.record_size(self.at).filter(|_| self.has_record())
    }

    /// Drops what was read.
    pub(super) fn forget_read(&mut self) {
        if self.at >= self.input.len() {
            self.input = Vec::new();
        } else {
            self.input.drain(..self.at);
        }
        self.whole = self.whole.saturating_sub(self.at);
        self.at = 0;
    }
}

impl Read for Wire {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let available = self.input.get(self.at..self.whole).unwrap_or_default();
        if available.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let taken = available.len().min(buffer.len());
        let (Some(to), Some(from)) = (buffer.get_mut(..taken), available.get(..taken)) else {
            return Err(io::ErrorKind::WouldBlock.into());
        };
        to.copy_from_slice(from);
        self.at += taken;
        Ok(taken)
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.output.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
