//! See [`pliant_fuzz::options`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| pliant_fuzz::options::run(data));
