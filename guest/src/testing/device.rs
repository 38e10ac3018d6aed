//! A virtio memory device: the checks of virtio 1.3 §5.15.6 in the order QEMU makes them, and misbehaviour on request.

use super::Memory;
use super::registers::{Asked, Registers};
use std::collections::{BTreeSet, VecDeque};
use std::vec::Vec;

pub(crate) const BLOCK: u64 = 1 << 21;
pub(crate) const ADDR: u64 = 0x1_8000_0000;

/// What a device does wrong with its next requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Never answers.
    Silent,
    /// Uses the request twice.
    BadUsedRing,
    /// Sets DEVICE_NEEDS_RESET.
    Breaks,
}

pub(crate) struct Device {
    pub(crate) pci: Registers,
    pub(crate) addr: u64,
    pub(crate) region: u64,
    pub(crate) usable: u64,
    pub(crate) requested: u64,
    /// What the device thinks is requested, where the configuration lags behind.
    pub(crate) limit: Option<u64>,
    pub(crate) plugged: BTreeSet<u64>,
    /// (type, first block, blocks) of each request.
    pub(crate) requests: Vec<(u16, u64, u64)>,
    pub(crate) busy: bool,
    /// Requests of more blocks than this are answered BUSY.
    pub(crate) most: u64,
    pub(crate) faults: VecDeque<Fault>,
}

impl Device {
    pub(crate) fn new(slot: u8, blocks: u64, requested: u64) -> Self {
        let mut pci = Registers::new(slot, 24, 7 | 3 << 28, 1);
        // VIRTIO_MEM_F_UNPLUGGED_INACCESSIBLE.
        pci.required |= 2;
        Self {
            pci,
            addr: ADDR + (u64::from(slot) - 1) * (1 << 40),
            region: blocks * BLOCK,
            usable: blocks * BLOCK,
            requested: requested * BLOCK,
            limit: None,
            plugged: BTreeSet::new(),
            requests: Vec::new(),
            busy: false,
            most: u64::MAX,
            faults: VecDeque::new(),
        }
    }

    /// `qom-set requested-size`, in blocks.
    pub(crate) fn request(&mut self, blocks: u64) {
        self.requested = blocks * BLOCK;
        self.pci.generation = self.pci.generation.wrapping_add(1);
    }

    /// Memory that is not plugged must not be touched by the guest.
    pub(crate) fn assert_plugged(&self, addr: u64, len: usize) {
        if let Some(offset) = addr.checked_sub(self.addr).filter(|offset| *offset < self.region) {
            for block in offset / BLOCK..=(offset + len as u64 - 1) / BLOCK {
                assert!(self.plugged.contains(&block), "access to unplugged memory at {addr:#x}");
            }
        }
    }

    fn device_config(&self) -> [u8; 56] {
        let mut bytes = [0; 56];
        let plugged = self.plugged.len() as u64 * BLOCK;
        let fields = [BLOCK, 3, self.addr, self.region, self.usable, plugged, self.requested];
        for (chunk, field) in bytes.chunks_exact_mut(8).zip(fields) {
            chunk.copy_from_slice(&field.to_le_bytes());
        }
        bytes
    }

    pub(crate) fn read(&mut self, addr: u64, size: usize) -> Option<u64> {
        self.pci.read(addr, size, &self.device_config())
    }

    pub(crate) fn write(&mut self, memory: &mut Memory, addr: u64, size: usize, value: u64) {
        if let Asked::Notified(queue) = self.pci.write(addr, size, value) {
            self.notified(memory, queue);
        }
    }

    fn notified(&mut self, memory: &mut Memory, queue: usize) {
        let fault = self.faults.pop_front();
        match fault {
            Some(Fault::Silent) => return,
            Some(Fault::Breaks) => return self.pci.breaks(),
            Some(Fault::BadUsedRing) | None => {}
        }
        // The driver has one request in flight.
        let chain = if self.pci.waiting(memory, queue) == 1 { self.pci.take(memory, queue) } else { None };
        let Some((head, [(request, 24.., false), (response, 10.., true)])) =
            chain.as_ref().map(|(head, parts)| (*head, &parts[..])).filter(|(_, parts)| parts.len() == 2)
        else {
            return self.pci.breaks();
        };
        let kind = memory.word(*request, 2) as u16;
        let (addr, count) = (memory.word(request + 8, 8), memory.word(request + 16, 2));
        if kind > 3 {
            return self.pci.breaks();
        }
        let (answer, state) = self.answer(memory, kind, addr, count);
        memory.write(*response, &answer.to_le_bytes());
        memory.write(response + 8, &state.to_le_bytes());
        let step = 1 + u16::from(fault == Some(Fault::BadUsedRing));
        self.pci.give_back(memory, queue, head.into(), 10, step);
    }

    fn answer(&mut self, memory: &mut Memory, kind: u16, addr: u64, count: u64) -> (u16, u16) {
        let first = addr.wrapping_sub(self.addr) / BLOCK;
        self.requests.push((kind, first, count));
        if kind == 2 {
            if self.busy && !self.plugged.is_empty() {
                return (2, 0);
            }
            self.plugged.clear();
            memory.discard(self.addr, self.region);
            return (0, 0);
        }
        let end = addr.saturating_add(count * BLOCK);
        if !addr.is_multiple_of(BLOCK) || count == 0 || addr < self.addr || end > self.addr + self.usable {
            return (3, 0);
        }
        let plugged = (first..first + count).filter(|block| self.plugged.contains(block)).count() as u64;
        if kind == 3 {
            return (0, if plugged == count { 0 } else { 1 + u16::from(plugged != 0) });
        }
        let limit = self.limit.unwrap_or(self.requested);
        if kind == 0 && (self.plugged.len() as u64 + count) * BLOCK > limit {
            return (1, 0);
        }
        if plugged != if kind == 0 { 0 } else { count } {
            return (3, 0);
        }
        if self.busy || count > self.most {
            return (2, 0);
        }
        for block in first..first + count {
            if kind == 0 {
                self.plugged.insert(block);
            } else {
                self.plugged.remove(&block);
            }
        }
        memory.discard(addr, count * BLOCK);
        (0, 0)
    }
}
