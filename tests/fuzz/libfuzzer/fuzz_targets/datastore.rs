//! libFuzzer front of `fuzz::datastore`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz::datastore(bytes));
