//! What plugged blocks hold: patterns that are written when they are plugged and again while a `dirty` job runs, and verified.

use super::blocks::{LAST_GENERATION, UNKNOWN};
use super::{Driver, Event, Request, Run};
use crate::bus::Bus;

/// What [`Driver::check`] found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CheckResult {
    /// Blocks whose contents were verified.
    pub blocks: u64,
    /// Plugged blocks that were never written.
    pub unknown: u64,
    /// 8-byte words that differ.
    pub mismatches: u64,
    /// Where the first mismatch is: the start of its block.
    pub first: Option<u64>,
}

impl Driver {
    /// The generation of what is written next.
    pub(super) fn next_pattern(&mut self) -> u8 {
        self.pattern = if self.pattern == LAST_GENERATION { 1 } else { self.pattern + 1 };
        self.pattern
    }

    /// Writes the blocks' pattern of generation `value`; as `touch` says, nothing for [`UNKNOWN`].
    pub(super) fn write_run(&self, bus: &mut impl Bus, run: Run, value: u8) {
        let len = self.touch.len(self.config.block_size);
        if len == 0 || value == UNKNOWN {
            return;
        }
        if len == self.config.block_size {
            bus.pattern_write(self.block_addr(run.first), run.count * len, u64::from(value));
            return;
        }
        for block in run.first..run.first + run.count {
            bus.pattern_write(self.block_addr(block), len, u64::from(value));
        }
    }

    pub(super) fn verify_before_unplug(&mut self, bus: &mut impl Bus, run: Run) {
        let mut result = CheckResult::default();
        for block in run.first..run.first + run.count {
            let value = self.map.get(bus, block);
            self.check_block(bus, block, value, &mut result);
        }
        if let Some(first) = result.first {
            self.event = Some(Event::Mismatch(first, result.mismatches));
        }
    }

    fn check_block(&self, bus: &mut impl Bus, block: u64, value: u8, result: &mut CheckResult) {
        let len = self.touch.len(self.config.block_size);
        if value == UNKNOWN || len == 0 {
            result.unknown += 1;
            return;
        }
        let wrong = bus.pattern_verify(self.block_addr(block), len, u64::from(value));
        result.blocks += 1;
        result.mismatches += wrong;
        if wrong != 0 && result.first.is_none() {
            result.first = Some(self.block_addr(block));
        }
    }

    /// Whether a block was offered back, and may be the device's by now.
    fn leaves(&self, block: u64) -> bool {
        match self.inflight {
            Some(Request::Unplug(run)) => (run.first..run.first + run.count).contains(&block),
            Some(Request::UnplugAll) => true,
            _ => false,
        }
    }

    /// Verifies the contents of all plugged blocks. Takes as long as the memory takes to read; ends early when the bus
    /// is [stopped](Bus::stopped).
    pub fn check(&self, bus: &mut impl Bus) -> CheckResult {
        let mut result = CheckResult::default();
        let mut from = 0;
        while let Some((run, value)) = self.map.find_plugged(bus, from, 64) {
            for block in run.first..run.first + run.count {
                if !self.leaves(block) {
                    self.check_block(bus, block, value, &mut result);
                }
            }
            if bus.stopped() {
                break;
            }
            from = run.first + run.count;
        }
        result
    }

    /// Writes the whole lowest plugged block at or after number `from` with the next pattern, so that [`Driver::check`] stays
    /// true and finds out if what was there before comes back. Returns the number after it, `None` if there is no such block.
    pub fn rewrite(&mut self, bus: &mut impl Bus, from: u64) -> Option<u64> {
        let mut at = from;
        let (run, known) = loop {
            let (run, known) = self.map.find_plugged(bus, at, 1)?;
            if !self.leaves(run.first) {
                break (run, known);
            }
            at = run.first + 1;
        };
        // What is not verified needs no new pattern.
        let value = if known == UNKNOWN { UNKNOWN } else { self.next_pattern() };
        bus.pattern_write(self.block_addr(run.first), self.config.block_size, u64::from(value));
        self.map.set(bus, run, value);
        Some(run.first + 1)
    }
}
