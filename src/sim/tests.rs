//! The seeds that `make test` runs, the crash after every store, and proof that the checker can fail.

use std::collections::BTreeMap;

use super::{
    Summary,
    hostile::Lie,
    plan::{Profile, Sabotage},
    rng::Rng,
    run, run_seed,
};
use crate::ipc::layout::Geometry;

/// Runs these seeds and fails with the first that must not be, and how to repeat it.
fn run_seeds(seeds: impl Iterator<Item = u64>) -> Vec<Summary> {
    seeds
        .map(|seed| match run_seed(seed, false) {
            Ok(summary) => summary,
            Err(_) => {
                // Again, for the trace: it is the same run.
                let story = run_seed(seed, true).err().unwrap_or_else(|| "not again".into());
                panic!("seed {seed}: {story}\nrepeat: make sim SEED={seed} SEEDS=1");
            }
        })
        .collect()
}

macro_rules! seeds {
    ($($name:ident: $range:expr;)*) => {
        $(#[test]
        fn $name() {
            run_seeds($range);
        })*
    };
}

seeds! {
    seeds_from_0_hold: 0..200;
    seeds_from_200_hold: 200..400;
    seeds_from_400_hold: 400..600;
    seeds_from_600_hold: 600..800;
    seeds_from_800_hold: 800..1000;
}

#[test]
fn a_seed_is_one_run() {
    for seed in 0..20 {
        assert_eq!(run_seed(seed, false), run_seed(seed, true), "seed {seed}");
    }
}

/// A profile so small that the crash can be moved through all of it.
fn small(workers: usize) -> Profile {
    Profile { clients: 3, requests: 6, workers, recv_size: 4096, ..Profile::calm(&mut Rng::new(7)) }
}

/// The worker ends behind its first store, its second, and so on until the script is over without.
fn crash_everywhere(seed: u64, workers: usize) {
    for stores in 0.. {
        let profile = Profile { crash_after: Some(stores), ..small(workers) };
        let Ok(summary) = run(seed, &profile, false) else {
            let story = run(seed, &profile, true).err().unwrap_or_default();
            panic!("seed {seed}, {stores} stores: {story}");
        };
        if summary.tally.crashes == 0 {
            assert!(stores > 100, "a script of {stores} stores");
            return;
        }
    }
}

#[test]
fn a_worker_may_crash_after_any_store() {
    crash_everywhere(11, 1);
    crash_everywhere(12, 2);
}

#[test]
fn a_worker_may_crash_after_any_store_of_another_script() {
    crash_everywhere(13, 1);
    crash_everywhere(14, 2);
}

#[test]
fn no_lie_hurts_anybody_but_the_liar() {
    for lie in Lie::ALL {
        let mut told = 0;
        for seed in 0..4 {
            let mut profile = Profile::calm(&mut Rng::new(seed));
            profile.geometry = Geometry::new(256 * 1024, 64 * 1024, 5).unwrap();
            (profile.lies, profile.lie) = (500, Some(lie));
            (profile.clients, profile.requests, profile.workers) = (4, 4, 2);
            let Ok(summary) = run(seed, &profile, false) else {
                let story = run(seed, &profile, true).err().unwrap_or_default();
                panic!("{lie:?}, seed {seed}: {story}");
            };
            told += summary.tally.lies;
        }
        assert!(told > 0, "{lie:?} was never told");
    }
}

/// What the checker says when this is broken on purpose.
fn noticed(sabotage: Sabotage) -> BTreeMap<String, u32> {
    let mut found = BTreeMap::new();
    for seed in 0..30 {
        let mut profile = Profile::calm(&mut Rng::new(seed));
        profile.sabotage = Some(sabotage);
        (profile.clients, profile.big_bodies) = (4, true);
        // Nothing is withdrawn but what a client has left.
        profile.rudeness = if sabotage == Sabotage::IgnoreMark { 600 } else { 0 };
        if let Err(what) = run(seed, &profile, false) {
            let what = what.lines().next().unwrap_or_default();
            // Numbers aside.
            let what: String = what.chars().filter(|c| !c.is_ascii_digit()).collect();
            *found.entry(what).or_default() += 1;
        }
    }
    found
}

#[test]
fn the_checker_notices_what_is_broken_on_purpose() {
    let expected = [
        (Sabotage::SwapAnswers, "was answered with tag"),
        (Sabotage::SwapBytes, "that are not of the answer"),
        (Sabotage::LoseByte, "half of an answer"),
        (Sabotage::RepeatByte, "a client reads"),
        (Sabotage::LoseCompletion, "no end after"),
        (Sabotage::KeepLease, "receive buffers are kept"),
        (Sabotage::KeepChunk, "never came back"),
        (Sabotage::KeepCredit, "no end after"),
        (Sabotage::InventCredit, "an honest worker is reported"),
        (Sabotage::LoseKick, "was not kicked"),
        (Sabotage::HideRecord, "asleep beside"),
        (Sabotage::RepeatRequest, "was with"),
        (Sabotage::IgnoreMark, "does not hold together"),
    ];
    for (sabotage, words) in expected {
        let found = noticed(sabotage);
        assert!(found.keys().any(|what| what.contains(words)), "{sabotage:?}: {found:?}");
    }
}

/// For `make sim`: `SEEDS` seeds from `SEED` on, on every CPU; one without them.
#[test]
#[expect(clippy::disallowed_methods, reason = "the test is told by the environment what to do")]
fn seeds_of_the_environment_hold() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let (first, count) = (number("SIM_SEED").unwrap_or(0), number("SIM_SEEDS").unwrap_or(1));
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
    let threads = number("SIM_THREADS").unwrap_or(threads);
    let failures: BTreeMap<u64, String> = std::thread::scope(|scope| {
        let spawned: Vec<_> = (0..threads)
            .map(|thread| {
                let seeds = (first..first + count).skip(usize::try_from(thread).unwrap());
                let seeds = seeds.step_by(usize::try_from(threads).unwrap());
                scope.spawn(|| {
                    seeds
                        .filter_map(|seed| Some((seed, run_seed(seed, false).err()?)))
                        .take(100)
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        spawned.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    if let Some((seed, _)) = failures.first_key_value() {
        let list: String = failures
            .iter()
            .take(20)
            .map(|(seed, what)| {
                format!("seed {seed}: {:.160}\n", what.lines().next().unwrap_or(""))
            })
            .collect();
        let story = run_seed(*seed, true).err().unwrap_or_else(|| "not again".into());
        panic!(
            "{} of {count}\n{list}\nseed {seed}: {story}\nrepeat: make sim SEED={seed} SEEDS=1",
            failures.len()
        );
    }
}
