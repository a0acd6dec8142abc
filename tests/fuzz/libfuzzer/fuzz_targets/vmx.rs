//! libFuzzer front of `fuzz::vmx`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz::vmx(bytes));
