//! How the arguments of a console command are written, and what is said of one written wrongly.
//!
//! A command declares its arguments ([`Spec`]); [`parse`] turns the rest of a line into typed [`Args`]. A number may be
//! written as an expression ([`super::expr`]), wherever there is one.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use super::expr::{Registers, evaluate};
use super::format::{Format, LastFormat};
use super::lexis::{told, word};

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
    /// A word that names a file.
    Filename,
    /// A number of 32 bits.
    Number,
    /// A number of 32 bits that may be missing.
    OptionalNumber,
    /// A number of 32 bits behind a dot, which may be missing: `.1`.
    DottedNumber,
    /// A number of 64 bits.
    Long,
    /// A number of 64 bits that may be missing.
    OptionalLong,
    /// A number of mebibytes, not below zero; it is had in bytes.
    Mebibytes,
    /// `on` or `off`.
    Switch,
    /// `/fmt`, of which everything may be missing.
    Format,
}

/// Name and kind of an argument.
pub(crate) type Spec = (&'static str, Kind);

/// What arguments mean depends on it.
#[derive(Clone, Copy)]
pub(crate) struct Env<'a> {
    /// Registers of the CPU that the console looks at.
    pub(crate) registers: &'a Registers<'a>,
    /// The format that was used last.
    pub(crate) format: &'a Mutex<LastFormat>,
    /// That CPU, if one was chosen.
    pub(crate) cpu: Option<i64>,
}

/// Parsed arguments.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Args {
    words: BTreeMap<&'static str, String>,
    numbers: BTreeMap<&'static str, i64>,
    flags: Vec<&'static str>,
    format: Option<Format>,
    cpu: Option<i64>,
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
    /// The format of a command that has one.
    pub(crate) fn format(&self) -> Option<Format> {
        self.format
    }
    /// The CPU that the console looks at, if one was chosen.
    pub(crate) fn cpu(&self) -> Option<i64> {
        self.cpu
    }
}

/// Parses `text` for a command whose names are `command` (as in the table). The error is what to print, with its line end.
pub(crate) fn parse(command: &str, specs: &[Spec], text: &str, env: &Env<'_>) -> Result<Args, String> {
    let mut args = Args { cpu: env.cpu, ..Args::default() };
    let mut rest = text;
    for (index, (name, kind)) in specs.iter().enumerate() {
        rest = rest.trim_start();
        match kind {
            Kind::Word | Kind::OptionalWord | Kind::Options | Kind::Filename => {
                if rest.is_empty() && matches!(kind, Kind::OptionalWord | Kind::Options) {
                    continue;
                }
                let what = if *kind == Kind::Filename { "filename" } else { "string" };
                let expected = format!("{command}: {what} expected\n");
                if rest.is_empty() {
                    return Err(expected);
                }
                let (value, tail) = told(word(rest), &expected)?;
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
            Kind::OptionalLong | Kind::OptionalNumber if rest.is_empty() => {}
            Kind::DottedNumber if !rest.starts_with('.') => {}
            Kind::Number | Kind::Long | Kind::OptionalLong | Kind::OptionalNumber | Kind::DottedNumber => {
                let number = if *kind == Kind::DottedNumber { &rest[1..] } else { rest };
                let (value, tail) = evaluate(number, env.registers)?;
                let long = matches!(kind, Kind::Long | Kind::OptionalLong);
                if !long && !(0..=i64::from(u32::MAX)).contains(&value) {
                    return Err(format!("'{command}' has failed: integer is for 32-bit values\n"));
                }
                args.numbers.insert(name, value);
                rest = tail;
            }
            Kind::Mebibytes => {
                let (value, tail) = evaluate(rest, env.registers)?;
                if value < 0 {
                    return Err("enter a positive value\n".to_owned());
                }
                args.numbers.insert(name, value.wrapping_mul(1 << 20));
                rest = tail;
            }
            Kind::Switch => {
                let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
                match &rest[..end] {
                    "on" => args.flags.push(name),
                    "off" => {}
                    _ => return Err("Expected 'on' or 'off'\n".to_owned()),
                }
                rest = &rest[end..];
            }
            Kind::Format => {
                let mut last = env.format.lock().unwrap_or_else(PoisonError::into_inner);
                let (format, tail) = Format::parse(rest, &mut last)?;
                args.format = Some(format);
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

#[cfg(test)]
mod tests;
