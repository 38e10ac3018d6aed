//! Virtqueues (virtio 1.3 §2.6): split rings and packed rings, and the buffers that a device finds in either.
//!
//! Everything in a ring is the guest's. Whatever it writes there, one call of [`VirtQueue::pop`] looks at no more than
//! [`MAX_DESCRIPTORS`] descriptors and ends in a buffer, in nothing, or in a [`Violation`]. A buffer is given back before the next one is
//! taken, so that all are used in the order in which they were made available (§2.6.2, `VIRTIO_F_IN_ORDER`), whether that was negotiated or not.

/// Does the same with either ring.
macro_rules! either {
    ($ring:expr, $bound:ident => $what:expr) => {
        match $ring {
            Ring::Split($bound) => $what,
            Ring::Packed($bound) => $what,
        }
    };
}

mod migration;
mod packed;
mod split;

use vm_memory::{Bytes, GuestAddress, GuestMemory};

pub(super) use self::migration::{QueueState, RingState};
use self::packed::Packed;
use self::split::Split;
use super::device::Violation;
use super::features::{RING_EVENT_IDX, RING_PACKED};

/// Longest descriptor chain, as in QEMU.
#[doc(alias = "VIRTQUEUE_MAX_SIZE")]
pub const MAX_DESCRIPTORS: usize = 1024;

/// Vector of a queue or of the configuration that interrupts nobody.
#[doc(alias = "VIRTIO_MSI_NO_VECTOR")]
pub const NO_VECTOR: u16 = 0xffff;

/// What is said of descriptors outside of RAM.
const UNREADABLE: &str = "virtio: descriptor chain cannot be read";

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

/// What the ring wants back of a buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Index of the first descriptor, or in a packed ring the buffer's id.
    pub id: u16,
    /// Entries of the ring that the buffer takes; 1 in a split ring.
    pub descriptors: u16,
}

/// One buffer of a queue: what the driver wrote, and room for what the device answers. Where a device asked for more room
/// ([`Outcome::More`](super::Outcome)): several buffers, that follow each other.
pub struct Chain<'a> {
    memory: &'a dyn DmaMemory,
    head: Head,
    readable: Vec<(u64, u32)>,
    writable: Vec<(u64, u32)>,
    /// Buffers behind the first, and where among the writable descriptors each begins.
    joined: Vec<(Head, usize)>,
    complete: bool,
}

impl<'a> Chain<'a> {
    fn new(memory: &'a dyn DmaMemory, head: Head) -> Self {
        Self { memory, head, readable: Vec::new(), writable: Vec::new(), joined: Vec::new(), complete: false }
    }

    /// Takes one more descriptor in.
    fn add(&mut self, addr: u64, len: u32, write_only: bool) -> Result<(), Violation> {
        if self.readable.len() + self.writable.len() == MAX_DESCRIPTORS {
            return Err(Violation("Virtqueue size exceeded".into()));
        }
        if len == 0 {
            return Err(Violation("virtio: zero sized buffers are not allowed".into()));
        }
        match write_only {
            true => self.writable.push((addr, len)),
            false if self.writable.is_empty() => self.readable.push((addr, len)),
            false => return Err(Violation("Incorrect order for descriptors".into())),
        }
        Ok(())
    }
}

impl Chain<'_> {
    /// What [`VirtQueue::push`] takes of the first buffer.
    pub fn head(&self) -> Head {
        self.head
    }

    /// How many buffers it is.
    pub fn buffers(&self) -> u16 {
        // No more than a ring has entries.
        self.joined.len() as u16 + 1
    }

    /// Whether it is all that the ring can hold, so that asking for more room is in vain.
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    /// Nothing can be joined to it any more.
    pub(super) fn set_complete(&mut self) {
        self.complete = true;
    }

    /// Entries of the ring that it takes.
    pub(super) fn entries(&self) -> usize {
        let heads = std::iter::once(&self.head).chain(self.joined.iter().map(|(head, _)| head));
        heads.map(|head| usize::from(head.descriptors)).sum()
    }

    /// Has the room go on in `next`, the buffer behind it.
    ///
    /// # Errors
    /// There are too many descriptors.
    pub(super) fn join(&mut self, next: Self) -> Result<(), Violation> {
        if self.readable.len() + self.writable.len() + next.writable.len() > MAX_DESCRIPTORS {
            return Err(Violation("Virtqueue size exceeded".into()));
        }
        self.joined.push((next.head, self.writable.len()));
        self.writable.extend(next.writable);
        Ok(())
    }

    /// What [`VirtQueue::push_all`] takes: the buffers, with their parts of `written` bytes.
    pub(super) fn used(&self, written: u32) -> Vec<(Head, u32)> {
        let starts = self.joined.iter().map(|(_, start)| *start);
        let ends: Vec<usize> = starts.chain([self.writable.len()]).collect();
        let heads = std::iter::once(self.head).chain(self.joined.iter().map(|(head, _)| *head));
        let (mut start, mut left) = (0, u64::from(written));
        let mut used = Vec::with_capacity(ends.len());
        for (head, end) in heads.zip(ends) {
            let room: u64 = self.writable[start..end].iter().map(|(_, len)| u64::from(*len)).sum();
            let part = if end == self.writable.len() { left } else { left.min(room) };
            // A part of 32 bits.
            used.push((head, part as u32));
            (start, left) = (end, left - part);
        }
        used
    }

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

/// Guest-physical addresses of the three parts of a ring.
#[derive(Debug, Clone, Copy)]
struct Areas {
    desc: u64,
    avail: u64,
    used: u64,
}

/// A ring the driver enabled.
#[derive(Debug)]
enum Ring {
    Split(Split),
    Packed(Packed),
}

/// Where a device was in a ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position(Place);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Nowhere,
    Split(u16),
    Packed(packed::Position),
}

/// One queue of a device: its ring and the registers a transport has for it.
#[derive(Debug)]
pub struct VirtQueue {
    ring: Option<Ring>,
    size: u16,
    default_size: u16,
    /// Interrupt vector, or [`NO_VECTOR`].
    pub vector: u16,
    /// Guest-physical address of the descriptor table, or of a packed ring, as last written; 64 bits by halves.
    pub desc: u64,
    /// Of the available ring, or of a packed ring's driver area.
    pub avail: u64,
    /// Of the used ring, or of a packed ring's device area.
    pub used: u64,
}

impl VirtQueue {
    /// A queue of `size` entries, disabled.
    ///
    /// # Panics
    /// When `size` is not a power of two: sizes are the device's constants.
    pub fn new(size: u16) -> Self {
        assert!(size.is_power_of_two(), "queue sizes are powers of two");
        Self { ring: None, size, default_size: size, vector: NO_VECTOR, desc: 0, avail: 0, used: 0 }
    }

    /// Entries.
    pub fn size(&self) -> u16 {
        self.size
    }

    /// Entries after a reset.
    pub fn default_size(&self) -> u16 {
        self.default_size
    }

    /// Sets the number of entries. 0, a number larger than the default, and where `packed` is off one that is no power of two change nothing.
    pub fn set_size(&mut self, size: u16, packed: bool) {
        if (1..=self.default_size).contains(&size) && (packed || size.is_power_of_two()) {
            self.size = size;
        } else {
            // The refusal is the specification's; the driver reads the register back.
            trace::guest_error!("virtio: a queue cannot have {size} entries");
        }
    }

    /// Whether the driver enabled it.
    pub fn is_enabled(&self) -> bool {
        self.ring.is_some()
    }

    /// Whether the ring it was enabled with is a packed one.
    pub fn is_packed(&self) -> bool {
        matches!(self.ring, Some(Ring::Packed(_)))
    }

    /// Takes the addresses over and starts, as the accepted `features` have rings; false (and still disabled) if an address is unaligned
    /// or the descriptors are at 0.
    pub fn enable(&mut self, features: u64) -> bool {
        let areas = Areas { desc: self.desc, avail: self.avail, used: self.used };
        let event_idx = features & RING_EVENT_IDX != 0;
        if areas.desc != 0 {
            self.ring = match features & RING_PACKED != 0 {
                true => Packed::new(self.size, areas, event_idx).map(Ring::Packed),
                false => Split::new(self.size, areas, event_idx).map(Ring::Split),
            };
        }
        self.is_enabled()
    }

    /// Back to the state after a reset of the device.
    pub fn reset(&mut self) {
        *self = Self::new(self.default_size);
    }

    /// Next entry of the available ring that the device will look at.
    #[doc(alias = "last_avail_idx")]
    pub fn next_avail(&self) -> u16 {
        self.ring.as_ref().map_or(0, |ring| either!(ring, r => r.next_avail()))
    }

    /// Index the device will write into the used ring next.
    pub fn next_used(&self) -> u16 {
        self.ring.as_ref().map_or(0, |ring| either!(ring, r => r.next_used()))
    }

    /// Used index the driver was last told about.
    pub fn signalled(&self) -> Option<u16> {
        self.ring.as_ref().and_then(|ring| either!(ring, r => r.signalled()))
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
        let Some(ring) = &mut self.ring else { return Ok(None) };
        let chain = either!(ring, r => r.pop(memory, indirect))?;
        if let Some(chain) = &chain {
            let (ins, outs) = (chain.writable.len(), chain.readable.len());
            trace::emit!(virtqueue_pop, trace::Id::of(self), chain.head.id, ins, outs);
        }
        Ok(chain)
    }

    /// Where the next buffer is looked for.
    pub fn position(&self) -> Position {
        Position(match &self.ring {
            None => Place::Nowhere,
            Some(Ring::Split(ring)) => Place::Split(ring.next_avail()),
            Some(Ring::Packed(ring)) => Place::Packed(ring.position()),
        })
    }

    /// Makes the buffer that was popped last the next one again; `at` is what [`position`](Self::position) was before.
    #[doc(alias = "virtqueue_unpop")]
    pub fn put_back(&mut self, at: Position) {
        match (&mut self.ring, at.0) {
            (Some(Ring::Split(ring)), Place::Split(at)) => ring.put_back(at),
            (Some(Ring::Packed(ring)), Place::Packed(at)) => ring.put_back(at),
            // Of a ring that is not there any more.
            _ => {}
        }
    }

    /// Returns a buffer with `written` bytes in it.
    ///
    /// # Errors
    /// The ring cannot be written.
    pub fn push<M: GuestMemory>(&mut self, memory: &M, head: Head, written: u32) -> Result<(), Violation> {
        self.push_all(memory, &[(head, written)])
    }

    /// Returns buffers with so many bytes in each. The driver sees all of them at once.
    ///
    /// # Errors
    /// The ring cannot be written.
    pub fn push_all<M: GuestMemory>(&mut self, memory: &M, used: &[(Head, u32)]) -> Result<(), Violation> {
        for (head, written) in used {
            trace::emit!(virtqueue_fill, trace::Id::of(self), head.id, *written, self.next_used());
        }
        match &mut self.ring {
            Some(ring) => either!(ring, r => r.push(memory, used)),
            None => Ok(()),
        }
    }

    /// Whether there is a buffer to take, as far as the ring tells at a glance: [`pop`](Self::pop) has the last word.
    pub fn has_buffers<M: GuestMemory>(&self, memory: &M) -> bool {
        self.ring.as_ref().is_some_and(|ring| either!(ring, r => r.has_buffers(memory)))
    }

    /// Asks the driver to notify again; true if more came meanwhile.
    pub fn rearm<M: GuestMemory>(&mut self, memory: &M) -> bool {
        self.ring.as_mut().is_some_and(|ring| either!(ring, r => r.rearm(memory)))
    }

    /// Whether the driver wants an interrupt for what was pushed since it was last told.
    pub fn should_interrupt<M: GuestMemory>(&mut self, memory: &M) -> bool {
        self.ring.as_mut().is_some_and(|ring| either!(ring, r => r.should_interrupt(memory)))
    }
}

#[cfg(test)]
mod tests;
