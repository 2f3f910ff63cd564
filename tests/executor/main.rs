//! The executor with real Python workers: what a Rust program sees of calls, failures, deaths and the end.
//!
//! Nothing here waits for a time: a function says over a socket that it runs, and goes on when the test says so.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so")]

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
};

use fasterapi::executor::{CallError, Config, ProcessPoolExecutor, StartError};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use sonic_rs::{JsonContainerTrait, JsonValueTrait, Value, json};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn config(workers: u16) -> Config {
    let python = std::env::var_os("FASTERAPI_PYTHON")
        .map_or_else(|| Path::new(ROOT).join(".venv/bin/python3"), PathBuf::from);
    let project_dir = Path::new(ROOT).join("tests/executor");
    Config { workers, python, project_dir, ..Config::default() }
}

fn executor(workers: u16) -> ProcessPoolExecutor {
    ProcessPoolExecutor::new(config(workers)).unwrap()
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// The least of all runtimes.
fn block_on<F: Future>(future: F) -> F::Output {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        thread::park();
    }
}

fn call(
    executor: &ProcessPoolExecutor,
    function: &str,
    kwargs: &Value,
) -> Result<Value, CallError> {
    block_on(executor.submit("functions", function, kwargs))
}

fn pid_of(executor: &ProcessPoolExecutor) -> Pid {
    let pid = call(executor, "pid", &json!({})).unwrap().as_i64().unwrap();
    Pid::from_raw(i32::try_from(pid).unwrap()).unwrap()
}

/// The one of two workers that is not this busy one, once it is ready.
fn idle_worker(executor: &ProcessPoolExecutor, busy: Pid) -> Pid {
    loop {
        let pid = pid_of(executor);
        if pid != busy {
            return pid;
        }
    }
}

fn is_gone(pid: Pid) -> bool {
    test_kill_process(pid) == Err(rustix::io::Errno::SRCH)
}

/// Where functions say that they run.
struct Meeting {
    path: PathBuf,
    listener: UnixListener,
}

impl Meeting {
    fn new() -> Self {
        static SERIAL: AtomicU32 = AtomicU32::new(0);
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let name = format!("fasterapi-executor-{}-{serial}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let listener = UnixListener::bind(&path).unwrap();
        Self { path, listener }
    }

    fn kwargs(&self) -> Value {
        json!({ "path": self.path.to_str().unwrap() })
    }

    /// The next function that has arrived, and its process.
    fn arrival(&self) -> (BufReader<UnixStream>, Pid) {
        let mut stream = BufReader::new(self.listener.accept().unwrap().0);
        let mut line = String::new();
        stream.read_line(&mut line).unwrap();
        (stream, Pid::from_raw(line.trim().parse().unwrap()).unwrap())
    }
}

impl Drop for Meeting {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

#[test]
fn functions_of_both_kinds_are_called_by_name() {
    let executor = executor(2);
    assert_eq!(call(&executor, "add", &json!({"a": 1, "b": 2})).unwrap(), 3);
    assert_eq!(call(&executor, "add", &json!({"a": 1})).unwrap(), 1);
    assert_eq!(call(&executor, "add_async", &json!({"a": 20, "b": 3})).unwrap(), 23);
    let value = json!({"text": "ä\u{1F600}\u{0}\"", "list": [1, -2, 2.5, null, true, {}]});
    assert_eq!(call(&executor, "echo", &json!({"value": value})).unwrap(), value);
    let comb = block_on(executor.submit("math", "factorial", &json!({})));
    assert!(matches!(comb, Err(CallError::Exception(error)) if error.kind == "TypeError"));
}

#[test]
fn calls_run_side_by_side_in_one_worker() {
    let executor = executor(1);
    let meet = |place| executor.submit("functions", "meet", &json!({"place": place, "count": 50}));
    let calls: Vec<_> = (0..50).map(meet).collect();
    for (place, call) in calls.into_iter().enumerate() {
        assert_eq!(block_on(call).unwrap(), place as u64, "each its own answer");
    }
    let meet = |place| executor.submit("functions", "meet_in_threads", &json!({"place": place}));
    let calls: Vec<_> = (0..20).map(meet).collect();
    for (place, call) in calls.into_iter().enumerate() {
        assert_eq!(block_on(call).unwrap(), place as u64);
    }
}

#[test]
fn ten_thousand_calls_from_many_threads_each_get_their_own_answer() {
    let executor = executor(2);
    thread::scope(|scope| {
        for thread in 0..10_u64 {
            let executor = &executor;
            scope.spawn(move || {
                let add = |n: u64| {
                    executor.submit("functions", "add_async", &json!({"a": thread * 1000, "b": n}))
                };
                let calls: Vec<_> = (0..1000).map(add).collect();
                for (n, call) in calls.into_iter().enumerate() {
                    assert_eq!(block_on(call).unwrap(), thread * 1000 + n as u64);
                }
            });
        }
    });
}

#[test]
fn calls_go_to_the_worker_with_least_to_do() {
    let (executor, meeting) = (executor(2), Meeting::new());
    let first = executor.submit("functions", "wait_for_word", &meeting.kwargs());
    let (mut one, busy) = meeting.arrival();
    let idle = idle_worker(&executor, busy);
    for _ in 0..10 {
        assert_eq!(pid_of(&executor), idle);
    }
    one.get_mut().write_all(b"go\n").unwrap();
    assert_eq!(block_on(first).unwrap(), "go");
}

#[test]
fn exceptions_arrive_with_their_traceback() {
    let executor = executor(1);
    let Err(CallError::Exception(error)) = call(&executor, "fail", &json!({"text": "no \u{e4}"}))
    else {
        panic!("an exception")
    };
    assert_eq!(
        (error.kind.as_str(), error.message.as_str()),
        ("functions.StrangeError", "no \u{e4}")
    );
    for words in
        ["KeyError: 'the cause'", "direct cause", "functions.py\", line", "raise StrangeError"]
    {
        assert!(error.traceback.contains(words), "{words}: {}", error.traceback);
    }
    let Err(CallError::Exception(error)) = call(&executor, "fail_async", &json!({"text": "\u{0}"}))
    else {
        panic!("an exception")
    };
    assert_eq!((error.kind.as_str(), error.message.as_str()), ("ValueError", "\u{0}"));
    let Err(CallError::Exception(error)) = call(&executor, "add", &json!({"c": 1})) else {
        panic!("an exception")
    };
    assert!(error.kind == "TypeError" && error.message.contains("'c'"), "{error:?}");
}

#[test]
fn names_that_lead_nowhere_are_said_to() {
    let executor = executor(1);
    for (module, function, expected) in [
        ("no_such_module", "f", "no module 'no_such_module'"),
        ("functions.sub", "f", "no module 'functions.sub'"),
        ("functions", "missing", "has no function 'missing'"),
        ("functions", "not_a_function", "is not a function, but of type int"),
        ("functions", "StrangeError.mro", "nested names cannot be called"),
        ("__main__", "main", "in a worker that is the worker itself"),
        ("", "f", "'' is not the name of a module"),
        (".functions", "add", "'.functions' is not the name of a module"),
    ] {
        let outcome = block_on(executor.submit(module, function, &json!({})));
        let Err(CallError::NoSuchFunction(said)) = outcome else { panic!("{module}: {outcome:?}") };
        assert!(said.contains(expected), "{module}.{function}: {said}");
    }
    let outcome = block_on(executor.submit("broken", "f", &json!({})));
    let Err(CallError::Exception(error)) = outcome else { panic!("{outcome:?}") };
    assert_eq!(error.kind, "ModuleNotFoundError", "{error:?}");
    assert!(error.traceback.contains("broken.py"), "{error:?}");
    assert_eq!(call(&executor, "add", &json!({"a": 1})).unwrap(), 1);
}

#[test]
fn what_is_not_json_or_too_large_is_refused_and_harms_nothing() {
    let executor = ProcessPoolExecutor::new(Config { size_max: 100_000, ..config(1) }).unwrap();
    let outcome = call(&executor, "unserialisable", &json!({}));
    assert!(
        matches!(&outcome, Err(CallError::ResultNotJson(said)) if said.contains("object")),
        "{outcome:?}"
    );
    let outcome = call(&executor, "add", &json!([1]));
    assert!(matches!(outcome, Err(CallError::ArgumentsNotJson(_))), "{outcome:?}");
    let too_large = |what| Err(CallError::TooLarge { what, max: 100_000 });
    let text = "x".repeat(100_000);
    assert_eq!(call(&executor, "echo", &json!({ "value": text })), too_large("arguments"));
    for size in [100_000, 10_000_000] {
        assert_eq!(call(&executor, "text_of", &json!({ "size": size })), too_large("a result"));
    }
    let name = "m".repeat(10_000);
    let outcome = block_on(executor.submit(&name, "f", &json!({})));
    assert!(matches!(outcome, Err(CallError::TooLarge { what: "names", .. })), "{outcome:?}");
    assert_eq!(call(&executor, "add", &json!({"a": 1})).unwrap(), 1);
}

#[test]
fn sixteen_mebibytes_pass_both_ways_several_at_a_time() {
    let executor = executor(2);
    let text = |n: usize| format!("{n}").repeat(16 << 20);
    let echo = |n| executor.submit("functions", "echo", &json!({"value": text(n)}));
    let calls: Vec<_> = (0..4).map(echo).collect();
    for (n, call) in calls.into_iter().enumerate() {
        let value = block_on(call).unwrap();
        assert!(value.as_str() == Some(&text(n)), "text {n}");
    }
}

#[test]
fn a_dead_workers_calls_fail_and_another_takes_its_place() {
    let (executor, meeting) = (executor(1), Meeting::new());
    let doomed = executor.submit("functions", "wait_for_word", &meeting.kwargs());
    let (_stream, pid) = meeting.arrival();
    kill_process(pid, Signal::KILL).unwrap();
    let died = |how: &str| Err(CallError::WorkerDied(how.to_owned()));
    assert_eq!(block_on(doomed), died("killed by SIGKILL"));
    let next = pid_of(&executor);
    assert!(next != pid && is_gone(pid));
    assert_eq!(call(&executor, "leave", &json!({"status": 7})), died("exited with status 7"));
    assert_eq!(call(&executor, "add", &json!({"a": 1})).unwrap(), 1);
}

#[test]
fn a_call_that_is_dropped_is_cancelled() {
    let (executor, meeting) = (executor(1), Meeting::new());
    let call_to_drop = executor.submit("functions", "wait_for_cancel", &meeting.kwargs());
    let (mut stream, _) = meeting.arrival();
    drop(call_to_drop);
    let mut said = String::new();
    stream.read_line(&mut said).unwrap();
    assert_eq!(said, "cancelled\n");
    assert_eq!(call(&executor, "cancel_itself", &json!({})), Err(CallError::Cancelled));
    assert_eq!(call(&executor, "add", &json!({"a": 1})).unwrap(), 1);
}

#[test]
fn more_calls_than_it_holds_are_refused() {
    let executor = ProcessPoolExecutor::new(Config { calls_max: 1, ..config(1) }).unwrap();
    let meeting = Meeting::new();
    let first = executor.submit("functions", "wait_for_word", &meeting.kwargs());
    let (mut stream, _) = meeting.arrival();
    assert_eq!(call(&executor, "pid", &json!({})), Err(CallError::Overloaded(1)));
    stream.get_mut().write_all(b"go\n").unwrap();
    assert_eq!(block_on(first).unwrap(), "go");
    assert_eq!(call(&executor, "add", &json!({"a": 1})).unwrap(), 1);
}

#[test]
fn a_shutdown_waits_for_calls_and_leaves_no_process() {
    let (executor, meeting) = (executor(2), Meeting::new());
    let running = executor.submit("functions", "wait_for_word", &meeting.kwargs());
    let (mut stream, pid) = meeting.arrival();
    let other = idle_worker(&executor, pid);
    let shutdown = executor.shutdown();
    stream.get_mut().write_all(b"go\n").unwrap();
    assert_eq!(block_on(running).unwrap(), "go");
    block_on(shutdown);
    assert!(is_gone(pid) && is_gone(other));
}

#[test]
fn a_drop_ends_calls_and_leaves_no_process() {
    let (executor, meeting) = (executor(2), Meeting::new());
    let running = executor.submit("functions", "wait_for_word", &meeting.kwargs());
    let (_stream, pid) = meeting.arrival();
    let other = idle_worker(&executor, pid);
    drop(executor);
    assert!(is_gone(pid) && is_gone(other));
    assert_eq!(block_on(running), Err(CallError::ShutDown));
}

#[test]
fn pinned_workers_have_one_cpu_each() {
    let executor = ProcessPoolExecutor::new(Config { pin_to_cores: true, ..config(1) }).unwrap();
    let cpus = call(&executor, "cpus", &json!({})).unwrap();
    assert_eq!(cpus.as_array().unwrap().len(), 1);
}

#[test]
fn an_executor_that_cannot_start_says_why() {
    let outcome = |config| ProcessPoolExecutor::new(config).err();
    assert!(matches!(outcome(config(0)), Some(StartError::Workers(0))));
    assert!(matches!(outcome(config(1000)), Some(StartError::Workers(1000))));
    let missing = Config { python: "/no/such/python".into(), ..config(1) };
    assert!(matches!(outcome(missing), Some(StartError::Python(_))));
}

#[test]
fn a_worker_of_ones_own_answers_through_the_same_lane() {
    let config = Config { worker_module: Some("own_worker".to_owned()), ..config(1) };
    let executor = ProcessPoolExecutor::new(config).unwrap();
    let ask = |function: &str, kwargs: &Value| executor.submit("some.module", function, kwargs);

    let echo = block_on(ask("echo", &json!({"a": [1, 2.5, "x"]}))).unwrap();
    assert_eq!(echo, json!(["some.module", "echo", {"a": [1, 2.5, "x"]}]));

    let error = block_on(ask("fail", &json!({}))).unwrap_err();
    let CallError::Exception(exception) = error else { panic!("{error:?}") };
    assert_eq!((&*exception.kind, &*exception.message), ("OwnError", "as asked"));
    assert_eq!(exception.traceback, "own traceback");

    // Longer than a lane's ring, arena and credit together: both go in pieces, and neither stands in the other's way.
    let long = "x".repeat(8 << 20);
    let first = ask("keep", &json!({"value": &long, "until": 2}));
    let second = ask("keep", &json!({"value": 2, "until": 2}));
    assert_eq!(block_on(second).unwrap(), json!(2));
    assert_eq!(block_on(first).unwrap().as_str().map(str::len), Some(long.len()));
    block_on(executor.shutdown());
}
