//! What can be wrong with a worker.
//!
//! Invariant: a [`WorkerError`] is always the worker's, or its application's: the worker is replaced and the server lives
//! on, unless no worker ever got ready.
#![forbid(unsafe_code)]

use std::{os::unix::process::ExitStatusExt, process::ExitStatus, time::Duration};

use thiserror::Error;

use crate::ipc::Fault;

/// Why a worker is not, or no longer, of use.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum WorkerError {
    /// Its own report.
    #[error("{}: {error}", describe_stage(.stage))]
    Application {
        /// `import` or `startup`.
        stage: String,
        /// The exception, in one line.
        error: String,
        /// The exception, in full.
        traceback: String,
    },
    /// The process ended and nobody had asked it to.
    #[error("{}", describe_exit(*.0))]
    Exited(ExitStatus),
    /// Neither ready nor failed for too long.
    #[error("not ready after {} s", .0.as_secs())]
    StartTimeout(Duration),
    /// Its event loop takes nothing out of its rings any more.
    #[error("its event loop has been stuck for {} ms", .0.as_millis())]
    Stuck(Duration),
    /// What it announces is not what its generation announced.
    #[error(
        "the application has changed on disk since it was loaded; reload to serve the new one (SIGHUP, `fasterapi ctl reload`)"
    )]
    Changed,
    /// What it announces cannot be routed by.
    #[error("its routes: {0}")]
    Routes(String),
    /// It broke the protocol of the control channel.
    #[error("control channel: {0}")]
    Channel(String),
    /// It broke the protocol of a lane.
    #[error("lane: {0}")]
    Lane(#[from] Fault),
    /// There is no process.
    #[error("cannot start the process: {0}")]
    Spawn(String),
}

fn describe_stage(stage: &str) -> String {
    match stage {
        "import" => "the application cannot be imported".to_owned(),
        "startup" => "the application's startup failed".to_owned(),
        other => format!("the application failed ({other:?})"),
    }
}

/// How a process ended, as a reader of the log wants it.
pub fn describe_exit(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exited with status {code}"),
        (None, Some(signal)) => match signal_name(signal) {
            Some(name) => format!("killed by {name}"),
            None => format!("killed by signal {signal}"),
        },
        (None, None) => "ended".to_owned(),
    }
}

/// Those that end processes in practice.
fn signal_name(signal: i32) -> Option<&'static str> {
    const NAMES: [(i32, &str); 14] = [
        (1, "SIGHUP"),
        (2, "SIGINT"),
        (3, "SIGQUIT"),
        (4, "SIGILL"),
        (5, "SIGTRAP"),
        (6, "SIGABRT"),
        (7, "SIGBUS"),
        (8, "SIGFPE"),
        (9, "SIGKILL"),
        (11, "SIGSEGV"),
        (13, "SIGPIPE"),
        (14, "SIGALRM"),
        (15, "SIGTERM"),
        (31, "SIGSYS"),
    ];
    NAMES.iter().find(|(number, _)| *number == signal).map(|(_, name)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exit_is_described_by_status_or_signal_name() {
        for (wait_status, expected) in [
            (3 << 8, "exited with status 3"),
            (0, "exited with status 0"),
            (9, "killed by SIGKILL"),
            (11 | 0x80, "killed by SIGSEGV"),
            (40, "killed by signal 40"),
        ] {
            assert_eq!(describe_exit(ExitStatus::from_raw(wait_status)), expected);
        }
    }
}
