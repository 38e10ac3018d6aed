//! What a migration takes along of a device's state, and how it is judged where it comes.

use vm_memory::GuestMemory;
use vmstate::{Errno, LoadError, Result, vmstate};

use super::{Served, VirtioState};
use crate::virtio::features::RING_PACKED;
use crate::virtio::ring::{MAX_DESCRIPTORS, NO_VECTOR, QueueState};

vmstate! {
    /// Status, features, queues, interrupt causes.
    pub(in crate::virtio) struct DeviceState: "virtio-device", version 1 {
        status: u8,
        isr: u8,
        generation: u8,
        queue_sel: u16,
        config_vector: u16,
        guest_features: u64,
        broken: bool,
        disabled: bool,
        vq: Vec<QueueState>,
    }
}

/// What the state is judged by.
#[derive(Debug, Clone, Copy)]
pub(in crate::virtio) struct Host {
    /// Features that QEMU would name as allowed in addition to what is offered.
    pub(in crate::virtio) legacy: u64,
    /// Interrupt vectors there are.
    pub(in crate::virtio) vectors: u16,
}

impl VirtioState {
    /// The state of now.
    pub(in crate::virtio) fn saved_state(&self) -> DeviceState {
        let Self {
            offered: _,
            accepted,
            status,
            generation,
            isr,
            broken,
            disabled,
            queue_sel,
            config_vector,
            queues,
        } = self;
        DeviceState {
            status: *status,
            isr: *isr,
            generation: *generation,
            queue_sel: *queue_sel,
            config_vector: *config_vector,
            guest_features: *accepted,
            broken: *broken,
            disabled: *disabled,
            vq: queues.iter().map(|queue| queue.saved_state()).collect(),
        }
    }

    /// Takes over what the same device had elsewhere; `memory` is already what it was there. A ring in which the guest did something
    /// strange breaks the device, as in QEMU; what that interrupts is in the answer.
    ///
    /// # Errors
    /// It cannot be a state of this device. QEMU's texts where it has some.
    pub(in crate::virtio) fn load_state<M: GuestMemory>(
        &mut self,
        saved: &DeviceState,
        host: Host,
        memory: &M,
    ) -> Result<Served> {
        let DeviceState {
            status,
            isr,
            generation,
            queue_sel,
            config_vector,
            guest_features,
            broken,
            disabled,
            vq,
        } = saved;
        if guest_features & !self.offered != 0 {
            let allowed = self.offered | host.legacy;
            return Err(LoadError::new(
                Errno::NotPermitted,
                format!("Features {guest_features:#x} unsupported. Allowed features: {allowed:#x}"),
            ));
        }
        if usize::from(*queue_sel) >= MAX_DESCRIPTORS {
            return Err(LoadError::invalid(format!("Invalid queue selector {queue_sel}")));
        }
        // As in QEMU one with fewer or more queues is no other device, as long as the driver uses none that is not there.
        let own = self.queues.len();
        if let Some(number) = vq.iter().skip(own).position(|queue| queue.ring.is_some()) {
            let number = own + number;
            return Err(LoadError::invalid(format!("VQ {number} is in use, and there are {own}")));
        }
        for vector in vq.iter().map(|queue| queue.vector).chain([*config_vector]) {
            if vector != NO_VECTOR && vector >= host.vectors {
                return Err(LoadError::invalid(format!("Invalid interrupt vector {vector:#x}")));
            }
        }
        self.accepted = *guest_features;
        let mut violation = None;
        for (number, (queue, saved)) in self.queues.iter_mut().zip(vq).enumerate() {
            let packed = guest_features & RING_PACKED != 0;
            queue.load_state(number, saved, *guest_features, packed)?;
            violation = violation.or_else(|| queue.strange_index(number, memory));
        }
        (self.status, self.isr, self.generation) = (*status, *isr, *generation);
        (self.queue_sel, self.config_vector) = (*queue_sel, *config_vector);
        (self.broken, self.disabled) = (*broken, *disabled);
        Ok(match violation.filter(|_| !broken) {
            Some(violation) => self.broke(violation),
            None => Served::default(),
        })
    }
}
