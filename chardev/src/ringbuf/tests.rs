//! Claims about the ring buffer.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::{DataFormat, RingBuf};
use crate::backend::Backend as _;

#[test]
fn the_size_must_be_a_power_of_two() {
    for size in [0, 3, 100, u64::MAX] {
        assert_eq!(
            RingBuf::new(size, "ringbuf").unwrap_err().desc(),
            "size of ringbuf chardev must be power of two"
        );
    }
}

#[test]
fn it_keeps_the_last_bytes_and_gives_each_once() {
    let ring = RingBuf::new(16, "ringbuf").unwrap();
    ring.write_text("abcdefghijklmnopqrstuvw", DataFormat::Utf8).unwrap();
    assert_eq!(ring.read_text(10, DataFormat::Utf8).unwrap(), "hijklmnopq");
    assert_eq!(ring.read_text(30, DataFormat::Utf8).unwrap(), "rstuvw");
    assert_eq!(ring.read_text(30, DataFormat::Utf8).unwrap(), "");
}

#[test]
fn texts_and_errors_are_those_of_qemu() {
    let ring = RingBuf::new(16, "ringbuf").unwrap();
    ring.write_text("//5hAA==", DataFormat::Base64).unwrap();
    assert_eq!(ring.read_text(10, DataFormat::Utf8).unwrap(), "\u{fffd}\u{fffd}a");
    let bad = ring.write_text("!!!", DataFormat::Base64).unwrap_err();
    assert_eq!(bad.desc(), "Base64 data contains invalid characters");
    for size in [0, -1] {
        let error = ring.read_text(size, DataFormat::Utf8).unwrap_err();
        assert_eq!(error.desc(), "size must be greater than zero");
    }
}

proptest! {
    #[test]
    fn it_behaves_as_a_bounded_queue(chunks: Vec<(Vec<u8>, u8)>) {
        let ring = RingBuf::new(8, "ringbuf").unwrap();
        let mut model = VecDeque::new();
        for (chunk, read) in chunks {
            ring.write(&chunk, usize::MAX);
            model.extend(chunk);
            while model.len() > 8 { model.pop_front(); }
            let size = i64::from(read % 12) + 1;
            let expected: Vec<u8> = model.drain(..model.len().min(size as usize)).collect();
            prop_assert_eq!(ring.read_text(size, DataFormat::Base64).unwrap(), qapi::base64::encode(&expected));
        }
    }
}
