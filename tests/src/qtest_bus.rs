//! The built-in guest's driver as a client of the qtest protocol: its [`Bus`] over a [`Qtest`] connection, so that the very code
//! that runs on a vCPU drives a device through a socket.

use guest::Bus;

use crate::Qtest;

/// A bus whose every access is a line of the protocol.
pub struct QtestBus<'a> {
    qtest: &'a mut Qtest,
    /// Guest time, nanoseconds: it passes where the driver waits.
    now: u64,
}

impl<'a> QtestBus<'a> {
    /// A bus over `qtest`.
    pub fn new(qtest: &'a mut Qtest) -> Self {
        Self { qtest, now: 0 }
    }
}

impl Bus for QtestBus<'_> {
    fn in8(&mut self, port: u16) -> u8 {
        self.qtest.inp(port, 1) as u8
    }
    fn in16(&mut self, port: u16) -> u16 {
        self.qtest.inp(port, 2) as u16
    }
    fn in32(&mut self, port: u16) -> u32 {
        self.qtest.inp(port, 4)
    }
    fn out8(&mut self, port: u16, value: u8) {
        self.qtest.out(port, 1, value.into());
    }
    fn out16(&mut self, port: u16, value: u16) {
        self.qtest.out(port, 2, value.into());
    }
    fn out32(&mut self, port: u16, value: u32) {
        self.qtest.out(port, 4, value);
    }
    fn mmio_read8(&mut self, addr: u64) -> u8 {
        self.qtest.read(addr, 1) as u8
    }
    fn mmio_read16(&mut self, addr: u64) -> u16 {
        self.qtest.read(addr, 2) as u16
    }
    fn mmio_read32(&mut self, addr: u64) -> u32 {
        self.qtest.read(addr, 4) as u32
    }
    fn mmio_read64(&mut self, addr: u64) -> u64 {
        self.qtest.read(addr, 8)
    }
    fn mmio_write8(&mut self, addr: u64, value: u8) {
        self.qtest.write(addr, 1, value.into());
    }
    fn mmio_write16(&mut self, addr: u64, value: u16) {
        self.qtest.write(addr, 2, value.into());
    }
    fn mmio_write32(&mut self, addr: u64, value: u32) {
        self.qtest.write(addr, 4, value.into());
    }
    fn mmio_write64(&mut self, addr: u64, value: u64) {
        self.qtest.write(addr, 8, value);
    }

    fn ram_read(&mut self, addr: u64, buf: &mut [u8]) {
        match buf.len() {
            // Ring indices must be single accesses, which the protocol's words are.
            size @ (2 | 4 | 8) => buf.copy_from_slice(&self.qtest.read(addr, size).to_le_bytes()[..size]),
            size => buf.copy_from_slice(&self.qtest.bytes(addr, size)),
        }
    }

    fn ram_write(&mut self, addr: u64, buf: &[u8]) {
        match buf.len() {
            size @ (2 | 4 | 8) => {
                let mut word = [0; 8];
                word[..size].copy_from_slice(buf);
                self.qtest.write(addr, size, u64::from_le_bytes(word));
            }
            _ => self.qtest.write_bytes(addr, buf),
        }
    }

    fn idle(&mut self) {
        self.now += 1_000_000;
    }

    fn now_ns(&mut self) -> u64 {
        self.now += 1_000;
        self.now
    }
}
