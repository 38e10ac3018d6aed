//! Reading gives what is there, says where nothing is, and leaves nothing behind: for each kind of memory.

use std::fs::File;
use std::os::unix::fs::MetadataExt as _;

use proptest::prelude::*;

use super::*;
use crate::ram::pagemap::ENTRY;
use crate::ram::{Backing, MemfdSpec, RamList, RamSpec, create_memfd};

const PAGE: u64 = 4096;
const PAGES: u64 = 1030;
const LEN: u64 = PAGES * PAGE;

fn memfd(shared: bool, offset: u64) -> Backing {
    let file = create_memfd(&MemfdSpec { name: "t", ..Default::default() }, LEN + offset).unwrap();
    Backing::File(FileBacking { file, offset, shared, readonly_fd: false })
}

/// Name and block of each kind.
fn kinds() -> Vec<(&'static str, Arc<RamBlock>)> {
    let list = RamList::default();
    let block = |name: &'static str, backing| {
        let block = list.create(RamSpec::anonymous(name, LEN).backing(backing)).unwrap();
        (name, block)
    };
    vec![
        block("anonymous", Backing::Anonymous),
        block("anonymous shared", Backing::AnonymousShared),
        block("memfd shared", memfd(true, 0)),
        block("memfd private", memfd(false, 0)),
        block("memfd shared, from an offset", memfd(true, 3 * PAGE)),
        block("memfd private, from an offset", memfd(false, 3 * PAGE)),
    ]
}

/// All bytes, by data runs; what lies between them is zero.
fn by_runs(reader: &BlockReader, range: Range<u64>) -> Vec<u8> {
    let mut all = vec![0; (range.end - range.start) as usize];
    let mut at = range.start;
    loop {
        let run = reader.next_data(at..range.end);
        assert!(at <= run.start && run.start <= run.end && run.end <= range.end, "{run:?}");
        if run.is_empty() {
            assert_eq!(run.start, range.end);
            return all;
        }
        let part = &mut all[(run.start - range.start) as usize..(run.end - range.start) as usize];
        reader.read(run.start, part).unwrap();
        at = run.end;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn data_runs_and_single_reads_give_what_was_written(
        // In the file, before it is mapped privately or not; then through the mapping.
        below in prop::collection::vec((0..LEN - 64, 1u8..), 0..4),
        writes in prop::collection::vec((0..LEN - 64, any::<u8>()), 0..6),
        from in 0..LEN,
        len in 1..LEN,
    ) {
        let range = from..from.saturating_add(len).min(LEN);
        for (name, block) in kinds() {
            let mut model = vec![0; LEN as usize];
            for (at, byte) in &below {
                let Some((file, offset)) = block.file() else { continue };
                file.write_all_at(&[*byte; 64], offset + at).unwrap();
                model[*at as usize..][..64].fill(*byte);
            }
            for (at, byte) in &writes {
                block.write(*at, &[*byte; 64]).unwrap();
                model[*at as usize..][..64].fill(*byte);
            }
            let reader = block.reader();
            prop_assert!(by_runs(&reader, 0..LEN) == model, "{}: all", name);
            let part = &model[range.start as usize..range.end as usize];
            prop_assert!(by_runs(&reader, range.clone()) == part, "{}: {:?}", name, range);
            let mut buf = vec![1; part.len()];
            reader.read(range.start, &mut buf).unwrap();
            prop_assert!(buf == part, "{}: {:?} at once", name, range);
        }
    }
}

/// Pages of the mapping that are there.
fn pages_of(block: &RamBlock) -> usize {
    let mut entries = vec![0; PAGES as usize * ENTRY];
    let at = block.host_address() as u64 / PAGE * ENTRY as u64;
    File::open("/proc/self/pagemap").unwrap().read_exact_at(&mut entries, at).unwrap();
    // Bits 62 and 63 are in the last byte of each.
    entries.iter().skip(ENTRY - 1).step_by(ENTRY).filter(|byte| **byte >> 6 != 0).count()
}

#[test]
fn reading_a_block_that_was_hardly_written_makes_nothing_resident() {
    for (name, block) in kinds() {
        block.write(700 * PAGE, &[7; 10]).unwrap();
        let held = || {
            let file = block.file().map(|(file, _)| file.metadata().unwrap().blocks());
            (pages_of(&block), file)
        };
        let before = held();
        let reader = block.reader();
        let run = reader.next_data(0..LEN);
        // A huge page may come with the one that was written.
        assert!(512 * PAGE <= run.start && run.end <= 1024 * PAGE, "{name}: {run:?}");
        assert!(run.contains(&(700 * PAGE)), "{name}: {run:?}");
        assert!(reader.next_data(run.end..LEN).is_empty(), "{name}");
        if block.file().is_some_and(|_| block.is_shared()) {
            // Even of what was never written.
            reader.read(0, &mut vec![1; LEN as usize]).unwrap();
        }
        reader.read(run.start, &mut vec![1; (run.end - run.start) as usize]).unwrap();
        assert_eq!(held(), before, "{name}");
    }
}

#[test]
fn ranges_end_with_the_block() {
    for (name, block) in kinds() {
        let reader = block.reader();
        assert!(reader.next_data(LEN..LEN + PAGE).is_empty(), "{name}");
        assert!(reader.next_data(u64::MAX - 1..u64::MAX).is_empty(), "{name}");
        assert!(reader.read(LEN - 1, &mut [0; 2]).is_err(), "{name}");
        assert!(reader.read(u64::MAX, &mut [0; 2]).is_err(), "{name}");
    }
}

#[test]
fn where_the_host_keeps_a_page_is_told_without_making_one() {
    let block = RamList::default().create(RamSpec::anonymous("ram", 1 << 20)).unwrap();
    let reader = block.reader();
    let missing = |offset| reader.host_physical(offset).unwrap_err().to_string();
    assert_eq!(missing(0x5678), "Page not present");
    assert_eq!(missing(0x5678), "Page not present", "still");
    assert_eq!(missing(1 << 20), "Page not present", "behind the end");
    block.write(0x5678, &[1]).unwrap();
    assert_eq!(reader.host_physical(0x5678).unwrap() % host_page_size(), 0x5678 % host_page_size());
}
