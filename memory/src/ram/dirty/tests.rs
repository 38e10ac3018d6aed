//! The dirty bitmap against a set of pages.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

proptest! {
    #[test]
    fn marking_and_taking_agree_with_a_set_of_pages(
        steps in proptest::collection::vec((any::<bool>(), 0u64..300 * 1024 * 1024, 0u64..3 * 1024 * 1024), 1..20)
    ) {
        let len = 257 * 1024 * 1024;
        let bitmap = DirtyBitmap::new(len);
        let mut model = BTreeSet::new();
        for (mark, offset, size) in steps {
            let end = (offset + size).min(len);
            let pages: Vec<u64> = if offset < end { (offset / PAGE..end.div_ceil(PAGE)).collect() } else { vec![] };
            if mark {
                bitmap.mark(offset, size);
                model.extend(pages);
            } else {
                let mut taken = vec![];
                bitmap.take(offset, size, |at| taken.push(at / PAGE));
                let expected: Vec<u64> = pages.into_iter().filter(|p| model.remove(p)).collect();
                prop_assert_eq!(taken, expected);
            }
            prop_assert_eq!(bitmap.count(), model.len() as u64);
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
}
