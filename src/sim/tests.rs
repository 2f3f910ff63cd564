//! The seeds that `make test` runs, the crash after every store, and proof that the checker can fail.

use std::collections::BTreeMap;

use super::{Summary, run_seed};

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
    seeds_0_to_249_hold: 0..250;
    seeds_250_to_499_hold: 250..500;
    seeds_500_to_749_hold: 500..750;
    seeds_750_to_999_hold: 750..1000;
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
            .map(|(seed, what)| format!("seed {seed}: {:.160}\n", what.lines().next().unwrap_or("")))
            .collect();
        let story = run_seed(*seed, true).err().unwrap_or_else(|| "not again".into());
        panic!("{} of {count}\n{list}\nseed {seed}: {story}\nrepeat: make sim SEED={seed} SEEDS=1", failures.len());
    }
}
