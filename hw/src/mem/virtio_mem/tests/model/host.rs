//! What the kernel says about the pages of a block.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;

use memory::RamBlock;
use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

use super::steps::PAGE;

/// Pages at each end of a range that are looked at: of a large block, to see all of it would take longer than the rest.
const LOOK: u64 = 16;

/// `/proc/self/pagemap`.
pub(super) struct Pages(File);

impl Pages {
    pub(super) fn new() -> Self {
        Self(File::open("/proc/self/pagemap").expect("every Linux has it"))
    }

    /// Whether the page that holds a byte of the block is in memory, or in swap.
    pub(super) fn holds(&self, block: &RamBlock, offset: u64) -> bool {
        self.any(block, offset / PAGE..offset / PAGE + 1)
    }

    /// Whether the host has memory for a range of whole pages, at its ends: in the mapping, or in the file that others see.
    pub(super) fn keeps(&self, block: &RamBlock, range: &Range<u64>) -> bool {
        let pages = range.start / PAGE..range.end / PAGE;
        let ends = [
            pages.start..pages.end.min(pages.start + LOOK),
            pages.start.max(pages.end.saturating_sub(LOOK))..pages.end,
        ];
        ends.into_iter().any(|end| self.any(block, end)) || block.is_shared() && has_data(block, range)
    }

    fn any(&self, block: &RamBlock, pages: Range<u64>) -> bool {
        let mut entries = vec![0; 8 * (pages.end - pages.start) as usize];
        let first = block.host_address() as u64 / PAGE + pages.start;
        self.0.read_exact_at(&mut entries, first * 8).expect("the block is mapped");
        // Bits 63 and 62 of each entry: present, swapped.
        entries.chunks(8).any(|entry| entry[7] & 0xc0 != 0)
    }
}

/// Addresses of this program that can be read, ascending.
pub(super) fn readable() -> Vec<Range<u64>> {
    let maps = std::fs::read_to_string("/proc/self/maps").expect("every Linux has it");
    let range = |line: &str| {
        let (range, access) = line.split_once(' ')?;
        let (start, end) = range.split_once('-').filter(|_| access.starts_with('r'))?;
        Some(u64::from_str_radix(start, 16).ok()?..u64::from_str_radix(end, 16).ok()?)
    };
    maps.lines().filter_map(range).collect()
}

fn has_data(block: &RamBlock, range: &Range<u64>) -> bool {
    let Some((file, start)) = block.file() else { return false };
    match seek(file, SeekFrom::Data(start + range.start)) {
        Ok(at) => at < start + range.end,
        Err(Errno::NXIO) => false,
        Err(error) => panic!("lseek: {error}"),
    }
}
