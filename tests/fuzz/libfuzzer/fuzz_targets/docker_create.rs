//! libFuzzer front of `fuzz::docker::create`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz::docker::create(bytes));
