//! What a migration takes along of the slots for DIMMs: what the guest was told and has not looked at, and what it answered.

use vmstate::{LoadError, Result, vmstate};

use super::{MemoryHotplug, Slot, State};

vmstate! {
    /// A slot as a migration takes it along.
    pub struct SlotState: "memory hotplug device state", version 1 {
        /// Whether there is a DIMM in it.
        is_enabled: bool,
        /// Whether it is new to the guest.
        is_inserting: bool,
        /// Whether the guest is to let go of it.
        is_removing: bool,
        /// What the guest said became of it.
        ost_event: u32,
        /// See there.
        ost_status: u32,
    }
}
vmstate! {
    /// All of them.
    pub struct MemoryHotplugState: "memory hotplug state", version 1 {
        /// The slot that the registers show.
        selector: u32,
        /// By number.
        devs: Vec<SlotState>,
    }
}

impl MemoryHotplug {
    /// What a migration takes along; nothing if there are no slots.
    pub(crate) fn saved_state(&self) -> Option<MemoryHotplugState> {
        let State { slots, selected } = &*self.lock();
        (!slots.is_empty()).then(|| MemoryHotplugState {
            selector: *selected,
            devs: slots.iter().map(Slot::saved_state).collect(),
        })
    }

    /// Takes that over; the guest was told of it.
    ///
    /// # Errors
    /// There are other slots here, or DIMMs in others.
    pub(crate) fn load_state(&self, saved: Option<MemoryHotplugState>) -> Result<()> {
        let MemoryHotplugState { selector, devs } =
            saved.unwrap_or(MemoryHotplugState { selector: 0, devs: Vec::new() });
        let mut state = self.lock();
        let (here, there) = (state.slots.len(), devs.len());
        if here != there {
            return Err(LoadError::invalid(format!("memory hotplug: slots changed from {there} to {here}")));
        }
        state.selected = selector;
        for (index, (slot, saved)) in state.slots.iter_mut().zip(devs).enumerate() {
            if !slot.load_state(saved) {
                return Err(LoadError::invalid(format!(
                    "memory hotplug: there is a DIMM in slot {index} at one end only"
                )));
            }
        }
        Ok(())
    }
}

impl Slot {
    fn saved_state(&self) -> SlotState {
        // Nothing is being ejected while the machine stands still, and DIMMs are plugged before anything arrives.
        let Self { dimm: _, enabled, inserting, removing, ejecting: _, ost_event, ost_status } = self;
        SlotState {
            is_enabled: *enabled,
            is_inserting: *inserting,
            is_removing: *removing,
            ost_event: *ost_event,
            ost_status: *ost_status,
        }
    }

    /// Whether it can be.
    fn load_state(&mut self, state: SlotState) -> bool {
        let SlotState { is_enabled, is_inserting, is_removing, ost_event, ost_status } = state;
        if is_enabled != self.enabled {
            return false;
        }
        (self.inserting, self.removing) = (is_inserting, is_removing);
        (self.ost_event, self.ost_status) = (ost_event, ost_status);
        true
    }
}
