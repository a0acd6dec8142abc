//! libFuzzer front of `fuzz::guest_rpc`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz::guest_rpc(bytes));
