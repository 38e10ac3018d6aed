//! Each kind of memory is given back for real: pages are counted, not replies.

use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;

use super::*;
use crate::ram::{Backing, FileBacking, MemfdSpec, RamList, RamSpec, create_memfd};

const LEN: u64 = 1 << 20;

fn blocks_of(block: &RamBlock) -> Option<u64> {
    block.file().map(|(file, _)| file.metadata().unwrap().blocks())
}

fn file(shared: bool, readonly_fd: bool) -> Backing {
    let mut named = tempfile::NamedTempFile::new().unwrap();
    named.write_all(&vec![7; LEN as usize]).unwrap();
    let file = if readonly_fd { std::fs::File::open(named.path()).unwrap() } else { named.into_file() };
    Backing::File(FileBacking { file, offset: 0, shared, readonly_fd })
}

fn memfd(shared: bool) -> Backing {
    let file = create_memfd(&MemfdSpec { name: "t", seal: true, ..Default::default() }, LEN).unwrap();
    Backing::File(FileBacking { file, offset: 0, shared, readonly_fd: false })
}

#[test]
fn every_kind_of_memory_is_given_back_and_reads_as_zero() {
    let kinds = [
        ("anonymous", Backing::Anonymous),
        ("anonymous shared", Backing::AnonymousShared),
        ("memfd shared", memfd(true)),
        ("memfd private", memfd(false)),
        ("file shared", file(true, false)),
        ("file private", file(false, false)),
    ];
    for (name, backing) in kinds {
        let list = RamList::default();
        let block = list.create(RamSpec::anonymous(name, LEN).backing(backing)).unwrap();
        block.write(0, &vec![9; LEN as usize]).unwrap();
        let (before, half) = (blocks_of(&block), LEN / 2);
        block.discard(half, half).unwrap();
        let mut buf = vec![1; half as usize];
        block.read(0, &mut buf).unwrap();
        assert!(buf.iter().all(|&b| b == 9), "{name}: the other half is untouched");
        if let (Some(before), Some(after)) = (before, blocks_of(&block)) {
            assert!(after <= before, "{name}: {before} -> {after}");
            if block.is_shared() {
                assert!(after <= before / 2 + 8, "{name}: the file gave blocks back: {before} -> {after}");
            }
        } else {
            let resident = block.mapping.resident(half, half).unwrap();
            assert_eq!(resident.iter().filter(|p| *p & 1 == 1).count(), 0, "{name}");
        }
        block.read(half, &mut buf).unwrap();
        assert!(buf.iter().all(|&b| b == 0), "{name}: reads as zero");
    }
}

#[test]
fn a_readonly_file_is_refused_with_the_texts_of_the_oracle() {
    let list = RamList::default();
    let block = list.create(RamSpec::anonymous("ro", LEN).backing(file(false, true))).unwrap();
    let error = block.discard(0, LEN).unwrap_err();
    assert_eq!(
        error.to_string(),
        "ram_block_discard_range: Discarding RAM with readonly files is not supported"
    );
    assert_eq!(error.reason(), "Operation not permitted");
}

#[test]
fn ranges_are_checked() {
    let list = RamList::default();
    let block = list.create(RamSpec::anonymous("m", LEN)).unwrap();
    for (offset, len) in [(1, 4096), (0, 1), (LEN, 4096), (0, LEN + 4096), (u64::MAX - 4095, 4096)] {
        assert!(block.discard(offset, len).is_err(), "{offset:#x}+{len:#x}");
    }
    block.discard(0, 0).unwrap();
}
