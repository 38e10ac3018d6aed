//! A memory device that maps its memory in pieces (`dynamic-memslots=on`): how many pieces, how large, which are mapped.
//!
//! Each piece is an alias of the backend's region in a container of the device's size. A piece is mapped when the first
//! block in it is plugged and unmapped before its last block is discarded, so that a huge device costs the accelerator
//! nothing for what is not there.

use std::ops::Range;
use std::sync::Arc;

use memory::{DiscardManager, Memory, Owner, RegionDesc, RegionId};

/// Slots that all memory devices of a machine may take together.
#[doc(alias = "MEMORY_DEVICES_SOFT_MEMSLOT_LIMIT")]
pub const SOFT_LIMIT: u64 = 256;
/// An accelerator (or vhost back end) with fewer slots than this has none to spare.
#[doc(alias = "MEMORY_DEVICES_SAFE_MAX_MEMSLOTS")]
pub const SAFE_MAX: u64 = 509;
/// Smallest slot worth having, bytes.
#[doc(alias = "VIRTIO_MEM_MIN_MEMSLOT_SIZE")]
pub const MIN_SLOT_SIZE: u64 = 1 << 30;

/// What the number of slots of a new device depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// Slots that accelerators and back ends can have; `None` without limit.
    pub max: Option<u64>,
    /// Slots that are free and not reserved for present devices; `None` without limit.
    pub free: Option<u64>,
    /// Slots that present memory devices need at most.
    pub required: u64,
    /// Bytes that memory devices may have together.
    pub limit: u64,
    /// Bytes that present memory devices have.
    pub used: u64,
}

impl Budget {
    /// How many slots a new device of `size` bytes may take, at least 1: its share of what is left.
    #[doc(alias = "memory_device_memslot_decision_limit")]
    pub fn share(&self, size: u64) -> u64 {
        if self.max.is_some_and(|max| max < SAFE_MAX) || self.required >= SOFT_LIMIT {
            return 1;
        }
        let slots = (SOFT_LIMIT - self.required).min(self.free.unwrap_or(u64::MAX));
        if size == self.limit {
            return slots.max(1);
        }
        let room = u128::from(self.limit.saturating_sub(self.used).max(1));
        // At most 256, times a fraction of the room: fits.
        (u128::from(slots) * u128::from(size) / room).clamp(1, u128::from(slots.max(1))) as u64
    }
}

/// Size and number of the slots of a region of `region` bytes in blocks of `block`.
pub fn slots(region: u64, limit: u64, block: u64) -> (u64, u64) {
    if limit <= 1 {
        return (region, 1);
    }
    let size = (region / limit).next_multiple_of(block).max(block.max(MIN_SLOT_SIZE));
    (size, region.div_ceil(size))
}

/// The slots of one device.
pub struct Memslots {
    memory: Arc<Memory>,
    container: RegionId,
    slot_size: u64,
    size: u64,
    slots: Vec<Slot>,
}

struct Slot {
    alias: RegionId,
    mapped: bool,
}

impl Memslots {
    /// `count` slots of `slot_size` bytes over `region`, none mapped, in a container named `name`.
    pub fn new(
        memory: &Arc<Memory>,
        name: &str,
        owner: &Owner,
        region: RegionId,
        size: u64,
        (slot_size, count): (u64, u64),
    ) -> Self {
        let mut tx = memory.transaction();
        let desc = |name: String, size: u64| RegionDesc::new(name, size.into()).owned_by(owner.clone());
        let container = tx.container(desc(name.to_owned(), size));
        let slots = (0..count).map(|index| {
            let at = index * slot_size;
            let desc = desc(format!("memslot-{index}"), slot_size.min(size - at));
            let alias = tx.alias(desc, region, at);
            tx.set_unmergeable(alias, true);
            Slot { alias, mapped: false }
        });
        let slots = slots.collect();
        drop(tx);
        Self { memory: Arc::clone(memory), container, slot_size, size, slots }
    }

    /// The container, which is what the machine maps.
    pub fn container(&self) -> RegionId {
        self.container
    }

    /// How many slots there are.
    pub fn count(&self) -> u64 {
        self.slots.len() as u64
    }

    /// How many are mapped.
    pub fn mapped(&self) -> u64 {
        self.slots.iter().filter(|s| s.mapped).count() as u64
    }

    /// The aliases in order, mapped or not.
    pub fn aliases(&self) -> impl Iterator<Item = RegionId> + '_ {
        self.slots.iter().map(|s| s.alias)
    }

    /// Maps the slots that `range` (bytes of the region) touches, in one transaction.
    pub fn map(&mut self, range: &Range<u64>) {
        let touched = self.touched(range);
        if touched.clone().all(|index| self.slots[index].mapped) {
            return;
        }
        let mut tx = self.memory.transaction();
        for index in touched {
            let slot = &mut self.slots[index];
            if !slot.mapped {
                tx.add_subregion(self.container, index as u64 * self.slot_size, slot.alias, 0);
                slot.mapped = true;
            }
        }
    }

    /// Unmaps the slots that will be empty once `range` is discarded, in one transaction.
    pub fn unmap(&mut self, range: &Range<u64>, blocks: &DiscardManager) {
        let empties = |index: &usize| {
            let slot = self.bytes(*index);
            blocks.is_discarded(slot.start..range.start.max(slot.start))
                && blocks.is_discarded(range.end.min(slot.end)..slot.end)
        };
        let gone: Vec<usize> =
            self.touched(range).filter(|index| self.slots[*index].mapped).filter(empties).collect();
        if gone.is_empty() {
            return;
        }
        let mut tx = self.memory.transaction();
        for index in gone {
            tx.del_subregion(self.container, self.slots[index].alias);
            self.slots[index].mapped = false;
        }
    }

    /// Takes the regions away. The container is mapped nowhere any more.
    pub fn destroy(self) {
        let mut tx = self.memory.transaction();
        for slot in &self.slots {
            let alias = slot.alias;
            if let Err(error) = tx.destroy(alias) {
                tracing::error!(%error, "a memory slot outlives its device");
            }
        }
        if let Err(error) = tx.destroy(self.container) {
            tracing::error!(%error, "the memory slots of a device outlive it");
        }
    }

    fn touched(&self, range: &Range<u64>) -> Range<usize> {
        // In range of `usize`: below the number of slots, which are in a vector.
        let end = range.end.min(self.size).div_ceil(self.slot_size);
        (range.start / self.slot_size) as usize..end as usize
    }

    fn bytes(&self, index: usize) -> Range<u64> {
        let start = index as u64 * self.slot_size;
        start..(start + self.slot_size).min(self.size)
    }
}

#[cfg(test)]
mod tests;
