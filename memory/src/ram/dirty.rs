//! Which pages of a block were written, for migration.
//!
//! Two levels: chunks of [`CHUNK_PAGES`] pages come into being when a page in them is first written, so a log over
//! 1 TiB costs 128 KiB until then. Marking is one atomic OR.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// Pages a chunk stands for: 128 MiB of 4 KiB pages in 4 KiB of bits.
const CHUNK_PAGES: u64 = (CHUNK_WORDS * 64) as u64;
const CHUNK_WORDS: usize = 512;
/// Bytes a bit stands for.
const PAGE: u64 = 4096;

/// A dirty bitmap in 4 KiB pages.
#[derive(Debug)]
pub struct DirtyBitmap {
    len: u64,
    chunks: Box<[OnceLock<Box<[AtomicU64]>>]>,
}

impl DirtyBitmap {
    /// All clean, for a block of `len` bytes.
    pub fn new(len: u64) -> Self {
        let chunks = len.div_ceil(PAGE).div_ceil(CHUNK_PAGES);
        Self { len, chunks: (0..chunks).map(|_| OnceLock::new()).collect() }
    }

    /// Bytes a bit stands for.
    pub const fn page_size() -> u64 {
        PAGE
    }

    /// Marks the pages of `len` bytes at `offset`. What lies beyond the end is ignored.
    pub fn mark(&self, offset: u64, len: u64) {
        let end = offset.saturating_add(len).min(self.len);
        if offset >= end {
            return;
        }
        for page in offset / PAGE..end.div_ceil(PAGE) {
            self.word(page).fetch_or(1 << (page % 64), Ordering::Relaxed);
        }
    }

    /// ORs 64 pages at once: bit 0 of `bits` is the page at `offset`, a multiple of 64 pages. The form in which an
    /// accelerator hands its log over.
    pub fn merge_word(&self, offset: u64, bits: u64) {
        let page = offset / PAGE;
        debug_assert_eq!(page % 64, 0, "words are aligned");
        let left = self.len.div_ceil(PAGE).saturating_sub(page);
        let bits = if left < 64 { bits & ((1 << left) - 1) } else { bits };
        if bits != 0 {
            self.word(page).fetch_or(bits, Ordering::Relaxed);
        }
    }

    /// Whether the page that holds `offset` is dirty.
    pub fn is_dirty(&self, offset: u64) -> bool {
        let page = offset / PAGE;
        self.existing(page).is_some_and(|word| word.load(Ordering::Relaxed) & (1 << (page % 64)) != 0)
    }

    /// Cleans the pages of a range and calls `each` with the offset of every page that was dirty, ascending.
    pub fn take(&self, offset: u64, len: u64, mut each: impl FnMut(u64)) {
        let end = offset.saturating_add(len).min(self.len).div_ceil(PAGE);
        let mut page = offset / PAGE;
        while page < end {
            let Some(Some(chunk)) = self.chunks.get((page / CHUNK_PAGES) as usize).map(OnceLock::get) else {
                page = (page / CHUNK_PAGES + 1) * CHUNK_PAGES;
                continue;
            };
            let base = page / 64 * 64;
            let mut mask = u64::MAX << (page % 64);
            if end - base < 64 {
                mask &= (1 << (end - base)) - 1;
            }
            let word = &chunk[(page % CHUNK_PAGES / 64) as usize];
            if word.load(Ordering::Relaxed) & mask != 0 {
                let mut bits = word.fetch_and(!mask, Ordering::AcqRel) & mask;
                while bits != 0 {
                    each((base + u64::from(bits.trailing_zeros())) * PAGE);
                    bits &= bits - 1;
                }
            }
            page = base + 64;
        }
    }

    /// Number of dirty pages.
    pub fn count(&self) -> u64 {
        let chunks = self.chunks.iter().filter_map(OnceLock::get);
        chunks.flat_map(|c| c.iter()).map(|w| u64::from(w.load(Ordering::Relaxed).count_ones())).sum()
    }

    fn existing(&self, page: u64) -> Option<&AtomicU64> {
        self.chunks.get((page / CHUNK_PAGES) as usize)?.get()?.get((page % CHUNK_PAGES / 64) as usize)
    }

    fn word(&self, page: u64) -> &AtomicU64 {
        let chunk = self.chunks[(page / CHUNK_PAGES) as usize]
            .get_or_init(|| (0..CHUNK_WORDS).map(|_| AtomicU64::new(0)).collect());
        &chunk[(page % CHUNK_PAGES / 64) as usize]
    }
}

#[cfg(test)]
mod tests;
