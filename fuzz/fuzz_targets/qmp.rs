//! See [`pliant_fuzz::qmp`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| pliant_fuzz::qmp::run(data));
