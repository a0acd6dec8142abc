//! libFuzzer front of `fuzz::accounts`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz::accounts(bytes));
