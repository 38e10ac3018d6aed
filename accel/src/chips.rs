//! What interrupt controllers hold, for people who look for an interrupt that does not come.
//!
//! Intel SDM volume 3, chapter 12 (local APIC), Intel 8259A and 82093AA data sheets. Registers as they are; what they mean is
//! for whoever shows them.

/// A local APIC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LocalApic {
    /// Registers, by their offset in the APIC's page over 16.
    pub registers: [u32; 64],
    /// Whether the vCPU knows the mode with 32-bit identities.
    pub x2apic: bool,
}

impl LocalApic {
    /// The register at `offset` bytes; 0 where there is none.
    #[must_use]
    pub fn register(&self, offset: u32) -> u32 {
        self.registers.get(offset as usize / 16).copied().unwrap_or(0)
    }

    /// Bit `vector` of eight registers from `offset` on: in service (100h), trigger mode (180h), requested (200h).
    #[must_use]
    pub fn vector(&self, offset: u32, vector: u8) -> bool {
        self.register(offset + u32::from(vector / 32) * 16) >> (vector % 32) & 1 != 0
    }
}

/// One of the two 8259A.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pic {
    /// Requested.
    pub irr: u8,
    /// Masked.
    pub imr: u8,
    /// In service.
    pub isr: u8,
    /// The input with the highest priority.
    pub priority: u8,
    /// Vector of input 0.
    pub base: u8,
    /// Whether the next read gives `isr`, not `irr`.
    pub read_isr: bool,
    /// Inputs that are level triggered.
    pub elcr: u8,
    /// Special fully nested mode.
    pub fully_nested: bool,
}

/// An IOAPIC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct IoApic {
    /// Identity.
    pub id: u8,
    /// Version of the chip that is modelled.
    pub version: u8,
    /// The register that is selected.
    pub select: u8,
    /// Inputs that are requested.
    pub irr: u32,
    /// Redirection table.
    pub pins: [u64; 24],
}

/// The controllers of a board.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Chips {
    /// Master and slave.
    pub pics: [Pic; 2],
    /// The one IOAPIC.
    pub ioapic: IoApic,
}
