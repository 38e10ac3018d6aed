//! See [`pliant_fuzz::migration`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| pliant_fuzz::migration::run(data));
