//! Memory regions in the object tree, where `info qom-tree` and `qom-get` see them.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use memory::{Memory, RegionId};
use qom::{ObjectCore, ObjectRef, Property, TypeInfo, object};

use super::machine::Machine;

/// A region as an object.
pub struct RegionObject {
    core: ObjectCore,
    region: Mutex<Option<(Weak<Memory>, RegionId)>>,
}
object!(RegionObject, core);

impl RegionObject {
    fn target(&self) -> Option<(Arc<Memory>, RegionId)> {
        let region = self.region.lock().unwrap_or_else(PoisonError::into_inner);
        let (memory, id) = region.as_ref()?;
        Some((memory.upgrade()?, *id))
    }
}

/// The class `memory-region`.
pub(super) fn class() -> TypeInfo {
    TypeInfo::new("memory-region")
        .instance(|class| Arc::new(RegionObject { core: ObjectCore::new(class), region: Mutex::default() }))
        .property(Property::new("size", "uint64").get(|r: &RegionObject| {
            let size = r.target().map_or(0, |(memory, id)| memory.transaction().size(id));
            Ok(u64::try_from(size).unwrap_or(u64::MAX).into())
        }))
        .property(Property::new("addr", "uint64").get(|r: &RegionObject| {
            let at = r.target().and_then(|(memory, id)| memory.transaction().container_of(id));
            Ok(at.map_or(0, |(_, addr)| addr).into())
        }))
}

impl Machine {
    /// Shows `region` as the child `name[N]` of `owner` (of `/machine/unattached` without one). Take it out before the
    /// region is destroyed: with the owner, or by [`Machine::retract_region`].
    pub fn publish_region(&self, owner: Option<&ObjectRef>, name: &str, region: RegionId) -> Option<String> {
        let object = self.tree().registry().create("memory-region").ok()?;
        let typed = object.downcast::<RegionObject>()?;
        *typed.region.lock().unwrap_or_else(PoisonError::into_inner) =
            Some((Arc::downgrade(self.memory()), region));
        let owner = owner.cloned().unwrap_or_else(|| self.tree().container("/machine/unattached"));
        owner.add_child(&format!("{}[*]", name.replace('/', "\\x2f")), object).ok()
    }

    /// Takes a published region out of the tree.
    pub fn retract_region(&self, owner: &ObjectRef, name: &str) {
        owner.remove_child(name);
    }
}
