//! The control channel between the edge and one worker: one JSON object to a line, in both directions.
//!
//! ```text
//! edge → worker   {"attach":{…}}  with its descriptors, once, first      {"stop":{}}
//!                 {"ping":{"id":7}}  the next one after its answer
//! worker → edge   {"ready":{"routes":[{"id":0,"methods":["GET"],"path":"/x/{y}"}],"redirect_slashes":true}}
//!                 {"failed":{"stage":"import"|"startup","error":"…","traceback":"…"}}
//!                 {"pong":{"id":7,"tasks":3}}
//! ```
//!
//! Invariant: a worker says `ready` or `failed` once, and `pong` once for each ping; a line is bounded, and whatever a worker sends becomes a [`Reply`] or a [`WorkerError`]; unknown fields are
//! for newer workers. Deliberately absent: the socket.
#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};

use super::fault::WorkerError;
use crate::limits::{CONTROL_LINE_SIZE_MAX, ROUTES_MAX};

/// What a worker needs to know, besides its descriptors.
#[derive(Debug, Serialize)]
pub struct Attach<'a> {
    /// Its place.
    pub worker: u16,
    /// How many times the place was filled.
    pub incarnation: u32,
    /// The edge's process id: the worker ends when that process does.
    pub parent: u32,
    /// Lanes.
    pub shards: usize,
    /// `module:attribute`.
    pub app: &'a str,
    /// Where to import it from.
    pub app_dir: &'a str,
    /// Debug mode of the application.
    pub debug: bool,
    /// Python's level, in lower case.
    pub log_level: &'a str,
    /// How long to spin before sleeping, at the most.
    pub spin_us: u64,
    /// ASGI's `server`: host and port, or a Unix socket's path and nothing.
    pub server: (&'a str, Option<u16>),
    /// How the application is called: `auto`, `native`, `asgi` or `wsgi`.
    pub interface: &'a str,
    /// `app` names a function that returns the application.
    pub factory: bool,
    /// ASGI's `root_path`.
    pub root_path: &'a str,
    /// Whether ASGI's lifespan is run: `auto`, `on` or `off`.
    pub lifespan: &'a str,
    /// Threads that run a WSGI application.
    pub threads: u16,
    /// Which event loop it runs: `auto`, `asyncio` or `uvloop`.
    #[serde(rename = "loop")]
    pub event_loop: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum Line<'a> {
    Attach(&'a Attach<'a>),
}

impl Attach<'_> {
    /// The message, with its end of line.
    pub fn line(&self) -> Vec<u8> {
        let mut line = sonic_rs::to_vec(&Line::Attach(self))
            .unwrap_or_else(|error| unreachable!("numbers and strings are JSON: {error}"));
        line.push(b'\n');
        line
    }
}

/// The message that asks a worker to finish and end.
pub const STOP_LINE: &[u8] = b"{\"stop\":{}}\n";

/// The message that asks a worker's event loop for a sign of life.
pub fn ping_line(id: u64) -> Vec<u8> {
    format!("{{\"ping\":{{\"id\":{id}}}}}\n").into_bytes()
}

/// What is wrong with a message that nothing asked for.
pub const UNASKED: &str = "a pong without its ping";

/// What a worker announces when it is ready.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Manifest {
    /// The application's routes, in order of precedence.
    pub routes: Vec<Route>,
    /// Redirect `/x/` to `/x` or the other way round, where only the other exists.
    #[serde(default)]
    pub redirect_slashes: bool,
    /// What no route takes goes to route 0 all the same, whatever its method and path are: the application has routes of its own.
    #[serde(default)]
    pub catch_all: bool,
}

/// One route of a manifest.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Route {
    /// What the edge names it by in a request record.
    pub id: u32,
    /// The methods it answers.
    pub methods: Vec<String>,
    /// Its path template.
    pub path: String,
}

#[derive(Deserialize)]
struct Failed {
    stage: String,
    error: String,
    #[serde(default)]
    traceback: String,
}

/// A sign of life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct Pong {
    /// Of the ping.
    pub id: u64,
    /// asyncio tasks that are not done.
    pub tasks: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum AnyReply {
    Ready(Manifest),
    Failed(Failed),
    Pong(Pong),
}

/// What a worker says.
#[derive(Debug, PartialEq, Eq)]
pub enum Reply {
    /// It serves from now on.
    Ready(Manifest),
    /// It never will.
    Failed(WorkerError),
    /// Its event loop turns.
    Pong(Pong),
}

/// Cuts what a worker sends into replies.
#[derive(Debug, Default)]
pub struct Replies {
    /// What was received since the last end of line; without one up to `seen`.
    buffer: Vec<u8>,
    seen: usize,
}

impl Replies {
    /// Takes what was received.
    pub fn handle(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole reply.
    pub fn poll(&mut self) -> Result<Option<Reply>, WorkerError> {
        let unseen = self.buffer.get(self.seen..).unwrap_or_default();
        let end = memchr::memchr(b'\n', unseen).map(|at| self.seen + at);
        if end.unwrap_or(self.buffer.len()) > CONTROL_LINE_SIZE_MAX {
            return Err(WorkerError::Channel("a line without end".to_owned()));
        }
        let Some(end) = end else {
            self.seen = self.buffer.len();
            return Ok(None);
        };
        let rest = self.buffer.split_off(end + 1);
        let line = std::mem::replace(&mut self.buffer, rest);
        self.seen = 0;
        parse(&line).map(Some)
    }
}

fn parse(line: &[u8]) -> Result<Reply, WorkerError> {
    let reply = sonic_rs::from_slice(line).map_err(|error| {
        let reason = error.to_string();
        WorkerError::Channel(reason.lines().next().unwrap_or_default().to_owned())
    })?;
    match reply {
        AnyReply::Ready(manifest) if manifest.routes.len() > ROUTES_MAX => Err(
            WorkerError::Routes(format!("{} of them, at most {ROUTES_MAX}", manifest.routes.len())),
        ),
        AnyReply::Ready(manifest) => Ok(Reply::Ready(manifest)),
        AnyReply::Pong(pong) => Ok(Reply::Pong(pong)),
        AnyReply::Failed(Failed { stage, error, traceback }) => {
            Ok(Reply::Failed(WorkerError::Application { stage, error, traceback }))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const READY: &str = r#"{"ready":{"routes":[{"id":0,"methods":["GET"],"path":"/x/{y}"}],"redirect_slashes":true,"new":1}}"#;

    fn manifest() -> Manifest {
        let route = Route { id: 0, methods: vec!["GET".into()], path: "/x/{y}".into() };
        Manifest { routes: vec![route], redirect_slashes: true, catch_all: false }
    }

    #[test]
    fn an_attach_message_is_one_line_of_json() {
        let attach = Attach {
            worker: 3,
            incarnation: 2,
            parent: 77,
            shards: 1,
            app: "main:app",
            app_dir: "/srv/\"a\"\nb",
            debug: false,
            log_level: "info",
            spin_us: 50,
            server: ("127.0.0.1", Some(8000)),
            interface: "auto",
            factory: false,
            root_path: "/api",
            lifespan: "on",
            threads: 1,
            event_loop: "auto",
        };
        let expected = concat!(
            r#"{"attach":{"worker":3,"incarnation":2,"parent":77,"shards":1,"app":"main:app","#,
            r#""app_dir":"/srv/\"a\"\nb","debug":false,"log_level":"info","spin_us":50,"#,
            r#""server":["127.0.0.1",8000],"interface":"auto","factory":false,"#,
            r#""root_path":"/api","lifespan":"on","threads":1,"loop":"auto"}}"#,
            "\n"
        );
        assert_eq!(String::from_utf8(attach.line()).unwrap(), expected);
        let unix = Attach { server: ("/run/x.sock", None), ..attach };
        let line = String::from_utf8(unix.line()).unwrap();
        assert!(line.contains("\"server\":[\"/run/x.sock\",null],"), "{line}");
    }

    #[test]
    fn replies_come_out_whole_however_they_were_cut() {
        let failed = r#"{"failed":{"stage":"import","error":"ImportError: x","traceback":"T\n"}}"#;
        let pong = r#"{"pong":{"id":7,"tasks":3}}"#;
        let stream = format!("{READY}\n{pong}\n{failed}\n");
        for cut in 1..stream.len() {
            let mut replies = Replies::default();
            let mut got = Vec::new();
            for piece in stream.as_bytes().chunks(cut) {
                replies.handle(piece);
                while let Some(reply) = replies.poll().unwrap() {
                    got.push(reply);
                }
            }
            let error = WorkerError::Application {
                stage: "import".into(),
                error: "ImportError: x".into(),
                traceback: "T\n".into(),
            };
            let pong = Reply::Pong(Pong { id: 7, tasks: 3 });
            assert_eq!(got, [Reply::Ready(manifest()), pong, Reply::Failed(error)]);
        }
    }

    #[test]
    fn anything_else_is_the_workers_fault() {
        for line in [
            "hello",
            "{}",
            r#"{"ready":{}}"#,
            r#"{"ready":{"routes":[{"id":-1}]}}"#,
            r#"{"pong":{"id":-1,"tasks":0}}"#,
            r#"{"pong":{"id":1}}"#,
            "[]",
            "",
            "\u{0}",
        ] {
            let mut replies = Replies::default();
            replies.handle(line.as_bytes());
            replies.handle(b"\n");
            let error = replies.poll().unwrap_err();
            assert!(matches!(error, WorkerError::Channel(_)), "{line}: {error:?}");
            assert_eq!(error.to_string().lines().count(), 1);
        }
    }

    #[test]
    fn a_line_is_bounded() {
        let mut replies = Replies::default();
        let block = vec![b' '; 64 * 1024];
        for _ in 0..CONTROL_LINE_SIZE_MAX / block.len() {
            replies.handle(&block);
            assert_eq!(replies.poll(), Ok(None));
        }
        replies.handle(b"x");
        assert!(replies.poll().is_err());
    }
}
