//! Any bytes as requests, whole and split.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| fasterapi::proto::fuzzing::h1_head(data));
