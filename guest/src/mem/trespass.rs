//! Touching what is not plugged, to see that nothing comes of it.

use super::Driver;
use crate::bus::Bus;

/// What came of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TrespassResult {
    /// Blocks that were written to and read.
    pub touched: u64,
    /// Blocks that gave back what was written, or anything but zero.
    pub gave: u64,
}

impl Driver {
    /// Writes to the first and last word of every block of the region that is not plugged, and reads them. Ends early
    /// when the bus is [stopped](Bus::stopped).
    pub fn trespass(&self, bus: &mut impl Bus) -> TrespassResult {
        let mut result = TrespassResult::default();
        let size = self.config.block_size;
        for block in 0..self.map.blocks() {
            if self.map.get(bus, block) != 0 {
                continue;
            }
            if bus.stopped() {
                break;
            }
            let first = self.block_addr(block);
            let words = [first, first + size - 8];
            words.iter().for_each(|addr| bus.ram_write64(*addr, !addr));
            let mut gave = false;
            for addr in words {
                gave |= bus.ram_read64(addr) != 0;
            }
            result.touched += 1;
            result.gave += u64::from(gave);
        }
        result
    }
}
