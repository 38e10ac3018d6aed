//! Limits and throttling, without waiting.

use super::*;
use crate::parameters;

#[test]
fn a_limit_holds_for_a_tenth_of_a_second() {
    let mut pace = Pace::new();
    assert_eq!(pace.rest(9_999, 100_000), None);
    let rest = pace.rest(10_000, 100_000).unwrap();
    assert!(rest <= WINDOW);
    assert_eq!(pace.rest(u64::MAX, 0), None, "no limit");
}

#[test]
fn a_guest_that_writes_too_much_twice_is_slowed_down_step_by_step() {
    let parameters = parameters::defaults();
    let mut throttle = Throttle::default();
    let mut after = |dirtied| throttle.after_pass(&parameters, dirtied, 100);
    assert_eq!(
        [after(50), after(51), after(51), after(10), after(90), after(90)],
        [None, None, Some(20), None, None, Some(30)]
    );
    let last = (0..40).filter_map(|_| after(1000)).last();
    assert_eq!(last, Some(99));
    assert_eq!(after(1000), None, "there is no more");
}

#[test]
fn what_is_sent_unasked_keeps_to_its_share_and_makes_up_for_nothing() {
    let mut share = Share::new();
    assert_eq!(share.rest(1), None);
    share.took(1 << 20);
    assert_eq!(share.rest(1 << 10), Some(WINDOW));
    assert_eq!(share.rest(0), None, "no limit");
    assert_eq!(share.rest(1 << 10), None, "what was sent without a limit counts no more");
}
