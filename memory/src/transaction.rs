//! The only way to change the topology.

use std::sync::{Arc, MutexGuard};

use vmm_sys_util::eventfd::EventFd;

use crate::children::Child;
use crate::damage::Damage;
use crate::discard_manager::DiscardManager;
use crate::error::{Error, Result};
use crate::ioeventfd::IoEventFd;
use crate::memory::Topology;
use crate::ops::RegionOps;
use crate::ram::{DirtyClient, RamBlock};
use crate::region::{Region, RegionDesc, RegionId, RegionKind};
use crate::space::AddressSpace;

/// A batch of changes under the topology lock; dropping it commits them: affected views are rendered once and
/// listeners get one batch each.
///
/// All methods panic when given the id of a region that was destroyed: ids come from devices of this program, never
/// from the guest.
#[doc(alias = "memory_region_transaction_begin")]
pub struct Transaction<'a> {
    topology: MutexGuard<'a, Topology>,
    damage: Vec<Damage>,
}

impl<'a> Transaction<'a> {
    pub(crate) fn new(topology: MutexGuard<'a, Topology>) -> Self {
        Self { topology, damage: Vec::new() }
    }

    /// Commits now; the same as dropping the guard.
    pub fn commit(self) {}

    fn insert(&mut self, desc: RegionDesc, kind: RegionKind) -> RegionId {
        let id = self.topology.arena.insert(desc, kind);
        self.topology.show(id);
        id
    }

    /// Notes that all of a region may look different, and gives it out to be changed.
    fn change(&mut self, id: RegionId) -> &mut Region {
        let region = &mut self.topology.arena[id];
        self.damage.push(Damage { region: id, range: 0..region.size, moved: false });
        region
    }

    /// Notes that a container looks different where a child is.
    fn change_child(&mut self, parent: RegionId, child: RegionId) {
        let child = &self.topology.arena[child];
        let range = u128::from(child.addr)..u128::from(child.addr) + child.size;
        self.damage.push(Damage { region: parent, range, moved: false });
    }

    /// A region that only holds others.
    pub fn container(&mut self, desc: RegionDesc) -> RegionId {
        self.insert(desc, RegionKind::Container)
    }

    /// A region that a device answers; subregions may cover parts of it.
    pub fn io(&mut self, desc: RegionDesc, ops: Arc<dyn RegionOps>) -> RegionId {
        self.insert(desc, RegionKind::Io(ops))
    }

    /// RAM. The size may not exceed the block's; what exceeds it is cut off.
    pub fn ram(&mut self, mut desc: RegionDesc, block: Arc<RamBlock>) -> RegionId {
        desc.size = desc.size.min(u128::from(block.max_size()));
        self.insert(desc, RegionKind::Ram(block))
    }

    /// Memory the guest cannot write; `info ramblock` shows the block as `ro`.
    pub fn rom(&mut self, desc: RegionDesc, block: Arc<RamBlock>) -> RegionId {
        block.set_rom(true);
        let id = self.ram(desc, block);
        self.topology.arena[id].readonly = true;
        id
    }

    /// A window onto `target`, starting `offset` bytes into it.
    pub fn alias(&mut self, desc: RegionDesc, target: RegionId, offset: u64) -> RegionId {
        let id = self.insert(desc, RegionKind::Alias(target));
        self.topology.arena[target].aliases.insert(id);
        self.topology.arena[id].alias_offset = offset;
        id
    }

    /// Puts `child` at `offset` of `parent`. Where children overlap, the higher priority wins, and of equal
    /// priorities the one added last.
    ///
    /// # Panics
    /// If `child` is in a container already, or `parent` is reachable from it.
    pub fn add_subregion(&mut self, parent: RegionId, offset: u64, child: RegionId, priority: i32) {
        let arena = &self.topology.arena;
        assert!(arena[child].container.is_none(), "'{}' is in a container", arena[child].core.name);
        assert!(!self.reaches(child, parent), "'{}' would contain itself", arena[child].core.name);
        let region = &mut self.topology.arena[child];
        (region.container, region.addr, region.priority) = (Some(parent), offset, priority);
        // The address counts for views that have the child as root, too.
        self.damage.push(Damage { region: child, range: 0..0, moved: true });
        self.change_child(parent, child);
        let arena = &mut self.topology.arena;
        let entry = Child { id: child, priority, addr: offset, size: arena[child].size };
        arena[parent].subregions.insert(entry);
    }

    /// Takes `child` out of `parent`; not being in it is no error.
    pub fn del_subregion(&mut self, parent: RegionId, child: RegionId) {
        if self.topology.arena[child].container != Some(parent) {
            return;
        }
        self.change_child(parent, child);
        let region = &mut self.topology.arena[child];
        region.container = None;
        let addr = region.addr;
        self.topology.arena[parent].subregions.remove(addr, child);
    }

    fn reaches(&self, from: RegionId, to: RegionId) -> bool {
        let region = &self.topology.arena[from];
        from == to
            || region.alias_target().is_some_and(|t| self.reaches(t, to))
            || region.subregions.ids().any(|child| self.reaches(child, to))
    }

    /// Shows or hides a region with everything below it.
    pub fn set_enabled(&mut self, id: RegionId, enabled: bool) {
        if self.topology.arena[id].enabled != enabled {
            self.change(id).enabled = enabled;
        }
    }

    /// Moves a region in its container.
    pub fn set_address(&mut self, id: RegionId, addr: u64) {
        if self.topology.arena[id].addr == addr {
            return;
        }
        if let Some(parent) = self.topology.arena[id].container {
            // The one that moved last is on top of its equals, as if it had been added again.
            let priority = self.topology.arena[id].priority;
            self.del_subregion(parent, id);
            self.add_subregion(parent, addr, id, priority);
        } else {
            self.topology.arena[id].addr = addr;
            self.damage.push(Damage { region: id, range: 0..0, moved: true });
        }
    }

    /// Changes the size of a region (cut off at a block's end).
    pub fn set_size(&mut self, id: RegionId, size: u128) {
        let max = match &self.topology.arena[id].core.kind {
            RegionKind::Ram(block) => u128::from(block.max_size()),
            _ => crate::SIZE_ALL,
        };
        let size = size.min(max);
        let old = self.topology.arena[id].size;
        if old != size {
            self.topology.arena[id].size = size;
            self.damage.push(Damage { region: id, range: 0..old.max(size), moved: false });
            // Also in the container: the region may be taken out later in the same transaction.
            let region = &self.topology.arena[id];
            if let Some(parent) = region.container {
                let addr = region.addr;
                let range = u128::from(addr)..u128::from(addr) + old.max(size);
                self.damage.push(Damage { region: parent, range, moved: false });
                self.topology.arena[parent].subregions.resize(addr, id, size);
            }
        }
    }

    /// Moves the window of an alias over its target.
    pub fn set_alias_offset(&mut self, id: RegionId, offset: u64) {
        if self.topology.arena[id].alias_offset != offset {
            self.change(id).alias_offset = offset;
        }
    }

    /// Makes a region, and everything seen through it, read-only or not.
    pub fn set_readonly(&mut self, id: RegionId, readonly: bool) {
        if self.topology.arena[id].readonly != readonly {
            self.change(id).readonly = readonly;
        }
    }

    /// Keeps what is seen through a region apart from its neighbours in the view, so that it can be mapped and
    /// unmapped without touching them.
    pub fn set_unmergeable(&mut self, id: RegionId, unmergeable: bool) {
        if self.topology.arena[id].unmergeable != unmergeable {
            self.change(id).unmergeable = unmergeable;
        }
    }

    /// Says who knows which parts of a RAM region are populated. Must happen before the region is mapped.
    ///
    /// # Errors
    /// [`Error::RegionInUse`] if it has a manager already, or is no RAM.
    pub fn set_discard_manager(&mut self, id: RegionId, manager: Option<Arc<DiscardManager>>) -> Result<()> {
        let region = &self.topology.arena[id];
        match &region.core.kind {
            RegionKind::Ram(block) if manager.is_none() || block.discard_manager().is_none() => {
                block.set_discard_manager(manager);
                Ok(())
            }
            _ => Err(Error::RegionInUse(region.core.name.to_string())),
        }
    }

    /// Logs writes to a RAM region, or stops.
    pub fn set_log(&mut self, id: RegionId, log: bool) {
        if self.topology.arena[id].log != log {
            if log && let RegionKind::Ram(block) = &self.topology.arena[id].core.kind {
                block.start_dirty_log(DirtyClient::Device);
            }
            self.change(id).log = log;
        }
    }

    /// Has writes of `size` bytes (0: any size) at `offset`, with the value if given, signal `fd` instead of reaching
    /// the device.
    pub fn add_ioeventfd(
        &mut self,
        id: RegionId,
        offset: u64,
        size: u8,
        datamatch: Option<u64>,
        fd: Arc<EventFd>,
    ) {
        self.change(id).ioeventfds.push(IoEventFd { addr: offset, size, datamatch, fd });
    }

    /// Undoes [`add_ioeventfd`](Self::add_ioeventfd) with the same arguments.
    pub fn del_ioeventfd(
        &mut self,
        id: RegionId,
        offset: u64,
        size: u8,
        datamatch: Option<u64>,
        fd: &Arc<EventFd>,
    ) {
        let gone = IoEventFd { addr: offset, size, datamatch, fd: fd.clone() };
        self.change(id).ioeventfds.retain(|fd| *fd != gone);
    }

    /// Takes a region out of its container, its subregions out of it, and forgets it.
    ///
    /// # Errors
    /// [`Error::RegionInUse`] while an alias or an address space names it.
    pub fn destroy(&mut self, id: RegionId) -> Result<()> {
        let region = &self.topology.arena[id];
        if region.spaces > 0 || !region.aliases.is_empty() {
            return Err(Error::RegionInUse(region.core.name.to_string()));
        }
        if let Some(parent) = region.container {
            self.del_subregion(parent, id);
        }
        for child in self.topology.arena[id].subregions.topmost_first() {
            self.del_subregion(id, child.id);
        }
        if let Some(target) = self.topology.arena[id].alias_target() {
            self.topology.arena[target].aliases.remove(&id);
        }
        self.topology.hide(id);
        self.topology.arena.remove(id);
        Ok(())
    }

    /// Creates an address space that shows `root`. Its view is there once the transaction is committed.
    pub fn address_space(&mut self, name: impl Into<String>, root: RegionId) -> Arc<AddressSpace> {
        let space = Arc::new(AddressSpace::new(name.into(), root));
        self.topology.add_space(space.clone());
        space
    }

    /// Removes an address space; its listeners are told that everything is gone, and it shows nothing.
    pub fn remove_address_space(&mut self, space: &Arc<AddressSpace>) {
        self.topology.remove_space(space);
    }

    /// Name of a region.
    pub fn name(&self, id: RegionId) -> Arc<str> {
        self.topology.arena[id].core.name.clone()
    }

    /// Size of a region.
    pub fn size(&self, id: RegionId) -> u128 {
        self.topology.arena[id].size
    }

    /// Container of a region and the offset in it.
    pub fn container_of(&self, id: RegionId) -> Option<(RegionId, u64)> {
        let region = &self.topology.arena[id];
        region.container.map(|c| (c, region.addr))
    }

    /// Whether a region is shown.
    pub fn is_enabled(&self, id: RegionId) -> bool {
        self.topology.arena[id].enabled
    }

    /// Kind of a region.
    pub fn kind(&self, id: RegionId) -> RegionKind {
        self.topology.arena[id].core.kind.clone()
    }
}

impl Drop for Transaction<'_> {
    fn drop(&mut self) {
        self.topology.commit(&self.damage);
    }
}

#[cfg(test)]
mod tests;
