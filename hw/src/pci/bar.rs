//! Base address registers (PCI 3.0 §6.2.5): what they decode, and where that is mapped.

use memory::RegionId;

use super::config::{COMMAND_IO, COMMAND_MEMORY, ConfigSpace, reg};

/// What a BAR decodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BarKind {
    /// Ports.
    Io,
    /// Memory below 4 GiB.
    Memory32,
    /// Memory anywhere; takes the next register too.
    Memory64 {
        /// May be read ahead.
        prefetch: bool,
    },
}

impl BarKind {
    fn type_bits(self) -> u32 {
        match self {
            Self::Io => 1,
            Self::Memory32 => 0,
            Self::Memory64 { prefetch: false } => 4,
            Self::Memory64 { prefetch: true } => 0xc,
        }
    }
}

/// One BAR.
#[derive(Debug, Clone)]
pub struct Bar {
    /// Number of its (first) register, 0 to 5.
    pub index: u8,
    /// What it decodes.
    pub kind: BarKind,
    /// Bytes, a power of two.
    pub size: u64,
    /// What is mapped.
    pub region: RegionId,
    /// Where it is mapped now.
    pub mapped: Option<u64>,
}

impl Bar {
    /// Offset of the register.
    pub fn offset(&self) -> u16 {
        reg::BAR0 + 4 * u16::from(self.index)
    }

    /// A multiple of this is where it may start: the register has bits of its own at the bottom, however small the BAR.
    pub fn align(&self) -> u64 {
        self.size.max(if self.kind == BarKind::Io { 4 } else { 16 })
    }

    /// Registers taken.
    pub fn registers(&self) -> u8 {
        if matches!(self.kind, BarKind::Memory64 { .. }) { 2 } else { 1 }
    }

    /// Sets type bits and write mask of the register.
    pub fn install(&self, config: &mut ConfigSpace) {
        let mask = !(self.size - 1);
        match self.kind {
            BarKind::Io => config.set_writable(self.offset(), &((mask & 0xffff_fffc) as u32).to_le_bytes()),
            BarKind::Memory32 => config.set_writable(self.offset(), &(mask as u32).to_le_bytes()),
            BarKind::Memory64 { .. } => config.set_writable(self.offset(), &mask.to_le_bytes()),
        }
        config.set_checked(self.offset(), &[0xff; 8][..4 * usize::from(self.registers())]);
        self.clear(config);
    }

    /// Power-on value of the register.
    pub fn clear(&self, config: &mut ConfigSpace) {
        config.set32(self.offset(), self.kind.type_bits());
        if self.registers() == 2 {
            config.set32(self.offset() + 4, 0);
        }
    }

    /// The address in the register, type bits masked.
    pub fn raw_address(&self, config: &ConfigSpace) -> u64 {
        let low = config.get32(self.offset());
        match self.kind {
            BarKind::Io => u64::from(low & !3),
            // Its type bits are zeros; if it has less than 16 bytes, the upper ones of them belong to the address, as in QEMU.
            BarKind::Memory32 => u64::from(low),
            BarKind::Memory64 { .. } => {
                u64::from(low & !0xf) | u64::from(config.get32(self.offset() + 4)) << 32
            }
        }
    }

    /// Writes an address as firmware does.
    pub fn assign(&self, config: &mut ConfigSpace, address: u64) {
        config.write(self.offset(), 4, address as u32);
        if self.registers() == 2 {
            config.write(self.offset() + 4, 4, (address >> 32) as u32);
        }
    }

    /// Where it should be mapped: nowhere while decoding is off, at address 0, or where it would leave its space.
    pub fn decoded(&self, config: &ConfigSpace) -> Option<u64> {
        let (enable, limit) = match self.kind {
            BarKind::Io => (COMMAND_IO, 0xffff),
            // The last page of 32-bit space is what sizing leaves in the register.
            BarKind::Memory32 => (COMMAND_MEMORY, 0xffff_fffe),
            BarKind::Memory64 { .. } => (COMMAND_MEMORY, u64::MAX - 1),
        };
        if config.command() & enable == 0 {
            return None;
        }
        let address = self.raw_address(config) & !(self.size - 1);
        let last = address.checked_add(self.size - 1)?;
        (address != 0 && last <= limit).then_some(address)
    }
}
