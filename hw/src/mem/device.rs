//! Memory devices as the machine sees them: a trait, and the list of those that are plugged.
//!
//! The list is a machine extension ([`MemoryDevices::of`]): `query-memory-devices`, `query-memory-size-summary` and
//! `info numa` read it, [`super::plug`] changes it.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use memory::{DiscardClaim, DiscardConflict, DiscardGuard, Memory, MemoryBackend, RegionId};
use qapi::types::{MemoryDeviceInfo, PliantMemoryMap};
use qapi::{Error, Result};

use super::memslots::sizing::Budget;
use super::placement::{Placed, Wanted};
use super::unplugged::OnAccess;
use crate::core::Machine;

/// Cells of a map at most, so that the answer is bounded.
const MAX_CELLS: u32 = 4096;

/// Alignment of what backs a region, as the memory API has it: huge pages for anonymous memory, else its pages.
pub(super) fn region_align(backend: &MemoryBackend) -> u64 {
    let anonymous = backend.block().is_some_and(|block| block.file().is_none());
    if anonymous { 2 << 20 } else { backend.page_size() }
}

/// A device whose memory is mapped in the device-memory area. What has an implementation here is that of a device whose memory is there as a whole.
pub trait MemoryDevice: Send + Sync {
    /// The `id=` of the device, if it has one.
    fn id(&self) -> Option<String>;

    /// Where the device is in the object tree.
    fn qom_path(&self) -> String;

    /// What the device needs in the area. Asked before it is realized.
    ///
    /// # Errors
    /// The device has no memory.
    fn wanted(&self) -> Result<Wanted>;

    /// Tells where the device goes, before it is realized.
    fn set_addr(&self, addr: u64);

    /// Decides into how many parts, each with a memory slot of its own, the device divides its memory, and says how many
    /// that are. Asked before it is realized; a device that is asked again decides again.
    ///
    /// # Errors
    /// What the user asked for cannot be had.
    fn decide_memslots(&self, _budget: &Budget) -> Result<u64> {
        Ok(1)
    }

    /// The address that was set.
    fn addr(&self) -> u64;

    /// Bytes of its region; 0 without memory.
    fn region_size(&self) -> u64;

    /// What is mapped; present while the device is realized.
    fn region(&self) -> Option<RegionId>;

    /// The parts it divided its memory into.
    fn memslots(&self) -> SlotUse {
        SlotUse { parts: 1, mapped: 1, part_size: self.region_size(), decided: false }
    }

    /// Bytes the guest can use.
    fn plugged_size(&self) -> u64 {
        self.region_size()
    }

    /// Its NUMA node.
    fn node(&self) -> u32;

    /// What becomes of a guest that touches memory which is not plugged; `None` if the device lets it.
    fn on_unplugged_access(&self) -> Option<OnAccess> {
        None
    }

    /// What `query-memory-devices` shows.
    fn info(&self) -> MemoryDeviceInfo;

    /// Which parts of it are plugged, in at most `cells` cells; `None` if it is not plugged in blocks.
    fn map(&self, _cells: u32) -> Option<PliantMemoryMap> {
        None
    }

    /// Whether a `device_del` would be accepted.
    ///
    /// # Errors
    /// Why not.
    fn may_unplug(&self) -> Result<()>;
}

/// The parts, each with a memory slot of its own, that a device divided its memory into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlotUse {
    /// How many there are, at least 1: slots that the device may come to use.
    pub parts: u64,
    /// How many are mapped now.
    pub mapped: u64,
    /// Bytes of each; the last one may be smaller.
    pub part_size: u64,
    /// Whether the device found the number by QEMU's rule, from what all slot users have, and took more than one.
    #[doc(alias = "memslot_auto_decision_active")]
    pub decided: bool,
}

/// The memory devices of one machine.
#[derive(Default)]
pub struct MemoryDevices {
    devices: Mutex<Vec<Arc<dyn MemoryDevice>>>,
    frozen: AtomicU32,
    /// Whether a machine that arrives finds its shared memory here.
    keeps_shared: AtomicBool,
    locked: OnceLock<DiscardGuard>,
}

impl MemoryDevices {
    /// Those of `machine`.
    pub fn of(machine: &Machine) -> Arc<Self> {
        machine.extension(Self::default)
    }

    fn list(&self) -> MutexGuard<'_, Vec<Arc<dyn MemoryDevice>>> {
        // Changed by whole insertions and removals only.
        self.devices.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All of them, by ascending address.
    pub fn devices(&self) -> Vec<Arc<dyn MemoryDevice>> {
        // Copied first: a device's address is behind its own lock.
        let mut devices = self.list().clone();
        devices.sort_by_key(|d| d.addr());
        devices
    }

    /// Where they are.
    pub fn placed(&self) -> Vec<Placed> {
        let placed = |d: &Arc<dyn MemoryDevice>| Placed { id: d.id(), addr: d.addr(), size: d.region_size() };
        self.devices().iter().map(placed).filter(|p| p.size != 0).collect()
    }

    /// The answer of `query-memory-devices`.
    pub fn infos(&self) -> Vec<MemoryDeviceInfo> {
        self.devices().iter().map(|d| d.info()).collect()
    }

    /// The answer of `x-pliant-query-memory-map`.
    ///
    /// # Errors
    /// The number of cells is out of range.
    pub fn maps(&self, cells: u32) -> Result<Vec<PliantMemoryMap>> {
        if !(1..=MAX_CELLS).contains(&cells) {
            return Err(Error::generic(format!("Parameter 'cells' expects a value from 1 to {MAX_CELLS}")));
        }
        Ok(self.devices().iter().filter_map(|d| d.map(cells)).collect())
    }

    /// Bytes that are plugged, the `plugged-memory` of `query-memory-size-summary`.
    #[doc(alias = "get_plugged_memory_size")]
    pub fn plugged_size(&self) -> u64 {
        self.devices().iter().map(|d| d.plugged_size()).sum()
    }

    /// Bytes that are plugged on one node, for `info numa`.
    pub fn plugged_on(&self, node: u32) -> u64 {
        self.devices().iter().filter(|d| d.node() == node).map(|d| d.plugged_size()).sum()
    }

    /// Memory slots they may come to use together.
    pub fn memslots(&self) -> u64 {
        self.devices().iter().map(|d| d.memslots().parts).sum()
    }

    pub(super) fn add(&self, device: Arc<dyn MemoryDevice>) {
        self.list().push(device);
    }

    pub(super) fn remove(&self, device: &Arc<dyn MemoryDevice>) {
        self.list().retain(|d| !Arc::ptr_eq(d, device));
    }

    /// Forbids guests to change what is plugged until the guard is dropped: while a migration runs.
    #[must_use]
    pub fn freeze(self: &Arc<Self>) -> Frozen {
        self.frozen.fetch_add(1, Ordering::AcqRel);
        Frozen(Arc::clone(self))
    }

    /// Says whether a machine that arrives finds the memory that it shares with its source already here.
    pub fn set_keeps_shared(&self, keeps: bool) {
        self.keeps_shared.store(keeps, Ordering::Release);
    }

    /// Whether it does.
    pub fn keeps_shared(&self) -> bool {
        self.keeps_shared.load(Ordering::Acquire)
    }

    /// Whether guests may not change what is plugged.
    #[doc(alias = "virtio_mem_is_busy")]
    pub fn is_frozen(&self) -> bool {
        self.frozen.load(Ordering::Acquire) != 0
    }

    /// All memory of the process is locked (`-overcommit mem-lock=on`), so nothing can be given back, from now on.
    ///
    /// # Errors
    /// There is somebody already who has to give back.
    pub fn set_memory_locked(&self, memory: &Memory) -> Result<(), DiscardConflict> {
        if !self.is_memory_locked() {
            // Another thread that was faster made the same claim.
            let _ = self.locked.set(memory.discard_policy().claim(DiscardClaim::Disabled)?);
        }
        Ok(())
    }

    /// Whether all memory of the process is locked.
    pub fn is_memory_locked(&self) -> bool {
        self.locked.get().is_some()
    }
}

/// Keeps [`MemoryDevices::is_frozen`] true.
pub struct Frozen(Arc<MemoryDevices>);

impl Drop for Frozen {
    fn drop(&mut self) {
        self.0.frozen.fetch_sub(1, Ordering::AcqRel);
    }
}
