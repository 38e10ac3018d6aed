//! Incremental search through the history (Ctrl-R), as in shells. QEMU's console has none, so that the keys were free.

use super::History;
use super::text::previous;

/// A search that is under way.
#[derive(Debug)]
pub(super) struct Search {
    query: Vec<u8>,
    /// The line that is shown: entry of the history, and where the query stands in it.
    found: Option<(usize, usize)>,
    failed: bool,
    /// Line and cursor that come back when the search is given up.
    pub(super) before: (Vec<u8>, usize),
}

impl Search {
    pub(super) fn new(line: &[u8], cursor: usize) -> Self {
        Self { query: Vec::new(), found: None, failed: false, before: (line.to_vec(), cursor) }
    }

    /// What stands in front of the line meanwhile.
    pub(super) fn prompt(&self) -> String {
        let failed = if self.failed { "failed " } else { "" };
        format!("({failed}reverse-i-search)`{}': ", String::from_utf8_lossy(&self.query))
    }

    /// Line and cursor to show.
    pub(super) fn line<'h>(&'h self, history: &'h History) -> (&'h [u8], usize) {
        match self.found.and_then(|(at, column)| Some((history.get(at)?, column))) {
            Some(found) => found,
            None => (&self.before.0, self.before.1),
        }
    }

    /// Entry of the history that is shown.
    pub(super) fn entry(&self) -> Option<usize> {
        self.found.map(|(at, _)| at)
    }

    /// Adds a character.
    pub(super) fn add(&mut self, character: &[u8], history: &History) {
        self.query.extend_from_slice(character);
        let end = self.found.map_or(history.len(), |(at, _)| at + 1);
        self.settle(history.before(end, &self.query));
    }

    /// Takes the last character away and looks from the latest line on again.
    pub(super) fn remove(&mut self, history: &History) {
        self.query.truncate(previous(&self.query, self.query.len()));
        if self.query.is_empty() {
            (self.found, self.failed) = (None, false);
        } else {
            self.settle(history.before(history.len(), &self.query));
        }
    }

    /// Goes to the next older line.
    pub(super) fn older(&mut self, history: &History) {
        if !self.query.is_empty() {
            self.settle(history.before(self.found.map_or(history.len(), |(at, _)| at), &self.query));
        }
    }

    /// Goes to the next newer line.
    pub(super) fn newer(&mut self, history: &History) {
        if let Some((at, _)) = self.found {
            self.settle(history.after(at + 1, &self.query));
        }
    }

    /// Shows what was found; what was there stays when nothing was.
    fn settle(&mut self, found: Option<(usize, usize)>) {
        self.failed = found.is_none();
        self.found = found.or(self.found);
    }
}
