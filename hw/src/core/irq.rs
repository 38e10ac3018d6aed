//! Interrupt lines of devices that drive one GSI of their own.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use accel::IrqChip;

/// One line. Dropping it lowers it.
pub struct IrqLine {
    chip: Arc<dyn IrqChip>,
    gsi: u32,
    level: AtomicBool,
}

impl IrqLine {
    /// Line `gsi`, low.
    pub fn new(chip: Arc<dyn IrqChip>, gsi: u32) -> Self {
        Self { chip, gsi, level: AtomicBool::new(false) }
    }

    /// Sets the level; the controller hears of changes only.
    pub fn set(&self, level: bool) {
        if self.level.swap(level, Ordering::AcqRel) != level {
            self.chip.set_gsi(self.gsi, level);
        }
    }

    /// The level.
    pub fn level(&self) -> bool {
        self.level.load(Ordering::Acquire)
    }
}

impl Drop for IrqLine {
    fn drop(&mut self) {
        self.set(false);
    }
}
