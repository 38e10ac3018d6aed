//! A virtio entropy device: the bytes 1, 2, 3 … and misbehaviour on request.

use super::Memory;
use super::registers::{Asked, Registers};
use std::vec::Vec;

/// What an entropy device does with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EntropyFault {
    /// Never answers.
    Silent,
    /// Says that it wrote this many bytes.
    Says(u32),
    /// Sets DEVICE_NEEDS_RESET.
    Breaks,
}

pub(crate) struct Entropy {
    pub(crate) pci: Registers,
    pub(crate) requests: usize,
    pub(crate) fault: Option<EntropyFault>,
}

impl Entropy {
    pub(crate) fn new(slot: u8) -> Self {
        Self { pci: Registers::new(slot, 4, 0, 1), requests: 0, fault: None }
    }

    pub(crate) fn write(&mut self, memory: &mut Memory, addr: u64, size: usize, value: u64) {
        let Asked::Notified(queue) = self.pci.write(addr, size, value) else { return };
        while self.pci.waiting(memory, queue) != 0 && self.pci.status & 0x40 == 0 {
            let Some((head, parts)) = self.pci.take(memory, queue) else { return self.pci.breaks() };
            let [(addr, len, true)] = parts[..] else { return self.pci.breaks() };
            self.requests += 1;
            match self.fault {
                Some(EntropyFault::Silent) => {}
                Some(EntropyFault::Breaks) => self.pci.breaks(),
                Some(EntropyFault::Says(len)) => self.pci.give_back(memory, queue, head.into(), len, 1),
                None => {
                    let bytes: Vec<u8> = (1..=len).map(|n| n as u8).collect();
                    memory.write(addr, &bytes);
                    self.pci.give_back(memory, queue, head.into(), len as u32, 1);
                }
            }
        }
    }
}
