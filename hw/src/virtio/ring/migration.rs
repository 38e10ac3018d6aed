//! What a migration takes along of a queue. What is in the ring is guest memory, and goes with that.

use std::sync::atomic::Ordering;

use vm_memory::GuestMemory;
use vmstate::{LoadError, Result, vmstate};

use super::{Ring, VirtQueue};
use crate::virtio::device::Violation;

vmstate! {
    /// The registers, and the ring if the driver enabled it.
    pub(in crate::virtio) struct QueueState: "virtqueue", version 1 {
        num: u16,
        vector: u16,
        desc: u64,
        avail: u64,
        used: u64,
        ring: Option<RingState>,
    }
}
vmstate! {
    /// Where the device is in a ring. A split one has neither wrap counters nor the last two.
    pub(in crate::virtio) struct RingState: "virtqueue-ring", version 1 {
        last_avail_idx: u16,
        last_avail_wrap_counter: bool,
        used_idx: u16,
        used_wrap_counter: bool,
        /// Used index the driver was last told about.
        signalled_used: Option<u16>,
        /// Descriptors used since then.
        untold: u32,
        /// What the driver was asked for.
        asked: Option<u32>,
    }
}

impl VirtQueue {
    /// The state of now.
    pub(in crate::virtio) fn saved_state(&self) -> QueueState {
        let Self { ring, size, default_size: _, vector, desc, avail, used } = self;
        let ring = ring.as_ref().map(|ring| either!(ring, r => r.saved_state()));
        QueueState { num: *size, vector: *vector, desc: *desc, avail: *avail, used: *used, ring }
    }

    /// Takes over what queue `number` of such a device had elsewhere.
    ///
    /// # Errors
    /// It cannot be a state of this queue. QEMU's texts where it has some.
    pub(in crate::virtio) fn load_state(
        &mut self,
        number: usize,
        saved: &QueueState,
        features: u64,
        packed: bool,
    ) -> Result<()> {
        let QueueState { num, vector, desc, avail, used, ring } = saved;
        let own = self.default_size;
        if !(1..=own).contains(num) || !packed && !num.is_power_of_two() {
            return Err(LoadError::invalid(format!(
                "VQ {number} size {num:#x} is not possible with {own:#x}"
            )));
        }
        *self = Self::new(own);
        (self.size, self.vector) = (*num, *vector);
        (self.desc, self.avail, self.used) = (*desc, *avail, *used);
        let Some(saved) = ring else { return Ok(()) };
        if *desc == 0 {
            let index = saved.last_avail_idx;
            return Err(LoadError::invalid(format!(
                "VQ {number} address 0x0 inconsistent with Host index {index:#x}"
            )));
        }
        if !self.enable(features) {
            return Err(LoadError::invalid(format!("VQ {number} has addresses that are not usable")));
        }
        match &mut self.ring {
            Some(ring) => either!(ring, r => r.load_state(number, saved)),
            None => Ok(()),
        }
    }

    /// What is wrong with the guest's index, seen from where the device is.
    pub(in crate::virtio) fn strange_index<M: GuestMemory>(
        &self,
        number: usize,
        memory: &M,
    ) -> Option<Violation> {
        let Some(Ring::Split(ring)) = &self.ring else { return None };
        // One that cannot be read is found when the ring is served.
        let (guest, host) = (ring.guest_index(memory, Ordering::Acquire)?, ring.next_avail());
        let (size, delta) = (self.size, guest.wrapping_sub(host));
        (delta > size).then(|| {
            Violation(format!(
                "VQ {number} size {size:#x} Guest index {guest:#x} inconsistent with Host index {host:#x}: delta {delta:#x}"
            ))
        })
    }
}
