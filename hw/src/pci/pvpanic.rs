//! `pvpanic-pci`: the register of `pvpanic` in memory, for machines whose guests look for it on the PCI bus (QEMU
//! `docs/specs/pvpanic`). One BAR of two bytes, of which either is the register; no interrupt.

use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use memory::{RegionDesc, RegionId};
use qapi::Result;
use qom::{Class, Registry, TypeInfo};
use vmstate::{Saved, Section, vmstate};

use super::bar::BarKind;
use super::config::PciInfo;
use super::device::{PciDevice, PciDeviceState, PciState};
use crate::core::device::{Category, Device, DeviceClass};
use crate::core::machine::Machine;
use crate::isa::pvpanic::{self, EVENTS, Register};

const VENDOR_REDHAT: u16 = 0x1b36;
const DEVICE_ID: u16 = 0x0011;
/// System peripheral, other.
const CLASS: u16 = 0x0880;
const SIZE: u64 = 2;

/// The device.
struct PvPanicPci {
    pci: PciState,
    events: AtomicU8,
    region: Mutex<Option<RegionId>>,
}
crate::pci_device!(PvPanicPci, pci);

vmstate! {
    /// What a migration takes along: the register remembers nothing.
    pub struct PvPanicState: "pvpanic-pci", version 1 {
        /// What it has as a function.
        dev: PciDeviceState,
    }
}

pub(super) fn register(registry: &mut Registry) {
    registry.register(
        TypeInfo::new("pvpanic-pci")
            .parent("pci-device")
            .extension(DeviceClass::on("PCI").category(Category::Misc))
            .instance(|class: &Arc<Class>| {
                Arc::new(PvPanicPci {
                    pci: PciState::new(class),
                    events: AtomicU8::new(EVENTS),
                    region: Mutex::default(),
                })
            })
            .cast::<PvPanicPci, dyn Device>(|d| d)
            .cast::<PvPanicPci, dyn PciDevice>(|d| d)
            .property(pvpanic::events(|d: &PvPanicPci| &d.events)),
    );
}

impl PciDevice for PvPanicPci {
    fn pci(&self) -> &PciState {
        &self.pci
    }

    fn pci_info(&self) -> PciInfo {
        PciInfo { revision: 1, ..PciInfo::new(VENDOR_REDHAT, DEVICE_ID, CLASS) }
    }

    fn pci_realize(self: Arc<Self>, machine: &Arc<Machine>) -> Result<()> {
        let ops = Arc::new(Register::new(machine, self.events.load(Relaxed)));
        let mut tx = machine.memory().transaction();
        let region = tx.io(RegionDesc::new("pvpanic", SIZE.into()).owned_by(self.pci.owner()), ops);
        tx.commit();
        self.pci.add_bar(0, BarKind::Memory32, SIZE, region);
        *self.region.lock().unwrap_or_else(PoisonError::into_inner) = Some(region);
        Ok(())
    }

    fn pci_saved(self: Arc<Self>) -> Saved {
        let loaded = Arc::clone(&self);
        let load = move |PvPanicState { dev }| {
            loaded.pci.load_state(&dev).map_err(|error| error.in_field("pvpanic-pci", "dev"))
        };
        Saved::one(Section::new(move || PvPanicState { dev: self.pci.saved_state() }, load))
    }

    fn pci_unrealize(self: Arc<Self>, machine: &Arc<Machine>) {
        let region = self.region.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(region) = region
            && let Err(error) = machine.memory().transaction().destroy(region)
        {
            tracing::warn!(%error, "pvpanic-pci");
        }
    }
}

#[cfg(test)]
mod tests;
