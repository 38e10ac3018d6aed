//! The RAM of a view as `vm-memory` has it, so that `virtio-queue` and other rust-vmm crates work on it.
//!
//! Read-only sections can be read and not written. Writes through the slices are marked in the block's dirty bitmap.

use std::iter::FusedIterator;
use std::sync::Arc;

use vm_memory::bitmap::{BS, Bitmap, BitmapSlice, WithBitmapSlice};
use vm_memory::guest_memory::{Error, GuestMemorySliceIterator, Result};
use vm_memory::{GuestAddress, GuestMemory, GuestMemoryMmap, Permissions, VolatileSlice};

use crate::discard_manager::Pin;
use crate::flatview::FlatRange;
use crate::ram::RamBlock;
use crate::ranges::Ranges;

/// Marks writes in the dirty bitmap of a block; the type parameter of [`GuestRam`].
#[derive(Debug, Clone)]
pub struct DirtyMarker {
    block: Arc<RamBlock>,
    base: u64,
}

/// A [`DirtyMarker`] for a slice that starts `base` bytes into the block. While it lives, what the slice shows stays
/// plugged.
#[derive(Debug, Clone)]
pub struct DirtySlice<'a> {
    block: &'a RamBlock,
    base: u64,
    pin: Option<Pin>,
}

impl<'a> DirtySlice<'a> {
    pub(crate) fn new(block: &'a RamBlock, base: u64, pin: Option<Pin>) -> Self {
        Self { block, base, pin }
    }
}

impl<'a> WithBitmapSlice<'a> for DirtyMarker {
    type S = DirtySlice<'a>;
}

impl Bitmap for DirtyMarker {
    fn mark_dirty(&self, offset: usize, len: usize) {
        self.block.mark_dirty(self.base + offset as u64, len as u64);
    }

    fn dirty_at(&self, offset: usize) -> bool {
        self.block.is_dirty(self.base + offset as u64)
    }

    fn slice_at(&self, offset: usize) -> DirtySlice<'_> {
        // Only slices have a pin: markers outlive copies.
        DirtySlice { block: &self.block, base: self.base + offset as u64, pin: None }
    }
}

impl WithBitmapSlice<'_> for DirtySlice<'_> {
    type S = Self;
}

impl BitmapSlice for DirtySlice<'_> {}

impl Bitmap for DirtySlice<'_> {
    fn mark_dirty(&self, offset: usize, len: usize) {
        self.block.mark_dirty(self.base + offset as u64, len as u64);
    }

    fn dirty_at(&self, offset: usize) -> bool {
        self.block.is_dirty(self.base + offset as u64)
    }

    fn slice_at(&self, offset: usize) -> Self {
        Self { block: self.block, base: self.base + offset as u64, pin: self.pin.clone() }
    }
}

/// The ranges of a view, of which those that are RAM count.
#[derive(Debug, Default)]
pub struct GuestRam(pub(crate) Ranges);

impl GuestRam {
    fn slice(
        &self,
        addr: u64,
        count: usize,
        access: Permissions,
    ) -> Option<VolatileSlice<'_, DirtySlice<'_>>> {
        let (range, block) = self.section(addr, access)?;
        let left = usize::try_from(range.last - addr).unwrap_or(usize::MAX).saturating_add(1);
        block.slice(range.offset + (addr - range.addr), count.min(left))
    }

    /// The RAM at an address, if the access is allowed.
    fn section(&self, addr: u64, access: Permissions) -> Option<(&FlatRange, &RamBlock)> {
        let range = self.0.reaching(addr).filter(|r| r.addr <= addr)?;
        let block = range.block()?;
        let allowed = !access.has_write() || !range.readonly && block.is_writable();
        allowed.then_some((range, &**block))
    }
}

impl GuestMemory for GuestRam {
    type PhysicalMemory = GuestMemoryMmap<()>;
    type Bitmap = DirtyMarker;

    fn check_range(&self, addr: GuestAddress, count: usize, access: Permissions) -> bool {
        let (mut at, mut left) = (addr.0, count as u64);
        while left > 0 {
            let Some((range, block)) = self.section(at, access) else { return false };
            let inside = left.min((range.last - at).saturating_add(1));
            if !block.is_accessible(range.offset + (at - range.addr), inside) {
                return false;
            }
            let Some(beyond) = left.checked_sub(range.last - at + 1).filter(|&b| b > 0) else {
                return true;
            };
            let Some(next) = range.last.checked_add(1) else { return false };
            (at, left) = (next, beyond);
        }
        true
    }

    fn get_slices<'a>(
        &'a self,
        addr: GuestAddress,
        count: usize,
        access: Permissions,
    ) -> Result<impl GuestMemorySliceIterator<'a, BS<'a, Self::Bitmap>>> {
        Ok(Slices { ram: self, addr: Some(addr.0), count, access })
    }
}

/// Slices that cover a guest range; see [`GuestMemory::get_slices`].
struct Slices<'a> {
    ram: &'a GuestRam,
    /// None past the last address.
    addr: Option<u64>,
    count: usize,
    access: Permissions,
}

impl<'a> Iterator for Slices<'a> {
    type Item = Result<VolatileSlice<'a, DirtySlice<'a>>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.count == 0 {
            return None;
        }
        let slice = match self.addr {
            None => Err(Error::GuestAddressOverflow),
            Some(addr) => {
                let slice = self.ram.slice(addr, self.count, self.access);
                slice.ok_or(Error::InvalidGuestAddress(GuestAddress(addr)))
            }
        };
        match &slice {
            Ok(slice) => {
                self.addr = self.addr.and_then(|a| a.checked_add(slice.len() as u64));
                self.count -= slice.len();
            }
            Err(_) => self.count = 0,
        }
        Some(slice)
    }
}

impl FusedIterator for Slices<'_> {}
impl<'a> GuestMemorySliceIterator<'a, DirtySlice<'a>> for Slices<'a> {}

#[cfg(test)]
mod tests;
