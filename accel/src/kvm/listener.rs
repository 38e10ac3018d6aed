//! Following the address spaces: RAM becomes memory slots, event descriptors become ioeventfds.

#![expect(
    unsafe_code,
    reason = "handing host memory to the guest, and KVM_IOEVENTFD with a length but no value"
)]

use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex};

use kvm_bindings::{
    KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY, KVMIO, kvm_ioeventfd, kvm_ioeventfd_flag_nr_datamatch,
    kvm_ioeventfd_flag_nr_deassign, kvm_ioeventfd_flag_nr_pio, kvm_userspace_memory_region,
};
use kvm_ioctls::VmFd;
use memory::{IoEventFdSection, MemoryListener, RamBlock, Section};
use vmm_sys_util::ioctl::ioctl_with_ref;

use super::slots::{Mapping, Slot, SlotIoctls, SlotTable};
use super::{PAGE_SIZE, lock, os_error};
use crate::MemorySlots;

vmm_sys_util::ioctl_iow_nr!(KVM_IOEVENTFD, KVMIO, 0x79, kvm_ioeventfd);

struct Ioctls<'a>(&'a VmFd);

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
        tracing::debug!(
            slot = slot.number,
            gpa = slot.gpa,
            size = slot.size,
            readonly = slot.readonly,
            log = slot.log,
            "memory slot"
        );
        // SAFETY: a slot lies inside the RAM block of its section, which `SystemListener` keeps alive (`Mapped::block`) until
        // the slot is deleted, and `memory` never unmaps a living block.
        unsafe { self.0.set_user_memory_region(region) }.map_err(os_error)
    }

    fn dirty_log(&mut self, slot: &Slot) -> io::Result<Vec<u64>> {
        self.0.get_dirty_log(slot.number, slot.size as usize).map_err(os_error)
    }
}

/// RAM that the guest has.
struct Mapped {
    mapping: Mapping,
    block: Arc<RamBlock>,
    offset: u64,
    /// The section itself asked for logging.
    log: bool,
}

struct Slots {
    table: SlotTable,
    mapped: BTreeMap<u64, Mapped>,
    /// All RAM is logged.
    log_all: bool,
}

/// Listener of the system address space.
pub(crate) struct SystemListener {
    vm: Arc<VmFd>,
    slots: Mutex<Slots>,
}

impl SystemListener {
    pub(crate) fn new(vm: Arc<VmFd>, max_slots: u32) -> Self {
        let slots = Slots { table: SlotTable::new(max_slots), mapped: BTreeMap::new(), log_all: false };
        Self { vm, slots: Mutex::new(slots) }
    }

    /// Gives the kernel the slots, before the first vCPU runs.
    pub(crate) fn start(&self) {
        if let Err(error) = lock(&self.slots).table.start(&mut Ioctls(&self.vm)) {
            tracing::error!(%error, "cannot set all memory slots");
        }
    }

    pub(crate) fn slot_changes(&self) -> u64 {
        lock(&self.slots).table.changes()
    }

    pub(crate) fn memory_slots(&self) -> MemorySlots {
        let slots = lock(&self.slots);
        MemorySlots { max: slots.table.max(), free: slots.table.free() }
    }

    fn set_log(&self, slots: &mut Slots, addr: u64) -> io::Result<()> {
        let Slots { table, mapped, log_all } = slots;
        let Some(entry) = mapped.get(&addr) else { return Ok(()) };
        let log = *log_all || entry.log;
        if !log {
            // What was written since the last look would be forgotten.
            sync(table, &self.vm, entry);
        }
        table.set_log(&mut Ioctls(&self.vm), &entry.mapping, log)
    }

    fn set_all_logs(&self, log_all: bool) -> io::Result<()> {
        let mut slots = lock(&self.slots);
        slots.log_all = log_all;
        let all: Vec<u64> = slots.mapped.keys().copied().collect();
        all.into_iter().try_for_each(|addr| self.set_log(&mut slots, addr))
    }

    fn set_section_log(&self, section: &Section, log: bool) {
        let mut slots = lock(&self.slots);
        if let Some(entry) = slots.mapped.get_mut(&section.addr) {
            entry.log = log;
        }
        if let Err(error) = self.set_log(&mut slots, section.addr) {
            tracing::error!(%error, section = &*section.name, log, "cannot switch the dirty log");
        }
    }
}

/// Moves the kernel's dirty bits of a mapping to its block.
fn sync(table: &mut SlotTable, vm: &VmFd, entry: &Mapped) {
    let result = table.sync_log(&mut Ioctls(vm), &entry.mapping, |gpa, pages| {
        entry.block.mark_dirty(entry.offset + (gpa - entry.mapping.gpa), pages * PAGE_SIZE);
    });
    if let Err(error) = result {
        tracing::error!(%error, gpa = entry.mapping.gpa, "cannot read the dirty log");
    }
}

fn mapping_of(section: &Section, log: bool) -> Option<Mapping> {
    let range = section.ram()?;
    Some(Mapping {
        gpa: section.addr,
        size: range.len(),
        hva: range.host_address() as u64,
        readonly: section.readonly || !range.block().is_writable(),
        log,
    })
}

impl MemoryListener for SystemListener {
    fn region_add(&self, section: &Section) {
        let mut slots = lock(&self.slots);
        let (Some(mapping), Some(block)) =
            (mapping_of(section, slots.log_all || section.log), section.block.clone())
        else {
            return;
        };
        // Without a slot the guest still reaches the memory, by slow exits.
        if let Err(error) = slots.table.map(&mut Ioctls(&self.vm), &mapping) {
            tracing::error!(%error, ?mapping, section = &*section.name, "cannot set a memory slot");
        }
        let entry = Mapped { mapping, block, offset: section.offset_in_region, log: section.log };
        slots.mapped.insert(section.addr, entry);
    }

    fn region_del(&self, section: &Section) {
        if section.block.is_none() {
            return;
        }
        let mut slots = lock(&self.slots);
        let Some(entry) = slots.mapped.remove(&section.addr) else { return };
        if slots.log_all || entry.log {
            sync(&mut slots.table, &self.vm, &entry);
        }
        if let Err(error) = slots.table.unmap(&mut Ioctls(&self.vm), &entry.mapping) {
            tracing::error!(%error, section = &*section.name, "cannot delete a memory slot");
        }
        // Only now may the block go.
        drop(entry);
    }

    fn log_start(&self, section: &Section) {
        self.set_section_log(section, true);
    }

    fn log_stop(&self, section: &Section) {
        self.set_section_log(section, false);
    }

    fn log_sync(&self, section: &Section) {
        let mut slots = lock(&self.slots);
        let Slots { table, mapped, .. } = &mut *slots;
        if let Some(entry) = mapped.get(&section.addr) {
            sync(table, &self.vm, entry);
        }
    }

    fn log_global_start(&self) -> Result<(), String> {
        self.set_all_logs(true).map_err(|error| {
            if let Err(undo) = self.set_all_logs(false) {
                tracing::error!(%undo, "cannot stop the dirty log");
            }
            format!("Failed to start the dirty log of KVM: {}", super::os_text(&error))
        })
    }

    fn log_global_stop(&self) {
        if let Err(error) = self.set_all_logs(false) {
            tracing::error!(%error, "cannot stop the dirty log");
        }
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

/// Listener of the port address space.
pub(crate) struct IoListener {
    vm: Arc<VmFd>,
}

impl IoListener {
    pub(crate) fn new(vm: Arc<VmFd>) -> Self {
        Self { vm }
    }
}

impl MemoryListener for IoListener {
    fn eventfd_add(&self, eventfd: &IoEventFdSection) {
        assign(&self.vm, eventfd, true);
    }

    fn eventfd_del(&self, eventfd: &IoEventFdSection) {
        deassign(&self.vm, eventfd, true);
    }
}

fn assign(vm: &VmFd, eventfd: &IoEventFdSection, port: bool) {
    // Without it the write exits to us and the address space signals the descriptor.
    if let Err(error) = ioeventfd(vm, eventfd, port, 0) {
        tracing::warn!(%error, ?eventfd, "no ioeventfd in the kernel");
    }
}

fn deassign(vm: &VmFd, eventfd: &IoEventFdSection, port: bool) {
    if let Err(error) = ioeventfd(vm, eventfd, port, 1 << kvm_ioeventfd_flag_nr_deassign) {
        tracing::debug!(%error, ?eventfd, "the kernel had no such ioeventfd");
    }
}

fn ioeventfd(vm: &VmFd, eventfd: &IoEventFdSection, port: bool, mut flags: u32) -> io::Result<()> {
    if port {
        flags |= 1 << kvm_ioeventfd_flag_nr_pio;
    }
    if eventfd.datamatch.is_some() {
        flags |= 1 << kvm_ioeventfd_flag_nr_datamatch;
    }
    let request = kvm_ioeventfd {
        datamatch: eventfd.datamatch.unwrap_or(0),
        addr: eventfd.addr,
        len: u32::from(eventfd.size),
        fd: eventfd.fd.as_raw_fd(),
        flags,
        ..Default::default()
    };
    // SAFETY: `vm` is a VM descriptor and the kernel only reads the structure, which outlives the call.
    match unsafe { ioctl_with_ref(vm, KVM_IOEVENTFD(), &request) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
