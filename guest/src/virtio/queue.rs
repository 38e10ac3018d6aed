//! A split virtqueue in guest RAM (virtio 1.3 §2.7).
//!
//! Two ways to use it, not to be mixed: one chain in flight ([`Queue::submit`], [`Queue::poll`]), which is all a memory device needs,
//! or several ([`Queue::submit_at`], [`Queue::take_used`]), whose descriptors the caller shares out.
//!
//! Left out: indirect descriptors, event index, notification suppression.

use super::VirtioError;
use crate::arena::Arena;
use crate::bus::Bus;

/// Entries at most; larger queues are shrunk to this (§4.1.5.1.3).
pub const MAX_SIZE: u16 = 128;

const DESC_NEXT: u16 = 1;
const DESC_WRITE: u16 = 2;
const AVAIL: u64 = 16 * MAX_SIZE as u64;
const USED: u64 = AVAIL + 0x200;
const SCRATCH: u64 = USED + 0x600;
const TOTAL: u64 = 8192;

/// The guest RAM of one queue: the three rings for up to 128 entries and a scratch page for buffers.
#[derive(Clone, Copy, Debug)]
pub struct QueueMemory {
    base: u64,
}

impl QueueMemory {
    /// Takes a queue's memory.
    ///
    /// # Errors
    /// [`VirtioError::NoMemory`].
    pub fn take(arena: &mut Arena) -> Result<Self, VirtioError> {
        arena.take(TOTAL, 4096).map(|base| Self { base }).ok_or(VirtioError::NoMemory)
    }

    pub(super) const fn desc(self) -> u64 {
        self.base
    }
    pub(super) const fn avail(self) -> u64 {
        self.base + AVAIL
    }
    pub(super) const fn used(self) -> u64 {
        self.base + USED
    }
    /// A page for buffers.
    #[must_use]
    pub const fn scratch(self) -> u64 {
        self.base + SCRATCH
    }
}

/// A descriptor as it stands in the table (§2.7.5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Descriptor {
    /// Guest-physical address of the buffer.
    pub addr: u64,
    /// Bytes.
    pub len: u32,
    /// NEXT 1, WRITE 2, INDIRECT 4.
    pub flags: u16,
    /// The next descriptor if NEXT is set.
    pub next: u16,
}

/// One buffer of a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buffer {
    /// Guest-physical address.
    pub addr: u64,
    /// Bytes.
    pub len: u32,
    /// The device writes it.
    pub device_writes: bool,
}

/// A live queue.
#[derive(Clone, Copy, Debug)]
pub struct Queue {
    index: u16,
    size: u16,
    memory: QueueMemory,
    doorbell: u64,
    interrupts: bool,
    /// Chains made available and chains seen used, both modulo 65536.
    available: u16,
    used: u16,
}

impl Queue {
    pub(super) fn new(bus: &mut impl Bus, index: u16, size: u16, memory: QueueMemory, doorbell: u64) -> Self {
        // Whatever ran before (a reboot) left its rings here.
        bus.ram_write(memory.base, &[0; SCRATCH as usize]);
        Self { index, size, memory, doorbell, interrupts: false, available: 0, used: 0 }
    }

    pub(super) const fn with_interrupts(mut self, interrupts: bool) -> Self {
        self.interrupts = interrupts;
        self
    }

    /// Entries.
    #[must_use]
    pub const fn size(&self) -> u16 {
        self.size
    }

    /// Whether [`Bus::idle`] wakes when the device is done.
    #[must_use]
    pub const fn has_interrupts(&self) -> bool {
        self.interrupts
    }

    /// The scratch page.
    #[must_use]
    pub const fn scratch(&self) -> u64 {
        self.memory.scratch()
    }

    /// Hands a chain of at most `size` buffers to the device; more are cut off. One chain at a time: call again only after [`Queue::poll`]
    /// returned a length.
    pub fn submit(&mut self, bus: &mut impl Bus, buffers: &[Buffer]) {
        self.submit_at(bus, 0, buffers);
    }

    /// Hands a chain to the device whose descriptors are those from number `head` on; buffers for which there is no descriptor left
    /// are cut off. The chain that had these descriptors before must have come back ([`Queue::take_used`]).
    pub fn submit_at(&mut self, bus: &mut impl Bus, head: u16, buffers: &[Buffer]) {
        let count = buffers.len().min(usize::from(self.size.saturating_sub(head))) as u16;
        for (number, buffer) in (0..count).zip(buffers) {
            let last = number + 1 == count;
            let flags = if last { 0 } else { DESC_NEXT } | if buffer.device_writes { DESC_WRITE } else { 0 };
            let next = if last { 0 } else { head + number + 1 };
            let descriptor = Descriptor { addr: buffer.addr, len: buffer.len, flags, next };
            self.write_descriptor(bus, head + number, descriptor);
        }
        if count > 0 {
            self.publish(bus, head);
        }
    }

    /// Writes one descriptor as it is given, for those who want to see what a device does with nonsense.
    pub fn write_descriptor(&self, bus: &mut impl Bus, index: u16, descriptor: Descriptor) {
        let entry = self.memory.desc() + 16 * u64::from(index & (MAX_SIZE - 1));
        bus.ram_write64(entry, descriptor.addr);
        let rest =
            u64::from(descriptor.len) | u64::from(descriptor.flags) << 32 | u64::from(descriptor.next) << 48;
        bus.ram_write64(entry + 8, rest);
    }

    /// Makes the chain that starts at descriptor `head` available and rings the doorbell.
    pub fn publish(&mut self, bus: &mut impl Bus, head: u16) {
        self.publish_ahead(bus, head, 0);
    }

    /// As [`Queue::publish`], with `jump` chains more made available than exist.
    pub fn publish_ahead(&mut self, bus: &mut impl Bus, head: u16, jump: u16) {
        let slot = u64::from(self.available & (self.size - 1));
        bus.ram_write16(self.memory.avail() + 4 + 2 * slot, head);
        bus.barrier();
        self.available = self.available.wrapping_add(1).wrapping_add(jump);
        bus.ram_write16(self.memory.avail() + 2, self.available);
        bus.barrier();
        bus.mmio_write16(self.doorbell, self.index);
    }

    /// The length the device wrote, once it used the chain; `None` before.
    ///
    /// # Errors
    /// [`VirtioError::BadUsedRing`] when the device used something that was not given.
    pub fn poll(&mut self, bus: &mut impl Bus) -> Result<Option<u32>, VirtioError> {
        let index = bus.ram_read16(self.memory.used() + 2);
        if index != self.used && (index != self.used.wrapping_add(1) || index != self.available) {
            return Err(VirtioError::BadUsedRing);
        }
        Ok(self.take_used(bus)?.map(|(_, len)| len))
    }

    /// The next chain that the device used: its head and the length the device wrote. `None`: none since the last call.
    ///
    /// # Errors
    /// [`VirtioError::BadUsedRing`] when the device used more than was given, or something that is no descriptor. Whether a chain with
    /// this head was given is for the caller to say.
    pub fn take_used(&mut self, bus: &mut impl Bus) -> Result<Option<(u16, u32)>, VirtioError> {
        let index = bus.ram_read16(self.memory.used() + 2);
        if index == self.used {
            return Ok(None);
        }
        bus.barrier();
        if index.wrapping_sub(self.used) > self.available.wrapping_sub(self.used) {
            return Err(VirtioError::BadUsedRing);
        }
        let slot = u64::from(self.used & (self.size - 1));
        let mut element = [0; 8];
        bus.ram_read(self.memory.used() + 4 + 8 * slot, &mut element);
        self.used = self.used.wrapping_add(1);
        let [id0, id1, id2, id3, len @ ..] = element;
        let id = u32::from_le_bytes([id0, id1, id2, id3]);
        let head = u16::try_from(id).ok().filter(|head| *head < self.size);
        head.map(|head| Some((head, u32::from_le_bytes(len)))).ok_or(VirtioError::BadUsedRing)
    }
}
