//! Handing out guest RAM for queues and block maps. Memory is never given back: devices are found once.

/// A stretch of guest RAM that nobody else uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arena {
    next: u64,
    end: u64,
}

impl Arena {
    /// An arena over the guest-physical addresses `start..end`.
    #[must_use]
    pub const fn new(start: u64, end: u64) -> Self {
        Self { next: start, end }
    }

    /// Takes `size` bytes aligned to `align` (a power of two). `None` when there is not that much left; nothing is taken then.
    /// The memory holds whatever it held before.
    pub fn take(&mut self, size: u64, align: u64) -> Option<u64> {
        let start = self.next.checked_add(align - 1)? & !(align - 1);
        let end = start.checked_add(size)?;
        if end > self.end {
            return None;
        }
        self.next = end;
        Some(start)
    }

    /// The start of the arena, as long as nothing was taken.
    #[must_use]
    pub const fn start(&self) -> u64 {
        self.next
    }

    /// The end of the arena.
    #[must_use]
    pub const fn end(&self) -> u64 {
        self.end
    }
}
