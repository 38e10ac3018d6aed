//! Sending memory: which pages, in which order, and what of them.
//!
//! The dirty log is the list of what is to be sent. At first it is all that is populated; each pass takes pages out of it, and each
//! [`Sender::sync`] brings in what the guest wrote meanwhile. What was taken out and is written afterwards comes back with the next sync:
//! a page's bit goes before the page is read. What is plugged does not change meanwhile, which the machine's `freeze` sees to.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use memory::{BlockReader, DirtyBitmap, DirtyClient, Memory, RamBlock};
use qapi::Result;

use super::mapped::Place;
use super::{blocks, populated};
use crate::progress::{Counters, set};
use crate::wire::{Output, PAGE, ram};

const CLIENT: DirtyClient = DirtyClient::Migration;
/// Bytes that are taken out of the log at a time, to be read at once.
const STEP: u64 = 1 << 20;

/// What is at a place of a block.
enum Find {
    /// Pages up to here were never touched.
    Hole(u64),
    /// Pages up to here have to be looked at.
    Data(u64),
}

struct SendBlock {
    block: Arc<RamBlock>,
    name: String,
    log: Arc<DirtyBitmap>,
    runs: Vec<Range<u64>>,
    reader: BlockReader,
    /// Where its pages are in a file; otherwise they go into the stream.
    place: Option<Place>,
}

impl SendBlock {
    /// Looks at `at`, of what lies before `end`.
    fn find(&self, at: u64, end: u64) -> Find {
        let data = self.reader.next_data(at..end);
        if data.start > at { Find::Hole(data.start) } else { Find::Data(data.end.max(at + PAGE)) }
    }
}

/// Where the next page of a pass is looked for.
#[derive(Debug, Clone, Copy, Default)]
struct Cursor {
    block: usize,
    run: usize,
    /// From the start of the run.
    offset: u64,
}

/// Sends the memory of a machine.
pub struct Sender {
    memory: Arc<Memory>,
    blocks: Vec<SendBlock>,
    cursor: Cursor,
    /// The block that the stream's last page belonged to.
    last: Option<usize>,
    /// Pages in the log.
    pending: u64,
    /// Whether this is the first pass, in which memory may be that nobody ever touched.
    bulk: bool,
}

impl Sender {
    /// Begins to log writes; all that is populated is to be sent.
    ///
    /// # Errors
    /// Writes cannot be logged.
    pub fn new(memory: &Arc<Memory>) -> Result<Self> {
        memory.start_global_dirty_log(CLIENT)?;
        let take = |block: Arc<RamBlock>| {
            let log = block.dirty_log(CLIENT)?;
            let (name, runs, reader) = (block.name(), populated(&block), block.reader());
            memory.mark_all_dirty(CLIENT, &block);
            Some(SendBlock { block, name, log, runs, reader, place: None })
        };
        let blocks: Vec<_> = blocks(memory).into_iter().filter_map(take).collect();
        let bytes: u64 = blocks.iter().flat_map(|b| &b.runs).map(|run| run.end - run.start).sum();
        let memory = Arc::clone(memory);
        let (cursor, last) = (Cursor::default(), None);
        Ok(Self { memory, blocks, cursor, last, pending: bytes.div_ceil(PAGE), bulk: true })
    }

    /// Bytes of all blocks, unplugged memory included.
    pub fn total(&self) -> u64 {
        self.blocks.iter().map(|b| b.block.size()).sum()
    }

    /// Bytes in the log.
    pub fn pending(&self) -> u64 {
        self.pending * PAGE
    }

    /// The list of blocks, the beginning of the section. `mapped`: pages go to places of their own in a file.
    ///
    /// # Errors
    /// The channel's.
    pub fn put_blocks(&mut self, out: &mut Output, mapped: bool) -> io::Result<()> {
        out.u64(self.total() | ram::BLOCKS)?;
        for block in &mut self.blocks {
            let len = block.block.size();
            out.text(&block.name)?;
            out.u64(len)?;
            if mapped {
                block.place = Some(Place::put(out, len)?);
            }
        }
        out.u64(ram::END)
    }

    /// What belongs to the end: nothing is sent any more.
    ///
    /// # Errors
    /// The channel's.
    pub fn finish(&self, out: &mut Output) -> io::Result<()> {
        self.blocks
            .iter()
            .filter_map(|block| block.place.as_ref())
            .try_for_each(|place| place.put_bitmap(out))
    }

    /// Brings in what was written; gives the number of pages that came.
    pub fn sync(&mut self) -> u64 {
        self.memory.sync_dirty_log();
        let before = self.pending;
        let count = |b: &SendBlock| -> u64 {
            b.runs.iter().map(|run| b.log.count_in(run.start, run.end - run.start)).sum()
        };
        self.pending = self.blocks.iter().map(count).sum();
        self.pending.saturating_sub(before)
    }

    /// Begins a pass.
    pub fn begin_pass(&mut self) {
        self.cursor = Cursor::default();
    }

    /// Sends pages until the pass ends, which gives `true`, or `enough` says so after some of them.
    ///
    /// # Errors
    /// The channel's, or those of `enough`.
    pub fn send(
        &mut self,
        out: &mut Output,
        counters: &Counters,
        mut enough: impl FnMut(&mut Output) -> io::Result<bool>,
    ) -> io::Result<bool> {
        while let Some(block) = self.blocks.get(self.cursor.block) {
            let Some(run) = block.runs.get(self.cursor.run).cloned() else {
                self.cursor = Cursor { block: self.cursor.block + 1, ..Cursor::default() };
                continue;
            };
            let start = run.start + self.cursor.offset;
            if start >= run.end {
                self.cursor = Cursor { run: self.cursor.run + 1, offset: 0, ..self.cursor };
                continue;
            }
            // What is clean costs nothing.
            let dirty = self.blocks[self.cursor.block].log.next_dirty(start);
            let Some(dirty) = dirty.filter(|dirty| *dirty < run.end) else {
                self.cursor.offset = run.end - run.start;
                continue;
            };
            let end = run.end.min((dirty + 1).next_multiple_of(STEP));
            self.step(out, counters, dirty..end)?;
            self.cursor.offset = end - run.start;
            set(&counters.remaining, self.pending());
            if enough(out)? {
                out.u64(ram::END)?;
                return Ok(false);
            }
        }
        self.bulk = false;
        out.u64(ram::END)?;
        Ok(true)
    }

    /// Sends what is dirty in a part of the present block.
    fn step(&mut self, out: &mut Output, counters: &Counters, range: Range<u64>) -> io::Result<()> {
        let index = self.cursor.block;
        let block = &self.blocks[index];
        let (start, end) = (range.start, range.end);
        let taken = self.memory.take_dirty(CLIENT, &block.block, start, end - start);
        let mut found = Find::Data(start);
        // Pages of a kind that lie side by side.
        let mut run: Option<(Range<u64>, bool)> = None;
        for page in taken.into_iter().flat_map(|part| part.step_by(PAGE as usize)) {
            let block = &self.blocks[index];
            self.pending = self.pending.saturating_sub(1);
            // Only now: a page that is written from here on is in the log again.
            if self.bulk && matches!(found, Find::Hole(end) | Find::Data(end) if end <= page) {
                found = block.find(page, end);
            }
            let hole = self.bulk && matches!(found, Find::Hole(end) if page < end);
            let zero = hole || block.block.is_zero(page, PAGE as usize);
            match &mut run {
                Some((range, kind)) if range.end == page && *kind == zero => range.end += PAGE,
                _ => {
                    let last = run.replace((page..page + PAGE, zero));
                    self.run(out, counters, index, last)?;
                }
            }
        }
        self.run(out, counters, index, run)
    }

    /// Sends pages of a kind.
    fn run(
        &mut self,
        out: &mut Output,
        counters: &Counters,
        index: usize,
        run: Option<(Range<u64>, bool)>,
    ) -> io::Result<()> {
        let Some((range, zero)) = run else { return Ok(()) };
        let counter = if zero { &counters.zero_pages } else { &counters.pages };
        counter.fetch_add((range.end - range.start) / PAGE, Ordering::Relaxed);
        let SendBlock { block, place, .. } = &mut self.blocks[index];
        if let Some(place) = place {
            return place.put_pages(out, block, &range, zero);
        }
        range
            .step_by(PAGE as usize)
            .try_for_each(|page| Self::page(&self.blocks, &mut self.last, out, index, page, zero))
    }

    fn page(
        blocks: &[SendBlock],
        last: &mut Option<usize>,
        out: &mut Output,
        index: usize,
        offset: u64,
        zero: bool,
    ) -> io::Result<()> {
        let block = &blocks[index];
        let kind = if zero { ram::FILLED } else { ram::PAGE };
        if *last == Some(index) {
            out.u64(offset | kind | ram::CONTINUE)?;
        } else {
            out.u64(offset | kind)?;
            out.text(&block.name)?;
            *last = Some(index);
        }
        if zero { out.u8(0) } else { out.guest(&block.block, offset, PAGE) }
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.memory.stop_global_dirty_log(CLIENT);
    }
}
