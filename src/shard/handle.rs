//! How the control thread and a shard talk: commands in, reports out.
//!
//! Invariant: a command is never lost: it is queued first, then the shard's doorbell is rung.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::fd::OwnedFd,
    path::PathBuf,
    sync::{Arc, atomic::AtomicU64, mpsc},
    time::Duration,
};

use super::WebSocketOptions;
use crate::{
    ipc::{Doorbell, Fault},
    limits,
    pool::{Incarnation, Link, WorkerId},
    proto::{forwarded::Trusted, h1, quic::Endpoint, route::Routes, tls::ServerConfig},
};

/// What a shard is told.
#[derive(Debug)]
pub enum Command {
    /// A worker is ready: dispatch to it, by this routing table.
    Attach(Box<Link>, Arc<Routes>),
    /// All of these, in order, and no request between them.
    Batch(Vec<Self>),
    /// Give this worker nothing new; report `Retired` once it has nothing of this shard in flight.
    Retire {
        /// Its place.
        worker: WorkerId,
        /// Its incarnation.
        incarnation: Incarnation,
    },
    /// From now on, accept TLS connections with these certificates; those that are there keep theirs.
    Certificates(Arc<ServerConfig>),
    /// Stop accepting, finish what is in flight, close idle connections, then report `Drained` and end.
    /// What is left after the time is cut off.
    Drain(Duration),
}

/// What a shard tells.
#[derive(Debug)]
pub enum Report {
    /// The shard serves.
    Started {
        /// Which shard.
        shard: usize,
        /// What the kernel gave it, for the log.
        features: String,
    },
    /// A worker broke the lane's protocol; the shard has let go of it and it must be killed.
    Faulty {
        /// Its place.
        worker: WorkerId,
        /// Its incarnation.
        incarnation: Incarnation,
        /// What it did.
        fault: Fault,
    },
    /// Nothing of this shard is in flight at a worker that was retired; its link stays until the process ends.
    Retired {
        /// Which shard.
        shard: usize,
        /// The worker's place.
        worker: WorkerId,
        /// Its incarnation.
        incarnation: Incarnation,
    },
    /// A worker holds an overdue exchange and has taken nothing out of its ring for this long: its event loop is stuck.
    /// Reported once; the worker is to be killed.
    Stuck {
        /// Its place.
        worker: WorkerId,
        /// Its incarnation.
        incarnation: Incarnation,
        /// Since it took a record last.
        standing: Duration,
    },
    /// Lines for the access log, whole.
    AccessLog(Vec<u8>),
    /// The shard has drained and its thread ends.
    Drained {
        /// Which shard.
        shard: usize,
    },
    /// The shard cannot go on.
    Failed {
        /// Which shard.
        shard: usize,
        /// One readable line.
        error: String,
    },
}

/// What a shard counts, for whoever watches: stored by the shard (relaxed) at the end of a turn that changed it.
#[derive(Debug, Default)]
pub struct Gauges {
    /// Open client connections.
    pub connections: AtomicU64,
    /// Exchanges that are with a worker now.
    pub exchanges: AtomicU64,
    /// Requests that wait for a worker now.
    pub queued: AtomicU64,
    /// Payload chunks of this shard's arenas that are with workers now.
    pub chunks: AtomicU64,
    /// Exchanges that were begun since the start; a re-dispatched one counts once.
    pub begun: AtomicU64,
    /// Requests that were taken back from a worker that had died, to be given to another.
    pub redispatched: AtomicU64,
    /// Exchanges that their worker failed: 502, or a response cut short.
    pub failed: AtomicU64,
    /// Exchanges whose deadline passed: answered 504, or cut off when their response had begun.
    pub overdue: AtomicU64,
    /// Requests that were answered 503 because no worker had room in time.
    pub shed: AtomicU64,
    /// Exchanges that were cancelled because their client had gone.
    pub abandoned: AtomicU64,
    /// Those of them that no worker had taken: they were withdrawn from its ring.
    pub withdrawn: AtomicU64,
    /// TLS handshakes in progress.
    pub handshaking: AtomicU64,
    /// TLS handshakes that were completed, resumed ones included.
    pub handshakes: AtomicU64,
    /// Those of them that resumed an earlier session.
    pub handshakes_resumed: AtomicU64,
    /// Handshakes that failed, ran out of time, or that the client gave up.
    pub handshakes_failed: AtomicU64,
    /// Handshakes that were closed to make room for newer ones.
    pub handshakes_evicted: AtomicU64,
    /// Open HTTP/3 connections; they are among `connections`.
    pub quic_connections: AtomicU64,
    /// Datagrams that were answered without a connection: Retry, Version Negotiation, stateless reset.
    pub datagrams_answered: AtomicU64,
    /// Datagrams that landed here and belong to another shard.
    pub datagrams_forwarded: AtomicU64,
    /// Datagrams that were for nobody, or for whom there was no room.
    pub datagrams_dropped: AtomicU64,
}

/// What a shard starts with.
#[derive(Debug)]
pub struct Options {
    /// Which shard, from 0.
    pub shard: usize,
    /// Bound and listening sockets, non-blocking. Shards share a port by SO_REUSEPORT, a Unix socket by duplicates.
    pub listeners: Vec<Listener>,
    /// For listeners that speak TLS; there is none without.
    pub tls: Option<TlsOptions>,
    /// For HTTP/3, if it is to be spoken.
    pub quic: Option<QuicOptions>,
    /// What is spoken.
    pub http: HttpVersions,
    /// Limits of the HTTP/1.1 engine; those of the others follow from them and from `limits`.
    pub h1: h1::Options,
    /// How long things may take, and how many there may be.
    pub limits: Limits,
    /// How WebSockets are run.
    pub websocket: WebSocketOptions,
    /// Fields of every response that does not have them already; names in lower case, values fit to be sent.
    pub headers: Vec<(String, String)>,
    /// Proxies that are believed about their clients.
    pub trusted: Trusted,
    /// Where the shard's counts are stored.
    pub gauges: Arc<Gauges>,
    /// How long to spin for work before sleeping, at the most; zero where cores are oversubscribed.
    pub spin_max: Duration,
    /// Write access-log lines.
    pub access_log: bool,
}

/// Which versions of HTTP are spoken over TCP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HttpVersions {
    /// What the client begins with or, over TLS, chooses by ALPN.
    #[default]
    Auto,
    /// HTTP/1.1 and 1.0 only.
    Http1,
}

/// How long things may take, and how many there may be. Times are kept to within [`limits::SWEEP_INTERVAL`], and
/// [`limits::NEVER`] is no limit.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// From a complete request head to the end of the response; 504, or the end of the connection.
    pub request_timeout: Duration,
    /// From the first byte of a head to its last; 408.
    pub header_timeout: Duration,
    /// Longest pause inside a body; 408.
    pub body_timeout: Duration,
    /// For a connection without a request.
    pub keepalive_timeout: Duration,
    /// Exchanges of one worker at one time, all shards together. Each shard looks at a relaxed count before it adds to it,
    /// so n shards may exceed it by n-1.
    pub inflight_max: u32,
    /// A shard that has this many of them leaves what gets free to those that wait and have less.
    pub inflight_share: u32,
    /// Requests of this shard that wait for a worker at one time.
    pub queue_max: usize,
    /// How long one of them waits; 503.
    pub queue_timeout: Duration,
    /// Give a request with an idempotent method to a second worker when the first died over it.
    pub repeat: bool,
    /// From accepting a TLS connection to the end of its handshake.
    pub handshake_timeout: Duration,
    /// TLS handshakes of this shard in progress; for one more the oldest is closed.
    pub handshakes_max: usize,
    /// A worker with an overdue exchange that takes no record for this long is reported as stuck.
    pub stuck_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            request_timeout: limits::REQUEST_TIMEOUT,
            header_timeout: limits::HEAD_TIMEOUT,
            body_timeout: limits::BODY_TIMEOUT,
            keepalive_timeout: limits::KEEPALIVE_TIMEOUT,
            inflight_max: limits::INFLIGHT_MAX,
            inflight_share: limits::INFLIGHT_MAX,
            queue_max: limits::QUEUE_MAX,
            queue_timeout: limits::QUEUE_TIMEOUT,
            repeat: true,
            handshake_timeout: limits::HANDSHAKE_TIMEOUT,
            handshakes_max: limits::HANDSHAKES_MAX,
            stuck_timeout: limits::STUCK_AFTER,
        }
    }
}

/// One listening socket.
#[derive(Debug)]
pub struct Listener {
    /// The socket.
    pub socket: OwnedFd,
    /// Where it listens; `None` for a Unix socket.
    pub address: Option<SocketAddr>,
    /// What its connections speak.
    pub kind: ListenerKind,
}

/// What a listener is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListenerKind {
    /// HTTP in clear.
    Plain,
    /// HTTP over TLS.
    Tls,
    /// HTTP in clear, answered with the way to the TLS listener.
    Redirect,
}

/// What TLS needs besides its listeners.
#[derive(Clone, Debug)]
pub struct TlsOptions {
    /// What sessions are made with, until `Command::Certificates`.
    pub config: Arc<ServerConfig>,
    /// Tell browsers to come back by TLS only, for so many seconds (RFC 6797).
    pub hsts_max_age: Option<u64>,
    /// The port that clients reach the TLS listener by, for redirects.
    pub https_port: u16,
    /// The value of Alt-Svc (RFC 7838), which tells clients where HTTP/3 is to be had.
    pub alt_svc: Option<String>,
}

/// What HTTP/3 needs.
#[derive(Debug)]
pub struct QuicOptions {
    /// Bound, and [`prepared`](crate::uring::prepare); not non-blocking, so that the kernel waits for room to send. Shards share a port by SO_REUSEPORT.
    pub socket: OwnedFd,
    /// The socket's.
    pub port: u16,
    /// Made with the certificates of `tls`.
    pub endpoint: Box<Endpoint>,
    /// Every connection writes down what happens to it in a file of this directory. The shard waits for the disk.
    pub qlog_dir: Option<PathBuf>,
    /// Where datagrams go that belong to other shards, by their numbers.
    pub neighbours: Vec<Neighbour>,
}

/// A datagram that landed at the wrong shard.
#[derive(Debug)]
pub(crate) struct Forwarded {
    pub(crate) data: Vec<u8>,
    pub(crate) from: SocketAddr,
    pub(crate) to: IpAddr,
}

/// The way to another shard.
#[derive(Clone, Debug)]
pub struct Neighbour {
    datagrams: mpsc::SyncSender<Forwarded>,
    doorbell: Arc<Doorbell>,
}

impl Neighbour {
    /// Hands a datagram on; false when there is no room for it.
    pub(crate) fn pass(&self, datagram: Forwarded) -> bool {
        self.datagrams.try_send(datagram).is_ok() && self.doorbell.kick().is_ok()
    }
}

/// The control thread's end.
#[derive(Clone, Debug)]
pub struct Handle {
    commands: mpsc::Sender<Command>,
    datagrams: mpsc::SyncSender<Forwarded>,
    doorbell: Arc<Doorbell>,
}

/// The shard's end.
#[derive(Debug)]
pub struct Mailbox {
    pub(crate) commands: mpsc::Receiver<Command>,
    pub(crate) datagrams: mpsc::Receiver<Forwarded>,
    pub(crate) doorbell: Arc<Doorbell>,
    pub(crate) reports: tokio::sync::mpsc::UnboundedSender<Report>,
}

impl Handle {
    /// Both ends.
    pub fn new(reports: tokio::sync::mpsc::UnboundedSender<Report>) -> io::Result<(Self, Mailbox)> {
        let (sender, receiver) = mpsc::channel();
        let (datagrams, arriving) = mpsc::sync_channel(limits::FORWARDS_MAX);
        let doorbell = Arc::new(Doorbell::new()?);
        let handle = Self { commands: sender, datagrams, doorbell: Arc::clone(&doorbell) };
        Ok((handle, Mailbox { commands: receiver, datagrams: arriving, doorbell, reports }))
    }

    /// For other shards.
    pub fn neighbour(&self) -> Neighbour {
        Neighbour { datagrams: self.datagrams.clone(), doorbell: Arc::clone(&self.doorbell) }
    }

    /// Queues a command and wakes the shard. False when the shard has ended.
    pub fn send(&self, command: Command) -> bool {
        self.commands.send(command).is_ok() && self.doorbell.kick().is_ok()
    }
}
