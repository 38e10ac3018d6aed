//! What a migration takes along of a port: the registers tell it all, the slot's control and status among them.

use std::sync::Arc;

use vmstate::{Priority, Result, Saved, Section, vmstate};

use super::{RootPort, Slot, State, at};
use crate::pci::PciDeviceState;

vmstate! {
    /// A port.
    pub struct RootPortState: "pcie-root-port", version 1 {
        /// What it has as a function.
        device: PciDeviceState,
    }
}

/// The field, as QEMU calls it.
const FUNCTION: &str = "parent_obj.parent_obj.parent_obj";

pub(super) fn saved(port: Arc<RootPort>) -> Saved {
    let loaded = Arc::clone(&port);
    let save = move || RootPortState { device: port.pci.saved_state() };
    Saved::one(Section::new(save, move |state| loaded.load(&state)).at(Priority::Bus))
}

impl RootPort {
    fn load(&self, state: &RootPortState) -> Result<()> {
        self.pci.load_state(&state.device).map_err(|error| error.in_field("pcie-root-port", FUNCTION))?;
        self.bridge.update(self);
        let power = {
            let mut state = self.state();
            let State { cap, slot, raised, machine: _ } = &mut *state;
            let at = *cap;
            let (control, status) =
                self.pci.with_config(|c| (c.get16(at + at::SLOT_CONTROL), c.get16(at + at::SLOT_STATUS)));
            *slot = Slot::from_registers(control, status, slot.power_controller);
            // The pin, or the message, is as it was left.
            *raised = slot.interrupts();
            slot.has_power()
        };
        let Some(bus) = self.secondary() else { return Ok(()) };
        for (devfn, _) in bus.functions() {
            bus.set_visible(devfn, power);
        }
        Ok(())
    }
}
