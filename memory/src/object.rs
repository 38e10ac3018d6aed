//! Regions in the object tree: `NAME[0]` of type `memory-region` under the owner, or under `/machine/unattached`.

use std::sync::{Arc, Weak};

use qapi::{Error, Result, Value};
use qom::{Class, ObjectCore, ObjectRef, Property, Registry, TypeInfo, object};

use crate::memory::{Memory, Topology};
use crate::region::{Owner, Region, RegionId};

/// What stands for a region in the object tree.
pub(crate) struct RegionObject {
    core: ObjectCore,
    memory: Weak<Memory>,
    id: RegionId,
}
object!(RegionObject, core);

/// Makes region objects. Present once the classes are registered.
#[derive(Clone)]
pub(crate) struct RegionObjects {
    class: Arc<Class>,
    memory: Weak<Memory>,
    /// `/machine/unattached`.
    unattached: Option<ObjectRef>,
}

/// Registers the class `memory-region` and has regions created from now on appear in the tree.
pub(crate) fn register(registry: &mut Registry, memory: &Arc<Memory>) {
    let read = |name: &'static str, type_name: &'static str, get: fn(&Topology, &Region) -> Value| {
        Property::new(name, type_name).get(move |o: &RegionObject| o.with(get))
    };
    // Of an abstract struct's kind: objects are made by transactions, never by name, so there is no constructor.
    registry.register(TypeInfo::new("memory-region").properties([
        Property::new("container", "link<memory-region>").get(|o: &RegionObject| {
            let container =
                o.with(|topology, region| region.container.and_then(|c| topology.arena[c].object.clone()))?;
            // Without the topology lock: the path leads over owners, and the last reference to one may be ours.
            Ok(container.map_or_else(String::new, |o| o.path()).into())
        }),
        read("addr", "uint64", |_, region| region.addr.into()),
        read("priority", "uint32", |_, region| i64::from(region.priority).into()),
        read("size", "uint64", |_, region| u64::try_from(region.size).unwrap_or(u64::MAX).into()),
    ]));
    let class = Arc::clone(registry.lookup("memory-region").expect("registered above"));
    let objects = RegionObjects { class, memory: Arc::downgrade(memory), unattached: None };
    memory.topology().objects = Some(objects);
}

impl RegionObject {
    fn with<T>(&self, get: impl FnOnce(&Topology, &Region) -> T) -> Result<T> {
        let gone = || Error::generic("memory region is gone");
        let memory = self.memory.upgrade().ok_or_else(gone)?;
        let topology = memory.topology();
        let region = topology.arena.get(self.id).ok_or_else(gone)?;
        Ok(get(&topology, region))
    }
}

impl Topology {
    /// Puts a new region into the object tree.
    pub(crate) fn show(&mut self, id: RegionId) {
        let Some(objects) = &self.objects else { return };
        let region = &mut self.arena[id];
        let parent = match &region.owner {
            Owner::None => objects.unattached.clone(),
            Owner::Qom(owner) => owner.upgrade(),
            Owner::Object { .. } | Owner::Device { .. } => None,
        };
        let Some(parent) = parent.filter(|_| !region.core.name.is_empty() && region.object.is_none()) else {
            return;
        };
        let core = ObjectCore::new(&objects.class);
        let object: ObjectRef = Arc::new(RegionObject { core, memory: objects.memory.clone(), id });
        match parent.add_child(&format!("{}[*]", escaped(&region.core.name)), object.clone()) {
            Ok(_) => region.object = Some(object),
            Err(error) => trace::emit!(pliant_region_object_missing, &region.core.name, &error),
        }
    }

    /// Takes a region out of the object tree.
    pub(crate) fn hide(&mut self, id: RegionId) {
        if let Some(object) = self.arena[id].object.take()
            && let Some(parent) = object.core().parent()
        {
            parent.remove_child(&object.core().name());
        }
    }

    /// Says where regions without owner go, those that exist already included.
    pub(crate) fn set_unattached(&mut self, container: ObjectRef) {
        if let Some(objects) = &mut self.objects {
            objects.unattached = Some(container);
            self.arena.ids().into_iter().for_each(|id| self.show(id));
        }
    }
}

/// A region's name as a path component.
#[doc(alias = "memory_region_escape_name")]
fn escaped(name: &str) -> String {
    name.chars().fold(String::new(), |mut out, c| {
        match c {
            '/' | '[' | ']' | '\\' => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            _ => out.push(c),
        }
        out
    })
}

#[cfg(test)]
mod tests;
