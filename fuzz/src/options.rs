//! Option texts: the two list grammars, the command line as a whole, and what character devices and sizes are made of.
//!
//! Each line of the input is a text of its own; all lines together are the words of a command line.

use chardev::{ChardevOptions, parse_legacy};
use qom::options::{Pairs, keyval, options};

use crate::cli::CommandLine;

/// One text.
pub fn run(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    for line in text.lines() {
        grammars(line);
        meanings(line);
    }
    if let Ok(line) = CommandLine::parse(text.lines().map(str::to_owned)) {
        for raw in line.chardevs.iter().chain(&line.devices).chain(&line.objects) {
            let _ = raw.prefix();
            let _ = ChardevOptions::parse(&raw.options("backend").pairs);
        }
    }
}

fn grammars(text: &str) {
    for implied in [None, Some("driver")] {
        let list = options(text, implied);
        assert!(list.pairs.len() <= text.len());
        // Written in full it is read as the same.
        let again = options(&join(&list.pairs), None);
        assert_eq!(again.pairs, list.pairs, "{text:?}");
        assert!(again.short_form.is_empty());
        if let Ok(list) = keyval(text, implied) {
            let again = keyval(&join(&list.pairs), None).expect("a list in full is one");
            assert_eq!(again.pairs, list.pairs, "{text:?}");
        }
    }
}

/// `key=value,…` with commas doubled.
fn join(pairs: &Pairs) -> String {
    let full: Vec<String> =
        pairs.iter().map(|(key, value)| format!("{key}={}", value.replace(',', ",,"))).collect();
    full.join(",")
}

fn meanings(text: &str) {
    let _ = ChardevOptions::parse(&options(text, Some("backend")).pairs);
    let _ = parse_legacy("serial0", text);
    if let Ok(size) = qom::size::parse(text, 1) {
        // What can be read as MiB is that many bytes more.
        assert!(qom::size::parse(text, 1 << 20).is_ok_and(|mib| mib >= size) || size > u64::MAX >> 20);
    }
}
