//! libFuzzer front of `fuzz::link_frame`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz::link_frame(bytes));
