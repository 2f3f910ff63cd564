//! How workers come and go while the server serves: recycled, reloaded, more or fewer, and what the control socket says of it.

use std::{
    collections::BTreeMap,
    fs,
    io::{Read, Write},
    os::unix::{fs::PermissionsExt, net::UnixStream},
    path::{Path, PathBuf},
    process::{Command, Output},
};

use rustix::process::{Pid, Signal, kill_process};
use sonic_rs::{JsonContainerTrait, JsonValueTrait, Value};

use super::{Server, after, get, refused, scratch};

/// A server with a control socket of its own.
struct Controlled {
    server: Server,
    socket: PathBuf,
}

impl Controlled {
    fn start(name: &str, mode: &str, args: &[&str]) -> Self {
        let socket = scratch(name).with_extension("sock");
        let control = ["--control", socket.to_str().unwrap()];
        let server = Server::start(mode, &[&control, args].concat());
        Self { server, socket }
    }

    fn ctl(&self, args: &[&str]) -> Output {
        ctl(&self.socket, args)
    }

    /// What it says when all goes well.
    fn order(&self, args: &[&str]) -> String {
        let output = self.ctl(args);
        let said = String::from_utf8(output.stdout).unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{args:?}: {said}{error}");
        said
    }

    /// What it says when not.
    fn refuse(&self, args: &[&str]) -> String {
        let output = self.ctl(args);
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        assert!(output.stdout.is_empty());
        String::from_utf8(output.stderr).unwrap()
    }

    fn status(&self) -> Value {
        sonic_rs::from_str(&self.order(&["status", "--json"])).unwrap()
    }

    /// Process ids, by place and incarnation.
    fn pids(&self) -> BTreeMap<(u64, u64), i32> {
        let status = self.status();
        let mut pids = BTreeMap::new();
        for worker in status["workers"].as_array().unwrap() {
            for process in worker["processes"].as_array().unwrap() {
                let pid = i32::try_from(process["pid"].as_u64().unwrap()).unwrap();
                let incarnation = process["incarnation"].as_u64().unwrap();
                pids.insert((worker["worker"].as_u64().unwrap(), incarnation), pid);
            }
        }
        pids
    }
}

fn ctl(socket: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fasterapi"));
    command.arg("ctl").arg("--control").arg(socket).args(args);
    command.output().unwrap()
}

#[test]
fn the_status_tells_of_the_server_its_shards_and_its_workers() {
    let mut it = Controlled::start("status", "lean", &["--workers", "2", "--shards", "2"]);
    it.server.expect("is ready");
    it.server.expect("is ready");
    let status = it.status();
    let server = &status["server"];
    assert_eq!(server["pid"].as_u64(), Some(u64::from(it.server.child.id())));
    assert_eq!(server["app"].as_str(), Some("fake:lean"));
    assert_eq!((server["generation"].as_u64(), server["workers"].as_u64()), (Some(1), Some(2)));
    assert_eq!(server["workers_ready"].as_u64(), Some(2));
    assert!(server["url"].as_str().unwrap().starts_with("http://127.0.0.1:"));
    assert_eq!(status["shards"].as_array().unwrap().len(), 2);
    let workers = status["workers"].as_array().unwrap();
    assert_eq!(workers.len(), 2);
    for (place, worker) in workers.iter().enumerate() {
        let process = &worker["processes"][0];
        assert_eq!(worker["worker"].as_u64(), Some(place as u64));
        assert_eq!(process["state"].as_str(), Some("ready"));
        assert_eq!(process["tasks"].as_u64(), Some(42));
        assert_eq!(process["loop_silent"].as_bool(), Some(false));
        assert!(process["loop_lag_ms"].as_f64().unwrap() < 250.0);
        assert!(process["rss_bytes"].as_u64().unwrap() > 1 << 20);
        assert_eq!(
            (process["in_flight"].as_u64(), process["requests"].as_u64()),
            (Some(0), Some(0))
        );
    }
    let table = it.order(&["status"]);
    for part in
        ["fake:lean on http://127.0.0.1:", "workers 2/2 ready", "loop lag", "restarts", "shed"]
    {
        assert!(table.contains(part), "{table}");
    }
    assert_eq!(it.server.stop().0, 0);
    assert!(!it.socket.exists());
}

#[test]
fn a_loop_that_does_not_answer_is_told_as_such() {
    let mut it = Controlled::start("silent", "silent", &[]);
    it.server.expect("is ready");
    for _ in 0..2 {
        let status = it.status();
        let process = &status["workers"][0]["processes"][0];
        assert_eq!(process["loop_silent"].as_bool(), Some(true));
        assert!(process["loop_lag_ms"].as_f64().unwrap() >= 250.0);
        assert!(process["tasks"].is_null());
    }
    assert!(it.order(&["status"]).contains("  > "));
    it.server.signal(Signal::TERM);
    it.server.expect("stopping");
    assert_eq!(it.server.stop().0, 143);
}

#[test]
fn a_pong_without_ping_is_the_workers_fault() {
    let mut server = Server::start("pong", &[]);
    server.expect("incarnation 1): control channel: a pong without its ping; respawn in");
    server.expect("incarnation 1) killed by SIGKILL");
    assert_eq!(server.stop().0, 0);
}

#[test]
fn an_order_to_nobody_has_an_exit_code_of_its_own() {
    let nowhere = scratch("nobody.sock");
    let output = ctl(&nowhere, &["status"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), said.lines().count()), (Some(3), 1), "{said}");
    assert!(said.contains(nowhere.to_str().unwrap()), "{said}");
    assert_eq!(ctl(&nowhere, &["walk"]).status.code(), Some(2));
    assert_eq!(ctl(&nowhere, &["scale", "0"]).status.code(), Some(2));
    assert_eq!(ctl(&nowhere, &["scale", "257"]).status.code(), Some(2));
}

#[test]
fn the_control_socket_is_private_and_bears_what_it_is_sent() {
    let mut it = Controlled::start("hostile", "lean", &[]);
    it.server.expect("is ready");
    assert_eq!(fs::metadata(&it.socket).unwrap().permissions().mode() & 0o777, 0o600);
    let long = vec![b'x'; 8192];
    for (sent, answer) in [
        (&b"hello\n"[..], "not a request"),
        (b"\n", "not a request"),
        (b"\0\xff\n", "not a request"),
        (b"{\"status\":{}}{\n", "not a request"),
        (b"{\"drain\":{\"worker\":7}}\n", "worker 7 does not serve"),
        (b"{\"scale\":{\"workers\":0}}\n", "at least 1"),
        (b"{\"scale\":{\"workers\":18446744073709551615}}\n", "at most 256"),
        (&long, "too long"),
    ] {
        let mut stream = UnixStream::connect(&it.socket).unwrap();
        // It may be refused before it is taken.
        let _ = stream.write_all(sent);
        let mut said = String::new();
        let _ = stream.read_to_string(&mut said);
        assert!(said.starts_with("{\"error\":") && said.contains(answer), "{said}");
    }
    // Closed without a word, and left open: neither keeps the others waiting.
    drop(UnixStream::connect(&it.socket).unwrap());
    let idle: Vec<_> = (0..8).map(|_| UnixStream::connect(&it.socket).unwrap()).collect();
    assert_eq!(it.status()["server"]["workers_ready"].as_u64(), Some(1));
    drop(idle);
    assert_eq!(it.server.stop().0, 0);
}

#[test]
fn a_control_socket_that_was_asked_for_has_to_be() {
    let (code, said) = refused("lean", &["--control", "/nowhere/x.sock"]);
    assert_eq!((code, said.lines().count()), (1, 1), "{said}");
    assert!(said.contains("cannot listen on /nowhere/x.sock: "), "{said}");
    let mut it = Controlled::start("taken", "lean", &[]);
    it.server.expect("is ready");
    let (code, said) = refused("lean", &["--control", it.socket.to_str().unwrap()]);
    assert!(code == 1 && said.contains("is in use by another process"), "{said}");
    assert_eq!(it.server.stop().0, 0);
}

#[test]
fn a_drained_worker_is_replaced_before_it_leaves() {
    let mut it = Controlled::start("drain", "lean", &["--workers", "2", "--shards", "2"]);
    it.server.expect("is ready");
    it.server.expect("is ready");
    assert_eq!(it.order(&["drain", "1"]), "worker 1 was replaced\n");
    it.server.expect("worker 1 (");
    it.server.expect("incarnation 2) is ready");
    it.server.expect("incarnation 1) finishes what it has");
    it.server.expect("fake 1.1 stopped");
    it.server.expect("incarnation 1) exited with status 0");
    let status = it.status();
    assert_eq!(status["workers"][1]["restarts"]["drain"].as_u64(), Some(1));
    assert_eq!(status["restarts"]["drain"].as_u64(), Some(1));
    assert_eq!(status["workers"][1]["processes"][0]["incarnation"].as_u64(), Some(2));
    assert!(it.refuse(&["drain", "2"]).contains("worker 2 does not serve"));
    assert_eq!(it.server.stop().0, 0);
}

/// A server whose next workers do what the file says.
fn by_file(name: &str, args: &[&str]) -> (Controlled, PathBuf) {
    let file = scratch(name).with_extension("file");
    fs::write(&file, "/one").unwrap();
    let socket = scratch(name).with_extension("sock");
    let control = ["--control", socket.to_str().unwrap()];
    let mut command = super::command("file", &[&control, args].concat());
    command.env("FAKE_FILE", &file);
    (Controlled { server: Server::spawn(command), socket }, file)
}

#[test]
fn a_reload_brings_a_new_generation_or_leaves_the_old_one_alone() {
    let (mut it, file) =
        by_file("reload", &["--workers", "2", "--shards", "2", "--start-timeout", "10"]);
    it.server.expect("is ready");
    it.server.expect("is ready");
    let old = it.pids();

    fs::write(&file, "fail").unwrap();
    let said = it.refuse(&["reload"]);
    assert!(
        said.contains("ImportError: no bananas") && said.contains("Traceback:\n  bananas"),
        "{said}"
    );
    it.server.expect("ImportError: no bananas; generation 1 goes on");
    fs::write(&file, "hang").unwrap();
    let said = it.refuse(&["reload"]);
    assert!(said.contains("not ready after 10 s"), "{said}");
    fs::write(&file, "no-slash").unwrap();
    let said = it.refuse(&["reload"]);
    assert!(said.contains("its routes: "), "{said}");
    assert!(old.iter().all(|(id, pid)| it.pids().get(id) == Some(pid)), "the old ones stay");
    assert_eq!(it.status()["server"]["generation"].as_u64(), Some(1));

    // Other routes than before: what a respawn may not have, a generation may.
    fs::write(&file, "/two").unwrap();
    assert_eq!(it.order(&["reload"]), "generation 5 serves\n");
    for _ in 0..2 {
        it.server.expect("finishes what it has");
    }
    it.server.signal(Signal::HUP);
    it.server.expect("reloading the application as generation 6: SIGHUP");
    for _ in 0..2 {
        it.server.expect("is ready");
    }
    let status = it.status();
    assert_eq!(status["server"]["generation"].as_u64(), Some(6));
    assert_eq!(status["restarts"]["reload"].as_u64(), Some(4));
    assert_eq!(it.server.stop().0, 0);
    fs::remove_file(file).unwrap();
}

#[test]
fn a_server_that_stops_says_so_to_who_waits_for_a_reload() {
    let (mut it, file) = by_file("reload-stop", &[]);
    it.server.expect("is ready");
    fs::write(&file, "hang").unwrap();
    let mut stream = UnixStream::connect(&it.socket).unwrap();
    stream.write_all(b"{\"reload\":{}}\n").unwrap();
    it.server.expect("reloading");
    assert_eq!(it.order(&["stop"]), "stopping\n");
    let mut said = String::new();
    stream.read_to_string(&mut said).unwrap();
    assert!(said.contains("the server is stopping"), "{said}");
    assert!(it.refuse(&["scale", "2"]).contains("the server is stopping"));
    // The one that hangs is killed in its time.
    assert_eq!(it.server.end().0, 0);
    fs::remove_file(file).unwrap();
}

#[test]
fn workers_become_more_and_fewer_by_order_and_by_signal() {
    let mut it = Controlled::start("scale", "lean", &["--admin", "127.0.0.1:0"]);
    let line = it.server.expect("admin listener on ");
    let admin = after(&line, "http://").to_owned();
    it.server.expect("is ready");
    assert_eq!(it.order(&["scale", "3"]), "3 workers from now on, 1 before\n");
    it.server.expect("is ready");
    it.server.expect("is ready");
    it.server.signal(Signal::TTIN);
    it.server.expect("4 workers from now on, 3 before");
    it.server.expect("worker 3 (");
    let ready = get(&admin, "/readyz");
    assert!(ready.contains(r#""workers":4"#), "{ready}");
    it.server.signal(Signal::TTOU);
    it.server.expect("3 workers from now on, 4 before");
    assert_eq!(it.order(&["scale", "1"]), "1 workers from now on, 3 before\n");
    it.server.expect("exited with status 0");
    it.server.expect("exited with status 0");
    it.server.signal(Signal::TTOU);
    it.server.expect("0 workers: at least 1");
    let status = it.status();
    assert_eq!(status["restarts"]["scale"].as_u64(), Some(3));
    assert_eq!(it.server.stop().0, 0);
}

#[test]
fn a_changed_file_reloads_and_an_application_that_fails_is_waited_for() {
    let dir = scratch("reload.d");
    fs::create_dir_all(&dir).unwrap();
    let (mut it, file) = by_file("watch", &["--reload", "--reload-dir", dir.to_str().unwrap()]);
    it.server.expect("is ready");
    fs::write(&file, "fail").unwrap();
    fs::write(dir.join("main.py"), "1").unwrap();
    it.server.expect("main.py changed");
    it.server.expect("ImportError: no bananas; generation 1 goes on");
    fs::write(&file, "/two").unwrap();
    fs::write(dir.join("main.py"), "2").unwrap();
    it.server.expect("is ready");
    assert_eq!(it.status()["server"]["generation"].as_u64(), Some(3));
    assert_eq!(it.server.stop().0, 0);

    let mut command = super::command("file", &["--reload", "--reload-dir", dir.to_str().unwrap()]);
    fs::write(&file, "fail").unwrap();
    command.env("FAKE_FILE", &file);
    let mut server = Server::spawn(command);
    server.expect("ImportError: no bananas; waiting for a change");
    fs::write(&file, "/one").unwrap();
    fs::write(dir.join("main.py"), "3").unwrap();
    server.expect("is ready");
    assert_eq!(server.stop().0, 0);
    fs::remove_dir_all(dir).unwrap();
    fs::remove_file(file).unwrap();
}

#[test]
fn a_worker_that_serves_long_enough_or_holds_too_much_is_replaced() {
    for (args, cause) in
        [(&["--max-lifetime", "0.2"][..], "max-lifetime"), (&["--max-rss", "1M"], "max-rss")]
    {
        let mut server = Server::start("lean", args);
        server.expect("incarnation 1) is ready");
        server.expect(&format!("incarnation 1) is to be replaced: {cause}"));
        server.expect("incarnation 2) is ready");
        server.expect("incarnation 1) exited with status 0");
        server.expect("incarnation 3) is ready");
        assert_eq!(server.stop().0, 0);
    }
}

#[test]
fn a_server_that_may_take_no_time_to_stop_takes_none() {
    let mut server = Server::start("stubborn", &["--workers", "2", "--shutdown-timeout", "0"]);
    server.expect("is ready");
    server.expect("is ready");
    let (code, lines) = server.stop();
    assert_eq!(code, 0, "{lines:#?}");
    assert!(lines.iter().filter(|line| line.contains("killed by SIGKILL")).count() == 2);
}

/// Descriptors, mappings of memfds, children: what a restart could leave behind in the server.
fn belongings(pid: u32) -> (usize, usize, usize) {
    let fds = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let memfds = maps.lines().filter(|line| line.contains("/memfd:")).count();
    let mut children = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
        let list = fs::read_to_string(task.unwrap().path().join("children")).unwrap();
        children += list.split_whitespace().count();
    }
    (fds, memfds, children)
}

#[test]
fn a_thousand_restarts_leave_nothing_behind() {
    const PLACES: usize = 8;
    const SHARDS: usize = 2;
    let lean = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/control/lean_worker.sh");
    let args = ["--python", lean, "--workers", "8", "--shards", "2", "--respawn-delay-max", "0"];
    let mut it = Controlled::start("restarts", "lean", &args);
    for _ in 0..PLACES {
        it.server.expect("is ready");
    }
    // What the first of each kind bring along, such as buffers, belongs to the server.
    it.order(&["drain", "0"]);
    it.order(&["reload"]);
    let at_rest = |it: &Controlled| {
        // A shard lets go in its own time; both segments of each lane are mapped once.
        for _ in 0..500 {
            let processes = it.pids().len();
            let (fds, memfds, children) = belongings(it.server.child.id());
            if (memfds, children, processes) == (2 * SHARDS * PLACES, PLACES, PLACES) {
                return fds;
            }
        }
        let found = belongings(it.server.child.id());
        panic!("(descriptors, memfds, children): {found:?}\n{}", it.order(&["status"]));
    };
    let restarts = |it: &Controlled| -> u64 {
        let status = it.status();
        let counts = ["killed", "reload", "drain"];
        counts.iter().filter_map(|cause| status["restarts"][*cause].as_u64()).sum()
    };
    let before = at_rest(&it);
    while restarts(&it) < 1000 {
        // All are killed; all are replaced by a new generation; one is drained.
        at_rest(&it);
        let pids = it.pids();
        for pid in pids.values() {
            kill_process(Pid::from_raw(*pid).unwrap(), Signal::KILL).unwrap();
        }
        for _ in &pids {
            it.server.expect("is ready");
        }
        it.order(&["reload"]);
        it.order(&["drain", "3"]);
    }
    let after = at_rest(&it);
    assert!(after <= before, "{before} descriptors became {after}");
    assert_eq!(it.server.stop().0, 0);
}
