//! Recycling, reloading and scaling, as scripts; and what a stuck worker gets.

use super::{Do::*, *};

const RECYCLING: &[Case<'static>] = &[
    (
        "a worker is replaced by a successor that serves before the old one retires",
        2,
        &[
            (Ready(0, 1), &["attach 0.1"]),
            (Ready(1, 1), &["attach 1.1"]),
            (Drain(0), &["recycle 0.1 drain", "spawn 0.2"]),
            (Drain(0), &[]),
            (Ready(0, 2), &["attach 0.2 retire 0.1"]),
            (Retired(0, 1), &["stop 0.1"]),
            (Exit(0, 1), &["recycled 0"]),
        ],
    ),
    (
        "places recycle one after the other, the next one when the last process is gone",
        2,
        &[
            (Ready(0, 1), &["attach 0.1"]),
            (Ready(1, 1), &["attach 1.1"]),
            (Drain(1), &["recycle 1.1 drain", "spawn 1.2"]),
            (Drain(0), &[]),
            (Ready(1, 2), &["attach 1.2 retire 1.1"]),
            (Retired(1, 1), &["stop 1.1"]),
            (Exit(1, 1), &["recycled 1", "recycle 0.1 drain", "spawn 0.2"]),
        ],
    ),
    (
        "one that does not finish is stopped, then killed, in bounded time",
        1,
        &[
            (Ready(0, 1), &["attach 0.1"]),
            (Drain(0), &["recycle 0.1 drain", "spawn 0.2"]),
            (Ready(0, 2), &["attach 0.2 retire 0.1"]),
            (After(s(24)), &[]),
            (After(s(1)), &["stop 0.1"]),
            (Retired(0, 1), &[]),
            (After(s(5)), &["kill 0.1"]),
            (Exit(0, 1), &["recycled 0"]),
        ],
    ),
    (
        "a successor that fails leaves the old one in service, and is tried again with growing pauses",
        1,
        &[
            (Ready(0, 1), &["attach 0.1"]),
            (Drain(0), &["recycle 0.1 drain", "spawn 0.2"]),
            (Fail(0, 2), &["report 0.2 application: retry 50", "not recycled 0"]),
            (Exit(0, 2), &[]),
            (After(ms(50)), &["recycle 0.1 drain", "spawn 0.3"]),
            (Exit(0, 3), &["report 0.3 exited: retry 100", "not recycled 0"]),
            (After(ms(100)), &["recycle 0.1 drain", "spawn 0.4"]),
            (After(s(120)), &["kill 0.4", "report 0.4 late: retry 200", "not recycled 0"]),
            (Exit(0, 4), &[]),
            (After(ms(200)), &["recycle 0.1 drain", "spawn 0.5"]),
            (
                ReadyWithOtherRoutes(0, 5),
                &["kill 0.5", "report 0.5 changed: retry 400", "not recycled 0"],
            ),
            (Exit(0, 5), &[]),
            (After(ms(400)), &["recycle 0.1 drain", "spawn 0.6"]),
            (SpawnFailed(0, 6), &["report 0.6 spawn: retry 800", "not recycled 0"]),
            (After(ms(800)), &["recycle 0.1 drain", "spawn 0.7"]),
            (Ready(0, 7), &["attach 0.7 retire 0.1"]),
            (Retired(0, 1), &["stop 0.1"]),
            (Exit(0, 1), &["recycled 0"]),
        ],
    ),
    (
        "a worker that dies while its successor starts is succeeded at once",
        1,
        &[
            (Ready(0, 1), &["attach 0.1"]),
            (Drain(0), &["recycle 0.1 drain", "spawn 0.2"]),
            (Exit(0, 1), &["report 0.1 exited: succeeded", "recycled 0"]),
            (Ready(0, 2), &["attach 0.2"]),
            (Exit(0, 2), &["report 0.2 exited: respawn 100"]),
            (After(ms(100)), &["spawn 0.3"]),
        ],
    ),
    (
        "so is one that turns out faulty",
        1,
        &[
            (Ready(0, 1), &["attach 0.1"]),
            (Drain(0), &["recycle 0.1 drain", "spawn 0.2"]),
            (Faulty(0, 1), &["kill 0.1", "report 0.1 faulty: succeeded"]),
            (Fail(0, 2), &["report 0.2 application: respawn 100"]),
            (Exit(0, 1), &["recycled 0"]),
            (Exit(0, 2), &[]),
            (After(ms(100)), &["spawn 0.3"]),
        ],
    ),
    (
        "a worker that dies while it retires is missed by nobody",
        1,
        &[
            (Ready(0, 1), &["attach 0.1"]),
            (Drain(0), &["recycle 0.1 drain", "spawn 0.2"]),
            (Ready(0, 2), &["attach 0.2 retire 0.1"]),
            (Exit(0, 1), &["report 0.1 exited: nothing", "recycled 0"]),
            (After(s(60)), &[]),
        ],
    ),
    (
        "a pool that stops recycles nobody any more, and waits for all",
        1,
        &[
            (Ready(0, 1), &["attach 0.1"]),
            (Drain(0), &["recycle 0.1 drain", "spawn 0.2"]),
            (Stop, &["drain 25", "stop 0.2"]),
            (Drained, &["stop 0.1"]),
            (Exit(0, 1), &[]),
            (Exit(0, 2), &["finish Stopped"]),
        ],
    ),
    (
        "one that retires when the pool stops is stopped with the others",
        1,
        &[
            (Ready(0, 1), &["attach 0.1"]),
            (Drain(0), &["recycle 0.1 drain", "spawn 0.2"]),
            (Ready(0, 2), &["attach 0.2 retire 0.1"]),
            (Stop, &["drain 25"]),
            (Drained, &["stop 0.1", "stop 0.2"]),
            (Exit(0, 1), &[]),
            (Exit(0, 2), &["finish Stopped"]),
        ],
    ),
];

const RELOADING: &[Case<'static>] = &[
    (
        "a new generation takes over at one stroke once all of it is ready",
        2,
        &[
            (Ready(0, 1), &["attach 0.1"]),
            (Ready(1, 1), &["attach 1.1"]),
            (Reload, &["spawn 0.2", "spawn 1.2"]),
            (ReadyWithOtherRoutes(1, 2), &[]),
            (After(s(60)), &[]),
            (ReadyWithOtherRoutes(0, 2), &["attach 0.2 1.2 retire 0.1 1.1", "generation 2 serves"]),
            (Retired(1, 1), &["stop 1.1"]),
            (Retired(0, 1), &["stop 0.1"]),
            (Exit(0, 1), &[]),
            (Exit(1, 1), &[]),
            (Exit(0, 2), &["report 0.2 exited: respawn 50"]),
            (After(ms(50)), &["spawn 0.3"]),
            (ReadyWithOtherRoutes(0, 3), &["attach 0.3"]),
            (Exit(1, 2), &["report 1.2 exited: respawn 50"]),
            (After(ms(50)), &["spawn 1.3"]),
            (Ready(1, 3), &["kill 1.3", "report 1.3 changed: respawn 100"]),
        ],
    ),
    (
        "one of it that cannot start ends all of it; the old generation goes on",
        2,
        &[
            (Ready(0, 1), &["attach 0.1"]),
            (Ready(1, 1), &["attach 1.1"]),
            (Reload, &["spawn 0.2", "spawn 1.2"]),
            (Ready(1, 2), &[]),
            (Fail(0, 2), &["report 0.2 application: keep old", "stop 1.2", "generation 2 failed"]),
            (Exit(0, 2), &[]),
            (After(s(5)), &["kill 1.2"]),
            (Exit(1, 2), &[]),
            (Exit(0, 1), &["report 0.1 exited: respawn 50"]),
            (After(ms(50)), &["spawn 0.3"]),
            (Ready(0, 3), &["attach 0.3"]),
        ],
    ),
    (
        "so does one that is late, or ends, or announces other routes than its siblings",
        1,
        &[
            (Ready(0, 1), &["attach 0.1"]),
            (Reload, &["spawn 0.2"]),
            (After(s(120)), &["kill 0.2", "report 0.2 late: keep old", "generation 2 failed"]),
            (Exit(0, 2), &[]),
            (Reload, &["spawn 0.3"]),
            (Exit(0, 3), &["report 0.3 exited: keep old", "generation 3 failed"]),
        ],
    ),
    (
        "",
        2,
        &[
            (Ready(0, 1), &["attach 0.1"]),
            (Ready(1, 1), &["attach 1.1"]),
            (Reload, &["spawn 0.2", "spawn 1.2"]),
            (Ready(0, 2), &[]),
            (
                ReadyWithOtherRoutes(1, 2),
                &["kill 1.2", "report 1.2 changed: keep old", "stop 0.2", "generation 2 failed"],
            ),
        ],
    ),
    (
        "one that is ready and then dies before the others are ready",
        2,
        &[
            (Ready(0, 1), &["attach 0.1"]),
            (Ready(1, 1), &["attach 1.1"]),
            (Reload, &["spawn 0.2", "spawn 1.2"]),
            (Ready(0, 2), &[]),
            (Exit(0, 2), &["report 0.2 exited: keep old", "stop 1.2", "generation 2 failed"]),
        ],
    ),
    (
        "a reload during a reload is one more, and waits until the old processes are gone",
        1,
        &[
            (Ready(0, 1), &["attach 0.1"]),
            (Reload, &["spawn 0.2"]),
            (Reload, &[]),
            (Reload, &[]),
            (Ready(0, 2), &["attach 0.2 retire 0.1", "generation 2 serves"]),
            (Retired(0, 1), &["stop 0.1"]),
            (Exit(0, 1), &["spawn 0.3"]),
            (Ready(0, 3), &["attach 0.3 retire 0.2", "generation 3 serves"]),
            (Retired(0, 2), &["stop 0.2"]),
            (Exit(0, 2), &[]),
        ],
    ),
    (
        "the old generation's dead are replaced while the new one starts, and leave with it",
        2,
        &[
            (Ready(0, 1), &["attach 0.1"]),
            (Ready(1, 1), &["attach 1.1"]),
            (Reload, &["spawn 0.2", "spawn 1.2"]),
            (Exit(0, 1), &["report 0.1 exited: respawn 50"]),
            (After(ms(50)), &["spawn 0.3"]),
            (Exit(1, 1), &["report 1.1 exited: respawn 50"]),
            (Ready(1, 2), &[]),
            (Ready(0, 2), &["stop 0.3", "attach 0.2 1.2", "generation 2 serves"]),
            (After(s(1)), &[]),
            (Exit(0, 3), &[]),
        ],
    ),
    (
        "a reload takes the place of a recycling that is under way",
        1,
        &[
            (Ready(0, 1), &["attach 0.1"]),
            (Drain(0), &["recycle 0.1 drain", "spawn 0.2"]),
            (Reload, &["stop 0.2", "spawn 0.3"]),
            (Exit(0, 2), &[]),
            (Ready(0, 3), &["attach 0.3 retire 0.1", "generation 2 serves"]),
            (After(s(0)), &["recycled 0"]),
        ],
    ),
    (
        "and if it fails, the recycling goes on",
        1,
        &[
            (Ready(0, 1), &["attach 0.1"]),
            (Drain(0), &["recycle 0.1 drain", "spawn 0.2"]),
            (Reload, &["stop 0.2", "spawn 0.3"]),
            (Exit(0, 2), &[]),
            (Fail(0, 3), &["report 0.3 application: keep old", "generation 2 failed"]),
            (Exit(0, 3), &["recycle 0.1 drain", "spawn 0.4"]),
        ],
    ),
    (
        "a pool that stops forgets the reload",
        1,
        &[
            (Ready(0, 1), &["attach 0.1"]),
            (Reload, &["spawn 0.2"]),
            (Stop, &["drain 25", "stop 0.2"]),
            (Fail(0, 2), &[]),
            (Exit(0, 2), &[]),
            (Drained, &["stop 0.1"]),
            (Exit(0, 1), &["finish Stopped"]),
        ],
    ),
    (
        "also one whose new generation stood by",
        2,
        &[
            (Ready(0, 1), &["attach 0.1"]),
            (Ready(1, 1), &["attach 1.1"]),
            (Reload, &["spawn 0.2", "spawn 1.2"]),
            (Ready(0, 2), &[]),
            (Stop, &["drain 25", "stop 0.2", "stop 1.2"]),
            (Ready(1, 2), &[]),
        ],
    ),
];

const SCALING: &[Case<'static>] = &[
    (
        "the places that do not serve are given up before those that do",
        3,
        &[
            (Ready(1, 1), &["attach 1.1"]),
            (Ready(2, 1), &["attach 2.1"]),
            (Scale(2), &["stop 0.1"]),
            (Exit(0, 1), &[]),
            (Scale(1), &["retire 2.1"]),
            (Scale(3), &["spawn 0.2", "spawn 2.2"]),
        ],
    ),
    (
        "more workers are started, fewer are retired from the last place on",
        1,
        &[
            (Ready(0, 1), &["attach 0.1"]),
            (Scale(3), &["spawn 1.1", "spawn 2.1"]),
            (Ready(1, 1), &["attach 1.1"]),
            (Ready(2, 1), &["attach 2.1"]),
            (Scale(1), &["retire 1.1 2.1"]),
            (Retired(2, 1), &["stop 2.1"]),
            (Exit(2, 1), &[]),
            (Exit(1, 1), &["report 1.1 exited: nothing"]),
            (After(s(60)), &[]),
            (Scale(2), &["spawn 1.2"]),
        ],
    ),
    (
        "a place that starts or waits is given up at once",
        3,
        &[
            (Ready(0, 1), &["attach 0.1"]),
            (Exit(1, 1), &["report 1.1 exited: respawn 50"]),
            (Scale(1), &["stop 2.1"]),
            (After(s(1)), &[]),
            (Exit(2, 1), &[]),
            (After(s(60)), &[]),
        ],
    ),
    (
        "a place may be taken up again while its last process leaves",
        2,
        &[
            (Ready(0, 1), &["attach 0.1"]),
            (Ready(1, 1), &["attach 1.1"]),
            (Scale(1), &["retire 1.1"]),
            (Scale(2), &["spawn 1.2"]),
            (Ready(1, 2), &["attach 1.2"]),
            (Retired(1, 1), &["stop 1.1"]),
            (Exit(1, 1), &[]),
            (Exit(1, 2), &["report 1.2 exited: respawn 50"]),
        ],
    ),
    (
        "fewer than one are one",
        2,
        &[
            (Ready(0, 1), &["attach 0.1"]),
            (Ready(1, 1), &["attach 1.1"]),
            (Scale(0), &["retire 1.1"]),
        ],
    ),
    (
        "a place that comes during a reload joins the new generation after it",
        1,
        &[
            (Ready(0, 1), &["attach 0.1"]),
            (Reload, &["spawn 0.2"]),
            (Scale(3), &["spawn 1.1", "spawn 2.1"]),
            (Ready(1, 1), &["attach 1.1"]),
            (Ready(0, 2), &["stop 2.1", "attach 0.2 retire 0.1 1.1", "generation 2 serves"]),
            (After(s(0)), &["spawn 1.2", "spawn 2.2"]),
        ],
    ),
    (
        "a place that goes during a reload is not waited for",
        2,
        &[
            (Ready(0, 1), &["attach 0.1"]),
            (Ready(1, 1), &["attach 1.1"]),
            (Reload, &["spawn 0.2", "spawn 1.2"]),
            (Ready(0, 2), &[]),
            (Scale(1), &["stop 1.2", "retire 1.1", "attach 0.2 retire 0.1", "generation 2 serves"]),
        ],
    ),
    (
        "a reload whose places all go goes on with those that are left",
        1,
        &[
            (Ready(0, 1), &["attach 0.1"]),
            (Reload, &["spawn 0.2"]),
            (Scale(2), &["spawn 1.1"]),
            (Ready(1, 1), &["attach 1.1"]),
            (Exit(0, 1), &["report 0.1 exited: respawn 50"]),
            (Scale(1), &["stop 0.2", "spawn 1.2"]),
            (Ready(1, 2), &["attach 1.2 retire 1.1", "generation 2 serves"]),
        ],
    ),
    (
        "a place that goes while it is recycled is told of",
        2,
        &[
            (Ready(0, 1), &["attach 0.1"]),
            (Ready(1, 1), &["attach 1.1"]),
            (Drain(1), &["recycle 1.1 drain", "spawn 1.2"]),
            (Scale(1), &["recycled 1", "stop 1.2", "retire 1.1"]),
            (Drain(0), &["recycle 0.1 drain", "spawn 0.2"]),
        ],
    ),
];

const STUCK: &[Case<'static>] = &[
    (
        "a stuck worker writes down its stacks, is killed and replaced",
        1,
        &[
            (Ready(0, 1), &["attach 0.1"]),
            (Stick(0, 1), &["dump 0.1", "report 0.1 stuck: respawn 50"]),
            (Stick(0, 1), &[]),
            (Retired(0, 1), &[]),
            (Ready(0, 1), &[]),
            (After(ms(499)), &[]),
            (After(ms(1)), &["kill 0.1"]),
            (Exit(0, 1), &[]),
            (After(ms(50)), &["spawn 0.2"]),
        ],
    ),
    (
        "also while it retires, while the pool stops, and if the signal ends it",
        1,
        &[
            (Ready(0, 1), &["attach 0.1"]),
            (Drain(0), &["recycle 0.1 drain", "spawn 0.2"]),
            (Ready(0, 2), &["attach 0.2 retire 0.1"]),
            (Stick(0, 1), &["dump 0.1", "report 0.1 stuck: nothing"]),
            (Exit(0, 1), &["recycled 0"]),
            (Stop, &["drain 25"]),
            (Stick(0, 2), &["dump 0.2", "report 0.2 stuck: nothing"]),
            (Drained, &[]),
            (After(ms(500)), &["kill 0.2"]),
            (Exit(0, 2), &["finish Stopped"]),
        ],
    ),
];

#[test]
fn recycling() {
    play(Settings::default(), RECYCLING);
}

#[test]
fn reloading() {
    play(Settings::default(), RELOADING);
}

#[test]
fn scaling() {
    play(Settings::default(), SCALING);
}

#[test]
fn stuck_workers() {
    play(Settings::default(), STUCK);
}

#[test]
fn a_patient_pool_waits_for_an_application_that_can_be_imported() {
    let patient = Settings { patient: true, ..Settings::default() };
    play(
        patient,
        &[(
            "",
            2,
            &[
                (
                    Fail(0, 1),
                    &["report 0.1 application: await reload", "stop 1.1", "generation 1 failed"],
                ),
                (Fail(1, 1), &[]),
                (Exit(0, 1), &[]),
                (After(s(3600)), &["kill 1.1"]),
                (Scale(3), &[]),
                (Reload, &[]),
                (Exit(1, 1), &["spawn 0.2", "spawn 1.2", "spawn 2.1"]),
                (Ready(0, 2), &[]),
                (Ready(1, 2), &[]),
                (Ready(2, 1), &["attach 0.2 1.2 2.1", "generation 2 serves"]),
                (Exit(0, 2), &["report 0.2 exited: respawn 50"]),
            ],
        )],
    );
    let mut world = World::with(patient, 1);
    assert_eq!(world.pool.generation(), 0);
    world.apply(Fail(0, 1));
    world.apply(Exit(0, 1));
    assert_eq!((world.pool.poll_timeout(), world.pool.is_serving()), (None, true));
}

#[test]
fn workers_that_served_enough_are_recycled() {
    let settings = Settings { requests_max: Some(100), ..Settings::default() };
    play(
        settings,
        &[(
            "",
            2,
            &[
                (Usage(0, 1, 1000, 0), &[]),
                (Ready(0, 1), &["attach 0.1"]),
                (Ready(1, 1), &["attach 1.1"]),
                (Usage(0, 1, 99, 1 << 40), &[]),
                (Usage(1, 1, 100, 0), &["recycle 1.1 max-requests", "spawn 1.2"]),
                (Usage(1, 1, 101, 0), &[]),
                (Usage(0, 1, 200, 0), &[]),
                (Ready(1, 2), &["attach 1.2 retire 1.1"]),
                (Usage(1, 1, 102, 0), &[]),
                (Retired(1, 1), &["stop 1.1"]),
                (Exit(1, 1), &["recycled 1", "recycle 0.1 max-requests", "spawn 0.2"]),
            ],
        )],
    );
    let memory = Settings { rss_max: Some(1 << 20), ..Settings::default() };
    play(
        memory,
        &[(
            "",
            1,
            &[
                (Ready(0, 1), &["attach 0.1"]),
                (Usage(0, 1, 1 << 40, 1 << 20), &[]),
                (Usage(0, 1, 0, (1 << 20) + 1), &["recycle 0.1 max-rss", "spawn 0.2"]),
            ],
        )],
    );
    assert!(Lifecycle::new(settings, 1, World::new(1).now).wants_usage());
    assert!(!World::new(1).pool.wants_usage());
}

#[test]
fn jitter_gives_every_worker_its_own_measure_within_bounds() {
    let jitter = Settings { requests_max: Some(100), requests_jitter: 50, ..Settings::default() };
    let limit = |worker: u16, seed| {
        let mut world = World::with(Settings { seed, ..jitter }, 64);
        (0..64).for_each(|worker| world.apply(Ready(worker, 1)));
        world.actions();
        let mut found = 0;
        while world.actions().is_empty() {
            found += 1;
            world.apply(Usage(worker, 1, found, 0));
        }
        found
    };
    let limits: Vec<u64> = (0..64).map(|worker| limit(worker, 1)).collect();
    assert!(limits.iter().all(|limit| (100..=150).contains(limit)), "{limits:?}");
    let mut distinct = limits.clone();
    distinct.sort_unstable();
    distinct.dedup();
    assert!(distinct.len() > 20, "{limits:?}");
    assert_ne!(limits, (0..64).map(|worker| limit(worker, 2)).collect::<Vec<u64>>());
}

#[test]
fn workers_that_served_long_enough_are_recycled_one_by_one() {
    let settings = Settings { lifetime_max: Some(s(1000)), seed: 7, ..Settings::default() };
    let mut world = World::with(settings, 2);
    world.apply(Ready(0, 1));
    world.apply(Ready(1, 1));
    world.actions();
    let first = world.pool.poll_timeout().unwrap() - world.now;
    assert!((s(900)..=s(1000)).contains(&first), "{first:?}");
    world.apply(After(first));
    let actions = world.actions();
    let place = if actions[0].starts_with("recycle 0.1 max-lifetime") { 0 } else { 1 };
    assert_eq!(actions, [format!("recycle {place}.1 max-lifetime"), format!("spawn {place}.2")]);
    // The other one comes due while this one is under way, and waits.
    world.apply(After(s(100)));
    assert!(world.actions().is_empty());
    world.apply(Ready(place, 2));
    world.apply(Exit(place, 1));
    assert_eq!(
        world.actions()[2..],
        [
            format!("recycled {place}"),
            format!("recycle {}.1 max-lifetime", 1 - place),
            format!("spawn {}.2", 1 - place)
        ]
    );
}

#[test]
fn restarts_are_counted_by_cause() {
    let settings = Settings { requests_max: Some(1), ..Settings::default() };
    let mut world = World::with(settings, 1);
    let script = [
        Ready(0, 1),
        Usage(0, 1, 1, 0),
        Ready(0, 2),
        Exit(0, 1),
        Exit(0, 2),
        After(s(1)),
        Fail(0, 3),
        Exit(0, 3),
        After(s(1)),
        After(s(120)),
        Exit(0, 4),
        After(s(1)),
        Ready(0, 5),
        Faulty(0, 5),
        Exit(0, 5),
        After(s(1)),
        Ready(0, 6),
        Stick(0, 6),
        Exit(0, 6),
        After(s(2)),
        Ready(0, 7),
        Reload,
        Ready(0, 8),
        Exit(0, 7),
        Drain(0),
        Ready(0, 9),
        Exit(0, 8),
        Scale(2),
        Scale(1),
    ];
    script.into_iter().for_each(|step| world.apply(step));
    let of = |place: usize| -> Vec<(&str, u64)> {
        let (_, _, restarts) = world.pool.restarts().nth(place).unwrap();
        restarts.iter().map(|(cause, count)| (cause.name(), count)).collect()
    };
    assert_eq!(
        of(0),
        [
            ("killed", 1),
            ("faulty", 1),
            ("stuck", 1),
            ("start-timeout", 1),
            ("startup-failed", 1),
            ("max-requests", 1),
            ("drain", 1),
            ("reload", 1)
        ]
    );
    assert_eq!(of(1), [("scale", 1)]);
    let wanted: Vec<bool> = world.pool.restarts().map(|(_, wanted, _)| wanted).collect();
    assert_eq!((wanted, world.pool.wanted_count()), (vec![true, false], 1));
}

#[test]
fn a_place_that_does_not_serve_is_not_drained() {
    let mut world = World::new(2);
    assert!(!world.pool.handle_drain(WorkerId(0), world.now));
    assert!(!world.pool.handle_drain(WorkerId(9), world.now));
    world.apply(Ready(0, 1));
    world.apply(Stop);
    assert!(!world.pool.handle_drain(WorkerId(0), world.now));
    assert_eq!(world.pool.handle_reload(world.now), None);
    assert!(!world.pool.handle_scale(3, world.now));
}

#[test]
fn the_time_to_stop_is_the_operators_choice() {
    for (time, drain, kill) in [(6, 5, 6), (0, 0, 2)] {
        let mut world = World::with(Settings { shutdown_max: s(time), ..Settings::default() }, 1);
        world.apply(Ready(0, 1));
        world.actions();
        world.apply(Stop);
        assert_eq!(world.actions(), [format!("drain {drain}")]);
        world.apply(Drained);
        assert_eq!(world.actions(), ["stop 0.1"]);
        assert_eq!(world.pool.poll_timeout(), Some(world.now + s(kill)));
    }
}
