//! The volatile state of a virtio device that every transport has: status, features, queues, interrupt causes.
//!
//! A reset replaces it. It is plain data under the transport's lock; interrupts that a call makes due are returned, so
//! that the transport delivers them after it let go of the lock. The texts of violations are QEMU's.

mod migration;

use vm_memory::GuestMemory;

use super::device::{Outcome, Violation, VirtioDevice};
use super::features::{
    ACCESS_PLATFORM, IN_ORDER, RING_EVENT_IDX, RING_INDIRECT_DESC, RING_PACKED, RING_RESET, VERSION_1, status,
};
use super::ring::{NO_VECTOR, VirtQueue};

pub(super) use self::migration::{DeviceState, Host};

/// Which generic features a device offers: properties of every virtio device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Generic {
    /// `indirect_desc`
    pub indirect_desc: bool,
    /// `event_idx`
    pub event_idx: bool,
    /// `iommu_platform`
    pub iommu_platform: bool,
    /// `packed`
    pub packed: bool,
    /// `in_order`
    pub in_order: bool,
    /// `queue_reset`
    pub queue_reset: bool,
}

impl Generic {
    /// The feature bits.
    pub fn bits(self) -> u64 {
        let bit = |on: bool, bit: u64| if on { bit } else { 0 };
        VERSION_1
            | bit(self.indirect_desc, RING_INDIRECT_DESC)
            | bit(self.event_idx, RING_EVENT_IDX)
            | bit(self.iommu_platform, ACCESS_PLATFORM)
            | bit(self.packed, RING_PACKED)
            | bit(self.in_order, IN_ORDER)
            | bit(self.queue_reset, RING_RESET)
    }
}

/// Interrupt causes that became due and still have to be delivered.
#[must_use]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Due {
    /// Vector of a configuration change.
    pub config: Option<u16>,
    /// Vector of a queue.
    pub queue: Option<u16>,
}

/// What serving a queue came to.
#[must_use]
#[derive(Debug, Default)]
pub struct Served {
    /// Interrupts to deliver.
    pub due: Due,
    /// The driver broke the protocol; the device stopped.
    pub violation: Option<Violation>,
    /// The budget ended before the queue: serve it again.
    pub more: bool,
    /// The device is at work on the next buffer (`more` is set too).
    pub again: bool,
    /// Buffers were used.
    pub used: bool,
    /// The queue has no more buffers.
    pub empty: bool,
}

/// What became of the next buffer of a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// It was served, or there was none until just now.
    More,
    /// There is none.
    Empty,
    /// It stays until the device can serve it.
    Later,
    /// It stays while the device works on it.
    Again,
}

/// What a write to the status register came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StatusChange {
    /// Taken, or refused; nothing to do.
    None,
    /// The device is running now: queues may hold buffers already.
    Started,
    /// The device stopped running, but was not reset.
    Stopped,
    /// The driver reset the device; all state is new.
    Reset,
}

/// See the module.
#[derive(Debug)]
pub struct VirtioState {
    offered: u64,
    accepted: u64,
    status: u8,
    generation: u8,
    isr: u8,
    broken: bool,
    disabled: bool,
    queue_sel: u16,
    config_vector: u16,
    queues: Vec<VirtQueue>,
}

/// ISR bit of a used buffer.
const ISR_QUEUE: u8 = 1;
/// ISR bits of a configuration change, as QEMU sets them: the queue bit makes the driver's handler look at all.
const ISR_CONFIG: u8 = 3;

impl VirtioState {
    /// The state after power-on of `device` with the generic features `generic`.
    pub fn new(device: &dyn VirtioDevice, generic: Generic) -> Self {
        Self {
            offered: device.ring_features(generic.bits()) | device.features(),
            accepted: 0,
            status: 0,
            generation: 0,
            isr: 0,
            broken: false,
            disabled: false,
            queue_sel: 0,
            config_vector: NO_VECTOR,
            queues: device.queue_sizes().iter().map(|size| VirtQueue::new(*size)).collect(),
        }
    }

    /// Everything but what is offered back to its value after power-on. The generation goes on, so that a driver that
    /// reads across a reset notices.
    pub fn reset(&mut self) {
        *self = Self {
            accepted: 0,
            status: 0,
            isr: 0,
            broken: false,
            disabled: false,
            queue_sel: 0,
            config_vector: NO_VECTOR,
            offered: self.offered,
            generation: self.generation,
            queues: self.queues.iter().map(|q| VirtQueue::new(q.default_size())).collect(),
        };
    }

    /// Features offered.
    pub fn offered(&self) -> u64 {
        self.offered
    }

    /// Features the driver accepted; only ones that are offered.
    pub fn accepted(&self) -> u64 {
        self.accepted
    }

    /// Takes the driver's features, unless negotiation is over already.
    pub fn accept(&mut self, features: u64) {
        if self.status & status::FEATURES_OK == 0 {
            self.accepted = features & self.offered;
        }
    }

    /// The status register.
    pub fn status(&self) -> u8 {
        self.status
    }

    /// A write to the status register. A `FEATURES_OK` that the device refuses makes the whole write void.
    pub fn set_status(&mut self, device: &dyn VirtioDevice, value: u8) -> StatusChange {
        trace::emit!(virtio_set_status, trace::Id::of(device), value);
        if value == 0 {
            self.reset();
            return StatusChange::Reset;
        }
        if value & !self.status & status::FEATURES_OK != 0 && !self.features_suffice(device) {
            trace::guest_error!("{}: features {:#x} do not suffice", device.name(), self.accepted);
            return StatusChange::None;
        }
        let ran = self.is_running();
        // The driver cannot take back that the device is broken, but it can overwrite the bit; `broken` stays.
        self.status = value;
        match (ran, self.is_running()) {
            (false, true) => {
                device.started(self.accepted);
                StatusChange::Started
            }
            (true, false) => StatusChange::Stopped,
            _ => StatusChange::None,
        }
    }

    fn features_suffice(&self, device: &dyn VirtioDevice) -> bool {
        let platform = self.offered & ACCESS_PLATFORM;
        self.accepted & VERSION_1 != 0
            && self.accepted & platform == platform
            && device.accepts(self.accepted)
    }

    /// Whether queues are served.
    pub fn is_running(&self) -> bool {
        self.status & status::DRIVER_OK != 0 && !self.broken && !self.disabled
    }

    /// Whether the driver broke the protocol since the last reset.
    pub fn is_broken(&self) -> bool {
        self.broken
    }

    /// Whether the device may not reach memory (bus mastering is off).
    pub fn is_disabled(&self) -> bool {
        self.disabled
    }

    /// Forbids or allows the device to reach memory.
    pub fn set_disabled(&mut self, disabled: bool) {
        self.disabled = disabled;
    }

    /// The configuration generation.
    pub fn generation(&self) -> u8 {
        self.generation
    }

    /// The configuration changed: a new generation and an interrupt, once the driver runs.
    pub fn config_changed(&mut self) -> Due {
        if self.status & status::DRIVER_OK == 0 {
            return Due::default();
        }
        self.isr |= ISR_CONFIG;
        self.generation = self.generation.wrapping_add(1);
        Due { config: Some(self.config_vector), queue: None }
    }

    /// Somebody else used buffers of queue `index`: an interrupt, if the device runs.
    pub fn queue_used(&mut self, index: u16) -> Due {
        match self.queues.get(usize::from(index)) {
            Some(queue) if self.is_running() => {
                self.isr |= ISR_QUEUE;
                Due { config: None, queue: Some(queue.vector) }
            }
            _ => Due::default(),
        }
    }

    /// The interrupt causes, without clearing them.
    pub fn isr(&self) -> u8 {
        self.isr
    }

    /// The driver reads the interrupt causes, which clears them.
    pub fn take_isr(&mut self) -> u8 {
        std::mem::take(&mut self.isr)
    }

    /// The driver takes note of some causes, which clears them.
    pub fn acknowledge(&mut self, causes: u8) {
        self.isr &= !causes;
    }

    /// Vector for configuration changes.
    pub fn config_vector(&self) -> u16 {
        self.config_vector
    }

    /// Sets it; [`NO_VECTOR`] for none.
    pub fn set_config_vector(&mut self, vector: u16) {
        self.config_vector = vector;
    }

    /// The selected queue.
    pub fn queue_sel(&self) -> u16 {
        self.queue_sel
    }

    /// Selects a queue; beyond what any device has, nothing changes.
    pub fn select_queue(&mut self, queue: u16) {
        if usize::from(queue) < super::ring::MAX_DESCRIPTORS {
            self.queue_sel = queue;
        }
    }

    /// The queues.
    pub fn queues(&self) -> &[VirtQueue] {
        &self.queues
    }

    /// The selected queue, if it exists.
    pub fn selected(&self) -> Option<&VirtQueue> {
        self.queues.get(usize::from(self.queue_sel))
    }

    /// The selected queue, to change it.
    pub fn selected_mut(&mut self) -> Option<&mut VirtQueue> {
        self.queues.get_mut(usize::from(self.queue_sel))
    }

    /// Enables the selected queue (register value 1; anything else breaks the device).
    pub fn enable_selected(&mut self, value: u16) -> Served {
        if value != 1 {
            return self.broke(Violation(format!("wrong value for queue_enable {value:x}")));
        }
        let features = self.accepted;
        let usable = self.selected_mut().is_none_or(|queue| queue.is_enabled() || queue.enable(features));
        if usable {
            Served::default()
        } else {
            self.broke(Violation("virtio: queue addresses are not usable".into()))
        }
    }

    /// Resets the selected queue of `device` alone.
    pub fn reset_selected(&mut self, device: &dyn VirtioDevice) {
        let number = self.queue_sel;
        if let Some(queue) = self.selected_mut() {
            let vector = queue.vector;
            queue.reset();
            queue.vector = vector;
            device.queue_reset(number);
        }
    }

    /// Whether queue `index` has a buffer for a device that runs. The driver is not asked to notify.
    pub fn has_buffers<M: GuestMemory>(&self, index: u16, memory: &M) -> bool {
        let queue = self.queues.get(usize::from(index)).filter(|_| self.is_running());
        queue.is_some_and(|queue| queue.has_buffers(memory))
    }

    /// Serves up to `budget` buffers of queue `index`.
    pub fn serve<M: GuestMemory>(
        &mut self,
        index: u16,
        memory: &M,
        device: &dyn VirtioDevice,
        budget: usize,
    ) -> Served {
        let running = self.is_running();
        let indirect = self.accepted & RING_INDIRECT_DESC != 0;
        let Some(queue) = self.queues.get_mut(usize::from(index)).filter(|q| running && q.is_enabled())
        else {
            return Served::default();
        };
        let mut served = Served::default();
        let id = trace::Id::of(queue);
        let mut used = false;
        let mut step = || -> Result<Step, Violation> {
            let before = queue.position();
            let Some(mut buffer) = queue.pop(memory, indirect)? else {
                return Ok(if queue.rearm(memory) { Step::More } else { Step::Empty });
            };
            let stays = loop {
                match device.serve(index, &mut buffer)? {
                    Outcome::Done(written) => {
                        match buffer.buffers() {
                            1 => queue.push(memory, buffer.head(), written)?,
                            _ => queue.push_all(memory, &buffer.used(written))?,
                        }
                        used = true;
                        return Ok(Step::More);
                    }
                    Outcome::Later => break Step::Later,
                    Outcome::Again => break Step::Again,
                    Outcome::More if buffer.is_complete() => break Step::Later,
                    Outcome::More => {}
                }
                if buffer.entries() >= usize::from(queue.size()) {
                    buffer.set_complete();
                    continue;
                }
                match queue.pop(memory, indirect)? {
                    Some(next) => buffer.join(next)?,
                    // The driver tells of the next one.
                    None if !queue.rearm(memory) => break Step::Later,
                    None => {}
                }
            };
            queue.put_back(before);
            Ok(stays)
        };
        let mut outcome = Ok(Step::More);
        for _ in 0..=budget {
            outcome = step();
            if outcome != Ok(Step::More) {
                break;
            }
        }
        let interrupt = used && queue.should_interrupt(memory);
        let vector = queue.vector;
        match outcome {
            Ok(step) => {
                (served.more, served.again) = (matches!(step, Step::More | Step::Again), step == Step::Again);
                (served.used, served.empty) = (used, step == Step::Empty);
            }
            Err(violation) => served = self.broke(violation),
        }
        if interrupt {
            trace::emit!(virtio_notify, trace::Id::of(device), id);
            self.isr |= ISR_QUEUE;
            served.due.queue = Some(vector);
        }
        served
    }

    /// The driver broke the protocol: the device needs a reset, and tells so.
    #[doc(alias = "virtio_error")]
    fn broke(&mut self, violation: Violation) -> Served {
        self.status |= status::NEEDS_RESET;
        let due = self.config_changed();
        self.broken = true;
        Served { due, violation: Some(violation), ..Served::default() }
    }
}

#[cfg(test)]
mod tests;
