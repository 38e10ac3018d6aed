//! The arithmetic of parts; what happens to slots is shown with a real guest in `kvm::tests`.

use proptest::prelude::*;

use super::*;

/// Ascending ranges that are apart, from flags.
fn runs(flags: &[bool]) -> Vec<Range<u64>> {
    let single = flags.iter().enumerate().filter(|(_, on)| **on).map(|(at, _)| at as u64..at as u64 + 1);
    coalesced(&single.collect::<Vec<_>>())
}

proptest! {
    #[test]
    fn what_is_missing_and_what_is_there_make_up_the_range(
        flags in proptest::collection::vec(any::<bool>(), 1..64),
        from in 0usize..64,
        len in 0usize..64,
    ) {
        let (from, to) = (from.min(flags.len()), (from + len).min(flags.len()).max(from.min(flags.len())));
        let missing = uncovered(&runs(&flags), &(from as u64..to as u64));
        for (at, plugged) in flags.iter().enumerate().take(to).skip(from) {
            let found = missing.iter().any(|part| part.contains(&(at as u64)));
            prop_assert_eq!(found, !plugged);
        }
        let inside = |part: &Range<u64>| from as u64 <= part.start && part.start < part.end && part.end <= to as u64;
        prop_assert!(missing.iter().all(inside));
        prop_assert!(missing.windows(2).all(|pair| pair[0].end < pair[1].start));
    }
}

#[test]
fn a_part_is_kept_if_it_shows_one_run_and_nothing_else() {
    let runs = [2..4, 6..10];
    for (part, kept) in [
        (2..4, true),
        (3..4, true),
        (7..9, true),
        (6..10, true),
        (1..3, false),
        (4..6, false),
        (3..7, false),
        (9..11, false),
    ] {
        assert_eq!(is_inside(&runs, &part), kept, "{part:?}");
    }
    assert!(!is_inside(&[], &(0..1)));
}

#[test]
fn parts_that_touch_are_one_run() {
    assert_eq!(coalesced(&[0..2, 2..4, 6..8]), [0..4, 6..8]);
    assert_eq!(coalesced(&[]), []);
}
