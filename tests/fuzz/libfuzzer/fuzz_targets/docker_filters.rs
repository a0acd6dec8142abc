//! libFuzzer front of `fuzz::docker::filters`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz::docker::filters(bytes));
