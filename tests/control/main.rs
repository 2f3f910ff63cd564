//! The command as an operator meets it: what it prints, how it ends, what it leaves behind. The workers are
//! `fake_worker.py`, which checks what it is given and speaks the control channel; the shards are real.
//!
//! Nothing here waits for a time: a test waits for a line on stderr, or for the end of it. Since workers inherit stderr, its
//! end proves that none of them was left behind.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod lifecycle;

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    os::unix::net::{UnixListener, UnixStream},
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};

/// Long enough for a busy machine; only a failing test waits for it.
const PATIENCE: Duration = Duration::from_secs(60);
const FAKE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/control/fake_worker.py");

fn command(mode: &str, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fasterapi"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("FASTERAPI_") {
            command.env_remove(name);
        }
    }
    let app = format!("fake:{mode}");
    // What a test may override goes into the environment: an option is taken once.
    for (name, value) in [("PYTHON", FAKE), ("PORT", "0"), ("PROJECT_DIR", "/"), ("CONTROL", "off")]
    {
        command.env(format!("FASTERAPI_{name}"), value);
    }
    command.args(["run", &app]).args(args);
    command
}

struct Server {
    child: Child,
    lines: Receiver<String>,
    seen: Vec<String>,
}

impl Server {
    fn start(mode: &str, args: &[&str]) -> Self {
        Self::spawn(command(mode, args))
    }

    fn spawn(mut command: Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (sender, lines) = channel();
        thread::spawn(move || {
            stderr.lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
        });
        Self { child, lines, seen: Vec::new() }
    }

    /// The next line with these words.
    fn expect(&mut self, words: &str) -> String {
        loop {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) if line.contains(words) => return line,
                Ok(line) => self.seen.push(line),
                Err(error) => panic!("no {words:?} ({error}); skipped: {:#?}", self.seen),
            }
        }
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).unwrap();
    }

    /// Waits until nobody can write to stderr any more; the exit code, or minus the signal, and the lines not yet taken.
    fn end(mut self) -> (i32, Vec<String>) {
        use std::os::unix::process::ExitStatusExt;
        loop {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) => self.seen.push(line),
                Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => break,
                Err(error) => panic!("not ended ({error}); said: {:#?}", self.seen),
            }
        }
        let status = self.child.wait().unwrap();
        let code = status.code().or_else(|| status.signal().map(|signal| -signal));
        (code.unwrap(), std::mem::take(&mut self.seen))
    }

    fn stop(self) -> (i32, Vec<String>) {
        self.signal(Signal::TERM);
        self.end()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // A failed test must not leave a server; one that has ended is none to kill.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a command that is not to start; its exit code and what it said.
fn refused(mode: &str, args: &[&str]) -> (i32, String) {
    let Output { status, stderr, .. } = command(mode, args).output().unwrap();
    (status.code().unwrap(), String::from_utf8(stderr).unwrap())
}

fn after<'a>(line: &'a str, words: &str) -> &'a str {
    line.split_once(words).unwrap().1.split([' ', '/', ')']).next().unwrap()
}

fn get(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).unwrap();
    response
}

fn scratch(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("fasterapi-{name}-{}", std::process::id()))
}

#[test]
fn workers_are_attached_get_ready_and_are_stopped_in_order() {
    let args = ["--workers", "2", "--shards", "3", "--debug", "--log-level", "DEBUG"];
    let mut server = Server::start("good", &args);
    let attached = server.expect("attached");
    for part in [
        r#""shards": 3"#,
        r#""app": "fake:good""#,
        r#""app_dir": "/""#,
        r#""debug": true"#,
        r#""log_level": "debug""#,
        r#""server": ["127.0.0.1", "#,
    ] {
        assert!(attached.contains(part), "{attached}");
    }
    server.expect("is ready");
    server.expect("is ready");
    let (code, lines) = server.stop();
    let text = lines.join("\n");
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("fake 0.1 stopped") && text.contains("fake 1.1 stopped"), "{text}");
    assert!(lines.iter().filter(|line| line.contains("exited with status 0")).count() == 2);
    assert!(lines.last().unwrap().contains("stopped") && !text.contains("ERROR"), "{text}");
}

#[test]
fn an_application_that_cannot_be_imported_ends_the_server_with_one_traceback() {
    let (code, lines) = Server::start("import_error", &["--workers", "3"]).end();
    let text = lines.join("\n");
    assert_eq!(code, 1, "{text}");
    assert_eq!(text.matches("ImportError: no bananas").count(), 1, "{text}");
    assert_eq!(text.matches("Traceback:\n  bananas").count(), 1, "{text}");
    assert!(!text.contains(".2 attached"), "restarted: {text}");
}

#[test]
fn so_do_workers_that_never_get_ready_in_other_ways() {
    for (mode, expected) in [
        ("silent_exit", "exited with status 3"),
        ("garbage", "control channel: "),
        ("bad_routes", "its routes: "),
    ] {
        let (code, lines) = Server::start(mode, &[]).end();
        let text = lines.join("\n");
        assert!(code == 1 && text.contains(expected), "{mode}: {code}\n{text}");
    }
}

#[test]
fn a_worker_that_dies_is_replaced_while_the_others_serve() {
    let mut server = Server::start("crash_once", &["--workers", "2"]);
    let line = server.expect("incarnation 1): killed by SIGKILL; respawn in 50 ms");
    assert!(line.contains("worker 0"), "{line}");
    server.expect("fake 0.2 attached");
    server.expect("incarnation 2) is ready");
    assert_eq!(server.stop().0, 0);
}

#[test]
fn a_worker_that_cannot_come_back_is_tried_again() {
    let mut server = Server::start("cannot_come_back", &[]);
    server.expect("ImportError: no bananas; respawn in 100 ms");
    server.expect("incarnation 3) is ready");
    assert_eq!(server.stop().0, 0);
}

#[test]
fn a_worker_with_other_routes_is_refused() {
    let mut server = Server::start("changes", &[]);
    server.expect("the application has changed on disk");
    server.expect("incarnation 2) killed by SIGKILL");
    server.expect("fake 0.3 attached");
    assert_eq!(server.stop().0, 0);
}

#[test]
fn a_worker_that_does_not_stop_talking_is_killed() {
    let mut server = Server::start("talkative", &[]);
    server.expect("incarnation 1): control channel: more than one message");
    server.expect("incarnation 1) killed by SIGKILL");
    server.expect("fake 0.2 attached");
    server.signal(Signal::TERM);
    server.expect("stopping");
    server.signal(Signal::TERM);
    assert_eq!(server.end().0, 143);
}

#[test]
fn a_second_signal_ends_everything_at_once() {
    for (signal, code) in [(Signal::TERM, 143), (Signal::INT, 130)] {
        let mut server = Server::start("stubborn", &["--workers", "2"]);
        server.expect("is ready");
        server.expect("is ready");
        server.signal(signal);
        server.expect("fake");
        server.signal(signal);
        let (got, lines) = server.end();
        assert_eq!(got, code, "{lines:#?}");
        assert!(lines.iter().any(|line| line.contains("killed by SIGKILL")), "{lines:#?}");
    }
}

#[test]
fn a_worker_dies_with_a_server_that_is_killed() {
    let mut server = Server::start("good", &[]);
    server.expect("is ready");
    server.signal(Signal::KILL);
    // The worker reads the end of its control channel.
    assert_eq!(server.end().0, -9);
}

#[test]
fn the_admin_listener_tells_alive_from_ready() {
    let mut server = Server::start("cannot_come_back", &["--admin", "127.0.0.1:0"]);
    let line = server.expect("admin listener on ");
    let address = after(&line, "http://").to_owned();
    let idle = TcpStream::connect(&address).unwrap();
    assert!(get(&address, "/healthz").starts_with("HTTP/1.1 200 "));
    server.expect("incarnation 3) is ready");
    let ready = get(&address, "/readyz");
    assert!(
        ready.starts_with("HTTP/1.1 200 ") && ready.contains(r#""workers_ready":1"#),
        "{ready}"
    );
    assert!(get(&address, "/metrics").starts_with("HTTP/1.1 404 "));
    drop(idle);
    assert_eq!(server.stop().0, 0);

    let mut server = Server::start("changes", &["--admin", "127.0.0.1:0"]);
    let line = server.expect("admin listener on ");
    server.expect("the application has changed on disk");
    assert!(get(after(&line, "http://"), "/readyz").starts_with("HTTP/1.1 503 "));
    assert_eq!(server.stop().0, 0);
}

#[test]
fn a_port_has_one_server() {
    for shards in ["1", "2"] {
        let mut server = Server::start("good", &["--shards", shards]);
        let line = server.expect("listening on http://127.0.0.1:");
        let port = after(&line, "127.0.0.1:").to_owned();
        assert_ne!(port, "0");
        server.expect("is ready");
        for others in ["1", "2"] {
            let (code, said) = refused("good", &["--port", &port, "--shards", others]);
            let expected = format!("fasterapi: 127.0.0.1:{port} is in use by another process\n");
            assert_eq!((code, said), (1, expected));
        }
        assert_eq!(server.stop().0, 0);
    }
}

#[test]
fn a_unix_socket_is_made_and_removed_and_a_stale_one_replaced() {
    let path = scratch("control.sock");
    drop(UnixListener::bind(&path).unwrap());
    let uds = path.to_str().unwrap();
    let mut server = Server::start("good", &["--uds", uds, "--shards", "2"]);
    let line = server.expect("attached");
    assert!(line.contains(&format!(r#""server": ["{uds}", null]"#)), "{line}");
    server.expect("is ready");
    UnixStream::connect(&path).unwrap();
    let (code, said) = refused("good", &["--uds", uds]);
    assert_eq!((code, said), (1, format!("fasterapi: {uds} is in use by another process\n")));
    assert_eq!(server.stop().0, 0);
    assert!(!path.exists());
}

#[test]
fn the_access_log_is_reopened_on_a_signal() {
    let path = scratch("control-access.log");
    let mut server = Server::start("good", &["--access-log", path.to_str().unwrap()]);
    server.expect("is ready");
    fs::remove_file(&path).unwrap();
    server.signal(Signal::USR1);
    server.expect("access log: reopened");
    assert!(path.exists());
    assert_eq!(server.stop().0, 0);
    fs::remove_file(path).unwrap();
}

#[test]
fn what_the_operator_got_wrong_is_said_in_one_line() {
    let long = format!("/tmp/{}", "x".repeat(200));
    for (args, code, expected) in [
        (&["--python", "/nowhere/python"][..], 1, "--python /nowhere/python: no such executable"),
        (
            &["--python", "/bin/false"],
            1,
            "/bin/false is not a working Python: exited with status 1",
        ),
        (&["--app-dir", "/nowhere"], 1, "--app-dir /nowhere: No such file"),
        (&["--uds", "/nowhere/x.sock"], 1, "cannot listen on /nowhere/x.sock: "),
        (&["--uds", "/bin/sh"], 1, "/bin/sh exists and is not a socket"),
        (&["--uds", &long], 1, "cannot listen on /tmp/xxx"),
        (&["--host", "192.0.2.1"], 1, "cannot listen on 192.0.2.1:0: "),
        (&["--access-log", "/nowhere/x.log"], 1, "cannot open the access log /nowhere/x.log: "),
        (&["--workers", "300"], 1, "--workers 300: at most 256"),
        (&["--wrokers", "3"], 2, "similar argument exists: '--workers'"),
        (&["--port", "99999"], 2, "99999 is not in 0..=65535"),
    ] {
        let (got, said) = refused("good", args);
        assert!(got == code && said.contains(expected), "{args:?}: {got} {said}");
        assert!(code == 2 || said.lines().count() == 1, "{args:?}: {said}");
    }
    let output = command("good", &[]).env("FAKE_PROBE", "86").output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains("has no package `fasterapi`") && said.lines().count() == 1, "{said}");
}

#[test]
fn every_option_is_in_the_environment_too() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fasterapi"));
    let output = command.args(["run", "--help"]).output().unwrap();
    let help = String::from_utf8(output.stdout).unwrap();
    let headings =
        ["Application:", "Listening:", "Processes:", "Observing:", "Lifecycle:", "Development:"];
    for heading in headings {
        assert!(help.contains(heading), "{help}");
    }
    // An option stands at the beginning of its entry; what a wrapped sentence names stands further in.
    let is_option = |line: &&str| {
        let has_letter = line.starts_with("  -") && !line.starts_with("  -h,");
        has_letter || line.starts_with("      --")
    };
    let options = help.lines().filter(is_option).count();
    let variables = help.matches("FASTERAPI_").count();
    assert_eq!(variables, options + 1, "APP and every option: {help}");
}
