//! Which blocks are plugged and what was written to them: one byte a block, in guest RAM.
//!
//! A byte is 0 for an unplugged block, the pattern's generation (1–254) for one whose contents are known, [`UNKNOWN`] for
//! one that is plugged but was not written. The bytes are cleared when first needed, so that a region of many TiB costs
//! memory only for the part that was ever usable.

use super::Run;
use crate::arena::Arena;
use crate::bus::Bus;

/// Plugged, contents not known.
pub(crate) const UNKNOWN: u8 = 255;
/// Generations are 1 to this.
pub(crate) const LAST_GENERATION: u8 = 254;

const CHUNK: usize = 512;

/// The map of one region.
#[derive(Clone, Copy, Debug)]
pub struct BlockMap {
    base: u64,
    blocks: u64,
    /// Bytes below this are valid; blocks from here on are unplugged.
    known: u64,
    plugged: u64,
    /// All blocks below are plugged.
    first_clear: u64,
    /// No block at or above is plugged.
    end: u64,
}

impl BlockMap {
    /// Takes a map for `blocks` unplugged blocks from the arena.
    pub fn take(arena: &mut Arena, blocks: u64) -> Option<Self> {
        let base = arena.take(blocks, 4096)?;
        Some(Self { base, blocks, known: 0, plugged: 0, first_clear: 0, end: 0 })
    }

    /// Blocks in the region.
    #[must_use]
    pub const fn blocks(&self) -> u64 {
        self.blocks
    }

    /// Blocks that are plugged.
    #[must_use]
    pub const fn plugged(&self) -> u64 {
        self.plugged
    }

    /// All blocks are unplugged.
    pub fn clear_all(&mut self) {
        (self.known, self.plugged, self.first_clear, self.end) = (0, 0, 0, 0);
    }

    /// The byte of a block.
    pub fn get(&self, bus: &mut impl Bus, block: u64) -> u8 {
        let mut byte = [0];
        self.load(bus, block, &mut byte);
        byte[0]
    }

    fn load(&self, bus: &mut impl Bus, first: u64, bytes: &mut [u8]) {
        bytes.fill(0);
        let valid = self.known.saturating_sub(first).min(bytes.len() as u64) as usize;
        if valid > 0 {
            bus.ram_read(self.base + first, &mut bytes[..valid]);
        }
    }

    /// Sets the byte of a run, 0 to unplug it. What goes beyond the region is cut off.
    pub fn set(&mut self, bus: &mut impl Bus, run: Run, value: u8) {
        let first = run.first.min(self.blocks);
        let end = first.saturating_add(run.count).min(self.blocks);
        if first == end {
            return;
        }
        self.know(bus, end);
        let mut at = first;
        while at < end {
            let mut bytes = [0; CHUNK];
            let count = (end - at).min(CHUNK as u64) as usize;
            self.load(bus, at, &mut bytes[..count]);
            let was = bytes[..count].iter().filter(|b| **b != 0).count() as u64;
            self.plugged -= was;
            self.plugged += if value == 0 { 0 } else { count as u64 };
            bytes[..count].fill(value);
            bus.ram_write(self.base + at, &bytes[..count]);
            at += count as u64;
        }
        if value == 0 {
            self.first_clear = self.first_clear.min(first);
            if end >= self.end {
                self.end = self.end.min(first);
            }
        } else {
            if first <= self.first_clear {
                self.first_clear = self.first_clear.max(end);
            }
            self.end = self.end.max(end);
        }
    }

    fn know(&mut self, bus: &mut impl Bus, end: u64) {
        let zeroes = [0; CHUNK];
        while self.known < end {
            let count = (self.blocks - self.known).min(CHUNK as u64);
            bus.ram_write(self.base + self.known, &zeroes[..count as usize]);
            self.known += count;
        }
    }

    /// The lowest run of unplugged blocks below `limit`, at most `max` long.
    pub fn find_unplugged(&self, bus: &mut impl Bus, limit: u64, max: u64) -> Option<Run> {
        self.find(bus, self.first_clear, limit.min(self.blocks), max, |byte| byte == 0)
    }

    /// The lowest run of plugged blocks from `from` on, at most `max` long, all with the same byte.
    pub fn find_plugged(&self, bus: &mut impl Bus, from: u64, max: u64) -> Option<(Run, u8)> {
        let run = self.find(bus, from, self.end, 1, |byte| byte != 0)?;
        let value = self.get(bus, run.first);
        let run = self.find(bus, run.first, self.end, max, |byte| byte == value)?;
        Some((run, value))
    }

    fn find(
        &self,
        bus: &mut impl Bus,
        from: u64,
        limit: u64,
        max: u64,
        wanted: impl Fn(u8) -> bool,
    ) -> Option<Run> {
        let mut bytes = [0; CHUNK];
        let mut run = Run { first: 0, count: 0 };
        let mut at = from;
        while at < limit {
            let count = (limit - at).min(CHUNK as u64) as usize;
            self.load(bus, at, &mut bytes[..count]);
            for byte in &bytes[..count] {
                if wanted(*byte) {
                    if run.count == 0 {
                        run.first = at;
                    }
                    run.count += 1;
                    if run.count == max {
                        return Some(run);
                    }
                } else if run.count > 0 {
                    return Some(run);
                }
                at += 1;
            }
        }
        (run.count > 0 && max > 0).then_some(run)
    }

    /// The highest run of plugged blocks, at most `max` long (its top part then).
    pub fn find_last_plugged(&self, bus: &mut impl Bus, max: u64) -> Option<Run> {
        let mut bytes = [0; CHUNK];
        let (mut end, mut count) = (self.end, 0);
        let mut at = self.end;
        while at > 0 && count < max {
            let chunk = at.min(CHUNK as u64) as usize;
            self.load(bus, at - chunk as u64, &mut bytes[..chunk]);
            for byte in bytes[..chunk].iter().rev() {
                if *byte != 0 && count < max {
                    count += 1;
                } else if count > 0 {
                    return Some(Run { first: end - count, count });
                } else {
                    end = at - 1;
                }
                at -= 1;
            }
        }
        (count > 0).then(|| Run { first: end - count, count })
    }
}

#[cfg(test)]
mod tests;
