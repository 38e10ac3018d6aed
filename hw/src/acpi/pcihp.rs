//! PCI hot-plug that ACPI tables drive (QEMU `docs/specs/acpi_pci_hotplug`): the guest is told by a general-purpose event which
//! slots changed, and ejects a slot by writing its bit.
//!
//! Left out: bridges behind the root bus, the device index register.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use memory::{AccessConstraints, RegionOps};
use qapi::Result;
use qom::ObjectRef;

use super::pm::Pm;
use crate::core::device::{Device, DeviceClass};
use crate::core::hotplug::{HotplugHandler, Unplug};
use crate::core::machine::Machine;
use crate::core::qdev;
use crate::pci::{PciBus, PciDevice};

/// Where the register block is on `q35`.
pub const ICH9_BASE: u64 = 0xcc0;
/// Bytes of the register block.
pub const REGISTERS: u64 = 0x18;
/// The general-purpose event that announces a change.
const GPE: u8 = 1;
const UP: u64 = 0x00;
const DOWN: u64 = 0x04;
const EJECT: u64 = 0x08;
const REMOVABLE: u64 = 0x0c;
const SELECT: u64 = 0x10;

/// Hot-plug of one root bus.
pub struct AcpiPciHotplug {
    machine: Weak<Machine>,
    bus: Weak<PciBus>,
    pm: Arc<Pm>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    up: u32,
    down: u32,
    /// Which bus the registers mean; 0 is the root bus, others do not exist.
    selected: u32,
    /// Slots that the main loop was asked to empty.
    ejecting: u32,
}

impl AcpiPciHotplug {
    /// Hot-plug of `bus`, announced through `pm`.
    pub fn new(machine: &Arc<Machine>, bus: &Arc<PciBus>, pm: &Arc<Pm>) -> Arc<Self> {
        Arc::new(Self {
            machine: Arc::downgrade(machine),
            bus: Arc::downgrade(bus),
            pm: Arc::clone(pm),
            state: Mutex::default(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Words, assigned whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Power-on state. Devices whose unplug was pending are gone for good, as in QEMU.
    pub fn reset(&self) {
        {
            let mut state = self.lock();
            // What the guest let go of before it was reset still goes.
            *state = State { ejecting: state.ejecting, ..State::default() };
        }
        let (Some(machine), Some(bus)) = (self.machine.upgrade(), self.bus.upgrade()) else { return };
        for (_, function) in bus.functions() {
            if function.dev().unplug_pending() {
                qdev::complete_unplug(&machine, &(function as Arc<dyn Device>));
            }
        }
    }

    /// Where the device is; nowhere while it is not realized.
    fn devfn(device: &Arc<dyn Device>) -> Option<u8> {
        let object = Arc::clone(device) as ObjectRef;
        qom::cast::<dyn PciDevice>(&object)?.pci().devfn()
    }

    /// The bit of the device's slot.
    fn slot_bit(device: &Arc<dyn Device>) -> u32 {
        Self::devfn(device).map_or(0, |devfn| 1 << (devfn >> 3))
    }

    fn set_visible(&self, device: &Arc<dyn Device>, visible: bool) {
        if let (Some(bus), Some(devfn)) = (self.bus.upgrade(), Self::devfn(device)) {
            bus.set_visible(devfn, visible);
        }
    }

    /// Devices that may go, a bit for each slot.
    fn removable(&self) -> u32 {
        let Some(bus) = self.bus.upgrade() else { return 0 };
        bus.functions()
            .iter()
            .filter(|(_, f)| is_hotpluggable(f))
            .fold(0, |bits, (devfn, _)| bits | 1 << (devfn >> 3))
    }

    /// The guest let go of `slots`. Devices go on the main loop; no vCPU waits for that, and a guest that writes again and
    /// again has posted once.
    fn eject(self: &Arc<Self>, slots: u32) {
        let posted = {
            let mut state = self.lock();
            state.down &= !slots;
            let all = state.ejecting | slots;
            std::mem::replace(&mut state.ejecting, all) != 0
        };
        // The guest may look again at once, and must not find what it let go of.
        for (devfn, function) in self.bus.upgrade().iter().flat_map(|bus| bus.functions()) {
            if slots >> (devfn >> 3) & 1 != 0 && is_hotpluggable(&function) {
                self.set_visible(&(function as Arc<dyn Device>), false);
            }
        }
        let Some(machine) = self.machine.upgrade().filter(|_| !posted && slots != 0) else { return };
        let me = Arc::downgrade(self);
        machine.mainloop().post(move || {
            if let Some(me) = me.upgrade() {
                me.empty_slots();
            }
        });
    }

    fn empty_slots(&self) {
        let slots = std::mem::take(&mut self.lock().ejecting);
        let (Some(machine), Some(bus)) = (self.machine.upgrade(), self.bus.upgrade()) else { return };
        for (devfn, function) in bus.functions() {
            if slots >> (devfn >> 3) & 1 != 0 && is_hotpluggable(&function) {
                qdev::complete_unplug(&machine, &(function as Arc<dyn Device>));
            }
        }
    }
}

pub(super) fn is_hotpluggable(function: &Arc<dyn PciDevice>) -> bool {
    function.dev().core().class().extension::<DeviceClass>().is_some_and(|c| c.hotpluggable)
}

impl HotplugHandler for AcpiPciHotplug {
    fn plug(&self, _machine: &Arc<Machine>, device: &Arc<dyn Device>) -> Result<()> {
        self.set_visible(device, true);
        if device.dev().is_hotplugged() {
            self.lock().up |= Self::slot_bit(device);
            self.pm.raise_gpe(GPE);
        }
        Ok(())
    }

    fn unplug_request(&self, _machine: &Arc<Machine>, device: &Arc<dyn Device>) -> Result<Unplug> {
        trace::emit!(acpi_pci_unplug_request, 0, Self::slot_bit(device).trailing_zeros() as u8);
        self.lock().down |= Self::slot_bit(device);
        self.pm.raise_gpe(GPE);
        Ok(Unplug::GuestAsked)
    }

    fn unplug(&self, _machine: &Arc<Machine>, device: &Arc<dyn Device>) {
        trace::emit!(acpi_pci_unplug, 0, Self::slot_bit(device).trailing_zeros() as u8);
        self.set_visible(device, false);
    }
}

/// The register block.
pub struct Registers(pub Arc<AcpiPciHotplug>);

impl RegionOps for Registers {
    fn read(&self, offset: u64, _size: u8) -> u64 {
        let mut state = self.0.lock();
        let root = state.selected == 0;
        let value = match offset {
            // Reading takes the announcement, so that the next scan finds only what is new.
            UP if root => std::mem::take(&mut state.up),
            DOWN if root => state.down,
            REMOVABLE if root => {
                drop(state);
                self.0.removable()
            }
            SELECT => state.selected,
            _ => 0,
        };
        match offset {
            UP => trace::emit!(acpi_pci_up_read, value),
            DOWN => trace::emit!(acpi_pci_down_read, value),
            REMOVABLE => trace::emit!(acpi_pci_rmv_read, value),
            SELECT => trace::emit!(acpi_pci_sel_read, value),
            _ => trace::unimp!("ACPI PCI hot-plug: register {offset:#x} is read"),
        }
        value.into()
    }
    fn write(&self, offset: u64, _size: u8, value: u64) {
        let root = self.0.lock().selected == 0;
        match offset {
            EJECT => {
                trace::emit!(acpi_pci_ej_write, offset, value);
                if root {
                    self.0.eject(value as u32);
                }
            }
            SELECT => {
                trace::emit!(acpi_pci_sel_write, offset, value);
                self.0.lock().selected = value as u32;
            }
            _ => trace::unimp!("ACPI PCI hot-plug: register {offset:#x} is written {value:#x}"),
        }
    }
    fn constraints(&self) -> AccessConstraints {
        AccessConstraints::new().valid(4, 4).implemented(4, 4)
    }
}
