//! Configuration space of one function: bytes, which of them the guest may write, the capability list.
//!
//! PCI Local Bus 3.0 §6.1, §6.2, §6.7; PCI-to-PCI Bridge 1.2 §3.2 for the header of bridges. Extended capabilities are the device's
//! to place.

use vmstate::LoadError;

/// Offsets of header registers (type 0, and what differs in type 1).
pub mod reg {
    /// Vendor ID.
    pub const VENDOR_ID: u16 = 0x00;
    /// Device ID.
    pub const DEVICE_ID: u16 = 0x02;
    /// Command.
    pub const COMMAND: u16 = 0x04;
    /// Status.
    pub const STATUS: u16 = 0x06;
    /// Revision ID.
    pub const REVISION: u16 = 0x08;
    /// Programming interface, subclass, class.
    pub const CLASS: u16 = 0x09;
    /// Cache line size.
    pub const CACHE_LINE: u16 = 0x0c;
    /// Header type.
    pub const HEADER_TYPE: u16 = 0x0e;
    /// First base address register.
    pub const BAR0: u16 = 0x10;
    /// Subsystem vendor ID.
    pub const SUBSYSTEM_VENDOR: u16 = 0x2c;
    /// Subsystem ID.
    pub const SUBSYSTEM: u16 = 0x2e;
    /// Capability pointer.
    pub const CAPABILITIES: u16 = 0x34;
    /// Interrupt line.
    pub const INTERRUPT_LINE: u16 = 0x3c;
    /// Interrupt pin.
    pub const INTERRUPT_PIN: u16 = 0x3d;
    /// Bridges: number of the bus the bridge is on.
    pub const PRIMARY_BUS: u16 = 0x18;
    /// Bridges: number of the bus behind.
    pub const SECONDARY_BUS: u16 = 0x19;
    /// Bridges: highest number of a bus behind.
    pub const SUBORDINATE_BUS: u16 = 0x1a;
    /// Bridges: first and last port of the window, a byte each.
    pub const IO_BASE: u16 = 0x1c;
    /// Bridges: status of the bus behind.
    pub const SECONDARY_STATUS: u16 = 0x1e;
    /// Bridges: first and last MiB of the window for registers, a word each.
    pub const MEMORY_BASE: u16 = 0x20;
    /// Bridges: the same for memory that may be read ahead.
    pub const PREFETCH_BASE: u16 = 0x24;
    /// Bridges: upper halves of first and last address of the latter, a double word each.
    pub const PREFETCH_BASE_UPPER: u16 = 0x28;
    /// Bridges: control.
    pub const BRIDGE_CONTROL: u16 = 0x3e;
}

/// Command bit: answers port accesses.
pub const COMMAND_IO: u16 = 1 << 0;
/// Command bit: answers memory accesses.
pub const COMMAND_MEMORY: u16 = 1 << 1;
/// Command bit: may access memory itself.
pub const COMMAND_MASTER: u16 = 1 << 2;
/// Command bit: does not raise its interrupt pin.
pub const COMMAND_INTX_DISABLE: u16 = 1 << 10;
const COMMAND_SERR: u16 = 1 << 8;
const STATUS_INTERRUPT: u16 = 1 << 3;
const STATUS_CAP_LIST: u16 = 1 << 4;
/// Status bits that the guest clears by writing one.
const STATUS_W1C: u16 = 0xf900;
const HEADER_SIZE: usize = 0x40;
const HEADER_BRIDGE: u8 = 1;
/// Where the header says what the function is, and which bits do.
const IDENTITY: &[(u16, &[u8])] = &[
    (reg::VENDOR_ID, &[0xff; 4]),
    (reg::STATUS, &[STATUS_CAP_LIST as u8]),
    (reg::REVISION, &[0xff; 4]),
    (reg::HEADER_TYPE, &[0xff]),
    (reg::CAPABILITIES, &[0xff]),
    (reg::INTERRUPT_PIN, &[0xff]),
];
/// Header type bit: there are more functions in the slot.
pub const HEADER_MULTIFUNCTION: u8 = 0x80;

/// Identity of a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PciInfo {
    /// Vendor ID.
    pub vendor: u16,
    /// Device ID.
    pub device: u16,
    /// Revision.
    pub revision: u8,
    /// Class and subclass, `0x0600` for a host bridge.
    pub class: u16,
    /// Programming interface.
    pub prog_if: u8,
    /// Subsystem vendor and ID.
    pub subsystem: (u16, u16),
    /// Interrupt pin: 0 none, 1 for INTA#.
    pub interrupt_pin: u8,
    /// Whether there are 4096 bytes of configuration space instead of 256.
    pub express: bool,
    /// Whether it is a bridge to another bus, with a header of type 1.
    pub bridge: bool,
}

impl PciInfo {
    /// A function without interrupt pin in QEMU's default subsystem (1af4:1100).
    pub const fn new(vendor: u16, device: u16, class: u16) -> Self {
        Self {
            vendor,
            device,
            revision: 0,
            class,
            prog_if: 0,
            subsystem: (0x1af4, 0x1100),
            interrupt_pin: 0,
            express: false,
            bridge: false,
        }
    }
}

/// The bytes and their masks.
#[derive(Debug, Clone)]
pub struct ConfigSpace {
    data: Vec<u8>,
    writable: Vec<u8>,
    write_1_clears: Vec<u8>,
    /// Bits that say what the function is: state of a function with others is of another one.
    #[doc(alias = "cmask")]
    checked: Vec<u8>,
    /// Bytes that capabilities occupy.
    used: Vec<bool>,
}

impl ConfigSpace {
    /// The space of a function of that identity, no capabilities yet.
    pub fn new(info: &PciInfo) -> Self {
        let size = if info.express { 4096 } else { 256 };
        let mut space = Self {
            data: vec![0; size],
            writable: vec![0; size],
            write_1_clears: vec![0; size],
            checked: vec![0; size],
            used: vec![false; size],
        };
        space.used[..HEADER_SIZE].fill(true);
        for (offset, mask) in IDENTITY {
            space.set_checked(*offset, mask);
        }
        space.set16(reg::VENDOR_ID, info.vendor);
        space.set16(reg::DEVICE_ID, info.device);
        space.set8(reg::REVISION, info.revision);
        space.set8(reg::CLASS, info.prog_if);
        space.set16(reg::CLASS + 1, info.class);
        if info.bridge {
            space.make_bridge();
        } else {
            space.set16(reg::SUBSYSTEM_VENDOR, info.subsystem.0);
            space.set16(reg::SUBSYSTEM, info.subsystem.1);
        }
        space.set8(reg::INTERRUPT_PIN, info.interrupt_pin);
        let command = COMMAND_IO | COMMAND_MEMORY | COMMAND_MASTER | COMMAND_SERR | COMMAND_INTX_DISABLE;
        space.set_writable(reg::COMMAND, &command.to_le_bytes());
        space.set_writable(reg::CACHE_LINE, &[0xff]);
        space.set_writable(reg::INTERRUPT_LINE, &[0xff]);
        // What a device does not describe is plain storage, as firmware and guests may expect.
        space.writable[HEADER_SIZE..].fill(0xff);
        space.write_1_clears[usize::from(reg::STATUS)..][..2].copy_from_slice(&STATUS_W1C.to_le_bytes());
        space
    }

    /// What the header of a bridge has instead.
    fn make_bridge(&mut self) {
        self.set8(reg::HEADER_TYPE, HEADER_BRIDGE);
        self.set_writable(reg::PRIMARY_BUS, &[0xff; 3]);
        self.set_writable(reg::IO_BASE, &[0xf0; 2]);
        self.set_writable(reg::MEMORY_BASE, &[0xf0, 0xff, 0xf0, 0xff]);
        self.set_writable(reg::PREFETCH_BASE, &[0xf0, 0xff, 0xf0, 0xff]);
        self.set_writable(reg::PREFETCH_BASE_UPPER, &[0xff; 8]);
        self.write_1_clears[usize::from(reg::SECONDARY_STATUS)..][..2]
            .copy_from_slice(&STATUS_W1C.to_le_bytes());
        // The window has 64-bit addresses.
        self.set16(reg::PREFETCH_BASE, 1);
        self.set16(reg::PREFETCH_BASE + 2, 1);
    }

    /// Makes 4096 bytes of what were 256: the function turned out to be a PCI Express one. There are no extended capabilities.
    pub fn extend(&mut self) {
        let size = 4096;
        self.data.resize(size, 0);
        self.writable.resize(size, 0xff);
        self.write_1_clears.resize(size, 0);
        self.checked.resize(size, 0);
        self.used.resize(size, false);
        // The empty list.
        self.set_writable(0x100, &[0; 4]);
    }

    /// Bytes of configuration space, 256 or 4096.
    pub fn size(&self) -> usize {
        self.data.len()
    }

    /// All bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.data
    }

    /// Reads `size` (1, 2, 4) bytes at `offset`; ones beyond the end.
    pub fn read(&self, offset: u16, size: u8) -> u32 {
        (0..u16::from(size).min(4)).rev().fold(0, |value, i| {
            value << 8 | u32::from(self.data.get(usize::from(offset + i)).copied().unwrap_or(0xff))
        })
    }

    /// A guest's write: only writable bits change, write-one-to-clear bits are cleared.
    pub fn write(&mut self, offset: u16, size: u8, value: u32) {
        for (i, byte) in value.to_le_bytes().into_iter().take(usize::from(size)).enumerate() {
            let at = usize::from(offset) + i;
            let Some(old) = self.data.get(at).copied() else { return };
            let (mask, clears) = (self.writable[at], self.write_1_clears[at]);
            self.data[at] = ((old & !mask) | (byte & mask)) & !(byte & clears);
        }
    }

    /// Sets a byte, writable or not.
    pub fn set8(&mut self, offset: u16, value: u8) {
        self.set(offset, &[value]);
    }
    /// Sets a word.
    pub fn set16(&mut self, offset: u16, value: u16) {
        self.set(offset, &value.to_le_bytes());
    }
    /// Sets a double word.
    pub fn set32(&mut self, offset: u16, value: u32) {
        self.set(offset, &value.to_le_bytes());
    }
    /// Sets bytes.
    pub fn set(&mut self, offset: u16, bytes: &[u8]) {
        let at = usize::from(offset);
        if let Some(target) = self.data.get_mut(at..at + bytes.len()) {
            target.copy_from_slice(bytes);
        }
    }
    /// A word.
    pub fn get16(&self, offset: u16) -> u16 {
        self.read(offset, 2) as u16
    }
    /// A double word.
    pub fn get32(&self, offset: u16) -> u32 {
        self.read(offset, 4)
    }

    /// Says which bits the guest may write.
    pub fn set_writable(&mut self, offset: u16, mask: &[u8]) {
        let at = usize::from(offset);
        if let Some(target) = self.writable.get_mut(at..at + mask.len()) {
            target.copy_from_slice(mask);
        }
    }

    /// Says which bits the guest clears by writing ones; they are not writable otherwise.
    pub fn set_write_1_clears(&mut self, offset: u16, mask: &[u8]) {
        let at = usize::from(offset);
        if let Some(target) = self.write_1_clears.get_mut(at..at + mask.len()) {
            target.copy_from_slice(mask);
        }
    }

    /// Says which bits must be alike where state comes from and where it goes, if the guest cannot write them.
    pub fn set_checked(&mut self, offset: u16, mask: &[u8]) {
        let at = usize::from(offset);
        if let Some(target) = self.checked.get_mut(at..at + mask.len()) {
            target.copy_from_slice(mask);
        }
    }

    /// Takes the registers of the same function of another machine over.
    ///
    /// # Errors
    /// It is another function. The text is QEMU's.
    pub fn load(&mut self, bytes: &[u8]) -> vmstate::Result<()> {
        let (size, own) = (bytes.len(), self.size());
        if size != own {
            return Err(LoadError::invalid(format!("{size} bytes of configuration space, not {own}")));
        }
        for (at, (&read, &device)) in bytes.iter().zip(&self.data).enumerate() {
            let (check, write, clear) = (self.checked[at], self.writable[at], self.write_1_clears[at]);
            if (read ^ device) & check & !write & !clear != 0 {
                return Err(LoadError::invalid(format!(
                    "get_pci_config_device: Bad config data: i={at:#x} read: {read:x} device: {device:x} cmask: {check:x} wmask: {write:x} w1cmask:{clear:x}"
                )));
            }
        }
        self.data.copy_from_slice(bytes);
        Ok(())
    }

    /// Puts an extended capability (PCI Express 3.0 §7.9.1) of version `version` at `offset`, read-only over `size` bytes, with the next
    /// one at `next` (0 for none).
    pub fn add_extended(&mut self, offset: u16, id: u16, version: u8, next: u16, size: u16) {
        let at = usize::from(offset);
        if let Some(target) = self.writable.get_mut(at..at + usize::from(size)) {
            target.fill(0);
        }
        if let Some(target) = self.checked.get_mut(at..at + usize::from(size)) {
            target.fill(0xff);
        }
        self.set16(offset, id);
        self.set16(offset + 2, u16::from(version & 0xf) | next << 4);
    }

    /// The command register.
    pub fn command(&self) -> u16 {
        self.get16(reg::COMMAND)
    }

    /// Sets or clears the status bit that shows a raised interrupt.
    pub fn set_interrupt_status(&mut self, raised: bool) {
        let status = self.get16(reg::STATUS);
        let status = if raised { status | STATUS_INTERRUPT } else { status & !STATUS_INTERRUPT };
        self.set16(reg::STATUS, status);
    }

    /// Puts a capability of `size` bytes (id and next pointer included) in front of the list, read-only, and returns its
    /// offset; `None` when there is no room.
    pub fn add_capability(&mut self, id: u8, size: usize) -> Option<u16> {
        let size = size.next_multiple_of(4);
        let at = (HEADER_SIZE..256)
            .step_by(4)
            .find(|&at| at + size <= 256 && self.used[at..at + size].iter().all(|used| !used))?;
        self.used[at..at + size].fill(true);
        self.writable[at..at + size].fill(0);
        self.checked[at..at + size].fill(0xff);
        let offset = at as u16;
        let next = self.data[usize::from(reg::CAPABILITIES)];
        self.set(offset, &[id, next]);
        self.set8(reg::CAPABILITIES, at as u8);
        self.set16(reg::STATUS, self.get16(reg::STATUS) | STATUS_CAP_LIST);
        Some(offset)
    }

    /// Offset of the first capability `id`.
    pub fn find_capability(&self, id: u8) -> Option<u16> {
        let mut at = u16::from(self.data[usize::from(reg::CAPABILITIES)]);
        // At most one capability for each 4 bytes: a loop that a device made ends.
        for _ in 0..48 {
            if at < HEADER_SIZE as u16 {
                return None;
            }
            if self.data[usize::from(at)] == id {
                return Some(at);
            }
            at = u16::from(self.data[usize::from(at) + 1]);
        }
        None
    }

    /// Power-on values of the registers that a reset changes. BARs are the caller's.
    pub fn reset(&mut self) {
        let clear = |space: &mut Self, offset: u16, len: usize| {
            for at in usize::from(offset)..usize::from(offset) + len {
                space.data[at] &= !(space.writable[at] | space.write_1_clears[at]);
            }
        };
        clear(self, reg::COMMAND, 2);
        clear(self, reg::STATUS, 2);
        self.set8(reg::CACHE_LINE, 0);
        clear(self, reg::INTERRUPT_LINE, 1);
        self.set_interrupt_status(false);
    }
}

#[cfg(test)]
mod tests;
