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
        *self.lock() = State::default();
        let (Some(machine), Some(bus)) = (self.machine.upgrade(), self.bus.upgrade()) else { return };
        for (_, function) in bus.functions() {
            if function.dev().unplug_pending() {
                qdev::complete_unplug(&machine, &(function as Arc<dyn Device>));
            }
        }
    }

    fn devfn(device: &Arc<dyn Device>) -> u8 {
        let object = Arc::clone(device) as ObjectRef;
        let pci = qom::cast::<dyn PciDevice>(&object);
        pci.and_then(|p| p.pci().devfn()).unwrap_or(0)
    }

    fn slot(device: &Arc<dyn Device>) -> u32 {
        u32::from(Self::devfn(device) >> 3)
    }

    fn set_visible(&self, device: &Arc<dyn Device>, visible: bool) {
        if let Some(bus) = self.bus.upgrade() {
            bus.set_visible(Self::devfn(device), visible);
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

    /// The guest let go of `slots`. Devices go on the main loop; no vCPU waits for that.
    fn eject(&self, slots: u32) {
        self.lock().down &= !slots;
        let Some(machine) = self.machine.upgrade() else { return };
        let bus = self.bus.clone();
        // The guest may look again at once, and must not find what it let go of.
        for (devfn, function) in bus.upgrade().iter().flat_map(|bus| bus.functions()) {
            if slots >> (devfn >> 3) & 1 != 0 && is_hotpluggable(&function) {
                self.set_visible(&(function as Arc<dyn Device>), false);
            }
        }
        let weak = self.machine.clone();
        machine.mainloop().post(move || {
            let (Some(machine), Some(bus)) = (weak.upgrade(), bus.upgrade()) else { return };
            for (devfn, function) in bus.functions() {
                if slots >> (devfn >> 3) & 1 != 0 && is_hotpluggable(&function) {
                    qdev::complete_unplug(&machine, &(function as Arc<dyn Device>));
                }
            }
        });
    }
}

fn is_hotpluggable(function: &Arc<dyn PciDevice>) -> bool {
    function.dev().core().class().extension::<DeviceClass>().is_some_and(|c| c.hotpluggable)
}

impl HotplugHandler for AcpiPciHotplug {
    fn plug(&self, _machine: &Arc<Machine>, device: &Arc<dyn Device>) -> Result<()> {
        self.set_visible(device, true);
        if device.dev().is_hotplugged() {
            self.lock().up |= 1 << Self::slot(device);
            self.pm.raise_gpe(GPE);
        }
        Ok(())
    }

    fn unplug_request(&self, _machine: &Arc<Machine>, device: &Arc<dyn Device>) -> Result<Unplug> {
        self.lock().down |= 1 << Self::slot(device);
        self.pm.raise_gpe(GPE);
        Ok(Unplug::GuestAsked)
    }

    fn unplug(&self, _machine: &Arc<Machine>, device: &Arc<dyn Device>) {
        self.set_visible(device, false);
    }
}

/// The register block.
pub struct Registers(pub Arc<AcpiPciHotplug>);

impl RegionOps for Registers {
    fn read(&self, offset: u64, _size: u8) -> u64 {
        let mut state = self.0.lock();
        let root = state.selected == 0;
        u64::from(match offset {
            // Reading takes the announcement, so that the next scan finds only what is new.
            UP if root => std::mem::take(&mut state.up),
            DOWN if root => state.down,
            REMOVABLE if root => {
                drop(state);
                self.0.removable()
            }
            SELECT => state.selected,
            _ => 0,
        })
    }
    fn write(&self, offset: u64, _size: u8, value: u64) {
        let root = self.0.lock().selected == 0;
        match offset {
            EJECT if root => self.0.eject(value as u32),
            SELECT => self.0.lock().selected = value as u32,
            _ => {}
        }
    }
    fn constraints(&self) -> AccessConstraints {
        AccessConstraints::new().valid(4, 4).implemented(4, 4)
    }
}
