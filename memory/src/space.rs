//! Address spaces: what a vCPU or a bus master sees, and access to it.
//!
//! Accesses load the published view and hold no lock; a device that is called may change the topology.

use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::access::{self, Direction};
use crate::flatview::FlatView;
use crate::ops::MemTx;
use crate::ram::BlockRange;
use crate::region::RegionId;

/// A named view of a region tree.
#[derive(Debug)]
pub struct AddressSpace {
    name: String,
    root: RegionId,
    view: ArcSwap<FlatView>,
}

impl AddressSpace {
    pub(crate) fn new(name: String, root: RegionId) -> Self {
        Self { name, root, view: ArcSwap::default() }
    }

    pub(crate) fn publish(&self, view: Arc<FlatView>) -> Arc<FlatView> {
        self.view.swap(view)
    }

    /// Name in `info mtree`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The root region.
    pub fn root(&self) -> RegionId {
        self.root
    }

    /// The view as of now. It stays valid (and keeps what it shows alive) while it is held.
    pub fn view(&self) -> Arc<FlatView> {
        self.view.load_full()
    }

    /// Reads `buf.len()` bytes at `addr`, from RAM and devices. What cannot be read is zero.
    pub fn read(&self, addr: u64, buf: &mut [u8]) -> MemTx {
        access::transfer(&self.view.load(), addr, Direction::Read(buf))
    }

    /// Writes at `addr`, to RAM (marking it dirty) and devices. Writes to ROM and to nothing are lost.
    pub fn write(&self, addr: u64, buf: &[u8]) -> MemTx {
        access::transfer(&self.view.load(), addr, Direction::Write(buf))
    }

    /// Like [`write`](Self::write), also into ROM; devices are left alone. For loaders.
    #[doc(alias = "address_space_write_rom")]
    pub fn write_rom(&self, addr: u64, buf: &[u8]) -> MemTx {
        access::transfer(&self.view.load(), addr, Direction::Load(buf))
    }

    /// Reads an integer of `size` bytes (1 to 8), little endian.
    pub fn read_uint(&self, addr: u64, size: u8) -> (u64, MemTx) {
        let mut bytes = [0; 8];
        let result = self.read(addr, &mut bytes[..usize::from(size.min(8))]);
        (u64::from_le_bytes(bytes), result)
    }

    /// Writes an integer of `size` bytes (1 to 8), little endian.
    pub fn write_uint(&self, addr: u64, size: u8, value: u64) -> MemTx {
        self.write(addr, &value.to_le_bytes()[..usize::from(size.min(8))])
    }

    /// The memory at `addr..addr + len`, if it is RAM of one block without gap; `len` is not 0. Read-only memory does
    /// not count.
    pub fn ram_range(&self, addr: u64, len: u64) -> Option<BlockRange> {
        let view = self.view.load();
        let range = view.lookup(addr).filter(|r| !r.readonly)?;
        (addr.checked_add(len.checked_sub(1)?)? <= range.last)
            .then(|| range.block()?.range(range.offset + (addr - range.addr), len))?
    }
}

#[cfg(test)]
mod tests;
