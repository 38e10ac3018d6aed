//! The lines that were entered, oldest first: for the arrow keys, the search, `info history` and hints.

/// Lines of a console that is not on the program's own terminal: what QEMU's remember.
pub(crate) const SESSION_LINES: usize = 64;

/// What was entered.
#[derive(Debug)]
pub(crate) struct History {
    lines: Vec<Vec<u8>>,
    limit: usize,
}

impl History {
    /// A history of at most `limit` lines that begins with the last of `lines`.
    pub(crate) fn new(lines: Vec<Vec<u8>>, limit: usize) -> Self {
        let mut history = Self { lines: Vec::new(), limit };
        lines.into_iter().for_each(|line| history.push(line));
        history
    }

    /// Adds a line; an empty one is none. A repeated line moves to the end instead of standing there twice.
    pub(crate) fn push(&mut self, line: Vec<u8>) {
        if line.is_empty() {
            return;
        }
        self.lines.retain(|l| *l != line);
        if self.lines.len() == self.limit {
            self.lines.remove(0);
        }
        self.lines.push(line);
    }

    pub(crate) fn len(&self) -> usize {
        self.lines.len()
    }

    pub(crate) fn get(&self, at: usize) -> Option<&[u8]> {
        self.lines.get(at).map(Vec::as_slice)
    }

    /// The lines as text.
    pub(crate) fn texts(&self) -> impl Iterator<Item = String> + '_ {
        self.lines.iter().map(|l| String::from_utf8_lossy(l).into_owned())
    }

    /// What the latest line that begins with `line` has behind that; nothing for an empty line.
    pub(crate) fn rest_of(&self, line: &[u8]) -> Option<&[u8]> {
        let mut rests = self.lines.iter().rev().filter_map(|l| l.strip_prefix(line));
        rests.find(|rest| !rest.is_empty()).filter(|_| !line.is_empty())
    }

    /// The latest line before entry `end` that holds `what`, and where in it.
    pub(crate) fn before(&self, end: usize, what: &[u8]) -> Option<(usize, usize)> {
        (0..end.min(self.len())).rev().find_map(|at| Some((at, position(&self.lines[at], what)?)))
    }

    /// The first line from entry `start` on that holds `what`, and where in it.
    pub(crate) fn after(&self, start: usize, what: &[u8]) -> Option<(usize, usize)> {
        (start..self.len()).find_map(|at| Some((at, position(&self.lines[at], what)?)))
    }
}

/// Where `what` last stands in `line`.
fn position(line: &[u8], what: &[u8]) -> Option<usize> {
    match what.len() {
        0 => Some(line.len()),
        n => line.windows(n).rposition(|part| part == what),
    }
}
