//! `virtio-mem-pci`: the proxy, which has every property of the device behind it.

use std::sync::Arc;

use qapi::{Error, Result};
use qom::{Class, ObjectRef, Property, TypeInfo};

use super::device::VirtioMem;
use crate::core::{Category, Device, DeviceClass, Machine, ResetKind};
use crate::mem::{MemoryDevice, MemoryDevicePlug};
use crate::pci::{PciDevice, PciInfo, PciState};
use crate::virtio::VirtioBackend;
use crate::virtio::pci::{Proxy, VirtioPci, leading_properties};

/// PCI class of a device that is of no other class.
const PCI_CLASS_OTHERS: u16 = 0x00ff;
/// One for the configuration, one for the queue.
const DEFAULT_VECTORS: u32 = 2;

/// The proxy of a virtio-mem device.
pub struct VirtioMemPci {
    virtio: VirtioPci,
    mem: Arc<VirtioMem>,
}
crate::pci_device!(VirtioMemPci, virtio.pci);

impl VirtioMemPci {
    fn new(class: &Arc<Class>, backend: &Arc<Class>, bus: &Arc<Class>) -> Arc<Self> {
        let mem = VirtioMem::new(backend);
        let proxy = Arc::new(Self { virtio: VirtioPci::new(class), mem: Arc::clone(&mem) });
        let device: Arc<dyn Device> = Arc::clone(&proxy) as Arc<dyn Device>;
        VirtioPci::adopt(&device, mem, bus).expect("a new object has no children yet");
        proxy
    }

    /// The device behind it.
    pub fn mem(&self) -> &Arc<VirtioMem> {
        &self.mem
    }

    fn backend(&self) -> Arc<dyn VirtioBackend> {
        Arc::clone(&self.mem) as Arc<dyn VirtioBackend>
    }
}

impl PciDevice for VirtioMemPci {
    fn pci(&self) -> &PciState {
        &self.virtio.pci
    }

    fn pci_info(&self) -> PciInfo {
        VirtioPci::info(&*self.mem, PCI_CLASS_OTHERS)
    }

    fn pci_realize(self: Arc<Self>, machine: &Arc<Machine>) -> Result<()> {
        let proxy: Arc<dyn PciDevice> = Arc::clone(&self) as Arc<dyn PciDevice>;
        self.virtio.realize(&proxy, &self.backend(), machine, DEFAULT_VECTORS)?;
        self.mem.name_block(self.virtio.pci.address_text().as_deref());
        Ok(())
    }

    fn pci_unrealize(self: Arc<Self>, machine: &Arc<Machine>) {
        self.virtio.unrealize(&self.backend(), machine);
    }

    fn pci_reset(&self, _kind: ResetKind) {
        self.virtio.reset();
    }

    fn config_read(&self, offset: u16, size: u8) -> Option<u32> {
        self.virtio.config_read(offset, size)
    }

    fn config_written(&self, offset: u16, size: u8, value: u32) {
        self.virtio.config_written(offset, size, value);
    }
}

impl Proxy for VirtioMemPci {
    fn virtio(&self) -> &VirtioPci {
        &self.virtio
    }
}

/// The class `virtio-mem-pci`; `backend` is the class `virtio-mem`, `bus` the class of the bus between.
pub(super) fn class(backend: &Arc<Class>, bus: &Arc<Class>) -> TypeInfo {
    let aliases = backend
        .properties()
        .into_iter()
        .filter(|p| {
            !["realized", "hotplugged", "hotpluggable", "parent_bus", "requested-size"].contains(&p.name())
        })
        .map(|p| Property::alias(p, |proxy: &VirtioMemPci| Some(Arc::clone(&proxy.mem) as ObjectRef)))
        .collect::<Vec<_>>();
    let (backend, bus) = (Arc::clone(backend), Arc::clone(bus));
    TypeInfo::new("virtio-mem-pci")
        .parent("virtio-md-pci")
        .instance(move |class| VirtioMemPci::new(class, &backend, &bus))
        .properties(leading_properties())
        .properties(aliases)
        .property(requested_size())
        .property(
            Property::new("virtio-backend", "child<virtio-mem>")
                .get(|proxy: &VirtioMemPci| Ok((Arc::clone(&proxy.mem) as ObjectRef).path().into())),
        )
        .cast::<VirtioMemPci, dyn Device>(|d| d)
        .cast::<VirtioMemPci, dyn PciDevice>(|d| d)
        .cast::<VirtioMemPci, dyn Proxy>(|d| d)
        .cast::<VirtioMemPci, dyn MemoryDevice>(|d| Arc::clone(&d.mem) as Arc<dyn MemoryDevice>)
        .extension(
            DeviceClass::on("PCI")
                .category(Category::Misc)
                .plugged_by(Arc::new(MemoryDevicePlug))
                .hide(&["requested-size"]),
        )
}

/// The device's property, but not while a `device_del` waits for the guest: it could plug memory before it lets go.
fn requested_size() -> Property {
    Property::new("requested-size", "size")
        .live()
        .get(|proxy: &VirtioMemPci| (Arc::clone(&proxy.mem) as ObjectRef).get("requested-size"))
        .set(|proxy: &VirtioMemPci, value, name| {
            if proxy.dev().unplug_pending() {
                return Err(Error::generic(format!(
                    "'{name}' cannot be changed if the device is in the process of unplug"
                )));
            }
            (Arc::clone(&proxy.mem) as ObjectRef).set(name, value)
        })
}
