//! Which pages the host has for a mapping of this process: `/proc/self/pagemap`.
//!
//! Linux `Documentation/admin-guide/mm/pagemap.rst`. From Linux 6.7 on the kernel is asked for the first run of pages (`PAGEMAP_SCAN`), which
//! costs next to nothing where they are huge, and tells those that were only read and are the one page of zeroes. Before,
//! each page has an entry that is read.

#![expect(unsafe_code, reason = "the ioctl PAGEMAP_SCAN")]

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicBool, Ordering};

use vmm_sys_util::ioctl::ioctl_with_mut_ref;

use super::file::host_page_size;

/// Bytes of an entry.
pub(super) const ENTRY: usize = 8;
/// Entries read at a time: those of 2 MiB.
const ENTRIES: usize = 512;
/// In an entry: in RAM, or swapped out.
const OCCUPIED: u64 = 0b11 << 62;
/// In an entry: in RAM.
const PRESENT: u64 = 1 << 63;
/// In an entry: its number there.
const FRAME: u64 = (1 << 55) - 1;

/// `PAGE_IS_PRESENT | PAGE_IS_SWAPPED`
const IS_OCCUPIED: u64 = 0b11 << 3;
/// `PAGE_IS_PFNZERO`
const IS_ZERO: u64 = 1 << 5;

/// `struct pm_scan_arg`
#[repr(C)]
#[derive(Debug, Default)]
struct Question {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    regions: u64,
    regions_len: u64,
    max_pages: u64,
    inverted: u64,
    all_of: u64,
    any_of: u64,
    told: u64,
}

/// `struct page_region`: addresses and what they are.
#[repr(C)]
#[derive(Debug, Default)]
struct Region {
    start: u64,
    end: u64,
    categories: u64,
}

vmm_sys_util::ioctl_iowr_nr!(PAGEMAP_SCAN, b'f' as std::os::raw::c_uint, 16, Question);

/// The page map, as far as the kernel tells it.
#[derive(Debug)]
pub(super) struct PageMap {
    file: File,
    /// The kernel has no `PAGEMAP_SCAN`.
    reads_entries: AtomicBool,
}

impl PageMap {
    /// # Errors
    /// The system's.
    pub(super) fn open() -> io::Result<Self> {
        Ok(Self { file: File::open("/proc/self/pagemap")?, reads_entries: AtomicBool::new(false) })
    }

    /// The same, as on a kernel that has no `PAGEMAP_SCAN`.
    #[cfg(test)]
    pub(super) fn of_old_kernel() -> io::Result<Self> {
        Self::open().map(|map| Self { reads_entries: true.into(), ..map })
    }

    /// The first run of `pages`, numbers of pages in the address space, that are there; it may end early.
    ///
    /// # Errors
    /// The kernel does not tell.
    pub(super) fn first(&self, pages: Range<u64>) -> io::Result<Option<Range<u64>>> {
        if !self.reads_entries.load(Ordering::Relaxed) {
            match self.ask(pages.clone()) {
                Err(error) if error.raw_os_error() == Some(libc::ENOTTY) => {
                    self.reads_entries.store(true, Ordering::Relaxed);
                }
                told => return told,
            }
        }
        self.read(pages)
    }

    fn ask(&self, pages: Range<u64>) -> io::Result<Option<Range<u64>>> {
        let page = host_page_size();
        let mut region = Region::default();
        let mut question = Question {
            size: size_of::<Question>() as u64,
            start: pages.start * page,
            end: pages.end * page,
            regions: &raw mut region as u64,
            regions_len: 1,
            // Such that are no zero page.
            inverted: IS_ZERO,
            all_of: IS_ZERO,
            any_of: IS_OCCUPIED,
            told: IS_OCCUPIED,
            ..Question::default()
        };
        loop {
            // SAFETY: the kernel reads the question, writes its `walk_end`, and writes at most one region; both outlive the call.
            let count = unsafe { ioctl_with_mut_ref(&self.file, PAGEMAP_SCAN(), &mut question) };
            match count {
                0 => return Ok(None),
                1.. => return Ok(Some(region.start / page..region.end / page)),
                _ => {
                    let error = io::Error::last_os_error();
                    if error.kind() != io::ErrorKind::Interrupted {
                        return Err(error);
                    }
                }
            }
        }
    }

    fn read(&self, pages: Range<u64>) -> io::Result<Option<Range<u64>>> {
        let mut bytes = [0; ENTRIES * ENTRY];
        let mut index = pages.start;
        while index < pages.end {
            let count = (pages.end - index).min(ENTRIES as u64);
            let bytes = &mut bytes[..count as usize * ENTRY];
            self.file.read_exact_at(bytes, index * ENTRY as u64)?;
            let (entries, _) = bytes.as_chunks::<ENTRY>();
            let mut occupied = entries.iter().map(|entry| u64::from_le_bytes(*entry) & OCCUPIED != 0);
            if let Some(before) = occupied.position(|occupied| occupied) {
                let start = index + before as u64;
                // What follows is told when it is asked for.
                let more = occupied.position(|occupied| !occupied);
                return Ok(Some(start..more.map_or(index + count, |more| start + 1 + more as u64)));
            }
            index += count;
        }
        Ok(None)
    }

    /// The number of the page of RAM that is there for the page `index`. A process that may not know is told 0.
    ///
    /// # Errors
    /// The kernel does not tell.
    pub(super) fn frame(&self, index: u64) -> io::Result<Option<u64>> {
        let mut raw = [0; ENTRY];
        self.file.read_exact_at(&mut raw, index * ENTRY as u64)?;
        let entry = u64::from_le_bytes(raw);
        Ok((entry & PRESENT != 0).then_some(entry & FRAME))
    }
}

#[cfg(test)]
mod tests;
