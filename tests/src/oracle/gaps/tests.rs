//! Claims about lists of known gaps.

use std::path::Path;

use super::Gaps;

#[test]
fn a_line_is_an_id_and_a_reason_and_comments_are_none() {
    let mut gaps = Gaps::default();
    gaps.parse("# heading\n\nS001  no pc-dimm yet\n S002 why not\n", Path::new("x"));
    assert_eq!(gaps.reason("S001"), Some("no pc-dimm yet"));
    assert_eq!(gaps.ids().collect::<Vec<_>>(), ["S001", "S002"]);
}

#[test]
#[should_panic(expected = "S001 has no reason")]
fn a_gap_without_a_reason_is_refused() {
    Gaps::default().parse("S001\n", Path::new("x"));
}
