//! What the model devices have in common: PCI configuration space with virtio's capabilities, the common configuration structure,
//! the rings (virtio 1.3 §4.1.4, §2.7). MSI-X is an array of words that nobody looks at but the tests.

use super::Memory;
use std::vec::Vec;

pub(crate) const VERSION_1: u64 = 1 << 32;
pub(crate) const NEEDS_RESET: u8 = 0x40;
const FEATURES_OK: u64 = 8;
const DRIVER_OK: u8 = 4;
/// Where the device's own configuration is in BAR 4.
const DEVICE_CONFIG: u64 = 0x2000;
/// Bytes between the doorbells of two queues.
const DOORBELL: u64 = 4;

/// One queue's registers.
#[derive(Clone, Copy)]
pub(crate) struct QueueRegisters {
    /// Descriptor table, available ring, used ring.
    pub(crate) rings: [u64; 3],
    pub(crate) size: u16,
    pub(crate) enabled: bool,
    pub(crate) vector: u16,
    /// Chains taken, chains used.
    seen: u16,
    used: u16,
}

/// A buffer of a chain: address, bytes, whether the device may write it.
pub(crate) type Part = (u64, u64, bool);

/// What a write to the registers asks of the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    Nothing,
    Reset,
    Notified(usize),
}

/// The registers of one device.
pub(crate) struct Registers {
    pub(crate) bus: u8,
    pub(crate) slot: u8,
    pub(crate) present: bool,
    pub(crate) config: [u8; 256],
    pub(crate) bar: u64,
    pub(crate) msix: [u32; 8],
    pub(crate) features: u64,
    /// Features without which FEATURES_OK does not stick.
    pub(crate) required: u64,
    pub(crate) driver_features: u64,
    select: u32,
    pub(crate) status: u8,
    pub(crate) generation: u8,
    config_vector: u16,
    queue_select: usize,
    pub(crate) queues: Vec<QueueRegisters>,
    /// Entries of each queue after a reset.
    pub(crate) size: u16,
}

impl Registers {
    /// A modern device of this virtio type in a slot of bus 0.
    pub(crate) fn new(slot: u8, kind: u8, features: u64, queues: usize) -> Self {
        let bar = 0xc0_0000_0000 + u64::from(slot) * 0x8000;
        let mut config = [0; 256];
        config[..12].copy_from_slice(&[0xf4, 0x1a, 0x40 + kind, 0x10, 0, 0, 0x10, 0, 1, 0, 0xff, 0]);
        config[0x14..0x18].copy_from_slice(&((bar + 0x4000) as u32).to_le_bytes());
        config[0x20..0x28].copy_from_slice(&(bar | 0xc).to_le_bytes());
        config[0x34] = 0x98;
        for (at, next, len, kind, offset) in [
            (0x40, 0u8, 16u8, 1u8, 0u32),
            (0x50, 0x40, 16, 3, 0x1000),
            (0x60, 0x50, 16, 4, DEVICE_CONFIG as u32),
            (0x70, 0x60, 20, 2, 0x3000),
            (0x84, 0x70, 20, 5, 0),
        ] {
            config[at..at + 8].copy_from_slice(&[9, next, len, kind, 4, 0, 0, 0]);
            config[at + 8..at + 12].copy_from_slice(&offset.to_le_bytes());
            config[at + 12..at + 16].copy_from_slice(&0x1000u32.to_le_bytes());
        }
        config[0x80] = DOORBELL as u8;
        // The model's MSI-X table lies in BAR 4 as well: BAR 1 cannot lie above 4 GiB.
        config[0x98..0xa0].copy_from_slice(&[0x11, 0x84, 1, 0, 4, 0x40, 0, 0]);
        let mut registers = Self {
            bus: 0,
            slot,
            present: true,
            config,
            bar,
            msix: [0; 8],
            features: VERSION_1 | features,
            required: VERSION_1,
            driver_features: 0,
            select: 0,
            status: 0,
            generation: 0,
            config_vector: 0xffff,
            queue_select: 0,
            queues: Vec::new(),
            size: 128,
        };
        registers.set_queues(queues);
        registers
    }

    pub(crate) fn set_queues(&mut self, count: usize) {
        let fresh = QueueRegisters {
            rings: [0; 3],
            size: self.size,
            enabled: false,
            vector: 0xffff,
            seen: 0,
            used: 0,
        };
        self.queues = std::vec![fresh; count];
    }

    /// A read of BAR 4; `None` if it is another device's.
    pub(crate) fn read(&self, addr: u64, size: usize, device_config: &[u8]) -> Option<u64> {
        let offset = addr.checked_sub(self.bar).filter(|offset| *offset < 0x5000 && self.present)?;
        let queue = self.queues.get(self.queue_select);
        Some(match offset {
            4 => self.features >> (32 * self.select) & 0xffff_ffff,
            16 => u64::from(self.config_vector),
            18 => self.queues.len() as u64,
            20 => u64::from(self.status),
            21 => u64::from(self.generation),
            24 => queue.map_or(0, |queue| u64::from(queue.size)),
            26 => queue.map_or(0xffff, |queue| u64::from(queue.vector)),
            30 => self.queue_select as u64,
            DEVICE_CONFIG..0x3000 => {
                let at = (offset - DEVICE_CONFIG) as usize;
                let byte = |at: usize| device_config.get(at).copied().unwrap_or(0);
                (0..size).fold(0, |value, index| value | u64::from(byte(at + index)) << (8 * index))
            }
            _ => 0,
        })
    }

    /// A write to BAR 4, or to somewhere else.
    pub(crate) fn write(&mut self, addr: u64, size: usize, value: u64) -> Asked {
        let Some(offset) = addr.checked_sub(self.bar).filter(|offset| *offset < 0x5000) else {
            return Asked::Nothing;
        };
        match offset {
            0 | 8 => self.select = value as u32,
            12 => {
                let shift = 32 * self.select;
                self.driver_features = self.driver_features & !(0xffff_ffff << shift) | value << shift;
            }
            16 => self.config_vector = value as u16,
            20 if value == 0 => {
                self.reset();
                return Asked::Reset;
            }
            20 => {
                let taken = self.driver_features & self.required == self.features & self.required;
                self.status = (value & if taken { !0 } else { !FEATURES_OK }) as u8;
            }
            22 => self.queue_select = value as usize,
            24..56 => self.write_queue(offset, size, value),
            0x3000..0x3100 => return self.notified((offset - 0x3000) / DOORBELL),
            0x4000..0x4020 => self.msix[(offset - 0x4000) as usize / 4] = value as u32,
            _ => {}
        }
        Asked::Nothing
    }

    fn write_queue(&mut self, offset: u64, size: usize, value: u64) {
        let Some(queue) = self.queues.get_mut(self.queue_select) else { return };
        match offset {
            24 => queue.size = value as u16,
            26 => queue.vector = value as u16,
            28 => queue.enabled = value == 1,
            32..56 => {
                assert_eq!(size, 4, "64-bit registers are written in halves");
                let (register, shift) = ((offset - 32) as usize / 8, offset % 8 * 8);
                let ring = &mut queue.rings[register];
                *ring = *ring & !(0xffff_ffff << shift) | value << shift;
            }
            _ => {}
        }
    }

    fn reset(&mut self) {
        (self.status, self.driver_features, self.config_vector) = (0, 0, 0xffff);
        self.set_queues(self.queues.len());
    }

    fn notified(&self, queue: u64) -> Asked {
        let live = self.status & DRIVER_OK != 0 && self.status & NEEDS_RESET == 0;
        match self.queues.get(queue as usize) {
            Some(registers) if registers.enabled && live => Asked::Notified(queue as usize),
            _ => Asked::Nothing,
        }
    }

    pub(crate) fn breaks(&mut self) {
        self.status |= NEEDS_RESET;
    }

    /// Chains of a queue that were not taken yet.
    pub(crate) fn waiting(&self, memory: &Memory, queue: usize) -> u16 {
        let queue = &self.queues[queue];
        (memory.word(queue.rings[1] + 2, 2) as u16).wrapping_sub(queue.seen)
    }

    /// Takes the next chain: its head and buffers. `None` if it is malformed.
    pub(crate) fn take(&mut self, memory: &Memory, queue: usize) -> Option<(u16, Vec<Part>)> {
        let queue = &mut self.queues[queue];
        let slot = u64::from(queue.seen % queue.size);
        queue.seen = queue.seen.wrapping_add(1);
        let head = memory.word(queue.rings[1] + 4 + 2 * slot, 2);
        let (mut at, mut parts) = (head, Vec::new());
        loop {
            if at >= u64::from(queue.size) || parts.len() > usize::from(queue.size) {
                return None;
            }
            let field = |offset, size| memory.word(queue.rings[0] + 16 * at + offset, size);
            let flags = field(12, 2);
            if flags & !3 != 0 || field(8, 4) == 0 {
                return None;
            }
            parts.push((field(0, 8), field(8, 4), flags & 2 != 0));
            if flags & 1 == 0 {
                return Some((head as u16, parts));
            }
            at = field(14, 2);
        }
    }

    /// Puts an element on the used ring and moves its index by `step`, which is 1 for an honest device.
    pub(crate) fn give_back(&mut self, memory: &mut Memory, queue: usize, id: u32, len: u32, step: u16) {
        let queue = &mut self.queues[queue];
        let slot = u64::from(queue.used % queue.size);
        memory.write(queue.rings[2] + 4 + 8 * slot, &[id, len].map(u32::to_le_bytes).concat());
        queue.used = queue.used.wrapping_add(step);
        memory.write(queue.rings[2] + 2, &queue.used.to_le_bytes());
    }
}
