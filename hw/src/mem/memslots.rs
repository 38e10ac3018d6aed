//! A memory device that maps its memory in parts, each in a memory slot of its own: which are mapped when.
//!
//! Each part is an unmergeable alias of the backend's region in a container of the device's size. A huge device then costs
//! the accelerator nothing for parts that are not there. Two policies say when a part is there: while a block in it is
//! plugged (QEMU's `dynamic-memslots=on`), or while it reaches into the usable region (`memslots=N`). [`sizing`] says how many
//! parts there are.
//!
//! Whatever has to change together is one transaction, so that a listener sees one batch.

pub mod sizing;

use std::ops::Range;
use std::sync::Arc;

use memory::{DiscardManager, Memory, Owner, RegionDesc, RegionId};

use sizing::Parts;

/// When a part is mapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// From the first block in it that is plugged until before the last one is discarded.
    WhilePlugged,
    /// While the usable region, which begins at offset 0, reaches into it.
    WhileUsable,
}

/// How regions are named.
#[derive(Debug, Clone, Copy)]
pub struct Names {
    /// The container.
    pub container: &'static str,
    /// What comes before the `-INDEX` of each part.
    pub part: &'static str,
}

/// The parts of one device.
pub struct Memslots {
    memory: Arc<Memory>,
    container: RegionId,
    policy: Policy,
    part_size: u64,
    size: u64,
    parts: Vec<Part>,
    mapped: u64,
}

struct Part {
    alias: RegionId,
    mapped: bool,
}

impl Memslots {
    /// Divides `region`, which is `size` bytes, into `parts`. None is mapped.
    pub fn new(
        memory: &Arc<Memory>,
        policy: Policy,
        names: Names,
        owner: &Owner,
        region: RegionId,
        size: u64,
        parts: Parts,
    ) -> Self {
        let mut tx = memory.transaction();
        let desc = |name: String, size: u64| RegionDesc::new(name, size.into()).owned_by(owner.clone());
        let container = tx.container(desc(names.container.to_owned(), size));
        let part_size = parts.size;
        let parts = (0..parts.count).map(|index| {
            let at = index * part_size;
            let desc = desc(format!("{}-{index}", names.part), part_size.min(size - at));
            let alias = tx.alias(desc, region, at);
            tx.set_unmergeable(alias, true);
            Part { alias, mapped: false }
        });
        let parts = parts.collect();
        drop(tx);
        Self { memory: Arc::clone(memory), container, policy, part_size, size, parts, mapped: 0 }
    }

    /// The container, which is what the machine maps.
    pub fn container(&self) -> RegionId {
        self.container
    }

    /// When a part is mapped.
    pub fn policy(&self) -> Policy {
        self.policy
    }

    /// How many parts there are.
    pub fn count(&self) -> u64 {
        self.parts.len() as u64
    }

    /// Bytes of each part; the last one may be smaller.
    pub fn part_size(&self) -> u64 {
        self.part_size
    }

    /// How many are mapped.
    pub fn mapped(&self) -> u64 {
        self.mapped
    }

    /// The aliases in order, mapped or not.
    pub fn aliases(&self) -> impl Iterator<Item = RegionId> + '_ {
        self.parts.iter().map(|part| part.alias)
    }

    /// Blocks in `range` (bytes of the region) are plugged: maps what that takes.
    pub fn plugged(&mut self, range: &Range<u64>) {
        if self.policy == Policy::WhilePlugged {
            self.change(self.touched(range), true);
        }
    }

    /// `range` is about to be discarded: unmaps the parts that will be without a plugged block.
    pub fn before_discard(&mut self, range: &Range<u64>, blocks: &DiscardManager) {
        if self.policy != Policy::WhilePlugged {
            return;
        }
        let empties = |index: &usize| {
            let part = self.bytes(*index);
            blocks.is_discarded(part.start..range.start.max(part.start))
                && blocks.is_discarded(range.end.min(part.end)..part.end)
        };
        let gone: Vec<usize> =
            self.touched(range).filter(|index| self.parts[*index].mapped && empties(index)).collect();
        self.change(gone, false);
    }

    /// The usable region is `usable` bytes from now on: maps or unmaps what that takes.
    pub fn usable(&mut self, usable: u64) {
        if self.policy == Policy::WhileUsable {
            let reached = self.touched(&(0..usable)).end;
            self.change(reached..self.parts.len(), false);
            self.change(0..reached, true);
        }
    }

    /// Takes the regions away. The container is mapped nowhere any more.
    pub fn destroy(self) {
        let mut tx = self.memory.transaction();
        for part in &self.parts {
            if let Err(error) = tx.destroy(part.alias) {
                tracing::error!(%error, "a memory slot outlives its device");
            }
        }
        if let Err(error) = tx.destroy(self.container) {
            tracing::error!(%error, "the memory slots of a device outlive it");
        }
    }

    /// Maps or unmaps these parts in one transaction; none if they are as they should be.
    fn change(&mut self, indices: impl IntoIterator<Item = usize>, mapped: bool) {
        let indices =
            indices.into_iter().filter(|index| self.parts[*index].mapped != mapped).collect::<Vec<_>>();
        if indices.is_empty() {
            return;
        }
        let mut tx = self.memory.transaction();
        for index in indices {
            let part = &mut self.parts[index];
            part.mapped = mapped;
            if mapped {
                tx.add_subregion(self.container, index as u64 * self.part_size, part.alias, 0);
                self.mapped += 1;
            } else {
                tx.del_subregion(self.container, part.alias);
                self.mapped -= 1;
            }
        }
    }

    fn touched(&self, range: &Range<u64>) -> Range<usize> {
        // In range of `usize`: at most the number of parts, which are in a vector.
        let end = range.end.min(self.size).div_ceil(self.part_size);
        (range.start / self.part_size) as usize..end as usize
    }

    fn bytes(&self, index: usize) -> Range<u64> {
        let start = index as u64 * self.part_size;
        start..(start + self.part_size).min(self.size)
    }
}

#[cfg(test)]
mod tests;
