//! A worker process: made, attached to its lanes, signalled by pidfd.
//!
//! Invariant: whatever this process holds of a worker is close-on-exec; what the worker gets, it gets over its control
//! channel, which is its standard input. It is its own process group, so a terminal's Ctrl-C reaches the edge alone.
//! Deliberately absent: starting and waiting, which are the caller's runtime's; when to spawn and when to kill.
#![forbid(unsafe_code)]

use std::{
    env,
    io::{self, IoSlice},
    iter,
    mem::MaybeUninit,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::{net::UnixStream, process::CommandExt},
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
};

use rustix::{
    net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg},
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};
use thiserror::Error;

use super::{
    channel::Attach,
    link::{Incarnation, Link, Load, WorkerId},
};
use crate::ipc::{Doorbell, EdgeLane, Segment, layout::Geometry, segment::Writer};

/// What all workers of a pool have in common.
#[derive(Clone, Debug)]
pub struct Options {
    /// The interpreter.
    pub python: PathBuf,
    /// What `python -m` runs; `None` for the package's own worker.
    pub worker_module: Option<String>,
    /// `module:attribute`.
    pub app: String,
    /// Where it is imported from.
    pub app_dir: String,
    /// Debug mode of the application.
    pub debug: bool,
    /// Python's level, in lower case.
    pub log_level: &'static str,
    /// How long to spin before sleeping, at the most.
    pub spin_us: u64,
    /// ASGI's `server`.
    pub server: (String, Option<u16>),
    /// How the application is called: `auto`, `native`, `asgi` or `wsgi`.
    pub interface: &'static str,
    /// `app` names a function that returns the application.
    pub factory: bool,
    /// ASGI's `root_path`.
    pub root_path: String,
    /// Whether ASGI's lifespan is run: `auto`, `on` or `off`.
    pub lifespan: &'static str,
    /// Threads of a worker that run a WSGI application.
    pub threads: u16,
    /// Which event loop a worker runs: `auto`, `asyncio` or `uvloop`.
    pub event_loop: &'static str,
    /// Added to the environment of the workers.
    pub variables: Vec<(String, String)>,
}

/// A process that was just started, and attached.
#[derive(Debug)]
pub struct Process {
    /// Its id.
    pub pid: u32,
    /// Becomes readable when it ends; the way to signal it.
    pub pidfd: OwnedFd,
    /// The edge's end of the control channel; the attach message is on its way.
    pub channel: UnixStream,
    /// One per shard.
    pub links: Vec<Link>,
}

/// Why the interpreter cannot run workers.
#[derive(Debug, Error)]
pub enum PythonError {
    /// It does not run at all.
    #[error("cannot run {}: {error}", .python.display())]
    Run {
        /// The interpreter.
        python: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// It runs, and has no `fasterapi`.
    #[error(
        "{} has no package `fasterapi`; install it there or name another interpreter with --python",
        .python.display()
    )]
    NoPackage {
        /// The interpreter.
        python: PathBuf,
    },
    /// It ends in some other way, as no Python does.
    #[error("{} is not a working Python: {how}", .python.display())]
    Broken {
        /// The interpreter.
        python: PathBuf,
        /// How it ended.
        how: String,
    },
}

const HAS_PACKAGE: &str =
    "import importlib.util as u, sys; sys.exit(0 if u.find_spec('fasterapi') else 86)";

/// Looks whether workers can run at all, so that a wrong interpreter is one line and not one traceback per worker.
pub fn check_python(python: &Path) -> Result<(), PythonError> {
    let mut probe = Command::new(python);
    probe.args(["-c", HAS_PACKAGE]).stdin(Stdio::null()).stdout(Stdio::null());
    let status = probe.status();
    let status = status.map_err(|error| PythonError::Run { python: python.to_owned(), error })?;
    match status.code() {
        Some(0) => Ok(()),
        Some(86) => Err(PythonError::NoPackage { python: python.to_owned() }),
        _ => Err(PythonError::Broken {
            python: python.to_owned(),
            how: super::fault::describe_exit(status),
        }),
    }
}

/// A worker whose lanes and channel exist, and whose process does not yet, or has not been told of them.
#[derive(Debug)]
pub struct Unattached<'a> {
    options: &'a Options,
    worker: WorkerId,
    incarnation: Incarnation,
    channel: UnixStream,
    lanes: Vec<(EdgeLane, Doorbell)>,
    /// The worker's doorbell; two segments and a doorbell for each shard.
    fds: Vec<OwnedFd>,
}

/// Makes ready what a worker needs, with a lane to each of so many shards; and the command that starts it.
///
/// To be started on a thread that lives as long as the pool: the kernel tells a worker of its parent's death when the thread
/// ends that started it. The command holds the worker's end of the channel, and is to be dropped once it was used.
pub fn prepare(
    options: &Options,
    worker: WorkerId,
    incarnation: Incarnation,
    shards: usize,
) -> io::Result<(Command, Unattached<'_>)> {
    let (bell, listen) = Doorbell::pipe()?;
    let bell = Arc::new(bell);
    let mut lanes = Vec::with_capacity(shards);
    let mut fds = vec![OwnedFd::from(listen)];
    for shard in 0..shards {
        let name = |side| format!("fasterapi-{side}-{shard}-{}.{}", worker.0, incarnation.0);
        let (e, e_fd) = Segment::create(&name('e'), Geometry::PRODUCT, Writer::Creator)?;
        let (w, w_fd) = Segment::create(&name('w'), Geometry::PRODUCT, Writer::Receiver)?;
        let shard_bell = Doorbell::new()?;
        fds.extend([e_fd, w_fd, shard_bell.as_fd().try_clone_to_owned()?]);
        lanes.push((EdgeLane::new(e, w, Arc::clone(&bell)), shard_bell));
    }
    let (channel, theirs) = UnixStream::pair()?;
    let mut command = Command::new(&options.python);
    if options.worker_module.is_some() {
        // It is imported before the attach message can name the folder.
        let inherited = env::var_os("PYTHONPATH").unwrap_or_default();
        let paths = iter::once(PathBuf::from(&options.app_dir)).chain(env::split_paths(&inherited));
        command.env("PYTHONPATH", env::join_paths(paths).map_err(io::Error::other)?);
    }
    command
        .envs(options.variables.iter().map(|(name, value)| (name, value)))
        .args(["-m", options.worker_module.as_deref().unwrap_or("fasterapi.core.worker_pool")])
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .process_group(0);
    Ok((command, Unattached { options, worker, incarnation, channel, lanes, fds }))
}

impl Unattached<'_> {
    /// Hands the process its lanes. It was just started and is not waited for yet, so that the id is still its own.
    pub fn attach(self, pid: u32) -> io::Result<Process> {
        let Self { options, worker, incarnation, channel, lanes, fds } = self;
        let pidfd = pidfd_open(raw_pid(pid)?, PidfdFlags::empty())?;
        let attach = Attach {
            worker: worker.0,
            incarnation: incarnation.0,
            parent: std::process::id(),
            shards: lanes.len(),
            app: &options.app,
            app_dir: &options.app_dir,
            debug: options.debug,
            log_level: options.log_level,
            spin_us: options.spin_us,
            server: (&options.server.0, options.server.1),
            interface: options.interface,
            factory: options.factory,
            root_path: &options.root_path,
            lifespan: options.lifespan,
            threads: options.threads,
            event_loop: options.event_loop,
        };
        let borrowed: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        match send_with_fds(&channel, &attach.line(), &borrowed) {
            // It is dead already; its exit will tell why.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
            sent => sent?,
        }
        channel.set_nonblocking(true)?;

        let load = Load::default();
        let link = |(lane, bell)| {
            let pidfd = pidfd.try_clone()?;
            Ok(Link { worker, incarnation, lane, bell, pidfd, load: load.clone() })
        };
        let links = lanes.into_iter().map(link).collect::<io::Result<_>>()?;
        Ok(Process { pid, pidfd, channel, links })
    }
}

/// Kills the process. One that has ended already is none to kill.
pub fn kill(pidfd: BorrowedFd<'_>) -> io::Result<()> {
    match pidfd_send_signal(pidfd, Signal::KILL) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Asks a worker for the stacks of its threads, on its stderr (`faulthandler`, registered before the application is imported).
/// No kernel sends SIGSTKFLT and no application is known to use it; an interpreter that has not come that far dies of it.
pub fn dump_stacks(pidfd: BorrowedFd<'_>) -> io::Result<()> {
    match pidfd_send_signal(pidfd, Signal::STKFLT) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// As the system's calls take it.
pub fn raw_pid(id: u32) -> io::Result<Pid> {
    let id = i32::try_from(id).map_err(io::Error::other)?;
    Pid::from_raw(id).ok_or_else(|| io::Error::other("process id 0"))
}

/// All descriptors travel with the first byte; the rest of the line may follow in pieces.
fn send_with_fds(channel: &UnixStream, line: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(fds.len()))];
    let sent = rustix::io::retry_on_intr(|| {
        // Anew for each attempt: one that was interrupted has used it up.
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(fds)), "the space is made for them");
        sendmsg(channel, &[IoSlice::new(line)], &mut control, SendFlags::NOSIGNAL)
    })?;
    let mut rest = channel;
    io::Write::write_all(&mut rest, line.get(sent..).unwrap_or_default())
}
