//! What a migration takes along of the CPUs that there may be: what the guest was told and has not looked at, and what it answered. Nothing
//! while it has but a map, which tells of CPUs that are there alone.

use std::sync::Arc;

use vmstate::{LoadError, Result, vmstate};

use super::{CpuHotplug, Slot, State};

vmstate! {
    /// A CPU as a migration takes it along.
    pub struct CpuSlotState: "CPU hotplug device state", version 1 {
        /// Whether it is there.
        is_enabled: bool,
        /// Whether it is new to the guest.
        is_inserting: bool,
        /// Whether the guest is to let go of it.
        is_removing: bool,
        /// Whether the guest's firmware is to.
        fw_remove: bool,
        /// What the guest said became of it.
        ost_event: u32,
        /// See there.
        ost_status: u32,
    }
}
vmstate! {
    /// All of them.
    pub struct CpuHotplugState: "acpi/cpuhp", version 1 {
        /// The CPU that the registers show.
        selector: u32,
        /// And what of it.
        command: u8,
        /// By index.
        devs: Vec<CpuSlotState>,
    }
}

impl CpuHotplug {
    /// What a migration takes along; nothing while there is but a map.
    pub(crate) fn saved_state(&self) -> Option<CpuHotplugState> {
        let State { modern, slots, selected, command } = &*self.lock();
        modern.then(|| CpuHotplugState {
            selector: *selected,
            command: *command,
            devs: slots.iter().map(Slot::saved_state).collect(),
        })
    }

    /// Takes that over; the guest was told of it.
    ///
    /// # Errors
    /// There may be other CPUs here, or there are others.
    pub(crate) fn load_state(self: &Arc<Self>, saved: Option<CpuHotplugState>) -> Result<()> {
        let Some(CpuHotplugState { selector, command, devs }) = saved else { return Ok(()) };
        self.switch();
        let mut state = self.lock();
        let (here, there) = (state.slots.len(), devs.len());
        if here != there {
            return Err(LoadError::invalid(format!("CPU hotplug: CPUs changed from {there} to {here}")));
        }
        (state.selected, state.command) = (selector, command);
        for (index, (slot, saved)) in state.slots.iter_mut().zip(devs).enumerate() {
            if !slot.load_state(saved) {
                return Err(LoadError::invalid(format!("CPU hotplug: CPU {index} is there at one end only")));
            }
        }
        Ok(())
    }
}

impl Slot {
    fn saved_state(&self) -> CpuSlotState {
        // Nothing is being ejected while the machine stands still, and CPUs are plugged before anything arrives.
        let Self {
            apic_id: _,
            cpu,
            inserting,
            removing,
            firmware_removes,
            ejecting: _,
            ost_event,
            ost_status,
        } = self;
        CpuSlotState {
            is_enabled: cpu.is_some(),
            is_inserting: *inserting,
            is_removing: *removing,
            fw_remove: *firmware_removes,
            ost_event: *ost_event,
            ost_status: *ost_status,
        }
    }

    /// Whether it can be.
    fn load_state(&mut self, state: CpuSlotState) -> bool {
        let CpuSlotState { is_enabled, is_inserting, is_removing, fw_remove, ost_event, ost_status } = state;
        if is_enabled != self.cpu.is_some() {
            return false;
        }
        (self.inserting, self.removing, self.firmware_removes) = (is_inserting, is_removing, fw_remove);
        (self.ost_event, self.ost_status) = (ost_event, ost_status);
        true
    }
}
