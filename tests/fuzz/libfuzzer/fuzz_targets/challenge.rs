//! libFuzzer front of `fuzz::challenge`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz::challenge(bytes));
