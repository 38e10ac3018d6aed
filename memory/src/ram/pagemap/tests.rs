//! Both ways of asking tell the same of memory that was written.

use proptest::prelude::*;

use super::*;
use crate::ram::{RamBlock, RamList, RamSpec};

const PAGES: u64 = 1100;

/// All pages that are there, counted from the block's beginning.
fn all(map: &PageMap, block: &RamBlock) -> Vec<u64> {
    let base = block.host_address() as u64 / host_page_size();
    let mut list = Vec::new();
    let mut at = base;
    while let Some(run) = map.first(at..base + PAGES).unwrap() {
        assert!(at <= run.start && run.start < run.end && run.end <= base + PAGES, "{run:?} from {at}");
        list.extend(run.start - base..run.end - base);
        at = run.end;
    }
    list
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn what_was_written_is_there(
        written in prop::collection::btree_set(0..PAGES, 0..40),
        touched in prop::collection::btree_set(0..PAGES, 0..40),
    ) {
        let page = host_page_size();
        let block = RamList::default().create(RamSpec::anonymous("ram", PAGES * page)).unwrap();
        // So that pages are there that were written, and no others.
        block.set_huge_pages(false);
        for at in &touched {
            block.read(at * page, &mut [0; 8]).unwrap();
        }
        for at in &written {
            block.write(at * page, &[1]).unwrap();
        }
        let new = PageMap::open().unwrap();
        let asked = all(&new, &block);
        let read = all(&PageMap::of_old_kernel().unwrap(), &block);
        let both: Vec<u64> = written.union(&touched).copied().collect();
        let written: Vec<u64> = written.into_iter().collect();
        // Pages that are the one page of zeroes are there as well.
        prop_assert_eq!(&read, &both);
        let expected = if new.reads_entries.load(Ordering::Relaxed) { &both } else { &written };
        prop_assert_eq!(&asked, expected);
    }
}

#[test]
fn what_cannot_be_asked_for_is_an_error() {
    let map = PageMap::open().unwrap();
    // Not an address of this process.
    map.first(1 << 50..(1 << 50) + 1).unwrap_err();
}
