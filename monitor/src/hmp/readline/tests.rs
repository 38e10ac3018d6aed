//! The bytes QEMU 10.0.2 echoes for the same keys, from the oracle's `hmp-behaviour.txt`.

use proptest::prelude::*;

use super::*;

fn typed(editor: &mut LineEditor, keys: &[u8]) -> String {
    for key in keys {
        let _ = editor.feed(*key);
    }
    String::from_utf8(editor.take_output()).unwrap()
}

fn editor() -> LineEditor {
    let mut e = LineEditor::new("(qemu) ");
    e.show_prompt();
    e.take_output();
    e
}

#[test]
fn every_character_redraws_the_line() {
    assert_eq!(typed(&mut editor(), b"inf"), "i\x1b[K\x1b[Din\x1b[K\x1b[D\x1b[Dinf\x1b[K");
}

#[test]
fn deleting_in_the_middle_redraws_and_steps_back() {
    let mut e = editor();
    typed(&mut e, b"info xstatus");
    let left = "\x1b[D".repeat(6);
    assert_eq!(
        typed(&mut e, b"\x1b[D\x1b[D\x1b[D\x1b[D\x1b[D\x1b[D\x7f"),
        format!("{left}{left}info status\x1b[K{left}")
    );
    assert_eq!(e.feed(b'\n'), Key::Line("info status".into()));
    assert_eq!(e.take_output(), b"\r\n");
    e.show_prompt();
    e.take_output();
    assert_eq!(typed(&mut e, b"\x1b[A"), "info status\x1b[K");
}

#[test]
fn control_u_empties_and_control_l_clears() {
    let mut e = editor();
    typed(&mut e, b"foo bar\x17");
    assert_eq!(typed(&mut e, b"\x15"), "\x1b[D\x1b[D\x1b[D\x1b[D\x1b[K");
    assert_eq!(typed(&mut e, b"\x0c"), "\x1b[2J\x1b[1;1H(qemu) ");
}

#[test]
fn candidates_are_listed_in_columns() {
    let mut e = editor();
    typed(&mut e, b"qom-");
    let names = ["qom-set", "qom-get", "qom-list"].map(str::to_owned).to_vec();
    e.complete(names, 4);
    assert_eq!(
        String::from_utf8(e.take_output()).unwrap(),
        "\r\nqom-get   qom-list  qom-set   \r\n(qemu) qom-\x1b[K"
    );
}

#[test]
fn one_candidate_is_completed_with_a_blank() {
    let mut e = editor();
    typed(&mut e, b"qom-s");
    e.complete(vec!["qom-set".into()], 5);
    let left = "\x1b[D".repeat(5);
    assert_eq!(String::from_utf8(e.take_output()).unwrap(), format!("{left}qom-set \x1b[K"));
}

#[test]
fn the_history_holds_a_repeated_line_once() {
    let mut e = editor();
    for line in ["a\n", "b\n", "a\n", "\n"] {
        typed(&mut e, line.as_bytes());
    }
    assert_eq!(e.history().collect::<Vec<_>>(), ["b", "a"]);
}

proptest! {
    #[test]
    fn no_keys_break_the_editor(keys in proptest::collection::vec(any::<u8>(), 0..400)) {
        let mut e = editor();
        for key in keys {
            if let Key::Complete(text) = e.feed(key) {
                let typed = text.rsplit(' ').next().unwrap_or("").len();
                e.complete(vec!["alpha".into(), "alphabet".into()], typed.min(5));
            }
            prop_assert!(e.cursor <= e.line.len() && e.line.len() <= MAX_LINE);
        }
    }
}
