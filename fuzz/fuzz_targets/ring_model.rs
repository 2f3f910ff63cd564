//! The rings against their oracle.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fasterapi::ipc::fuzzing::ring_model(data));
