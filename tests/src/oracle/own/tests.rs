//! Claims about what is left out, and that no more is.

use serde_json::json;

use super::*;

#[test]
fn only_lines_that_list_the_property_itself_go() {
    let text = "  memaddr=<uint64>       -  (default: 0)\n  memslots=<uint16>      - parts\n";
    assert_eq!(without_property_lines(text), "  memaddr=<uint64>       -  (default: 0)\n");
    let kept = "    dynamic-memslots = false\nqom-set vm0 memslots\nmemslots-limit (uint64)\n";
    assert_eq!(without_property_lines(&format!("{kept}    memslots = 1 (0x1)\nmemslots (uint16)\n")), kept);
}

#[test]
fn members_go_by_their_whole_name() {
    let mut list =
        vec![json!({ "name": "memslots" }), json!({ "name": "dynamic-memslots" }), json!("memslots")];
    remove_properties(&mut list);
    assert_eq!(list, [json!({ "name": "dynamic-memslots" }), json!("memslots")]);
}

#[test]
fn a_list_has_kinds_names_and_reasons() {
    let own = |kind, of: &str, name: &str| Own { kind, of: of.into(), name: name.into() };
    let text = "# why\n\nproperty a-b.c  a reason\ninfo d  another\n";
    assert_eq!(parse(text), [own(Kind::Property, "a-b", "c"), own(Kind::Info, "", "d")]);
    for bad in ["property a.b", "property ab  reason", "event x  reason"] {
        assert!(std::panic::catch_unwind(|| parse(bad)).is_err(), "{bad}");
    }
}
