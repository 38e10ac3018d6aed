//! Claims about arguments, from QEMU 10.0.2's monitor.

use super::*;

/// Without registers.
fn parse(command: &str, specs: &[Spec], text: &str) -> Result<Args, String> {
    let format = Mutex::default();
    super::parse(command, specs, text, &Env { registers: &|_| None, format: &format, cpu: None })
}

const SET: &[Spec] =
    &[("json", Kind::Flag('j')), ("path", Kind::Word), ("property", Kind::Word), ("value", Kind::Rest)];
const GET: &[Spec] = &[("path", Kind::Word), ("property", Kind::Word)];

#[test]
fn the_last_argument_of_qom_set_is_verbatim() {
    let args = parse("qom-set", SET, "vm0 requested-size \"64M\" ").unwrap();
    assert_eq!(args.word("value"), "\"64M\" ");
    assert!(parse("qom-set", SET, "-j vm0 size 1").unwrap().flag("json"));
    assert_eq!(parse("qom-set", SET, "-x vm0 a 1"), Err("qom-set: unsupported option -x\n".into()));
    assert_eq!(parse("qom-set", SET, ""), Err("qom-set: string expected\n".into()));
}

#[test]
fn double_quotes_quote_and_single_ones_do_not() {
    assert_eq!(parse("qom-get", GET, "\"vm0\" 'a'").unwrap().word("property"), "'a'");
    assert_eq!(parse("qom-get", GET, "vm0 \"a\\nb\"").unwrap().word("property"), "a\nb");
    assert_eq!(parse("qom-get", GET, "vm0 \"si"), Err("qom-get: string expected\n".into()));
    assert_eq!(parse("qom-get", GET, "vm0 \"a\\qb\""), Err("qom-get: string expected\n".into()));
    let extra = Err("qom-get: extraneous characters at the end of line\n".into());
    assert_eq!(parse("qom-get", GET, "vm0 size # c"), extra);
    assert_eq!(parse("quit", &[], "now"), Err("quit: extraneous characters at the end of line\n".into()));
}

#[test]
fn flags_stand_alone_once_and_in_the_order_of_the_table() {
    let flags: &[Spec] = &[
        ("flat", Kind::Flag('f')),
        ("dispatch", Kind::Flag('d')),
        ("owner", Kind::Flag('o')),
        ("disabled", Kind::Flag('D')),
    ];
    let parse = |text| parse("mtree", flags, text);
    for text in ["-f -d", "-f-d", "-d", "  -d -D  "] {
        assert!(parse(text).unwrap().flag("dispatch"), "{text}");
    }
    // Each of these was asked of QEMU 10.0.2.
    let extra = Err("mtree: extraneous characters at the end of line\n".into());
    for text in ["-fd", "-fdo", "-D -o", "-f -D -o", "x"] {
        assert_eq!(parse(text), extra, "{text}");
    }
    for (text, letter) in [
        ("-f -f", 'f'),
        ("-d -f", 'f'),
        ("-o -d", 'd'),
        ("-f -o -d", 'd'),
        ("-d -d", 'd'),
        ("-x", 'x'),
        ("--f", '-'),
    ] {
        assert_eq!(parse(text), Err(format!("mtree: unsupported option -{letter}\n")), "{text}");
    }
    assert_eq!(parse("-f -d -"), Err("mtree: unsupported option -".into()));
}

#[test]
fn numbers_name_the_character_that_is_wrong() {
    let one: &[Spec] = &[("size", Kind::Number)];
    assert_eq!(parse("x", one, "0x10").unwrap().number("size"), Some(16));
    assert_eq!(parse("x", one, "a"), Err("invalid char 'a' in expression\n".into()));
    assert_eq!(parse("x", one, ""), Err("unexpected end of expression\n".into()));
}
