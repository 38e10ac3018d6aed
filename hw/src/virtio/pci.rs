//! Virtio over PCI (virtio 1.3 §4.1), modern devices only.
//!
//! - [`common`] is the common configuration structure, registers to state and back;
//! - [`Transport`] is a realized device: rings, notifications, interrupts;
//! - [`VirtioPci`] is the proxy's place in the device tree: properties, capabilities, BARs.
//!
//! Left out: legacy and transitional devices, ATS. Behind a port a device has the structures of PCI Express.

pub mod common;
mod express;
mod external;
mod generic;
mod kicks;
mod linger;
mod proxy;
mod stop;
mod transport;
mod turns;

pub use generic::{BackendPci, PCI_CLASS_OTHERS, PciBackend, ProxyClass};
pub(super) use kicks::Doorbells;
pub use proxy::{Proxy, VirtioPci, leading_properties};
pub(super) use stop::follow_run_state;
pub use transport::Transport;
pub(super) use transport::{Parts, Wiring};

/// Registers `virtio-bus`, `virtio-pci-bus` and `virtio-pci`.
pub(super) fn register(registry: &mut qom::Registry) {
    proxy::register(registry);
}
