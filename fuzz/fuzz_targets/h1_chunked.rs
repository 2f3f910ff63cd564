//! Any bytes as a chunked body, whole and split.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| fasterapi::proto::fuzzing::h1_chunked(data));
