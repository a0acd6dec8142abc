//! libFuzzer front of `fuzz::vmdk_descriptor`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz::vmdk_descriptor(bytes));
