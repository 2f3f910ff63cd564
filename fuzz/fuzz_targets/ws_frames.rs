//! Any bytes as a WebSocket client's frames, whole and split.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| fasterapi::proto::fuzzing::ws_frames(data));
