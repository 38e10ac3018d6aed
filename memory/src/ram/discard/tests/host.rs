//! What the host says about the pages of a block, and what it has to be asked for first.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;

use super::super::{RamBlock, host_page_size};

/// Bytes of a huge page in these tests.
pub(super) const HUGE: u64 = 2 << 20;

/// Pages (of the host) of a range that are mapped or swapped out, from `/proc/self/pagemap`.
pub(super) fn present(block: &RamBlock, offset: u64, len: u64) -> u64 {
    const PRESENT_OR_SWAPPED: u64 = 0b11 << 62;
    let page = host_page_size();
    let mut entries = vec![0; (len / page * 8) as usize];
    let at = (block.host_address() as u64 + offset) / page * 8;
    File::open("/proc/self/pagemap").unwrap().read_exact_at(&mut entries, at).unwrap();
    let entries = entries.chunks_exact(8).map(|e| u64::from_ne_bytes(e.try_into().unwrap()));
    entries.filter(|entry| entry & PRESENT_OR_SWAPPED != 0).count() as u64
}

/// Bytes that the file behind a block takes.
pub(super) fn file_bytes(block: &RamBlock) -> Option<u64> {
    block.file().map(|(file, _)| file.metadata().unwrap().blocks() * 512)
}

/// A figure of `/proc/self/smaps` in bytes, over all parts that the kernel may have cut the mapping into.
pub(super) fn smaps(block: &RamBlock, field: &str) -> u64 {
    let (start, end) = (block.host_address() as u64, block.host_address() as u64 + block.max_size());
    let text = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let (mut inside, mut kib) = (false, 0);
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let first = words.next().unwrap_or_default();
        let address = |s: &str| u64::from_str_radix(s, 16).ok();
        if let Some((low, high)) = first.split_once('-').and_then(|(a, b)| address(a).zip(address(b))) {
            inside = low < end && high > start;
        } else if inside && first.strip_suffix(':') == Some(field) {
            kib += words.next().unwrap().parse::<u64>().unwrap();
        }
    }
    kib << 10
}

/// Huge pages for a test: those that are free, or some that are reserved for its time, which changes the host for everybody and
/// is done only when asked for.
pub(super) struct HugePages {
    before: Option<String>,
}

const POOL: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB";

impl HugePages {
    /// `count` free pages, or why there are none.
    pub(super) fn get(count: u64) -> Result<Self, String> {
        let number = |name: &str| -> u64 {
            let text = std::fs::read_to_string(Path::new(POOL).join(name)).unwrap_or_default();
            text.trim().parse().unwrap_or_default()
        };
        let free = || number("free_hugepages").saturating_sub(number("resv_hugepages"));
        if free() >= count {
            return Ok(Self { before: None });
        }
        if std::env::var_os("PLIANT_TEST_RESERVE_HUGEPAGES").is_none() {
            return Err("no free 2 MiB huge pages; PLIANT_TEST_RESERVE_HUGEPAGES=1 reserves some".into());
        }
        let before = number("nr_hugepages");
        let reserved = Self { before: Some(before.to_string()) };
        reserved.set(&(before + count).to_string()).map_err(|e| format!("reserving huge pages: {e}"))?;
        if free() < count {
            return Err("the host cannot find enough huge pages".into());
        }
        Ok(reserved)
    }

    fn set(&self, count: &str) -> io::Result<()> {
        std::fs::write(Path::new(POOL).join("nr_hugepages"), count)
    }
}

impl Drop for HugePages {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            self.set(before).unwrap();
        }
    }
}
