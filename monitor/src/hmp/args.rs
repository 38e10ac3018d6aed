//! How the arguments of a console command are written, and what is said of one written wrongly.
//!
//! A command declares its arguments ([`Spec`]); [`parse`] turns the rest of a line into typed [`Args`]. Integer
//! expressions, registers and `/fmt` belong to commands that are not here yet.

use std::collections::BTreeMap;

/// Kind of an argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A word, or a `"quoted string"` with escapes.
    Word,
    /// A word that may be missing.
    OptionalWord,
    /// The rest of the line, verbatim.
    Rest,
    /// The rest of the line, of which there may be none.
    OptionalRest,
    /// `-x`: set or not.
    Flag(char),
    /// `[TYPE,]k=v,…` as behind `-device`, a word that is split later. What is missing in it is said then.
    Options,
    /// A decimal, octal or hexadecimal number of 32 bits.
    Number,
}

/// Name and kind of an argument.
pub(crate) type Spec = (&'static str, Kind);

/// Parsed arguments.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Args {
    words: BTreeMap<&'static str, String>,
    numbers: BTreeMap<&'static str, i64>,
    flags: Vec<&'static str>,
}

impl Args {
    /// A word that the grammar requires.
    pub(crate) fn word(&self, name: &str) -> &str {
        self.words.get(name).map_or("", String::as_str)
    }
    /// A word that may be missing.
    pub(crate) fn optional(&self, name: &str) -> Option<&str> {
        self.words.get(name).map(String::as_str)
    }
    /// A number, if given.
    pub(crate) fn number(&self, name: &str) -> Option<i64> {
        self.numbers.get(name).copied()
    }
    /// Whether a flag was given.
    pub(crate) fn flag(&self, name: &str) -> bool {
        self.flags.contains(&name)
    }
}

/// Parses `text` for a command whose names are `command` (as in the table). The error is what to print, with its line end.
pub(crate) fn parse(command: &str, specs: &[Spec], text: &str) -> Result<Args, String> {
    let mut args = Args::default();
    let mut rest = text;
    for (index, (name, kind)) in specs.iter().enumerate() {
        rest = rest.trim_start();
        match kind {
            Kind::Word | Kind::OptionalWord | Kind::Options => {
                if rest.is_empty() && *kind != Kind::Word {
                    continue;
                }
                let found = word(rest).filter(|(_, tail)| tail.len() < rest.len());
                let (value, tail) = found.ok_or_else(|| format!("{command}: string expected\n"))?;
                args.words.insert(name, value);
                rest = tail;
            }
            Kind::Rest | Kind::OptionalRest => {
                if rest.is_empty() && *kind == Kind::Rest {
                    return Err(format!("{command}: string expected\n"));
                }
                args.words.insert(name, rest.to_owned());
                rest = "";
            }
            Kind::Flag(letter) => {
                if let Some(after) = flag(command, *letter, &specs[index + 1..], rest)? {
                    args.flags.push(name);
                    rest = after;
                }
            }
            Kind::Number => {
                let (value, tail) = number(rest)?;
                if !(0..=i64::from(u32::MAX)).contains(&value) {
                    return Err(format!("'{command}' has failed: integer is for 32-bit values\n"));
                }
                args.numbers.insert(name, value);
                rest = tail;
            }
        }
    }
    if rest.trim_start().is_empty() {
        Ok(args)
    } else {
        Err(format!("{command}: extraneous characters at the end of line\n"))
    }
}

/// What follows the flag if `rest` begins with it; a dash with a letter that no later flag has either is refused.
fn flag<'t>(command: &str, letter: char, later: &[Spec], rest: &'t str) -> Result<Option<&'t str>, String> {
    let Some(after) = rest.strip_prefix('-') else { return Ok(None) };
    let Some(found) = after.chars().next() else {
        // QEMU prints the end of the line as a character, which ends its own message.
        return Err(format!("{command}: unsupported option -"));
    };
    if found == letter {
        return Ok(Some(&after[found.len_utf8()..]));
    }
    let comes = later.iter().any(|(_, kind)| *kind == Kind::Flag(found));
    if comes { Ok(None) } else { Err(format!("{command}: unsupported option -{found}\n")) }
}

/// All words of `text`; `None` for a broken quotation.
pub(super) fn words(text: &str) -> Option<Vec<String>> {
    let mut list = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (value, tail) = word(rest)?;
        list.push(value);
        rest = tail.trim_start();
    }
    Some(list)
}

/// A word up to a blank, or a string in double quotes; `None` for a broken quotation.
fn word(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find(char::is_whitespace).unwrap_or(text.len());
        return Some((text[..end].to_owned(), &text[end..]));
    };
    let mut value = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, &quoted[at + 1..])),
            '\\' => value.push(match chars.next()?.1 {
                'n' => '\n',
                'r' => '\r',
                c @ ('\\' | '\'' | '"') => c,
                _ => return None,
            }),
            c => value.push(c),
        }
    }
    None
}

/// The number that `text` begins with, and what follows it.
fn number(text: &str) -> Result<(i64, &str), String> {
    let (negative, digits) = text.strip_prefix('-').map_or((false, text), |d| (true, d.trim_start()));
    match digits.chars().next() {
        None => return Err("unexpected end of expression\n".to_owned()),
        Some(c) if !c.is_ascii_digit() => return Err(format!("invalid char '{c}' in expression\n")),
        Some(_) => {}
    }
    let hex = digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X"));
    let (digits, radix) = match hex.filter(|h| h.starts_with(|c: char| c.is_ascii_hexdigit())) {
        Some(hex) => (hex, 16),
        None if digits.starts_with('0') => (digits, 8),
        None => (digits, 10),
    };
    let end = digits.find(|c: char| !c.is_digit(radix)).unwrap_or(digits.len());
    let value = u64::from_str_radix(&digits[..end], radix).map_err(|_| "number too large\n".to_owned())?;
    let value = value.cast_signed();
    Ok((if negative { value.wrapping_neg() } else { value }, &digits[end..]))
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
