//! What a migration takes along of PCI hot-plug: what the guest was told and has not looked at, and what its tables call the buses.
//!
//! A bus is found by its place, as another one may have its number here, where bridges were there from the start.

use std::collections::BTreeMap;
use std::sync::Arc;

use mainloop::Clock;
use vmstate::{LoadError, Result, vmstate};

use super::{AcpiPciHotplug, Slots, State, visit};
use crate::pci::PciBus;

/// Numbers of buses are below that, as in QEMU.
const BUSES: u32 = 256;

vmstate! {
    /// A bus as a migration takes it along.
    pub struct BusState: "acpi_pcihp_pci_status", version 1 {
        /// Slot and function of each bridge on the way from the root.
        path: Vec<u8>,
        /// What the guest's tables call it.
        number: u32,
        /// Slots that got a device of which the guest does not know yet.
        up: u32,
        /// Slots of which the guest is to let go.
        down: u32,
    }
}
vmstate! {
    /// All that have numbers.
    pub struct PciHotplugState: "acpi_pcihp", version 1 {
        /// The bus that the registers mean.
        hotplug_select: u32,
        /// What the index register shows.
        acpi_index: u32,
        /// In no order.
        buses: Vec<BusState>,
    }
}

/// Slot and function of each bridge on the way to `bus`; `None` if it has been taken out.
fn path(bus: &Arc<PciBus>) -> Option<Vec<u8>> {
    let mut path = Vec::new();
    let mut bus = Arc::clone(bus);
    while !bus.is_root() {
        let (above, devfn) = bus.bridge()?.pci().bus_and_devfn()?;
        path.insert(0, devfn);
        bus = above;
    }
    Some(path)
}

impl AcpiPciHotplug {
    /// What there is now.
    pub(crate) fn saved_state(&self) -> PciHotplugState {
        self.number_buses();
        let mut buses = Vec::new();
        let (slots, selected, index) = {
            // Nothing is being ejected while the machine stands still.
            let State { buses, selected, index, numbered: _, posted: _ } = &*self.lock();
            (buses.clone(), *selected, *index)
        };
        if let Some(root) = self.root.upgrade() {
            visit(&root, &mut |bus| {
                let Some((number, path)) = bus.hotplug_number().zip(path(bus)) else { return };
                let Slots { up, down, ejecting: _ } = slots.get(&number).copied().unwrap_or_default();
                buses.push(BusState { path, number, up, down });
            });
        }
        PciHotplugState { hotplug_select: selected, acpi_index: index, buses }
    }

    /// Takes that over; the guest was told of it.
    ///
    /// # Errors
    /// Buses are missing here.
    pub(crate) fn load_state(&self, state: PciHotplugState) -> Result<()> {
        let PciHotplugState { hotplug_select, acpi_index, buses } = state;
        let mut here = Vec::new();
        if let Some(root) = self.root.upgrade() {
            visit(&root, &mut |bus| here.push(Arc::clone(bus)));
        }
        let mut slots = BTreeMap::new();
        let mut numbers: Vec<Option<u32>> = vec![None; here.len()];
        for BusState { path: there, number, up, down } in buses {
            let at = here.iter().position(|bus| path(bus).is_some_and(|path| path == there));
            let free = at.filter(|at| numbers[*at].is_none()).filter(|_| number < BUSES);
            let same =
                |at: usize| slots.insert(number, Slots { up, down, ejecting: 0 }).is_none().then_some(at);
            let Some(at) = free.and_then(same) else {
                return Err(LoadError::invalid(format!(
                    "ACPI PCI hotplug: bus {number} of the guest is none of this machine"
                )));
            };
            numbers[at] = Some(number);
        }
        let now = self.machine.upgrade().map_or(0, |m| m.mainloop().now_ns(Clock::Virtual) / 1_000_000);
        for (bus, number) in here.iter().zip(numbers) {
            bus.set_hotplug_number(number);
            let Some(Slots { down, .. }) = number.and_then(|number| slots.get(&number)) else { continue };
            for (_, function) in bus.functions().iter().filter(|(devfn, _)| down >> (devfn >> 3) & 1 != 0) {
                function.dev().set_unplug_pending(true);
                function.dev().set_unplug_expiry(now);
            }
        }
        let mut state = self.lock();
        *state = State {
            buses: slots,
            selected: hotplug_select,
            index: acpi_index,
            numbered: true,
            posted: state.posted,
        };
        Ok(())
    }
}
