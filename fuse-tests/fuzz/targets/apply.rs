//! See `checks::apply`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| thinfs_fuzz::checks::apply::run(data));
