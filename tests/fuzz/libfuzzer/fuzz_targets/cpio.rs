//! libFuzzer front of `fuzz::cpio`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz::cpio(bytes));
