//! Claims about base 64.

use proptest::prelude::*;

use super::{decode, encode};

#[test]
fn the_examples_of_rfc_4648_come_out() {
    for (plain, coded) in [
        ("", ""),
        ("f", "Zg=="),
        ("fo", "Zm8="),
        ("foo", "Zm9v"),
        ("foob", "Zm9vYg=="),
        ("foobar", "Zm9vYmFy"),
    ] {
        assert_eq!(encode(plain.as_bytes()), coded);
        assert_eq!(decode(coded).unwrap(), plain.as_bytes());
    }
}

#[test]
fn what_is_not_base_64_is_refused() {
    for text in ["!!!", "Zg=", "Z===", "Zg==Zg==", "Zm9v\n", "Zm 9", "====", "é"] {
        assert_eq!(decode(text), None, "{text:?}");
    }
}

proptest! {
    #[test]
    fn decoding_undoes_encoding(data: Vec<u8>) {
        prop_assert_eq!(decode(&encode(&data)), Some(data));
    }
}
