//! A split ring (virtio 1.3 §2.7): the `virtio-queue` crate's, driven by rules of our own.

use std::sync::atomic::{Ordering, fence};

use virtio_queue::desc::split::Descriptor;
use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemory};
use vmstate::LoadError;

use super::{Areas, Chain, Head, RingState, UNREADABLE};
use crate::virtio::device::Violation;

/// See the module.
#[derive(Debug)]
pub(super) struct Split {
    ring: Queue,
    /// Used index the driver was last told about, while index-based suppression is on.
    signalled: Option<u16>,
}

impl Split {
    /// A ring of `size` entries in `areas`; `None` if one of them is unaligned.
    pub(super) fn new(size: u16, areas: Areas, event_idx: bool) -> Option<Self> {
        let mut ring = Queue::new(size).ok()?;
        ring.try_set_desc_table_address(GuestAddress(areas.desc)).ok()?;
        ring.try_set_avail_ring_address(GuestAddress(areas.avail)).ok()?;
        ring.try_set_used_ring_address(GuestAddress(areas.used)).ok()?;
        ring.set_event_idx(event_idx);
        ring.set_ready(true);
        Some(Self { ring, signalled: None })
    }

    pub(super) fn next_avail(&self) -> u16 {
        self.ring.next_avail()
    }

    pub(super) fn next_used(&self) -> u16 {
        self.ring.next_used()
    }

    pub(super) fn signalled(&self) -> Option<u16> {
        self.signalled
    }

    /// What a migration takes along; the rest is the queue's.
    pub(super) fn saved_state(&self) -> RingState {
        let Self { ring, signalled } = self;
        RingState {
            last_avail_idx: ring.next_avail(),
            last_avail_wrap_counter: true,
            used_idx: ring.next_used(),
            used_wrap_counter: true,
            signalled_used: *signalled,
            untold: 0,
            asked: None,
        }
    }

    /// Goes on where another one was, as ring `number` of its device.
    pub(super) fn load_state(&mut self, number: usize, saved: &RingState) -> vmstate::Result<()> {
        let (size, avail, used) = (self.ring.size(), saved.last_avail_idx, saved.used_idx);
        if avail.wrapping_sub(used) > size {
            return Err(LoadError::invalid(format!(
                "VQ {number} size {size:#x} < last_avail_idx {avail:#x} - used_idx {used:#x}"
            )));
        }
        self.ring.set_next_avail(avail);
        self.ring.set_next_used(used);
        self.signalled = saved.signalled_used;
        Ok(())
    }

    /// The index of what the driver makes available next, if it can be read.
    pub(super) fn guest_index<M: GuestMemory>(&self, memory: &M, order: Ordering) -> Option<u16> {
        self.ring.avail_idx(memory, order).ok().map(|index| index.0)
    }

    pub(super) fn put_back(&mut self, at: u16) {
        self.ring.set_next_avail(at);
    }

    pub(super) fn pop<'a, M: GuestMemory>(
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
        let mut chain = Chain::new(memory, Head { id: head, descriptors: 1 });
        if !indirect && self.head_is_indirect(memory, head)? {
            return Err(Violation("Indirect descriptors are not negotiated".into()));
        }
        let mut last: Option<Descriptor> = None;
        for descriptor in descriptors {
            chain.add(descriptor.addr().0, descriptor.len(), descriptor.is_write_only())?;
            last = Some(descriptor);
        }
        // The crate ends the iteration where it meets nonsense; a chain that is whole ends by itself.
        match last {
            Some(last) if !last.has_next() => Ok(Some(chain)),
            Some(_) => Err(Violation("Looped descriptor".into())),
            None => Err(Violation(UNREADABLE.into())),
        }
    }

    fn head_is_indirect<M: GuestMemory>(&self, memory: &M, head: u16) -> Result<bool, Violation> {
        const INDIRECT: u16 = 4;
        let at = self.ring.desc_table().checked_add(u64::from(head) * 16 + 12);
        let flags: Option<u16> = at.and_then(|at| memory.read_obj(GuestAddress(at)).ok());
        let flags = flags.ok_or_else(|| Violation(UNREADABLE.into()))?;
        Ok(u16::from_le(flags) & INDIRECT != 0)
    }

    pub(super) fn push<M: GuestMemory>(&mut self, memory: &M, used: &[(Head, u32)]) -> Result<(), Violation> {
        let refused = |error: &dyn std::fmt::Display| {
            Violation(format!("virtio: used ring cannot be written: {error}"))
        };
        if let [(head, written)] = used {
            return self.ring.add_used(memory, head.id, *written).map_err(|error| refused(&error));
        }
        // The crate tells the driver of each one. Here the index moves once, behind all of them.
        let (area, size) = (self.ring.used_ring(), self.ring.size().max(1));
        let place = |offset: u64| {
            area.checked_add(offset)
                .map(GuestAddress)
                .ok_or_else(|| refused(&"it is beyond the last address"))
        };
        let mut next = self.ring.next_used();
        for (head, written) in used {
            let entry = u64::from(head.id) | u64::from(*written) << 32;
            let at = place(4 + 8 * u64::from(next % size))?;
            memory.write_obj(entry.to_le(), at).map_err(|error| refused(&error))?;
            next = next.wrapping_add(1);
        }
        memory.store(next.to_le(), place(2)?, Ordering::Release).map_err(|error| refused(&error))?;
        self.ring.set_next_used(next);
        Ok(())
    }

    pub(super) fn has_buffers<M: GuestMemory>(&self, memory: &M) -> bool {
        let available = self.ring.avail_idx(memory, Ordering::Relaxed);
        available.is_ok_and(|index| index.0 != self.ring.next_avail())
    }

    pub(super) fn rearm<M: GuestMemory>(&mut self, memory: &M) -> bool {
        self.ring.enable_notification(memory).unwrap_or(false)
    }

    /// §2.7.7.
    pub(super) fn should_interrupt<M: GuestMemory>(&mut self, memory: &M) -> bool {
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
