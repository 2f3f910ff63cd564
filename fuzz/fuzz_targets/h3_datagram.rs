//! Any bytes on the streams, and as the datagrams, of an HTTP/3 connection.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| fasterapi::proto::fuzzing::h3_datagram(data));
