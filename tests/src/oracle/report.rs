//! Comparing step by step, and one verdict with all differences at the end.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::Value;

use super::Gaps;

/// The differences of one replay, by id.
///
/// Many steps may have one id; the id differs if one of them does. [`Report::finish`] has to be called.
#[derive(Debug)]
pub struct Report {
    name: String,
    gaps: Gaps,
    /// Each id that was compared, with its differences.
    ids: BTreeMap<String, Vec<String>>,
    finished: bool,
}

impl Report {
    /// An empty report; the gap lists are those of [`Gaps::load`].
    pub fn new(name: &str, gaps: Gaps) -> Self {
        Self { name: name.into(), gaps, ids: BTreeMap::new(), finished: false }
    }

    /// Notes a comparison of texts, shown by lines where they differ.
    pub fn text(&mut self, id: &str, what: &str, expected: &str, got: &str) {
        self.record(id, what, (expected != got).then(|| line_diff(expected, got)));
    }

    /// Notes a comparison of JSON values.
    pub fn json(&mut self, id: &str, what: &str, expected: &Value, got: &Value) {
        let pretty = |value: &Value| serde_json::to_string_pretty(value).expect("values are printable");
        self.record(id, what, (expected != got).then(|| line_diff(&pretty(expected), &pretty(got))));
    }

    /// Notes a statement that is true or is explained.
    pub fn check(&mut self, id: &str, what: &str, holds: bool, otherwise: impl FnOnce() -> String) {
        self.record(id, what, (!holds).then(otherwise));
    }

    /// Notes that a step went wrong altogether.
    pub fn fail(&mut self, id: &str, what: &str, why: &str) {
        self.record(id, what, Some(format!("  {why}\n")));
    }

    fn record(&mut self, id: &str, what: &str, difference: Option<String>) {
        let of_id = self.ids.entry(id.into()).or_default();
        of_id.extend(difference.map(|difference| format!("[{id}] {what}\n{difference}")));
    }

    /// The verdict.
    ///
    /// # Panics
    ///
    /// With a readable list of all differences that no gap list explains, and of the listed ids that do not differ (any
    /// more). A listed id that this report did not compare is another report's.
    pub fn finish(mut self) {
        self.finished = true;
        let mut text = String::new();
        let mut failing = Vec::new();
        let mut known = 0;
        for (id, differences) in &self.ids {
            match (differences.is_empty(), self.gaps.reason(id)) {
                (true, None) => {}
                (true, Some(reason)) => {
                    failing.push(id.as_str());
                    let _ = writeln!(text, "[{id}] equals the oracle but is listed as a gap ({reason})");
                }
                (false, Some(_)) => known += 1,
                (false, None) => {
                    failing.push(id.as_str());
                    text.extend(differences.iter().map(String::as_str));
                }
            }
        }
        let all = self.ids.len();
        println!("{}: {} of {all} as the oracle, {known} known gaps", self.name, all - known - failing.len());
        assert!(all > 0, "{}: nothing was compared", self.name);
        assert!(
            failing.is_empty(),
            "{}: {} of {all} differ from the oracle\n{text}\nids: {}\nlists: {}\n(- is the oracle, + is the program)",
            self.name,
            failing.len(),
            failing.join(" "),
            self.gaps.files(),
        );
    }
}

impl Drop for Report {
    fn drop(&mut self) {
        if !self.finished && !std::thread::panicking() {
            panic!("{}: a report without its verdict", self.name);
        }
    }
}

/// The lines that are only in one of two texts, in order, with two lines of context.
fn line_diff(expected: &str, got: &str) -> String {
    let (old, new): (Vec<&str>, Vec<&str>) = (expected.lines().collect(), got.lines().collect());
    let head = old.iter().zip(&new).take_while(|(a, b)| a == b).count();
    let tail = old[head..].iter().rev().zip(new[head..].iter().rev()).take_while(|(a, b)| a == b).count();
    let mut out = String::new();
    let mut put = |mark: char, lines: &[&str]| {
        for line in lines.iter().take(60) {
            let _ = writeln!(out, "  {mark} {line}");
        }
        if lines.len() > 60 {
            let _ = writeln!(out, "  {mark} ... {} more lines", lines.len() - 60);
        }
    };
    put(' ', &old[head.saturating_sub(2)..head]);
    put('-', &old[head..old.len() - tail]);
    put('+', &new[head..new.len() - tail]);
    put(' ', &old[old.len() - tail..(old.len() - tail + 2).min(old.len())]);
    if old == new {
        let _ = writeln!(out, "  - {expected:?}\n  + {got:?}");
    }
    out
}

#[cfg(test)]
mod tests;
