//! Which memory the back end of a device sees: one region for each section of RAM that can be shared.
//!
//! A section is a region, never a part of one and never merged with another: what the flat view merges is one section already, and what
//! it keeps apart (the parts of a virtio-mem device) comes and goes with one message and touches nothing else.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use memory::{RamBlock, Section};

use super::channel::{Deadline, Fault};
use super::frontend::FrontEnd;
use super::message::{RegionBody, protocol};

/// A region that can be shared, with what keeps its file open.
#[derive(Debug, Clone)]
pub(super) struct Shared {
    pub(super) body: RegionBody,
    block: Arc<RamBlock>,
}

impl Shared {
    fn file(&self) -> Option<BorrowedFd<'_>> {
        self.block.file().map(|(file, _)| file.as_fd())
    }
}

/// What of a section the back end may see; the one place that decides it. RAM without a descriptor or that is not shared cannot be
/// given away, and what the guest may not write nobody may write for it.
pub(super) fn visible(section: &Section) -> Option<Shared> {
    let block = section.block.as_ref().filter(|block| block.is_shared() && !block.is_rom())?;
    let (_, start) = block.file()?;
    let size = u64::try_from(section.size).ok()?;
    // A back end maps whole pages.
    let whole = (section.addr | section.offset_in_region | size).is_multiple_of(memory::host_page_size());
    if section.readonly || !block.is_writable() || !whole {
        return None;
    }
    let body = RegionBody { guest: section.addr, size, offset: start + section.offset_in_region };
    Some(Shared { body, block: Arc::clone(block) })
}

/// The regions there are and those that the back end has, by guest address.
#[derive(Debug, Default)]
pub(super) struct Regions {
    wanted: BTreeMap<u64, Shared>,
    given: BTreeMap<u64, RegionBody>,
    changed: bool,
}

impl Regions {
    /// A region came.
    pub(super) fn add(&mut self, shared: Shared) {
        self.wanted.insert(shared.body.guest, shared);
        self.changed = true;
    }

    /// A region is going.
    pub(super) fn remove(&mut self, shared: &Shared) {
        self.changed |= self.wanted.remove(&shared.body.guest).is_some();
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.wanted.len()
    }

    /// How many the back end has.
    pub(super) fn given(&self) -> usize {
        self.given.len()
    }

    /// Whether all of these bytes lie in one region.
    pub(super) fn covers(&self, addr: u64, len: u64) -> bool {
        let below = self.wanted.range(..=addr).next_back();
        below.is_some_and(|(_, Shared { body, .. })| {
            let end = body.guest.saturating_add(body.size);
            addr.checked_add(len).is_some_and(|last| last <= end)
        })
    }

    /// There is a new back end, or none: nobody has anything.
    pub(super) fn forget(&mut self) {
        self.given.clear();
        self.changed = true;
    }

    /// Whether the back end has other regions than it should.
    pub(super) fn is_changed(&self) -> bool {
        self.changed
    }

    /// Makes the back end have exactly the regions there are. What goes has gone when this returns.
    ///
    /// # Errors
    /// The back end does not take part; which regions it has is unknown then.
    pub(super) fn give(&mut self, front: &FrontEnd, deadline: Deadline) -> Result<(), Fault> {
        if self.wanted.len() as u64 > front.max_slots {
            return Err(Fault::Unusable(format!(
                "vhost backend memory slots limit ({}) is less than current number of used ({}) memory slots.",
                front.max_slots,
                self.wanted.len()
            )));
        }
        if front.has(protocol::CONFIGURE_MEM_SLOTS) {
            self.give_changes(front, deadline)?;
        } else {
            self.give_all(front, deadline)?;
        }
        self.changed = false;
        Ok(())
    }

    fn give_changes(&mut self, front: &FrontEnd, deadline: Deadline) -> Result<(), Fault> {
        let stays = |body: &RegionBody| self.wanted.get(&body.guest).is_some_and(|w| w.body == *body);
        let gone: Vec<_> = self.given.values().filter(|body| !stays(body)).copied().collect();
        // First what goes, so that there are never more than the limit and never two at one address.
        for body in gone {
            front.remove_region(body, deadline)?;
            self.given.remove(&body.guest);
        }
        for (guest, shared) in &self.wanted {
            if self.given.contains_key(guest) {
                continue;
            }
            let file = shared.file().ok_or_else(closed)?;
            front.add_region(shared.body, file, deadline)?;
            self.given.insert(*guest, shared.body);
        }
        Ok(())
    }

    fn give_all(&mut self, front: &FrontEnd, deadline: Deadline) -> Result<(), Fault> {
        let bodies: BTreeMap<_, _> =
            self.wanted.iter().map(|(guest, shared)| (*guest, shared.body)).collect();
        if bodies == self.given {
            return Ok(());
        }
        let files: Option<Vec<_>> = self.wanted.values().map(Shared::file).collect();
        let table: Vec<_> = bodies.values().copied().collect();
        front.set_table(&table, &files.ok_or_else(closed)?, deadline)?;
        self.given = bodies;
        Ok(())
    }
}

/// A block with a file that is not there any more; blocks never lose theirs.
fn closed() -> Fault {
    Fault::Unusable("A memory block lost its file.".into())
}

#[cfg(test)]
mod tests;
