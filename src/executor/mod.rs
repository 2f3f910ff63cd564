//! A pool of Python processes for Rust programs: calls by name, many at a time, over the lanes that also carry requests.
//!
//! ```text
//!   submit ──► Call ──► desk (queue, eventfd) ──► driver thread ──► lane ──► worker: module.function(**kwargs)
//!     ▲                                             │  ▲                       │
//!     ╰───────── result, or CallError ◄─────────────╯  ╰───────── lane ◄───────╯
//! ```
//!
//! ```no_run
//! use fasterapi::executor::{CallError, Config, ProcessPoolExecutor};
//! use sonic_rs::json;
//!
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let executor = ProcessPoolExecutor::new(Config { workers: 4, ..Config::default() })?;
//! match executor.submit("users", "get_user", &json!({"user_id": 42})).await {
//!     Ok(value) => println!("{value}"),
//!     Err(CallError::Exception(exception)) => eprintln!("{}", exception.traceback),
//!     Err(error) => eprintln!("{error}"),
//! }
//! executor.shutdown().await;
//! # Ok(())
//! # }
//! ```
//!
//! Invariant: every call that was submitted ends exactly once, with its own result or an error; no process outlives its
//! executor. One thread, the driver, owns the workers and their lanes; callers reach it through the desk and share no
//! lock with it. Deliberately absent: HTTP, io_uring (one thread and two descriptors for each worker are epoll's size), and
//! any particular runtime: a [`Call`] is a plain future.
#![forbid(unsafe_code)]

mod call;
mod driver;
mod error;
mod events;
mod worker;

use std::{
    path::PathBuf,
    sync::{Arc, mpsc},
    thread::{self, JoinHandle},
};

use serde::Serialize;
use tokio::sync::oneshot;

pub use self::{
    call::Call,
    error::{CallError, PythonException, StartError},
};
use self::{
    call::{Bounds, Command, Desk},
    driver::Driver,
};
use crate::{
    ipc::Doorbell,
    limits::{CALL_SIZE_MAX, CALLS_MAX, WORKERS_MAX},
    pool::process,
};

/// What an executor is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Processes. One for each CPU that this process may use, unless set.
    pub workers: u16,
    /// The interpreter, with the package `fasterapi`. `python3` on the path, unless set.
    pub python: PathBuf,
    /// The folder that modules are imported from, before all others. The working directory, unless set.
    pub project_dir: PathBuf,
    /// A worker program of one's own, as `python -m` takes it: it answers calls through
    /// `fasterapi.core.shared_memory_protocol.SharedMemoryIPC`. The package's worker, unless set.
    pub worker_module: Option<String>,
    /// Keep each worker on one CPU of those that this process may use.
    pub pin_to_cores: bool,
    /// Python's level, in lower case; workers log to stderr.
    pub log_level: &'static str,
    /// Bytes of JSON that the arguments of a call may have, or its result.
    pub size_max: usize,
    /// Calls that may wait or run at one time.
    pub calls_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        let cpus = thread::available_parallelism().map_or(1, usize::from).min(WORKERS_MAX);
        Self {
            workers: u16::try_from(cpus).unwrap_or(1),
            python: "python3".into(),
            project_dir: ".".into(),
            worker_module: None,
            pin_to_cores: false,
            log_level: "info",
            size_max: CALL_SIZE_MAX,
            calls_max: CALLS_MAX,
        }
    }
}

/// A pool of Python processes that call functions. See the [module](self) for an example.
///
/// Dropping it kills the workers and waits for their end; calls in progress end with [`CallError::ShutDown`].
#[derive(Debug)]
pub struct ProcessPoolExecutor {
    desk: Arc<Desk>,
    bounds: Bounds,
    /// Taken when it is joined.
    driver: Option<JoinHandle<()>>,
}

impl ProcessPoolExecutor {
    /// Starts the workers and waits until the first is ready: for as long as a Python takes to start.
    ///
    /// From then on a worker that dies is replaced, with a growing delay while it fails again and again.
    pub fn new(config: Config) -> Result<Self, StartError> {
        if config.workers == 0 || usize::from(config.workers) > WORKERS_MAX {
            return Err(StartError::Workers(config.workers));
        }
        let Some(project_dir) = config.project_dir.to_str().map(str::to_owned) else {
            return Err(StartError::ProjectDir(config.project_dir));
        };
        process::check_python(&config.python)?;
        let options = process::Options {
            worker_module: config.worker_module,
            python: config.python,
            app: "fasterapi._calls:app".to_owned(),
            app_dir: project_dir,
            debug: false,
            log_level: config.log_level,
            // The driver sleeps whenever it has nothing to do, and spinning on one side alone gains nothing.
            spin_us: 0,
            server: (String::new(), None),
            interface: "native",
            factory: false,
            root_path: String::new(),
            lifespan: "off",
            threads: 1,
            event_loop: "asyncio",
            variables: Vec::new(),
        };
        let (commands, received) = mpsc::channel();
        let desk = Arc::new(Desk::new(commands, Doorbell::new()?));
        let bounds = Bounds { calls_max: config.calls_max, size_max: config.size_max };
        let (started, outcome) = mpsc::channel();
        let (workers, pin) = (config.workers, config.pin_to_cores);
        let mut driver =
            Driver::new(options, (Arc::clone(&desk), received), started, config.size_max)?;
        let thread = thread::Builder::new()
            .name("fasterapi-executor".to_owned())
            .spawn(move || driver.run(workers, pin))?;
        // Made now, so that its drop joins the thread if no worker gets ready.
        let executor = Self { desk, bounds, driver: Some(thread) };
        match outcome.recv() {
            Ok(started) => started.map(|()| executor).map_err(StartError::Worker),
            Err(_) => unreachable!("a driver that ends has reported a failure before"),
        }
    }

    /// Calls `module.function(**kwargs)` in the worker that has least to do. `kwargs` is whatever serialises to a JSON
    /// object; so does [`sonic_rs::json!`].
    ///
    /// An `async def` runs on the worker's event loop, a `def` in a thread. The function stands at the top of a module that
    /// can be imported; what it returns is what JSON can carry. The call begins at once, polled or not.
    pub fn submit(&self, module: &str, function: &str, kwargs: &(impl Serialize + ?Sized)) -> Call {
        Call::submit(&self.desk, self.bounds, (module, function), kwargs)
    }

    /// Waits for the calls in progress and for the workers' end, each within the bounds of [`limits`](crate::limits):
    /// what is not answered after five sixths of `SHUTDOWN_MAX` ends with [`CallError::ShutDown`], workers that have not ended after
    /// all of it are killed. It begins at once; dropping the future before its end is dropping the executor.
    pub fn shutdown(self) -> impl Future<Output = ()> + Send + 'static {
        let (done, ended) = oneshot::channel();
        self.desk.send(Command::Drain(done));
        async move {
            // The sender goes with the driver, without a word.
            let _ = ended.await;
            drop(self);
        }
    }
}

impl Drop for ProcessPoolExecutor {
    fn drop(&mut self) {
        self.desk.send(Command::Kill);
        if let Some(driver) = self.driver.take() {
            // A driver that panicked has said so on stderr, and the kernel kills its workers with its thread.
            let _ = driver.join();
        }
    }
}
