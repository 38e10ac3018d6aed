//! PCI functions over configuration mechanism 1 (ports CF8/CFC; PCI 3.0 §3.2.2.3): finding functions, walking
//! capabilities (§6.7), reading BARs (§6.2.5), MSI-X (§6.8).
//!
//! Left out: ECAM, extended capabilities (above 0xff), assigning BARs and bus numbers.

use crate::bus::{Bus, MsiMessage};

const CONFIG_ADDRESS: u16 = 0xcf8;
const CONFIG_DATA: u16 = 0xcfc;
const COMMAND: u8 = 0x04;
const COMMAND_MEMORY: u16 = 1 << 1;
const COMMAND_MASTER: u16 = 1 << 2;
const STATUS: u8 = 0x06;
const STATUS_CAPABILITIES: u16 = 1 << 4;
const HEADER_TYPE: u8 = 0x0e;
/// The number of the bus behind a bridge (PCI-to-PCI Bridge 1.2 §3.2.5.4).
const SECONDARY_BUS: u8 = 0x19;
const CAPABILITIES: u8 = 0x34;
const CAP_MSIX: u8 = 0x11;
/// A capability list has at most this many entries of 4 bytes; longer ones are loops.
const MAX_CAPS: usize = 48;

/// Bus, device and function number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Function {
    /// Bus number.
    pub bus: u8,
    /// Device number, 0–31.
    pub device: u8,
    /// Function number, 0–7.
    pub function: u8,
}

impl core::fmt::Display for Function {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{:02x}:{:02x}.{}", self.bus, self.device, self.function)
    }
}

/// What cannot be done with a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PciError {
    /// The BAR has no address, is an I/O BAR, or does not exist.
    BarUnassigned(u8),
}

impl core::fmt::Display for PciError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::BarUnassigned(bar) => write!(f, "BAR {bar} is not assigned"),
        }
    }
}

impl Function {
    fn select(self, bus: &mut impl Bus, offset: u8) {
        let address = 1 << 31
            | u32::from(self.bus) << 16
            | u32::from(self.device & 31) << 11
            | u32::from(self.function & 7) << 8
            | u32::from(offset & 0xfc);
        bus.out32(CONFIG_ADDRESS, address);
    }

    /// The number of the bus behind it, if it is a bridge.
    pub fn secondary(self, bus: &mut impl Bus) -> Option<u8> {
        (self.read8(bus, HEADER_TYPE) & 0x7f == 1).then(|| self.read8(bus, SECONDARY_BUS))
    }

    /// Reads a byte of configuration space.
    pub fn read8(self, bus: &mut impl Bus, offset: u8) -> u8 {
        self.select(bus, offset);
        bus.in8(CONFIG_DATA + u16::from(offset & 3))
    }

    /// Reads two bytes of configuration space at an even offset.
    pub fn read16(self, bus: &mut impl Bus, offset: u8) -> u16 {
        self.select(bus, offset);
        bus.in16(CONFIG_DATA + u16::from(offset & 2))
    }

    /// Reads four bytes of configuration space at a multiple of 4.
    pub fn read32(self, bus: &mut impl Bus, offset: u8) -> u32 {
        self.select(bus, offset);
        bus.in32(CONFIG_DATA)
    }

    /// Writes two bytes of configuration space at an even offset.
    pub fn write16(self, bus: &mut impl Bus, offset: u8, value: u16) {
        self.select(bus, offset);
        bus.out16(CONFIG_DATA + u16::from(offset & 2), value);
    }

    /// Writes four bytes of configuration space at a multiple of 4.
    pub fn write32(self, bus: &mut impl Bus, offset: u8, value: u32) {
        self.select(bus, offset);
        bus.out32(CONFIG_DATA, value);
    }

    /// Vendor and device ID, `None` if no function answers.
    pub fn id(self, bus: &mut impl Bus) -> Option<(u16, u16)> {
        let id = self.read32(bus, 0);
        (id & 0xffff != 0xffff && id != 0).then_some((id as u16, (id >> 16) as u16))
    }

    /// Lets the function answer memory accesses, send interrupts and reach RAM.
    pub fn enable(self, bus: &mut impl Bus) {
        let command = self.read16(bus, COMMAND);
        self.write16(bus, COMMAND, command | COMMAND_MEMORY | COMMAND_MASTER);
    }

    /// The address that memory BAR `index` (0–5) was assigned.
    ///
    /// # Errors
    /// [`PciError::BarUnassigned`]; nothing is assigned here.
    pub fn bar(self, bus: &mut impl Bus, index: u8) -> Result<u64, PciError> {
        let unassigned = PciError::BarUnassigned(index);
        if index > 5 {
            return Err(unassigned);
        }
        let low = self.read32(bus, 0x10 + 4 * index);
        if low & 1 != 0 {
            return Err(unassigned);
        }
        let mut address = u64::from(low & !0xf);
        if low & 6 == 4 {
            if index == 5 {
                return Err(unassigned);
            }
            address |= u64::from(self.read32(bus, 0x14 + 4 * index)) << 32;
        }
        if address == 0 { Err(unassigned) } else { Ok(address) }
    }

    /// The capability after the one at `after`, or the first for `None`: (offset, ID).
    fn next_capability(self, bus: &mut impl Bus, after: Option<u8>) -> Option<(u8, u8)> {
        let pointer = match after {
            Some(offset) => self.read8(bus, offset + 1),
            None if self.read16(bus, STATUS) & STATUS_CAPABILITIES == 0 => 0,
            None => self.read8(bus, CAPABILITIES),
        } & 0xfc;
        (pointer >= 0x40).then(|| (pointer, self.read8(bus, pointer)))
    }

    /// Calls `visit` with offset and ID of each capability until it returns true. A list that loops ends after 48.
    pub fn capabilities<B: Bus>(self, bus: &mut B, mut visit: impl FnMut(&mut B, u8, u8) -> bool) {
        let mut at = None;
        for _ in 0..MAX_CAPS {
            let Some((offset, id)) = self.next_capability(bus, at) else { return };
            if visit(bus, offset, id) {
                return;
            }
            at = Some(offset);
        }
    }

    /// The MSI-X capability, if the function has one.
    pub fn msix<B: Bus>(self, bus: &mut B) -> Option<Msix> {
        let mut found = None;
        self.capabilities(bus, |_, offset, id| {
            if id == CAP_MSIX {
                found = Some(offset);
            }
            found.is_some()
        });
        let capability = found?;
        let control = self.read16(bus, capability + 2);
        let table = self.read32(bus, capability + 4);
        let bar = self.bar(bus, (table & 7) as u8).ok()?;
        Some(Msix {
            function: self,
            capability,
            vectors: (control & 0x7ff) + 1,
            table: bar.checked_add(u64::from(table & !7))?,
        })
    }
}

/// A function's MSI-X table.
#[derive(Clone, Copy, Debug)]
pub struct Msix {
    function: Function,
    capability: u8,
    vectors: u16,
    table: u64,
}

impl Msix {
    /// Entries of the table, 1–2048.
    #[must_use]
    pub const fn vectors(&self) -> u16 {
        self.vectors
    }

    /// Fills and unmasks one entry; entries beyond the table are ignored.
    pub fn set(&self, bus: &mut impl Bus, index: u16, message: MsiMessage) {
        if index < self.vectors {
            let entry = self.table.wrapping_add(16 * u64::from(index));
            bus.mmio_write32(entry, message.address as u32);
            bus.mmio_write32(entry.wrapping_add(4), (message.address >> 32) as u32);
            bus.mmio_write32(entry.wrapping_add(8), message.data);
            bus.mmio_write32(entry.wrapping_add(12), 0);
        }
    }

    /// Switches the function between MSI-X and its interrupt pin.
    pub fn enable(&self, bus: &mut impl Bus, on: bool) {
        let control = self.function.read16(bus, self.capability + 2) & !0xc000;
        self.function.write16(bus, self.capability + 2, control | if on { 0x8000 } else { 0 });
    }
}

/// Calls `visit` with every function on bus 0 and behind the bridges the firmware or board numbered: (function, vendor, device).
pub fn scan<B: Bus>(bus: &mut B, mut visit: impl FnMut(&mut B, Function, u16, u16)) {
    // Buses to look at and buses seen, one bit each: a bridge that points back cannot make this endless.
    let (mut todo, mut seen) = ([1u64, 0, 0, 0], [0u64; 4]);
    while let Some(number) = (0..=255u8).find(|n| todo[usize::from(n >> 6)] >> (n & 63) & 1 != 0) {
        let (word, bit) = (usize::from(number >> 6), 1u64 << (number & 63));
        todo[word] &= !bit;
        seen[word] |= bit;
        for device in 0..32 {
            let mut functions = 1;
            let mut index = 0;
            while index < functions {
                let function = Function { bus: number, device, function: index };
                if let Some((vendor, id)) = function.id(bus) {
                    let header = function.read8(bus, HEADER_TYPE);
                    if index == 0 && header & 0x80 != 0 {
                        functions = 8;
                    }
                    if let Some(secondary) = function.secondary(bus) {
                        let (word, bit) = (usize::from(secondary >> 6), 1u64 << (secondary & 63));
                        todo[word] |= bit & !seen[word];
                    }
                    visit(bus, function, vendor, id);
                }
                index += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests;
