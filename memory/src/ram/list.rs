//! All RAM blocks of a VM: where each lies in the space of all RAM, and `info ramblock`.

use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::dirty::{DirtyClient, DirtyClients};
use super::{RamBlock, RamSpec};
use crate::error::Result;

/// Blocks start at multiples of 64 pages of 4 KiB, so that dirty bitmaps are copied in whole words.
const OFFSET_ALIGN: u64 = 64 * 4096;

#[derive(Debug, Default)]
pub(crate) struct RamList(Mutex<List>);

#[derive(Debug, Default)]
struct List {
    /// Those that are alive, biggest first; of equals, the oldest first.
    blocks: Vec<Weak<RamBlock>>,
    /// Who logs writes to all of them, and to those to come.
    logging: DirtyClients,
}

impl List {
    fn alive(&self) -> Vec<Arc<RamBlock>> {
        self.blocks.iter().filter_map(Weak::upgrade).collect()
    }
}

impl RamList {
    pub(crate) fn create(&self, spec: RamSpec) -> Result<Arc<RamBlock>> {
        let mut list = self.list();
        list.blocks.retain(|b| b.strong_count() > 0);
        let alive = list.alive();
        let taken: Vec<_> = alive.iter().map(|b| (b.offset(), b.max_size())).collect();
        // The page size of the backing is only known once it is mapped; 4 KiB pages decide the offset.
        let wanted = spec.size.max(spec.max_size);
        let block = Arc::new(RamBlock::map(spec, find_offset(&taken, wanted))?);
        list.logging.iter().for_each(|client| block.start_dirty_log(client));
        let at = list.blocks.iter().position(|b| b.upgrade().is_none_or(|b| b.max_size() < block.max_size()));
        let at = at.unwrap_or(list.blocks.len());
        list.blocks.insert(at, Arc::downgrade(&block));
        let (used, max) = (block.size(), block.max_size());
        trace::emit!(pliant_ram_block_new, block.label(), used, max, block.page_size());
        Ok(block)
    }

    fn list(&self) -> MutexGuard<'_, List> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn blocks(&self) -> Vec<Arc<RamBlock>> {
        self.list().alive()
    }

    /// Starts a client's bitmap of every block, also of those to come, or drops them.
    pub(crate) fn set_dirty_log(&self, client: DirtyClient, on: bool) {
        let mut list = self.list();
        if on {
            list.logging.insert(client);
            list.alive().iter().for_each(|block| block.start_dirty_log(client));
        } else {
            list.logging.remove(client);
            list.alive().iter().for_each(|block| block.stop_dirty_log(client));
        }
    }

    /// The text of `info ramblock`.
    pub(crate) fn text(&self) -> String {
        let mut out = String::new();
        let _ = writeln!(
            out,
            "{:>24} {:>8}  {:>18} {:>18} {:>18} {:>18} {:>3}",
            "Block Name", "PSize", "Offset", "Used", "Total", "HVA", "RO"
        );
        for block in self.blocks() {
            let _ = writeln!(
                out,
                "{:>24} {:>8}  {:#018x} {:#018x} {:#018x} {:#018x} {:>3}",
                block.name(),
                page_size_text(block.page_size()),
                block.offset(),
                block.size(),
                block.max_size(),
                block.host_address() as usize,
                if block.is_rom() { "ro" } else { "rw" },
            );
        }
        out
    }
}

/// `4 KiB`, `2 MiB`, `1 GiB`.
fn page_size_text(size: u64) -> String {
    let (unit, shift) = match size {
        s if s >= 1 << 30 => ("GiB", 30),
        s if s >= 1 << 20 => ("MiB", 20),
        _ => ("KiB", 10),
    };
    format!("{} {unit}", size >> shift)
}

/// Where a block of `size` bytes goes: behind the block after which the smallest gap that holds it begins. `taken`
/// is (offset, size) of every block.
#[doc(alias = "find_ram_offset")]
fn find_offset(taken: &[(u64, u64)], size: u64) -> u64 {
    let mut best = (0, u64::MAX);
    for &(offset, len) in taken {
        let Some(candidate) = offset.saturating_add(len).checked_next_multiple_of(OFFSET_ALIGN) else {
            continue;
        };
        let next = taken.iter().map(|&(o, _)| o).filter(|&o| o >= candidate).min().unwrap_or(u64::MAX);
        let gap = next - candidate;
        if gap >= size && gap < best.1 {
            best = (candidate, gap);
        }
    }
    best.0
}

#[cfg(test)]
mod tests;
