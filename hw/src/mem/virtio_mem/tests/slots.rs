//! Memory in parts: which are mapped when, seen from outside of the device.

use std::sync::{Arc, Mutex};

use memory::{AddressSpace, MemTx, MemoryListener, MtreeOptions, Section};
use qom::ObjectRef;

use super::rig::{G, M, Raw, Rig};

/// A 7 GiB device `vm0` behind a driver.
fn device(options: &[(&str, &str)]) -> Raw {
    let rig = Rig::new("pc");
    rig.backend("memory-backend-ram", "mem0", "7G", &[("reserve", "off")]).unwrap();
    rig.device(&[&[("id", "vm0"), ("memdev", "mem0")], options].concat()).unwrap();
    rig.machine.finish().unwrap();
    Raw::new(rig, 1 << 32 | 3)
}

/// The lines of `info mtree` with aliases of parts.
fn shown(d: &Raw) -> Vec<String> {
    let text = d.rig.machine.memory().mtree_text(MtreeOptions::default()).unwrap();
    let is_part = |line: &&str| line.contains("memslot-") && line.contains(": alias");
    let mut lines: Vec<_> = text.lines().filter(is_part).map(|l| l.trim().to_owned()).collect();
    lines.sort();
    lines.dedup();
    lines
}

/// Names of the device's children.
fn children(d: &Raw) -> Vec<String> {
    let backend: ObjectRef = d.rig.vm0().core().child("virtio-backend").unwrap();
    backend.core().children().into_iter().map(|(name, _)| name).collect()
}

#[test]
fn slots_are_mapped_as_the_guest_plugs() {
    let mut d = device(&[("requested-size", "7G"), ("dynamic-memslots", "on")]);
    assert!(shown(&d).is_empty());
    assert_eq!(d.plug(4 * G, 1), 0);
    assert_eq!(
        shown(&d),
        [
            "0000000100000000-000000013fffffff (prio 0, ram): alias memslot-0 @mem0 0000000000000000-000000003fffffff"
        ]
    );
    assert_eq!(d.plug(6 * G - 2 * M, 2), 0);
    assert_eq!(shown(&d).len(), 3);
    assert_eq!(d.unplug(4 * G, 1), 0);
    assert_eq!(shown(&d).len(), 2);
    d.rig.system_reset();
    assert!(shown(&d).is_empty());
    let names = children(&d);
    for name in ["virtio-mem[0]", "memslot-6[0]"] {
        assert!(names.iter().any(|n| n == name), "{name} in {names:?}");
    }
}

#[test]
fn parts_are_mapped_as_the_usable_region_grows() {
    let mut d = device(&[("memslots", "7")]);
    assert!(shown(&d).is_empty());
    d.rig.set("requested-size", "1G").unwrap();
    assert_eq!(
        shown(&d),
        [
            "0000000100000000-000000013fffffff (prio 0, ram): alias virtio-mem-memslot-0 @mem0 0000000000000000-000000003fffffff",
            "0000000140000000-000000017fffffff (prio 0, ram): alias virtio-mem-memslot-1 @mem0 0000000040000000-000000007fffffff",
        ]
    );
    d.rig.set("requested-size", "7G").unwrap();
    assert_eq!(shown(&d).len(), 7);
    assert_eq!(d.plug(4 * G, 1), 0);
    d.rig.set("requested-size", "2M").unwrap();
    assert_eq!(shown(&d).len(), 7);
    assert_eq!(d.unplug_all(), 0);
    assert_eq!(shown(&d).len(), 1, "258 MiB are usable");
    d.rig.set("requested-size", "3G").unwrap();
    d.rig.set("requested-size", "768M").unwrap();
    assert_eq!(shown(&d).len(), 4);
    d.rig.system_reset();
    assert_eq!(shown(&d).len(), 1, "1 GiB is usable");
    let names = children(&d);
    for name in ["virtio-mem-memslots[0]", "virtio-mem-memslot-6[0]"] {
        assert!(names.iter().any(|n| n == name), "{name} in {names:?}");
    }
    assert_eq!(d.rig.get("memslots").as_u64(), Some(7));
}

#[test]
fn a_number_is_chosen_when_asked_for_and_reads_back_as_asked() {
    let mut d = device(&[("memslots", "0"), ("requested-size", "7G")]);
    assert_eq!(shown(&d).len(), 7, "1 GiB each");
    assert_eq!(d.rig.get("memslots").as_u64(), Some(0));
    d.rig.set("requested-size", "0").unwrap();
    d.rig.system_reset();
    assert!(shown(&d).is_empty());
}

/// Looks at the generation of the configuration each time a part comes.
struct Clerk {
    space: Arc<AddressSpace>,
    register: u64,
    seen: Mutex<Vec<u64>>,
}

impl MemoryListener for Clerk {
    fn region_add(&self, section: &Section) {
        if &*section.name == "mem0" {
            let (generation, result) = self.space.read_uint(self.register, 1);
            assert_eq!(result, MemTx::Ok);
            self.seen.lock().unwrap().push(generation);
        }
    }
}

#[test]
fn parts_are_mapped_before_the_guest_is_told() {
    let mut d = device(&[("memslots", "7")]);
    let space = Arc::clone(d.rig.machine.system_space());
    let clerk = Arc::new(Clerk { space, register: d.common + 21, seen: Mutex::default() });
    d.rig.machine.memory().add_listener(&clerk.space, Arc::clone(&clerk) as _);
    let before = d.generation();
    d.rig.set("requested-size", "1G").unwrap();
    assert_ne!(d.generation(), before);
    assert_eq!(*clerk.seen.lock().unwrap(), [u64::from(before); 2]);
}
