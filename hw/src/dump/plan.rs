//! What goes into a dump: runs of RAM, and the linear addresses that lead to them.

use std::ops::Range;
use std::sync::Arc;

use accel::Registers;
use memory::{FlatView, RamBlock};

use crate::i386::paging::{Limits, Paging, TooLarge, mappings};

/// RAM at adjacent physical addresses, of one block.
#[derive(Debug, Clone)]
pub(super) struct Run {
    /// First physical address.
    pub(super) physical: u64,
    pub(super) block: Arc<RamBlock>,
    /// Where in the block.
    pub(super) offset: u64,
    /// Bytes; never 0.
    pub(super) len: u64,
}

/// A segment of the file: memory at a linear and a physical address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Load {
    pub(super) linear: u64,
    pub(super) physical: u64,
    /// Bytes before it in the dumped memory.
    pub(super) position: u64,
    pub(super) len: u64,
}

/// Tables, mappings and segments of guests that mean well are fewer; see [`Limits`]. A list of as many takes 32 MiB.
const LIMITS: Limits = Limits { tables: 1 << 20, mappings: 1 << 20 };

/// Everything that is to be known of a guest that is stopped.
#[derive(Debug)]
pub(super) struct Plan {
    /// Registers of the vCPUs that have some.
    pub(super) vcpus: Vec<Registers>,
    /// All RAM, by ascending address.
    memory: Vec<Run>,
    /// What is dumped of it.
    pub(super) dumped: Vec<Run>,
    /// Whether segments are those of the page tables.
    paging: bool,
    /// A note of the guest's own, whole; empty without.
    pub(super) guest_note: Vec<u8>,
}

impl Plan {
    /// A dump of what of `view` lies in `filter`.
    pub(super) fn new(
        view: &FlatView,
        vcpus: Vec<Registers>,
        paging: bool,
        filter: Option<Range<u64>>,
    ) -> Self {
        let memory = runs(view);
        let dumped = match filter {
            Some(filter) => memory.iter().filter_map(|run| run.cut(&filter)).collect(),
            None => memory.clone(),
        };
        Self { vcpus, memory, dumped, paging, guest_note: Vec::new() }
    }

    /// Bytes of memory.
    pub(super) fn total(&self) -> u64 {
        self.dumped.iter().map(|run| run.len).sum()
    }

    /// Whether a vCPU is in long mode; if nobody knows, it may be.
    pub(super) fn is_long_mode(&self) -> bool {
        self.vcpus.is_empty() || self.vcpus.iter().any(Registers::is_long_mode)
    }

    /// Whether there is memory that 32 bits do not address, dumped or not.
    pub(super) fn is_large(&self) -> bool {
        self.memory.last().is_some_and(|run| run.physical + run.len > u64::from(u32::MAX))
    }

    /// The segments, by physical and then by linear address. With paging on in no vCPU, and without paging, linear addresses are physical ones.
    ///
    /// # Errors
    /// The guest's tables are larger than tables can be for a reason.
    pub(super) fn loads(&self) -> Result<Vec<Load>, TooLarge> {
        let mut position = 0;
        let all: Vec<Load> = self
            .dumped
            .iter()
            .map(|run| {
                let load = Load { linear: run.physical, physical: run.physical, position, len: run.len };
                position += run.len;
                load
            })
            .collect();
        let spaces: Vec<Paging> = self.vcpus.iter().map(Paging::of).filter(Paging::is_on).collect();
        if !self.paging || spaces.is_empty() {
            return Ok(all);
        }
        let mut loads = Vec::new();
        for mapping in mappings(&spaces, LIMITS, &mut |addr, buf| self.read(addr, buf))? {
            let end = mapping.physical + mapping.len;
            let first = all.partition_point(|load| load.physical + load.len <= mapping.physical);
            for load in all[first..].iter().take_while(|load| load.physical < end) {
                if loads.len() == LIMITS.mappings {
                    return Err(TooLarge);
                }
                let from = load.physical.max(mapping.physical);
                loads.push(Load {
                    linear: mapping.linear + (from - mapping.physical),
                    physical: from,
                    position: load.position + (from - load.physical),
                    len: end.min(load.physical + load.len) - from,
                });
            }
        }
        // What is cut from the start of one mapping may begin behind, or with, the next.
        loads.sort_unstable_by_key(|load| (load.physical, load.linear));
        Ok(loads)
    }

    /// Reads a page table, which lies in RAM and may lie outside of what is dumped.
    fn read(&self, addr: u64, buf: &mut [u8]) -> bool {
        let at = self.memory.partition_point(|run| run.physical + run.len <= addr);
        let Some(run) = self.memory.get(at).filter(|run| run.physical <= addr) else { return false };
        let offset = addr - run.physical;
        let fits = run.len - offset >= buf.len() as u64;
        fits && run.block.reader().read(run.offset + offset, buf).is_ok()
    }
}

impl Run {
    /// What of it lies in a range of physical addresses.
    fn cut(&self, range: &Range<u64>) -> Option<Self> {
        let start = self.physical.max(range.start);
        let end = (self.physical + self.len).min(range.end);
        (start < end).then(|| Self {
            physical: start,
            block: Arc::clone(&self.block),
            offset: self.offset + (start - self.physical),
            len: end - start,
        })
    }

    /// Whether `next` goes on where this one ends.
    fn joins(&self, next: &Self) -> bool {
        Arc::ptr_eq(&self.block, &next.block)
            && self.physical + self.len == next.physical
            && self.offset + self.len == next.offset
    }
}

/// RAM and ROM by ascending address; of a block that is plugged piece by piece only what is plugged.
#[doc(alias = "guest_phys_blocks_append")]
fn runs(view: &FlatView) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    let mut push = |run: Run| match runs.last_mut() {
        Some(last) if last.joins(&run) => last.len += run.len,
        _ => runs.push(run),
    };
    for range in view.ranges().iter() {
        let Some(block) = range.block() else { continue };
        // RAM is never as large as all addresses.
        let len = range.last - range.addr + 1;
        let part = range.offset..range.offset + len;
        let run = |part: Range<u64>| Run {
            physical: range.addr + (part.start - range.offset),
            block: Arc::clone(block),
            offset: part.start,
            len: part.end - part.start,
        };
        match block.discard_manager() {
            None => push(run(part)),
            Some(manager) => manager.replay_populated(part, |part| push(run(part))),
        }
    }
    runs
}

#[cfg(test)]
mod tests;
