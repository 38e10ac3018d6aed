//! See [`pliant_fuzz::hmp`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| pliant_fuzz::hmp::run(data));
