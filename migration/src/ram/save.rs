//! Sending memory: which pages, in which order, and what of them.
//!
//! The dirty log is the list of what is to be sent. At first it is all that is populated; each pass takes pages out of it, and each
//! [`Sender::sync`] brings in what the guest wrote meanwhile. What was taken out and is written afterwards comes back with the next sync:
//! a page's mark goes before the page is read. What is plugged does not change meanwhile, which the machine's `freeze` sees to.

pub(crate) mod postcopy;

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use memory::{DirtyClient, Memory, RamBlock};
use qapi::Result;

use super::mapped::Place;
use super::{Form, blocks};
use crate::multifd::PACKET_PAGES;
use crate::multifd::send::{Job, Senders};
use crate::progress::{Counters, set};
use crate::wire::{Output, PAGE, ram};

pub(crate) use super::scan::{Scan, SendBlock};

const CLIENT: DirtyClient = DirtyClient::Migration;
/// Bytes that are taken out of the log at a time, to be read at once.
const STEP: u64 = PACKET_PAGES * PAGE;

/// Where the next page of a pass is looked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Cursor {
    block: usize,
    run: usize,
    /// From the start of the run.
    offset: u64,
}

/// Sends the memory of a machine.
pub struct Sender {
    memory: Arc<Memory>,
    form: Form,
    blocks: Vec<Arc<SendBlock>>,
    /// Channels of their own for pages.
    senders: Option<Senders>,
    cursor: Cursor,
    /// The block that the stream's last page belonged to.
    last: Option<usize>,
    /// Pages in the log.
    pending: u64,
    /// Whether this is the first pass, in which memory may be that nobody ever touched.
    bulk: bool,
    /// Whether pages went over channels of their own since the last flush.
    unflushed: bool,
}

impl Sender {
    /// Begins to log writes; all that is populated is to be sent, over the stream or over `senders`.
    ///
    /// # Errors
    /// Writes cannot be logged.
    pub(crate) fn new(memory: &Arc<Memory>, form: Form, senders: Option<Senders>) -> Result<Self> {
        memory.start_global_dirty_log(CLIENT)?;
        let take = |block: Arc<RamBlock>| {
            let log = block.dirty_log(CLIENT)?;
            memory.mark_all_dirty(CLIENT, &block);
            let ignored = form.ignores(&block);
            Some(Arc::new(SendBlock::new(block, log, ignored)))
        };
        let blocks: Vec<_> = blocks(memory).into_iter().filter_map(take).collect();
        let bytes: u64 = blocks.iter().flat_map(|b| &b.runs).map(|run| run.end - run.start).sum();
        let pending = bytes.div_ceil(PAGE);
        let memory = Arc::clone(memory);
        Ok(Self {
            memory,
            form,
            blocks,
            senders,
            cursor: Cursor::default(),
            last: None,
            pending,
            bulk: true,
            unflushed: false,
        })
    }

    /// Bytes of all blocks, unplugged memory included.
    pub fn total(&self) -> u64 {
        self.blocks.iter().map(|b| b.block.size()).sum()
    }

    /// Bytes in the log.
    pub fn pending(&self) -> u64 {
        self.pending * PAGE
    }

    /// The list of blocks, the beginning of the section.
    ///
    /// # Errors
    /// The channel's.
    pub fn put_blocks(&mut self, out: &mut Output) -> io::Result<()> {
        out.u64(self.total() | ram::BLOCKS)?;
        for block in &self.blocks {
            let len = block.block.size();
            out.text(&block.name)?;
            out.u64(len)?;
            let ignored = self.form.ignores(&block.block);
            if self.form.ignore_shared {
                out.u64(self.memory.address_of(&block.block).unwrap_or(0))?;
            }
            if self.form.mapped && ignored {
                Place::put_nowhere(out)?;
            } else if self.form.mapped {
                block.set_place(Place::put(out, len)?);
            }
        }
        out.u64(ram::END)
    }

    /// What belongs to the end: nothing is sent any more.
    ///
    /// # Errors
    /// The channel's.
    pub fn finish(&mut self, out: &mut Output) -> io::Result<()> {
        if let Some(senders) = self.senders.take() {
            senders.finish();
        }
        self.blocks.iter().filter_map(|block| block.place()).try_for_each(|place| place.put_bitmap(out))
    }

    /// Brings in what was written; gives the number of pages that came.
    pub fn sync(&mut self) -> u64 {
        self.memory.sync_dirty_log();
        let before = self.pending;
        let count = |b: &Arc<SendBlock>| -> u64 {
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
        if self.senders.is_some() {
            if self.cursor == Cursor::default() {
                // A pass that was broken off: its pages may come again in this one.
                self.flush(out)?;
            }
            // Pages are taken in only once the other side has seen that this part begins.
            out.flush()?;
        }
        while let Some(block) = self.blocks.get(self.cursor.block) {
            let Some(run) = block.runs.get(self.cursor.run).cloned() else {
                self.cursor = Cursor { block: self.cursor.block + 1, ..Cursor::default() };
                continue;
            };
            let start = run.start + self.cursor.offset;
            // What is clean costs nothing.
            let dirty = block.log.next_dirty(start).filter(|dirty| *dirty < run.end);
            let Some(dirty) = dirty.filter(|_| start < run.end) else {
                self.cursor = Cursor { run: self.cursor.run + 1, offset: 0, ..self.cursor };
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
        self.flush(out)?;
        out.u64(ram::END)?;
        Ok(true)
    }

    /// Has all that went over channels of their own arrive before what comes: of a page that is sent again, the last counts.
    fn flush(&mut self, out: &mut Output) -> io::Result<()> {
        if let Some(senders) = self.senders.as_ref().filter(|_| self.unflushed) {
            senders.flush()?;
            out.u64(ram::FLUSH)?;
            out.flush()?;
            self.unflushed = false;
        }
        Ok(())
    }

    /// Sends what is dirty in a part of the present block.
    fn step(&mut self, out: &mut Output, counters: &Counters, range: Range<u64>) -> io::Result<()> {
        let index = self.cursor.block;
        let block = Arc::clone(&self.blocks[index]);
        let taken = self.memory.take_dirty(CLIENT, &block.block, range.start, range.end - range.start);
        let pages: u64 = taken.iter().map(|part| (part.end - part.start) / PAGE).sum();
        self.pending = self.pending.saturating_sub(pages);
        // Pages are looked at only now: one that is written from here on is in the log again.
        if let Some(senders) = &self.senders {
            if taken.is_empty() {
                return Ok(());
            }
            self.unflushed = true;
            return senders.send(Job { block, pages: taken, bulk: self.bulk });
        }
        let mut scan = Scan::new(&block, self.bulk);
        for part in taken {
            scan.range(part, |run, zero| self.run(out, counters, index, run, zero))?;
        }
        Ok(())
    }

    /// Sends pages of a kind.
    fn run(
        &mut self,
        out: &mut Output,
        counters: &Counters,
        index: usize,
        range: Range<u64>,
        zero: bool,
    ) -> io::Result<()> {
        let counter = if zero { &counters.zero_pages } else { &counters.pages };
        counter.fetch_add((range.end - range.start) / PAGE, Ordering::Relaxed);
        let block = &self.blocks[index];
        if let Some(place) = block.place() {
            return place.put_pages(out, &block.block, &range, zero);
        }
        let kind = if zero { ram::FILLED } else { ram::PAGE };
        let mut start = range.start;
        if self.last != Some(index) {
            out.u64(start | kind)?;
            out.text(&block.name)?;
            self.last = Some(index);
            if zero {
                out.u8(0)?;
            } else {
                out.guest(&block.block, start, PAGE)?;
            }
            start += PAGE;
        }
        let pages = (start..range.end).step_by(PAGE as usize);
        if zero {
            // So little of each that it is gathered first.
            let heads = pages.flat_map(|page| ram::zero_page(page | ram::CONTINUE));
            return out.bytes(&heads.collect::<Vec<u8>>());
        }
        for page in pages {
            out.u64(page | kind | ram::CONTINUE)?;
            out.guest(&block.block, page, PAGE)?;
        }
        Ok(())
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.memory.stop_global_dirty_log(CLIENT);
    }
}
