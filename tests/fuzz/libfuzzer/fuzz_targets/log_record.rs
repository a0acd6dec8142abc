//! libFuzzer front of `fuzz::log_record`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz::log_record(bytes));
