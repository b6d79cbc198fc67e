#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| release_core::fuzzing::ring(data));
