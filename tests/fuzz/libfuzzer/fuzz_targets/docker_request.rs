//! libFuzzer front of `fuzz::docker::request`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz::docker::request(bytes));
