//! Numbers and options.

use super::*;

#[test]
fn numbers_are_read_as_people_write_them() {
    for (text, number) in [
        ("0", 0),
        ("512M", 512 << 20),
        ("1g", 1 << 30),
        ("2T", 2 << 40),
        ("0xfee00000", 0xfee0_0000),
        ("4k", 4096),
    ] {
        assert_eq!(parse_number(text), Some(number), "{text}");
    }
    for text in ["", "k", "0x", "-1", "+1", "1.5G", "12 ", "99999999999999999999", "16777216T", "é"] {
        assert_eq!(parse_number(text), None, "{text}");
    }
}

#[test]
fn the_last_option_counts() {
    assert_eq!(option("touch=none touch=all", "touch"), Some("all"));
    assert_eq!(option("touchy=none atouch=x", "touch"), None);
    assert_eq!(option("touch=", "touch"), Some(""));
}
