//! Regions in the object tree.

use qapi::Value;
use qom::{ObjectCore, Registry, Tree, TypeInfo, object};

use super::*;
use crate::{MtreeOptions, Owner, RegionDesc};

struct Device {
    core: ObjectCore,
}
object!(Device, core);

fn tree() -> (Arc<Memory>, Tree) {
    let memory = Memory::new();
    let mut registry = Registry::new();
    Tree::register(&mut registry);
    crate::register(&mut registry, &memory);
    registry.register(TypeInfo::new("device"));
    registry.register(
        TypeInfo::new("virtio-mem-pci")
            .parent("device")
            .instance(|class| Arc::new(Device { core: ObjectCore::new(class) })),
    );
    (memory, Tree::new(registry))
}

#[test]
fn a_region_is_a_child_of_its_owner_until_it_is_destroyed() {
    let (memory, tree) = tree();
    let early = memory.transaction().container(RegionDesc::new("system", 1 << 32));
    let device = tree.registry().create("virtio-mem-pci").unwrap();
    tree.container("/machine/peripheral").add_child("vm0", device.clone()).unwrap();
    memory.set_unattached(tree.container("/machine/unattached"));

    let mut tx = memory.transaction();
    let outer = tx.container(RegionDesc::new("virtio-pci", 0x4000).owned_by(Owner::of(&device)));
    let bar = tx.container(RegionDesc::new("a/b", 0x1000).owned_by(Owner::of(&device)));
    let again = tx.container(RegionDesc::new("a/b", 0x1000).owned_by(Owner::of(&device)));
    tx.add_subregion(outer, 0x1000, bar, 7);
    tx.add_subregion(early, 0x2000, outer, 1);
    let space = tx.address_space("memory", early);
    drop(tx);

    let names: Vec<String> = device.core().children().into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["a\\x2fb[0]", "a\\x2fb[1]", "virtio-pci[0]"]);
    let object = device.core().child("a\\x2fb[0]").unwrap();
    let get = |name: &str| object.get(name).unwrap();
    assert_eq!(get("type"), Value::from("memory-region"));
    assert_eq!(get("container"), Value::from("/machine/peripheral/vm0/virtio-pci[0]"));
    assert_eq!((get("addr"), get("size"), get("priority")), (0x1000.into(), 0x1000.into(), 7.into()));
    assert_eq!(
        object.set("addr", qom::Input::Text("0")).unwrap_err().desc(),
        "Property 'memory-region.addr' is not writable"
    );
    assert!(
        tree.absolute("/machine/unattached/system[0]").is_some(),
        "also one from before there was a machine"
    );

    let text = memory.mtree_text(MtreeOptions { owner: true, ..Default::default() });
    assert_eq!(
        text,
        "address-space: memory
  0000000000000000-00000000ffffffff (prio 0, i/o): system parent:{obj path=/machine/unattached}
    0000000000002000-0000000000005fff (prio 1, i/o): virtio-pci owner:{dev id=vm0}
      0000000000003000-0000000000003fff (prio 7, i/o): a/b owner:{dev id=vm0}

"
    );
    let mut tx = memory.transaction();
    tx.remove_address_space(&space);
    for id in [bar, again, outer] {
        tx.destroy(id).unwrap();
    }
    drop(tx);
    assert!(device.core().children().is_empty());
    assert_eq!(object.get("addr").unwrap_err().desc(), "memory region is gone");
}

#[test]
fn a_device_without_id_is_printed_by_its_path() {
    let (_memory, tree) = tree();
    let device = tree.registry().create("virtio-mem-pci").unwrap();
    let text = |device: &ObjectRef| crate::text::owner_text(device);
    assert_eq!(text(&device), " owner:{dev type=virtio-mem-pci}");
    tree.container("/machine/peripheral-anon").add_child("device[*]", device.clone()).unwrap();
    assert_eq!(text(&device), " owner:{dev path=/machine/peripheral-anon/device[0]}");
    let backend = tree.container("/machine/peripheral/vm0/virtio-backend");
    assert_eq!(text(&backend), " owner:{obj path=/machine/peripheral/vm0/virtio-backend}");
}
