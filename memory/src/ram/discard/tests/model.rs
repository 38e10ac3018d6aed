//! Any order of writing and discarding against a list of pages: contents, and which pages exist at all.

use proptest::prelude::*;

use super::host::present;
use super::*;

const PAGES: u64 = 24;
const PAGE: u64 = 4096;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn pages_exist_where_something_was_written_since_they_were_discarded(
        steps in proptest::collection::vec((0..PAGES, 1..=PAGES, proptest::option::of(1..=255u8)), 1..24),
        kind in 0..4u8,
    ) {
        // A page that is not asked for would come with a huge one.
        rustix::thread::disable_transparent_huge_pages(true).unwrap();
        let len = PAGES * PAGE;
        let backing = match kind {
            0 => Backing::Anonymous,
            1 => Backing::AnonymousShared,
            2 => memfd(len, false),
            _ => file(len, true),
        };
        let list = RamList::default();
        let block = create(&list, len, backing);
        let mut model = [0u8; PAGES as usize];
        for (first, count, write) in steps {
            let pages = first..(first + count).min(PAGES);
            let (offset, len) = (pages.start * PAGE, (pages.end - pages.start) * PAGE);
            match write {
                Some(byte) => block.write(offset, &vec![byte; len as usize]).unwrap(),
                None => block.discard(offset, len).unwrap(),
            }
            model[pages.start as usize..pages.end as usize].fill(write.unwrap_or(0));
            prop_assert!(write.is_some() || present(&block, offset, len) == 0);
            // A file system maps more than was asked for, and less when it splits what it mapped.
            for page in (0..PAGES).filter(|_| kind != 3) {
                let exists = u64::from(model[page as usize] != 0);
                prop_assert_eq!(present(&block, page * PAGE, PAGE), exists, "page {}", page);
            }
        }
        let mut bytes = vec![0xff; len as usize];
        block.read(0, &mut bytes).unwrap();
        for (page, bytes) in model.iter().zip(bytes.chunks_exact(PAGE as usize)) {
            prop_assert!(bytes.iter().all(|b| b == page));
        }
    }
}
