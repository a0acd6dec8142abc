//! libFuzzer front of `fuzz::iso_image`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz::iso_image(bytes));
