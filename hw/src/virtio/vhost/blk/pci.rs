//! `vhost-user-blk-pci`: the proxy, which has every property of the device behind it.

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering::Relaxed};

use qapi::{Result, Value};
use qom::{Class, ObjectRef, Property, TypeInfo};

use super::VhostUserBlk;
use crate::core::{Category, Device, DeviceClass, Machine, ResetKind};
use crate::pci::{PciDevice, PciInfo, PciState};
use crate::virtio::VirtioBackend;
use crate::virtio::pci::{Proxy, VirtioPci, leading_properties};

/// PCI class of a disk controller without a class of its own.
const PCI_CLASS_STORAGE_SCSI: u16 = 0x0100;
/// `bootindex` when none was given.
const NO_BOOT_INDEX: i32 = -1;

/// The proxy of a disk.
pub(in crate::virtio) struct VhostUserBlkPci {
    virtio: VirtioPci,
    blk: Arc<VhostUserBlk>,
    /// PCI class instead of the usual one; 0: the usual one.
    class: AtomicU32,
    /// Kept for whoever asks: there is no firmware that would boot from the disk.
    boot_index: AtomicI32,
}
crate::pci_device!(VhostUserBlkPci, virtio.pci);

impl VhostUserBlkPci {
    fn new(class: &Arc<Class>, backend: &Arc<Class>, bus: &Arc<Class>) -> Arc<Self> {
        let blk = VhostUserBlk::new(backend);
        let proxy = Arc::new(Self {
            virtio: VirtioPci::new(class),
            blk: Arc::clone(&blk),
            class: AtomicU32::new(0),
            boot_index: AtomicI32::new(NO_BOOT_INDEX),
        });
        let device: Arc<dyn Device> = Arc::clone(&proxy) as Arc<dyn Device>;
        VirtioPci::adopt(&device, blk, bus).expect("a new object has no children yet");
        proxy
    }

    fn backend(&self) -> Arc<dyn VirtioBackend> {
        Arc::clone(&self.blk) as Arc<dyn VirtioBackend>
    }
}

impl PciDevice for VhostUserBlkPci {
    fn pci(&self) -> &PciState {
        &self.virtio.pci
    }

    fn pci_info(&self) -> PciInfo {
        let class = match u16::try_from(self.class.load(Relaxed)) {
            Ok(class) if class != 0 => class,
            _ => PCI_CLASS_STORAGE_SCSI,
        };
        VirtioPci::info(&*self.blk, class)
    }

    fn pci_realize(self: Arc<Self>, machine: &Arc<Machine>) -> Result<()> {
        let proxy: Arc<dyn PciDevice> = Arc::clone(&self) as Arc<dyn PciDevice>;
        let queues = self.blk.settle_queues(machine.smp().cpus);
        // One for the configuration, one for each queue.
        self.virtio.realize(&proxy, &self.backend(), machine, u32::from(queues) + 1)
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

impl Proxy for VhostUserBlkPci {
    fn virtio(&self) -> &VirtioPci {
        &self.virtio
    }
}

/// The properties in front, without `ioeventfd`: rings that are served elsewhere always have one.
fn own_properties() -> Vec<Property> {
    let mut properties: Vec<_> =
        leading_properties().into_iter().filter(|property| property.name() != "ioeventfd").collect();
    let class = Property::new("class", "uint32")
        .default(0u64)
        .get(|d: &VhostUserBlkPci| Ok(u64::from(d.class.load(Relaxed)).into()))
        .set(|d: &VhostUserBlkPci, value, name| {
            // In range: the setter refuses more bits.
            d.class.store(value.to_uint(name, 32)? as u32, Relaxed);
            Ok(())
        });
    properties.insert(2, class);
    properties.push(
        Property::new("bootindex", "int32")
            .get(|d: &VhostUserBlkPci| Ok(Value::Int(d.boot_index.load(Relaxed).into())))
            .set(|d: &VhostUserBlkPci, value, name| {
                let index = value.to_uint(name, 32)?;
                d.boot_index.store(index.cast_signed() as i32, Relaxed);
                Ok(())
            }),
    );
    properties
}

/// The class `vhost-user-blk-pci`; `backend` is the class `vhost-user-blk`, `bus` the class of the bus between.
pub(super) fn class(backend: &Arc<Class>, bus: &Arc<Class>) -> TypeInfo {
    let aliases = backend
        .properties()
        .into_iter()
        .filter(|p| !["realized", "hotplugged", "hotpluggable", "parent_bus"].contains(&p.name()))
        .map(|p| Property::alias(p, |proxy: &VhostUserBlkPci| Some(Arc::clone(&proxy.blk) as ObjectRef)))
        .collect::<Vec<_>>();
    let (backend, bus) = (Arc::clone(backend), Arc::clone(bus));
    TypeInfo::new("vhost-user-blk-pci")
        .parent("virtio-pci")
        .instance(move |class| VhostUserBlkPci::new(class, &backend, &bus))
        .properties(own_properties())
        .properties(aliases)
        .property(
            Property::new("virtio-backend", "child<vhost-user-blk>")
                .get(|proxy: &VhostUserBlkPci| Ok((Arc::clone(&proxy.blk) as ObjectRef).path().into())),
        )
        .cast::<VhostUserBlkPci, dyn Device>(|d| d)
        .cast::<VhostUserBlkPci, dyn PciDevice>(|d| d)
        .cast::<VhostUserBlkPci, dyn Proxy>(|d| d)
        .extension(DeviceClass::on("PCI").category(Category::Storage).hide(&["bootindex"]))
}
