//! Which memory the back end of a device sees: one region for each section of RAM that can be shared and in which there is anything.
//!
//! A section is a region, never a part of one and never merged with another: what the flat view merges is one section already, and what
//! it keeps apart (the parts of a virtio-mem device) comes and goes with one message and touches nothing else. Where unplugged
//! memory is protected, a section of which nothing is plugged is given to nobody.

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

/// A region there is.
#[derive(Debug)]
struct Entry {
    shared: Shared,
    /// Bytes that are plugged, where that matters.
    plugged: Option<u64>,
}

impl Entry {
    /// Whether it is given away.
    fn is_wanted(&self) -> bool {
        self.plugged != Some(0)
    }
}

/// The regions there are and those that the back end has, by guest address.
#[derive(Debug, Default)]
pub(super) struct Regions {
    present: BTreeMap<u64, Entry>,
    given: BTreeMap<u64, RegionBody>,
    changed: bool,
}

impl Regions {
    /// A region came. If it is `sparse`, nothing of it is plugged yet.
    pub(super) fn add(&mut self, shared: Shared, sparse: bool) {
        self.present.insert(shared.body.guest, Entry { shared, plugged: sparse.then_some(0) });
        self.changed = true;
    }

    /// The region at that guest address is going.
    pub(super) fn remove(&mut self, guest: u64) {
        self.changed |= self.present.remove(&guest).is_some();
    }

    /// More, or less, of the sparse region at that guest address is plugged.
    pub(super) fn replug(&mut self, guest: u64, bytes: i64) {
        let Some(entry) = self.present.get_mut(&guest) else { return };
        let was = entry.is_wanted();
        entry.plugged = entry.plugged.map(|plugged| plugged.saturating_add_signed(bytes));
        self.changed |= was != entry.is_wanted();
    }

    /// How many there are, those of which nothing is plugged included: they may come at any time.
    pub(super) fn len(&self) -> usize {
        self.present.len()
    }

    /// Those to give away.
    fn wanted(&self) -> impl Iterator<Item = &Shared> {
        self.present.values().filter(|entry| entry.is_wanted()).map(|entry| &entry.shared)
    }

    /// How many the back end has.
    pub(super) fn given(&self) -> usize {
        self.given.len()
    }

    /// Whether all of these bytes lie in one region.
    pub(super) fn covers(&self, addr: u64, len: u64) -> bool {
        let below = self.present.range(..=addr).next_back();
        below.filter(|(_, entry)| entry.is_wanted()).is_some_and(|(_, entry)| {
            let body = entry.shared.body;
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
        if self.present.len() as u64 > front.max_slots {
            return Err(Fault::Unusable(format!(
                "vhost backend memory slots limit ({}) is less than current number of used ({}) memory slots.",
                front.max_slots,
                self.present.len()
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
        let present = |body: &RegionBody| self.present.get(&body.guest).filter(|entry| entry.is_wanted());
        let stays = |body: &RegionBody| present(body).is_some_and(|entry| entry.shared.body == *body);
        let gone: Vec<_> = self.given.values().filter(|body| !stays(body)).copied().collect();
        // First what goes, so that there are never more than the limit and never two at one address.
        for body in gone {
            front.remove_region(body, deadline)?;
            self.given.remove(&body.guest);
        }
        let new: Vec<_> =
            self.wanted().filter(|w| !self.given.contains_key(&w.body.guest)).cloned().collect();
        for shared in new {
            front.add_region(shared.body, shared.file().ok_or_else(closed)?, deadline)?;
            self.given.insert(shared.body.guest, shared.body);
        }
        Ok(())
    }

    fn give_all(&mut self, front: &FrontEnd, deadline: Deadline) -> Result<(), Fault> {
        let bodies: BTreeMap<_, _> = self.wanted().map(|shared| (shared.body.guest, shared.body)).collect();
        if bodies == self.given {
            return Ok(());
        }
        let files: Option<Vec<_>> = self.wanted().map(Shared::file).collect();
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
