//! What a round trip between two processes costs, by transport, all in one run: 128 bytes there, 128 bytes back.
//!
//! `cargo bench --bench lane_rtt [-- COUNT]`. The process starts itself once per transport as the echoing peer. Its
//! stdin is what it reads (or its doorbell), its stdout what it writes (or the other side's doorbell).
#![expect(
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a stopwatch that prints a table"
)]

use std::{
    env,
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::net::UnixStream,
    },
    process::{Child, Command, Stdio},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use fasterapi::ipc::{
    Doorbell, EdgeLane, Segment, WorkerLane,
    layout::Geometry,
    message::{Cancellation, FromWorker, ToWorker},
    segment::Writer,
};
use rustix::event::{PollFd, PollFlags, poll};

const SIZE: usize = 128;
const COUNT_DEFAULT: usize = 50_000;
const PATIENCE: rustix::event::Timespec = rustix::event::Timespec { tv_sec: 20, tv_nsec: 0 };

type Failure = Box<dyn std::error::Error>;

/// How a side of a lane waits.
#[derive(Clone, Copy, PartialEq)]
enum Wait {
    Spin,
    Sleep,
}

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = env::args().collect();
    match arguments.get(1).map(String::as_str) {
        Some("echo-lane-spin") => return echo_lane(&arguments[2..], Wait::Spin),
        Some("echo-lane-sleep") => return echo_lane(&arguments[2..], Wait::Sleep),
        Some("echo-stream") => return echo_stream(),
        _ => {}
    }
    let count = arguments.iter().skip(1).find_map(|a| a.parse().ok()).unwrap_or(COUNT_DEFAULT);
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name\t: ")).unwrap_or("?");
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    println!("{model}, {} cores seen, load {}", thread::available_parallelism()?, load.trim());
    println!("{count} round trips each, {SIZE} B there and {SIZE} B back");
    println!(
        "{:<28} {:>12} {:>10} {:>10} {:>8}",
        "transport", "round trips/s", "p50 us", "p99 us", "kicks"
    );
    lane("lane, both sides spin", Wait::Spin, count)?;
    lane("lane, both sides sleep", Wait::Sleep, count)?;
    let (here, there) = UnixStream::pair()?;
    let peer = start(&["echo-stream"], there.try_clone()?.into(), there.into())?;
    stream("Unix socketpair", here.try_clone()?, here, peer, count)?;
    let (reader, to_us) = io::pipe()?;
    let (to_peer, writer) = io::pipe()?;
    let peer = start(&["echo-stream"], to_peer.into(), to_us.into())?;
    stream("pipe pair", reader, writer, peer, count)
}

fn start(arguments: &[&str], stdin: OwnedFd, stdout: OwnedFd) -> io::Result<Child> {
    Command::new(env::current_exe()?)
        .args(arguments)
        .stdin(stdin)
        .stdout(Stdio::from(stdout))
        .spawn()
}

/// Measures `count` round trips after a tenth of that for warming up.
fn measure(
    name: &str,
    count: usize,
    mut round_trip: impl FnMut() -> Result<u64, Failure>,
) -> Result<(), Failure> {
    for _ in 0..count / 10 {
        round_trip()?;
    }
    let mut times = Vec::with_capacity(count);
    let (begin, mut kicks) = (Instant::now(), 0);
    for _ in 0..count {
        let start = Instant::now();
        kicks += round_trip()?;
        times.push(start.elapsed());
    }
    let total = begin.elapsed();
    times.sort_unstable();
    let micros = |time: Duration| time.as_secs_f64() * 1e6;
    let (p50, p99) = (micros(times[count / 2]), micros(times[count * 99 / 100]));
    #[expect(clippy::cast_precision_loss, reason = "counts are small")]
    let rate = count as f64 / total.as_secs_f64();
    println!("{name:<28} {rate:>12.0} {p50:>10.2} {p99:>10.2} {kicks:>8}");
    Ok(())
}

fn sleep_on(bell: &Doorbell) -> Result<(), Failure> {
    let mut fds = [PollFd::new(bell, PollFlags::IN)];
    if rustix::io::retry_on_intr(|| poll(&mut fds, Some(&PATIENCE)))? == 0 {
        return Err("the peer is gone".into());
    }
    Ok(bell.hush()?)
}

fn lane(name: &str, wait: Wait, count: usize) -> Result<(), Failure> {
    let (e, e_fd) = Segment::create("rtt-e", Geometry::PRODUCT, Writer::Creator)?;
    let (w, w_fd) = Segment::create("rtt-w", Geometry::PRODUCT, Writer::Receiver)?;
    let (own, peers) = (Doorbell::new()?, Doorbell::new()?);
    let path = |fd: &OwnedFd| format!("/proc/{}/fd/{}", std::process::id(), fd.as_raw_fd());
    let mode = if wait == Wait::Spin { "echo-lane-spin" } else { "echo-lane-sleep" };
    let mut peer = start(
        &[mode, &path(&e_fd), &path(&w_fd)],
        peers.as_fd().try_clone_to_owned()?,
        own.as_fd().try_clone_to_owned()?,
    )?;
    let mut edge = EdgeLane::new(e, w, Arc::new(peers));
    let data = [7; SIZE];
    measure(name, count, || {
        edge.send_body(1, &data, false)?;
        let kicked = edge.publish()?;
        loop {
            if let Some((_, message)) = edge.receive()? {
                assert!(matches!(message, FromWorker::Body { data, .. } if data.len() == SIZE));
                return Ok(u64::from(kicked));
            }
            match wait {
                Wait::Spin => std::hint::spin_loop(),
                Wait::Sleep => {
                    edge.publish()?;
                    if !edge.arm()? {
                        sleep_on(&own)?;
                    }
                }
            }
        }
    })?;
    edge.send_cancel(1, Cancellation::ClientGone)?;
    edge.publish()?;
    peer.wait()?;
    Ok(())
}

fn echo_lane(paths: &[String], wait: Wait) -> Result<(), Failure> {
    let e = Segment::attach(File::open(&paths[0])?.as_fd(), false)?;
    let w = OpenOptions::new().read(true).write(true).open(&paths[1])?;
    let w = Segment::attach(w.as_fd(), true)?;
    let own = Doorbell::from_fd(io::stdin().as_fd().try_clone_to_owned()?);
    let edges = Doorbell::from_fd(io::stdout().as_fd().try_clone_to_owned()?);
    let mut worker = WorkerLane::new(w, e, Arc::new(edges));
    let mut answer = [0; SIZE];
    let begin = Instant::now();
    for turn in 1_u64.. {
        let mut got = false;
        while let Some((_, message)) = worker.receive()? {
            let ToWorker::Body { data, .. } = message else { return Ok(()) };
            answer.copy_from_slice(data);
            got = true;
        }
        if got {
            worker.send_body(1, &answer, false)?;
        }
        worker.publish()?;
        match wait {
            Wait::Sleep => {
                if !worker.arm()? {
                    sleep_on(&own)?;
                }
            }
            // A parent that died must not leave a spinning child behind.
            Wait::Spin if turn % (1 << 20) == 0 && begin.elapsed() > Duration::from_secs(120) => {
                return Err("the edge is gone".into());
            }
            Wait::Spin => std::hint::spin_loop(),
        }
    }
    Ok(())
}

fn stream(
    name: &str,
    mut reader: impl Read,
    mut writer: impl Write,
    mut peer: Child,
    count: usize,
) -> Result<(), Failure> {
    let data = [7; SIZE];
    let mut answer = [0; SIZE];
    measure(name, count, || {
        writer.write_all(&data)?;
        reader.read_exact(&mut answer)?;
        Ok(0)
    })?;
    drop((reader, writer));
    peer.wait()?;
    Ok(())
}

fn echo_stream() -> Result<(), Failure> {
    let mut reader = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    let mut writer = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    let mut bytes = [0; SIZE];
    while reader.read_exact(&mut bytes).is_ok() {
        writer.write_all(&bytes)?;
    }
    Ok(())
}
