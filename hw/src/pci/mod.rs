//! PCI: configuration space, BARs, MSI-X, interrupt pins, the root buses of the boards.
//!
//! A device is a struct with a [`PciState`], implements [`PciDevice`], and is declared with [`pci_device!`](crate::pci_device).
//! Left out: bridges and root ports, SR-IOV, power management, AER, option ROMs.

pub mod bar;
pub mod bus;
pub mod config;
pub mod device;
pub mod host;
pub mod info;
pub mod msix;
pub mod properties;

pub use bar::{Bar, BarKind};
pub use bus::{IntxRouter, PciBus};
pub use config::{ConfigSpace, PciInfo};
pub use device::{PciDevice, PciState};
pub use msix::{Msix, MsixLayout};
pub use properties::addr_text;

/// Registers bus classes and the abstract class `pci-device`.
pub fn register(registry: &mut qom::Registry) {
    bus::register(registry);
    registry.register(qom::TypeInfo::new("pci-device").parent("device").properties(properties::all()));
}
