//! `vhost-user-blk-pci`: the proxy, which has every property of the device behind it.

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering::Relaxed};

use qapi::Value;
use qom::{Class, Property, Registry, TypeInfo};

use super::VhostUserBlk;
use crate::core::{Category, DeviceClass, Machine};
use crate::virtio::pci::{BackendPci, PciBackend, ProxyClass};

/// PCI class of a disk controller without a class of its own.
const PCI_CLASS_STORAGE_SCSI: u16 = 0x0100;
/// `bootindex` when none was given.
const NO_BOOT_INDEX: i32 = -1;

/// The proxy of a disk.
pub(in crate::virtio) type VhostUserBlkPci = BackendPci<VhostUserBlk>;

/// What the proxy has in addition.
pub(in crate::virtio) struct Own {
    /// PCI class instead of the usual one; 0: the usual one.
    class: AtomicU32,
    /// Kept for whoever asks: there is no firmware that would boot from the disk.
    boot_index: AtomicI32,
}

impl Default for Own {
    fn default() -> Self {
        Self { class: AtomicU32::new(0), boot_index: AtomicI32::new(NO_BOOT_INDEX) }
    }
}

impl PciBackend for VhostUserBlk {
    type Own = Own;
    const HAS_LEGACY: bool = false;

    fn create(class: &Arc<Class>) -> Arc<Self> {
        Self::new(class)
    }

    fn pci_class(&self, own: &Own) -> u16 {
        match u16::try_from(own.class.load(Relaxed)) {
            Ok(class) if class != 0 => class,
            _ => PCI_CLASS_STORAGE_SCSI,
        }
    }

    fn default_vectors(&self, machine: &Machine, _own: &Own) -> u32 {
        // One for the configuration, one for each queue.
        u32::from(self.settle_queues(machine.smp().cpus)) + 1
    }
}

/// The properties of its own, in front and behind.
fn own_properties() -> Vec<(usize, Property)> {
    let class = Property::new("class", "uint32")
        .default(0u64)
        .get(|d: &VhostUserBlkPci| Ok(u64::from(d.own().class.load(Relaxed)).into()))
        .set(|d: &VhostUserBlkPci, value, name| {
            // In range: the setter refuses more bits.
            d.own().class.store(value.to_uint(name, 32)? as u32, Relaxed);
            Ok(())
        });
    let boot_index = Property::new("bootindex", "int32")
        .get(|d: &VhostUserBlkPci| Ok(Value::Int(d.own().boot_index.load(Relaxed).into())))
        .set(|d: &VhostUserBlkPci, value, name| {
            let index = value.to_uint(name, 32)?;
            d.own().boot_index.store(index.cast_signed() as i32, Relaxed);
            Ok(())
        });
    vec![(2, class), (usize::MAX, boot_index)]
}

/// The class `vhost-user-blk-pci`.
pub(super) fn class(registry: &Registry) -> TypeInfo {
    ProxyClass {
        name: "vhost-user-blk-pci",
        parent: "virtio-pci",
        backend: "vhost-user-blk",
        child_type: "child<vhost-user-blk>",
        // Rings that are served elsewhere always have event descriptors.
        without: &["ioeventfd"],
        vectors: None,
        own: own_properties(),
        device: DeviceClass::on("PCI").category(Category::Storage).hide(&["bootindex"]),
    }
    .info::<VhostUserBlk>(registry)
}
