//! See `checks::tar_reader`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| thinfs_fuzz::checks::tar_reader::run(data));
