//! What the program has on purpose where QEMU has nothing, so that listings are longer than the oracle's.
//!
//! The list is `tests/data/own.txt`. Only lines and list members that name such a thing are left out of a comparison; that
//! each is really listed is a test of its own (`properties::`), so that a name that is gone does not stay here.

use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use serde_json::Value;

/// A kind of thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A property of a device and of its PCI proxy.
    Property,
    /// A subcommand of `info`.
    Info,
    /// An option of a subcommand of `info` that QEMU has without it.
    Flag,
}

/// One thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Own {
    /// What it is.
    pub kind: Kind,
    /// The type whose property it is, the subcommand whose option; else empty.
    pub of: String,
    /// Its name.
    pub name: String,
}

/// All of them.
///
/// # Panics
///
/// If the list cannot be read, or a line has no reason.
pub fn all() -> &'static [Own] {
    static ALL: OnceLock<Vec<Own>> = OnceLock::new();
    ALL.get_or_init(|| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/own.txt");
        parse(&fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display())))
    })
}

fn parse(text: &str) -> Vec<Own> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let [kind, name, _, ..] = words.as_slice() else { panic!("no kind, name and reason: {line}") };
            let (kind, of, name) = match *kind {
                "property" => {
                    let (of, name) = name.split_once('.').unwrap_or_else(|| panic!("no TYPE.NAME: {line}"));
                    (Kind::Property, of, name)
                }
                "info" => (Kind::Info, "", *name),
                "flag" => {
                    let (of, name) = name.split_once('.').unwrap_or_else(|| panic!("no INFO.FLAG: {line}"));
                    (Kind::Flag, of, name)
                }
                other => panic!("no such kind: {other}"),
            };
            Own { kind, of: of.into(), name: name.into() }
        })
        .collect()
}

fn names(kind: Kind) -> impl Iterator<Item = &'static str> {
    all().iter().filter(move |own| own.kind == kind).map(|own| own.name.as_str())
}

/// A listing of properties without our own: the lines of `-device TYPE,help` (`NAME=<TYPE>`), `info qtree` (`NAME = VALUE`) and
/// `qom-list` (`NAME (TYPE)`).
pub fn without_property_lines(text: &str) -> String {
    let own = |line: &str| {
        let rest = |name| line.trim_start().strip_prefix(name);
        names(Kind::Property)
            .filter_map(rest)
            .any(|rest| rest.starts_with("=<") || rest.starts_with(" = ") || rest.starts_with(" ("))
    };
    text.split_inclusive('\n').filter(|line| !own(line)).collect()
}

/// Takes our own properties out of a list of objects with the member `name`.
pub fn remove_properties(list: &mut Vec<Value>) {
    list.retain(|member| !names(Kind::Property).any(|name| member["name"] == name));
}

/// A listing of `info` subcommands (`info NAME …`, `NAME …`) without our own.
pub fn without_info_lines(text: &str) -> String {
    let own = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let name = if words.first() == Some(&"info") { words.get(1) } else { words.first() };
        name.is_some_and(|name| names(Kind::Info).any(|own| own == *name))
    };
    text.split_inclusive('\n').filter(|line| !own(line)).map(without_flag).collect()
}

/// A line of `help info` without the options that are ours.
fn without_flag(line: &str) -> String {
    let own = all().iter().filter(|own| own.kind == Kind::Flag);
    let begin = |own: &Own| (format!("info {} [{}] --", own.of, own.name), format!("info {}  --", own.of));
    let found = own.map(begin).find(|(ours, _)| line.starts_with(ours.as_str()));
    found.map_or_else(|| line.to_owned(), |(ours, theirs)| line.replacen(&ours, &theirs, 1))
}

#[cfg(test)]
mod tests;
