//! PCI: configuration space, BARs, MSI-X, interrupt pins, the root buses of the boards, bridges and the buses behind them.
//!
//! A device is a struct with a [`PciState`], implements [`PciDevice`], and is declared with [`pci_device!`](crate::pci_device).
//! Left out: SR-IOV, error injection, option ROMs, the standard hot-plug controller (SHPC) of conventional bridges.

pub mod bar;
pub mod bridge;
pub mod bus;
pub mod config;
pub mod device;
pub mod express;
pub mod host;
pub mod info;
pub mod msix;
mod pci_bridge;
pub mod properties;
mod pvpanic;
mod root_port;
pub mod slot;

pub use bar::{Bar, BarKind};
pub use bridge::Bridge;
pub use bus::{IntxRouter, PciBus};
pub use config::{ConfigSpace, PciInfo};
pub use device::{PciDevice, PciDeviceState, PciState};
pub use msix::{Msix, MsixLayout, MsixSource, MsixState};
pub use properties::addr_text;

use crate::core::device::{Category, Device, DeviceClass};

/// A class of functions that are part of the board: made by it alone, never plugged. The caller adds how one is made.
pub(crate) fn chipset_class<T: PciDevice>(name: &'static str) -> qom::TypeInfo {
    let mut class = DeviceClass::internal_on("PCI").category(Category::Bridge);
    class.hotpluggable = false;
    qom::TypeInfo::new(name)
        .parent("pci-device")
        .extension(class)
        .cast::<T, dyn Device>(|d| d)
        .cast::<T, dyn PciDevice>(|d| d)
}

/// Registers bus classes and the abstract class `pci-device`.
pub fn register(registry: &mut qom::Registry) {
    bus::register(registry);
    registry.register(qom::TypeInfo::new("pci-device").parent("device").properties(properties::all()));
    registry.register(qom::TypeInfo::new("base-pci-bridge").parent("pci-device"));
    root_port::register(registry);
    pci_bridge::register(registry);
    pvpanic::register(registry);
}
