//! How the control thread and a shard talk: commands in, reports out.
//!
//! Invariant: a command is never lost: it is queued first, then the shard's doorbell is rung.

use std::{
    io,
    net::SocketAddr,
    os::fd::OwnedFd,
    sync::{Arc, atomic::AtomicU64, mpsc},
    time::Duration,
};

use crate::{
    ipc::{Doorbell, Fault},
    pool::{Incarnation, Link, WorkerId},
    proto::{h1, route::Routes},
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
    /// Requests that were given to a second worker because the first had died.
    pub redispatched: AtomicU64,
    /// Exchanges that their worker failed: 502, or a response cut short.
    pub failed: AtomicU64,
    /// Exchanges that were answered 504.
    pub overdue: AtomicU64,
    /// Requests that were answered 503 because no worker had room in time.
    pub shed: AtomicU64,
    /// Exchanges that were cancelled because their client had gone.
    pub abandoned: AtomicU64,
}

/// What a shard starts with.
#[derive(Debug)]
pub struct Options {
    /// Which shard, from 0.
    pub shard: usize,
    /// Bound and listening sockets, non-blocking. Shards share a port by SO_REUSEPORT, a Unix socket by duplicates.
    pub listeners: Vec<Listener>,
    /// Limits of the HTTP/1.1 engine.
    pub h1: h1::Options,
    /// How long to spin for work before sleeping, at the most; zero where cores are oversubscribed.
    pub spin_max: Duration,
    /// Write access-log lines.
    pub access_log: bool,
}

/// One listening socket.
#[derive(Debug)]
pub struct Listener {
    /// The socket.
    pub socket: OwnedFd,
    /// Where it listens; `None` for a Unix socket.
    pub address: Option<SocketAddr>,
}

/// The control thread's end.
#[derive(Debug)]
pub struct Handle {
    commands: mpsc::Sender<Command>,
    doorbell: Arc<Doorbell>,
}

/// The shard's end.
#[derive(Debug)]
pub struct Mailbox {
    pub(crate) commands: mpsc::Receiver<Command>,
    pub(crate) doorbell: Arc<Doorbell>,
    pub(crate) reports: tokio::sync::mpsc::UnboundedSender<Report>,
}

impl Handle {
    /// Both ends.
    pub fn new(reports: tokio::sync::mpsc::UnboundedSender<Report>) -> io::Result<(Self, Mailbox)> {
        let (sender, receiver) = mpsc::channel();
        let doorbell = Arc::new(Doorbell::new()?);
        let handle = Self { commands: sender, doorbell: Arc::clone(&doorbell) };
        Ok((handle, Mailbox { commands: receiver, doorbell, reports }))
    }

    /// Queues a command and wakes the shard. False when the shard has ended.
    pub fn send(&self, command: Command) -> bool {
        self.commands.send(command).is_ok() && self.doorbell.kick().is_ok()
    }
}
