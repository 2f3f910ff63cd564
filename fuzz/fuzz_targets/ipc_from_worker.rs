//! A hostile worker's segment against the edge.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fasterapi::ipc::fuzzing::ipc_from_worker(data));
