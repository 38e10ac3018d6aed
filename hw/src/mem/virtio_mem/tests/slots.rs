//! Memory in parts: which are mapped when, seen from outside of the device.

use std::sync::{Arc, Mutex};

use memory::{AddressSpace, MemTx, MemoryBackend, MemoryListener, MtreeOptions, Section};
use qom::ObjectRef;

use super::rig::{G, M, Raw, Rig};
use crate::core::qdev;
use crate::mem::{MemoryDevices, SlotPlan, SlotUser};

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
    let text = d.rig.machine.memory().mtree_text(MtreeOptions::default());
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

/// A back end with few slots, one of them for RAM.
struct Backend {
    limit: u64,
    devices: Arc<MemoryDevices>,
}

impl SlotUser for Backend {
    fn name(&self) -> String {
        "disk0".into()
    }
    fn limit(&self) -> u64 {
        self.limit
    }
    fn used(&self) -> u64 {
        1 + self.devices.devices().iter().map(|d| d.memslots().mapped).sum::<u64>()
    }
}

/// A machine with three backends of 1 GiB and a back end that has slots for eight parts.
fn few_slots() -> Rig {
    let rig = Rig::new("pc");
    for id in ["mem0", "mem1", "mem2"] {
        rig.backend("memory-backend-ram", id, "1G", &[("reserve", "off")]).unwrap();
    }
    rig.machine.finish().unwrap();
    let backend = Backend { limit: 9, devices: rig.devices() };
    SlotPlan::of(&rig.machine).admit(Arc::new(backend)).unwrap();
    rig
}

#[test]
fn a_device_beyond_the_plan_is_refused_at_once() {
    let rig = few_slots();
    rig.device(&[("id", "vm0"), ("memdev", "mem0"), ("memslots", "4"), ("requested-size", "256M")]).unwrap();
    assert_eq!(
        rig.refused(&[("memdev", "mem1"), ("memslots", "8")]),
        "a used vhost backend has not enough free memory slots left: 'disk0' has 9, of which 3 are used and 2 reserved for \
         memory devices, 8 more are required"
    );
    assert_eq!(rig.devices().memslots(), 4);
    // Parts come and go; the promise stays.
    rig.set("requested-size", "1G").unwrap();
    assert_eq!(rig.devices().devices()[0].memslots().mapped, 4);
    assert!(rig.refused(&[("memdev", "mem1"), ("memslots", "8")]).contains("5 are used and 0 reserved"));
    rig.device(&[("id", "vm1"), ("memdev", "mem1"), ("memslots", "4")]).unwrap();
    assert!(
        rig.refused(&[("memdev", "mem2")]).contains("1 more are required"),
        "a plain device takes a slot, too"
    );
}

#[test]
fn a_device_that_fails_half_way_reserves_nothing() {
    let rig = few_slots();
    // After the plan was asked: no place, no node, no such block size.
    for bad in [("memaddr", "0x100001000"), ("node", "1"), ("block-size", "8G"), ("requested-size", "1M")] {
        rig.refused(&[("memdev", "mem0"), ("memslots", "8"), bad]);
        assert_eq!(rig.devices().memslots(), 0, "{bad:?}");
    }
    rig.device(&[("memdev", "mem0"), ("memslots", "8")]).unwrap();
}

#[test]
fn a_device_that_goes_gives_its_reservation_back() {
    let rig = few_slots();
    for _ in 0..3 {
        rig.device(&[("id", "vm0"), ("memdev", "mem0"), ("memslots", "8")]).unwrap();
        assert!(rig.refused(&[("memdev", "mem1")]).contains("8 reserved"));
        let vm0 = qom::cast::<dyn crate::core::Device>(&rig.vm0()).unwrap();
        qdev::complete_unplug(&rig.machine, &vm0);
    }
}

#[test]
fn a_device_that_is_gone_leaves_its_memory_free() {
    for parts in [("memslots", "1"), ("memslots", "4"), ("dynamic-memslots", "on")] {
        for protection in ["off", "slot", "block"] {
            gone(&[("id", "vm0"), ("memdev", "mem0"), parts, ("unplugged-protection", protection)]);
        }
    }
}

fn gone(options: &[(&str, &str)]) {
    let rig = Rig::new("pc");
    let backend = rig.backend("memory-backend-ram", "mem0", "1G", &[]).unwrap();
    let block = MemoryBackend::from_object(&backend).unwrap().block().unwrap();
    drop(backend);
    rig.device(options).unwrap();
    rig.machine.finish().unwrap();
    let unplug = |device: ObjectRef| {
        let device = qom::cast::<dyn crate::core::Device>(&device).unwrap();
        qdev::complete_unplug(&rig.machine, &device);
    };
    let named = || rig.machine.memory().ramblock_text().contains("0000:00:02.0/mem0");
    assert!(named());
    unplug(rig.vm0());
    assert!(!named(), "its place on the bus is no name any more");
    assert!(rig.devices().infos().is_empty());
    // Kills this process where the host mapping is closed still.
    for at in [0, 512 * M, G - 1] {
        block.write(at, &[1]).unwrap();
    }
    rig.device(&[("id", "vm1"), ("memdev", "mem0")]).expect("the backend and the place are free again");
    let text = rig.machine.memory().mtree_text(MtreeOptions::default());
    assert_eq!(text.matches("virtio-pci-common-virtio-mem").count(), 1, "the first one's is gone: {text}");
    unplug(rig.machine.tree().absolute("/machine/peripheral/vm1").unwrap());
    let gone = Arc::downgrade(&block);
    drop(block);
    rig.machine.tree().delete_user_object("mem0").unwrap();
    assert!(gone.upgrade().is_none(), "nothing of the devices shows it any more");
}

#[test]
fn a_number_is_chosen_from_what_is_left() {
    let rig = Rig::new("pc");
    rig.backend("memory-backend-ram", "mem0", "7G", &[("reserve", "off")]).unwrap();
    rig.machine.finish().unwrap();
    let backend = Arc::new(Backend { limit: 509, devices: rig.devices() });
    let plan = SlotPlan::of(&rig.machine);
    plan.admit(backend).unwrap();
    plan.admit(Arc::new(Backend { limit: 508, devices: rig.devices() })).unwrap();
    rig.device(&[("id", "vm0"), ("memdev", "mem0"), ("memslots", "0")]).unwrap();
    assert_eq!(rig.devices().memslots(), 1, "a back end with few slots keeps them");
}
