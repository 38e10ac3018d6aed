//! virtio-mem (virtio 1.3 §5.15): memory that the guest plugs and unplugs in blocks, up to a size the user requests.
//!
//! Inside out: [`request`] (bytes to requests), [`policy`] (what to do about one), [`sizes`] (formulas), [`unit`] (the
//! memory and what was done with it), and the objects: [`VirtioMem`] behind its bus, [`VirtioMemPci`] its PCI proxy.
//!
//! Left out: migration of its state (a later issue), a size limit by the guest's own wish.

mod device;
mod map;
mod moving;
mod pci;
pub mod policy;
mod properties;
pub mod protection;
mod realize;
pub mod request;
pub mod sizes;
pub mod unit;

use qom::TypeInfo;

pub use device::{F_ACPI_PXM, F_PERSISTENT_SUSPEND, F_UNPLUGGED_INACCESSIBLE, OnOffAuto, VirtioMem};
pub use pci::VirtioMemPci;

use super::MemoryDevice;
use crate::core::{Category, Device, DeviceClass};
use crate::virtio::VirtioBackend;

/// Registers `virtio-mem` and `virtio-mem-pci`.
pub(super) fn register(registry: &mut qom::Registry) {
    registry.register(
        TypeInfo::new("virtio-mem")
            .parent("virtio-device")
            .instance(VirtioMem::new)
            .properties(properties::all())
            .cast::<VirtioMem, dyn Device>(|d| d)
            .cast::<VirtioMem, dyn VirtioBackend>(|d| d)
            .cast::<VirtioMem, dyn MemoryDevice>(|d| d)
            .extension(DeviceClass::on("virtio-bus").category(Category::Misc).hide(properties::HIDDEN)),
    );
    registry.register(pci::class(registry));
}

#[cfg(test)]
mod tests;
