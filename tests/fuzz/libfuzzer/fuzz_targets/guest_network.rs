//! libFuzzer front of `fuzz::guest_network`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz::guest_network(bytes));
