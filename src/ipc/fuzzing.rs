//! Bodies that property tests, fuzz targets and Miri share.
//!
//! Invariant: any bytes are a valid input, work is bounded by their number, and a panic is a finding: either the
//! implementation left its oracle ([`ring_model()`], [`lane_model()`]) or a hostile worker reached the edge
//! ([`ipc_from_worker`]). Deliberately absent: threads (loom and the stress tests have them) and processes.
#![expect(clippy::unwrap_used, reason = "a panic is how a model reports")]

mod hostile;
mod lane_model;
mod ring_model;

/// Bytes of one encoded operation.
const OPERATION_SIZE: usize = 4;

/// Runs both rings of a lane against an oracle; four bytes an operation.
pub fn ring_model(data: &[u8]) {
    let operations: Vec<_> = operations(data).map(ring_model::Operation::decode).collect();
    ring_model::run(data.len() % 3, &operations);
}

/// Runs both ends of a lane against an oracle; four bytes an operation.
pub fn lane_model(data: &[u8]) {
    let operations: Vec<_> = operations(data).map(lane_model::Operation::decode).collect();
    lane_model::run(&operations);
}

/// Lets the edge meet a segment that consists of these bytes and changes under its hands.
pub fn ipc_from_worker(data: &[u8]) {
    hostile::run(data);
}

fn operations(data: &[u8]) -> impl Iterator<Item = [u8; OPERATION_SIZE]> {
    data.as_chunks().0.iter().copied()
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use proptest::prelude::*;

    use super::*;

    fn config() -> ProptestConfig {
        ProptestConfig {
            cases: if cfg!(miri) { 8 } else { 512 },
            failure_persistence: None,
            ..ProptestConfig::default()
        }
    }

    const OPERATIONS_MAX: usize = if cfg!(miri) { 40 } else { 300 };

    proptest! {
        #![proptest_config(config())]

        #[test]
        fn rings_do_what_their_oracle_says(
            geometry in 0_usize..3,
            operations in prop::collection::vec(
                any::<[u8; OPERATION_SIZE]>().prop_map(ring_model::Operation::decode),
                0..OPERATIONS_MAX,
            ),
        ) {
            ring_model::run(geometry, &operations);
        }

        #[test]
        fn lanes_do_what_their_oracle_says(
            operations in prop::collection::vec(
                any::<[u8; OPERATION_SIZE]>().prop_map(lane_model::Operation::decode),
                0..OPERATIONS_MAX,
            ),
        ) {
            lane_model::run(&operations);
        }

        #[test]
        fn a_hostile_segment_never_hurts_the_edge(
            data in prop::collection::vec(any::<u8>(), 0..2048),
        ) {
            ipc_from_worker(&data);
        }
    }

    fn replay(target: &str, body: fn(&[u8])) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
        let mut count = 0;
        for entry in fs::read_dir(folder).unwrap() {
            body(&fs::read(entry.unwrap().path()).unwrap());
            count += 1;
        }
        assert!(count >= 10, "{target} has a corpus of {count}");
    }

    #[test]
    fn the_corpus_of_ring_model_passes() {
        replay("ring_model", ring_model);
    }

    #[test]
    fn the_corpus_of_lane_model_passes() {
        replay("lane_model", lane_model);
    }

    #[test]
    fn the_corpus_of_ipc_from_worker_passes() {
        replay("ipc_from_worker", ipc_from_worker);
    }
}
