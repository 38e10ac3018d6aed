//! Virtio over PCI (virtio 1.3 §4.1), modern devices only.
//!
//! - [`windows`] are the registers of the [`Transport`](super::transport::Transport), which has the rings, notifications and interrupts;
//! - [`VirtioPci`] is the proxy's place in the device tree: properties, capabilities, BARs.
//!
//! Left out: legacy and transitional devices, ATS. Behind a port a device has the structures of PCI Express.

mod express;
mod generic;
mod proxy;
mod windows;

pub use generic::{BackendPci, PCI_CLASS_OTHERS, PciBackend, ProxyClass, register_with_modern};
pub use proxy::{Proxy, VirtioPci, leading_properties};

/// Registers `virtio-bus`, `virtio-pci-bus` and `virtio-pci`.
pub(super) fn register(registry: &mut qom::Registry) {
    proxy::register(registry);
}
