//! libFuzzer front of `fuzz::vmdk_sparse`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz::vmdk_sparse(bytes));
