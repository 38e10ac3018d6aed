//! Which claims go together, and that a claim ends with its guard.

use proptest::prelude::*;

use super::DiscardClaim::*;
use super::*;

const ALL: [DiscardClaim; 4] = [Required, CoordinatedRequired, Disabled, UncoordinatedDisabled];

/// Pairs that cannot hold at once, as QEMU decides them.
fn excluded(a: DiscardClaim, b: DiscardClaim) -> bool {
    let pairs = [(Required, Disabled), (Required, UncoordinatedDisabled), (CoordinatedRequired, Disabled)];
    pairs.contains(&(a, b)) || pairs.contains(&(b, a))
}

#[test]
fn who_comes_second_is_refused_whoever_that_is() {
    for (first, second) in ALL.into_iter().flat_map(|a| ALL.map(|b| (a, b))) {
        let policy = Arc::new(DiscardPolicy::default());
        let held = policy.claim(first).unwrap();
        let refused = policy.claim(second).is_err();
        assert_eq!(refused, excluded(first, second), "{first:?}, then {second:?}");
        drop(held);
        let _free = policy.claim(second).expect("nobody claims the opposite any more");
    }
}

#[test]
fn a_conflict_reads_like_the_errno_of_qemu() {
    let policy = Arc::new(DiscardPolicy::default());
    let _held = policy.claim(Required).unwrap();
    let conflict = policy.claim(UncoordinatedDisabled).unwrap_err();
    assert_eq!(
        format!("Cannot set discarding of RAM broken: {conflict}"),
        "Cannot set discarding of RAM broken: Device or resource busy"
    );
}

proptest! {
    #[test]
    fn what_holds_never_contradicts_itself_and_nothing_is_refused_without_reason(
        steps in proptest::collection::vec((0..4usize, any::<bool>(), any::<prop::sample::Index>()), 0..60)
    ) {
        let policy = Arc::new(DiscardPolicy::default());
        let mut held: Vec<(DiscardClaim, DiscardGuard)> = Vec::new();
        for (claim, leave, index) in steps {
            if leave && !held.is_empty() {
                drop(held.swap_remove(index.index(held.len())));
            } else {
                let claim = ALL[claim];
                let reason = held.iter().any(|(other, _)| excluded(claim, *other));
                match policy.claim(claim) {
                    Ok(guard) => held.push((claim, guard)),
                    Err(DiscardConflict) => prop_assert!(reason),
                }
            }
            let contradicts = |(a, _): &(DiscardClaim, _)| held.iter().any(|(b, _)| excluded(*a, *b));
            prop_assert!(!held.iter().any(contradicts));
            for claim in ALL {
                prop_assert_eq!(policy.is_claimed(claim), held.iter().any(|(other, _)| *other == claim));
            }
        }
    }
}
