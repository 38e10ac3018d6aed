//! Numbers of parts against the oracle's table, and what holds for any device of ours.

use proptest::prelude::*;

use super::*;

const M: u64 = 1 << 20;
const G: u64 = 1 << 30;
const T: u64 = 1 << 40;

fn budget(limit: u64, required: u64, used: u64) -> Budget {
    Budget { max: None, free: None, required, limit, used }
}

#[test]
fn slots_are_what_qemu_makes_of_the_same_devices() {
    // (device, area, slots taken, bytes taken, limit, slots, MiB)
    let table = [
        (G, G, 0, 0, 256, 1, 1024),
        (256 * G, 256 * G, 0, 0, 256, 256, 1024),
        (257 * G, 257 * G, 0, 0, 256, 256, 1028),
        (300 * G, 300 * G, 0, 0, 256, 256, 1200),
        (500 * G, 500 * G, 0, 0, 256, 256, 2000),
        (T, T, 0, 0, 256, 256, 4096),
        (8 * G, 16 * G, 0, 0, 128, 8, 1024),
        (200 * G, 400 * G, 0, 0, 128, 128, 1600),
        (500 * G, 1000 * G, 0, 0, 128, 128, 4000),
        (500 * G, 1037 * G, 0, 0, 123, 123, 4164),
        (4 * G, T, 0, 0, 1, 1, 4096),
        (100 * G, T, 0, 0, 25, 25, 4096),
        (10 * G, 1010 * G, 0, 0, 2, 2, 5120),
        (1000 * G, 1010 * G, 2, 10 * G, 254, 254, 4032),
        (500 * G, 508 * G, 1, 8 * G, 255, 255, 2008),
        (500 * G, 508 * G, 0, 0, 251, 251, 2040),
    ];
    for (size, area, required, used, limit, count, mib) in table {
        let share = budget(area, required, used).share(size);
        let parts = Parts::while_plugged(size, share, 2 * M);
        assert_eq!((share, parts), (limit, Parts { size: mib * M, count }), "{size:#x} of {area:#x}");
    }
}

#[test]
fn an_accelerator_with_few_slots_gets_one() {
    let few = Budget { max: Some(508), ..budget(500 * G, 0, 0) };
    assert_eq!(few.share(500 * G), 1);
    let taken = budget(500 * G, 256, 0);
    assert_eq!(taken.share(100 * G), 1);
    let nearly = Budget { max: Some(509), free: Some(10), ..budget(500 * G, 0, 0) };
    assert_eq!(nearly.share(500 * G), 10);
}

#[test]
fn fixed_parts_are_multiples_of_128_mib_and_of_the_block_size() {
    // (device, N, block, parts, MiB)
    let table = [
        (500 * G, 500, 2 * M, 500, 1024),
        (T, 1024, 2 * M, 1024, 1024),
        (T, 1000, 2 * M, 911, 1152),
        (8 * G, 2, 2 * M, 2, 4096),
        (8 * G, 3, 2 * M, 3, 2816),
        (G, 8, 2 * M, 8, 128),
        (G, 9, 2 * M, 8, 128),
        (G, 1024, 2 * M, 8, 128),
        (128 * M, 1024, 2 * M, 1, 128),
        (2 * M, 2, 2 * M, 1, 128),
        (130 * M, 2, 2 * M, 2, 128),
        (8 * G, 8, 2 * G, 4, 2048),
        (8 * G, 1, 2 * M, 1, 8192),
        (300 * M, 2, M, 2, 256),
    ];
    for (region, wanted, block, count, mib) in table {
        let parts = Parts::fixed(region, wanted, block);
        assert_eq!(parts, Parts { size: mib * M, count }, "{wanted} of {region:#x}");
    }
}

#[test]
fn a_number_is_chosen_from_the_share_of_what_is_left() {
    // (device, area, slots taken, bytes taken, N)
    let table = [
        (500 * G, 1037 * G, 0, 0, 500),
        (T, T, 0, 0, 1024),
        (4 * T, 4 * T, 0, 0, 1024),
        (T, 4 * T, 0, 0, 512),
        (T, 4 * T, 1024, T, 341),
        (G, T, 0, 0, 1),
        (8 * G, 8 * G, 0, 0, 8),
        (8 * G + M, 9 * G, 0, 0, 9),
        (64 * G, T, 2040, 0, 1),
        (64 * G, 64 * G, 2040, 0, 8),
        (64 * G, 64 * G, 2048, 0, 1),
    ];
    for (size, area, required, used, n) in table {
        assert_eq!(budget(area, required, used).choose(size), n, "{size:#x} of {area:#x}");
    }
    let nearly = Budget { max: Some(509), free: Some(100), ..budget(T, 0, 0) };
    assert_eq!(nearly.choose(T), 50, "half of what is free is left to others");
    let few = Budget { max: Some(508), free: Some(500), ..budget(T, 0, 0) };
    assert_eq!(few.choose(T), 1);
    let none = Budget { max: Some(509), free: Some(0), ..budget(T, 0, 0) };
    assert_eq!(none.choose(T), 1);
}

fn budgets() -> impl Strategy<Value = Budget> {
    let some = || proptest::option::of(0..40_000u64);
    (some(), some(), 0..3000u64, 1..1u64 << 46, 0..1u64 << 46)
        .prop_map(|(max, free, required, limit, used)| Budget { max, free, required, limit, used })
}

proptest! {
    /// Whatever is asked for: the parts cover the region, none is empty, none too small, no more than asked.
    #[test]
    fn fixed_parts_cover_the_region(blocks in 1u64..1 << 20, block in 20u32..40, wanted in 1u64..=MAX_PARTS) {
        let (region, block) = (blocks << block, 1 << block);
        let parts = Parts::fixed(region, wanted, block);
        prop_assert!((1..=wanted).contains(&parts.count));
        prop_assert!(parts.size.is_multiple_of(MIN_PART_SIZE) && parts.size.is_multiple_of(block));
        prop_assert!((parts.count - 1) * parts.size < region && region <= parts.count * parts.size);
        // Smaller parts would not do.
        let step = block.max(MIN_PART_SIZE);
        prop_assert!(parts.size == step || (parts.size - step).saturating_mul(wanted) < region);
    }

    /// A decision never breaks the promise that the budget stands for, and never is none.
    #[test]
    fn decisions_keep_to_the_budget(budget in budgets(), size in 1u64..1 << 46) {
        for (n, all) in [(budget.share(size), SOFT_LIMIT), (budget.choose(size), LIMIT)] {
            prop_assert!(n >= 1);
            if n > 1 {
                prop_assert!(budget.required + n <= all);
                prop_assert!(budget.free.is_none_or(|free| n <= free));
                prop_assert!(budget.max.is_none_or(|max| max >= SAFE_MAX));
            }
        }
        let n = budget.choose(size);
        prop_assert!(n <= MAX_PARTS && (n == 1 || size > (n - 1) * MIN_DECIDED_SIZE));
    }
}
