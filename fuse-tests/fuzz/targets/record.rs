//! See `checks::record`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| thinfs_fuzz::checks::record::run(data));
