//! `virtio-mem-pci`: the proxy, which has every property of the device behind it.

use std::sync::Arc;

use qapi::Error;
use qom::{Class, ObjectRef, Property, Registry, TypeInfo};

use super::device::VirtioMem;
use crate::core::{Category, Device, DeviceClass, Machine};
use crate::mem::{MemoryDevice, MemoryDevicePlug};
use crate::pci::PciState;
use crate::virtio::pci::{BackendPci, PciBackend, ProxyClass};

/// One for the configuration, one for the queue.
const DEFAULT_VECTORS: u32 = 2;

/// The proxy of a virtio-mem device.
pub type VirtioMemPci = BackendPci<VirtioMem>;

impl PciBackend for VirtioMem {
    type Own = ();
    const HAS_LEGACY: bool = false;

    fn create(class: &Arc<Class>) -> Arc<Self> {
        Self::new(class)
    }

    fn default_vectors(&self, _machine: &Machine, (): &()) -> u32 {
        DEFAULT_VECTORS
    }

    fn proxy_realized(&self, pci: &PciState) {
        self.name_block(pci.address_text().as_deref());
    }
}

/// The class `virtio-mem-pci`.
pub(super) fn class(registry: &Registry) -> TypeInfo {
    let device = DeviceClass::on("PCI")
        .category(Category::Misc)
        .plugged_by(Arc::new(MemoryDevicePlug))
        .hide(&["requested-size"]);
    ProxyClass {
        name: "virtio-mem-pci",
        parent: "virtio-md-pci",
        backend: "virtio-mem",
        child_type: "child<virtio-mem>",
        without: &[],
        vectors: None,
        own: vec![(usize::MAX, requested_size())],
        device,
    }
    .info::<VirtioMem>(registry)
    .cast::<VirtioMemPci, dyn MemoryDevice>(|d| Arc::clone(d.backend()) as Arc<dyn MemoryDevice>)
}

/// The device's property, but not while a `device_del` waits for the guest: it could plug memory before it lets go.
fn requested_size() -> Property {
    Property::new("requested-size", "size")
        .live()
        .get(|proxy: &VirtioMemPci| (Arc::clone(proxy.backend()) as ObjectRef).get("requested-size"))
        .set(|proxy: &VirtioMemPci, value, name| {
            if proxy.dev().unplug_pending() {
                return Err(Error::generic(format!(
                    "'{name}' cannot be changed if the device is in the process of unplug"
                )));
            }
            (Arc::clone(proxy.backend()) as ObjectRef).set(name, value)
        })
}
