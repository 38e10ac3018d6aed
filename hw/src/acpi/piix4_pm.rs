//! PIIX4 function 3, `PIIX4_PM`: the power management registers of the 440FX board, at the port its PMBASE register says.
//!
//! Intel 82371AB (PIIX4) datasheet §7. Left out: SMBus, device monitors, suspend.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

use memory::{RegionDesc, RegionId};
use qapi::Result;
use qom::{Class, ObjectRef, Property, Registry};
use vmstate::{Priority, Saved, Section, vmstate};

use super::AcpiState;
use super::cpuhp::{self, CpuHotplug};
use super::memhp::MemoryHotplug;
use super::pcihp::AcpiPciHotplug;
use super::pm::{Pm, SCI};
use crate::core::device::ResetKind;
use crate::core::machine::Machine;
use crate::pci::{PciBus, PciDevice, PciDeviceState, PciInfo, PciState, chipset_class};

const PMBASE: u16 = 0x40;
const PMREGMISC: u16 = 0x80;
const PORTS: u64 = 64;
/// Where QEMU puts the general-purpose events.
pub const GPE_BASE: u64 = 0xafe0;
/// How many ports those take.
pub const GPE_PORTS: u8 = 4;
/// Where QEMU puts the registers of PCI hot-plug.
pub const PCI_HOTPLUG_BASE: u64 = 0xae00;

/// The function.
pub struct Piix4Pm {
    pci: PciState,
    /// Whether ACPI plugs on the root bus, and behind bridges.
    root_hotplug: AtomicBool,
    bridge_hotplug: AtomicBool,
    parts: OnceLock<Parts>,
}
crate::pci_device!(Piix4Pm, pci);

struct Parts {
    machine: std::sync::Weak<Machine>,
    pm: Arc<Pm>,
    hotplug: Option<Arc<AcpiPciHotplug>>,
    /// `piix4-pm`.
    region: RegionId,
}

vmstate! {
    /// What a migration takes along.
    pub struct Piix4PmState: "piix4_pm", version 1 {
        /// What it has as a function.
        parent_obj: PciDeviceState,
        /// Of ACPI.
        pm: Option<AcpiState>,
    }
}

pub(super) fn register(registry: &mut Registry) {
    let class = chipset_class::<Piix4Pm>("PIIX4_PM").instance(|class: &Arc<Class>| {
        Arc::new(Piix4Pm {
            pci: PciState::new(class),
            root_hotplug: AtomicBool::new(true),
            bridge_hotplug: AtomicBool::new(true),
            parts: OnceLock::new(),
        })
    });
    registry.register(
        class
            .properties([
                switch("acpi-pci-hotplug-with-bridge-support", |d| &d.bridge_hotplug),
                switch("acpi-root-pci-hotplug", |d| &d.root_hotplug),
            ])
            .properties(super::sleep::properties::<Piix4Pm>()),
    );
}

fn switch(name: &'static str, field: fn(&Piix4Pm) -> &AtomicBool) -> Property {
    Property::new(name, "bool")
        .description("on/off")
        .default(true)
        .get(move |d: &Piix4Pm| Ok(field(d).load(Relaxed).into()))
        .set(move |d: &Piix4Pm, value, name| {
            field(d).store(value.to_bool(name)?, Relaxed);
            Ok(())
        })
}

impl Piix4Pm {
    /// The registers; none before it is realized.
    pub fn pm(&self) -> Option<&Arc<Pm>> {
        self.parts.get().map(|p| &p.pm)
    }

    /// Maps the block where the registers say.
    fn update(&self) {
        let Some(parts) = self.parts.get() else { return };
        let Some(machine) = parts.machine.upgrade() else { return };
        let (base, enabled) =
            self.pci.with_config(|c| (u64::from(c.get16(PMBASE)) & 0xffc0, c.get16(PMREGMISC) & 1 != 0));
        let mut tx = machine.memory().transaction();
        tx.set_enabled(parts.region, enabled);
        tx.set_address(parts.region, base);
    }
}

impl PciDevice for Piix4Pm {
    fn pci(&self) -> &PciState {
        &self.pci
    }

    fn pci_info(&self) -> PciInfo {
        PciInfo { revision: 3, interrupt_pin: 1, ..PciInfo::new(0x8086, 0x7113, 0x0680) }
    }

    fn pci_realize(self: Arc<Self>, machine: &Arc<Machine>) -> Result<()> {
        let pm = Pm::new(machine, SCI);
        let owner = self.pci.owner();
        let mut tx = machine.memory().transaction();
        let region = tx.container(RegionDesc::new("piix4-pm", PORTS.into()).owned_by(owner.clone()));
        tx.set_enabled(region, false);
        tx.add_subregion(machine.io_region(), 0, region, 0);
        tx.commit();
        pm.map_fixed(machine, &owner, region);
        pm.map_gpe(machine, &owner, machine.io_region(), GPE_BASE, GPE_PORTS);
        let bus = self.pci.dev.parent_bus().and_then(|b| (b as ObjectRef).downcast::<PciBus>());
        let bus = bus.ok_or_else(|| qapi::Error::generic("PIIX4_PM needs a PCI bus"))?;
        MemoryHotplug::install(machine, &pm, owner.clone());
        CpuHotplug::install(machine, &pm, owner.clone(), cpuhp::PIIX4_BASE);
        let (on_root, bridges) = (self.root_hotplug.load(Relaxed), self.bridge_hotplug.load(Relaxed));
        let hotplug = (on_root || bridges).then(|| {
            let at = (PCI_HOTPLUG_BASE, &owner);
            AcpiPciHotplug::install(machine, &bus, &pm, (on_root, bridges), at)
        });
        self.pci.with_config(|c| {
            c.set32(PMBASE, 1);
            c.set_writable(PMBASE, &[0xc0, 0xff, 0, 0]);
        });
        self.parts.get_or_init(|| Parts { machine: Arc::downgrade(machine), pm, hotplug, region });
        Ok(())
    }

    fn pci_reset(&self, _kind: ResetKind) {
        self.pci.with_config(|c| {
            c.set32(PMBASE, 1);
            c.set8(PMREGMISC, 0);
        });
        self.update();
        if let Some(parts) = self.parts.get() {
            parts.pm.reset();
            if let Some(hotplug) = &parts.hotplug {
                hotplug.reset();
            }
        }
    }

    fn pci_saved(self: Arc<Self>) -> Saved {
        let loaded = Arc::clone(&self);
        let acpi = move |own: &Self| {
            let parts = own.parts.get()?;
            let machine = parts.machine.upgrade()?;
            Some(AcpiState::of(&machine, &parts.pm, parts.hotplug.as_deref()))
        };
        let save = move || Piix4PmState { parent_obj: self.pci.saved_state(), pm: acpi(&self) };
        let load = move |Piix4PmState { parent_obj, pm }| {
            loaded.pci.load_state(&parent_obj)?;
            loaded.update();
            let Some(parts) = loaded.parts.get() else { return Ok(()) };
            let own = Some((&parts.pm, parts.hotplug.as_deref()));
            AcpiState::load(pm, parts.machine.upgrade().as_deref(), own)
        };
        Saved::one(Section::new(save, load).at(Priority::Bus))
    }

    fn config_written(&self, _offset: u16, _size: u8, _value: u32) {
        self.update();
    }
}
