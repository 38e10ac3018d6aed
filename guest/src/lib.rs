//! The built-in guest: what runs on the vCPU when no `-kernel` is given.
//!
//! Two drivers, three users. Everything the drivers touch goes through [`Bus`]:
//!
//! - the bare-metal program (`src/bare/`, exported as `IMAGE`) runs on a KVM vCPU and implements `Bus` with
//!   port instructions and pointers;
//! - the `sim` accelerator implements it with calls into the address spaces and calls [`program::run`] on a host thread
//!   ("hosted"). Memory goes through [`Bus::ram_read`] and [`Bus::ram_write`], so `touch=` works hosted as well;
//! - tests implement it over qtest, or with a model device, and use [`pci`], [`virtio`], [`mem`] and [`blk`] directly.
//!
//! Specifications: virtio 1.3 (§2.7 split queues, §4.1 PCI transport, §5.2 block device, §5.15 memory device), PCI 3.0 configuration
//! mechanism 1, the Xen PVH boot protocol (`hvm_start_info` version 1), 16550 UART.
//!
//! Left out: virtio packed rings, indirect descriptors, assigning PCI BARs (the board or the firmware does that), more
//! than one vCPU, suspending.
//!
//! ```
//! // Sizes as the serial commands take them.
//! assert_eq!(guest::text::parse_number("512M"), Some(512 << 20));
//! assert_eq!(guest::text::parse_number("0x1000"), Some(4096));
//! ```
#![no_std]

#[cfg(test)]
extern crate std;

pub mod arena;
pub mod blk;
pub mod bus;
pub mod mem;
pub mod pci;
pub mod program;
pub mod rng;
pub mod start_info;
#[cfg(test)]
mod testing;
pub mod text;
pub mod timer;
pub mod virtio;

pub use bus::{Bus, MsiMessage};
pub use start_info::StartInfo;

/// The bare-metal program: a static ELF64 linked at 1 MiB with a PVH note (`XEN_ELFNOTE_PHYS32_ENTRY`).
///
/// The board copies its `PT_LOAD` segments to their physical addresses at start **and at every reset**, and enters it as
/// `docs/architecture.md`, "Contract: guest", says.
#[cfg(feature = "image")]
pub static IMAGE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/guest.elf"));
