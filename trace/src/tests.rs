//! Claims about events.

use std::cell::Cell;

use super::*;
use crate::trace_events::EVENTS;

#[test]
fn a_line_is_the_name_and_what_the_table_says_of_the_arguments() {
    let lines = tap("test_*", EVENTS, || {
        crate::emit!(test_said, "guest", 7);
        crate::emit!(test_bare);
    });
    // The blank behind a bare name is QEMU's.
    assert_eq!(lines, ["test_said guest said '7'", "test_bare "]);
}

#[test]
fn what_is_off_evaluates_no_argument() {
    let evaluated = Cell::new(0);
    let what = || {
        evaluated.set(evaluated.get() + 1);
        1
    };
    let lines = tap("nothing_*", EVENTS, || crate::emit!(test_counted, "x", what()));
    assert!(lines.is_empty());
    assert_eq!(evaluated.get(), 0);
    assert_eq!(
        tap("test_counted", EVENTS, || crate::emit!(test_counted, "x", what())),
        ["test_counted x said '1'"]
    );
    assert_eq!(evaluated.get(), 1);
}

#[test]
fn objects_have_one_identity_each() {
    let (a, b) = (Box::new(1_u64), Box::new(1_u64));
    assert_eq!(Id::of(&*a), Id::of(a.as_ref()));
    assert_ne!(Id::of(&*a), Id::of(&*b));
    assert!(Id::of(&*a).to_string().starts_with("0x"));
}

#[test]
fn only_threads_of_vcpus_have_a_number() {
    assert_eq!(current_cpu(), -1);
    let there = std::thread::spawn(|| {
        set_current_cpu(3);
        current_cpu()
    });
    assert_eq!((there.join().unwrap(), current_cpu()), (3, -1));
}
