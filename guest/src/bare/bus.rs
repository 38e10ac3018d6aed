//! [`Bus`] on the bare machine: instructions and pointers.
#![expect(unsafe_code, reason = "guest-physical addresses are this program's memory, identity mapped")]

use crate::clock::Clock;
use crate::cpu;
use crate::paging::Paging;
use core::ptr::with_exposed_provenance_mut;
use guest::bus::{Bus, MsiMessage, pattern_step};

const LAPIC: u64 = 0xfee0_0000;
const LAPIC_ID: u64 = LAPIC + 0x20;
const LAPIC_SPURIOUS: u64 = LAPIC + 0xf0;
const LAPIC_LINT0: u64 = LAPIC + 0x350;
/// Vectors of MSI-X entries from here on (entry.rs: 30h–EFh end at the local APIC).
const MSI_VECTOR: u32 = 0x40;
const PIC_MASTER: u16 = 0x20;
const PIC_SLAVE: u16 = 0xa0;

/// The machine.
pub(crate) struct BareBus {
    paging: Paging,
    clock: Clock,
    apic_id: u32,
    /// Lines of the slave 8259 that functions' pins end at.
    pins: u8,
}

impl BareBus {
    /// Takes the machine over: interrupt controllers and clock. `features` and `address_bits` as CPUID says.
    pub(crate) fn new(features: u32, address_bits: u32) -> Self {
        set_up_pic();
        let mut bus = Self { paging: Paging::new(features, address_bits), clock: Clock::new(), apic_id: 0, pins: 0 };
        // The local APIC accepts messages once it is enabled; LINT0 passes the 8259's interrupts through (ExtINT).
        bus.mmio_write32(LAPIC_SPURIOUS, 0x1ff);
        bus.mmio_write32(LAPIC_LINT0, 0x700);
        bus.apic_id = bus.mmio_read32(LAPIC_ID) >> 24;
        bus
    }

    /// Where the program's own memory ends.
    pub(crate) fn in_use_below(&self) -> u64 {
        self.paging.end()
    }

    /// A pointer for `len` bytes at `addr`; `None` where there is no address.
    fn pointer<T>(&mut self, addr: u64, len: u64) -> Option<*mut T> {
        // The program itself, its stack and its page tables are not reachable through the bus.
        let own = addr < self.paging.end() && addr.saturating_add(len) > 1 << 20;
        (!own && addr != 0 && self.paging.map(addr, len)).then(|| with_exposed_provenance_mut(addr as usize))
    }
}

/// The 8259 pair: vectors from 20h, timer (IRQ 0) and first serial port (IRQ 4) only, until a device has no messages.
fn set_up_pic() {
    for (port, vector, wiring) in [(PIC_MASTER, 0x20, 4), (PIC_SLAVE, 0x28, 2)] {
        cpu::out8(port, 0x11);
        cpu::out8(port + 1, vector);
        cpu::out8(port + 1, wiring);
        cpu::out8(port + 1, 1);
    }
    cpu::out8(PIC_MASTER + 1, !(1 | 1 << 4));
    cpu::out8(PIC_SLAVE + 1, 0xff);
}

/// Device memory accesses of one size.
macro_rules! mmio {
    ($read:ident, $write:ident, $type:ty) => {
        fn $read(&mut self, addr: u64) -> $type {
            let Some(pointer) = self.pointer::<$type>(addr, size_of::<$type>() as u64) else {
                return <$type>::MAX;
            };
            // SAFETY: mapped, and outside of this program's own memory (`pointer`). x86 has no alignment requirement here,
            // but Rust has: a misaligned address is a read of nothing.
            if pointer.is_aligned() { unsafe { pointer.read_volatile() } } else { <$type>::MAX }
        }
        fn $write(&mut self, addr: u64, value: $type) {
            if let Some(pointer) = self.pointer::<$type>(addr, size_of::<$type>() as u64)
                && pointer.is_aligned()
            {
                // SAFETY: as for reading; no reference points outside of this program's own memory.
                unsafe { pointer.write_volatile(value) }
            }
        }
    };
}

impl Bus for BareBus {
    fn in8(&mut self, port: u16) -> u8 {
        cpu::in8(port)
    }
    fn in16(&mut self, port: u16) -> u16 {
        cpu::in16(port)
    }
    fn in32(&mut self, port: u16) -> u32 {
        cpu::in32(port)
    }
    fn out8(&mut self, port: u16, value: u8) {
        cpu::out8(port, value);
    }
    fn out16(&mut self, port: u16, value: u16) {
        cpu::out16(port, value);
    }
    fn out32(&mut self, port: u16, value: u32) {
        cpu::out32(port, value);
    }

    mmio!(mmio_read8, mmio_write8, u8);
    mmio!(mmio_read16, mmio_write16, u16);
    mmio!(mmio_read32, mmio_write32, u32);
    mmio!(mmio_read64, mmio_write64, u64);

    fn ram_read(&mut self, addr: u64, buf: &mut [u8]) {
        match buf.len() {
            2 if addr.is_multiple_of(2) => buf.copy_from_slice(&self.mmio_read16(addr).to_le_bytes()),
            4 if addr.is_multiple_of(4) => buf.copy_from_slice(&self.mmio_read32(addr).to_le_bytes()),
            8 if addr.is_multiple_of(8) => buf.copy_from_slice(&self.mmio_read64(addr).to_le_bytes()),
            len => match self.pointer::<u8>(addr, len as u64) {
                // SAFETY: mapped and outside of this program's memory, so it does not overlap `buf`.
                Some(pointer) => unsafe { pointer.copy_to_nonoverlapping(buf.as_mut_ptr(), len) },
                None => buf.fill(0xff),
            },
        }
    }

    fn ram_write(&mut self, addr: u64, buf: &[u8]) {
        match *buf {
            [a, b] if addr.is_multiple_of(2) => self.mmio_write16(addr, u16::from_le_bytes([a, b])),
            [a, b, c, d] if addr.is_multiple_of(4) => {
                self.mmio_write32(addr, u32::from_le_bytes([a, b, c, d]))
            }
            [a, b, c, d, e, f, g, h] if addr.is_multiple_of(8) => {
                self.mmio_write64(addr, u64::from_le_bytes([a, b, c, d, e, f, g, h]));
            }
            _ => {
                if let Some(pointer) = self.pointer::<u8>(addr, buf.len() as u64) {
                    // SAFETY: mapped and outside of this program's memory, so it does not overlap `buf`.
                    unsafe { pointer.copy_from_nonoverlapping(buf.as_ptr(), buf.len()) }
                }
            }
        }
    }

    fn wake_on_line(&mut self, line: u8) -> bool {
        // Those that boards give to pins.
        if !matches!(line, 10 | 11) {
            return false;
        }
        self.pins |= 1 << (line - 8);
        cpu::out8(PIC_MASTER + 1, !(1 | 1 << 2 | 1 << 4));
        true
    }

    fn idle(&mut self) {
        if self.pins != 0 {
            // The interrupt masked them, since a pin stays raised until its driver has been there (entry.rs).
            cpu::out8(PIC_SLAVE + 1, !self.pins);
        }
        cpu::sleep();
    }

    fn now_ns(&mut self) -> u64 {
        self.clock.now_ns()
    }

    fn msi(&mut self, index: u16) -> Option<MsiMessage> {
        Some(MsiMessage {
            address: LAPIC | u64::from(self.apic_id) << 12,
            data: MSI_VECTOR + u32::from(index & 0x1f),
        })
    }

    fn sequence_write(&mut self, addr: u64, len: u64, first: u64) {
        let Some(pointer) = self.pointer::<u64>(addr, len).filter(|pointer| pointer.is_aligned()) else {
            return;
        };
        for index in 0..(len / 8) as usize {
            // SAFETY: mapped, aligned and outside of this program's memory, `index` stays below `len / 8`. Not volatile, so
            // that the compiler may use vector stores; the memory is read back through pointers of the same origin.
            unsafe {
                pointer.add(index).write(first.wrapping_add((index as u64).wrapping_mul(pattern_step())))
            };
        }
    }

    fn sequence_verify(&mut self, addr: u64, len: u64, first: u64) -> u64 {
        let Some(pointer) = self.pointer::<u64>(addr, len).filter(|pointer| pointer.is_aligned()) else {
            return len / 8;
        };
        let mut wrong = 0;
        for index in 0..(len / 8) as usize {
            // SAFETY: as for writing.
            let word = unsafe { pointer.add(index).read() };
            wrong += u64::from(word != first.wrapping_add((index as u64).wrapping_mul(pattern_step())));
        }
        wrong
    }
}
