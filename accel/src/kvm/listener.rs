//! Following the address space of memory: RAM becomes memory slots, event descriptors become ioeventfds (`ioeventfd`).

#![expect(unsafe_code, reason = "handing host memory to the guest, and the ioctls of its dirty log")]

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Condvar, Mutex, Weak};

use kvm_bindings::{
    KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY, KVMIO, kvm_clear_dirty_log, kvm_clear_dirty_log__bindgen_ty_1,
    kvm_dirty_log, kvm_dirty_log__bindgen_ty_1, kvm_userspace_memory_region,
};
use kvm_ioctls::VmFd;
use memory::{DiscardManager, IoEventFdSection, MemoryListener, RamBlock, Section};
use vmm_sys_util::ioctl::ioctl_with_ref;

use super::follow::Follow;
use super::gate::Gate;
use super::ioeventfd::{assign, deassign};
use super::put_off::Queue;
use super::ring::Rings;
use super::slots::{Mapping, Slot, SlotIoctls, SlotTable};
use super::{PAGE_SIZE, lock, os_error};
use crate::MemorySlots;

vmm_sys_util::ioctl_iow_nr!(KVM_GET_DIRTY_LOG, KVMIO, 0x42, kvm_dirty_log);
vmm_sys_util::ioctl_iowr_nr!(KVM_CLEAR_DIRTY_LOG, KVMIO, 0xc0, kvm_clear_dirty_log);

pub(super) struct Ioctls<'a>(pub(super) &'a VmFd);

impl SlotIoctls for Ioctls<'_> {
    fn set(&mut self, slot: &Slot) -> io::Result<()> {
        let flags = if slot.readonly { KVM_MEM_READONLY } else { 0 }
            | if slot.log { KVM_MEM_LOG_DIRTY_PAGES } else { 0 };
        let region = kvm_userspace_memory_region {
            slot: slot.number,
            flags,
            guest_phys_addr: slot.gpa,
            memory_size: slot.size,
            userspace_addr: slot.hva,
        };
        // SAFETY: a slot lies inside the RAM block of its section, which `SystemListener` keeps alive (`Mapped::block`) until
        // the slot is deleted, and `memory` never unmaps a living block.
        let result = unsafe { self.0.set_user_memory_region(region) };
        let ret = result.map_or_else(|error| -error.errno(), |()| 0);
        trace::emit!(kvm_set_user_memory, slot.number, flags, slot.gpa, slot.size, slot.hva, ret);
        result.map_err(os_error)
    }

    fn dirty_log(&mut self, slot: &Slot, bits: &mut [u64]) -> io::Result<()> {
        if (bits.len() as u64 * 64) < slot.size / PAGE_SIZE {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        let request = kvm_dirty_log {
            slot: slot.number,
            padding1: 0,
            __bindgen_anon_1: kvm_dirty_log__bindgen_ty_1 { dirty_bitmap: bits.as_mut_ptr().cast() },
        };
        // SAFETY: `self.0` is a VM descriptor; the kernel reads the structure and writes a bit for each page of the slot, in whole words of 64
        // bits, for which there is room. The slot was given to it with this size.
        let ret = unsafe { ioctl_with_ref(self.0, KVM_GET_DIRTY_LOG(), &request) };
        if ret == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    fn clear_dirty_log(&mut self, slot: &Slot, first: u64, pages: u64, bits: &[u64]) -> io::Result<()> {
        let request = kvm_clear_dirty_log {
            slot: slot.number,
            num_pages: u32::try_from(pages).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?,
            first_page: first,
            __bindgen_anon_1: kvm_clear_dirty_log__bindgen_ty_1 {
                dirty_bitmap: bits.as_ptr().cast_mut().cast(),
            },
        };
        trace::emit!(kvm_clear_dirty_log, slot.number, first, pages);
        debug_assert!(bits.len() as u64 * 64 >= pages);
        // SAFETY: `self.0` is a VM descriptor; the kernel reads the structure and `num_pages` bits, which both outlive the call, and
        // writes neither.
        let ret = unsafe { ioctl_with_ref(self.0, KVM_CLEAR_DIRTY_LOG(), &request) };
        if ret == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

/// RAM that the guest has.
pub(super) struct Mapped {
    pub(super) mapping: Mapping,
    block: Arc<RamBlock>,
    /// Of the section in the block.
    offset: u64,
    /// The section itself asked for logging.
    log: bool,
    /// What of the section has slots, in bytes of the section, ascending.
    pub(super) parts: Vec<Range<u64>>,
    /// Of a section whose slots depend on what is plugged.
    pub(super) follow: Option<Follow>,
}

impl Mapped {
    fn part(&self, part: &Range<u64>, log: bool) -> Mapping {
        let Mapping { gpa, hva, readonly, .. } = self.mapping;
        Mapping { gpa: gpa + part.start, hva: hva + part.start, size: part.end - part.start, readonly, log }
    }

    fn mappings(&self) -> impl Iterator<Item = Mapping> + '_ {
        self.parts.iter().map(|part| self.part(part, self.log))
    }

    /// The section's bytes in its block.
    pub(super) fn in_block(&self) -> Range<u64> {
        self.offset..self.offset + self.mapping.size
    }

    /// Of a section that follows what is plugged: who knows that, and the section's bytes in the block.
    pub(super) fn followed(&self) -> Option<(Arc<DiscardManager>, Range<u64>)> {
        Some((Arc::clone(&self.follow.as_ref()?.manager), self.in_block()))
    }
}

/// How the kernel tells what was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DirtyLog {
    /// A look at a slot's bitmap clears it.
    Clearing,
    /// A bitmap of which what was reported is cleared on request; see [`super::slots`].
    Manual,
    /// See [`super::ring`].
    Ring,
}

pub(super) struct Slots {
    pub(super) table: SlotTable,
    pub(super) mapped: BTreeMap<u64, Mapped>,
    /// All RAM is logged.
    log_all: bool,
    pub(super) queue: Queue,
    pub(super) gate: Arc<Gate>,
    /// In which vCPUs' writes are found, if not in the kernel's bitmaps.
    pub(super) rings: Option<Rings>,
}

impl Slots {
    /// Slots that nobody has or may come to need for a section that is there.
    pub(super) fn free(&self) -> u32 {
        let waiting = self.mapped.values().filter(|entry| entry.parts.is_empty()).count();
        self.table.free().saturating_sub(u32::try_from(waiting).unwrap_or(u32::MAX))
    }

    /// What is kept of the section at `addr` if it follows what is plugged.
    pub(super) fn follow(&mut self, addr: u64) -> Option<&mut Follow> {
        self.mapped.get_mut(&addr)?.follow.as_mut()
    }

    /// Gives a part of the section at `addr` a slot.
    pub(super) fn map(&mut self, vm: &VmFd, addr: u64, part: Range<u64>) {
        let Some(entry) = self.mapped.get_mut(&addr) else { return };
        let mapping = entry.part(&part, self.log_all || entry.log);
        // Without a slot the guest still reaches the memory, by slow exits.
        if let Err(error) = self.table.map(&mut Ioctls(vm), &mapping) {
            tracing::error!(%error, ?mapping, "cannot set a memory slot");
        }
        let at = entry.parts.partition_point(|other| other.start < part.start);
        entry.parts.insert(at, part);
    }

    /// Books the slot of the whole section at `addr`, for whoever gives it to the kernel.
    pub(super) fn book(&mut self, addr: u64) -> Vec<Slot> {
        let Some(entry) = self.mapped.get_mut(&addr) else { return Vec::new() };
        let whole = 0..entry.mapping.size;
        let mapping = entry.part(&whole, self.log_all || entry.log);
        entry.parts = vec![whole];
        self.table.book(&mapping).unwrap_or_else(|error| {
            tracing::error!(%error, ?mapping, "no memory slot");
            Vec::new()
        })
    }

    /// Marks what the kernel saw written of the section at `addr` in its block; only what is in `visible`, bytes of the block, if that is
    /// given.
    fn sync(&mut self, vm: &VmFd, addr: u64, visible: Option<&[Range<u64>]>) {
        if self.rings.is_some() {
            self.reap(vm);
            return;
        }
        let Self { table, mapped, .. } = self;
        let Some(entry) = mapped.get(&addr) else { return };
        let manual = table.is_manual();
        let in_guest = |at: u64| entry.mapping.gpa + (at - entry.offset);
        let visible: Option<Vec<_>> = visible.map(|runs| {
            let section = entry.in_block();
            let cut = runs.iter().map(|run| run.start.max(section.start)..run.end.min(section.end));
            cut.filter(|run| run.start < run.end).map(|run| in_guest(run.start)..in_guest(run.end)).collect()
        });
        for mapping in entry.mappings() {
            let result = table.sync_log(&mut Ioctls(vm), &mapping, visible.as_deref(), |gpa, pages| {
                let (offset, len) = (entry.offset + (gpa - entry.mapping.gpa), pages * PAGE_SIZE);
                if manual {
                    entry.block.mark_dirty_unwatched(offset, len);
                } else {
                    entry.block.mark_dirty(offset, len);
                }
            });
            if let Err(error) = result {
                tracing::error!(%error, gpa = mapping.gpa, "cannot read the dirty log");
            }
        }
    }

    /// Marks guest memory of one section as written.
    pub(super) fn mark(&self, gpa: u64, len: u64) {
        let Some((_, entry)) = self.mapped.range(..=gpa).next_back() else { return };
        let at = gpa - entry.mapping.gpa;
        entry.block.mark_dirty(entry.offset + at, len.min(entry.mapping.size.saturating_sub(at)));
    }

    /// Takes all slots of the section at `addr`; `visible` as with [`Slots::unmap_parts`].
    pub(super) fn unmap(&mut self, vm: &VmFd, addr: u64, visible: Option<&[Range<u64>]>) {
        let parts = self.mapped.get(&addr).map(|entry| entry.parts.clone()).unwrap_or_default();
        self.unmap_parts(vm, addr, &parts, visible);
    }

    /// Takes the slots of some parts of the section at `addr`. What was written there is marked, of what is in `visible` (bytes of the
    /// block) if that is given.
    pub(super) fn unmap_parts(
        &mut self,
        vm: &VmFd,
        addr: u64,
        parts: &[Range<u64>],
        visible: Option<&[Range<u64>]>,
    ) {
        let Some(log) = self.mapped.get(&addr).filter(|_| !parts.is_empty()).map(|entry| entry.log) else {
            return;
        };
        // The log goes with the slot: nobody may write between the last look and the end.
        let gate = Arc::clone(&self.gate);
        let closed = (self.log_all || log).then(|| gate.close());
        if closed.is_some() {
            self.sync(vm, addr, visible);
        }
        let Some(entry) = self.mapped.get_mut(&addr) else { return };
        for part in parts {
            let mapping = entry.part(part, entry.log);
            if let Err(error) = self.table.unmap(&mut Ioctls(vm), &mapping) {
                tracing::error!(%error, gpa = mapping.gpa, "cannot delete a memory slot");
            }
        }
        // Both are ascending.
        let mut parts = parts.iter().peekable();
        entry.parts.retain(|part| parts.next_if(|gone| *gone == part).is_none());
    }
}

/// Listener of the system address space.
pub(crate) struct SystemListener {
    pub(super) vm: Arc<VmFd>,
    pub(super) gate: Arc<Gate>,
    slots: Mutex<Slots>,
    /// A slot was made that had been put off, or a batch of changes has ended.
    pub(super) made: Condvar,
    pub(super) put_offs: AtomicU64,
    /// For those that outlive a call: they must not keep the VM alive.
    pub(super) this: Weak<Self>,
}

impl SystemListener {
    pub(crate) fn new(vm: Arc<VmFd>, gate: Arc<Gate>, max_slots: u32, log: DirtyLog) -> Arc<Self> {
        let slots = Slots {
            table: SlotTable::new(max_slots).manual_protection(log == DirtyLog::Manual),
            mapped: BTreeMap::new(),
            log_all: false,
            queue: Queue::default(),
            gate: Arc::clone(&gate),
            rings: (log == DirtyLog::Ring).then(Rings::default),
        };
        Arc::new_cyclic(|this| Self {
            vm,
            gate,
            slots: Mutex::new(slots),
            made: Condvar::new(),
            put_offs: AtomicU64::new(0),
            this: Weak::clone(this),
        })
    }

    pub(super) fn slots(&self) -> std::sync::MutexGuard<'_, Slots> {
        lock(&self.slots)
    }

    /// Gives the kernel the slots, before the first vCPU runs.
    pub(crate) fn start(&self) {
        if let Err(error) = self.slots().table.start(&mut Ioctls(&self.vm)) {
            tracing::error!(%error, "cannot set all memory slots");
        }
    }

    pub(crate) fn slot_changes(&self) -> u64 {
        self.slots().table.changes()
    }

    pub(crate) fn memory_slots(&self) -> MemorySlots {
        let slots = self.slots();
        MemorySlots { max: slots.table.max(), free: slots.free() }
    }

    /// Calls `with` with what of the block of the section at `addr` can have been written: what is plugged of sparse memory, and stays
    /// so meanwhile. That a slot spans much more costs nothing then.
    fn with_visible<T>(&self, addr: u64, with: impl FnOnce(Option<&[Range<u64>]>) -> T) -> T {
        let sparse = self
            .slots()
            .mapped
            .get(&addr)
            .and_then(|entry| Some((entry.block.discard_manager()?, entry.in_block())));
        match sparse {
            Some((manager, range)) => manager.with_populated(range, |runs| with(Some(runs))),
            None => with(None),
        }
    }

    /// Has the kernel log the section at `addr`, or not any more, as `change` leaves it.
    fn set_log(&self, addr: u64, change: impl FnOnce(&mut Mapped)) -> io::Result<()> {
        self.with_visible(addr, |visible| {
            let slots = &mut *self.settled(addr);
            let Some(entry) = slots.mapped.get_mut(&addr) else { return Ok(()) };
            change(entry);
            let log = slots.log_all || entry.log;
            if !log {
                // What was written since the last look would be forgotten.
                slots.sync(&self.vm, addr, visible);
            }
            let Slots { table, mapped, .. } = slots;
            let Some(entry) = mapped.get(&addr) else { return Ok(()) };
            entry.mappings().try_for_each(|mapping| table.set_log(&mut Ioctls(&self.vm), &mapping, log))
        })
    }

    fn set_all_logs(&self, log_all: bool) -> io::Result<()> {
        let mut slots = self.slots();
        slots.log_all = log_all;
        let all: Vec<u64> = slots.mapped.keys().copied().collect();
        drop(slots);
        all.into_iter().try_for_each(|addr| self.set_log(addr, |_| {}))
    }

    fn set_section_log(&self, section: &Section, log: bool) {
        if let Err(error) = self.set_log(section.addr, |entry| entry.log = log) {
            tracing::error!(%error, section = &*section.name, log, "cannot switch the dirty log");
        }
    }
}

fn mapping_of(section: &Section) -> Option<Mapping> {
    let range = section.ram()?;
    Some(Mapping {
        gpa: section.addr,
        size: range.len(),
        hva: range.host_address() as u64,
        readonly: section.readonly || !range.block().is_writable(),
        log: section.log,
    })
}

impl MemoryListener for SystemListener {
    fn begin(&self) {
        self.begin_batch();
    }

    fn commit(&self) {
        self.end_batch();
    }

    fn region_add(&self, section: &Section) {
        let (Some(mapping), Some(block)) = (mapping_of(section), section.block.clone()) else { return };
        let manager = block.discard_manager().filter(|manager| manager.is_followed_by_mappings());
        let follow = manager.map(Follow::new);
        let follows = follow.is_some();
        let entry = Mapped {
            mapping,
            block,
            offset: section.offset_in_region,
            log: section.log,
            parts: Vec::new(),
            follow,
        };
        let mut slots = self.slots();
        slots.mapped.insert(section.addr, entry);
        if follows {
            drop(slots);
            self.follow(section.addr);
        } else {
            slots.map(&self.vm, section.addr, 0..mapping.size);
        }
    }

    fn region_del(&self, section: &Section) {
        if section.block.is_none() {
            return;
        }
        self.unfollow(section.addr);
        let gone = self.with_visible(section.addr, |visible| {
            let mut slots = self.settled(section.addr);
            self.call_off(&mut slots, section.addr);
            slots.unmap(&self.vm, section.addr, visible);
            slots.mapped.remove(&section.addr)
        });
        // Only now may the block go.
        drop(gone);
    }

    fn log_start(&self, section: &Section) {
        self.set_section_log(section, true);
    }

    fn log_stop(&self, section: &Section) {
        self.set_section_log(section, false);
    }

    fn log_sync(&self, section: &Section) {
        self.with_visible(section.addr, |visible| {
            self.settled(section.addr).sync(&self.vm, section.addr, visible);
        });
    }

    fn log_clear(&self, section: &Section) {
        let end = section.addr.saturating_add(u64::try_from(section.size).unwrap_or(u64::MAX));
        let mut slots = self.slots();
        // Slots that are being made have reported nothing.
        if let Err(error) = slots.table.clear_log(&mut Ioctls(&self.vm), &(section.addr..end)) {
            tracing::error!(%error, section = &*section.name, "cannot clear the dirty log");
        }
    }

    fn log_global_start(&self) -> Result<(), String> {
        self.set_all_logs(true).map_err(|error| {
            if let Err(undo) = self.set_all_logs(false) {
                tracing::error!(%undo, "cannot stop the dirty log");
            }
            format!("Failed to start the dirty log of KVM: {}", qapi::strerror(&error))
        })
    }

    fn log_global_stop(&self) {
        if let Err(error) = self.set_all_logs(false) {
            tracing::error!(%error, "cannot stop the dirty log");
        }
        self.slots().table.end_looking();
    }

    fn eventfd_add(&self, eventfd: &IoEventFdSection) {
        assign(&self.vm, eventfd, false);
    }

    fn eventfd_del(&self, eventfd: &IoEventFdSection) {
        deassign(&self.vm, eventfd, false);
    }

    fn has_memory(&self, section: &Section) -> Option<&'static str> {
        section.block.as_ref().map(|_| "KVM")
    }
}
