//! The plan of memory slots: what memory devices reserve, against what the hypervisor and back ends have.
//!
//! A device that maps its memory in parts takes slots long after it was added, when nobody can be refused any more. So the
//! refusal comes at once: a new device must leave room for every part of every device, and so must a new back end. Two
//! promises hold from then on:
//!
//! 1. all memory devices together have [`LIMIT`] parts at most;
//! 2. whoever has memory slots ([`SlotUser`]) has one for each part, mapped or not.
//!
//! Words: a part that is mapped is *used*, one that may come to be mapped is *reserved*. The list of
//! [`MemoryDevices`] is the only book: a device that is refused or removed reserves nothing.
//!
//! All changes happen on the main loop thread. Guests map and unmap meanwhile, which moves slots between used and
//! reserved; [`SlotPlan::reserved`] counts so that a check errs on the safe side.
//!
//! Left out: RAM that comes without being a memory device's (there is none that does).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use accel::Accel;
use qapi::types::{PliantMemslotDevice, PliantMemslotUser, PliantMemslots};
use qapi::{Error, Result};

use super::device::{MemoryDevice, MemoryDevices, SlotUse};
pub use super::memslots::sizing::LIMIT;
use super::memslots::sizing::{Budget, SAFE_MAX};
use crate::core::Machine;

/// Somebody who needs a memory slot for each piece of guest memory: the hypervisor, a vhost back end.
///
/// Called with no lock of the plan held; must not call the plan. The numbers may change at any time, the limit only by
/// leaving the plan and coming again.
pub trait SlotUser: Send + Sync {
    /// What people know it by: `kvm`, the id or path of a device.
    fn name(&self) -> String;

    /// Slots that it can have.
    fn limit(&self) -> u64;

    /// Slots that it has in use now, whatever for. Mapped parts of memory devices are among them.
    fn used(&self) -> u64;
}

/// The plan of one machine.
pub struct SlotPlan {
    devices: Arc<MemoryDevices>,
    hypervisor: Option<Arc<dyn SlotUser>>,
    backends: Mutex<Vec<Arc<dyn SlotUser>>>,
}

/// The accelerator, as a user of slots.
struct Hypervisor(Arc<dyn Accel>);

impl SlotUser for Hypervisor {
    fn name(&self) -> String {
        self.0.name().to_owned()
    }
    fn limit(&self) -> u64 {
        self.0.memory_slots().map_or(0, |slots| slots.max.into())
    }
    fn used(&self) -> u64 {
        self.0.memory_slots().map_or(0, |slots| (slots.max - slots.free).into())
    }
}

/// One user's numbers at one time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserSlots {
    /// Its name.
    pub name: String,
    /// Slots that it can have.
    pub limit: u64,
    /// Slots that it has in use.
    pub used: u64,
    /// Slots that memory devices may come to use beyond that.
    pub reserved: u64,
}

impl UserSlots {
    /// What is left for others.
    pub fn free(&self) -> u64 {
        self.limit.saturating_sub(self.used).saturating_sub(self.reserved)
    }
}

impl SlotPlan {
    /// The plan of `machine`.
    pub fn of(machine: &Machine) -> Arc<Self> {
        let devices = MemoryDevices::of(machine);
        let accel = machine.accel();
        let hypervisor = || Arc::new(Hypervisor(Arc::clone(accel))) as Arc<dyn SlotUser>;
        machine.extension(|| Self::new(devices, accel.memory_slots().is_some().then(hypervisor)))
    }

    /// A plan for `devices`, on a hypervisor whose slots are limited or on one that needs none.
    pub(super) fn new(devices: Arc<MemoryDevices>, hypervisor: Option<Arc<dyn SlotUser>>) -> Self {
        Self { devices, hypervisor, backends: Mutex::default() }
    }

    fn backends(&self) -> MutexGuard<'_, Vec<Arc<dyn SlotUser>>> {
        // Changed by whole insertions and removals only.
        self.backends.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a back end into the plan: from now on no memory device is added that it has no slots for. One that is in the
    /// plan already is checked again and stays once. Ask before the back end is given any memory, when
    /// [`SlotUser::used`] can tell what the memory that is there will take.
    ///
    /// # Errors
    /// QEMU's texts of `vhost_dev_init`, with the numbers: the back end has fewer slots than are in use and reserved, or so few
    /// that a present device would have decided for fewer parts. It is not in the plan then.
    pub fn admit(&self, user: Arc<dyn SlotUser>) -> Result<()> {
        self.remove(&user);
        let slots = self.slots_of(&user);
        if slots.limit < SAFE_MAX && self.devices.devices().iter().any(|d| d.memslots().decided) {
            return Err(Error::generic(
                "some memory device (like virtio-mem) decided how many memory slots to use based on the overall number \
                 of memory slots; this vhost backend would further restricts the overall number of memory slots",
            )
            .with_hint("Try plugging this vhost backend before plugging such memory devices."));
        }
        if slots.limit < slots.used + slots.reserved {
            return Err(Error::generic(format!(
                "vhost backend memory slots limit ({}) is less than current number of used ({}) and reserved ({}) memory \
                 slots for memory devices.",
                slots.limit, slots.used, slots.reserved
            )));
        }
        self.backends().push(user);
        Ok(())
    }

    /// Takes a back end out; nothing happens if it is not in the plan.
    pub fn remove(&self, user: &Arc<dyn SlotUser>) {
        self.backends().retain(|other| !Arc::ptr_eq(other, user));
    }

    /// The hypervisor, if its slots are limited, and the back ends in the order they came.
    fn users(&self) -> Vec<Arc<dyn SlotUser>> {
        self.hypervisor.iter().cloned().chain(self.backends().iter().cloned()).collect()
    }

    /// Mapped parts of all memory devices.
    fn mapped(&self) -> u64 {
        self.devices.devices().iter().map(|d| d.memslots().mapped).sum()
    }

    /// A user's numbers.
    fn slots_of(&self, user: &Arc<dyn SlotUser>) -> UserSlots {
        // A part that is mapped between two of these looks may be counted twice, but never not at all.
        let before = self.mapped();
        let used = user.used();
        let mapped = self.mapped().min(before);
        let reserved = self.devices.memslots().saturating_sub(mapped);
        UserSlots { name: user.name(), limit: user.limit(), used, reserved }
    }

    /// The answer of `x-pliant-query-memslots`.
    pub fn info(&self) -> PliantMemslots {
        let devices: Vec<_> = self.devices.devices().iter().map(|device| device_info(&**device)).collect();
        let (parts, used) = devices.iter().fold((0, 0), |(parts, used), d| (parts + d.parts, used + d.used));
        let user = |user: &Arc<dyn SlotUser>| {
            let slots = self.slots_of(user);
            let free = slots.free();
            let UserSlots { name, limit, used, reserved } = slots;
            PliantMemslotUser { name, limit, used, reserved, free }
        };
        PliantMemslots {
            limit: LIMIT,
            used,
            reserved: parts - used,
            free: LIMIT.saturating_sub(parts),
            devices,
            users: self.users().iter().map(user).collect(),
        }
    }

    /// What the number of parts of a new device depends on, where memory devices may have `limit` bytes together.
    pub(super) fn budget(&self, limit: u64) -> Budget {
        let slots: Vec<UserSlots> = self.users().iter().map(|user| self.slots_of(user)).collect();
        Budget {
            max: slots.iter().map(|s| s.limit).min(),
            free: slots.iter().map(UserSlots::free).min(),
            required: self.devices.memslots(),
            limit,
            used: self.devices.placed().iter().map(|p| p.size).sum(),
        }
    }

    /// Whether a new memory device may have `required` parts.
    ///
    /// # Errors
    /// Who has too few slots, with the numbers.
    pub(super) fn check(&self, required: u64) -> Result<()> {
        for user in self.users() {
            let slots = self.slots_of(&user);
            if slots.free() < required {
                let who = match &self.hypervisor {
                    Some(hypervisor) if Arc::ptr_eq(hypervisor, &user) => "hypervisor",
                    _ => "a used vhost backend",
                };
                let UserSlots { name, limit, used, reserved } = slots;
                return Err(Error::generic(format!(
                    "{who} has not enough free memory slots left: '{name}' has {limit}, of which {used} are used and \
                     {reserved} reserved for memory devices, {required} more are required"
                )));
            }
        }
        let reserved = self.devices.memslots();
        if reserved + required > LIMIT {
            return Err(Error::generic(format!(
                "memory devices have not enough free memory slots left: they may have {LIMIT}, of which {reserved} are \
                 used or reserved, {required} more are required"
            )));
        }
        Ok(())
    }
}

fn device_info(device: &dyn MemoryDevice) -> PliantMemslotDevice {
    let SlotUse { parts, mapped, part_size, .. } = device.memslots();
    PliantMemslotDevice {
        id: device.id(),
        qom_path: device.qom_path(),
        parts,
        used: mapped,
        reserved: parts - mapped,
        part_size,
    }
}

#[cfg(test)]
mod tests;
