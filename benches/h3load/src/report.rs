//! What was measured: counts and latencies in, lines for people or one for programs out.

use std::{cell::RefCell, collections::BTreeMap, time::Duration};

use tokio::time::Instant;

/// Latencies that are kept; of more, every so-manieth is.
const LATENCIES_MAX: usize = 1 << 20;
const ERRORS_SHOWN: usize = 5;

/// Filled in by every task of the one thread.
#[derive(Debug)]
pub struct Tally {
    counts_from: Instant,
    state: RefCell<State>,
}

#[derive(Debug, Default)]
struct State {
    done: u64,
    failed: u64,
    bytes: u64,
    /// Of UDP datagrams, whatever was in them.
    wire_bytes: u64,
    resumed: u64,
    latencies_us: Vec<u32>,
    statuses: BTreeMap<u16, u64>,
    errors: BTreeMap<String, u64>,
}

impl Tally {
    pub fn new(counts_from: Instant) -> Self {
        Self { counts_from, state: RefCell::default() }
    }

    pub fn done(&self, begun: Instant, status: u16, bytes: u64) {
        if begun < self.counts_from {
            return;
        }
        let mut state = self.state.borrow_mut();
        state.done += 1;
        state.bytes += bytes;
        *state.statuses.entry(status).or_default() += 1;
        if state.latencies_us.len() < LATENCIES_MAX || state.done.is_multiple_of(64) {
            let latency = u32::try_from(begun.elapsed().as_micros()).unwrap_or(u32::MAX);
            state.latencies_us.push(latency);
        }
    }

    pub fn handshake(&self, begun: Instant, resumed: bool) {
        if begun >= self.counts_from {
            self.state.borrow_mut().resumed += u64::from(resumed);
        }
    }

    /// A connection has ended that received so many bytes, its handshake's among them.
    pub fn received(&self, bytes: u64) {
        self.state.borrow_mut().wire_bytes += bytes;
    }

    pub fn failed(&self, error: &dyn std::fmt::Display) {
        let mut state = self.state.borrow_mut();
        state.failed += 1;
        *state.errors.entry(error.to_string()).or_default() += 1;
    }

    pub fn report(&self, what: &'static str) -> Report {
        let elapsed = self.counts_from.elapsed();
        let mut state = self.state.take();
        state.latencies_us.sort_unstable();
        Report { what, elapsed, done: state.done, state }
    }
}

#[derive(Debug)]
pub struct Report {
    what: &'static str,
    elapsed: Duration,
    pub done: u64,
    state: State,
}

impl Report {
    fn percentile_us(&self, percent: usize) -> u32 {
        let sorted = &self.state.latencies_us;
        sorted
            .get((sorted.len() * percent / 100).min(sorted.len().saturating_sub(1)))
            .copied()
            .unwrap_or(0)
    }

    pub fn print(&self, json: bool) {
        let State { done, failed, bytes, wire_bytes, resumed, statuses, errors, .. } = &self.state;
        let seconds = self.elapsed.as_secs_f64();
        let (rate, mb_per_s) = (*done as f64 / seconds, *bytes as f64 / seconds / 1e6);
        let [p50, p90, p99, most] = [50, 90, 99, 100].map(|percent| self.percentile_us(percent));
        if json {
            let statuses: Vec<String> =
                statuses.iter().map(|(status, count)| format!("\"{status}\":{count}")).collect();
            println!(
                "{{\"requests\":{done},\"errors\":{failed},\"seconds\":{seconds:.6},\"requests_per_s\":{rate:.1},\
                 \"bytes\":{bytes},\"wire_bytes\":{wire_bytes},\"resumed\":{resumed},\"p50_us\":{p50},\"p90_us\":{p90},\"p99_us\":{p99},\"max_us\":{most},\"statuses\":{{{}}}}}",
                statuses.join(",")
            );
        } else {
            println!("finished in {seconds:.2} s: {rate:.1} {}/s, {mb_per_s:.2} MB/s", self.what);
            println!("{}: {done} done, {failed} failed, {resumed} resumed", self.what);
            println!("received: {wire_bytes} bytes of datagrams");
            println!("statuses: {statuses:?}");
            println!("latency us: p50 {p50}, p90 {p90}, p99 {p99}, max {most}");
        }
        for (error, count) in errors.iter().take(ERRORS_SHOWN) {
            eprintln!("h3load: {count} x {error}");
        }
    }
}
