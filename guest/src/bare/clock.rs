//! Time: the 8254 ticks at 20 Hz (so that a sleeping guest looks around now and then) and calibrates the time stamp
//! counter.

use crate::cpu::{in8, out8, tsc};
use guest::timer::{self, Look, PIT_HZ};

const COUNTER0: u16 = 0x40;
const MODE: u16 = 0x43;
/// 50 ms.
const RELOAD: u16 = (PIT_HZ / 20) as u16;
/// Taken when the 8254 does not count.
const FALLBACK_HZ: u64 = 2_000_000_000;

/// The clock.
pub(crate) struct Clock {
    start: u64,
    /// Nanoseconds a tick, in 2^-32.
    scale: u64,
}

impl Clock {
    /// Starts the tick and calibrates; takes about 4 ms.
    pub(crate) fn new() -> Self {
        // Counter 0, both bytes, mode 2 (rate generator).
        out8(MODE, 0x34);
        out8(COUNTER0, RELOAD as u8);
        out8(COUNTER0, (RELOAD >> 8) as u8);
        let start = tsc();
        let hz = timer::calibrate(RELOAD, look).unwrap_or(FALLBACK_HZ).max(1_000_000);
        Self { start, scale: ((1_000_000_000u128 << 32) / u128::from(hz)) as u64 }
    }

    /// Nanoseconds since the start.
    pub(crate) fn now_ns(&self) -> u64 {
        ((u128::from(tsc().wrapping_sub(self.start)) * u128::from(self.scale)) >> 32) as u64
    }
}

/// A look at counter 0.
fn look() -> Look {
    let before = tsc();
    // Latches it.
    out8(MODE, 0);
    let after = tsc();
    let low = in8(COUNTER0);
    Look { before, count: u16::from(low) | u16::from(in8(COUNTER0)) << 8, after }
}
