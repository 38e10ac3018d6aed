//! Ways into configuration space: ports 0xcf8/0xcfc (PCI 3.0 §3.2.2.3.2) and memory (PCI Express 3.0 §7.2.2).

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use memory::{AccessConstraints, Owner, RegionDesc, RegionId, RegionOps};

use super::bus::PciBus;
use super::device::{PciDevice, config_read, config_write};
use crate::core::machine::Machine;

/// Port of the address register.
pub const CONFIG_ADDRESS: u64 = 0xcf8;
/// First port of the data register.
pub const CONFIG_DATA: u64 = 0xcfc;
const ENABLE: u32 = 1 << 31;

/// The function at an address, if there is one that the guest may find.
fn find(root: &PciBus, number: u8, devfn: u8) -> Option<Arc<dyn PciDevice>> {
    if number == 0 { root.visible(devfn) } else { root.behind_with_number(number)?.visible(devfn) }
}

fn read(bus: &PciBus, number: u8, devfn: u8, offset: u16, size: u8) -> u32 {
    let device = find(bus, number, devfn);
    let value = device.as_ref().map_or(u32::MAX, |device| config_read(device, offset, size));
    if let Some(device) = device {
        let name = device.dev().type_name();
        trace::emit!(pci_cfg_read, name, number, devfn >> 3, devfn & 7, offset, value);
    }
    value
}

fn write(bus: &PciBus, number: u8, devfn: u8, offset: u16, size: u8, value: u32) {
    if let Some(device) = find(bus, number, devfn) {
        let name = device.dev().type_name();
        trace::emit!(pci_cfg_write, name, number, devfn >> 3, devfn & 7, offset, value);
        config_write(&device, offset, size, value);
    }
}

/// The pair of port registers.
pub struct ConfigPorts {
    address: AtomicU32,
    bus: Arc<PciBus>,
}

impl ConfigPorts {
    /// Registers that lead to `bus`.
    pub fn new(bus: Arc<PciBus>) -> Arc<Self> {
        Arc::new(Self { address: AtomicU32::new(0), bus })
    }

    /// Puts both registers into the port space and returns their regions.
    pub fn map(self: &Arc<Self>, machine: &Arc<Machine>, owner: &Owner) -> [RegionId; 2] {
        let mut tx = machine.memory().transaction();
        let desc = |name| RegionDesc::new(name, 4).owned_by(owner.clone());
        let index = tx.io(desc("pci-conf-idx"), Arc::new(Index(Arc::clone(self))));
        let data = tx.io(desc("pci-conf-data"), Arc::new(Data(Arc::clone(self))));
        tx.add_subregion(machine.io_region(), CONFIG_ADDRESS, index, 0);
        tx.add_subregion(machine.io_region(), CONFIG_DATA, data, 0);
        [index, data]
    }

    /// Power-on state.
    pub fn reset(&self) {
        self.address.store(0, Ordering::Relaxed);
    }

    /// The address register.
    pub fn address(&self) -> u32 {
        self.address.load(Ordering::Relaxed)
    }

    /// Sets it.
    pub fn set_address(&self, address: u32) {
        self.address.store(address, Ordering::Relaxed);
    }

    /// Where an access to the data register goes. The lowest two bits of the address count as in QEMU, whose test programs name the
    /// very byte and then read the first data port; drivers leave them clear and choose the port.
    fn target(&self, offset: u64) -> Option<(u8, u8, u16)> {
        let address = self.address.load(Ordering::Relaxed);
        let register = (address & 0xff) as u16 | (offset & 3) as u16;
        (address & ENABLE != 0).then_some(((address >> 16) as u8, (address >> 8) as u8, register))
    }
}

struct Index(Arc<ConfigPorts>);

impl RegionOps for Index {
    fn read(&self, offset: u64, size: u8) -> u64 {
        let address = u64::from(self.0.address.load(Ordering::Relaxed));
        (address >> (8 * offset)) & (u64::MAX >> (64 - 8 * u32::from(size.clamp(1, 8))))
    }
    fn write(&self, offset: u64, size: u8, value: u64) {
        // Only whole writes count; smaller ones are meant for ports of others.
        if offset == 0 && size == 4 {
            self.0.address.store(value as u32, Ordering::Relaxed);
        }
    }
    fn constraints(&self) -> AccessConstraints {
        AccessConstraints::new().valid(1, 4).implemented(1, 4).unaligned()
    }
}

struct Data(Arc<ConfigPorts>);

impl RegionOps for Data {
    fn read(&self, offset: u64, size: u8) -> u64 {
        match self.0.target(offset) {
            Some((number, devfn, register)) => {
                read(&self.0.bus, number, devfn, register, within(register, size)).into()
            }
            None => u64::MAX,
        }
    }
    fn write(&self, offset: u64, size: u8, value: u64) {
        if let Some((number, devfn, register)) = self.0.target(offset) {
            write(&self.0.bus, number, devfn, register, within(register, size), value as u32);
        }
    }
    fn constraints(&self) -> AccessConstraints {
        AccessConstraints::new().valid(1, 4).implemented(1, 4)
    }
}

/// The ports lead to the first 256 bytes only: what of an access is behind them does not happen.
fn within(register: u16, size: u8) -> u8 {
    u16::from(size).min(0x100 - register) as u8
}

/// The memory-mapped window: 4 KiB for each function, 1 MiB for each bus.
pub struct Ecam(pub Arc<PciBus>);

impl RegionOps for Ecam {
    fn read(&self, offset: u64, size: u8) -> u64 {
        let (number, devfn) = ((offset >> 20) as u8, (offset >> 12) as u8);
        read(&self.0, number, devfn, (offset & 0xfff) as u16, size).into()
    }
    fn write(&self, offset: u64, size: u8, value: u64) {
        let (number, devfn) = ((offset >> 20) as u8, (offset >> 12) as u8);
        write(&self.0, number, devfn, (offset & 0xfff) as u16, size, value as u32);
    }
    fn constraints(&self) -> AccessConstraints {
        AccessConstraints::new().valid(1, 4).implemented(1, 4)
    }
}
