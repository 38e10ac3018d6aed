//! The dirty log of all RAM: who wants it, and how accelerators are asked.
//!
//! A client (a migration, say) goes by these rules, and then misses no write:
//!
//! 1. [`Memory::start_global_dirty_log`], with bitmaps in which the pages are marked that are not watched. A client that wants the whole
//!    content counts everything as dirty now ([`Memory::mark_all_dirty`]), and so each block that
//!    it sees for the first time later.
//! 2. [`Memory::sync_dirty_log`] moves what the guest wrote into the bitmaps, as often as the client likes. What this program writes
//!    is marked at once. The last sync comes after the vCPUs and devices stopped.
//! 3. [`Memory::take_dirty`] takes marks; pages are read *after* it. A write that comes after it is marked by then or by a later sync.
//!
//! # Pages that are not watched
//!
//! Watching a page costs the guest a fault at its next write. An accelerator may leave a page unwatched once it reported
//! it: such pages are reported anew by each sync, until [`Memory::clear_dirty_log`] has them watched. That comes after the
//! mark was taken and before the page is read, which is what `take_dirty` does. It goes by granules of 16 MiB, and what is watched
//! already costs nothing. Several clients share the watching: only pages that were reported to all of them are watched again, and
//! who begins is told of all that are not, so that those that it takes are watched. KVM with manual protection watches none at first.

use std::ops::Range;
use std::sync::Arc;

use crate::listener::{MemoryListener, Section};
use crate::memory::{Memory, Topology};
use crate::ram::{DirtyBitmap, DirtyClient, RamBlock};

impl Memory {
    /// Starts logging writes to all RAM for a client, hot-added RAM included. Nothing happens if it does already.
    ///
    /// # Errors
    /// What a listener says; the client does not log.
    #[doc(alias = "memory_global_dirty_log_start")]
    pub fn start_global_dirty_log(&self, client: DirtyClient) -> qapi::Result<()> {
        let mut topology = self.topology();
        if topology.logging.contains(client) {
            return Ok(());
        }
        self.ram.set_dirty_log(client, true);
        if topology.logging.is_empty() {
            let mut started: Vec<Arc<dyn MemoryListener>> = Vec::new();
            for listener in topology.listeners() {
                if let Err(error) = listener.log_global_start() {
                    started.iter().rev().for_each(|l| l.log_global_stop());
                    self.ram.set_dirty_log(client, false);
                    return Err(qapi::Error::generic(error));
                }
                started.push(listener.clone());
            }
        }
        topology.logging.insert(client);
        // Pages that the others were told of are not watched any more; nor any, where an accelerator holds all to be dirty at first.
        topology.sync_dirty_log();
        Ok(())
    }

    /// Stops logging for a client and drops its bitmaps.
    #[doc(alias = "memory_global_dirty_log_stop")]
    pub fn stop_global_dirty_log(&self, client: DirtyClient) {
        let mut topology = self.topology();
        if !topology.logging.contains(client) {
            return;
        }
        topology.logging.remove(client);
        if topology.logging.is_empty() {
            topology.listeners().rev().for_each(|l| l.log_global_stop());
        }
        self.ram.set_dirty_log(client, false);
    }

    /// Has every listener bring the dirty bitmaps of all clients up to date.
    #[doc(alias = "memory_global_dirty_log_sync")]
    pub fn sync_dirty_log(&self) {
        self.topology().sync_dirty_log();
    }

    /// Has writes to the pages of a range of a block seen again that were reported and are not watched. Pages near it are included.
    ///
    /// A write after this is reported by a later sync. A client whose mark of a page is taken calls this before it reads the page.
    #[doc(alias = "memory_region_clear_dirty_bitmap")]
    pub fn clear_dirty_log(&self, block: &Arc<RamBlock>, offset: u64, len: u64) {
        // Whoever finds everything watched must not be ahead of who is about to have it watched, so the lock comes first.
        let topology = self.topology();
        for unwatched in block.take_unwatched(offset, len) {
            topology.clear_dirty_log(block, &unwatched);
        }
    }

    /// Takes a client's marks of a range of a block and has the pages watched again: byte ranges, ascending and apart, whose pages
    /// are to be read now. Of sparse memory only populated pages are among them; marks of the others are dropped.
    ///
    /// Takes the topology lock if there is a mark. Costs what is marked: choose ranges (1 MiB, say) that are sent in a moment, and
    /// [`DirtyBitmap::next_dirty`](crate::DirtyBitmap::next_dirty) to find them.
    pub fn take_dirty(
        &self,
        client: DirtyClient,
        block: &Arc<RamBlock>,
        offset: u64,
        len: u64,
    ) -> Vec<Range<u64>> {
        let Some(bitmap) = block.dirty_log(client) else { return Vec::new() };
        let mut taken: Vec<Range<u64>> = Vec::new();
        bitmap.take(offset, len, |at, len| taken.push(at..at + len));
        let (Some(first), Some(last)) = (taken.first(), taken.last()) else { return taken };
        let hull = first.start..last.end;
        // After the marks were taken: one that came meanwhile may be of a page that is not watched.
        self.clear_dirty_log(block, hull.start, hull.end - hull.start);
        let Some(manager) = block.discard_manager() else { return taken };
        let mut populated = Vec::new();
        manager.replay_populated(hull, |run| populated.push(run));
        intersection(&taken, &populated)
    }

    /// Drops a client's marks of the whole pages in a range of a block: nobody needs what they hold. Those of them that are not watched are so from now on, and
    /// what the guest wrote and was not synced yet, or writes later, comes with a later sync. Not so what this program writes there at the same
    /// time: the guest must not have lent such pages to a device.
    #[doc(alias = "qemu_guest_free_page_hint")]
    pub fn forget_dirty(&self, client: DirtyClient, block: &Arc<RamBlock>, range: Range<u64>) {
        let Some(bitmap) = block.dirty_log(client) else { return };
        let page = DirtyBitmap::page_size();
        let (start, end) = (range.start.div_ceil(page) * page, range.end / page * page);
        if start >= end || bitmap.next_dirty(start).is_none_or(|at| at >= end) {
            return;
        }
        // Watched before the marks go, and no sync in between: of a page that is written meanwhile either the old mark goes, or a new one comes.
        let topology = self.topology();
        for unwatched in block.take_unwatched(start, end - start) {
            topology.clear_dirty_log(block, &unwatched);
        }
        bitmap.clean(start, end - start);
    }

    /// Marks everything of a block for a client that logs; of sparse memory, what is populated.
    pub fn mark_all_dirty(&self, client: DirtyClient, block: &RamBlock) {
        let Some(bitmap) = block.dirty_log(client) else { return };
        match block.discard_manager() {
            None => bitmap.mark(0, block.size()),
            Some(manager) => {
                manager.replay_populated(0..block.size(), |run| bitmap.mark(run.start, run.end - run.start))
            }
        }
    }
}

impl Topology {
    /// In the order in which they are told that something begins.
    fn listeners(&self) -> impl DoubleEndedIterator<Item = &Arc<dyn MemoryListener>> {
        self.spaces.iter().flat_map(|entry| &entry.listeners)
    }

    fn sync_dirty_log(&self) {
        let all = !self.logging.is_empty();
        for entry in self.spaces.iter().filter(|e| !e.listeners.is_empty()) {
            let view = entry.space.view();
            for range in view.ranges().iter().filter(|r| r.block().is_some() && (r.log || all)) {
                let section = range.section();
                for listener in &entry.listeners {
                    listener.log_sync(&section);
                    let id = trace::Id::of(&**listener);
                    trace::emit!(memory_region_sync_dirty, &section.name, id, all.into());
                }
            }
        }
    }

    /// Wherever the guest sees `part` of a block.
    fn clear_dirty_log(&self, block: &Arc<RamBlock>, part: &Range<u64>) {
        for entry in self.spaces.iter().filter(|e| !e.listeners.is_empty()) {
            let view = entry.space.view();
            for range in view.ranges().iter() {
                if range.block().is_none_or(|other| !Arc::ptr_eq(other, block)) {
                    continue;
                }
                let bytes = u64::try_from(range.size()).unwrap_or(u64::MAX);
                let start = part.start.max(range.offset);
                let end = part.end.min(range.offset.saturating_add(bytes));
                if start < end {
                    let addr = range.addr + (start - range.offset);
                    let size = u128::from(end - start);
                    let section = Section { offset_in_region: start, addr, size, ..range.section() };
                    entry.listeners.iter().for_each(|listener| listener.log_clear(&section));
                }
            }
        }
    }
}

/// What is in both of two lists, which are ascending and apart.
fn intersection(a: &[Range<u64>], b: &[Range<u64>]) -> Vec<Range<u64>> {
    let (mut both, mut a, mut b) = (Vec::new(), a.iter().peekable(), b.iter().peekable());
    while let (Some(one), Some(other)) = (a.peek(), b.peek()) {
        let part = one.start.max(other.start)..one.end.min(other.end);
        if part.start < part.end {
            both.push(part);
        }
        let _ = if one.end < other.end { a.next() } else { b.next() };
    }
    both
}

#[cfg(test)]
mod tests;
