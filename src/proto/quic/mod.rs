//! What one UDP socket needs around its QUIC connections: who a datagram is for, and what is answered without one.
//!
//! ```text
//!   datagram ──► Endpoint::classify ──► Known(slot) ──► that connection
//!                                   ├─► New ──► the caller makes a connection of it, and Endpoint::insert
//!                                   ├─► Reply ──► Retry, Version Negotiation, stateless reset
//!                                   └─► Elsewhere(shard), Dropped(why)
//! ```
//!
//! Invariant: nothing is kept for a client that has not shown its address, beyond a bounded number of handshakes; no answer is
//! longer than what it answers; and every id of a connection that can still be used leads to it. Deliberately absent: sockets,
//! the connections themselves (`proto::h3` drives them), and what quiche does by itself (RFC 9000's frames, loss, paths).

#![forbid(unsafe_code)]

mod config;
mod endpoint;
mod id;
mod packet;
#[cfg(test)]
mod tests;
mod token;

use std::time::Duration;

use thiserror::Error;

pub use endpoint::{Arrival, Endpoint, Issued, Why};
pub use id::{Id, Instruction, Keys};

pub use super::h3::Quic;
use super::tls::TlsError;
use crate::limits;

/// When a client has to show that it receives what is sent to its address before anything is kept for it (RFC 9000 §8.1.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// While many handshakes are in progress, all together or from one address.
    Auto,
    /// Always: one more round trip for everybody.
    Always,
    /// Never.
    Never,
}

/// How the rate of sending is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Congestion {
    /// RFC 9438.
    Cubic,
    /// draft-ietf-ccwg-bbr, as quiche took it from Google's QUIC.
    Bbr2,
}

/// What an endpoint lets in, and what its connections are offered.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// When to send Retry.
    pub retry: Retry,
    /// How the rate of sending is found.
    pub congestion: Congestion,
    /// Take data in a client's first flight. An attacker can repeat it: the engine serves safe methods only.
    pub early_data: bool,
    /// Connections at one time.
    pub connections_max: usize,
    /// Handshakes in progress; more are not begun. From half of them on, clients have to show their address.
    pub handshakes_max: usize,
    /// A connection without a packet for so long is over, silently.
    pub idle_timeout: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            retry: Retry::Auto,
            congestion: Congestion::Cubic,
            early_data: false,
            connections_max: limits::QUIC_CONNECTIONS_MAX,
            handshakes_max: limits::HANDSHAKES_MAX,
            idle_timeout: limits::QUIC_IDLE_TIMEOUT,
        }
    }
}

/// Why there is no endpoint. Ours, or the system's: no client causes it.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum QuicError {
    /// BoringSSL refused certificates that it accepted for TLS, or has no randomness.
    #[error("BoringSSL: {0}")]
    Tls(String),
    /// quiche refused its options.
    #[error("quiche: {0}")]
    Quic(quiche::Error),
}

impl From<TlsError> for QuicError {
    fn from(error: TlsError) -> Self {
        Self::Tls(error.to_string())
    }
}

impl From<boring::error::ErrorStack> for QuicError {
    fn from(error: boring::error::ErrorStack) -> Self {
        Self::Tls(error.to_string())
    }
}

impl From<quiche::Error> for QuicError {
    fn from(error: quiche::Error) -> Self {
        Self::Quic(error)
    }
}
