//! The server at one moment, as the control socket tells it.
//!
//! Invariant: nothing is decided here, and nothing is kept.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use super::workers::{Lag, Workers};
use crate::{
    ctl::protocol::{Process, Server, Shard, Status, Worker},
    pool::lifecycle::{Lifecycle, Restarts},
    shard::handle::Gauges,
};

/// What does not change while the server runs.
#[derive(Clone, Debug)]
pub(super) struct Identity {
    /// Where it listens.
    pub(super) url: String,
    pub(super) started: Instant,
}

pub(super) fn status<'a>(
    identity: &Identity,
    lifecycle: &Lifecycle,
    workers: &Workers,
    gauges: impl Iterator<Item = &'a Gauges>,
    now: Instant,
) -> Status {
    let seconds = |since| now.saturating_duration_since(since).as_secs_f64();
    let mut restarts = BTreeMap::new();
    let mut places = Vec::new();
    for (place, wanted, of_place) in lifecycle.restarts() {
        let processes: Vec<Process> = lifecycle
            .views()
            .filter(|view| view.id.0 == place)
            .filter_map(|view| {
                let figures = workers.figures(view.id, now)?;
                let (lag, tasks) = match figures.lag {
                    Lag::Answered(lag, tasks) => (Some(lag), Some(tasks)),
                    Lag::Silent(since) => (Some(since), None),
                    Lag::Unknown => (None, None),
                };
                Some(Process {
                    pid: figures.pid,
                    incarnation: view.id.1.0,
                    generation: view.generation,
                    state: view.state.name().to_owned(),
                    in_flight: figures.in_flight,
                    requests: figures.requests,
                    rss_bytes: figures.rss,
                    loop_lag_ms: lag.map(millis),
                    loop_silent: matches!(figures.lag, Lag::Silent(_)),
                    tasks,
                    uptime_s: seconds(view.started),
                })
            })
            .collect();
        add(&mut restarts, of_place);
        if wanted || !processes.is_empty() {
            let mut of = BTreeMap::new();
            add(&mut of, of_place);
            places.push(Worker { worker: place.0, restarts: of, processes });
        }
    }
    let server = Server {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        uptime_s: seconds(identity.started),
        app: workers.app().to_owned(),
        url: identity.url.clone(),
        generation: lifecycle.generation(),
        workers_ready: lifecycle.ready_count(),
        workers: lifecycle.wanted_count(),
        draining: !lifecycle.is_serving(),
    };
    let shards = gauges.enumerate().map(|(shard, gauges)| of_shard(shard, gauges)).collect();
    Status { server, shards, workers: places, restarts }
}

fn of_shard(shard: usize, gauges: &Gauges) -> Shard {
    let get = |gauge: &AtomicU64| gauge.load(Ordering::Relaxed);
    Shard {
        shard,
        connections: get(&gauges.connections),
        exchanges: get(&gauges.exchanges),
        queued: get(&gauges.queued),
        chunks: get(&gauges.chunks),
        begun: get(&gauges.begun),
        redispatched: get(&gauges.redispatched),
        failed: get(&gauges.failed),
        overdue: get(&gauges.overdue),
        shed: get(&gauges.shed),
        abandoned: get(&gauges.abandoned),
        withdrawn: get(&gauges.withdrawn),
        quic_connections: get(&gauges.quic_connections),
        datagrams_answered: get(&gauges.datagrams_answered),
        datagrams_forwarded: get(&gauges.datagrams_forwarded),
        datagrams_dropped: get(&gauges.datagrams_dropped),
    }
}

fn add(to: &mut BTreeMap<String, u64>, restarts: &Restarts) {
    for (cause, count) in restarts.iter() {
        *to.entry(cause.name().to_owned()).or_default() += count;
    }
}

/// To a microsecond.
fn millis(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}
