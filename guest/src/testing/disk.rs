//! A virtio block device that keeps its sectors in memory: the requests of virtio 1.3 §5.2.6 and misbehaviour on request.
//!
//! What it reads and writes for the driver must lie in memory that is there: a buffer in an unplugged block is a failed test.

use super::registers::{Asked, Part, Registers};
use super::{Device, Memory};
use std::collections::{BTreeMap, VecDeque};
use std::vec::Vec;

const SECTOR: u64 = 512;

/// What a disk does wrong with its next requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DiskFault {
    /// Keeps the request until [`Disk::answer_all`].
    Late,
    /// Sets DEVICE_NEEDS_RESET.
    Breaks,
    /// Uses this descriptor instead of the chain's head.
    Uses(u32),
    /// Moves the used index by this much.
    Jumps(u16),
    /// Answers with this status and does nothing.
    Says(u8),
    /// Answers OK and does nothing.
    Lies,
}

pub(crate) struct Disk {
    pub(crate) pci: Registers,
    pub(crate) capacity: u64,
    pub(crate) size_max: u32,
    pub(crate) sectors: BTreeMap<u64, [u8; SECTOR as usize]>,
    /// (type, sector, data bytes, address of the data) of each request.
    pub(crate) requests: Vec<(u32, u64, u64, u64)>,
    /// Queue of each request.
    pub(crate) queues: Vec<usize>,
    pub(crate) faults: VecDeque<DiskFault>,
    late: Vec<(usize, u16, Vec<Part>)>,
}

impl Disk {
    pub(crate) fn new(slot: u8, capacity: u64) -> Self {
        // FLUSH.
        let pci = Registers::new(slot, 2, 1 << 9, 1);
        Self {
            pci,
            capacity,
            size_max: 0,
            sectors: BTreeMap::new(),
            requests: Vec::new(),
            queues: Vec::new(),
            faults: VecDeque::new(),
            late: Vec::new(),
        }
    }

    /// With so many queues (MQ).
    pub(crate) fn with_queues(mut self, count: usize) -> Self {
        self.pci.features |= 1 << 12;
        self.pci.set_queues(count);
        self
    }

    fn device_config(&self) -> [u8; 60] {
        let mut bytes = [0; 60];
        bytes[..8].copy_from_slice(&self.capacity.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.size_max.to_le_bytes());
        bytes[20..24].copy_from_slice(&4096u32.to_le_bytes());
        bytes[34..36].copy_from_slice(&(self.pci.queues.len() as u16).to_le_bytes());
        bytes
    }

    pub(crate) fn read(&self, addr: u64, size: usize) -> Option<u64> {
        self.pci.read(addr, size, &self.device_config())
    }

    pub(crate) fn write(
        &mut self,
        memory: &mut Memory,
        devices: &[Device],
        addr: u64,
        size: usize,
        value: u64,
    ) {
        match self.pci.write(addr, size, value) {
            Asked::Notified(queue) => {
                while self.pci.waiting(memory, queue) != 0 && self.pci.status & 0x40 == 0 {
                    self.serve(memory, devices, queue);
                }
            }
            Asked::Reset => self.late.clear(),
            Asked::Nothing => {}
        }
    }

    fn serve(&mut self, memory: &mut Memory, devices: &[Device], queue: usize) {
        let Some((head, parts)) = self.pci.take(memory, queue) else { return self.pci.breaks() };
        match self.faults.pop_front() {
            Some(DiskFault::Late) => self.late.push((queue, head, parts)),
            Some(DiskFault::Breaks) => self.pci.breaks(),
            Some(DiskFault::Uses(id)) => self.pci.give_back(memory, queue, id, 1, 1),
            Some(DiskFault::Jumps(step)) => self.pci.give_back(memory, queue, head.into(), 1, step),
            Some(DiskFault::Says(status)) => self.finish(memory, queue, head, &parts, status),
            Some(DiskFault::Lies) => self.finish(memory, queue, head, &parts, 0),
            None => self.answer(memory, devices, queue, head, &parts),
        }
    }

    /// Requests that were kept are answered, the last one first.
    pub(crate) fn answer_all(&mut self, memory: &mut Memory, devices: &[Device]) {
        while let Some((queue, head, parts)) = self.late.pop() {
            self.answer(memory, devices, queue, head, &parts);
        }
    }

    /// Requests that are kept.
    pub(crate) fn kept(&self) -> usize {
        self.late.len()
    }

    fn answer(&mut self, memory: &mut Memory, devices: &[Device], queue: usize, head: u16, parts: &[Part]) {
        let status = self.carry_out(memory, devices, queue, parts);
        self.finish(memory, queue, head, parts, status);
    }

    fn finish(&mut self, memory: &mut Memory, queue: usize, head: u16, parts: &[Part], status: u8) {
        let Some((addr, 1, true)) = parts.last() else { return self.pci.breaks() };
        memory.write(*addr, &[status]);
        let written = parts.iter().filter(|part| part.2).map(|part| part.1).sum::<u64>();
        self.pci.give_back(memory, queue, head.into(), written as u32, 1);
    }

    fn carry_out(&mut self, memory: &mut Memory, devices: &[Device], queue: usize, parts: &[Part]) -> u8 {
        let [(header, 16, false), data @ .., (_, 1, true)] = parts else { return 1 };
        let (kind, sector) = (memory.word(*header, 4) as u32, memory.word(header + 8, 8));
        let (addr, len, writes) = data.first().copied().unwrap_or((0, 0, kind == 0));
        for device in devices.iter().filter(|_| len > 0) {
            device.assert_plugged(addr, len as usize);
        }
        self.requests.push((kind, sector, len, addr));
        self.queues.push(queue);
        let fits = sector.checked_add(len / SECTOR).is_some_and(|end| end <= self.capacity);
        match kind {
            0 | 1 if len % SECTOR != 0 || !fits || writes != (kind == 0) => 1,
            0 => {
                for index in 0..len / SECTOR {
                    let bytes = self.sectors.get(&(sector + index)).copied().unwrap_or([0; SECTOR as usize]);
                    memory.write(addr + index * SECTOR, &bytes);
                }
                0
            }
            1 => {
                for index in 0..len / SECTOR {
                    let mut bytes = [0; SECTOR as usize];
                    memory.read(addr + index * SECTOR, &mut bytes);
                    self.sectors.insert(sector + index, bytes);
                }
                0
            }
            4 => 0,
            8 if len == 20 => {
                memory.write(addr, b"model\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
                0
            }
            _ => 2,
        }
    }
}
