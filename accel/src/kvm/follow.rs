//! Sections of which only what is plugged has memory slots.
//!
//! Three stages, each entered when the one before does not do:
//!
//! 1. *Absent*: nothing of the section is plugged, so it has no slot, and the kernel no page tables and bitmaps for it.
//! 2. *Whole*: something is. The section has one slot, made a moment after the first block was plugged ([`super::put_off`]); the host mapping keeps the guest out of unplugged blocks
//!    (`memory`'s barrier). Plugging and unplugging touch no slot. This is where guests that keep their promise stay.
//! 3. *Exact*: a vCPU touched an unplugged block. `KVM_RUN` then fails with `EFAULT` and tells neither address nor vCPU state to
//!    complete. So the slot is replaced by one for each plugged run, with every vCPU outside the guest ([`super::gate`]);
//!    the vCPU tries again, finds no memory there, and leaves the guest with an ordinary access that is answered with
//!    zeroes or dropped, and reported.
//!
//! In the exact stage what is plugged gets a slot of its own; what is unplugged keeps its slot until somebody touches it
//! and the runs are mapped anew. The section is absent again once nothing in it is plugged, unless the host mapping keeps the guest
//! out of every block: then its slots stay, since making a large one takes long and the guest may plug again. Extra slots are taken from what
//! the kernel has beyond [`RESERVE`], never from what memory devices were promised.
//!
//! Lock order: topology, discard manager, [`Slots`].

use std::io;
use std::ops::Range;
use std::sync::{Arc, Weak};

use memory::{DiscardListener, DiscardListenerId, DiscardManager};

use super::listener::{Mapped, Slots, SystemListener};
use super::put_off::Later;

/// Slots that are left for sections to come.
const RESERVE: u32 = 2048;

/// A section that follows what is plugged in its block.
pub(super) struct Follow {
    pub(super) manager: Arc<DiscardManager>,
    id: Option<DiscardListenerId>,
    /// Plugged bytes of the section.
    populated: u64,
    /// Slots stay when nothing is plugged any more.
    pub(super) keep: bool,
    pub(super) later: Later,
}

impl Follow {
    pub(super) fn new(manager: Arc<DiscardManager>) -> Self {
        let keep = manager.is_protecting_granules();
        Self { manager, id: None, populated: 0, keep, later: Later::No }
    }
}

/// What became of a vCPU's fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Resolution {
    /// Slots were changed: try again.
    Changed,
    /// Every slot shows plugged memory only: the fault was no touch of unplugged memory.
    Nothing,
    /// There are too few slots for all plugged runs.
    TooMany,
}

/// Told by the section's discard manager.
struct SectionSlots {
    listener: Weak<SystemListener>,
    addr: u64,
}

impl DiscardListener for SectionSlots {
    fn populate(&self, range: Range<u64>) -> Result<(), String> {
        if let Some(listener) = self.listener.upgrade() {
            listener.populated(self.addr, &range, false);
        }
        Ok(())
    }

    fn populate_soon(&self, range: Range<u64>) -> Result<bool, String> {
        Ok(self.listener.upgrade().is_some_and(|listener| listener.populated(self.addr, &range, true)))
    }

    fn settle(&self, _range: Range<u64>) {
        if let Some(listener) = self.listener.upgrade() {
            listener.settle_section(self.addr);
        }
    }

    fn discard(&self, range: Range<u64>) {
        if let Some(listener) = self.listener.upgrade() {
            listener.discarding(self.addr, &range);
        }
    }
}

impl SystemListener {
    /// Begins to follow the section at `addr`.
    pub(super) fn follow(&self, addr: u64) {
        let found = self.slots().mapped.get(&addr).and_then(Mapped::followed);
        let Some((manager, range)) = found else { return };
        let id = manager
            .register_mapping(range, Arc::new(SectionSlots { listener: Weak::clone(&self.this), addr }));
        // Cannot fail: this listener refuses nothing.
        if let Some(follow) = self.slots().follow(addr) {
            follow.id = id.ok();
        }
    }

    /// Stops following the section at `addr`, if it is followed.
    pub(super) fn unfollow(&self, addr: u64) {
        let found = self.slots().mapped.get_mut(&addr).and_then(|entry| {
            let follow = entry.follow.as_mut()?;
            Some((Arc::clone(&follow.manager), follow.id.take()?))
        });
        if let Some((manager, id)) = found {
            manager.unregister(id);
        }
    }

    /// `range` of the block is plugged now. Gives whether its slot was put off, which is for those who allow it.
    fn populated(&self, addr: u64, range: &Range<u64>, may_wait: bool) -> bool {
        let mut slots = if may_wait { self.slots() } else { self.settled(addr) };
        let Some(entry) = slots.mapped.get_mut(&addr) else { return false };
        let (offset, size) = (entry.in_block().start, entry.mapping.size);
        let Some(follow) = &mut entry.follow else { return false };
        follow.populated += range.end - range.start;
        let later = follow.later;
        if may_wait && later != Later::No {
            return true;
        }
        if entry.parts.is_empty() {
            if may_wait && slots.table.is_started() && self.put_off(&mut slots, addr) {
                return true;
            }
            slots.map(&self.vm, addr, 0..size);
            self.call_off(&mut slots, addr);
        } else {
            let part = range.start - offset..range.end - offset;
            let missing = uncovered(&entry.parts, &part);
            if affordable(&slots, missing.len()) {
                missing.into_iter().for_each(|part| slots.map(&self.vm, addr, part));
            } else {
                self.rejoin(&mut slots, addr, size);
            }
        }
        false
    }

    /// `range` of the block is about to be unplugged.
    fn discarding(&self, addr: u64, range: &Range<u64>) {
        let mut slots = self.slots();
        let Some(follow) = slots.follow(addr) else { return };
        follow.populated = follow.populated.saturating_sub(range.end - range.start);
        if follow.populated > 0 {
            return;
        }
        if follow.keep {
            // What was not begun need not be kept; who makes it goes on.
            if follow.later == Later::Waiting {
                self.call_off(&mut slots, addr);
            }
            return;
        }
        drop(slots);
        let mut slots = self.settled(addr);
        self.call_off(&mut slots, addr);
        // What was written there is given up.
        slots.unmap(&self.vm, addr, Some(&[]));
    }

    /// A vCPU touched memory of a slot that the host mapping does not have. Called outside of the gate.
    pub(super) fn resolve_fault(&self) -> Resolution {
        let followed: Vec<_> = {
            let slots = self.slots();
            let followed = slots.mapped.iter().filter_map(|(addr, entry)| Some((*addr, entry.followed()?)));
            followed.collect()
        };
        let mut resolution = Resolution::Nothing;
        for (addr, (manager, range)) in followed {
            // Nothing is plugged or unplugged meanwhile.
            let outcome = manager.with_populated(range.clone(), |runs| {
                let parts: Vec<_> =
                    runs.iter().map(|run| run.start - range.start..run.end - range.start).collect();
                self.make_exact(addr, &parts)
            });
            match outcome {
                Resolution::Nothing => {}
                other => resolution = other,
            }
        }
        resolution
    }

    fn make_exact(&self, addr: u64, runs: &[Range<u64>]) -> Resolution {
        let mut slots = self.settled(addr);
        // Gone meanwhile, and with it whatever was touched; or as it should be.
        let Some((entry, follow)) =
            slots.mapped.get(&addr).and_then(|entry| Some((entry, entry.follow.as_ref()?)))
        else {
            return Resolution::Changed;
        };
        if follow.later != Later::No {
            // Nothing to touch is there yet.
            return Resolution::Nothing;
        }
        if coalesced(&entry.parts) == runs {
            return Resolution::Nothing;
        }
        let more = runs.len().saturating_sub(entry.parts.len());
        if !affordable(&slots, more) {
            return Resolution::TooMany;
        }
        self.replace(&mut slots, addr, runs);
        Resolution::Changed
    }

    /// Gives the section at `addr` one slot for all of its `size` bytes, with no vCPU in the guest.
    fn rejoin(&self, slots: &mut Slots, addr: u64, size: u64) {
        let _closed = self.gate.close();
        slots.unmap(&self.vm, addr, None);
        slots.map(&self.vm, addr, 0..size);
    }

    /// Has the slots of the section at `addr` cover `runs` and nothing else, with no vCPU in the guest. Slots that do already
    /// stay: a guest may have this done as often as it likes.
    fn replace(&self, slots: &mut Slots, addr: u64, runs: &[Range<u64>]) {
        let Some(entry) = slots.mapped.get(&addr) else { return };
        let (keep, gone): (Vec<_>, Vec<_>) =
            entry.parts.iter().cloned().partition(|part| is_inside(runs, part));
        let missing: Vec<_> = runs.iter().flat_map(|run| uncovered(&keep, run)).collect();
        let offset = entry.in_block().start;
        let visible: Vec<_> = runs.iter().map(|run| offset + run.start..offset + run.end).collect();
        let closed = self.gate.close();
        slots.unmap_parts(&self.vm, addr, &gone, Some(&visible));
        missing.iter().for_each(|part| slots.map(&self.vm, addr, part.clone()));
        drop(closed);
        trace::emit!(pliant_kvm_slots_of_runs, addr, runs.len(), gone.len(), missing.len());
    }
}

/// Whether `part` lies in one of `runs`, which are ascending and apart.
fn is_inside(runs: &[Range<u64>], part: &Range<u64>) -> bool {
    let at = runs.partition_point(|run| run.end < part.end);
    runs.get(at).is_some_and(|run| run.start <= part.start && part.end <= run.end)
}

/// Whether `more` slots can be had without touching the reserve; a kernel with few slots keeps half of them.
fn affordable(slots: &Slots, more: usize) -> bool {
    let reserve = RESERVE.min(slots.table.max() / 2);
    u32::try_from(more).is_ok_and(|more| more == 0 || slots.free().saturating_sub(reserve) >= more)
}

/// What of `range` is in none of `parts`, which are ascending and apart.
fn uncovered(parts: &[Range<u64>], range: &Range<u64>) -> Vec<Range<u64>> {
    let mut missing = Vec::new();
    let mut at = range.start;
    for part in parts.iter().filter(|part| part.end > range.start && part.start < range.end) {
        if part.start > at {
            missing.push(at..part.start);
        }
        at = part.end;
    }
    if at < range.end {
        missing.push(at..range.end);
    }
    missing
}

/// Ascending parts, those that touch as one.
fn coalesced(parts: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut runs: Vec<Range<u64>> = Vec::new();
    for part in parts {
        match runs.last_mut() {
            Some(last) if last.end == part.start => last.end = part.end,
            _ => runs.push(part.clone()),
        }
    }
    runs
}

/// The error of a vCPU that touched something which cannot be found out.
pub(super) fn bad_address() -> io::Error {
    io::Error::from_raw_os_error(libc::EFAULT)
}

#[cfg(test)]
mod tests;
