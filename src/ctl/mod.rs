//! `fasterapi ctl`: asks something of a server that runs, over its control socket, and shows the answer.
//!
//! Invariant: the exit code says whether it was done: 0 done, 1 refused or failed, 3 no server there. The socket is read for a
//! bounded time and a bounded number of bytes.
#![forbid(unsafe_code)]

pub mod protocol;
mod table;

use std::{
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
};

use thiserror::Error;

use self::protocol::{Answer, Request};
use crate::{
    config::{Ctl, Order},
    limits::{CONTROL_ANSWER_SIZE_MAX, CONTROL_EXCHANGE_MAX, CTL_WAIT, CTL_WAITS_MAX},
};

/// Why there is no answer.
#[derive(Debug, Error)]
pub enum CtlError {
    /// Nobody listens.
    #[error("no server listens on {}; is it running, and with this --control or --port?", .0.display())]
    NoServer(PathBuf),
    /// The socket is another user's.
    #[error("no permission to use {}: the server belongs to another user", .0.display())]
    Denied(PathBuf),
    /// Any other trouble with it.
    #[error("{}: {error}", .path.display())]
    Io {
        /// The socket.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// What came is no answer.
    #[error("{}: not an answer: {why}", .path.display())]
    Protocol {
        /// The socket.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// It was not done.
    #[error("{message}")]
    Refused {
        /// The server's words.
        message: String,
        /// Of the application.
        traceback: String,
    },
}

impl CtlError {
    /// What the process ends with.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::NoServer(_) | Self::Denied(_) => 3,
            Self::Io { .. } | Self::Protocol { .. } | Self::Refused { .. } => 1,
        }
    }
}

/// Does what was ordered; the answer, as it is to be printed.
pub fn run(ctl: &Ctl) -> Result<String, CtlError> {
    let request = match ctl.order {
        Order::Status => Request::Status {},
        Order::Reload => Request::Reload {},
        Order::Scale { workers } => Request::Scale { workers },
        Order::Drain { worker } => Request::Drain { worker },
        Order::Stop => Request::Stop {},
    };
    let line = ask(&ctl.socket, request)?;
    let protocol = |why| CtlError::Protocol { path: ctl.socket.clone(), why };
    let answer: Answer = protocol::parse(&line).map_err(protocol)?;
    Ok(match answer {
        Answer::Error { message, traceback } => {
            return Err(CtlError::Refused { message, traceback });
        }
        Answer::Done { .. } if ctl.json => text(&protocol::line(&answer)),
        Answer::Status(status) if ctl.json => text(&protocol::line(&status)),
        Answer::Done { message } => format!("{message}\n"),
        Answer::Status(status) => table::of(&status),
    })
}

fn text(line: &[u8]) -> String {
    String::from_utf8_lossy(line).into_owned()
}

fn ask(path: &Path, request: Request) -> Result<Vec<u8>, CtlError> {
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            CtlError::NoServer(path.to_owned())
        }
        io::ErrorKind::PermissionDenied => CtlError::Denied(path.to_owned()),
        _ => CtlError::Io { path: path.to_owned(), error },
    };
    let mut socket = UnixStream::connect(path).map_err(failed)?;
    socket.set_write_timeout(Some(CONTROL_EXCHANGE_MAX)).map_err(failed)?;
    socket.set_read_timeout(Some(CTL_WAIT)).map_err(failed)?;
    socket.write_all(&protocol::line(&request)).map_err(failed)?;
    read_line(&mut socket).map_err(failed)
}

/// Says from time to time that it still waits: a reload takes as long as the application's import.
fn read_line(socket: &mut UnixStream) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    let mut buffer = [0; 16 * 1024];
    let mut waited = 0;
    while line.last() != Some(&b'\n') {
        match socket.read(&mut buffer) {
            Ok(0) => {
                return Err(io::Error::other("the server ended before it answered"));
            }
            Ok(count) => line.extend_from_slice(buffer.get(..count).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && waited < CTL_WAITS_MAX => {
                waited += 1;
                let so_far = CTL_WAIT.as_secs() * u64::from(waited);
                // Nowhere is left to complain that stderr is gone.
                let _ =
                    writeln!(io::stderr(), "fasterapi: still waiting for the server ({so_far} s)");
            }
            Err(error) => return Err(error),
        }
        if line.len() > CONTROL_ANSWER_SIZE_MAX {
            return Err(io::Error::other("the answer is too long"));
        }
    }
    Ok(line)
}

#[cfg(test)]
mod tests {
    use std::{os::unix::net::UnixListener, thread};

    use super::*;

    fn scratch(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("fasterapi-{name}-{}", std::process::id()))
    }

    fn ctl(socket: &Path, order: Order) -> Result<String, CtlError> {
        run(&Ctl { socket: socket.to_owned(), json: false, order })
    }

    /// A server that gives this answer, whatever it is asked.
    fn answered(name: &str, answer: &'static [u8]) -> Result<String, CtlError> {
        let path = scratch(name);
        let listener = UnixListener::bind(&path).unwrap();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 64];
            let count = stream.read(&mut request).unwrap();
            assert_eq!(&request[..count], b"{\"reload\":{}}\n");
            stream.write_all(answer).unwrap();
        });
        let result = ctl(&path, Order::Reload);
        server.join().unwrap();
        std::fs::remove_file(path).unwrap();
        result
    }

    #[test]
    fn no_server_is_one_line_and_a_code_of_its_own() {
        let path = scratch("ctl-nobody");
        let check = || {
            let error = ctl(&path, Order::Status).unwrap_err();
            assert_eq!(error.exit_code(), 3);
            assert!(error.to_string().starts_with("no server listens on "), "{error}");
        };
        check();
        // A server that was killed leaves its file behind.
        drop(UnixListener::bind(&path).unwrap());
        check();
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn answers_are_told_apart() {
        let done = answered("ctl-done", b"{\"done\":{\"message\":\"generation 2 serves\"}}\n");
        assert_eq!(done.unwrap(), "generation 2 serves\n");
        let error =
            answered("ctl-error", b"{\"error\":{\"message\":\"no\",\"traceback\":\"T\"}}\n");
        let Err(CtlError::Refused { message, traceback }) = error else { panic!() };
        assert_eq!((message.as_str(), traceback.as_str()), ("no", "T"));
        for (name, line) in
            [("ctl-junk", &b"hello\n"[..]), ("ctl-empty", b""), ("ctl-cut", b"{\"done\"")]
        {
            let error = answered(name, line).unwrap_err();
            assert_eq!((error.exit_code(), error.to_string().lines().count()), (1, 1), "{error}");
        }
    }
}
