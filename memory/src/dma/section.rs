//! The part of a section that can be mapped, and how it follows its discard manager.

use std::ops::Range;
use std::sync::Arc;

use super::Shared;
use crate::discard_manager::DiscardListener;
use crate::listener::Section;
use crate::ram::{BlockRange, host_page_size};

/// Whole pages of RAM at a guest address.
#[derive(Debug, Clone)]
pub(super) struct Part {
    pub(super) iova: u64,
    pub(super) memory: BlockRange,
    pub(super) writable: bool,
}

impl Part {
    /// What of a section can be mapped: nothing of I/O, and only pages that are pages of both the guest and the block.
    pub(super) fn of(section: &Section) -> Option<Self> {
        let memory = section.ram()?;
        let page = host_page_size();
        let skip = section.addr.checked_next_multiple_of(page)? - section.addr;
        let len = memory.len().checked_sub(skip)? / page * page;
        let memory = memory.sub(skip, len)?;
        if len == 0 || !memory.offset().is_multiple_of(page) {
            trace::emit!(pliant_dma_section_unaligned, &section.name, section.addr);
            return None;
        }
        let writable = !section.readonly && memory.block().is_writable();
        Some(Self { iova: section.addr + skip, memory, writable })
    }

    /// Its bytes in the block.
    pub(super) fn range(&self) -> Range<u64> {
        self.memory.offset()..self.memory.offset() + self.memory.len()
    }
}

/// A part whose block has a discard manager.
pub(super) struct Sparse {
    shared: Arc<Shared>,
    part: Part,
    granularity: u64,
}

impl Sparse {
    pub(super) fn new(shared: &Arc<Shared>, part: Part, granularity: u64) -> Result<Self, String> {
        let page = host_page_size();
        if granularity < page {
            return Err(format!(
                "it is discarded in parts of {granularity:#x} bytes, less than a page ({page:#x})"
            ));
        }
        Ok(Self { shared: Arc::clone(shared), part, granularity })
    }

    /// Mappings it has once all of it is populated.
    pub(super) fn possible(&self) -> u64 {
        self.count(&self.part.range())
    }

    fn count(&self, range: &Range<u64>) -> u64 {
        range.end.div_ceil(self.granularity) - range.start / self.granularity
    }

    /// A mapping for each granule that a range of the block touches, cut to it.
    fn mappings(&self, range: Range<u64>) -> impl DoubleEndedIterator<Item = (u64, BlockRange)> {
        let granules = range.start / self.granularity..range.end.div_ceil(self.granularity);
        granules.map(move |granule| {
            let start = range.start.max(granule * self.granularity);
            let end = range.end.min((granule + 1) * self.granularity);
            let offset = start - self.part.memory.offset();
            let memory =
                self.part.memory.sub(offset, end - start).expect("a manager tells of what is registered");
            (self.part.iova + offset, memory)
        })
    }
}

impl DiscardListener for Sparse {
    fn populate(&self, range: Range<u64>) -> Result<(), String> {
        let Shared { sink, budget, .. } = &*self.shared;
        let count = self.count(&range);
        budget.take(count)?;
        for (done, (iova, memory)) in self.mappings(range.clone()).enumerate() {
            if let Err(why) = sink.map(iova, &memory, self.part.writable) {
                let mapped: Vec<_> = self.mappings(range).take(done).collect();
                mapped.into_iter().rev().for_each(|(iova, memory)| sink.unmap(iova, memory.len()));
                budget.give(count);
                return Err(why);
            }
        }
        Ok(())
    }

    fn discard(&self, range: Range<u64>) {
        let Shared { sink, budget, .. } = &*self.shared;
        let count = self.count(&range);
        self.mappings(range).for_each(|(iova, memory)| sink.unmap(iova, memory.len()));
        budget.give(count);
    }
}
