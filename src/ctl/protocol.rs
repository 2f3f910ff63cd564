//! What passes through the control socket: one JSON object on one line each way.
//!
//! ```text
//! client → server   {"status":{}}  {"reload":{}}  {"scale":{"workers":4}}  {"drain":{"worker":0}}  {"stop":{}}
//! server → client   {"status":{…}}  {"done":{"message":"…"}}  {"error":{"message":"…","traceback":"…"}}
//! ```
//!
//! Invariant: fields are only ever added. Deliberately absent: the socket.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What an operator wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// How it goes.
    Status {},
    /// Load the application anew; answered once that has succeeded or failed.
    Reload {},
    /// So many workers from now on.
    Scale {
        /// At least one.
        workers: u64,
    },
    /// Replace a worker; answered once it is gone, or its successor has failed.
    Drain {
        /// Its place.
        worker: u16,
    },
    /// Finish what is in flight, then end.
    Stop {},
}

/// What it gets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// How it goes.
    Status(Box<Status>),
    /// It was done, or has begun.
    Done {
        /// One readable line.
        message: String,
    },
    /// It was not.
    Error {
        /// One readable line.
        message: String,
        /// Of the application.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        traceback: String,
    },
}

impl Answer {
    /// It was not done, for this reason.
    pub fn error(message: impl Into<String>) -> Self {
        Self::Error { message: message.into(), traceback: String::new() }
    }
}

/// The server, its shards and its workers, at one moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// As a whole.
    pub server: Server,
    /// In order.
    pub shards: Vec<Shard>,
    /// In order.
    pub workers: Vec<Worker>,
    /// Why workers were replaced since the start, and how often: all places together.
    pub restarts: BTreeMap<String, u64>,
}

/// The server as a whole.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Server {
    /// Of the program.
    pub version: String,
    /// Process id.
    pub pid: u32,
    /// Seconds since it was started.
    pub uptime_s: f64,
    /// `module:attribute`.
    pub app: String,
    /// Where it listens.
    pub url: String,
    /// Which loading of the application serves; 0: none yet.
    pub generation: u32,
    /// Workers that serve.
    pub workers_ready: usize,
    /// Workers that there should be.
    pub workers: usize,
    /// It is about to end.
    pub draining: bool,
}

/// One shard's counters.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Shard {
    /// Which one.
    pub shard: usize,
    /// Open client connections.
    pub connections: u64,
    /// Exchanges that are with a worker now.
    pub exchanges: u64,
    /// Requests that wait for a worker now.
    pub queued: u64,
    /// Payload chunks that are with workers now.
    pub chunks: u64,
    /// Exchanges that were begun.
    pub begun: u64,
    /// Requests that were given to a second worker.
    pub redispatched: u64,
    /// Exchanges that their worker failed.
    pub failed: u64,
    /// Exchanges that were answered 504.
    pub overdue: u64,
    /// Requests that were answered 503.
    pub shed: u64,
    /// Exchanges whose client went away.
    pub abandoned: u64,
    /// Those of them that no worker had taken.
    pub withdrawn: u64,
    /// Open HTTP/3 connections; they are among `connections`.
    pub quic_connections: u64,
    /// Datagrams that were answered without a connection: Retry, Version Negotiation, stateless reset.
    pub datagrams_answered: u64,
    /// Datagrams that landed at this shard and belonged to another.
    pub datagrams_forwarded: u64,
    /// Datagrams that were for nobody, or for whom there was no room.
    pub datagrams_dropped: u64,
}

/// One place of the pool.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Worker {
    /// Which place.
    pub worker: u16,
    /// Why its workers were replaced, and how often.
    pub restarts: BTreeMap<String, u64>,
    /// None while it waits to be refilled; two while one replaces another.
    pub processes: Vec<Process>,
}

/// One worker process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Process {
    /// Process id.
    pub pid: u32,
    /// Which filling of its place.
    pub incarnation: u32,
    /// Which loading of the application.
    pub generation: u32,
    /// starting, standby, ready, draining, stuck or stopping.
    pub state: String,
    /// Exchanges that it holds now.
    pub in_flight: u32,
    /// Exchanges that it has ended.
    pub requests: u64,
    /// Resident memory; `None` when the process has just ended.
    pub rss_bytes: Option<u64>,
    /// How long its event loop took to answer; at least this when `loop_silent`; `None` when it was not asked.
    pub loop_lag_ms: Option<f64>,
    /// It has not answered.
    pub loop_silent: bool,
    /// asyncio tasks that are not done; `None` when it has not answered.
    pub tasks: Option<u64>,
    /// Seconds since it was started.
    pub uptime_s: f64,
}

/// A message, with its end of line.
pub fn line(message: &impl Serialize) -> Vec<u8> {
    let mut line = sonic_rs::to_vec(message)
        .unwrap_or_else(|error| unreachable!("numbers and strings are JSON: {error}"));
    line.push(b'\n');
    line
}

/// What a line says; or why it says nothing.
pub fn parse<'a, T: Deserialize<'a>>(line: &'a [u8]) -> Result<T, String> {
    sonic_rs::from_slice(line).map_err(|error| {
        let error = error.to_string();
        error.lines().next().unwrap_or_default().to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_read_as_they_are_written() {
        for (request, text) in [
            (Request::Status {}, r#"{"status":{}}"#),
            (Request::Reload {}, r#"{"reload":{}}"#),
            (Request::Scale { workers: 4 }, r#"{"scale":{"workers":4}}"#),
            (Request::Drain { worker: 0 }, r#"{"drain":{"worker":0}}"#),
            (Request::Stop {}, r#"{"stop":{}}"#),
        ] {
            assert_eq!(String::from_utf8(line(&request)).unwrap(), format!("{text}\n"));
            assert_eq!(parse::<Request>(text.as_bytes()), Ok(request));
        }
    }

    #[test]
    fn what_is_no_request_is_refused_in_one_line() {
        for text in [
            "",
            "status",
            "{}",
            "[]",
            r#"{"status":{},"stop":{}}"#,
            r#"{"scale":{}}"#,
            r#"{"scale":{"workers":-1}}"#,
            r#"{"drain":{"worker":70000}}"#,
            r#"{"status":{"x":1}}"#,
            "\u{0}",
        ] {
            let error = parse::<Request>(text.as_bytes()).unwrap_err();
            assert!(!error.is_empty() && error.lines().count() == 1, "{text}: {error:?}");
        }
    }
}
