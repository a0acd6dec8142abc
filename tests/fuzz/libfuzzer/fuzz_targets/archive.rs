//! libFuzzer front of `fuzz::archive::open`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz::archive::open(bytes));
