//! Claims about the command line as a whole.

use super::*;

fn parse(words: &[&str]) -> Result<CommandLine> {
    CommandLine::parse(words.iter().map(|w| (*w).to_owned()))
}

fn message(words: &[&str]) -> String {
    parse(words).err().map(|e| e.to_string()).unwrap_or_default()
}

#[test]
fn what_is_unknown_is_refused_by_name() {
    assert_eq!(message(&["-foo"]), "-foo: invalid option");
    assert_eq!(message(&["--foo=bar"]), "--foo=bar: invalid option");
    assert_eq!(message(&["-m"]), "-m: requires an argument");
    assert_eq!(message(&["-"]), "-: disk images are not supported, and this is no option");
}

#[test]
fn every_option_of_the_table_is_handled() {
    for option in table::OPTIONS {
        let name = option.name;
        let words: &[&str] = if option.arg == Arg::None { &[name] } else { &[name, "x=1"] };
        assert!(!message(words).contains("invalid option"), "{name}");
        assert!(usage("pliant").contains(name));
    }
}

#[test]
fn machine_options_accumulate_and_later_values_win() {
    let line = parse(&["-M", "q35", "-machine", "acpi=off", "-machine", "type=pc"]).unwrap();
    assert_eq!(line.machine, [("type".into(), "pc".into()), ("acpi".into(), "off".into())]);
}

#[test]
fn two_dashes_are_as_good_as_one() {
    assert!(parse(&["--nodefaults"]).unwrap().no_defaults);
}

#[test]
fn short_flags_are_taken_with_a_warning() {
    let line = parse(&["-msg", "timestamp"]).unwrap();
    assert!(line.timestamp);
    assert_eq!(
        line.warnings,
        [
            "-msg timestamp: warning: short-form boolean option 'timestamp' deprecated\nPlease use timestamp=on instead"
        ]
    );
    assert_eq!(message(&["-msg", "foo=on"]), "-msg foo=on: Invalid parameter 'foo'");
}
