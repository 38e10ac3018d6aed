//! Devices and machines: everything the guest sees.
//!
//! | room | what |
//! | --- | --- |
//! | [`core`] | devices, buses, the machine and its life |
//! | [`pci`] | configuration space, BARs, MSI-X, root buses |
//! | [`isa`], [`acpi`] | south bridges and devices with fixed ports |
//! | [`mod@char`] | serial ports |
//! | [`virtio`] | queues, the PCI transport |
//! | [`mem`] | memory devices, virtio-mem |
//! | `dump` | the guest's memory as a core file |
//! | [`input`] | what people type |
//! | [`inspect`] | the guest's memory and registers, for people |
//! | [`i386`] | the boards `pc`, `q35` and `none` |

pub mod acpi;
pub mod char;
pub mod commands;
pub mod core;
mod dump;
pub mod i386;
pub mod input;
pub mod inspect;
pub mod isa;
pub mod mem;
pub mod migration;
pub mod pci;
pub mod states;
#[cfg(test)]
mod testing;
pub mod trace_events;
pub mod virtio;

/// Registers every class of this crate.
pub fn register(registry: &mut qom::Registry) {
    core::register(registry);
    pci::register(registry);
    acpi::register(registry);
    isa::register(registry);
    char::register(registry);
    virtio::register(registry);
    mem::register(registry);
    i386::register(registry);
}
