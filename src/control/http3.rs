//! HTTP/3 before it is served: sockets, the keys that all shards share, an endpoint for each of them.
//!
//! Invariant: everything that can fail for the operator's reasons has failed when [`open`] returns.

use std::{net::SocketAddr, os::fd::OwnedFd, sync::Arc};

use super::{SystemError, listen, listen::Listeners};
use crate::{
    config::http3::{self, Http3},
    limits,
    proto::{
        quic::{self, Congestion, Endpoint, Keys, Retry},
        tls::ServerConfig,
    },
    shard::{Neighbour, QuicOptions},
};

/// What the shards start with, in their order.
pub(super) struct Sockets {
    sockets: std::vec::IntoIter<OwnedFd>,
    port: u16,
    keys: Arc<Keys>,
    config: Http3,
    /// Of one shard.
    handshakes_max: usize,
}

/// `handshakes_max`: of all shards together.
pub(super) fn open(
    config: &Http3,
    handshakes_max: usize,
    listeners: &Listeners,
) -> Result<Sockets, SystemError> {
    let address = listeners.sockets.first().and_then(|listener| listener.address);
    let address: SocketAddr = address.ok_or(SystemError::NoUdpPort)?;
    let keys = Keys::new(now()).map_err(|error| SystemError::Quic(error.into()))?;
    let sockets = listen::open_datagrams(address, listeners.sockets.len(), &keys.steering())?;
    tracing::info!("HTTP/3 on the UDP port {}", address.port());
    Ok(Sockets {
        sockets: sockets.into_iter(),
        port: address.port(),
        keys: Arc::new(keys),
        config: config.clone(),
        handshakes_max: handshakes_max.div_ceil(listeners.sockets.len()),
    })
}

impl Sockets {
    /// For the next shard.
    pub(super) fn next(
        &mut self,
        shard: usize,
        tls: &ServerConfig,
        neighbours: Vec<Neighbour>,
    ) -> Result<Option<QuicOptions>, SystemError> {
        let Some(socket) = self.sockets.next() else { return Ok(None) };
        let options = quic::Options {
            retry: match self.config.retry {
                http3::Retry::Auto => Retry::Auto,
                http3::Retry::Always => Retry::Always,
                http3::Retry::Never => Retry::Never,
            },
            congestion: match self.config.congestion {
                http3::Congestion::Cubic => Congestion::Cubic,
                http3::Congestion::Bbr2 => Congestion::Bbr2,
            },
            early_data: self.config.early_data,
            handshakes_max: self.handshakes_max,
            ..quic::Options::default()
        };
        let number = u8::try_from(shard).unwrap_or_else(|_| unreachable!("SHARDS_MAX"));
        let endpoint = Endpoint::new(number, Arc::clone(&self.keys), options, tls, now());
        Ok(Some(QuicOptions {
            socket,
            port: self.port,
            endpoint: Box::new(endpoint.map_err(SystemError::Quic)?),
            qlog_dir: self.config.qlog_dir.clone(),
            neighbours,
        }))
    }
}

/// What clients of the other versions are told (RFC 7838 §3); `port` is the one that they reach TLS by.
pub(super) fn alt_svc(config: &Http3, port: u16) -> Option<String> {
    let age = config.alt_svc_max_age;
    (age > 0).then(|| format!("h3=\":{port}\"; ma={age}"))
}

/// The runtime's clock.
fn now() -> std::time::Instant {
    tokio::time::Instant::now().into_std()
}

const _: () = assert!(limits::SHARDS_MAX <= 64);
