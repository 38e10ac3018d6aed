//! PCI configuration space through the ports 0xcf8 and 0xcfc, for drivers that run in the test and reach the machine by qtest.
//!
//! There is no firmware under qtest: whoever wants a BAR mapped maps it.

use crate::Qtest;

/// A function on a PCI bus.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Function {
    /// The bus number.
    pub bus: u8,
    /// The device number, 0 to 31.
    pub device: u8,
    /// The function number, 0 to 7.
    pub function: u8,
}

/// Offset of the command register.
pub const COMMAND: u8 = 0x04;
/// Offset of the pointer to the first capability.
pub const CAPABILITIES: u8 = 0x34;
/// Respond to memory accesses, be bus master.
pub const MEMORY_AND_MASTER: u64 = 0x6;

impl Function {
    /// Device `device`, function 0 on bus 0.
    pub fn at(device: u8) -> Self {
        Self { bus: 0, device, function: 0 }
    }

    /// The functions 0 on a bus with these IDs, in order of their device numbers.
    pub fn find(qtest: &mut Qtest, bus: u8, vendor: u16, device_id: u16) -> Vec<Self> {
        let all = (0..32).map(|device| Self { bus, device, function: 0 });
        all.filter(|f| f.read(qtest, 0, 4) == u64::from(vendor) | u64::from(device_id) << 16).collect()
    }

    /// Reads 1, 2 or 4 bytes of the configuration space.
    pub fn read(self, qtest: &mut Qtest, offset: u8, size: usize) -> u64 {
        self.select(qtest, offset);
        qtest.inp(0xcfc + u16::from(offset & 3), size).into()
    }

    /// Writes 1, 2 or 4 bytes of the configuration space.
    pub fn write(self, qtest: &mut Qtest, offset: u8, size: usize, value: u64) {
        self.select(qtest, offset);
        qtest.out(0xcfc + u16::from(offset & 3), size, value as u32);
    }

    /// The whole 256 bytes.
    pub fn dump(self, qtest: &mut Qtest) -> Vec<u8> {
        (0..=252).step_by(4).flat_map(|offset| (self.read(qtest, offset, 4) as u32).to_le_bytes()).collect()
    }

    /// The offsets and IDs of the capabilities, in the order of the list.
    ///
    /// # Panics
    ///
    /// If the list does not end.
    pub fn capabilities(self, qtest: &mut Qtest) -> Vec<(u8, u8)> {
        let mut found = Vec::new();
        let mut at = self.read(qtest, CAPABILITIES, 1) as u8;
        while at != 0 {
            assert!(found.len() < 48, "the capability list has a loop: {found:?}");
            found.push((at, self.read(qtest, at, 1) as u8));
            at = self.read(qtest, at + 1, 1) as u8;
        }
        found
    }

    /// What a BAR is, and what it says when all ones are written to it (its old value is put back).
    pub fn bar(self, qtest: &mut Qtest, bar: u8) -> (u64, u64) {
        let offset = 0x10 + 4 * bar;
        let raw = self.read(qtest, offset, 4);
        self.write(qtest, offset, 4, 0xffff_ffff);
        let mask = self.read(qtest, offset, 4);
        self.write(qtest, offset, 4, raw);
        (raw, mask)
    }

    /// Gives the function's BARs 4 and 1 (a virtio device's registers and its MSI-X table) addresses, and has it answer there.
    pub fn assign(self, qtest: &mut Qtest, bar4: u64, bar1: u64) {
        self.write(qtest, 0x14, 4, bar1);
        self.write(qtest, 0x20, 4, bar4 & 0xffff_ffff);
        self.write(qtest, 0x24, 4, bar4 >> 32);
        self.write(qtest, COMMAND, 2, MEMORY_AND_MASTER);
    }

    fn select(self, qtest: &mut Qtest, offset: u8) {
        let address = 0x8000_0000
            | u32::from(self.bus) << 16
            | u32::from(self.device) << 11
            | u32::from(self.function) << 8
            | u32::from(offset & 0xfc);
        qtest.out(0xcf8, 4, address);
    }
}

/// Gives a bridge's secondary bus a number and the memory window in which [`crate::VirtioMem::map`] maps BARs.
pub fn open_bridge(qtest: &mut Qtest, bridge: Function, bus: u8) {
    let bus = u64::from(bus);
    bridge.write(qtest, 0x18, 4, bus << 16 | bus << 8);
    bridge.write(qtest, 0x20, 4, 0xfe80_fe00);
    bridge.write(qtest, COMMAND, 2, MEMORY_AND_MASTER);
}
