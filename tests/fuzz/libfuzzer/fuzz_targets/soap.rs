//! libFuzzer front of `fuzz::soap`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz::soap(bytes));
