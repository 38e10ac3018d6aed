//! A virtio memory device: registers, one queue, the checks of virtio 1.3 §5.15.6 in the order QEMU makes them, and
//! misbehaviour on request.

use super::Memory;
use std::collections::{BTreeSet, VecDeque};
use std::vec::Vec;

pub(crate) const BLOCK: u64 = 1 << 21;
pub(crate) const ADDR: u64 = 0x1_8000_0000;
const VERSION_1: u64 = 1 << 32;
const NEEDS_RESET: u8 = 0x40;

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
    pub(crate) bus: u8,
    pub(crate) slot: u8,
    pub(crate) present: bool,
    pub(crate) config: [u8; 256],
    pub(crate) bar: u64,
    pub(crate) msix: [u32; 8],
    pub(crate) features: u64,
    pub(crate) driver_features: u64,
    select: u32,
    pub(crate) status: u8,
    pub(crate) generation: u8,
    vectors: [u16; 2],
    queue: [u64; 3],
    size: u16,
    enabled: bool,
    seen: u16,
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
        let bar = 0xc0_0000_0000 + u64::from(slot) * 0x8000;
        let mut config = [0; 256];
        config[..12].copy_from_slice(&[0xf4, 0x1a, 0x58, 0x10, 0, 0, 0x10, 0, 1, 0, 0xff, 0]);
        config[0x14..0x18].copy_from_slice(&((bar + 0x4000) as u32).to_le_bytes());
        config[0x20..0x28].copy_from_slice(&(bar | 0xc).to_le_bytes());
        config[0x34] = 0x98;
        for (at, next, len, kind, offset) in [
            (0x40, 0u8, 16u8, 1u8, 0u32),
            (0x50, 0x40, 16, 3, 0x1000),
            (0x60, 0x50, 16, 4, 0x2000),
            (0x70, 0x60, 20, 2, 0x3000),
            (0x84, 0x70, 20, 5, 0),
        ] {
            config[at..at + 8].copy_from_slice(&[9, next, len, kind, 4, 0, 0, 0]);
            config[at + 8..at + 12].copy_from_slice(&offset.to_le_bytes());
            config[at + 12..at + 16].copy_from_slice(&0x1000u32.to_le_bytes());
        }
        config[0x80] = 4;
        // The model's MSI-X table lies in BAR 4 as well: BAR 1 cannot lie above 4 GiB.
        config[0x98..0xa0].copy_from_slice(&[0x11, 0x84, 1, 0, 4, 0x40, 0, 0]);
        Self {
            bus: 0,
            slot,
            present: true,
            config,
            bar,
            msix: [0; 8],
            features: VERSION_1 | 7 | 3 << 28,
            driver_features: 0,
            select: 0,
            status: 0,
            generation: 0,
            vectors: [0xffff; 2],
            queue: [0; 3],
            size: 128,
            enabled: false,
            seen: 0,
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
        self.generation = self.generation.wrapping_add(1);
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
        let offset = addr.checked_sub(self.bar).filter(|offset| *offset < 0x5000 && self.present)?;
        Some(match offset {
            4 => self.features >> (32 * self.select) & 0xffff_ffff,
            16 => u64::from(self.vectors[0]),
            18 => 1,
            20 => u64::from(self.status),
            21 => u64::from(self.generation),
            24 => u64::from(self.size),
            26 => u64::from(self.vectors[1]),
            30 => 0,
            0x2000..0x2038 => {
                let config = self.device_config();
                let at = (offset - 0x2000) as usize;
                (0..size).fold(0, |value, index| value | u64::from(config[at + index]) << (8 * index))
            }
            _ => 0,
        })
    }

    pub(crate) fn write(&mut self, memory: &mut Memory, addr: u64, size: usize, value: u64) {
        let Some(offset) = addr.checked_sub(self.bar).filter(|offset| *offset < 0x5000) else { return };
        match offset {
            0 | 8 => self.select = value as u32,
            12 => {
                let shift = 32 * self.select;
                self.driver_features = self.driver_features & !(0xffff_ffff << shift) | value << shift;
            }
            16 => self.vectors[0] = value as u16,
            20 if value == 0 => self.reset(),
            20 => {
                let refused = self.features & 2 != self.driver_features & 2;
                self.status = value as u8 & if refused { !8 } else { !0 };
            }
            24 => self.size = value as u16,
            26 => self.vectors[1] = value as u16,
            28 => self.enabled = value == 1,
            32..56 => {
                assert_eq!(size, 4, "64-bit registers are written in halves");
                let (register, shift) = ((offset - 32) as usize / 8, offset % 8 * 8);
                self.queue[register] = self.queue[register] & !(0xffff_ffff << shift) | value << shift;
            }
            0x3000 => self.notified(memory),
            0x4000..0x4020 => self.msix[(offset - 0x4000) as usize / 4] = value as u32,
            _ => {}
        }
    }

    fn reset(&mut self) {
        (self.status, self.driver_features, self.enabled, self.seen) = (0, 0, false, 0);
        (self.vectors, self.queue, self.size) = ([0xffff; 2], [0; 3], 128);
    }

    fn notified(&mut self, memory: &mut Memory) {
        if !self.enabled || self.status & 4 == 0 || self.status & NEEDS_RESET != 0 {
            return;
        }
        let fault = self.faults.pop_front();
        match fault {
            Some(Fault::Silent) => return,
            Some(Fault::Breaks) => return self.status |= NEEDS_RESET,
            Some(Fault::BadUsedRing) | None => {}
        }
        let [desc, avail, used] = self.queue;
        if memory.word(avail + 2, 2) as u16 != self.seen.wrapping_add(1) {
            return self.status |= NEEDS_RESET;
        }
        let slot = u64::from(self.seen % self.size);
        let head = memory.word(avail + 4 + 2 * slot, 2);
        if !self.serve(memory, desc, head) {
            return self.status |= NEEDS_RESET;
        }
        self.seen = self.seen.wrapping_add(1);
        let element = [head as u32, 10].map(u32::to_le_bytes).concat();
        memory.write(used + 4 + 8 * slot, &element);
        let index = self.seen.wrapping_add(u16::from(fault == Some(Fault::BadUsedRing)));
        memory.write(used + 2, &index.to_le_bytes());
    }

    /// False: the chain or the request is malformed.
    fn serve(&mut self, memory: &mut Memory, desc: u64, head: u64) -> bool {
        let field =
            |memory: &Memory, index: u64, at: u64, size| memory.word(desc + 16 * (index & 127) + at, size);
        let (flags, next) = (field(memory, head, 12, 2), field(memory, head, 14, 2));
        let well_formed = head < 128
            && next < 128
            && flags == 1
            && field(memory, head, 8, 4) >= 24
            && field(memory, next, 12, 2) == 2
            && field(memory, next, 8, 4) >= 10;
        if !well_formed {
            return false;
        }
        let (request, response) = (field(memory, head, 0, 8), field(memory, next, 0, 8));
        let kind = memory.word(request, 2) as u16;
        let (addr, count) = (memory.word(request + 8, 8), memory.word(request + 16, 2));
        if kind > 3 {
            return false;
        }
        let (answer, state) = self.answer(memory, kind, addr, count);
        memory.write(response, &answer.to_le_bytes());
        memory.write(response + 8, &state.to_le_bytes());
        true
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
