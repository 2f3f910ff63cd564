//! TLS 1.2 and 1.3 as a filter between a socket's bytes and an HTTP engine, on BoringSSL.
//!
//! ```text
//!   PEM ──► Identity ─┐                       socket bytes ──► handle ──► plain bytes ──► engine
//!                     ├─► ServerConfig ──► Session
//!        TicketKeys ──┘                       socket bytes ◄── encrypt ◄─ plain bytes ◄── engine
//! ```
//!
//! Invariant: a session holds at most one incomplete record of what it was given, and nothing of what it made; all
//! output, alerts too, is in the caller's buffer when a call returns. Deliberately absent: file descriptors and files
//! (the caller reads PEM), renegotiation, compression and early data (a request in it could be replayed, RFC 8446 §8).

#[cfg(any(test, fuzzing))]
pub(crate) mod client;
mod config;
pub mod dev;
mod identity;
mod session;
#[cfg(test)]
mod tests;
mod tickets;

use thiserror::Error;

pub use config::{ClientCa, Options, ServerConfig, Version};
pub use identity::{CertificateError, Fault, Identity, PemFile};
pub use session::{ClientCertificate, Progress, Session};
pub use tickets::TicketKeys;

/// Why a connection cannot go on. Close it once the output is sent: an alert may be in it.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TlsError {
    /// The client speaks HTTP without TLS: it can be answered in clear.
    #[error("plain-text HTTP")]
    PlainText,
    /// Neither TLS nor HTTP.
    #[error("not TLS")]
    NotTls,
    /// The client said so: BoringSSL's name of its alert.
    #[error("the client's alert: {0}")]
    Alert(String),
    /// No certificate, or one that the configured authorities do not vouch for.
    #[error("client certificate: {0}")]
    ClientCertificate(String),
    /// The handshake broke the protocol, or has no version, suite or application protocol in common with ours.
    #[error("handshake: {0}")]
    Handshake(String),
    /// A record after the handshake is forged or out of order.
    #[error("record: {0}")]
    Record(String),
    /// Ours: memory ran out, or a call came out of order.
    #[error("BoringSSL: {0}")]
    System(String),
}

/// BoringSSL's own words, on one line.
fn reason(stack: &boring::error::ErrorStack) -> String {
    let first = stack.errors().first();
    first.and_then(boring::error::Error::reason).unwrap_or("no reason given").to_owned()
}
