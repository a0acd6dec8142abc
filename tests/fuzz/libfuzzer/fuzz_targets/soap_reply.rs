//! libFuzzer front of `fuzz::soap_reply`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz::soap_reply(bytes));
