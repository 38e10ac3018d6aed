//! Reading a block without making anything of it resident: what a guest never wrote costs the host nothing, and a dump of the
//! guest must not change that.
//!
//! Which bytes there are is asked of the kernel: of a file by `SEEK_DATA`, of private pages by `/proc/self/pagemap`
//! ([`super::pagemap`]). Pages of a shared mapping are read from the file: touching a
//! hole of a memfd would allocate it, and of hugetlbfs a whole huge page, or end the program where there is none left. Where the
//! kernel does not tell, everything counts as data.

use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

use super::block::{FileBacking, RamBlock};
use super::file::host_page_size;
use super::pagemap::PageMap;
use crate::error;

/// Reads one block.
#[derive(Debug)]
pub struct BlockReader {
    block: Arc<RamBlock>,
    /// Opened when it is needed. Absent if the mapping has no pages of its own, or the kernel does not tell.
    pagemap: OnceLock<Option<PageMap>>,
    /// A part of the block that the file had data for when it was asked: finding where data ends costs what there is of it. What has
    /// become a hole since reads as zeroes, too.
    extent: Mutex<Range<u64>>,
}

impl RamBlock {
    /// A reader that leaves what was never written as it is.
    pub fn reader(self: &Arc<Self>) -> BlockReader {
        BlockReader { block: Arc::clone(self), pagemap: OnceLock::new(), extent: Mutex::new(0..0) }
    }
}

impl BlockReader {
    /// The block.
    pub fn block(&self) -> &Arc<RamBlock> {
        &self.block
    }

    fn pagemap(&self) -> Option<&PageMap> {
        let open = || {
            let private = self.block.backing().is_none_or(|file| !file.shared);
            if private { PageMap::open().ok() } else { None }
        };
        self.pagemap.get_or_init(open).as_ref()
    }

    /// The first part of `range` that may hold something else than zeroes, in whole pages cut to the range; empty, at the range's
    /// end, if there is none. What comes before it is zero.
    pub fn next_data(&self, range: Range<u64>) -> Range<u64> {
        let end = range.end.min(self.block.max_size());
        let none = end.max(range.start)..end.max(range.start);
        if range.start >= end {
            return none;
        }
        let range = range.start..end;
        if self.block.is_arriving() {
            return range;
        }
        let own = match (self.pagemap(), self.block.backing()) {
            (Some(pagemap), _) => self.next_page(pagemap, range.clone()),
            (None, Some(file)) if file.shared => None,
            (None, _) => Some(range.clone()),
        };
        let in_file = self.block.backing().and_then(|file| self.next_in_file(file, &range));
        match (own, in_file) {
            (None, None) => none,
            (Some(one), None) | (None, Some(one)) => one,
            // The rest follows when it is asked for.
            (Some(one), Some(other)) => {
                if one.start <= other.start {
                    one
                } else {
                    other
                }
            }
        }
    }

    /// Copies out of the block, as [`RamBlock::read`].
    ///
    /// # Errors
    /// As there.
    pub fn read(&self, offset: u64, buf: &mut [u8]) -> error::Result<()> {
        let len = buf.len() as u64;
        let end = offset.saturating_add(len);
        let may_be_read = end <= self.block.max_size() && self.block.is_accessible(offset, len);
        // What has yet to come is not in the file: whoever touches it waits.
        let from_file = may_be_read && !self.block.is_arriving();
        let Some(file) = self.block.backing().filter(|_| from_file) else {
            return self.block.read(offset, buf);
        };
        // Where the mapping has no page of its own, the file has the contents.
        let mut at = offset;
        while at < end {
            let own = match self.pagemap() {
                Some(pagemap) => self.next_page(pagemap, at..end).unwrap_or(end..end),
                None if file.shared => end..end,
                None => at..end,
            };
            let mut part = |range: &Range<u64>, read: &dyn Fn(u64, &mut [u8]) -> error::Result<()>| {
                read(range.start, &mut buf[(range.start - offset) as usize..(range.end - offset) as usize])
            };
            let foreign = at..own.start;
            part(&foreign, &|at, buf| match read_file(file, at, buf) {
                Ok(()) => Ok(()),
                // No file to read from, such as a device: the mapping it is.
                Err(_) => self.block.read(at, buf),
            })?;
            part(&own, &|at, buf| self.block.read(at, buf))?;
            at = own.end;
        }
        Ok(())
    }

    /// Where the host keeps the byte at `offset`, without making it resident. A process that may not know is told page 0.
    ///
    /// # Errors
    /// The host has no page for it, or does not tell.
    pub fn host_physical(&self, offset: u64) -> io::Result<u64> {
        if offset >= self.block.max_size() {
            return Err(io::Error::other("Page not present"));
        }
        let page = host_page_size();
        let address = self.block.host_address() as u64 + offset;
        let failed = |what: &str| io::Error::other(format!("Cannot {what}pagemap"));
        let pagemap = PageMap::open().map_err(|_| failed("open /proc/self/"))?;
        match pagemap.frame(address / page).map_err(|_| failed("read "))? {
            Some(frame) => Ok(frame * page + address % page),
            None => Err(io::Error::other("Page not present")),
        }
    }

    /// The first part of `range` that the file has data for.
    fn next_in_file(&self, file: &FileBacking, range: &Range<u64>) -> Option<Range<u64>> {
        // Assigned whole.
        let mut extent = self.extent.lock().unwrap_or_else(PoisonError::into_inner);
        if !extent.contains(&range.start) {
            match data_in_file(file, range.start) {
                Ok(found) => *extent = found?,
                Err(_) => return Some(range.clone()),
            }
        }
        let (start, end) = (extent.start.max(range.start), extent.end.min(range.end));
        (start < end).then_some(start..end)
    }

    /// The first run of pages in `range` that the mapping has for itself; it may end early.
    fn next_page(&self, pagemap: &PageMap, range: Range<u64>) -> Option<Range<u64>> {
        let page = host_page_size();
        let base = self.block.host_address() as u64 / page;
        let pages = range.start / page..range.end.div_ceil(page);
        match pagemap.first(base + pages.start..base + pages.end) {
            Ok(found) => found.map(|run| cut(run.start - base..run.end - base, page, &range)),
            // Unknown counts as data.
            Err(_) => Some(range),
        }
    }
}

/// Pages as bytes inside `range`.
fn cut(pages: Range<u64>, page: u64, range: &Range<u64>) -> Range<u64> {
    (pages.start * page).max(range.start)..(pages.end * page).min(range.end)
}

/// The first part of the block, from `offset` on, that the file has data for; nothing if there is none to its end.
fn data_in_file(file: &FileBacking, offset: u64) -> Result<Option<Range<u64>>, Errno> {
    match seek(&file.file, SeekFrom::Data(offset.saturating_add(file.offset))) {
        // Nothing from here to the end of the file.
        Err(Errno::NXIO) => Ok(None),
        Err(errno) => Err(errno),
        Ok(data) => {
            let hole = seek(&file.file, SeekFrom::Hole(data)).unwrap_or(u64::MAX);
            Ok(Some(data.saturating_sub(file.offset)..hole.saturating_sub(file.offset)))
        }
    }
}

/// Fills `buf` from the block's offset `at`; what is behind the end of the file is zero.
fn read_file(file: &FileBacking, at: u64, buf: &mut [u8]) -> io::Result<()> {
    let mut done = 0;
    while done < buf.len() {
        match file.file.read_at(&mut buf[done..], file.offset + at + done as u64) {
            Ok(0) => {
                buf[done..].fill(0);
                return Ok(());
            }
            Ok(count) => done += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
