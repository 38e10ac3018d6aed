//! Where RAM, memory devices and the 64-bit PCI window lie in the physical address space. Pure arithmetic.

use qapi::{Error, Result};

use crate::core::config::MemorySizes;
use crate::core::machine_types::{Board, MachineType};

const GIB: u64 = 1 << 30;
const FOUR_GIB: u64 = 4 * GIB;
/// Start of the HyperTransport area of AMD processors, 1012 GiB.
pub const AMD_HT_START: u64 = 0xfd_0000_0000;
/// Where memory goes that would run into it.
const ABOVE_HT: u64 = 1 << 40;
/// Physical address bits with which it can be reached.
const AMD_HT_BITS: u32 = 40;
/// Pages that KVM takes for real mode on Intel processors: page tables and a task state segment.
pub const KVM_PAGES: (u64, u64) = (0xfeff_c000, 0x4000);
/// DIMM slots at most.
const MAX_SLOTS: u64 = 256;

/// What decides the layout besides the sizes.
#[derive(Debug, Clone, Copy)]
pub struct Constraints {
    /// `max-ram-below-4g`, 0 for the board's choice.
    pub max_ram_below_4g: u64,
    /// Physical address bits of the processor.
    pub phys_bits: u32,
    /// Whether the processor is an AMD one.
    pub amd: bool,
}

impl Constraints {
    /// Addresses that are no memory's whatever the layout: (start, size). `kvm`: whether KVM runs the guest.
    pub fn reserved(&self, kind: &MachineType, kvm: bool) -> Vec<(u64, u64)> {
        let mut list = Vec::new();
        if kvm {
            list.push(KVM_PAGES);
        }
        if self.amd && kind.moves_for_amd_hole() && self.phys_bits >= AMD_HT_BITS {
            list.push((AMD_HT_START, ABOVE_HT - AMD_HT_START));
        }
        list
    }
}

/// The result; all in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// RAM from address 0.
    pub below_4g: u64,
    /// Where the rest of RAM starts.
    pub above_4g_start: u64,
    /// RAM there.
    pub above_4g: u64,
    /// Start and size of the area for memory devices.
    pub device_memory: Option<(u64, u64)>,
    /// Start and size of the 64-bit PCI window.
    pub pci_hole64: (u64, u64),
}

impl Layout {
    /// Lays out a board of type `kind`.
    ///
    /// # Errors
    /// QEMU's texts about slots, alignment and the address space limit.
    pub fn new(kind: &MachineType, sizes: &MemorySizes, limits: &Constraints) -> Result<Self> {
        if sizes.max > sizes.ram && sizes.slots > MAX_SLOTS {
            return Err(Error::generic(format!("unsupported amount of memory slots: {}", sizes.slots)));
        }
        if sizes.max > sizes.ram && !sizes.max.is_multiple_of(4096) {
            return Err(Error::generic("maximum memory size must by aligned to multiple of 4096 bytes"));
        }
        let below_4g = sizes.ram.min(low_memory(kind.board, sizes.ram, limits.max_ram_below_4g));
        let at = |start| Self::place(kind.board, sizes, below_4g, start);
        let mut layout = at(FOUR_GIB)?;
        if limits.amd && kind.moves_for_amd_hole() && layout.last() >= AMD_HT_START {
            layout = at(ABOVE_HT)?;
        }
        let limit = if limits.phys_bits >= 64 { u64::MAX } else { (1 << limits.phys_bits) - 1 };
        if limit < layout.last() {
            return Err(Error::generic(format!(
                "Address space limit {limit:#x} < {:#x} phys-bits too low ({})",
                layout.last(),
                limits.phys_bits
            )));
        }
        Ok(layout)
    }

    fn place(board: Board, sizes: &MemorySizes, below_4g: u64, above_4g_start: u64) -> Result<Self> {
        let huge = || Error::generic("memory does not fit into the address space");
        let above_4g = sizes.ram - below_4g;
        let align = |a: u64| a.checked_next_multiple_of(GIB).ok_or_else(huge);
        let end = above_4g_start.checked_add(above_4g).ok_or_else(huge)?;
        // A microvm may be told of more memory, but has no place for it.
        let (device_memory, end) = if sizes.max > sizes.ram && board != Board::Microvm {
            let base = align(end)?;
            let slots = sizes.slots.checked_mul(GIB).ok_or_else(huge)?;
            let size = (sizes.max - sizes.ram).checked_add(slots).ok_or_else(huge)?;
            (Some((base, size)), base.checked_add(size).ok_or_else(huge)?)
        } else {
            (None, end)
        };
        let size = if board == Board::Q35 { 32 * GIB } else { 2 * GIB };
        let start = align(end)?;
        start.checked_add(size).ok_or_else(huge)?;
        Ok(Self { below_4g, above_4g_start, above_4g, device_memory, pci_hole64: (start, size) })
    }

    /// The last address in use.
    pub fn last(&self) -> u64 {
        self.pci_hole64.0 + (self.pci_hole64.1 - 1)
    }
}

/// How much RAM may lie below 4 GiB.
fn low_memory(board: Board, ram: u64, max_below: u64) -> u64 {
    match board {
        Board::Q35 => {
            let low = if ram >= 0xb000_0000 { 0x8000_0000 } else { 0xb000_0000 };
            if max_below == 0 { low } else { low.min(max_below) }
        }
        Board::I440fx => {
            let low = if max_below == 0 { 0xe000_0000 } else { max_below };
            if ram >= low { low.min(0xc000_0000) } else { low }
        }
        Board::Microvm => 0xc000_0000,
        Board::None => u64::MAX,
    }
}

#[cfg(test)]
mod tests;
