//! What a migration takes along of a port: the registers, the slot's control and status among them, tell all but what the user is waiting for.

use std::sync::Arc;

use mainloop::Clock;
use vmstate::{LoadError, Priority, Result, Saved, Section, vmstate};

use super::{ANSWER_TIME, RootPort, Slot, State, at};
use crate::pci::PciDeviceState;

vmstate! {
    /// A function of which the guest is to let go.
    pub struct LeavingState: "x-pliant-leaving", version 1 {
        /// Its number in the slot.
        function: u8,
        /// Milliseconds of the guest's time until `device_del` may be said again.
        left: u32,
    }
}
vmstate! {
    /// All of those that the port itself asked for. QEMU forgets them: there a `device_del` presses the button again at once, which a guest that just saw
    /// it pressed takes for a change of mind.
    pub struct UnplugState: "pcie-root-port/x-pliant-unplug", version 1 {
        functions: Vec<LeavingState>,
    }
}
vmstate! {
    /// A port.
    pub struct RootPortState: "pcie-root-port", version 1 {
        /// What it has as a function.
        device: PciDeviceState,
    }
    subsections {
        /// While a `device_del` waits for the guest.
        unplug: UnplugState,
    }
}

/// The field, as QEMU calls it.
const FUNCTION: &str = "parent_obj.parent_obj.parent_obj";

pub(super) fn saved(port: Arc<RootPort>) -> Saved {
    let loaded = Arc::clone(&port);
    let save = move || RootPortState { device: port.pci.saved_state(), unplug: port.saved_unplug() };
    Saved::one(Section::new(save, move |state| loaded.load(&state)).at(Priority::Bus))
}

impl RootPort {
    fn now_ms(&self) -> i64 {
        let machine = self.state().machine.upgrade();
        machine.map_or(0, |machine| machine.mainloop().now_ns(Clock::Virtual) / 1_000_000)
    }

    fn saved_unplug(&self) -> Option<UnplugState> {
        // Where ACPI plugs, its state tells.
        let bus = self.secondary().filter(|bus| bus.hotplug_number().is_none())?;
        let now = self.now_ms();
        let mut functions = Vec::new();
        for (function, device) in bus.functions().iter().filter(|(_, f)| f.dev().unplug_pending()) {
            let left = device.dev().unplug_expiry().unwrap_or(now).saturating_sub(now);
            functions.push(LeavingState { function: *function, left: left.clamp(0, ANSWER_TIME) as u32 });
        }
        (!functions.is_empty()).then_some(UnplugState { functions })
    }

    fn load_unplug(&self, UnplugState { functions }: &UnplugState) -> Result<()> {
        let (bus, now) = (self.secondary(), self.now_ms());
        for LeavingState { function, left } in functions {
            let device = bus.as_ref().and_then(|bus| bus.function(*function));
            let Some(device) = device.filter(|_| i64::from(*left) <= ANSWER_TIME) else {
                return Err(LoadError::invalid(format!(
                    "pcie-root-port: no function {function} waits here to be unplugged"
                )));
            };
            device.dev().set_unplug_pending(true);
            // 0 would be never.
            device.dev().set_unplug_expiry((now + i64::from(*left)).max(1));
        }
        Ok(())
    }

    fn load(&self, state: &RootPortState) -> Result<()> {
        self.pci.load_state(&state.device).map_err(|error| error.in_field("pcie-root-port", FUNCTION))?;
        state.unplug.as_ref().map_or(Ok(()), |unplug| self.load_unplug(unplug))?;
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
