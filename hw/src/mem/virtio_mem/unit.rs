//! A realized virtio-mem device: its memory, and what host and guest did with it.
//!
//! Knows no virtio and no objects: requests go in, responses come out. The block's [`DiscardManager`] is the one place
//! that knows which blocks are plugged. Every step that can fail comes before the first that cannot be undone, so a
//! refused request has changed nothing.

mod prepare;

use std::ops::Range;
use std::sync::Arc;

use memory::{DiscardError, DiscardManager, RamBlock};

use super::policy::{Decision, Layout, View, decide};
use super::request::{Request, Response};
use super::sizes::usable_region;
use crate::mem::device::SlotUse;
use crate::mem::memslots::{Memslots, Policy};
use prepare::{Preparing, SLICE};

/// Bytes of the configuration space.
pub const CONFIG_SIZE: usize = 56;

/// See the module.
pub struct Unit {
    layout: Layout,
    block: Arc<RamBlock>,
    blocks: Arc<DiscardManager>,
    /// Present when the memory is mapped in parts.
    slots: Option<Memslots>,
    /// How many threads give plugged blocks their pages at once, if they get them.
    prealloc: Option<u32>,
    /// Bytes that each of them allocates at once.
    slice: u64,
    preparing: Option<Preparing>,
    requested: u64,
    usable: u64,
    warned: bool,
}

impl Unit {
    /// A device with nothing plugged. `block` is as large as the region; its manager works in blocks of the layout.
    ///
    /// # Errors
    /// What is in the memory could not be discarded.
    pub fn new(
        layout: Layout,
        block: Arc<RamBlock>,
        blocks: Arc<DiscardManager>,
        mut slots: Option<Memslots>,
        prealloc: Option<u32>,
        requested: u64,
    ) -> Self {
        let usable = usable_region(requested, layout.region_size, layout.block_size);
        if let Some(slots) = &mut slots {
            slots.usable(usable);
        }
        Self {
            layout,
            block,
            blocks,
            slots,
            prealloc,
            slice: SLICE,
            preparing: None,
            requested,
            usable,
            warned: false,
        }
    }

    /// Where the memory is.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Plugged bytes.
    pub fn size(&self) -> u64 {
        self.blocks.populated_bytes()
    }

    /// Bytes from the start of the region in which the guest may plug.
    pub fn usable(&self) -> u64 {
        self.usable
    }

    /// The memory.
    pub fn block(&self) -> &Arc<RamBlock> {
        &self.block
    }

    /// Which blocks are plugged.
    pub fn blocks(&self) -> &Arc<DiscardManager> {
        &self.blocks
    }

    /// The parts the memory is mapped in, if it is.
    pub fn slots(&self) -> Option<&Memslots> {
        self.slots.as_ref()
    }

    /// The memory slots it has and may come to have.
    pub fn slot_use(&self) -> SlotUse {
        match &self.slots {
            Some(slots) => SlotUse {
                parts: slots.count(),
                mapped: slots.mapped(),
                part_size: slots.part_size(),
                decided: slots.policy() == Policy::WhilePlugged && slots.count() > 1,
            },
            None => SlotUse { parts: 1, mapped: 1, part_size: self.layout.region_size, decided: false },
        }
    }

    /// Ends the device's use of the memory.
    pub fn into_slots(self) -> Option<Memslots> {
        self.slots
    }

    /// The size the guest should have from now on. The usable region may grow, never shrink; it is mapped on return, so
    /// that the guest can be told.
    pub fn set_requested(&mut self, requested: u64) {
        self.requested = requested;
        self.set_usable(self.usable.max(self.wanted_usable()));
    }

    fn set_usable(&mut self, usable: u64) {
        trace::emit!(virtio_mem_resized_usable_region, self.usable, usable);
        self.usable = usable;
        if let Some(slots) = &mut self.slots {
            slots.usable(usable);
        }
    }

    fn wanted_usable(&self) -> u64 {
        usable_region(self.requested, self.layout.region_size, self.layout.block_size)
    }

    /// The configuration space (virtio 1.3 §5.15.4).
    #[doc(alias = "virtio_mem_config")]
    pub fn config(&self, node: u32) -> [u8; CONFIG_SIZE] {
        let mut bytes = [0; CONFIG_SIZE];
        let mut put = |at: usize, value: u64| bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
        put(0, self.layout.block_size);
        // 16 bits and six bytes of padding.
        put(8, u64::from(node as u16));
        put(16, self.layout.addr);
        put(24, self.layout.region_size);
        put(32, self.usable);
        put(40, self.size());
        put(48, self.requested);
        bytes
    }

    /// Serves a request. `busy`: somebody forbids changes for now.
    pub fn serve(&mut self, request: Request, busy: bool) -> Response {
        let decision = decide(request, &self.view(busy));
        if self.preparing.as_ref().is_some_and(|p| decision != Decision::Plug(p.range.clone())) {
            self.abandon();
        }
        let done = match decision {
            Decision::Reply(response) => return response,
            Decision::Plug(range) => self.plug(&range),
            Decision::Unplug(range) => self.unplug(&range),
            Decision::UnplugAll => self.unplug_all(),
        };
        match done {
            Ok(()) => Response::Ack,
            Err(Busy) => Response::Busy,
        }
    }

    fn view(&self, busy: bool) -> View<'_> {
        let (layout, usable, requested) = (self.layout, self.usable, self.requested);
        View { layout, usable, requested, blocks: &self.blocks, busy }
    }

    /// The sizes of a device that arrives from elsewhere, where all that is plugged is usable.
    pub(super) fn resume_sizes(&mut self, requested: u64, usable: u64) {
        self.requested = requested;
        self.set_usable(usable);
    }

    /// Has at least `usable` bytes usable.
    pub(super) fn widen_usable(&mut self, usable: u64) {
        self.set_usable(self.usable.max(usable));
    }

    /// Gives back what is in memory that is not plugged: nothing is.
    pub(super) fn discard_rest(&self) {
        // Usually that is nothing. To give all of it back would have KVM look at every page that a slot could have.
        let (reader, page) = (self.block.reader(), self.block.page_size());
        let mut rest = 0..self.layout.region_size;
        loop {
            let found = reader.next_data(rest.clone());
            if found.is_empty() {
                return;
            }
            let end = found.end.next_multiple_of(page);
            self.free(&(found.start / page * page..end));
            rest.start = end;
        }
    }

    /// Plugs what another machine had plugged; `false` if it cannot be had.
    pub(super) fn plug_run(&mut self, run: &Range<u64>) -> bool {
        self.plug(run).is_ok()
    }

    /// A system reset: nothing is plugged afterwards, unless somebody forbids it.
    pub fn system_reset(&mut self, busy: bool) {
        self.serve(Request::UnplugAll, busy);
    }

    /// The parts first: who sees one for the first time is then asked like everybody else, and slots come last.
    fn plug(&mut self, range: &Range<u64>) -> Result<(), Busy> {
        if let Some(slots) = &mut self.slots {
            slots.plugged(range);
        }
        // Kept until the blocks are populated or given up: it keeps their mapping open.
        let prepared = self.preparing.take();
        let threads = self.prealloc.filter(|_| !prepared.as_ref().is_some_and(|p| p.has_all_of(range)));
        let block = &self.block;
        let ready = || {
            threads.map_or(Ok(()), |threads| block.prealloc(range.start, range.end - range.start, threads))
        };
        let Err(error) = self.blocks.populate_with(range.clone(), ready) else {
            // Zeroes, whatever was there before the blocks were unplugged.
            self.block.mark_dirty(range.start, range.end - range.start);
            return Ok(());
        };
        let host = matches!(error, memory::Error::Prealloc(_) | memory::Error::Protect(_));
        // Once a device: a guest may ask again and again.
        if host && !std::mem::replace(&mut self.warned, true) {
            tracing::warn!("{error}");
        }
        trace::emit!(pliant_virtio_mem_plug_refused, range.start, range.end - range.start, &error);
        if let Some(slots) = &mut self.slots {
            slots.before_discard(range, &self.blocks);
        }
        drop(prepared);
        self.free(range);
        Err(Busy)
    }

    fn unplug(&mut self, range: &Range<u64>) -> Result<(), Busy> {
        self.release(std::slice::from_ref(range), range)
    }

    fn unplug_all(&mut self) -> Result<(), Busy> {
        let whole = 0..self.layout.region_size;
        let mut plugged = Vec::new();
        self.blocks.replay_populated(whole.clone(), |run| plugged.push(run));
        let before = self.usable;
        // Before pages are freed: what is not usable any more is not there then.
        self.set_usable(self.wanted_usable());
        // All of the region: what a guest wrote outside of its blocks goes as well.
        if !plugged.is_empty() {
            self.release(&plugged, &whole).inspect_err(|Busy| self.set_usable(before))?;
        }
        trace::emit!(virtio_mem_unplugged_all);
        Ok(())
    }

    /// Unmaps, tells the users of the memory, then gives `range` back to the host, in this order: nobody may fault a
    /// page back in after it was freed. `plugged` are the plugged parts of `range`.
    fn release(&mut self, plugged: &[Range<u64>], range: &Range<u64>) -> Result<(), Busy> {
        if let Some(slots) = &mut self.slots {
            slots.before_discard(range, &self.blocks);
        }
        let told = self.blocks.discard(range.clone());
        let freed = self.block.discard(range.start, range.end - range.start);
        let (Err(error), Ok(())) = (freed, told) else { return Ok(()) };
        tracing::error!("{error}");
        // Still plugged, then. A user of the memory that does not take it back leaves it unplugged: the guest gave it up.
        if let Some(slots) = &mut self.slots {
            plugged.iter().for_each(|run| slots.plugged(run));
        }
        if plugged.iter().all(|run| self.blocks.populate(run.clone()).is_ok()) {
            return Err(Busy);
        }
        // Nor those that others took back.
        if let Some(slots) = &mut self.slots {
            slots.before_discard(range, &self.blocks);
        }
        self.blocks.discard(range.clone()).map_err(|_| Busy)
    }

    /// Gives pages back that nobody was told of.
    fn free(&self, range: &Range<u64>) {
        if let Err(DiscardError { report, .. }) = self.block.discard(range.start, range.end - range.start) {
            tracing::error!("{report}");
        }
    }
}

/// Not now.
#[derive(Debug)]
struct Busy;

#[cfg(test)]
mod tests;
