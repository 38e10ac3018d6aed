//! The common configuration structure of a modern PCI transport (virtio 1.3 §4.1.4.3).
//!
//! Registers are found by the offset of the access alone, as in QEMU: a read of any width at a register's offset gives
//! that register, an access in the middle of one gives 0.

use crate::virtio::device::VirtioDevice;
use crate::virtio::features::RING_PACKED;
use crate::virtio::ring::{NO_VECTOR, VirtQueue};
use crate::virtio::state::{Served, StatusChange, VirtioState};

/// Registers that belong to the transport rather than to the device.
#[derive(Debug, Default)]
pub(super) struct Selectors {
    device_feature: u32,
    driver_feature: u32,
    /// What the driver wrote, bits that are not offered included: it reads them back.
    written: [u32; 2],
}

impl Selectors {
    /// What a migration takes along: which halves are selected, and what the driver wrote.
    pub(super) fn saved(&self) -> (u32, u32, [u32; 2]) {
        let Self { device_feature, driver_feature, written } = self;
        (*device_feature, *driver_feature, *written)
    }

    /// Takes that over. The driver may write any value.
    pub(super) fn load(&mut self, device_feature: u32, driver_feature: u32, written: [u32; 2]) {
        *self = Self { device_feature, driver_feature, written };
    }
}

/// What a write came to.
#[derive(Debug)]
pub(super) enum Effect {
    /// Nothing to do.
    None,
    /// The status register changed.
    Status(StatusChange),
    /// As after serving a queue.
    Served(Served),
}

/// Reads the register at `offset`.
pub(super) fn read(selectors: &Selectors, state: &VirtioState, offset: u64) -> u32 {
    let queue = state.selected();
    let of = |value: fn(&VirtQueue) -> u64| queue.map_or(0, value);
    let word = match offset {
        0 => u64::from(selectors.device_feature),
        4 => u64::from(half(state.offered(), selectors.device_feature)),
        8 => u64::from(selectors.driver_feature),
        12 => u64::from(selectors.written.get(selectors.driver_feature as usize).copied().unwrap_or(0)),
        16 => u64::from(state.config_vector()),
        18 => state.queues().len() as u64,
        20 => u64::from(state.status()),
        21 => u64::from(state.generation()),
        22 => u64::from(state.queue_sel()),
        24 => of(|q| q.size().into()),
        26 => queue.map_or(NO_VECTOR, |q| q.vector).into(),
        28 => of(|q| q.is_enabled().into()),
        30 => u64::from(state.queue_sel()),
        32 => of(|q| q.desc),
        36 => of(|q| q.desc >> 32),
        40 => of(|q| q.avail),
        44 => of(|q| q.avail >> 32),
        48 => of(|q| q.used),
        52 => of(|q| q.used >> 32),
        // A queue reset is done when the write returns, so it always reads 0; no notification data, no admin queue.
        _ => 0,
    };
    word as u32
}

/// Writes `value` to the register at `offset`; `vectors` is how many interrupt vectors there are.
pub(super) fn write(
    selectors: &mut Selectors,
    state: &mut VirtioState,
    device: &dyn VirtioDevice,
    vectors: u16,
    offset: u64,
    value: u32,
) -> Effect {
    let low = value as u16;
    let vector = if low < vectors { low } else { NO_VECTOR };
    match offset {
        0 => selectors.device_feature = value,
        8 => selectors.driver_feature = value,
        12 => {
            if let Some(word) = selectors.written.get_mut(selectors.driver_feature as usize) {
                *word = value;
                let [low, high] = selectors.written.map(u64::from);
                state.accept(high << 32 | low);
            }
        }
        16 => state.set_config_vector(vector),
        20 => {
            let change = state.set_status(device, value as u8);
            if change == StatusChange::Reset {
                *selectors = Selectors::default();
            }
            return Effect::Status(change);
        }
        22 => state.select_queue(low),
        28 => return Effect::Served(state.enable_selected(low)),
        58 if low == 1 => state.reset_selected(device),
        _ => {
            let packed = state.accepted() & RING_PACKED != 0;
            if let Some(queue) = state.selected_mut() {
                write_queue(queue, vector, packed, offset, value);
            }
        }
    }
    Effect::None
}

fn write_queue(queue: &mut VirtQueue, vector: u16, packed: bool, offset: u64, value: u32) {
    let (low, high) = (u64::from(value), u64::from(value) << 32);
    const LOW: u64 = 0xffff_ffff;
    match offset {
        26 => queue.vector = vector,
        // Where a ring is must not change under a queue that runs.
        _ if queue.is_enabled() => {
            trace::guest_error!("virtio: a queue is in use, register {offset:#x} does not change");
        }
        24 => queue.set_size(value as u16, packed),
        32 => queue.desc = queue.desc & !LOW | low,
        36 => queue.desc = queue.desc & LOW | high,
        40 => queue.avail = queue.avail & !LOW | low,
        44 => queue.avail = queue.avail & LOW | high,
        48 => queue.used = queue.used & !LOW | low,
        52 => queue.used = queue.used & LOW | high,
        _ => {}
    }
}

fn half(features: u64, select: u32) -> u32 {
    match select {
        0 => features as u32,
        1 => (features >> 32) as u32,
        _ => 0,
    }
}

#[cfg(test)]
mod tests;
