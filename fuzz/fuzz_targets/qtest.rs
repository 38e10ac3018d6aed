//! See [`pliant_fuzz::qtest`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| pliant_fuzz::qtest::run(data));
