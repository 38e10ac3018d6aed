//! The reset control register at port cf9h of both south bridges (Intel ICH9 datasheet §13.7.5).

use std::sync::Weak;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

use memory::RegionOps;
use qapi::types::ShutdownCause;

use crate::core::machine::Machine;

/// The port.
pub const PORT: u64 = 0xcf9;
/// Bit 1: system reset; bit 2: reset now.
const RESET_CPU: u8 = 1 << 2;
const WRITABLE: u8 = 0x02;

/// The register.
pub struct ResetControl {
    machine: Weak<Machine>,
    value: AtomicU8,
}

impl ResetControl {
    /// The register of `machine`.
    pub fn new(machine: Weak<Machine>) -> Self {
        Self { machine, value: AtomicU8::new(0) }
    }

    /// What was written.
    pub fn value(&self) -> u8 {
        self.value.load(Relaxed)
    }

    /// Takes over what was written elsewhere; nothing is reset.
    pub fn load(&self, value: u8) {
        self.value.store(value & WRITABLE, Relaxed);
    }

    /// Power-on state.
    pub fn reset(&self) {
        self.value.store(0, Relaxed);
    }
}

impl RegionOps for ResetControl {
    fn read(&self, _offset: u64, _size: u8) -> u64 {
        self.value.load(Relaxed).into()
    }
    fn write(&self, _offset: u64, _size: u8, value: u64) {
        if value as u8 & RESET_CPU != 0 {
            if let Some(machine) = self.machine.upgrade() {
                machine.request_reset(ShutdownCause::GuestReset);
            }
            return;
        }
        self.value.store(value as u8 & WRITABLE, Relaxed);
    }
}
