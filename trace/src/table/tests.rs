//! Claims about finding and switching events, and about patterns.

use proptest::prelude::*;

use super::*;

/// A table of its own: tests of one process share no switches.
fn table() -> Table {
    let names = ["virtio_mem_plug_request", "virtio_mem_unplug_request", "virtio_set_status", "runstate_set"];
    let event = |name| &*Box::leak(Box::new(Event::new(name)));
    let events: Vec<&'static Event> = names.map(event).to_vec();
    Table::new(&[&events[..2], &events[2..]])
}

fn on(table: &Table) -> Vec<&'static str> {
    table.all().iter().filter(|event| event.is_on()).map(|event| event.name()).collect()
}

#[test]
fn a_star_makes_a_pattern_and_everything_else_is_a_name() {
    let table = table();
    let names = |name: &str| table.find(name).map(|all| all.iter().map(|e| e.name()).collect::<Vec<_>>());
    assert_eq!(names("virtio_mem_*"), Ok(vec!["virtio_mem_plug_request", "virtio_mem_unplug_request"]));
    assert_eq!(names("*_s?t*"), Ok(vec!["virtio_set_status", "runstate_set"]));
    assert_eq!(names("foo*"), Ok(vec![]), "a pattern may fit nothing");
    assert_eq!(names("runstate_set"), Ok(vec!["runstate_set"]));
    for name in ["foo", "", "runstate_s?t", "-runstate_set", "runstate_set,virtio_set_status", "RUNSTATE_SET"]
    {
        assert_eq!(names(name), Err(Unknown(name.to_owned())));
    }
}

#[test]
fn patterns_switch_on_and_a_dash_off() {
    let table = table();
    table.enable("virtio_*").unwrap();
    table.enable("-virtio_mem_*").unwrap();
    assert_eq!(on(&table), ["virtio_set_status"]);
    assert_eq!(table.enable("foo").unwrap_err().to_string(), "trace event 'foo' does not exist");
    assert_eq!(table.enable("-foo").unwrap_err().to_string(), "trace event 'foo' does not exist");
    assert_eq!(on(&table), ["virtio_set_status"], "a mistake changes nothing");
    table.set("*", false).unwrap();
    assert!(on(&table).is_empty());
}

#[test]
fn a_file_of_events_has_comments_and_mistakes_have_lines() {
    let table = table();
    let wrong =
        table.enable_lines("# memory\nvirtio_mem_*\n\n  -virtio_mem_unplug_request \nfoo\nrunstate_set");
    assert_eq!(wrong, [(5, Unknown("foo".into()))]);
    assert_eq!(on(&table), ["virtio_mem_plug_request", "runstate_set"]);
}

/// What [`glob::matches`] is to compute, without its bookkeeping.
fn model(pattern: &[char], text: &[char]) -> bool {
    match (pattern.split_first(), text.split_first()) {
        (None, _) => text.is_empty(),
        (Some(('*', rest)), None) => model(rest, text),
        (Some(('*', rest)), Some((_, behind))) => model(rest, text) || model(pattern, behind),
        (Some(_), None) => false,
        (Some((p, rest)), Some((t, behind))) => (*p == '?' || p == t) && model(rest, behind),
    }
}

proptest! {
    #[test]
    fn patterns_fit_what_they_say(pattern in "[ab*?é]{0,8}", text in "[abé]{0,8}") {
        let chars = |s: &str| s.chars().collect::<Vec<_>>();
        prop_assert_eq!(glob::matches(&pattern, &text), model(&chars(&pattern), &chars(&text)));
    }
}

#[test]
fn a_hostile_pattern_takes_no_time_to_speak_of() {
    let pattern = "a*".repeat(500) + "b";
    assert!(!glob::matches(&pattern, &"a".repeat(2000)));
}
