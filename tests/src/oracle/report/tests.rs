//! Claims about reports of differences.

use super::line_diff;
use crate::oracle::{Gaps, Report};

#[test]
fn a_difference_shows_the_changed_lines_and_their_neighbours() {
    assert_eq!(line_diff("a\nb\nc\nd\ne", "a\nb\nC\nd\ne"), "    a\n    b\n  - c\n  + C\n    d\n    e\n");
}

#[test]
fn a_difference_in_line_ends_is_still_shown() {
    assert_eq!(line_diff("a\n", "a"), "    a\n  - \"a\\n\"\n  + \"a\"\n");
}

#[test]
#[should_panic(expected = "1 of 2 differ")]
fn one_difference_fails_the_report() {
    let mut report = Report::new("x", Gaps::default());
    report.text("A", "first", "same", "same");
    report.text("B", "second", "one", "other");
    report.finish();
}

#[test]
#[should_panic(expected = "nothing was compared")]
fn a_report_that_compared_nothing_is_no_success() {
    Report::new("x", Gaps::default()).finish();
}
