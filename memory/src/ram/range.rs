//! Ranges of a RAM block.

use std::sync::Arc;

use vm_memory::VolatileSlice;

use super::block::RamBlock;
use crate::guest_memory::DirtySlice;

/// A part of a block. That it exists proves that it is inside.
#[derive(Debug, Clone)]
pub struct BlockRange {
    block: Arc<RamBlock>,
    offset: u64,
    len: u64,
}

impl BlockRange {
    /// `len` bytes at `offset`, if the block has them.
    pub(super) fn of(block: &Arc<RamBlock>, offset: u64, len: u64) -> Option<Self> {
        (offset.checked_add(len)? <= block.max_size()).then(|| Self { block: Arc::clone(block), offset, len })
    }

    /// The block.
    pub fn block(&self) -> &Arc<RamBlock> {
        &self.block
    }

    /// Start in the block.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Bytes.
    #[expect(clippy::len_without_is_empty, reason = "a range is a length of memory, not a collection")]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// A part of this range.
    pub fn sub(&self, offset: u64, len: u64) -> Option<Self> {
        (offset.checked_add(len)? <= self.len).then(|| Self {
            block: self.block.clone(),
            offset: self.offset + offset,
            len,
        })
    }

    /// Host address of the first byte. Whoever keeps it keeps the range.
    pub fn host_address(&self) -> *mut u8 {
        self.block.host_address().wrapping_add(self.offset as usize)
    }

    /// Copies the start of the range out; returns how many bytes were copied: none if part of it is inaccessible.
    pub fn copy_to(&self, buf: &mut [u8]) -> usize {
        self.slice().map_or(0, |slice| slice.copy_to(buf))
    }

    /// Copies into the start of the range and marks it dirty; returns how many bytes were copied. Nothing is copied
    /// where the mapping is read-only or part of it is inaccessible.
    pub fn copy_from(&self, buf: &[u8]) -> usize {
        let Some(slice) = self.slice().filter(|_| self.block.is_writable()) else { return 0 };
        let count = buf.len().min(self.len as usize);
        slice.copy_from(&buf[..count]);
        count
    }

    /// The bytes as a volatile slice; see [`RamBlock::slice`]. Absent if they are inaccessible.
    pub fn slice(&self) -> Option<VolatileSlice<'_, DirtySlice<'_>>> {
        self.block.slice(self.offset, self.len as usize)
    }
}
