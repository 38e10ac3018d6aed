//! Texts and bytes of UUIDs.

use super::*;

const TEXT: &str = "324e6eaf-d1d1-4bf6-bf41-b9bb6c91fb87";

#[test]
fn a_text_is_its_bytes_in_order() {
    let uuid = parse(&TEXT.to_uppercase()).unwrap();
    assert_eq!(uuid[..6], [0x32, 0x4e, 0x6e, 0xaf, 0xd1, 0xd1]);
    assert_eq!(text(&uuid), TEXT);
    assert_eq!(mixed_endian(uuid)[..8], [0xaf, 0x6e, 0x4e, 0x32, 0xd1, 0xd1, 0xf6, 0x4b]);
    assert_eq!(mixed_endian(uuid)[8..], uuid[8..]);
    assert_eq!(text(&[0; 16]), "00000000-0000-0000-0000-000000000000");
}

#[test]
fn nothing_else_is_one() {
    let bare = TEXT.replace('-', "");
    let braces = format!("{{{TEXT}}}");
    let letter = TEXT.replace('3', "g");
    let accent = "324e6eaf-d1d1-4bf6-bf41-b9bb6c91fb\u{e9}";
    let sign = TEXT.replacen('3', "+", 1);
    for bad in ["", "auto", &TEXT[1..], &bare, &braces, &letter, accent, &sign] {
        assert_eq!(parse(bad), None, "{bad}");
    }
}

#[test]
fn random_ones_say_so_and_differ() {
    let (a, b) = (random().unwrap(), random().unwrap());
    assert_ne!(a, b);
    for uuid in [a, b] {
        assert_eq!((uuid[6] >> 4, uuid[8] >> 6), (4, 2));
    }
}
