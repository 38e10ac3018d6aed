//! A split virtqueue (virtio 1.3 §2.7): the `virtio-queue` crate's ring, driven by rules of our own.
//!
//! Everything in the ring is the guest's. Whatever it writes there, one call of [`VirtQueue::pop`] looks at no more than
//! [`MAX_DESCRIPTORS`] descriptors and ends in a buffer, in nothing, or in a [`Violation`]. Left out: packed rings.

use std::sync::atomic::{Ordering, fence};

use virtio_queue::desc::split::Descriptor;
use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemory};

use super::device::Violation;

/// Longest descriptor chain, as in QEMU.
#[doc(alias = "VIRTQUEUE_MAX_SIZE")]
pub const MAX_DESCRIPTORS: usize = 1024;

/// Vector of a queue or of the configuration that interrupts nobody.
#[doc(alias = "VIRTIO_MSI_NO_VECTOR")]
pub const NO_VECTOR: u16 = 0xffff;

/// Guest memory, as rings and buffers are reached; narrow enough to be a trait object.
pub trait DmaMemory {
    /// Reads exactly `data.len()` bytes; false if they are not all in RAM.
    fn read(&self, addr: u64, data: &mut [u8]) -> bool;
    /// Writes exactly `data`; false if it does not all fit in RAM.
    fn write(&self, addr: u64, data: &[u8]) -> bool;
}

impl<M: GuestMemory> DmaMemory for M {
    fn read(&self, addr: u64, data: &mut [u8]) -> bool {
        self.read_slice(data, GuestAddress(addr)).is_ok()
    }
    fn write(&self, addr: u64, data: &[u8]) -> bool {
        self.write_slice(data, GuestAddress(addr)).is_ok()
    }
}

/// One buffer of a queue: what the driver wrote, and room for what the device answers.
pub struct Chain<'a> {
    memory: &'a dyn DmaMemory,
    head: u16,
    readable: Vec<(u64, u32)>,
    writable: Vec<(u64, u32)>,
}

impl Chain<'_> {
    /// Bytes the driver wrote.
    pub fn readable_len(&self) -> u64 {
        self.readable.iter().map(|(_, len)| u64::from(*len)).sum()
    }

    /// Bytes the device may write.
    pub fn writable_len(&self) -> u64 {
        self.writable.iter().map(|(_, len)| u64::from(*len)).sum()
    }

    /// Where the device may write: guest addresses and lengths.
    pub fn writable(&self) -> &[(u64, u32)] {
        &self.writable
    }

    /// Copies the first bytes the driver wrote; gives how many there were, up to `data.len()`. Memory that cannot be
    /// read ends the copy.
    pub fn read(&self, data: &mut [u8]) -> usize {
        let mut done = 0;
        for &(addr, len) in &self.readable {
            let count = (data.len() - done).min(len as usize);
            if count == 0 || !self.memory.read(addr, &mut data[done..done + count]) {
                break;
            }
            done += count;
        }
        done
    }

    /// Copies what the driver wrote from byte `offset` on; gives how many bytes there were, up to `data.len()`.
    pub fn read_at(&self, offset: u64, data: &mut [u8]) -> usize {
        let (mut skip, mut done) = (offset, 0);
        for &(addr, len) in &self.readable {
            let skipped = skip.min(len.into());
            skip -= skipped;
            let count = (data.len() - done).min((u64::from(len) - skipped) as usize);
            if count == 0 {
                continue;
            }
            let Some(addr) = addr.checked_add(skipped) else { break };
            if !self.memory.read(addr, &mut data[done..done + count]) {
                break;
            }
            done += count;
        }
        done
    }

    /// Copies `data` to the start of the room for the answer; gives how many bytes were taken.
    pub fn write(&mut self, data: &[u8]) -> usize {
        let mut done = 0;
        for &(addr, len) in &self.writable {
            let count = (data.len() - done).min(len as usize);
            if count == 0 || !self.memory.write(addr, &data[done..done + count]) {
                break;
            }
            done += count;
        }
        done
    }
}

/// One queue of a device: its ring and the registers a transport has for it.
#[derive(Debug)]
pub struct VirtQueue {
    ring: Queue,
    default_size: u16,
    /// Interrupt vector, or [`NO_VECTOR`].
    pub vector: u16,
    /// Guest-physical address of the descriptor table, as last written; 64 bits by halves.
    pub desc: u64,
    /// Of the available ring.
    pub avail: u64,
    /// Of the used ring.
    pub used: u64,
    /// Used index the driver was last told about, while index-based suppression is on.
    signalled: Option<u16>,
}

impl VirtQueue {
    /// A queue of `size` entries, disabled.
    ///
    /// # Panics
    /// When `size` is not a power of two: sizes are the device's constants.
    pub fn new(size: u16) -> Self {
        let ring = Queue::new(size).expect("queue sizes are powers of two");
        Self { ring, default_size: size, vector: NO_VECTOR, desc: 0, avail: 0, used: 0, signalled: None }
    }

    /// Entries.
    pub fn size(&self) -> u16 {
        self.ring.size()
    }

    /// Entries after a reset.
    pub fn default_size(&self) -> u16 {
        self.default_size
    }

    /// Sets the number of entries; a number that is no power of two or larger than the default changes nothing.
    pub fn set_size(&mut self, size: u16) {
        // The refusal is the specification's; the driver reads the register back.
        if self.ring.try_set_size(size).is_err() {
            trace::guest_error!("virtio: a queue cannot have {size} entries");
        }
    }

    /// Whether the driver enabled it.
    pub fn is_enabled(&self) -> bool {
        self.ring.ready()
    }

    /// Takes the addresses over and starts; false (and still disabled) if one is unaligned or the table is at 0.
    pub fn enable(&mut self, event_idx: bool) -> bool {
        let set = self.desc != 0
            && self.ring.try_set_desc_table_address(GuestAddress(self.desc)).is_ok()
            && self.ring.try_set_avail_ring_address(GuestAddress(self.avail)).is_ok()
            && self.ring.try_set_used_ring_address(GuestAddress(self.used)).is_ok();
        if set {
            self.ring.set_event_idx(event_idx);
            self.ring.set_ready(true);
        }
        set
    }

    /// Back to the state after a reset of the device.
    pub fn reset(&mut self) {
        *self = Self::new(self.default_size);
    }

    /// Next entry of the available ring that the device will look at.
    #[doc(alias = "last_avail_idx")]
    pub fn next_avail(&self) -> u16 {
        self.ring.next_avail()
    }

    /// Index the device will write into the used ring next.
    pub fn next_used(&self) -> u16 {
        self.ring.next_used()
    }

    /// Used index the driver was last told about.
    pub fn signalled(&self) -> Option<u16> {
        self.signalled
    }

    /// Takes the next available buffer.
    ///
    /// # Errors
    /// The ring or the chain is malformed.
    pub fn pop<'a, M: GuestMemory>(
        &mut self,
        memory: &'a M,
        indirect: bool,
    ) -> Result<Option<Chain<'a>>, Violation> {
        let size = self.ring.size();
        let before = self.ring.next_avail();
        let mut available = self.ring.iter(memory).map_err(|error| match error {
            virtio_queue::Error::InvalidAvailRingIndex => {
                Violation(format!("Guest moved avail index from {before} by more than the queue size"))
            }
            error => Violation(format!("virtio: available ring cannot be read: {error}")),
        })?;
        let Some(descriptors) = available.next() else {
            // Empty; or the entry is not in RAM, which the crate swallows. The index alone does not tell: a driver that adds a
            // buffer at this moment is doing nothing wrong.
            let at = 4 + 2 * u64::from(before % size.max(1));
            let entry = self.ring.avail_ring().checked_add(at);
            let readable =
                entry.is_some_and(|at| memory.load::<u16>(GuestAddress(at), Ordering::Relaxed).is_ok());
            return if readable {
                Ok(None)
            } else {
                Err(Violation("virtio: available ring cannot be read".into()))
            };
        };
        let head = descriptors.head_index();
        if head >= size {
            return Err(Violation(format!("Guest says index {head} is available")));
        }
        let mut chain = Chain { memory, head, readable: Vec::new(), writable: Vec::new() };
        if !indirect && self.head_is_indirect(memory, head)? {
            return Err(Violation("Indirect descriptors are not negotiated".into()));
        }
        let mut last: Option<Descriptor> = None;
        for descriptor in descriptors {
            if chain.readable.len() + chain.writable.len() == MAX_DESCRIPTORS {
                return Err(Violation("Virtqueue size exceeded".into()));
            }
            if descriptor.len() == 0 {
                return Err(Violation("virtio: zero sized buffers are not allowed".into()));
            }
            let piece = (descriptor.addr().0, descriptor.len());
            if descriptor.is_write_only() {
                chain.writable.push(piece);
            } else if chain.writable.is_empty() {
                chain.readable.push(piece);
            } else {
                return Err(Violation("Incorrect order for descriptors".into()));
            }
            last = Some(descriptor);
        }
        // The crate ends the iteration where it meets nonsense; a chain that is whole ends by itself.
        match last {
            Some(last) if !last.has_next() => {
                let (ins, outs) = (chain.writable.len(), chain.readable.len());
                trace::emit!(virtqueue_pop, trace::Id::of(self), head, ins, outs);
                Ok(Some(chain))
            }
            Some(_) => Err(Violation("Looped descriptor".into())),
            None => Err(Violation("virtio: descriptor chain cannot be read".into())),
        }
    }

    fn head_is_indirect<M: GuestMemory>(&self, memory: &M, head: u16) -> Result<bool, Violation> {
        const INDIRECT: u16 = 4;
        let at = self.ring.desc_table().checked_add(u64::from(head) * 16 + 12);
        let flags: Option<u16> = at.and_then(|at| memory.read_obj(GuestAddress(at)).ok());
        let flags = flags.ok_or_else(|| Violation("virtio: descriptor chain cannot be read".into()))?;
        Ok(u16::from_le(flags) & INDIRECT != 0)
    }

    /// Makes the buffer that was popped last the next one again; `at` is what [`next_avail`](Self::next_avail) was before.
    #[doc(alias = "virtqueue_unpop")]
    pub fn put_back(&mut self, at: u16) {
        self.ring.set_next_avail(at);
    }

    /// Returns a buffer with `written` bytes in it.
    ///
    /// # Errors
    /// The used ring is not in RAM.
    pub fn push<M: GuestMemory>(&mut self, memory: &M, head: u16, written: u32) -> Result<(), Violation> {
        trace::emit!(virtqueue_fill, trace::Id::of(self), head, written, self.ring.next_used());
        self.ring
            .add_used(memory, head, written)
            .map_err(|error| Violation(format!("virtio: used ring cannot be written: {error}")))
    }

    /// Asks the driver to notify again; true if more came meanwhile.
    pub fn rearm<M: GuestMemory>(&mut self, memory: &M) -> bool {
        self.ring.enable_notification(memory).unwrap_or(false)
    }

    /// Whether the driver wants an interrupt for what was pushed since it was last told (virtio 1.3 §2.7.7).
    pub fn should_interrupt<M: GuestMemory>(&mut self, memory: &M) -> bool {
        const NO_INTERRUPT: u16 = 1;
        // The used index must be visible before the driver's wish is read.
        fence(Ordering::SeqCst);
        let word = |at: Option<u64>| -> Option<u16> {
            memory.load::<u16>(GuestAddress(at?), Ordering::Relaxed).ok().map(u16::from_le)
        };
        let avail = self.ring.avail_ring();
        if !self.ring.event_idx_enabled() {
            return word(Some(avail)).is_some_and(|flags| flags & NO_INTERRUPT == 0);
        }
        let new = self.ring.next_used();
        let old = self.signalled.replace(new);
        let Some(event) = word(avail.checked_add(4 + 2 * u64::from(self.ring.size()))) else { return false };
        match old {
            // Whether `event` is one of the indices passed since then, in the ring of 16-bit numbers.
            Some(old) => new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old),
            None => true,
        }
    }
}

impl Chain<'_> {
    /// The descriptor that names the buffer in the used ring.
    pub fn head(&self) -> u16 {
        self.head
    }
}

#[cfg(test)]
mod tests;
