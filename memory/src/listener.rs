//! Who is told when an address space changes: accelerators keep their memory slots, log and ioeventfds in step.

use std::sync::Arc;

use crate::damage::Change;
use crate::flatview::{FlatRange, FlatView};
use crate::ioeventfd::IoEventFd;
use crate::ram::{BlockRange, RamBlock};
use crate::region::RegionId;

/// A range of an address space, as a listener sees it.
#[derive(Debug, Clone)]
#[doc(alias = "MemoryRegionSection")]
pub struct Section {
    /// The region.
    pub region: RegionId,
    /// Its name.
    pub name: Arc<str>,
    /// RAM behind it; absent for I/O.
    pub block: Option<Arc<RamBlock>>,
    /// Where the section starts in the region and, for RAM, in the block.
    pub offset_in_region: u64,
    /// First guest address.
    pub addr: u64,
    /// Bytes.
    pub size: u128,
    /// Whether writes are refused.
    pub readonly: bool,
    /// Whether it is never merged with its neighbours.
    pub unmergeable: bool,
    /// Whether writes are logged.
    pub log: bool,
}

impl Section {
    /// The memory of a RAM section.
    pub fn ram(&self) -> Option<BlockRange> {
        self.block.as_ref()?.range(self.offset_in_region, u64::try_from(self.size).ok()?)
    }
}

/// An event descriptor in an address space; `addr` is a guest address.
pub type IoEventFdSection = IoEventFd;

/// Follows one address space. Calls come in batches: `begin`, the removed sections, then by address the kept and the
/// added ones, event descriptors removed and added, `commit`. The new view is published between the sections and the
/// event descriptors. A batch comes only when something changed.
///
/// Called with the topology locked: a listener must not call back into [`crate::Memory`] beyond reading views.
pub trait MemoryListener: Send + Sync {
    /// Listeners are called by ascending priority, for removals by descending priority.
    fn priority(&self) -> i32 {
        0
    }

    /// A batch begins.
    fn begin(&self) {}

    /// The batch is complete.
    fn commit(&self) {}

    /// A section is there now.
    fn region_add(&self, _section: &Section) {}

    /// A section is gone.
    fn region_del(&self, _section: &Section) {}

    /// Whether [`region_nop`](Self::region_nop) is called: for listeners that build their list anew in each batch. Others
    /// save the cost, which is that of the whole view.
    fn wants_kept(&self) -> bool {
        false
    }

    /// A section stayed as it was, in a view that changed elsewhere. Only called if [`wants_kept`](Self::wants_kept).
    fn region_nop(&self, _section: &Section) {}

    /// Writes to a section that stayed are logged from now on.
    fn log_start(&self, _section: &Section) {}

    /// Writes to a section that stayed are no longer logged.
    fn log_stop(&self, _section: &Section) {}

    /// Brings the dirty bitmap of the section's block up to date.
    fn log_sync(&self, _section: &Section) {}

    /// Has writes to pages of the section seen again that [`log_sync`](Self::log_sync) reported with
    /// [`RamBlock::mark_dirty_unwatched`]. A write after this is reported by a later `log_sync`. A section here may be a part of one
    /// that was added.
    fn log_clear(&self, _section: &Section) {}

    /// Writes to all RAM are logged from now on, for one client or several.
    ///
    /// # Errors
    /// A sentence for the user; logging stays off.
    fn log_global_start(&self) -> Result<(), String> {
        Ok(())
    }

    /// Back to logging only where a section asks for it.
    fn log_global_stop(&self) {}

    /// Writes that match signal the descriptor from now on.
    fn eventfd_add(&self, _eventfd: &IoEventFdSection) {}

    /// The descriptor is no longer signalled.
    fn eventfd_del(&self, _eventfd: &IoEventFdSection) {}

    /// Name to print behind the section in `info mtree -f` (` KVM`), if this listener maps it.
    fn has_memory(&self, _section: &Section) -> Option<&'static str> {
        None
    }
}

/// Listeners of an address space, by ascending priority.
pub(crate) type Listeners = [Arc<dyn MemoryListener>];

/// Tells the listeners what changes from `old` to `new`. Two passes, so that a listener never sees two sections
/// overlap.
#[doc(alias = "address_space_update_topology_pass")]
pub(crate) fn notify(listeners: &Listeners, old: &FlatView, new: &FlatView, change: &Change) {
    if listeners.is_empty() {
        return;
    }
    let (was, is) = (old.ranges().slice(change.old.clone()), new.ranges().slice(change.new.clone()));
    let curious: Vec<_> = listeners.iter().filter(|l| l.wants_kept()).collect();
    let tell_kept = |range: &FlatRange| {
        let section = range.section();
        curious.iter().for_each(|l| l.region_nop(&section));
    };
    let all_kept = |indices| {
        if !curious.is_empty() {
            new.ranges().slice(indices).for_each(tell_kept);
        }
    };
    for step in diff(was.clone(), is.clone()) {
        if let Step::Removed(range) = step {
            let section = range.section();
            listeners.iter().rev().for_each(|l| l.region_del(&section));
        }
    }
    all_kept(0..change.new.start);
    for step in diff(was, is) {
        match step {
            Step::Removed(_) => {}
            Step::Added(range) => {
                let section = range.section();
                listeners.iter().for_each(|l| l.region_add(&section));
            }
            Step::Kept { was, is } => {
                if !curious.is_empty() {
                    tell_kept(is);
                }
                if is.log && !was.log {
                    let section = is.section();
                    listeners.iter().for_each(|l| l.log_start(&section));
                } else if was.log && !is.log {
                    let section = is.section();
                    listeners.iter().rev().for_each(|l| l.log_stop(&section));
                }
            }
        }
    }
    all_kept(change.new.end..new.ranges().len());
}

/// Tells the listeners which event descriptors go and come. Both lists are sorted.
pub(crate) fn notify_eventfds(listeners: &Listeners, old: &[IoEventFd], new: &[IoEventFd]) {
    for gone in old.iter().filter(|fd| !new.contains(fd)) {
        listeners.iter().rev().for_each(|l| l.eventfd_del(gone));
    }
    for fresh in new.iter().filter(|fd| !old.contains(fd)) {
        listeners.iter().for_each(|l| l.eventfd_add(fresh));
    }
}

enum Step<'a> {
    Removed(&'a FlatRange),
    Added(&'a FlatRange),
    Kept { was: &'a FlatRange, is: &'a FlatRange },
}

fn diff<'a>(
    old: impl Iterator<Item = &'a FlatRange>,
    new: impl Iterator<Item = &'a FlatRange>,
) -> impl Iterator<Item = Step<'a>> {
    let (mut old, mut new) = (old.peekable(), new.peekable());
    std::iter::from_fn(move || match (old.peek(), new.peek()) {
        (Some(was), Some(is)) if was.same_mapping(is) => {
            old.next().zip(new.next()).map(|(was, is)| Step::Kept { was, is })
        }
        // Of two that differ at the same address the old one goes first.
        (Some(was), Some(is)) if was.addr <= is.addr => old.next().map(Step::Removed),
        (Some(_), None) => old.next().map(Step::Removed),
        (_, Some(_)) => new.next().map(Step::Added),
        (None, None) => None,
    })
}

#[cfg(test)]
mod tests;
