//! The guest's memory in the stream.

pub mod load;
mod mapped;
pub mod save;
mod scan;

use std::ops::Range;
use std::sync::Arc;

use memory::{Memory, RamBlock};

/// The blocks that belong to the machine, in the order of the stream: those with a name that can be written.
#[doc(alias = "RAMBLOCK_FOREACH_MIGRATABLE")]
pub fn blocks(memory: &Memory) -> Vec<Arc<RamBlock>> {
    let mut blocks = memory.ram_blocks();
    blocks.retain(|block| !block.name().is_empty() && block.is_writable());
    blocks
}

/// The parts of a block in which there is something: all of it, or what is plugged.
pub fn populated(block: &RamBlock) -> Vec<Range<u64>> {
    let all = 0..block.size();
    match block.discard_manager() {
        None => vec![all],
        Some(manager) => {
            let mut runs = Vec::new();
            manager.replay_populated(0..all.end.min(manager.size()), |run| runs.push(run));
            runs
        }
    }
}
