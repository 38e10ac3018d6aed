//! Memory devices: where they go, how they are plugged, and the kinds there are.
//!
//! - [`placement`] and [`memslots`] are pure: addresses, and in how many pieces memory is mapped;
//! - [`MemoryDevice`] is a device with memory, [`MemoryDevices`] the list of a machine's, [`MemoryDevicePlug`] the
//!   machine's part in plugging one;
//! - [`slot_plan`] sees to it that every part of a device's memory finds a slot wherever it needs one;
//! - [`virtio_mem`], [`virtio_pmem`] and [`pc_dimm`] are the kinds there are.
//!
//! Left out: `nvdimm`.

mod device;
pub mod memslots;
pub mod pc_dimm;
pub mod placement;
mod plug;
pub mod slot_plan;
mod unplugged;
pub mod virtio_mem;
pub mod virtio_pmem;

use qom::TypeInfo;

pub use device::{Frozen, MemoryDevice, MemoryDevices, SlotUse};
pub use plug::MemoryDevicePlug;
pub use slot_plan::{SlotPlan, SlotUser};
pub use unplugged::OnAccess;

/// Registers the memory devices.
pub fn register(registry: &mut qom::Registry) {
    // What is on PCI has the machine's part in plugging from its proxy.
    registry.register(TypeInfo::new("virtio-md-pci").parent("virtio-pci").interface("memory-device"));
    virtio_mem::register(registry);
    virtio_pmem::register(registry);
    pc_dimm::register(registry);
}
