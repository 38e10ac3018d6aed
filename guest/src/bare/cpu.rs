//! Instructions: ports, time stamp counter, sleep.
#![expect(unsafe_code, reason = "port and processor instructions have no safe form")]

use core::arch::asm;

/// Input and output for one operand size.
macro_rules! ports {
    ($in:ident, $out:ident, $type:ty, $register:tt) => {
        /// Reads a port.
        pub(crate) fn $in(port: u16) -> $type {
            let value: $type;
            // SAFETY: all ports are permitted by IOPL and I/O bitmap (entry.rs), so the instruction does not fault; it touches no memory of this program.
            unsafe {
                asm!(concat!("in ", $register, ", dx"), in("dx") port, out($register) value,
                    options(nomem, nostack, preserves_flags));
            }
            value
        }
        /// Writes a port.
        pub(crate) fn $out(port: u16, value: $type) {
            // SAFETY: as above. What a device does with the write is the driver's business; devices reach memory only
            // through addresses the driver gave them, and not `nomem`, so that those writes come first.
            unsafe {
                asm!(concat!("out dx, ", $register), in("dx") port, in($register) value,
                    options(nostack, preserves_flags));
            }
        }
    };
}

ports!(in8, out8, u8, "al");
ports!(in16, out16, u16, "ax");
ports!(in32, out32, u32, "eax");

/// The time stamp counter.
pub(crate) fn tsc() -> u64 {
    // SAFETY: CR4.TSD is clear, so RDTSC is permitted in ring 3; it touches no memory.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// Sleeps until an interrupt comes, or not at all if one is pending.
pub(crate) fn sleep() {
    // SAFETY: the general protection fault of HLT in ring 3 leads to a stub that sleeps and preserves all registers, on a
    // stack of its own (entry.rs). Devices may have changed memory meanwhile, hence not `nomem`.
    unsafe { asm!("hlt") };
}

/// The end: sleeps for ever.
pub(crate) fn halt() -> ! {
    loop {
        sleep();
    }
}
