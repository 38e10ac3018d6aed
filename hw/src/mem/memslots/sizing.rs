//! In how many parts a device maps its memory, and how large they are: pure formulas.
//!
//! [`Budget::share`] and [`Parts::while_plugged`] are `dynamic-memslots`, number for number as QEMU 10.0.2 has them.
//! [`Parts::fixed`] is `memslots=N`, [`Budget::choose`] the N of `memslots=0`, both ours.

/// Slots that devices with `dynamic-memslots` make the memory devices of a machine take together.
#[doc(alias = "MEMORY_DEVICES_SOFT_MEMSLOT_LIMIT")]
pub const SOFT_LIMIT: u64 = 256;
/// An accelerator (or vhost back end) with fewer slots than this has none to spare.
#[doc(alias = "MEMORY_DEVICES_SAFE_MAX_MEMSLOTS")]
pub const SAFE_MAX: u64 = 509;
/// Slots that all memory devices of a machine may reserve together.
pub const LIMIT: u64 = 2048;
/// The largest `memslots=N`.
pub const MAX_PARTS: u64 = 1024;
/// Smallest part that is worth a slot when the device decides, bytes.
#[doc(alias = "VIRTIO_MEM_MIN_MEMSLOT_SIZE")]
pub const MIN_DECIDED_SIZE: u64 = 1 << 30;
/// Smallest part of `memslots=N`, bytes; every part but the last is a multiple of it.
pub const MIN_PART_SIZE: u64 = 128 << 20;

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
    /// How many slots a new device of `size` bytes with `dynamic-memslots` may take, at least 1: its share of what is
    /// left below [`SOFT_LIMIT`].
    #[doc(alias = "memory_device_memslot_decision_limit")]
    pub fn share(&self, size: u64) -> u64 {
        self.share_of(SOFT_LIMIT, self.free, size)
    }

    /// The `N` of `memslots=0` for a device of `size` bytes, 1 to [`MAX_PARTS`]: its share of what is left below
    /// [`LIMIT`], of which at most half of what is free elsewhere, in parts of [`MIN_DECIDED_SIZE`] at least.
    pub fn choose(&self, size: u64) -> u64 {
        let share = self.share_of(LIMIT, self.free.map(|free| free / 2), size);
        share.min(size.div_ceil(MIN_DECIDED_SIZE)).clamp(1, MAX_PARTS)
    }

    fn share_of(&self, all: u64, free: Option<u64>, size: u64) -> u64 {
        if self.max.is_some_and(|max| max < SAFE_MAX) || self.required >= all {
            return 1;
        }
        let slots = (all - self.required).min(free.unwrap_or(u64::MAX)).max(1);
        if size == self.limit {
            return slots;
        }
        let room = u128::from(self.limit.saturating_sub(self.used).max(1));
        // At most `slots`: fits.
        (u128::from(slots) * u128::from(size) / room).clamp(1, slots.into()) as u64
    }
}

/// A division of a region.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parts {
    /// Bytes of each part; the last one may be smaller.
    pub size: u64,
    /// How many there are, at least 1.
    pub count: u64,
}

impl Parts {
    /// One part.
    pub fn whole(region: u64) -> Self {
        Self { size: region, count: 1 }
    }

    /// What `dynamic-memslots` makes of `region` bytes in blocks of `block` (a power of two), with at most `limit` slots.
    #[doc(alias = "virtio_mem_decide_memslots")]
    pub fn while_plugged(region: u64, limit: u64, block: u64) -> Self {
        if limit <= 1 {
            return Self::whole(region);
        }
        let size = (region / limit).next_multiple_of(block).max(block.max(MIN_DECIDED_SIZE));
        Self { size, count: region.div_ceil(size) }
    }

    /// What `memslots=N` makes of `region` bytes (not 0) in blocks of `block` (a power of two): at most `wanted` parts (at
    /// least 1) of a multiple of [`MIN_PART_SIZE`] and of the block size, so that fewer parts may do.
    pub fn fixed(region: u64, wanted: u64, block: u64) -> Self {
        // Both are powers of two, so the larger one is a multiple of the other. No region comes near 2^64.
        let step = block.max(MIN_PART_SIZE);
        let size = region.div_ceil(wanted.max(1)).checked_next_multiple_of(step).unwrap_or(region);
        Self { size, count: region.div_ceil(size) }
    }
}

#[cfg(test)]
mod tests;
