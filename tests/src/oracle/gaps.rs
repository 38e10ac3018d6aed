//! Lists of differences from the oracle that are known and explained.
//!
//! A list is a text file in `tests/data`: a line is an id, blanks, and the reason; `#` begins a comment. Lists for pliant and
//! lists for QEMU itself (`*.qemu.txt`: what Debian's build without the qtest accelerator prints differently) are
//! separate, so that running against QEMU checks the harness and nothing else.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::program::{Peer, peer};

/// Ids with the reason why they may differ.
#[derive(Debug, Default)]
pub struct Gaps {
    reasons: BTreeMap<String, String>,
    files: Vec<PathBuf>,
}

impl Gaps {
    /// The lists for the program under test that go by these names: `NAME.txt` in `tests/data` for pliant, `NAME.qemu.txt`
    /// for QEMU. A file that does not exist is an empty list.
    ///
    /// # Panics
    ///
    /// If a line has no reason or an id is listed twice: a gap without an explanation is a bug.
    pub fn load(names: &[&str]) -> Self {
        let mut gaps = Self::default();
        for name in names {
            let file = match peer() {
                Peer::Pliant => format!("{name}.txt"),
                Peer::Qemu => format!("{name}.qemu.txt"),
            };
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("data").join(file);
            gaps.parse(&fs::read_to_string(&path).unwrap_or_default(), &path);
            gaps.files.push(path);
        }
        gaps
    }

    /// Adds the lines of a list.
    fn parse(&mut self, text: &str, path: &Path) {
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let (id, reason) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
            assert!(!reason.trim().is_empty(), "{}: {id} has no reason", path.display());
            let before = self.reasons.insert(id.into(), reason.trim().into());
            assert!(before.is_none(), "{}: {id} is listed twice", path.display());
        }
    }

    /// Why this id may differ.
    pub fn reason(&self, id: &str) -> Option<&str> {
        self.reasons.get(id).map(String::as_str)
    }

    /// The listed ids.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        self.reasons.keys().map(String::as_str)
    }

    /// The files that the lists are in, for messages.
    pub fn files(&self) -> String {
        self.files.iter().map(|f| f.display().to_string()).collect::<Vec<_>>().join(", ")
    }
}

#[cfg(test)]
mod tests;
