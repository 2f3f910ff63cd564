//! The other end, in memory: BoringSSL as a client, for tests and fuzzing.
//!
//! Invariant: it has the shape of a [`super::Session`], so that a test hands bytes from one to the other and nothing else.

#![allow(clippy::unwrap_used, reason = "test code: what fails here fails the test")]

use std::sync::mpsc::{Receiver, Sender, channel};

use boring::{
    pkey::{PKey, Private},
    ssl::{
        Error, ErrorCode, Ssl, SslContext, SslContextBuilder, SslMethod, SslSession,
        SslSessionCacheMode, SslStream, SslVersion,
    },
    x509::X509,
};

use super::{Identity, session::Wire};

/// What a QUIC server of this identity shakes hands with.
pub(crate) fn quic_server(identity: &Identity) -> SslContextBuilder {
    let mut context = SslContextBuilder::new(SslMethod::tls()).unwrap();
    context.set_certificate(&identity.chain[0]).unwrap();
    context.set_private_key(&identity.key).unwrap();
    context
}

/// What a client asks for. It trusts everybody: tests look at the certificate themselves.
#[derive(Clone, Default)]
pub(crate) struct Wishes<'a> {
    pub(crate) version_min: Option<SslVersion>,
    pub(crate) version_max: Option<SslVersion>,
    pub(crate) name: Option<&'a str>,
    /// In wire form: each with its length before it.
    pub(crate) protocols: &'a [u8],
    pub(crate) certificate: Option<(&'a X509, &'a PKey<Private>)>,
    pub(crate) trusted: Option<&'a X509>,
}

/// Where clients come from that can use each other's tickets.
pub(crate) struct Household {
    context: SslContext,
    tickets: Receiver<SslSession>,
}

impl Household {
    pub(crate) fn new(wishes: &Wishes<'_>) -> Self {
        let mut context = SslContextBuilder::new(SslMethod::tls()).unwrap();
        context.set_min_proto_version(wishes.version_min).unwrap();
        context.set_max_proto_version(wishes.version_max).unwrap();
        if !wishes.protocols.is_empty() {
            context.set_alpn_protos(wishes.protocols).unwrap();
        }
        if let Some((certificate, key)) = wishes.certificate {
            context.set_certificate(certificate).unwrap();
            context.set_private_key(key).unwrap();
        }
        if let Some(trusted) = wishes.trusted {
            context.cert_store_mut().add_cert(trusted).unwrap();
            context.set_verify(boring::ssl::SslVerifyMode::PEER);
        }
        context
            .set_session_cache_mode(SslSessionCacheMode::CLIENT | SslSessionCacheMode::NO_INTERNAL);
        let (sender, tickets): (Sender<SslSession>, _) = channel();
        context.set_new_session_callback(move |_, session| {
            // The test may have ended.
            drop(sender.send(session));
        });
        Self { context: context.build(), tickets }
    }

    /// The newest ticket that one of its clients got.
    pub(crate) fn ticket(&self) -> Option<SslSession> {
        self.tickets.try_iter().last()
    }

    pub(crate) fn client(&self, name: Option<&str>, ticket: Option<&SslSession>) -> Client {
        let mut ssl = Ssl::new(&self.context).unwrap();
        if let Some(name) = name {
            ssl.set_hostname(name).unwrap();
        }
        if let Some(ticket) = ticket {
            // SAFETY: the ticket comes from this context: `ticket` above is the only source of them.
            #[expect(unsafe_code, reason = "the binding has no other way to resume")]
            unsafe {
                ssl.set_session(ticket).unwrap();
            }
        }
        Client { stream: SslStream::new(ssl, Wire::default()).unwrap(), connected: false }
    }
}

pub(crate) struct Client {
    pub(crate) stream: SslStream<Wire>,
    connected: bool,
}

impl Client {
    /// Takes what the server sent; plaintext is appended. True when the server announced its end.
    pub(crate) fn handle(&mut self, ciphertext: &[u8], plain: &mut Vec<u8>) -> Result<bool, Error> {
        self.stream.get_mut().feed(ciphertext);
        let outcome = self.advance(plain);
        self.stream.get_mut().forget_read();
        outcome
    }

    fn advance(&mut self, plain: &mut Vec<u8>) -> Result<bool, Error> {
        if !self.connected {
            match self.stream.connect() {
                Ok(()) => self.connected = true,
                Err(error) if error.code() == ErrorCode::WANT_READ => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        let mut piece = vec![0; 16 * 1024];
        loop {
            match self.stream.ssl_read(&mut piece) {
                Ok(read) => plain.extend(piece.iter().take(read)),
                Err(error) if error.code() == ErrorCode::WANT_READ => return Ok(false),
                Err(error) if error.code() == ErrorCode::ZERO_RETURN => return Ok(true),
                Err(error) => return Err(error),
            }
        }
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.connected
    }

    pub(crate) fn write(&mut self, plain: &[u8]) {
        let mut rest = plain;
        while !rest.is_empty() {
            let written = self.stream.ssl_write(rest).unwrap();
            rest = &rest[written..];
        }
    }

    /// Everything that it wants sent.
    pub(crate) fn output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.stream.get_mut().output)
    }
}
