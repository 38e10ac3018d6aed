//! The end of the line: exceptions and panics are reported on the serial port, then the machine is powered off.
#![expect(unsafe_code, reason = "the trap record is written by assembly code")]

use crate::cpu::{halt, in8, out8, out16};
use core::fmt::{self, Write};
use core::panic::PanicInfo;

unsafe extern "C" {
    /// Vector, error code, RIP, CR2, RAX of the exception (entry.rs).
    static guest_trap: [u64; 8];
}

/// An exception came. Ring 3, on a fresh stack.
#[unsafe(no_mangle)]
extern "C" fn guest_trapped() -> ! {
    // SAFETY: written by the stub before it came here; nothing else runs that could write it.
    let trap = unsafe { (&raw const guest_trap).read_volatile() };
    let [vector, error, rip, cr2, ..] = trap;
    fatal(format_args!("exception {vector}, error code {error:#x}, rip {rip:#x}, cr2 {cr2:#x}"))
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    fatal(format_args!("{info}"))
}

/// Reports and powers off.
pub(crate) fn fatal(message: fmt::Arguments<'_>) -> ! {
    let _ = writeln!(Serial, "\r\npliant-guest: fatal: {message}\r");
    out16(0x604, 0x2000);
    out8(0xf4, 1);
    halt()
}

/// The serial port without its buffer: waits for each byte, but not for ever.
struct Serial;

impl Write for Serial {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            for _ in 0..10_000 {
                if in8(0x3fd) & 0x20 != 0 {
                    break;
                }
            }
            out8(0x3f8, byte);
        }
        Ok(())
    }
}
