//! The bare-metal guest: long mode, ring 3, the guest program. Built by `build.rs` for the host target, freestanding.
//!
//! Ring 0 does as little as it can (see `entry.rs`): KVM without hardware help emulates it, slowly and integers only.
//! Everything here in Rust runs in ring 3 with IOPL 3.
//!
//! Left out: other processors (they stay in wait-for-SIPI), interrupts while running (only [`cpu::sleep`] takes them).
#![no_std]
#![no_main]
#![deny(unsafe_op_in_unsafe_fn)]

mod bus;
mod clock;
mod cpu;
mod entry;
mod memory;
mod paging;
mod trap;

use bus::BareBus;
use guest::program::{self, Exit};
use guest::start_info::StartInfo;

/// Ring 3 begins here: the address of the start information, and EDX of CPUID 8000_0001h with the physical address width of
/// CPUID 8000_0008h.
#[unsafe(no_mangle)]
extern "C" fn guest_main(start_info: u32, features: u32, address_bits: u32) -> ! {
    let mut bus = BareBus::new(features, address_bits);
    let in_use_below = bus.in_use_below();
    match StartInfo::read(&mut bus, u64::from(start_info), in_use_below) {
        Ok(info) => match program::run(&mut bus, &info) {
            Exit::PowerOff | Exit::Reset | Exit::Stopped => cpu::halt(),
        },
        Err(error) => trap::fatal(format_args!("bad start information at {start_info:#x}: {error:?}")),
    }
}
