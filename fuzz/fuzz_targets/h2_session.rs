//! Any bytes as an HTTP/2 connection.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| fasterapi::proto::fuzzing::h2_session(data));
