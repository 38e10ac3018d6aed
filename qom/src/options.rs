//! The two ways QEMU writes `key=value` lists on a command line.
//!
//! *Options* (`-device`, `-chardev`, `-m`, …): `driver,id=x,flag` where the first key may be implied and a bare
//! word is a flag. *Keyval* (`-object`, `-machine`, `-smp`): the same look, but a bare word is an error and keys
//! may be dotted. In both a comma inside a value is written `,,`. An argument that starts with `{` is JSON.

use qapi::{Error, Result};

use crate::input;

/// Keys and values in the order they were written.
pub type Pairs = Vec<(String, String)>;

/// The last value of `key`, as QEMU lets later values win.
pub fn value<'p>(pairs: &'p Pairs, key: &str) -> Option<&'p str> {
    pairs.iter().rev().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
}

/// What splitting an option list found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// The pairs; a flag `x` is `x=on`, `nox` is `x=off`.
    pub pairs: Pairs,
    /// Flags written without a value, which QEMU warns about.
    pub short_form: Vec<(String, String)>,
    /// Whether the word `help` or `?` was among them.
    pub help: bool,
}

impl Options {
    /// Last value of `key`, as QEMU lets later values win.
    pub fn get(&self, key: &str) -> Option<&str> {
        value(&self.pairs, key)
    }

    /// Refuses keys that are not in `known`.
    pub fn only(&self, known: &[&str]) -> Result<()> {
        match self.pairs.iter().find(|(k, _)| !known.contains(&k.as_str())) {
            Some((k, _)) => Err(invalid_parameter(k)),
            None => Ok(()),
        }
    }

    /// A flag's value.
    pub fn flag(&self, key: &str) -> Result<Option<bool>> {
        self.get(key).map(|text| flag(key, text)).transpose()
    }

    /// A number's value.
    pub fn number(&self, key: &str) -> Result<Option<u64>> {
        self.get(key).map(|text| number(key, text)).transpose()
    }
}

/// `on` or `off`, or another of the words that QEMU takes for these.
///
/// # Errors
/// QEMU's text, which names these two.
pub fn flag(key: &str, text: &str) -> Result<bool> {
    input::parse_bool(text).ok_or_else(|| Error::generic(format!("Parameter '{key}' expects 'on' or 'off'")))
}

/// A number as C's `strtoull` reads it with base 0, see [`digits`]; a minus sign wraps around.
///
/// # Errors
/// QEMU's texts: it is none, or has more than 64 bits.
pub fn number(key: &str, text: &str) -> Result<u64> {
    let unsigned = text.trim_start();
    let unsigned = unsigned.strip_prefix(['-', '+']).unwrap_or(unsigned);
    let (digits, radix) = digits(unsigned);
    if digits.is_empty() || !digits.chars().all(|c| c.is_digit(radix)) {
        return Err(Error::generic(format!("Parameter '{key}' expects a number")));
    }
    let large = || Error::generic(format!("Value '{text}' is too large for parameter '{key}'"));
    input::parse_u64(text).ok_or_else(large)
}

/// The digits of a number, and their base, as C's `strtoull` reads one with base 0: hexadecimal behind `0x`, octal behind `0`, else decimal. Whether they are digits is not looked at.
///
/// ```
/// use qom::options::digits;
///
/// assert_eq!([digits("0X1f"), digits("017"), digits("0"), digits("19")], [("1f", 16), ("17", 8), ("0", 10), ("19", 10)]);
/// ```
pub fn digits(text: &str) -> (&str, u32) {
    match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(hex) => (hex, 16),
        None if text.len() > 1 && text.starts_with('0') => (&text[1..], 8),
        None => (text, 10),
    }
}

/// The error for a key that nobody takes.
pub fn invalid_parameter(key: &str) -> Error {
    Error::generic(format!("Invalid parameter '{key}'"))
}

/// Splits an option list; `implied` is the key of a first word without `=`.
pub fn options(text: &str, implied: Option<&str>) -> Options {
    let mut out = Options::default();
    let mut rest = text;
    let mut first = true;
    while !rest.is_empty() || (first && implied.is_some()) {
        let key_end = rest.find([',', '=']).unwrap_or(rest.len());
        let is_pair = rest[key_end..].starts_with('=');
        if first && !is_pair && implied.is_some() {
            let (value, tail) = take_value(rest);
            rest = tail;
            match (value.as_str(), implied) {
                ("help" | "?", _) => out.help = true,
                // `,x=y` gives the first key an empty value; no text at all gives none.
                (_, Some(key)) if !text.is_empty() => out.pairs.push((key.to_owned(), value)),
                _ => {}
            }
        } else if is_pair {
            let key = rest[..key_end].to_owned();
            let (value, tail) = take_value(&rest[key_end + 1..]);
            rest = tail;
            out.pairs.push((key, value));
        } else {
            let word = &rest[..key_end];
            rest = rest[key_end..].strip_prefix(',').unwrap_or("");
            match word {
                "help" | "?" => out.help = true,
                "" => {}
                _ => {
                    let (key, value) = match word.strip_prefix("no") {
                        Some(key) if !key.is_empty() => (key, "off"),
                        _ => (word, "on"),
                    };
                    out.short_form.push((word.to_owned(), format!("{key}={value}")));
                    out.pairs.push((key.to_owned(), value.to_owned()));
                }
            }
        }
        first = false;
    }
    out
}

/// Takes a value up to a lone comma; `,,` is one comma of the value.
fn take_value(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut rest = text;
    loop {
        match rest.find(',') {
            None => {
                value.push_str(rest);
                return (value, "");
            }
            Some(at) => {
                value.push_str(&rest[..at]);
                rest = &rest[at + 1..];
                match rest.strip_prefix(',') {
                    Some(tail) => {
                        value.push(',');
                        rest = tail;
                    }
                    None => return (value, rest),
                }
            }
        }
    }
}

/// What splitting a keyval list found.
#[derive(Debug, PartialEq, Eq)]
pub struct Keyval {
    /// The pairs, keys still dotted; a later value of the same key has replaced the earlier one.
    pub pairs: Pairs,
    /// Whether the word `help` or `?` was among them.
    pub help: bool,
}

/// Splits a keyval list; `implied` is the key of a first word without `=`.
///
/// # Errors
/// QEMU's, for bad keys and bare words.
pub fn keyval(text: &str, implied: Option<&str>) -> Result<Keyval> {
    let mut out = Keyval { pairs: Vec::new(), help: false };
    let mut rest = text;
    let mut first = true;
    while !rest.is_empty() {
        let key_end = rest.find([',', '=']).unwrap_or(rest.len());
        if rest[key_end..].starts_with('=') {
            let key = &rest[..key_end];
            check_key(key)?;
            let (value, tail) = take_value(&rest[key_end + 1..]);
            rest = tail;
            put(&mut out.pairs, key, value);
        } else {
            let word = &rest[..key_end];
            if word == "help" || word == "?" {
                out.help = true;
                rest = rest[key_end..].strip_prefix(',').unwrap_or("");
            } else if word.is_empty() {
                return Err(invalid_parameter(""));
            } else if let (true, Some(implied)) = (first, implied) {
                // The implied value may not hold an escaped comma: QEMU ends it at the first one.
                rest = rest[key_end..].strip_prefix(',').unwrap_or("");
                put(&mut out.pairs, implied, word.to_owned());
            } else if first {
                return Err(Error::generic(format!("No implied parameter name for value '{word}'")));
            } else {
                check_key(word)?;
                return Err(Error::generic(format!("Expected '=' after parameter '{word}'")));
            }
        }
        first = false;
    }
    Ok(out)
}

fn put(pairs: &mut Pairs, key: &str, value: String) {
    match pairs.iter_mut().find(|(k, _)| k == key) {
        Some((_, old)) => *old = value,
        None => pairs.push((key.to_owned(), value)),
    }
}

/// A key is fragments of letters, digits, `-` and `_`, starting with a letter (or, behind a dot, a number).
fn check_key(key: &str) -> Result<()> {
    let good = !key.is_empty()
        && key.len() <= 255
        && key.split('.').enumerate().all(|(i, part)| {
            let number = i > 0 && !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
            let name = part.bytes().next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
                && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
            number || name
        });
    if good { Ok(()) } else { Err(invalid_parameter(key)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(list: &[(&str, &str)]) -> Pairs {
        list.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn the_first_word_may_imply_its_key_and_commas_are_escaped() {
        let o = options("socket,id=a,path=/tmp/x,,y,server=on", Some("backend"));
        assert_eq!(
            o.pairs,
            pairs(&[("backend", "socket"), ("id", "a"), ("path", "/tmp/x,y"), ("server", "on")])
        );
        assert_eq!(options("size=4G", Some("size")).pairs, pairs(&[("size", "4G")]));
    }

    #[test]
    fn flags_are_on_and_no_flags_are_off() {
        let o = options("socket,server,nowait", Some("backend"));
        assert_eq!(o.pairs, pairs(&[("backend", "socket"), ("server", "on"), ("wait", "off")]));
        assert_eq!(o.short_form, pairs(&[("server", "server=on"), ("nowait", "wait=off")]));
        assert!(options("virtio-mem-pci,help", Some("driver")).help);
        assert!(options("help", Some("driver")).help);
        assert_eq!(options("", Some("driver")).pairs, pairs(&[]));
    }

    #[test]
    fn words_and_numbers_are_read_as_loosely_as_by_qemu() {
        let o = options("a=yes,b=n,c=On,d=010,e=-1, f= +0x10", None);
        assert_eq!([o.flag("a"), o.flag("b"), o.flag("x")], [Ok(Some(true)), Ok(Some(false)), Ok(None)]);
        assert_eq!(o.flag("c").unwrap_err().desc(), "Parameter 'c' expects 'on' or 'off'");
        let numbers = [o.number("d"), o.number("e"), o.number(" f"), o.number("x")];
        assert_eq!(numbers, [Ok(Some(8)), Ok(Some(u64::MAX)), Ok(Some(16)), Ok(None)]);
        for text in ["", "x", "0x", "08", "1k", "+-1"] {
            assert_eq!(number("n", text).unwrap_err().desc(), "Parameter 'n' expects a number", "{text}");
        }
        let large = number("n", "0x10000000000000000").unwrap_err();
        assert_eq!(large.desc(), "Value '0x10000000000000000' is too large for parameter 'n'");
    }

    #[test]
    fn keyval_refuses_bare_words_and_bad_keys() {
        let text = |s: &str| keyval(s, Some("qom-type")).map(|k| k.pairs).map_err(|e| e.to_string());
        assert_eq!(text("ram,id=x,size=1G"), Ok(pairs(&[("qom-type", "ram"), ("id", "x"), ("size", "1G")])));
        assert_eq!(text("ram,id"), Err("Expected '=' after parameter 'id'".into()));
        assert_eq!(text("ram,,id=x"), Err("Invalid parameter ''".into()));
        assert_eq!(text("ram,i*d=x"), Err("Invalid parameter 'i*d'".into()));
        assert_eq!(text("ram,a.0=x,a.1=y"), Ok(pairs(&[("qom-type", "ram"), ("a.0", "x"), ("a.1", "y")])));
        assert_eq!(text("ram,id=x,id=y"), Ok(pairs(&[("qom-type", "ram"), ("id", "y")])));
        assert_eq!(text(""), Ok(vec![]));
        assert!(keyval("ram,help", Some("qom-type")).is_ok_and(|k| k.help));
    }

    #[test]
    fn no_text_makes_the_grammars_panic() {
        for text in [",", "=", ",=", "a,=", ",,,", "a=,", "é=ü,ü", "\u{0}", "=,=", "help=,help"] {
            let _ = options(text, Some("x"));
            let _ = options(text, None);
            let _ = keyval(text, Some("x"));
            let _ = keyval(text, None);
        }
    }
}
