//! A model machine for the tests: sparse memory, PCI configuration space, virtio memory, block and entropy devices that behave or not,
//! a serial port, power management.

mod device;
mod disk;
mod entropy;
mod registers;

pub(crate) use device::{ADDR, BLOCK, Device, Fault};
pub(crate) use disk::{Disk, DiskFault};
pub(crate) use entropy::{Entropy, EntropyFault};
use registers::Registers;

use crate::bus::{Bus, MsiMessage};
use crate::start_info::{MEMMAP_RAM, MemoryRange, StartInfo};
use std::collections::{BTreeMap, VecDeque};
use std::string::String;
use std::vec::Vec;

const PAGE: u64 = 4096;
pub(crate) const RAM: u64 = 64 << 20;

/// Memory, a page at a time.
#[derive(Default)]
pub(crate) struct Memory {
    pages: BTreeMap<u64, Vec<u8>>,
}

impl Memory {
    pub(crate) fn read(&self, addr: u64, buf: &mut [u8]) {
        let mut done = 0;
        while done < buf.len() {
            let (page, at, count) = piece(addr, done, buf.len());
            match self.pages.get(&page) {
                Some(bytes) => buf[done..done + count].copy_from_slice(&bytes[at..at + count]),
                None => buf[done..done + count].fill(0),
            }
            done += count;
        }
    }

    pub(crate) fn write(&mut self, addr: u64, buf: &[u8]) {
        let mut done = 0;
        while done < buf.len() {
            let (page, at, count) = piece(addr, done, buf.len());
            let bytes = self.pages.entry(page).or_insert_with(|| std::vec![0; PAGE as usize]);
            bytes[at..at + count].copy_from_slice(&buf[done..done + count]);
            done += count;
        }
    }

    pub(crate) fn discard(&mut self, addr: u64, len: u64) {
        self.pages.retain(|page, _| !(addr..addr + len).contains(&(page * PAGE)));
    }

    pub(crate) fn word(&self, addr: u64, size: usize) -> u64 {
        let mut bytes = [0; 8];
        self.read(addr, &mut bytes[..size]);
        u64::from_le_bytes(bytes)
    }
}

/// The part of an access of `len` bytes that begins `done` bytes in: page, offset in it, bytes.
fn piece(addr: u64, done: usize, len: usize) -> (u64, usize, usize) {
    let at = addr.wrapping_add(done as u64);
    let offset = (at % PAGE) as usize;
    (at / PAGE, offset, (len - done).min(PAGE as usize - offset))
}

/// The machine.
#[derive(Default)]
pub(crate) struct Machine {
    pub(crate) memory: Memory,
    pub(crate) devices: Vec<Device>,
    pub(crate) disks: Vec<Disk>,
    pub(crate) entropy: Vec<Entropy>,
    /// Configuration space of functions that are no devices: bridges.
    pub(crate) bridges: BTreeMap<(u8, u8, u8), [u8; 256]>,
    config_address: u32,
    pub(crate) input: VecDeque<u8>,
    pub(crate) output: String,
    scratch: u8,
    lcr: u8,
    /// Slots to eject, where the machine has ACPI hot-plug; of which bus; which is looked at; slots ejected.
    pub(crate) hotplug_down: Option<u32>,
    pub(crate) hotplug_bus: u32,
    hotplug_selected: u32,
    pub(crate) ejected: u32,
    pub(crate) pm_status: u16,
    pub(crate) port_writes: Vec<(u16, u32)>,
    pub(crate) now: u64,
    pub(crate) idles: u64,
    pub(crate) stopped: bool,
    pub(crate) msi: bool,
}

impl Machine {
    pub(crate) fn new(devices: Vec<Device>) -> Self {
        Self { devices, msi: true, ..Self::default() }
    }

    pub(crate) fn info(cmdline: &str) -> StartInfo {
        let ram = MemoryRange { addr: 0, size: RAM, kind: MEMMAP_RAM };
        StartInfo::new(&[ram], cmdline, 0)
    }

    pub(crate) fn type_line(&mut self, line: &str) {
        self.input.extend(line.bytes());
        self.input.push_back(b'\n');
    }

    /// The output since the last call, without the line prefix.
    pub(crate) fn lines(&mut self) -> Vec<String> {
        let text = core::mem::take(&mut self.output);
        text.lines().map(|line| line.replacen("pliant-guest: ", "", 1)).collect()
    }

    fn functions(&self) -> impl Iterator<Item = &Registers> {
        let entropy = self.entropy.iter().map(|device| &device.pci);
        let devices = self.devices.iter().map(|device| &device.pci);
        devices.chain(self.disks.iter().map(|disk| &disk.pci)).chain(entropy)
    }

    fn functions_mut(&mut self) -> impl Iterator<Item = &mut Registers> {
        let devices = self.devices.iter_mut().map(|device| &mut device.pci);
        let entropy = self.entropy.iter_mut().map(|device| &mut device.pci);
        devices.chain(self.disks.iter_mut().map(|disk| &mut disk.pci)).chain(entropy)
    }

    fn config_byte(&self, offset: u8) -> Option<(u8, u8, u8, usize)> {
        let address = self.config_address;
        let at = address as usize & 0xfc | usize::from(offset);
        (address >> 31 != 0).then_some((
            (address >> 16) as u8,
            (address >> 11) as u8 & 31,
            (address >> 8) as u8 & 7,
            at,
        ))
    }

    fn read_config(&self, offset: u8) -> u8 {
        let Some((bus, slot, function, at)) = self.config_byte(offset) else { return 0xff };
        if let Some(space) = self.bridges.get(&(bus, slot, function)) {
            return space[at];
        }
        let mut functions = self.functions();
        let there = functions.find(|pci| (pci.bus, pci.slot, 0) == (bus, slot, function) && pci.present);
        there.map_or(0xff, |pci| pci.config[at])
    }

    fn write_config(&mut self, offset: u8, value: u8) {
        let Some((bus, slot, function, at)) = self.config_byte(offset) else { return };
        let there = |pci: &&mut Registers| (pci.bus, pci.slot, 0) == (bus, slot, function);
        if let Some(pci) = self.functions_mut().find(there) {
            pci.config[at] = value;
        }
    }

    fn port_read(&mut self, port: u16) -> u8 {
        match port {
            0xcfc..=0xcff => self.read_config(port as u8 & 3),
            0x3f8 => self.input.pop_front().unwrap_or(0),
            0x3fd => 0x60 | u8::from(!self.input.is_empty()),
            0x3ff => self.scratch,
            0x600 => self.pm_status as u8,
            0x601 => (self.pm_status >> 8) as u8,
            _ => 0xff,
        }
    }

    fn port_write(&mut self, port: u16, value: u8) {
        match port {
            0xcfc..=0xcff => self.write_config(port as u8 & 3, value),
            0x3f8 if self.lcr & 0x80 != 0 => {}
            0x3f8 => self.output.push(char::from(value)),
            0x3fb => self.lcr = value,
            0x3ff => self.scratch = value,
            0x601 => self.pm_status &= !(u16::from(value) << 8),
            _ => {}
        }
    }

    fn mmio_read(&mut self, addr: u64, size: usize) -> u64 {
        for device in &mut self.devices {
            if let Some(value) = device.read(addr, size) {
                return value;
            }
        }
        for disk in &self.disks {
            if let Some(value) = disk.read(addr, size) {
                return value;
            }
        }
        self.entropy.iter().find_map(|device| device.pci.read(addr, size, &[])).unwrap_or(u64::MAX)
    }

    fn mmio_write(&mut self, addr: u64, size: usize, value: u64) {
        for device in &mut self.devices {
            device.write(&mut self.memory, addr, size, value);
        }
        for disk in &mut self.disks {
            disk.write(&mut self.memory, &self.devices, addr, size, value);
        }
        for device in &mut self.entropy {
            device.write(&mut self.memory, addr, size, value);
        }
    }
}

impl Bus for Machine {
    fn in8(&mut self, port: u16) -> u8 {
        self.port_read(port)
    }
    fn in16(&mut self, port: u16) -> u16 {
        u16::from_le_bytes([self.port_read(port), self.port_read(port + 1)])
    }
    fn in32(&mut self, port: u16) -> u32 {
        if let (Some(down), 0xae04 | 0xae10) = (self.hotplug_down, port) {
            let here = self.hotplug_selected == self.hotplug_bus;
            return if port == 0xae10 { self.hotplug_selected } else { down * u32::from(here) };
        }
        u32::from(self.in16(port)) | u32::from(self.in16(port + 2)) << 16
    }
    fn out8(&mut self, port: u16, value: u8) {
        self.port_writes.push((port, u32::from(value)));
        self.port_write(port, value);
    }
    fn out16(&mut self, port: u16, value: u16) {
        self.port_writes.push((port, u32::from(value)));
        self.port_write(port, value as u8);
        self.port_write(port + 1, (value >> 8) as u8);
    }
    fn out32(&mut self, port: u16, value: u32) {
        if port == 0xcf8 {
            self.config_address = value;
            return;
        }
        if port == 0xae10 {
            self.hotplug_selected = value;
        }
        if port == 0xae08 {
            self.ejected |= value;
            self.hotplug_down = self.hotplug_down.map(|down| down & !value);
            let gone = |pci: &&mut Registers| pci.bus == 0 && value >> pci.slot & 1 != 0;
            self.functions_mut().filter(gone).for_each(|pci| pci.present = false);
        }
        for (index, byte) in value.to_le_bytes().into_iter().enumerate() {
            self.port_write(port + index as u16, byte);
        }
    }
    fn mmio_read8(&mut self, addr: u64) -> u8 {
        self.mmio_read(addr, 1) as u8
    }
    fn mmio_read16(&mut self, addr: u64) -> u16 {
        self.mmio_read(addr, 2) as u16
    }
    fn mmio_read32(&mut self, addr: u64) -> u32 {
        self.mmio_read(addr, 4) as u32
    }
    fn mmio_read64(&mut self, addr: u64) -> u64 {
        self.mmio_read(addr, 8)
    }
    fn mmio_write8(&mut self, addr: u64, value: u8) {
        self.mmio_write(addr, 1, u64::from(value));
    }
    fn mmio_write16(&mut self, addr: u64, value: u16) {
        self.mmio_write(addr, 2, u64::from(value));
    }
    fn mmio_write32(&mut self, addr: u64, value: u32) {
        self.mmio_write(addr, 4, u64::from(value));
    }
    fn mmio_write64(&mut self, addr: u64, value: u64) {
        self.mmio_write(addr, 8, value);
    }
    fn ram_read(&mut self, addr: u64, buf: &mut [u8]) {
        for device in &self.devices {
            device.assert_plugged(addr, buf.len());
        }
        self.memory.read(addr, buf);
    }
    fn ram_write(&mut self, addr: u64, buf: &[u8]) {
        for device in &self.devices {
            device.assert_plugged(addr, buf.len());
        }
        self.memory.write(addr, buf);
    }
    fn idle(&mut self) {
        self.now += 50_000_000;
        self.idles += 1;
    }
    fn now_ns(&mut self) -> u64 {
        self.now += 1000;
        self.now
    }
    fn stopped(&mut self) -> bool {
        self.stopped
    }
    fn msi(&mut self, index: u16) -> Option<MsiMessage> {
        self.msi.then_some(MsiMessage { address: 0xfee0_0000, data: 0x40 + u32::from(index) })
    }
}
