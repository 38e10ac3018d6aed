//! The guest's memory in the stream.

pub mod load;
mod mapped;
pub mod save;
mod scan;

use std::ops::Range;
use std::sync::Arc;

use memory::{Memory, RamBlock};
use qapi::types::MigrationCapability as Capability;

use crate::capabilities::Capabilities;

/// The blocks that belong to the machine, in the order of the stream: those with a name that can be written.
#[doc(alias = "RAMBLOCK_FOREACH_MIGRATABLE")]
pub fn blocks(memory: &Memory) -> Vec<Arc<RamBlock>> {
    let mut blocks = memory.ram_blocks();
    blocks.retain(|block| !block.name().is_empty() && block.is_writable());
    blocks
}

/// What changes the form of the memory section.
#[derive(Debug, Clone, Copy, Default)]
pub struct Form {
    /// Pages are at places of their own in a file.
    pub mapped: bool,
    /// Memory that both sides share by the name of its file is not sent.
    pub ignore_shared: bool,
}

impl Form {
    /// By the capabilities that are on.
    pub fn of(capabilities: &Capabilities) -> Self {
        Self {
            mapped: capabilities.has(Capability::MappedRam),
            ignore_shared: capabilities.has(Capability::XIgnoreShared),
        }
    }

    /// Whether a block is not sent.
    #[doc(alias = "migrate_ram_is_ignored")]
    pub fn ignores(self, block: &RamBlock) -> bool {
        self.ignore_shared && block.is_shared_by_name()
    }
}

/// Whether a part is within one of some others, which are in order and do not overlap.
pub fn is_within(runs: &[Range<u64>], part: Range<u64>) -> bool {
    let first = runs.partition_point(|run| run.end <= part.start);
    runs.get(first).is_some_and(|run| run.start <= part.start && part.end <= run.end)
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
