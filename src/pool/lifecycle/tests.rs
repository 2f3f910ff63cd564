//! Each case is a script over virtual time: what happens, and which actions that makes, in order.

mod random;
mod renewal;

use std::os::unix::process::ExitStatusExt;

use super::*;
use crate::pool::channel::Route;

/// Inputs. The first number is the place, the second its incarnation.
#[derive(Clone, Copy, Debug)]
enum Do {
    Ready(u16, u32),
    ReadyWithOtherRoutes(u16, u32),
    Fail(u16, u32),
    Faulty(u16, u32),
    Exit(u16, u32),
    SpawnFailed(u16, u32),
    Stick(u16, u32),
    /// Nothing of it is in flight any more.
    Retired(u16, u32),
    Reload,
    Scale(usize),
    /// Recycle this place.
    Drain(u16),
    /// It has served so many requests and holds so many bytes.
    Usage(u16, u32, u64, u64),
    After(Duration),
    Stop,
    ShardFailed,
    Interrupt,
    Drained,
}
use Do::*;

struct World {
    pool: Lifecycle,
    now: Instant,
}

impl World {
    fn new(workers: u16) -> Self {
        Self::with(Settings::default(), workers)
    }

    fn with(settings: Settings, workers: u16) -> Self {
        #[expect(clippy::disallowed_methods, reason = "an origin for virtual time")]
        let now = Instant::now();
        Self { pool: Lifecycle::new(settings, workers, now), now }
    }

    fn apply(&mut self, input: Do) {
        let (pool, now) = (&mut self.pool, self.now);
        match input {
            Ready(w, i) => pool.handle_ready(id(w, i), manifest("/"), now),
            ReadyWithOtherRoutes(w, i) => pool.handle_ready(id(w, i), manifest("/other"), now),
            Fail(w, i) => pool.handle_failed(id(w, i), import_error(), now),
            Faulty(w, i) => pool.handle_failed(id(w, i), WorkerError::Channel("x".into()), now),
            Exit(w, i) => pool.handle_exited(id(w, i), killed(), now),
            SpawnFailed(w, i) => pool.handle_spawn_failed(id(w, i), "x".into(), now),
            Stick(w, i) => pool.handle_failed(id(w, i), WorkerError::Stuck(s(1)), now),
            Retired(w, i) => pool.handle_retired(id(w, i)),
            Reload => drop(pool.handle_reload(now)),
            Scale(workers) => assert!(pool.handle_scale(workers, now)),
            Drain(w) => assert!(pool.handle_drain(WorkerId(w), now)),
            Usage(w, i, requests, rss) => pool.handle_usage(id(w, i), requests, Some(rss), now),
            Stop => pool.handle_stop(now),
            ShardFailed => pool.handle_server_failed(now),
            Interrupt => pool.handle_interrupt(2, now),
            Drained => pool.handle_shards_drained(),
            After(time) => {
                self.now += time;
                pool.handle_timeout(self.now);
            }
        }
    }

    /// The actions so far, in short.
    fn actions(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.pool.poll_action()).map(describe).collect()
    }
}

fn id(worker: u16, incarnation: u32) -> Id {
    (WorkerId(worker), Incarnation(incarnation))
}

fn manifest(path: &str) -> Manifest {
    let route = Route { id: 0, methods: vec!["GET".into()], path: path.into() };
    Manifest { routes: vec![route], redirect_slashes: true, catch_all: false }
}

fn import_error() -> WorkerError {
    let [stage, error, traceback] = ["import", "ImportError", "T"].map(str::to_owned);
    WorkerError::Application { stage, error, traceback }
}

fn killed() -> ExitStatus {
    ExitStatus::from_raw(9)
}

fn describe(action: Action) -> String {
    let name = |(worker, incarnation): Id| format!("{}.{}", worker.0, incarnation.0);
    let names = |ids: Vec<Id>| ids.into_iter().map(name).collect::<Vec<_>>().join(" ");
    match action {
        Action::Spawn(id) => format!("spawn {}", name(id)),
        Action::Switch { attach, retire } if retire.is_empty() => {
            format!("attach {}", names(attach))
        }
        Action::Switch { attach, retire } if attach.is_empty() => {
            format!("retire {}", names(retire))
        }
        Action::Switch { attach, retire } => {
            format!("attach {} retire {}", names(attach), names(retire))
        }
        Action::DumpStacks(id) => format!("dump {}", name(id)),
        Action::Reloaded { generation, error: None } => format!("generation {generation} serves"),
        Action::Reloaded { generation, .. } => format!("generation {generation} failed"),
        Action::Recycle { id, cause } => format!("recycle {} {}", name(id), cause.name()),
        Action::Recycled { worker, error: None } => format!("recycled {}", worker.0),
        Action::Recycled { worker, .. } => format!("not recycled {}", worker.0),
        Action::SendStop(id) => format!("stop {}", name(id)),
        Action::Kill(id) => format!("kill {}", name(id)),
        Action::Report { id, error, next } => {
            let what = match error {
                WorkerError::Application { .. } => "application",
                WorkerError::Exited(_) => "exited",
                WorkerError::StartTimeout(_) => "late",
                WorkerError::Changed => "changed",
                WorkerError::Spawn(_) => "spawn",
                WorkerError::Stuck(_) => "stuck",
                WorkerError::Channel(_) | WorkerError::Routes(_) | WorkerError::Lane(_) => "faulty",
            };
            let next = match next {
                Next::Respawn(delay) => format!("respawn {}", delay.as_millis()),
                Next::Retry(delay) => format!("retry {}", delay.as_millis()),
                Next::Succeeded => "succeeded".to_owned(),
                Next::KeepOld => "keep old".to_owned(),
                Next::AwaitReload => "await reload".to_owned(),
                Next::GiveUp => "give up".to_owned(),
                Next::Nothing => "nothing".to_owned(),
            };
            format!("report {} {what}: {next}", name(id))
        }
        Action::DrainShards(time) => format!("drain {}", time.as_secs()),
        Action::Finish(outcome) => format!("finish {outcome:?}"),
    }
}

const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// What it shows, how many places, and the script.
type Case<'a> = (&'a str, u16, &'a [(Do, &'a [&'a str])]);

const CASES: &[Case<'static>] = &[
    (
        "workers get ready, are drained and stopped in that order",
        2,
        &[
            (Ready(0, 1), &["attach 0.1"]),
            (Ready(1, 1), &["attach 1.1"]),
            (Stop, &["drain 25"]),
            (Drained, &["stop 0.1", "stop 1.1"]),
            (Exit(1, 1), &[]),
            (Exit(0, 1), &["finish Stopped"]),
        ],
    ),
    (
        "an application that cannot be imported ends the server, reported once",
        2,
        &[
            (Fail(1, 1), &["report 1.1 application: give up", "drain 0", "stop 0.1"]),
            (Fail(0, 1), &[]),
            (Exit(0, 1), &[]),
            (Exit(1, 1), &[]),
            (Drained, &["finish Failed"]),
        ],
    ),
    (
        "so does a worker that just ends, or hangs, before any was ready",
        1,
        &[(Exit(0, 1), &["report 0.1 exited: give up", "drain 0"]), (Drained, &["finish Failed"])],
    ),
    (
        "",
        1,
        &[
            (After(s(119)), &[]),
            (After(s(1)), &["kill 0.1", "report 0.1 late: give up", "drain 0"]),
            (Drained, &[]),
            (Exit(0, 1), &["finish Failed"]),
        ],
    ),
    (
        "",
        1,
        &[
            (SpawnFailed(0, 1), &["report 0.1 spawn: give up", "drain 0"]),
            (Drained, &["finish Failed"]),
        ],
    ),
    (
        "a worker that crashes is replaced, the others go on",
        2,
        &[
            (Ready(0, 1), &["attach 0.1"]),
            (Ready(1, 1), &["attach 1.1"]),
            (After(s(20)), &[]),
            (Exit(0, 1), &["report 0.1 exited: respawn 50"]),
            (After(ms(49)), &[]),
            (After(ms(1)), &["spawn 0.2"]),
            (Ready(0, 2), &["attach 0.2"]),
        ],
    ),
    (
        "a respawn that cannot import is reported and tried again; a place is refilled only after its exit",
        2,
        &[
            (Ready(0, 1), &["attach 0.1"]),
            (Fail(1, 1), &["report 1.1 application: respawn 50"]),
            (After(s(1)), &[]),
            (Exit(1, 1), &[]),
            (After(ms(50)), &["spawn 1.2"]),
            (Fail(1, 2), &["report 1.2 application: respawn 100"]),
            (After(s(5)), &["kill 1.2"]),
            (Exit(1, 2), &[]),
            (After(ms(100)), &["spawn 1.3"]),
        ],
    ),
    (
        "a respawn that announces other routes is refused",
        2,
        &[
            (Ready(0, 1), &["attach 0.1"]),
            (ReadyWithOtherRoutes(1, 1), &["kill 1.1", "report 1.1 changed: respawn 50"]),
            (Exit(1, 1), &[]),
            (After(ms(50)), &["spawn 1.2"]),
        ],
    ),
    (
        "a faulty worker is killed; its late messages and those of its predecessor count for nothing",
        1,
        &[
            (Ready(0, 1), &["attach 0.1"]),
            (Faulty(0, 1), &["kill 0.1", "report 0.1 faulty: respawn 50"]),
            (Faulty(0, 1), &[]),
            (Ready(0, 1), &[]),
            (Exit(0, 1), &[]),
            (After(s(1)), &["spawn 0.2"]),
            (Exit(0, 1), &[]),
            (Fail(0, 1), &[]),
            (Ready(0, 2), &["attach 0.2"]),
            (Ready(0, 2), &["kill 0.2", "report 0.2 faulty: respawn 100"]),
        ],
    ),
    (
        "a starting worker is stopped at once, a place that waits is not filled",
        3,
        &[
            (Ready(0, 1), &["attach 0.1"]),
            (Exit(1, 1), &["report 1.1 exited: respawn 50"]),
            (Stop, &["drain 25", "stop 2.1"]),
            (After(s(5)), &["kill 2.1"]),
            (Exit(2, 1), &[]),
            (Drained, &["stop 0.1"]),
            (Exit(0, 1), &["finish Stopped"]),
        ],
    ),
    (
        "shards and workers that do not end are not waited for longer than promised",
        1,
        &[
            (Ready(0, 1), &["attach 0.1"]),
            (Stop, &["drain 25"]),
            (After(s(27)), &["stop 0.1"]),
            (After(s(3)), &["kill 0.1"]),
            (Stop, &[]),
            (Exit(0, 1), &["finish Stopped"]),
        ],
    ),
    (
        "a worker that dies while the shards drain is not replaced",
        1,
        &[
            (Ready(0, 1), &["attach 0.1"]),
            (Stop, &["drain 25"]),
            (Exit(0, 1), &["report 0.1 exited: nothing"]),
            (Drained, &["finish Stopped"]),
        ],
    ),
    (
        "a second signal kills, and waits for the reaper only briefly",
        2,
        &[
            (Ready(0, 1), &["attach 0.1"]),
            (Stop, &["drain 25", "stop 1.1"]),
            (Interrupt, &["kill 0.1", "kill 1.1"]),
            (Exit(0, 1), &[]),
            (After(s(2)), &["finish Interrupted(2)"]),
        ],
    ),
    (
        "a shard that fails while the server stops is a failure",
        1,
        &[
            (Ready(0, 1), &["attach 0.1"]),
            (Stop, &["drain 25"]),
            (ShardFailed, &[]),
            (Drained, &["stop 0.1"]),
            (Exit(0, 1), &["finish Failed"]),
        ],
    ),
    (
        "a shard that cannot go on takes the server down in order",
        1,
        &[
            (Ready(0, 1), &["attach 0.1"]),
            (ShardFailed, &["drain 25"]),
            (Drained, &["stop 0.1"]),
            (Exit(0, 1), &["finish Failed"]),
        ],
    ),
];

fn play(settings: Settings, cases: &[Case<'_>]) {
    for (name, workers, script) in cases {
        let mut world = World::with(settings, *workers);
        let spawns: Vec<_> = (0..*workers).map(|worker| format!("spawn {worker}.1")).collect();
        assert_eq!(world.actions(), spawns, "{name}");
        for (step, (input, expected)) in script.iter().enumerate() {
            world.apply(*input);
            assert_eq!(world.actions(), *expected, "{name}, step {step}: {input:?}");
        }
    }
}

#[test]
fn scripts() {
    play(Settings::default(), CASES);
}

#[test]
fn the_delay_doubles_up_to_its_bound_and_health_resets_it() {
    let mut world = World::new(1);
    let mut delays = Vec::new();
    for incarnation in 1..=10 {
        world.apply(Ready(0, incarnation));
        world.apply(Exit(0, incarnation));
        let until = world.pool.poll_timeout().unwrap();
        delays.push((until - world.now).as_millis());
        world.apply(After(until - world.now));
    }
    assert_eq!(delays, [50, 100, 200, 400, 800, 1600, 3200, 5000, 5000, 5000]);

    world.apply(Ready(0, 11));
    world.apply(After(s(10)));
    world.apply(Exit(0, 11));
    assert_eq!(world.pool.poll_timeout(), Some(world.now + ms(50)));
}

#[test]
fn counts_and_timeouts_follow_the_state() {
    let mut world = World::new(2);
    assert_eq!((world.pool.ready_count(), world.pool.is_serving()), (0, true));
    assert_eq!(world.pool.poll_timeout(), Some(world.now + s(120)));
    world.apply(Ready(0, 1));
    world.apply(Ready(1, 1));
    assert_eq!((world.pool.ready_count(), world.pool.poll_timeout()), (2, None));
    world.apply(Stop);
    assert_eq!((world.pool.ready_count(), world.pool.is_serving()), (2, false));
    world.apply(Interrupt);
    world.apply(Exit(0, 1));
    world.apply(Exit(1, 1));
    assert_eq!((world.pool.ready_count(), world.pool.poll_timeout()), (0, None));
}
