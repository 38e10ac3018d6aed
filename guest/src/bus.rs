//! How the guest reaches the machine: ports, device memory, RAM, time and sleep.
//!
//! All addresses are guest-physical. The trait has no error returns because hardware has none: a read that nothing
//! answers gives all ones, a write that nothing answers is dropped.

use core::sync::atomic::{Ordering, fence};

/// What a device writes to interrupt the guest (PCI 3.0 §6.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MsiMessage {
    /// The message address, `0xfee0_0000` plus the APIC ID for a local APIC.
    pub address: u64,
    /// The message data, the interrupt vector for a local APIC.
    pub data: u32,
}

/// The machine as the guest sees it.
///
/// Values are little endian, as x86 has them. Implementations must not panic on any address: addresses come from
/// devices and from the serial line.
pub trait Bus {
    /// Reads a byte from an I/O port.
    fn in8(&mut self, port: u16) -> u8;
    /// Reads two bytes from an I/O port.
    fn in16(&mut self, port: u16) -> u16;
    /// Reads four bytes from an I/O port.
    fn in32(&mut self, port: u16) -> u32;
    /// Writes a byte to an I/O port.
    fn out8(&mut self, port: u16, value: u8);
    /// Writes two bytes to an I/O port.
    fn out16(&mut self, port: u16, value: u16);
    /// Writes four bytes to an I/O port.
    fn out32(&mut self, port: u16, value: u32);

    /// Reads a byte of device memory.
    fn mmio_read8(&mut self, addr: u64) -> u8;
    /// Reads two bytes of device memory; `addr` is a multiple of 2.
    fn mmio_read16(&mut self, addr: u64) -> u16;
    /// Reads four bytes of device memory; `addr` is a multiple of 4.
    fn mmio_read32(&mut self, addr: u64) -> u32;
    /// Reads eight bytes of device memory as one access; `addr` is a multiple of 8.
    fn mmio_read64(&mut self, addr: u64) -> u64;
    /// Writes a byte of device memory.
    fn mmio_write8(&mut self, addr: u64, value: u8);
    /// Writes two bytes of device memory; `addr` is a multiple of 2.
    fn mmio_write16(&mut self, addr: u64, value: u16);
    /// Writes four bytes of device memory; `addr` is a multiple of 4.
    fn mmio_write32(&mut self, addr: u64, value: u32);
    /// Writes eight bytes of device memory as one access; `addr` is a multiple of 8.
    fn mmio_write64(&mut self, addr: u64, value: u64);

    /// Copies out of RAM. Aligned 2-, 4- and 8-byte copies must be single accesses: ring indices are read through here.
    fn ram_read(&mut self, addr: u64, buf: &mut [u8]);
    /// Copies into RAM. Aligned 2-, 4- and 8-byte copies must be single accesses: ring indices are written through here.
    fn ram_write(&mut self, addr: u64, buf: &[u8]);

    /// Reads a 16-bit word of RAM.
    fn ram_read16(&mut self, addr: u64) -> u16 {
        let mut bytes = [0; 2];
        self.ram_read(addr, &mut bytes);
        u16::from_le_bytes(bytes)
    }
    /// Reads a 64-bit word of RAM.
    fn ram_read64(&mut self, addr: u64) -> u64 {
        let mut bytes = [0; 8];
        self.ram_read(addr, &mut bytes);
        u64::from_le_bytes(bytes)
    }
    /// Writes a 16-bit word of RAM.
    fn ram_write16(&mut self, addr: u64, value: u16) {
        self.ram_write(addr, &value.to_le_bytes());
    }
    /// Writes a 64-bit word of RAM.
    fn ram_write64(&mut self, addr: u64, value: u64) {
        self.ram_write(addr, &value.to_le_bytes());
    }

    /// Orders RAM accesses before it against those after it, as seen by devices.
    fn barrier(&mut self) {
        fence(Ordering::SeqCst);
    }

    /// Sleeps until something may have happened: an interrupt, serial input, or at most about 50 ms. May return at once.
    /// An interrupt that came since the last `idle` must not be lost: then it returns at once.
    fn idle(&mut self);
    /// Called in short loops that wait for a device.
    fn relax(&mut self) {
        core::hint::spin_loop();
    }
    /// Nanoseconds since some fixed moment; never goes back.
    fn now_ns(&mut self) -> u64;
    /// The host wants the program to return (hosted only: quit, stop for good, reset).
    fn stopped(&mut self) -> bool {
        false
    }
    /// What to put into entry `index` of an MSI-X table so that [`Bus::idle`] wakes, or `None` to leave MSI-X off.
    fn msi(&mut self, _index: u16) -> Option<MsiMessage> {
        None
    }

    /// Has [`Bus::idle`] wake when interrupt line `line` (of the 8259 pair) is raised, too; whether it will. The driver lowers the
    /// line again each time it looks at its device.
    fn wake_on_line(&mut self, _line: u8) -> bool {
        false
    }

    /// Fills `len` bytes (a multiple of 8) of RAM from `addr` (a multiple of 8) with words that begin with `first` and go on in
    /// steps of [`pattern_step`].
    ///
    /// The default goes through [`Bus::ram_write`] a page at a time.
    fn sequence_write(&mut self, addr: u64, len: u64, first: u64) {
        let mut page = [0u8; PAGE];
        let (mut done, mut word) = (0, first);
        while done < len {
            let count = (len - done).min(PAGE as u64) as usize;
            for bytes in page[..count].chunks_exact_mut(8) {
                bytes.copy_from_slice(&word.to_le_bytes());
                word = word.wrapping_add(PATTERN_STEP);
            }
            self.ram_write(addr + done, &page[..count]);
            done += count as u64;
        }
    }

    /// Counts the 8-byte words in the range that differ from what [`Bus::sequence_write`] wrote.
    fn sequence_verify(&mut self, addr: u64, len: u64, first: u64) -> u64 {
        let mut page = [0u8; PAGE];
        let (mut done, mut wrong, mut word) = (0, 0, first);
        while done < len {
            let count = (len - done).min(PAGE as u64) as usize;
            self.ram_read(addr + done, &mut page[..count]);
            for bytes in page[..count].chunks_exact(8) {
                wrong += u64::from(bytes != word.to_le_bytes());
                word = word.wrapping_add(PATTERN_STEP);
            }
            done += count as u64;
        }
        wrong
    }

    /// Fills `len` bytes (a multiple of 8) of RAM from `addr` (a multiple of 8) with the [`pattern`] of these addresses.
    fn pattern_write(&mut self, addr: u64, len: u64, generation: u64) {
        self.sequence_write(addr, len, pattern(addr, generation));
    }

    /// Counts the 8-byte words in the range that differ from what [`Bus::pattern_write`] wrote.
    fn pattern_verify(&mut self, addr: u64, len: u64, generation: u64) -> u64 {
        self.sequence_verify(addr, len, pattern(addr, generation))
    }
}

/// Bytes copied at a time by the default sequence methods.
const PAGE: usize = 4096;

/// The step between the pattern's neighbouring words, odd, so that every word of an address space is different.
const PATTERN_STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// The word that belongs at `addr` in memory written in `generation`.
///
/// Linear in the address, so that a fill is one addition a word; different for every word and every generation, so that
/// stale, moved and lost memory are told apart.
#[must_use]
pub const fn pattern(addr: u64, generation: u64) -> u64 {
    let salt = (generation.wrapping_add(1)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    (addr >> 3).wrapping_mul(PATTERN_STEP).wrapping_add(salt ^ (salt >> 29))
}

/// `pattern(addr + 8, g) == pattern(addr, g) + pattern_step()`, for implementations that fill memory themselves.
#[must_use]
pub const fn pattern_step() -> u64 {
    PATTERN_STEP
}

#[cfg(test)]
mod tests;
