//! Character devices in the object tree: `/chardevs/ID` of type `chardev-KIND`.
//!
//! The object only shows what there is; the device itself belongs to the set.

use std::sync::{Arc, Weak};

use qom::{ObjectCore, ObjectRef, Property, Registry, Tree, TypeInfo, object};

use crate::device::Chardev;

/// Type names by kind of back end.
const TYPES: [(&str, &str); 11] = [
    ("file", "chardev-file"),
    ("memory", "chardev-memory"),
    ("mux", "chardev-mux"),
    ("null", "chardev-null"),
    ("pipe", "chardev-pipe"),
    ("pty", "chardev-pty"),
    ("ringbuf", "chardev-ringbuf"),
    ("serial", "chardev-serial"),
    ("socket", "chardev-socket"),
    ("stdio", "chardev-stdio"),
    ("vc", "chardev-vc"),
];

struct ChardevObject {
    core: ObjectCore,
    device: Weak<Chardev>,
}
object!(ChardevObject, core);

/// Registers the classes. Objects of them are made by the set, not by users.
pub fn register(registry: &mut Registry) {
    registry.register(
        TypeInfo::new("chardev").property(
            Property::new("connected", "bool")
                .description("whether the far end is there")
                .get(|o: &ChardevObject| Ok(o.device.upgrade().is_some_and(|d| d.is_open()).into())),
        ),
    );
    for (_, name) in TYPES {
        let instance =
            |class: &_| Arc::new(ChardevObject { core: ObjectCore::new(class), device: Weak::new() });
        registry.register(TypeInfo::new(name).parent("chardev").instance(instance));
    }
}

/// Shows `device` in the tree.
pub(crate) fn publish(tree: &Tree, device: &Arc<Chardev>) {
    let name = TYPES.iter().find(|(kind, _)| *kind == device.kind()).map(|(_, name)| name);
    let registry = tree.registry();
    let Some(class) = name.and_then(|n| registry.lookup(n)) else { return };
    let object: ObjectRef =
        Arc::new(ChardevObject { core: ObjectCore::new(class), device: Arc::downgrade(device) });
    // Ids are unique in the set, so the place is free.
    let _ = tree.container("/chardevs").add_child(device.label(), object);
}

/// Takes the device `id` out of the tree.
pub(crate) fn withdraw(tree: &Tree, id: &str) {
    tree.container("/chardevs").remove_child(id);
}

#[cfg(test)]
mod tests;
