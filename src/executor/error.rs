//! What can become of a call besides its result, and why an executor does not start.
//!
//! Invariant: each variant says whose mistake it was: the caller's, the function's, or the worker's.

use std::{io, path::PathBuf};

use serde::Deserialize;
use thiserror::Error;

use crate::{
    limits::WORKERS_MAX,
    pool::{fault::WorkerError, process::PythonError},
};

/// An exception that came out of a Python function.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct PythonException {
    /// Its class, with the module unless that is `builtins`.
    #[serde(rename = "type")]
    pub kind: String,
    /// `str()` of it.
    pub message: String,
    /// As Python prints it, with all causes.
    pub traceback: String,
}

/// Why a call has no result.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CallError {
    /// The function raised, or its module did while it was imported.
    #[error("{}: {}", .0.kind, .0.message)]
    Exception(PythonException),
    /// The names lead to no function: no such module, nothing of that name, a nested name, `__main__`.
    #[error("{0}")]
    NoSuchFunction(String),
    /// What the function returned is not JSON.
    #[error("the result is not JSON: {0}")]
    ResultNotJson(String),
    /// The keyword arguments are not a JSON object.
    #[error("the keyword arguments are not a JSON object: {0}")]
    ArgumentsNotJson(String),
    /// Arguments, names or result are longer than they may be.
    #[error("{what} of more than {max} bytes")]
    TooLarge {
        /// Which of them.
        what: &'static str,
        /// Their bound.
        max: usize,
    },
    /// As many calls are waiting or running as the executor holds.
    #[error("{0} calls are waiting or running already")]
    Overloaded(usize),
    /// The function's coroutine was cancelled by somebody else than the caller.
    #[error("the call was cancelled in its worker")]
    Cancelled,
    /// The worker process ended while it had the call: it may or may not have had its effects.
    #[error("the worker died: {0}")]
    WorkerDied(String),
    /// The executor was shut down before the call was answered.
    #[error("the executor was shut down")]
    ShutDown,
}

/// Why there is no executor.
#[derive(Debug, Error)]
pub enum StartError {
    /// No workers, or too many.
    #[error("{0} workers: from 1 to {WORKERS_MAX} are possible")]
    Workers(u16),
    /// The folder travels as JSON.
    #[error("the path {} is not UTF-8", .0.display())]
    ProjectDir(PathBuf),
    /// The interpreter cannot run workers.
    #[error(transparent)]
    Python(#[from] PythonError),
    /// The first worker failed before it was ready.
    #[error("no worker gets ready: {0}")]
    Worker(#[from] WorkerError),
    /// The system refuses a descriptor or a thread.
    #[error(transparent)]
    System(#[from] io::Error),
}
