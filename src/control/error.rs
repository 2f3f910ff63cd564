//! What can keep the server from starting, or from going on, that is neither the operator's arguments nor a worker.

use std::{io, net::SocketAddr, path::PathBuf};

use thiserror::Error;

use super::certificates::LoadError;
use crate::{pool::process::PythonError, proto::quic::QuicError};

/// Said in one line; what it names is what has to change.
#[derive(Debug, Error)]
pub enum SystemError {
    /// The host name has no address.
    #[error("cannot resolve the host {host:?}: {error}")]
    Resolve {
        /// As configured.
        host: String,
        /// What the resolver says.
        error: io::Error,
    },
    /// The address is taken.
    #[error("{0} is in use by another process")]
    AddressInUse(SocketAddr),
    /// A port below `net.ipv4.ip_unprivileged_port_start`.
    #[error("no permission to listen on {0}; ports below 1024 need CAP_NET_BIND_SERVICE")]
    AddressDenied(SocketAddr),
    /// Any other reason not to listen there.
    #[error("cannot listen on {address}: {error}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// What the system says.
        error: io::Error,
    },
    /// The UDP port is taken.
    #[error("the UDP port of {0} is in use by another process")]
    UdpAddressInUse(SocketAddr),
    /// Any other reason to have no UDP port there.
    #[error("cannot have the UDP port of {address}: {error}")]
    ListenUdp {
        /// Where.
        address: SocketAddr,
        /// What the system says.
        error: io::Error,
    },
    /// The socket that we were given is of the Unix kind.
    #[error("--http3: the socket that is listened on has no port")]
    NoUdpPort,
    /// QUIC cannot be spoken.
    #[error("QUIC: {0}")]
    Quic(QuicError),
    /// Somebody listens on the Unix socket.
    #[error("{} is in use by another process", .0.display())]
    SocketInUse(PathBuf),
    /// The path is taken by something that is not ours to replace.
    #[error("{} exists and is not a socket", .0.display())]
    NotASocket(PathBuf),
    /// Any other reason not to listen on that path.
    #[error("cannot listen on {}: {error}", .path.display())]
    ListenUnix {
        /// Where.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// What was passed down is nothing to listen on.
    #[error("--fd {fd}: {error}")]
    Inherited {
        /// Its number.
        fd: i32,
        /// What is wrong with it.
        error: io::Error,
    },
    /// The application's variables cannot be read.
    #[error("--env-file {}: {error}", .path.display())]
    EnvFile {
        /// Where.
        path: PathBuf,
        /// What is wrong, with the line if it is one.
        error: dotenvy::Error,
    },
    /// There is nothing to speak TLS with.
    #[error("TLS: {0}")]
    Certificates(LoadError),
    /// The access log cannot be written.
    #[error("cannot open the access log {}: {error}", .path.display())]
    AccessLog {
        /// Where.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// No io_uring.
    #[error(
        "io_uring is not available: {0}; it needs Linux 5.19 or later, kernel.io_uring_disabled=0 (sysctl), \
         and in a container a seccomp profile that allows it"
    )]
    Uring(io::Error),
    /// The interpreter cannot run workers.
    #[error(transparent)]
    Python(#[from] PythonError),
    /// The kernel refused something small.
    #[error("{what}: {error}")]
    Other {
        /// What was attempted.
        what: &'static str,
        /// What the system says.
        error: io::Error,
    },
}

impl SystemError {
    /// To be used with `map_err`.
    pub(super) fn other(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |error| Self::Other { what, error }
    }
}
