//! Archives as their reader sees them: header fields, padding, folders that come by themselves.

use super::*;

#[test]
fn folders_come_before_what_is_in_them_and_once() {
    let mut archive = Archive::new();
    archive.file("a/b/c", 0o755, b"12345");
    archive.link("a/b/d", "c");
    archive.character_device("dev/console", 5, 1);
    assert!(archive.has("/a/b") && !archive.has("b"));
    let bytes = archive.finish();
    assert_eq!(bytes.len() % 512, 0);
    let mut names = Vec::new();
    let mut at = 0;
    loop {
        let field = |n: usize| {
            let text = std::str::from_utf8(&bytes[at + 6 + 8 * n..at + 14 + 8 * n]).unwrap();
            u32::from_str_radix(text, 16).unwrap() as usize
        };
        assert_eq!(&bytes[at..at + 6], b"070701");
        let name = String::from_utf8_lossy(&bytes[at + 110..at + 110 + field(11) - 1]).into_owned();
        let data = (at + 110 + field(11)).next_multiple_of(4);
        if name == "TRAILER!!!" {
            break;
        }
        match name.as_str() {
            "a/b/c" => assert_eq!((field(1), &bytes[data..data + 5]), (0o100_755, &b"12345"[..])),
            "a/b/d" => assert_eq!((field(1), &bytes[data..data + 1]), (0o120_777, &b"c"[..])),
            "dev/console" => assert_eq!((field(1), field(9), field(10)), (0o020_600, 5, 1)),
            _ => assert_eq!(field(1), 0o040_755, "{name}"),
        }
        names.push(name);
        at = (data + field(6)).next_multiple_of(4);
    }
    assert_eq!(names, ["a", "a/b", "a/b/c", "a/b/d", "dev", "dev/console"]);
}
