//! The bytes QEMU 10.0.2 echoes for the same keys, from the oracle's `hmp-behaviour.txt`.

use proptest::prelude::*;

use super::model::Model;
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
    e.complete(names, 4, false);
    assert_eq!(
        String::from_utf8(e.take_output()).unwrap(),
        "\r\nqom-get   qom-list  qom-set   \r\n(qemu) qom-\x1b[K"
    );
}

#[test]
fn one_candidate_is_completed_with_a_blank() {
    let mut e = editor();
    typed(&mut e, b"qom-s");
    e.complete(vec!["qom-set".into()], 5, false);
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

#[test]
fn a_character_of_several_bytes_is_one_step_and_echoed_whole() {
    let mut e = editor();
    assert_eq!(typed(&mut e, "gr\u{fc}n".as_bytes()).matches("\u{fc}").count(), 2, "never half of it");
    typed(&mut e, b"\x1b[D\x1b[D\x7f\x7f");
    assert_eq!(e.line, "\u{fc}n".as_bytes());
    typed(&mut e, b"\x04");
    assert_eq!(e.line, b"n");
    // Wide characters take two steps of the terminal's cursor.
    typed(&mut e, "\x15\u{65e5}\u{672c}".as_bytes());
    assert_eq!(typed(&mut e, b"\x1b[D"), "\x1b[D\x1b[D");
}

#[test]
fn bytes_that_are_no_character_stand_for_themselves() {
    let mut e = editor();
    let _ = [b'a', 0xe2, 0x82, b'b', 0xff].map(|byte| e.feed(byte));
    assert_eq!(e.line, b"a\xe2\x82b\xff");
    assert_eq!(e.feed(b'\n'), Key::Line("a\u{fffd}b\u{fffd}".into()));
}

fn with_history(lines: &[&str]) -> LineEditor {
    let mut e = editor();
    for line in lines {
        typed(&mut e, format!("{line}\n").as_bytes());
        e.show_prompt();
    }
    e.take_output();
    e
}

#[test]
fn a_search_finds_older_lines_as_it_is_typed() {
    let mut e = with_history(&["info status", "info name", "stop"]);
    assert_eq!(typed(&mut e, b"x\x12"), "x\x1b[K\r(reverse-i-search)`': x\x1b[K");
    typed(&mut e, b"in");
    assert_eq!(e.search.as_ref().unwrap().line(&e.history), (&b"info name"[..], 0));
    typed(&mut e, b"\x12");
    assert_eq!(e.search.as_ref().unwrap().line(&e.history).0, b"info status");
    typed(&mut e, b"\x12");
    assert_eq!(e.search.as_ref().unwrap().prompt(), "(failed reverse-i-search)`in': ");
    typed(&mut e, b"\x13");
    assert_eq!(e.search.as_ref().unwrap().line(&e.history).0, b"info name");
    typed(&mut e, b"fo s");
    assert_eq!(e.search.as_ref().unwrap().line(&e.history), (&b"info status"[..], 0));
    assert_eq!(e.feed(b'\n'), Key::Line("info status".into()));
    let left = "\x1b[D".repeat(11);
    let shown = String::from_utf8(e.take_output()).unwrap();
    assert_eq!(shown, format!("\r(qemu) info status\x1b[K{left}\r\n"));
}

#[test]
fn a_search_is_given_up_or_its_line_edited() {
    let mut e = with_history(&["info status", "info name", "stop"]);
    typed(&mut e, b"mine\x12name");
    typed(&mut e, b"\x07");
    assert_eq!((e.line.as_slice(), e.cursor), (&b"mine"[..], 4));
    // Arrow keys edit what was found, and the history goes on from there.
    typed(&mut e, b"\x12name\x1b[D");
    assert_eq!((e.line.as_slice(), e.cursor), (&b"info name"[..], 4));
    typed(&mut e, b"\x1b[A");
    assert_eq!(e.line, b"info status");
    typed(&mut e, b"\x15\x12zzz\x7f\x7f\x7fstop\t");
    assert_eq!(e.line, b"stop");
}

fn on_terminal(columns: usize, lines: &[&str]) -> LineEditor {
    let history = History::new(lines.iter().map(|l| l.as_bytes().to_vec()).collect(), 1000);
    let hinter: Hinter = |line| (line == "help").then(|| " [cmd]".to_owned());
    let mut e = LineEditor::for_terminal("(qemu) ", columns, Palette::COLOURS, history, Some(hinter));
    e.show_prompt();
    e
}

#[test]
fn hints_stand_grey_behind_the_cursor_and_are_no_part_of_the_line() {
    let mut e = on_terminal(80, &["qom-get vm0 size"]);
    let shown = typed(&mut e, b"help");
    assert!(shown.starts_with("\x1b[1m(qemu) \x1b[0m"), "{shown:?}");
    assert!(shown.ends_with("\x1b[Jhelp\x1b[90m [cmd]\x1b[0m\r\x1b[11C"), "{shown:?}");
    assert_eq!(e.feed(b'\n'), Key::Line("help".into()));
    assert_eq!(String::from_utf8(e.take_output()).unwrap(), "\r\x1b[7C\x1b[Jhelp\r\x1b[11C\r\n");
    e.show_prompt();
    // An earlier line that begins so is shown first, and taken by going right.
    typed(&mut e, b"qom-get v");
    assert_eq!(e.hint(), "m0 size");
    typed(&mut e, b"\x1b[C");
    assert_eq!((e.line.as_slice(), e.cursor), (&b"qom-get vm0 size"[..], 16));
}

/// Types keys of all kinds and checks after each that the terminal shows what the editor holds.
fn check(mut e: LineEditor, mut screen: Model, keys: &[u8]) -> Result<(), TestCaseError> {
    screen.feed(&e.take_output());
    for key in keys {
        match e.feed(*key) {
            Key::Complete(text) => {
                let typed = text.rsplit(' ').next().unwrap_or("").len();
                e.complete(vec!["alpha".into(), "alph\u{e4}".into()], typed.min(5), false);
            }
            Key::Line(_) => e.show_prompt(),
            Key::Edited => {}
        }
        screen.feed(&e.take_output());
        prop_assert!(e.cursor <= e.line.len() && e.line.len() <= MAX_LINE);
        prop_assert_eq!(text::boundary(&e.line, e.cursor), e.cursor);
        let (prompt, line, cursor) = match &e.search {
            None => (e.prompt.to_owned(), e.line.as_slice(), e.cursor),
            Some(search) => {
                let (line, cursor) = search.line(&e.history);
                (search.prompt(), line, cursor)
            }
        };
        // A second terminal that the line is simply written to.
        let mut plain = Model::new(screen.columns());
        plain.feed(prompt.as_bytes());
        plain.feed(&line[..cursor]);
        let (row, column) = plain.place();
        plain.feed(&line[cursor..]);
        let top = screen.row.checked_sub(row);
        prop_assert!(top.is_some(), "{key:#x}: {screen:?}");
        let shown: Vec<String> =
            screen.text(top.unwrap()).iter().map(|l| l.trim_end_matches(['~', ' ']).to_owned()).collect();
        let mut wanted = plain.text(0);
        wanted.iter_mut().for_each(|l| l.truncate(l.trim_end_matches(['~', ' ']).len()));
        wanted.resize(wanted.len().max(shown.len()), String::new());
        prop_assert_eq!(&shown[..], &wanted[..shown.len()], "{:#x}", key);
        prop_assert_eq!((screen.column, screen.row), (column, top.unwrap() + row), "{:#x}", key);
    }
    Ok(())
}

#[test]
fn a_prompt_may_fill_the_row_to_its_end() {
    let columns = "(failed reverse-i-search)`1': ".len();
    check(on_terminal(columns, &["help"]), Model::new(columns), b"\x121\x07help").unwrap();
}

/// Keys of which many mean something.
fn keys() -> impl Strategy<Value = Vec<u8>> {
    let key = prop_oneof![
        4 => (b' '..b'}').prop_map(|byte| vec![byte]),
        2 => (0u8..0x20).prop_map(|byte| vec![byte]),
        1 => any::<u8>().prop_map(|byte| vec![byte]),
        2 => "[\u{e4}\u{65e5}\u{1f4be}]{1,12}".prop_map(String::into_bytes),
        2 => "\x1b[\\[O][ABCDEFH]".prop_map(String::into_bytes),
        1 => "\x1b\\[[134]~".prop_map(String::into_bytes),
        1 => Just(b"help qom-get vm0".to_vec()),
    ];
    proptest::collection::vec(key, 0..40).prop_map(|keys| keys.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn a_terminal_shows_what_the_editor_holds(keys in keys(), columns in 20usize..90) {
        let e = on_terminal(columns, &["qom-get vm0 size", "help", "gr\u{fc}n", "info status"]);
        check(e, Model::new(columns), &keys)?;
    }

    #[test]
    fn what_is_echoed_as_in_qemu_shows_it_too(keys in keys()) {
        let mut e = LineEditor::new("(qemu) ");
        e.show_prompt();
        check(e, Model::new(10_000), &keys)?;
    }
}
