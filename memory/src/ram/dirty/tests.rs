//! The dirty bitmap against a set of pages.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

/// Not a whole number of pages, words or chunks.
const LEN: u64 = 257 * 1024 * 1024 - 1000;

fn pages_of(offset: u64, size: u64) -> Range<u64> {
    let end = (offset + size).min(LEN);
    if offset < end { offset / PAGE..end.div_ceil(PAGE) } else { 0..0 }
}

/// What a call reported of runs, as pages; runs are ascending and apart.
fn pages_in(runs: &[(u64, u64)]) -> Vec<u64> {
    for pair in runs.windows(2) {
        assert!(pair[0].0 + pair[0].1 < pair[1].0, "as few runs as there can be: {pair:?}");
    }
    runs.iter().flat_map(|(offset, len)| offset / PAGE..(offset + len) / PAGE).collect()
}

proptest! {
    #[test]
    fn the_bitmap_agrees_with_a_set_of_pages(
        steps in proptest::collection::vec((0u8..6, 0u64..300 * 1024 * 1024, 0u64..3 * 1024 * 1024), 1..30)
    ) {
        let bitmap = DirtyBitmap::new(LEN);
        let mut model = BTreeSet::new();
        for (step, offset, size) in steps {
            let pages = pages_of(offset, size);
            let there: Vec<u64> = model.range(pages.clone()).copied().collect();
            let mut found = vec![];
            match step {
                0 | 1 => {
                    bitmap.mark(offset, size);
                    model.extend(pages);
                }
                2 => {
                    bitmap.take(offset, size, |at, len| found.push((at, len)));
                    prop_assert_eq!(pages_in(&found), there);
                    model.retain(|page| !pages.contains(page));
                }
                3 => {
                    bitmap.runs(offset, size, |at, len| found.push((at, len)));
                    prop_assert_eq!(pages_in(&found), there);
                }
                4 => {
                    prop_assert_eq!(bitmap.clean(offset, size), there.len() as u64);
                    model.retain(|page| !pages.contains(page));
                }
                _ => {
                    let first = offset / PAGE / 64 * 64;
                    let word = bitmap.take_word(first * PAGE);
                    for bit in 0..64 {
                        prop_assert_eq!(word >> bit & 1 == 1, model.remove(&(first + bit)));
                    }
                }
            }
            prop_assert_eq!(bitmap.count(), model.len() as u64);
            prop_assert_eq!(bitmap.count_in(offset, size), model.range(pages_of(offset, size)).count() as u64);
            let next = model.range(offset / PAGE..).next().map(|page| (page * PAGE).max(offset / PAGE * PAGE));
            prop_assert_eq!(bitmap.next_dirty(offset), next);
        }
        let other = DirtyBitmap::new(LEN);
        other.mark(0, 1);
        other.merge(&bitmap);
        model.insert(0);
        prop_assert!(model.iter().all(|page| other.is_dirty(page * PAGE)) && other.count() == model.len() as u64);
        bitmap.mark_all();
        prop_assert_eq!(bitmap.count(), LEN.div_ceil(PAGE));
    }

    #[test]
    fn unwatched_granules_are_those_that_were_touched(
        steps in proptest::collection::vec((any::<bool>(), 0u64..3 << 30, 1u64..256 << 20), 1..20)
    ) {
        let len = 2 << 30;
        let logs = Logs::changed(None, len, DirtyClient::Migration, true).unwrap();
        let mut model = BTreeSet::new();
        for (leave, offset, size) in steps {
            let touched = offset / GRANULE..(offset + size).min(len).div_ceil(GRANULE);
            if leave {
                logs.leave_unwatched(offset, size);
                model.extend(touched);
            } else {
                let taken = logs.take_unwatched(offset, size);
                let taken: Vec<u64> = taken.into_iter().flat_map(|run| run.start / GRANULE..run.end / GRANULE).collect();
                let expected: Vec<u64> = touched.filter(|granule| model.remove(granule)).collect();
                prop_assert_eq!(taken, expected);
            }
        }
    }
}

#[test]
fn a_log_over_a_tebibyte_allocates_chunks_only_where_pages_are_dirty() {
    let bitmap = DirtyBitmap::new(1 << 40);
    bitmap.mark(5 << 30, 1);
    bitmap.merge_word((1 << 40) - 64 * PAGE, u64::MAX);
    assert_eq!(bitmap.chunks.iter().filter(|c| c.get().is_some()).count(), 2);
    assert_eq!(bitmap.count(), 65);
    assert!(bitmap.is_dirty((5 << 30) + 4095));
    assert_eq!(bitmap.next_dirty((5 << 30) + 4096), Some((1 << 40) - 64 * PAGE));
    assert_eq!(bitmap.next_dirty(1 << 40), None);
}

#[test]
fn the_logs_of_a_block_go_with_their_last_client() {
    let one = Logs::changed(None, 1 << 20, DirtyClient::Migration, true).unwrap();
    let two = Logs::changed(Some(&one), 1 << 20, DirtyClient::DirtyRate, true).unwrap();
    let bitmap = two.of(DirtyClient::Migration).unwrap();
    assert!(
        Arc::ptr_eq(bitmap, one.of(DirtyClient::Migration).unwrap()),
        "who joins changes nothing for others"
    );
    two.mark(0, 1);
    two.of(DirtyClient::DirtyRate).unwrap().take(0, PAGE, |_, _| ());
    assert!(bitmap.is_dirty(0) && two.is_dirty(0));
    let rest = Logs::changed(Some(&two), 1 << 20, DirtyClient::Migration, false).unwrap();
    assert!(rest.of(DirtyClient::Migration).is_none() && !rest.is_dirty(0));
    assert!(Logs::changed(Some(&rest), 1 << 20, DirtyClient::DirtyRate, false).is_none());
}
