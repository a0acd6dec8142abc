//! libFuzzer front of `fuzz::dhcp`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz::dhcp(bytes));
