//! Virtio devices: transport-independent state, split and packed queues, the modern PCI transport, and registers in memory.
//!
//! Specification: virtio 1.3. A device is two halves: a back end ([`VirtioDevice`], as `virtio-mem`) that knows what
//! requests mean, and a proxy ([`pci`], [`mmio`]) that owns registers, rings and interrupts. The proxy's lock comes before the
//! back end's; the back end tells the proxy of changes through a [`Notifier`] after it let go of its own. A back end may have a
//! [`RingServer`] serve its rings elsewhere ([`vhost`]).
//!
//! Left out: legacy and transitional PCI devices.

mod backend;
pub(crate) mod balloon;
mod device;
pub mod features;
pub mod migration;
pub mod mmio;
mod net;
pub mod pci;
pub mod query;
pub mod ring;
mod ring_server;
mod rng;
mod serial;
pub mod state;
#[cfg(test)]
pub(crate) mod testing;
pub mod transport;
pub(crate) mod vhost;

pub use backend::{GenericProperties, VirtioBackend, VirtioCommon, generic_properties};
pub use device::{Notifier, NotifierSlot, Outcome, Violation, VirtioDevice};
pub use ring_server::{Done, RingServer, RingServerStatus, RingSetup, RingStart};

/// Locks what is assigned whole, so that whoever panicked with the lock held left nothing torn.
pub(crate) fn unpoisoned<T>(lock: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Registers the abstract classes and the buses of virtio.
pub fn register(registry: &mut qom::Registry) {
    registry.register(backend::class());
    pci::register(registry);
    mmio::register(registry);
    vhost::register(registry);
    balloon::register(registry);
    net::register(registry);
    rng::register(registry);
    serial::register(registry);
}
