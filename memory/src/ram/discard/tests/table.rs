//! {anonymous, memfd, file, POSIX shared memory} × {private, shared} × {4 KiB, transparent huge, hugetlb pages}: what is
//! discarded is gone from the host, reads as zero, and is all that changed.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use super::host::{HUGE, HugePages, file_bytes, present, smaps};
use super::*;

/// Bytes of a block: room for huge pages with neighbours.
const LEN: u64 = 4 * HUGE;

/// Which pages the kernel is made to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pages {
    Small,
    TransparentHuge,
    HugeTlb,
}

impl Pages {
    fn size(self) -> u64 {
        if self == Self::HugeTlb { HUGE } else { host_page_size() }
    }

    /// Ranges to discard in turn: whole huge pages, then where pages are small a page, some pages across a boundary, the first
    /// and the last one.
    fn parts(self) -> Vec<(u64, u64)> {
        let page = self.size();
        let mut parts = vec![(HUGE, HUGE)];
        if page < HUGE {
            parts.extend([(page, page), (3 * HUGE - 3 * page, 5 * page), (0, page)]);
        }
        parts.push((LEN - page, page));
        parts
    }
}

fn shm(len: u64, shared: bool) -> Backing {
    use rustix::shm::{Mode, OFlags};
    static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let count = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let name = format!("/pliant-test-{}-{count}", std::process::id());
    let fd = rustix::shm::open(&name, OFlags::RDWR | OFlags::CREATE | OFlags::EXCL, Mode::RUSR | Mode::WUSR)
        .unwrap();
    rustix::shm::unlink(&name).unwrap();
    rustix::fs::ftruncate(&fd, len).unwrap();
    mapped(File::from(fd), shared)
}

fn huge_memfd(len: u64, shared: bool) -> Backing {
    let spec = MemfdSpec { name: "t", hugetlb: Some(HUGE), seal: false };
    mapped(create_memfd(&spec, len).unwrap(), shared)
}

/// A name and what makes the memory.
type Kind = (&'static str, Box<dyn Fn() -> Backing>);

/// The kinds of memory that have such pages.
fn kinds(pages: Pages) -> Vec<Kind> {
    fn kind(name: &'static str, make: impl Fn() -> Backing + 'static) -> Kind {
        (name, Box::new(make))
    }
    if pages == Pages::HugeTlb {
        return vec![
            kind("hugetlb memfd shared", || huge_memfd(LEN, true)),
            kind("hugetlb memfd private", || huge_memfd(LEN, false)),
        ];
    }
    vec![
        kind("anonymous", || Backing::Anonymous),
        kind("anonymous shared", || Backing::AnonymousShared),
        kind("memfd shared", || memfd(LEN, true)),
        kind("memfd private", || memfd(LEN, false)),
        kind("file shared", || file(LEN, true)),
        kind("file private", || file(LEN, false)),
        kind("shm shared", || shm(LEN, true)),
        kind("shm private", || shm(LEN, false)),
    ]
}

/// The pattern: each page of 4 KiB has a byte of its own, never 0.
fn pattern(offset: u64) -> u8 {
    (offset / 4096 % 251) as u8 + 1
}

fn fill(block: &RamBlock) {
    // What a private mapping is a copy of; else it would be no different from anonymous memory.
    if let Some((file, start)) = block.file().filter(|_| !block.is_shared())
        && block.page_size() == host_page_size()
    {
        file.write_all_at(&vec![0xee; LEN as usize], start).unwrap();
    }
    let mut bytes = vec![0; LEN as usize];
    for (at, page) in (0..).step_by(4096).zip(bytes.chunks_exact_mut(4096)) {
        page.fill(pattern(at));
    }
    block.write(0, &bytes).unwrap();
}

/// What a part holds before it is discarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Holds {
    /// All its pages.
    Everything,
    /// No page.
    Nothing,
    /// Perhaps pages that reading holes made.
    Zeroes,
}

/// Bytes by which a file may differ from what it should have: a file system on disk takes some for itself (extents) while holes
/// are punched, and shared memory in transparent huge pages gives them back whole.
fn slack(name: &str) -> u64 {
    if name.starts_with("file") {
        return 64 << 10;
    }
    let huge =
        std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/shmem_enabled").unwrap_or_default();
    if huge.is_empty() || huge.contains("[never]") { 0 } else { HUGE }
}

struct Case {
    name: String,
    block: Arc<RamBlock>,
    /// What was discarded so far.
    gone: Vec<(u64, u64)>,
}

impl Case {
    /// Whether exactly those pages are mapped that were touched. A file system on disk maps more, and takes neighbours out of the
    /// mapping (not out of memory) when it splits what it mapped; a private mapping has pages of its own once written.
    fn is_exact(&self, holds: Holds) -> bool {
        match &self.name {
            name if name.starts_with("file shared") => false,
            name if name.starts_with("file private") => holds != Holds::Zeroes,
            _ => true,
        }
    }

    fn is_gone(&self, at: u64) -> bool {
        self.gone.iter().any(|(offset, len)| (*offset..offset + len).contains(&at))
    }

    /// Discards a part and counts.
    fn discard(&mut self, (offset, len): (u64, u64), holds: Holds) {
        let (name, block) = (&self.name, &self.block);
        let before = (present(block, 0, LEN), file_bytes(block), smaps(block, "AnonHugePages"));
        let lost = present(block, offset, len);
        if holds == Holds::Everything && self.is_exact(holds) {
            assert_eq!(lost, len / host_page_size(), "{name}: {offset:#x}+{len:#x} has pages to lose");
        }
        block.discard(offset, len).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(present(block, offset, len), 0, "{name}: pages of {offset:#x}+{len:#x}");
        if self.is_exact(holds) {
            assert_eq!(present(block, 0, LEN), before.0 - lost, "{name}: pages of neighbours");
        }
        if let Some((before, after)) = before.1.zip(file_bytes(block)) {
            let (least, most) = match holds {
                Holds::Nothing => (0, 0),
                Holds::Zeroes => (0, len),
                // A private mapping of huge pages never wrote the file.
                Holds::Everything => (len.min(before), len),
            };
            let given = i128::from(before) - i128::from(after);
            let slack = i128::from(slack(name));
            let (least, most) = (i128::from(least) - slack, i128::from(most) + slack);
            assert!((least..=most).contains(&given), "{name}: {offset:#x}+{len:#x}: {before}, then {after}");
        }
        if holds == Holds::Everything && len == HUGE && before.2 == LEN {
            assert_eq!(smaps(block, "AnonHugePages"), LEN - len, "{name}: huge pages");
        }
        self.gone.push((offset, len));
    }

    /// Reads all of it, which may fault in zero pages.
    fn check_contents(&self) {
        let mut bytes = vec![0xff; LEN as usize];
        self.block.read(0, &mut bytes).unwrap();
        for (at, page) in (0..).step_by(4096).zip(bytes.chunks_exact(4096)) {
            let expected = if self.is_gone(at) { 0 } else { pattern(at) };
            assert!(page == [expected; 4096], "{}: at {at:#x}: {:#x}", self.name, page[0]);
        }
    }

    /// The file itself: holes where it was discarded, also behind a private mapping, and nothing else changed.
    fn check_file(&self) {
        let Some((file, _)) = self.block.file().filter(|_| self.block.page_size() == host_page_size()) else {
            return;
        };
        let mut byte = [0xff];
        for at in (0..LEN).step_by(4096) {
            file.read_exact_at(&mut byte, at).unwrap();
            let untouched = if self.block.is_shared() { pattern(at) } else { 0xee };
            let expected = if self.is_gone(at) { 0 } else { untouched };
            assert_eq!(byte[0], expected, "{}: file at {at:#x}", self.name);
        }
    }
}

fn run(pages: Pages) {
    let list = RamList::default();
    for (name, make) in kinds(pages) {
        let name = format!("{name}, {pages:?} pages");
        let untouched = create(&list, LEN, make());
        untouched.discard(0, LEN).unwrap_or_else(|e| panic!("{name}: never touched: {e}"));
        assert_eq!(present(&untouched, 0, LEN), 0, "{name}: discarding takes no pages");
        assert!(file_bytes(&untouched).is_none_or(|bytes| bytes <= slack(&name)), "{name}");
        drop(untouched);

        let block = create(&list, LEN, make());
        assert_eq!(block.page_size(), pages.size(), "{name}");
        assert!((block.host_address() as u64).is_multiple_of(HUGE), "{name}: no huge page spans two blocks");
        fill(&block);
        assert_eq!(present(&block, 0, LEN), LEN / host_page_size(), "{name}: filled");
        let private = pages == Pages::HugeTlb && !block.is_shared();
        assert!(private || file_bytes(&block).is_none_or(|bytes| bytes >= LEN), "{name}: filled");
        let mut case = Case { name, block, gone: Vec::new() };
        for part in pages.parts() {
            case.discard(part, Holds::Everything);
            case.discard(part, Holds::Nothing);
        }
        case.check_file();
        case.check_contents();
        // What was read as zero may have taken a page: that goes again as well.
        for part in pages.parts() {
            case.discard(part, Holds::Zeroes);
        }
        case.check_contents();
    }
}

#[test]
fn what_is_discarded_is_gone_from_the_host_reads_as_zero_and_is_all_that_changed() {
    rustix::thread::disable_transparent_huge_pages(true).unwrap();
    run(Pages::Small);
    rustix::thread::disable_transparent_huge_pages(false).unwrap();
    run(Pages::TransparentHuge);
}

#[test]
fn hugetlb_pages_are_given_back_too() {
    // Twice the block, for a private mapping's copies.
    match HugePages::get(2 * LEN / HUGE) {
        Ok(_pages) => run(Pages::HugeTlb),
        Err(reason) => eprintln!("SKIPPED: {reason}"),
    }
}

#[test]
fn blocks_are_backed_by_transparent_huge_pages_which_are_given_back_whole() {
    let mode = std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled").unwrap_or_default();
    if mode.is_empty() || mode.contains("[never]") {
        eprintln!("SKIPPED: the host has no transparent huge pages: {mode}");
        return;
    }
    let list = RamList::default();
    let block = create(&list, LEN, Backing::Anonymous);
    fill(&block);
    // In mode `madvise` only because the block asked for them.
    let huge = smaps(&block, "AnonHugePages");
    if huge == 0 {
        eprintln!("SKIPPED: the host's memory is too fragmented for a huge page");
        return;
    }
    block.discard(HUGE, 2 * HUGE).unwrap();
    assert!(smaps(&block, "AnonHugePages") <= LEN - 2 * HUGE);
    assert_eq!(smaps(&block, "Rss"), LEN - 2 * HUGE, "freed at once: whole pages need no splitting");
}
