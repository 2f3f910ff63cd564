//! Both ends of a lane against their oracle.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fasterapi::ipc::fuzzing::lane_model(data));
