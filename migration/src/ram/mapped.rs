//! Memory at fixed places in a file (capability `mapped-ram`): each block has a bitmap of the pages that are there, and room for all of
//! its pages. A page that is written again overwrites what was there, so that the file is never longer than the memory, and what is zero
//! takes no room on the disk.
//!
//! In the list of blocks, behind name and length: version 1 (4 bytes), bytes of a page, offset of the bitmap, offset of the pages (8 bytes
//! each), all in the file. Bit 0 of byte 0 is the first page.

use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicU8, Ordering};

use memory::RamBlock;
use vmstate::{LoadError, Result};

use crate::wire::{Input, Output, PAGE};

const VERSION: u32 = 1;
/// Pages begin at a multiple of this.
#[doc(alias = "MAPPED_RAM_FILE_OFFSET_ALIGNMENT")]
const ALIGN: u64 = 1 << 20;

/// Where the pages of a block are.
#[derive(Debug)]
pub(crate) struct Place {
    bitmap: u64,
    pages: u64,
    present: Vec<AtomicU8>,
}

fn empty(len: u64) -> Vec<AtomicU8> {
    (0..bitmap_len(len)).map(|_| AtomicU8::new(0)).collect()
}

/// Bytes of a bitmap: whole words.
fn bitmap_len(block_len: u64) -> u64 {
    block_len.div_ceil(PAGE).div_ceil(64) * 8
}

impl Place {
    /// Writes the head for a block of `len` bytes, and leaves the room it needs.
    ///
    /// # Errors
    /// The channel's.
    pub(super) fn put(out: &mut Output, len: u64) -> io::Result<Self> {
        const HEAD: u64 = 4 + 3 * 8;
        let bitmap = out.position()? + HEAD;
        let pages = (bitmap + bitmap_len(len)).next_multiple_of(ALIGN);
        out.u32(VERSION)?;
        for value in [PAGE, bitmap, pages] {
            out.u64(value)?;
        }
        out.jump(pages + len)?;
        Ok(Self { bitmap, pages, present: empty(len) })
    }

    /// Writes the head for a block that is not in the file.
    ///
    /// # Errors
    /// The channel's.
    pub(super) fn put_nowhere(out: &mut Output) -> io::Result<()> {
        out.u32(VERSION)?;
        [PAGE, 0, 0].into_iter().try_for_each(|value| out.u64(value))
    }

    /// Reads the head for a block that is not in the file.
    ///
    /// # Errors
    /// The stream ended, or it is in it.
    pub(super) fn get_nowhere(input: &mut Input) -> Result<()> {
        let (version, page) = (input.u32()?, input.u64()?);
        let (bitmap, pages) = (input.u64()?, input.u64()?);
        if (version, page, bitmap, pages) == (VERSION, PAGE, 0, 0) {
            return Ok(());
        }
        Err(LoadError::invalid("mapped-ram pages of shared memory"))
    }

    /// Writes pages, or notes that they are zero.
    ///
    /// # Errors
    /// The channel's.
    pub(crate) fn put_pages(
        &self,
        out: &mut Output,
        block: &RamBlock,
        range: &Range<u64>,
        zero: bool,
    ) -> io::Result<()> {
        for page in range.start / PAGE..range.end / PAGE {
            let (byte, bit) = ((page / 8) as usize, 1u8 << (page % 8));
            if zero {
                self.present[byte].fetch_and(!bit, Ordering::Relaxed);
            } else {
                self.present[byte].fetch_or(bit, Ordering::Relaxed);
            }
        }
        if zero {
            return Ok(());
        }
        out.guest_at(block, range.start, range.end - range.start, self.pages + range.start)
    }

    /// Writes the bitmap.
    ///
    /// # Errors
    /// The channel's.
    pub(super) fn put_bitmap(&self, out: &mut Output) -> io::Result<()> {
        let back = out.position()?;
        out.jump(self.bitmap)?;
        let present: Vec<u8> = self.present.iter().map(|byte| byte.load(Ordering::Relaxed)).collect();
        out.bytes(&present)?;
        out.jump(back)
    }

    /// Reads the head for a block of `len` bytes.
    ///
    /// # Errors
    /// The stream ended, or it cannot be such a head.
    pub(super) fn get(input: &mut Input, len: u64) -> Result<Self> {
        let version = input.u32()?;
        let (page, bitmap, pages) = (input.u64()?, input.u64()?, input.u64()?);
        if version != VERSION {
            return Err(LoadError::invalid(format!(
                "Migration mapped-ram capability version not supported: {version}"
            )));
        }
        if page != PAGE {
            return Err(LoadError::invalid(format!("Invalid page size in mapped-ram header: {page}")));
        }
        let place = Self { bitmap, pages, present: empty(len) };
        let end = pages.checked_add(len).filter(|end| i64::try_from(*end).is_ok());
        let sane = end.is_some() && bitmap < pages && pages - bitmap >= bitmap_len(len);
        if sane { Ok(place) } else { Err(LoadError::invalid("mapped-ram pages at an impossible place")) }
    }

    /// Reads the bitmap, and gives the runs of pages that are there.
    ///
    /// # Errors
    /// The file is shorter.
    pub(super) fn runs(&self, input: &Input, len: u64) -> Result<Vec<Range<u64>>> {
        let mut present = vec![0u8; self.present.len()];
        input.read_at(&mut present, self.bitmap)?;
        let mut runs: Vec<Range<u64>> = Vec::new();
        for page in 0..len.div_ceil(PAGE) {
            if present[(page / 8) as usize] & (1 << (page % 8)) == 0 {
                continue;
            }
            let (start, end) = (page * PAGE, (page + 1) * PAGE);
            match runs.last_mut() {
                Some(last) if last.end == start => last.end = end,
                _ => runs.push(start..end),
            }
        }
        Ok(runs)
    }

    /// Reads pages.
    ///
    /// # Errors
    /// The file is shorter.
    pub(super) fn pages(&self, input: &Input, block: &RamBlock, run: &Range<u64>) -> Result<()> {
        input.guest_at(block, run.start, run.end - run.start, self.pages + run.start)?;
        Ok(())
    }

    /// Goes behind the pages of a block of `len` bytes.
    ///
    /// # Errors
    /// The system's.
    pub(super) fn skip(&self, input: &mut Input, len: u64) -> Result<()> {
        input.jump(self.pages + len)?;
        Ok(())
    }
}
