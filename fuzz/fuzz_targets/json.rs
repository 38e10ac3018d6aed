//! See [`pliant_fuzz::json`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| pliant_fuzz::json::run(data));
