//! Which pages of a block were written: one bitmap for each client that wants to know.
//!
//! Two levels: chunks of [`CHUNK_PAGES`] pages come into being when a page in them is first written, so a log over
//! 1 TiB costs 128 KiB until then. Marking is one atomic OR for up to 64 pages.
//!
//! # Nothing is lost
//!
//! A writer writes, then marks ([`RamBlock::mark_dirty`]). A client takes a mark, then reads the page. Both change the same word
//! atomically, one before the other: a client that takes the mark sees the write, and a mark that comes later stays for its next
//! look. A mark is therefore set even where one is set already. When a log begins, writer and client look at whether there is a log:
//! a full fence on both sides has the writer see the log, or whoever began it see the write.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::sync::{Arc, OnceLock};

use super::RamBlock;

/// Pages a chunk stands for: 128 MiB of 4 KiB pages in 4 KiB of bits.
const CHUNK_PAGES: u64 = (CHUNK_WORDS * 64) as u64;
const CHUNK_WORDS: usize = 512;
/// Bytes a bit stands for.
const PAGE: u64 = 4096;
/// Bytes of which an accelerator is told at once that their pages are to be watched again.
const GRANULE: u64 = 16 << 20;

/// Who wants to know which pages are written. Each has bits of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[doc(alias = "GLOBAL_DIRTY_MIGRATION")]
pub enum DirtyClient {
    /// A migration.
    Migration,
    /// Whoever measures how fast pages are written.
    DirtyRate,
    /// Whoever slows vCPUs down that write too fast.
    DirtyLimit,
    /// The device whose region asks for it ([`crate::Transaction::set_log`]).
    Device,
}

const ALL: [DirtyClient; 4] =
    [DirtyClient::Migration, DirtyClient::DirtyRate, DirtyClient::DirtyLimit, DirtyClient::Device];

/// A set of clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct DirtyClients(u8);

impl DirtyClients {
    pub(crate) fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(crate) fn contains(self, client: DirtyClient) -> bool {
        self.0 & 1 << client as u8 != 0
    }

    pub(crate) fn iter(self) -> impl Iterator<Item = DirtyClient> {
        ALL.into_iter().filter(move |client| self.contains(*client))
    }

    pub(crate) fn insert(&mut self, client: DirtyClient) {
        self.0 |= 1 << client as u8;
    }

    pub(crate) fn remove(&mut self, client: DirtyClient) {
        self.0 &= !(1 << client as u8);
    }
}

/// The logs of one block, while anybody wants one.
#[derive(Debug, Clone)]
pub(super) struct Logs {
    bitmaps: [Option<Arc<DirtyBitmap>>; ALL.len()],
    /// Where the accelerator does not watch pages that it reported, a bit for each [`GRANULE`].
    unwatched: Arc<[AtomicU64]>,
}

impl Logs {
    /// Of a block of `len` bytes, with a client or without one, if then anybody is left.
    pub(super) fn changed(logs: Option<&Self>, len: u64, client: DirtyClient, on: bool) -> Option<Self> {
        let mut logs = logs.cloned().unwrap_or_else(|| {
            let words = len.div_ceil(GRANULE).div_ceil(64);
            Self { bitmaps: Default::default(), unwatched: (0..words).map(|_| AtomicU64::new(0)).collect() }
        });
        let bitmap = &mut logs.bitmaps[client as usize];
        if on {
            bitmap.get_or_insert_with(|| Arc::new(DirtyBitmap::new(len)));
        } else {
            *bitmap = None;
        }
        logs.bitmaps.iter().any(Option::is_some).then_some(logs)
    }

    pub(super) fn of(&self, client: DirtyClient) -> Option<&Arc<DirtyBitmap>> {
        self.bitmaps[client as usize].as_ref()
    }

    pub(super) fn mark(&self, offset: u64, len: u64) {
        self.bitmaps.iter().flatten().for_each(|bitmap| bitmap.mark(offset, len));
    }

    pub(super) fn is_dirty(&self, offset: u64) -> bool {
        self.bitmaps.iter().flatten().any(|bitmap| bitmap.is_dirty(offset))
    }

    fn granules(&self, offset: u64, len: u64) -> Range<u64> {
        let end = offset.saturating_add(len).min(self.unwatched.len() as u64 * 64 * GRANULE);
        if offset < end { offset / GRANULE..end.div_ceil(GRANULE) } else { 0..0 }
    }

    /// The accelerator does not watch some pages of a range until it is told to.
    pub(super) fn leave_unwatched(&self, offset: u64, len: u64) {
        let granules = self.granules(offset, len);
        for (word, bits) in words_of(granules) {
            self.unwatched[word].fetch_or(bits, Ordering::AcqRel);
        }
    }

    /// Byte ranges of granules that touch a range and are not watched; from now on they count as watched.
    pub(super) fn take_unwatched(&self, offset: u64, len: u64) -> Vec<Range<u64>> {
        let mut found: Vec<Range<u64>> = Vec::new();
        let mut runs = Runs::new(|first, count| found.push(first * GRANULE..(first + count) * GRANULE));
        for (word, bits) in words_of(self.granules(offset, len)) {
            if self.unwatched[word].load(Ordering::Acquire) & bits != 0 {
                runs.add(word as u64 * 64, self.unwatched[word].fetch_and(!bits, Ordering::AcqRel) & bits);
            }
        }
        runs.end();
        found
    }
}

impl RamBlock {
    /// Starts a client's dirty bitmap with every page clean; keeps the one that is there.
    pub(crate) fn start_dirty_log(&self, client: DirtyClient) {
        self.change_dirty_logs(client, true);
    }

    /// Drops a client's dirty bitmap.
    pub(crate) fn stop_dirty_log(&self, client: DirtyClient) {
        self.change_dirty_logs(client, false);
    }

    fn change_dirty_logs(&self, client: DirtyClient, on: bool) {
        self.dirty.rcu(|logs| Logs::changed(logs.as_deref(), self.max_size(), client, on).map(Arc::new));
        // Together with the one of `mark_dirty`: see there.
        fence(Ordering::SeqCst);
    }

    /// A client's dirty bitmap, while it logs.
    pub fn dirty_log(&self, client: DirtyClient) -> Option<Arc<DirtyBitmap>> {
        self.dirty.load().as_ref()?.of(client).cloned()
    }

    /// Marks bytes dirty for everybody who logs. Called after they were written; costs a fence and a load when nobody logs.
    #[doc(alias = "memory_region_set_dirty")]
    pub fn mark_dirty(&self, offset: u64, len: u64) {
        // Either the log is seen, or whoever began it sees what was written.
        fence(Ordering::SeqCst);
        if let Some(logs) = &*self.dirty.load() {
            logs.mark(offset, len);
        }
    }

    /// Whether the page that holds `offset` is dirty for anybody.
    pub(crate) fn is_dirty(&self, offset: u64) -> bool {
        self.dirty.load().as_ref().is_some_and(|logs| logs.is_dirty(offset))
    }

    /// For accelerators: [`mark_dirty`](Self::mark_dirty) of pages that are written unseen from now on, until
    /// [`MemoryListener::log_clear`](crate::MemoryListener::log_clear).
    pub fn mark_dirty_unwatched(&self, offset: u64, len: u64) {
        fence(Ordering::SeqCst);
        if let Some(logs) = &*self.dirty.load() {
            // Whoever takes the mark has them watched again first.
            logs.leave_unwatched(offset, len);
            logs.mark(offset, len);
        }
    }

    /// Byte ranges around a range that hold pages which are written unseen; they no longer count as such.
    pub(crate) fn take_unwatched(&self, offset: u64, len: u64) -> Vec<Range<u64>> {
        self.dirty.load().as_ref().map_or_else(Vec::new, |logs| logs.take_unwatched(offset, len))
    }
}

/// A dirty bitmap in 4 KiB pages. Offsets and lengths are in bytes; a page that is touched counts whole, and what lies beyond the end
/// is ignored.
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

    fn pages(&self, offset: u64, len: u64) -> Range<u64> {
        let end = offset.saturating_add(len).min(self.len);
        if offset < end { offset / PAGE..end.div_ceil(PAGE) } else { 0..0 }
    }

    /// Marks the pages of a range, 64 at a time.
    #[doc(alias = "cpu_physical_memory_set_dirty_range")]
    pub fn mark(&self, offset: u64, len: u64) {
        for (word, bits) in words_of(self.pages(offset, len)) {
            self.word(word).fetch_or(bits, Ordering::Release);
        }
    }

    /// Marks everything.
    pub fn mark_all(&self) {
        self.mark(0, self.len);
    }

    /// ORs 64 pages at once: bit 0 of `bits` is the page at `offset`, a multiple of 64 pages.
    pub fn merge_word(&self, offset: u64, bits: u64) {
        let page = offset / PAGE;
        debug_assert_eq!(page % 64, 0, "words are aligned");
        let left = self.len.div_ceil(PAGE).saturating_sub(page);
        let bits = if left < 64 { bits & ((1 << left) - 1) } else { bits };
        if bits != 0 {
            self.word((page / 64) as usize).fetch_or(bits, Ordering::Release);
        }
    }

    /// Marks what is dirty in another bitmap of as large a block.
    pub fn merge(&self, other: &Self) {
        other.each_word(other.pages(0, other.len), |base, word, _| {
            self.merge_word(base * PAGE, word.load(Ordering::Acquire));
        });
    }

    /// Whether the page that holds `offset` is dirty.
    pub fn is_dirty(&self, offset: u64) -> bool {
        let (word, bit) = ((offset / PAGE / 64) as usize, offset / PAGE % 64);
        self.existing(word).is_some_and(|word| word.load(Ordering::Relaxed) & (1 << bit) != 0)
    }

    /// Cleans the pages of a range and calls `each` with offset and length of every run that was dirty, ascending.
    ///
    /// Whoever sends pages uses [`crate::Memory::take_dirty`]: taking alone has no accelerator watch them again.
    #[doc(alias = "cpu_physical_memory_test_and_clear_dirty")]
    pub fn take(&self, offset: u64, len: u64, mut each: impl FnMut(u64, u64)) {
        let mut runs = Runs::new(|first, count| each(first * PAGE, count * PAGE));
        self.each_word(self.pages(offset, len), |base, word, mask| {
            if word.load(Ordering::Relaxed) & mask != 0 {
                runs.add(base, word.fetch_and(!mask, Ordering::AcqRel) & mask);
            }
        });
        runs.end();
    }

    /// Calls `each` with offset and length of every dirty run in a range, ascending. All stay dirty.
    pub fn runs(&self, offset: u64, len: u64, mut each: impl FnMut(u64, u64)) {
        let mut runs = Runs::new(|first, count| each(first * PAGE, count * PAGE));
        self.each_word(self.pages(offset, len), |base, word, mask| {
            runs.add(base, word.load(Ordering::Relaxed) & mask);
        });
        runs.end();
    }

    /// Cleans 64 pages from `offset` on, a multiple of 64 pages, and gives what was dirty: bit 0 is the page at `offset`.
    pub fn take_word(&self, offset: u64) -> u64 {
        self.existing((offset / PAGE / 64) as usize).map_or(0, |word| word.swap(0, Ordering::AcqRel))
    }

    /// Offset of the first dirty page at or after `offset`.
    pub fn next_dirty(&self, offset: u64) -> Option<u64> {
        let mut chunk = offset / PAGE / CHUNK_PAGES;
        let mut from = offset;
        while let Some(words) = self.chunks.get(chunk as usize) {
            let end = (chunk + 1) * CHUNK_PAGES * PAGE;
            if words.get().is_some() {
                let mut found = None;
                self.each_word(self.pages(from, end - from), |base, word, mask| {
                    let bits = word.load(Ordering::Relaxed) & mask;
                    if bits != 0 && found.is_none() {
                        found = Some((base + u64::from(bits.trailing_zeros())) * PAGE);
                    }
                });
                if found.is_some() {
                    return found;
                }
            }
            (chunk, from) = (chunk + 1, end);
        }
        None
    }

    /// Cleans a range; gives how many pages of it were dirty.
    pub fn clean(&self, offset: u64, len: u64) -> u64 {
        let mut count = 0;
        self.each_word(self.pages(offset, len), |_, word, mask| {
            if word.load(Ordering::Relaxed) & mask != 0 {
                count += u64::from((word.fetch_and(!mask, Ordering::AcqRel) & mask).count_ones());
            }
        });
        count
    }

    /// Number of dirty pages.
    pub fn count(&self) -> u64 {
        self.count_in(0, self.len)
    }

    /// Number of dirty pages in a range.
    pub fn count_in(&self, offset: u64, len: u64) -> u64 {
        let mut count = 0;
        self.each_word(self.pages(offset, len), |_, word, mask| {
            count += u64::from((word.load(Ordering::Relaxed) & mask).count_ones());
        });
        count
    }

    /// Calls `each` with first page, word and mask of all words of `pages` that there are.
    fn each_word(&self, pages: Range<u64>, mut each: impl FnMut(u64, &AtomicU64, u64)) {
        let chunks = pages.start / CHUNK_PAGES..pages.end.div_ceil(CHUNK_PAGES);
        for chunk in chunks {
            let Some(words) = self.chunks.get(chunk as usize).and_then(OnceLock::get) else { continue };
            let start = chunk * CHUNK_PAGES;
            let part = pages.start.max(start) - start..pages.end.min(start + CHUNK_PAGES) - start;
            for (word, mask) in words_of(part) {
                each(start + word as u64 * 64, &words[word], mask);
            }
        }
    }

    fn existing(&self, word: usize) -> Option<&AtomicU64> {
        self.chunks.get(word / CHUNK_WORDS)?.get()?.get(word % CHUNK_WORDS)
    }

    fn word(&self, word: usize) -> &AtomicU64 {
        let chunk = self.chunks[word / CHUNK_WORDS]
            .get_or_init(|| (0..CHUNK_WORDS).map(|_| AtomicU64::new(0)).collect());
        &chunk[word % CHUNK_WORDS]
    }
}

/// The words that hold some bits, each with those of its own.
fn words_of(bits: Range<u64>) -> impl Iterator<Item = (usize, u64)> {
    (bits.start / 64..bits.end.div_ceil(64)).map(move |word| {
        let base = word * 64;
        let mut mask = u64::MAX;
        if bits.start > base {
            mask &= u64::MAX << (bits.start - base);
        }
        if bits.end - base < 64 {
            mask &= (1 << (bits.end - base)) - 1;
        }
        (word as usize, mask)
    })
}

/// Makes runs, as long as there can be, of the set bits of ascending words.
struct Runs<F: FnMut(u64, u64)> {
    run: Range<u64>,
    each: F,
}

impl<F: FnMut(u64, u64)> Runs<F> {
    fn new(each: F) -> Self {
        Self { run: 0..0, each }
    }

    /// Bit 0 of `bits` is number `base`.
    fn add(&mut self, base: u64, mut bits: u64) {
        while bits != 0 {
            let from = bits.trailing_zeros();
            let count = (bits >> from).trailing_ones();
            let first = base + u64::from(from);
            if self.run.end != first || self.run.is_empty() {
                self.end();
                self.run.start = first;
            }
            self.run.end = first + u64::from(count);
            bits &= u64::MAX.checked_shl(from + count).unwrap_or(0);
        }
    }

    fn end(&mut self) {
        if !self.run.is_empty() {
            (self.each)(self.run.start, self.run.end - self.run.start);
        }
        self.run = 0..0;
    }
}

#[cfg(test)]
mod tests;
