//! How many mappings there are, may be, and could come to be.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::DmaLimits;

/// Counts mappings. Taken from several threads at once: sections of different managers are populated independently.
pub(super) struct Budget {
    limits: DmaLimits,
    used: AtomicU64,
    warned: AtomicBool,
}

impl Budget {
    pub(super) fn new(limits: DmaLimits) -> Self {
        Self { limits, used: AtomicU64::new(0), warned: AtomicBool::new(false) }
    }

    pub(super) fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Sets mappings aside.
    ///
    /// # Errors
    /// There are not so many left; nothing is taken.
    pub(super) fn take(&self, count: u64) -> Result<(), String> {
        let max = self.limits.max_mappings.unwrap_or(u64::MAX);
        let add = |used: u64| used.checked_add(count).filter(|sum| *sum <= max);
        match self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add) {
            Ok(_) => Ok(()),
            Err(used) => Err(format!("{count} DMA mappings are needed, {used} of {max} are in use")),
        }
    }

    pub(super) fn give(&self, count: u64) {
        self.used.fetch_sub(count, Ordering::Relaxed);
    }

    /// Warns once if `sections` sparse sections, which could need `possible` mappings, and one for each other memory slot are more
    /// than there can be. What is mapped now does not matter.
    #[doc(alias = "vfio_register_ram_discard_listener")]
    pub(super) fn warn(&self, possible: u64, sections: u64) {
        let DmaLimits { max_mappings: Some(max), max_memslots } = self.limits else { return };
        let others = max_memslots.saturating_sub(sections);
        if possible.saturating_add(others) > max && !self.warned.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "vfio_register_ram_discard_listener: possibly running out of DMA mappings. E.g., try increasing the \
                 'block-size' of virtio-mem devies. Maximum possible DMA mappings: {max}, Maximum possible memslots: \
                 {max_memslots}"
            );
        }
    }
}
