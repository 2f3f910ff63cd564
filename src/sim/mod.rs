//! A whole shard in a world of its own: virtual time, scripted clients and workers, everything drawn from one seed.
//!
//! ```text
//!   clients ── sockets ──┐                          ┌── segments ── workers (honest, crashing, lying)
//!                        world: Driver ── Shard ── lanes
//!   control ── mailbox ──┘                          └── reports ──► control
//! ```
//!
//! Invariant: one seed is one run, to the last byte and microsecond. The shard is the real one, over the fake [`world`];
//! workers are written against the segments' layout alone. `check` has what must hold. Deliberately absent: threads, sockets,
//! sleeps. A failure names its seed: `make sim SEED=… SEEDS=1` repeats it.

mod book;
mod check;
mod client;
mod hostile;
mod http;
mod kernel;
mod plan;
mod reply;
mod rng;
mod tests;
mod wire;
mod worker;
mod world;

use std::{
    os::fd::{AsFd, AsRawFd},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::mpsc::unbounded_channel;

use crate::{
    limits,
    proto::{forwarded::Trusted, h1},
    shard::{
        Gauges, Handle, HttpVersions, Listener, ListenerKind, Options, WebSocketOptions,
        probe::{Audit, Probe},
    },
};
use book::{Book, Tally};
use plan::Profile;
use rng::Rng;
use world::World;

/// Far beyond what any run takes.
const TURNS_MAX: u64 = 200_000;
/// Longer than any pause that is drawn.
const PROGRESS_MAX: Duration = Duration::from_secs(300);

/// What a run came to.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Summary {
    turns: u64,
    /// Virtual.
    time: Duration,
    requests: usize,
    /// By the first incarnation of the first worker.
    stores: u64,
    tally: Tally,
}

/// Runs a seed; the error says what must not be, with the last lines of the trace.
fn run(seed: u64, profile: &Profile, traced: bool) -> Result<Summary, String> {
    let mut rng = Rng::new(seed);
    let now = beginning();
    let (sender, reports) = unbounded_channel();
    let gauges = Arc::new(Gauges::default());
    let (handle, mailbox) = Handle::new(sender).unwrap();
    let doorbell = mailbox.doorbell.try_clone().unwrap();
    let book = Book::new(seed, profile.clone(), now, traced);
    let mut world = World::new(book, rng.fork(), now, (handle, reports), mailbox.doorbell.as_fd());
    world.kernel.listen(doorbell.as_fd().as_raw_fd());
    let options = Options {
        shard: 0,
        listeners: vec![Listener {
            socket: doorbell.into(),
            address: None,
            kind: ListenerKind::Plain,
        }],
        tls: None,
        quic: None,
        limits: profile.limits,
        websocket: WebSocketOptions::default(),
        headers: Vec::new(),
        trusted: Trusted::default(),
        gauges: Arc::clone(&gauges),
        http: HttpVersions::Auto,
        h1: h1::Options { body_size_max: limits::BODY_SIZE_MAX },
        spin_max: rng.pick(&[Duration::ZERO, limits::SPIN_MAX]),
        access_log: rng.chance(300),
    };
    let mut probe = Probe::new(world, options, mailbox);
    let mut told_to_drain = false;
    loop {
        let turned = catch_unwind(AssertUnwindSafe(|| probe.turn()));
        let drained = match turned {
            Ok(turned) => !turned.unwrap(),
            Err(payload) => {
                probe.driver().book.fail(format!("a panic: {}", text_of(&*payload)));
                false
            }
        };
        let audit = probe.audit();
        let world = probe.driver();
        if let Some(summary) = judge(world, &audit, &gauges, drained, &mut told_to_drain)? {
            return Ok(summary);
        }
    }
}

/// Looks at the world after a turn; a summary when the run is over.
fn judge(
    world: &mut World,
    audit: &Result<Audit, String>,
    gauges: &Gauges,
    drained: bool,
    told_to_drain: &mut bool,
) -> Result<Option<Summary>, String> {
    world.hear();
    check::turn(&mut world.book, audit, (world.wait, world.completed), world.kernel.leased());
    if let Ok(audit) = audit {
        check::links(&mut world.book, audit, &world.workers);
        let stalled = std::mem::take(&mut world.quiet);
        if stalled && !drained {
            if !world.clients_done() && !world.book.draining {
                world.book.fail("everybody is asleep, and clients wait");
            }
            check::quiet(&mut world.book, audit, &world.workers);
            check::gauges(&mut world.book, gauges);
            if !std::mem::replace(told_to_drain, true) && !world.book.draining {
                world.drain();
            } else {
                world.book.fail("asleep for ever, and not drained");
            }
        }
        if drained && audit.connections > 0 {
            world.book.fail(format!("drained beside {} connections", audit.connections));
        }
    }
    let idle = world.kernel.now.duration_since(world.book.progress_at);
    if world.turns > TURNS_MAX || idle > PROGRESS_MAX {
        world.book.fail(format!("no end after {} turns, {idle:?} without progress", world.turns));
    }
    let book = &world.book;
    if let Some(violation) = book.violation() {
        return Err(format!("{violation}\n{}", book.traced()));
    }
    let stores = |worker: &worker::Worker| worker.wire.stores;
    Ok(drained.then(|| Summary {
        turns: world.turns,
        time: world.kernel.now.duration_since(book.started()),
        requests: book.entries().count(),
        stores: world.workers.iter().find(|worker| worker.who == (0, 1)).map_or(0, stores),
        tally: book.tally,
    }))
}

/// The profile of a seed, and what comes of it.
fn run_seed(seed: u64, traced: bool) -> Result<Summary, String> {
    // Of the seed, but not the sequence that the run itself draws from.
    run(seed, &Profile::draw(&mut Rng::new(!seed)), traced)
}

fn text_of(payload: &(dyn std::any::Any + Send)) -> String {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| payload.downcast_ref::<&str>().copied());
    text.unwrap_or("without words").chars().take(500).collect()
}

#[expect(
    clippy::disallowed_methods,
    reason = "time has to begin somewhere; only differences are looked at"
)]
fn beginning() -> Instant {
    Instant::now()
}
