//! Devices that come and go while the guest runs: virtio-mem on PCI, DIMMs.

use std::fs;

use serde_json::{Value, json};

use super::cpus::MEM_TOTAL;
use super::memory::{guest_has, resize};
use crate::program::{self, Peer};
use crate::testbed::Linux;

const MIB: u64 = 1 << 20;

/// Plugs a backend and a virtio-mem device of 1 GiB with more properties; below the port if the machine has one.
fn plug(guest: &mut Linux, requested: u64, more: &Value) {
    let below_port = guest.boot().options.iter().any(|part| part.contains("pcie-root-port"));
    let mut device =
        json!({ "driver": "virtio-mem-pci", "id": "hot", "memdev": "hotmem", "requested-size": requested });
    if below_port {
        device["bus"] = json!("below");
    }
    for (name, value) in more.as_object().into_iter().flatten() {
        device[name] = value.clone();
    }
    let qmp = guest.vm().qmp();
    // Shared, so that the VMM's own memory is told from the guest's.
    let backend = json!({ "qom-type": "memory-backend-memfd", "id": "hotmem", "size": 1024 * MIB });
    qmp.ok("object-add", backend);
    qmp.ok("device_add", device);
}

/// Unplugs the device, which its driver has given all memory back of, and the backend.
fn unplug(guest: &mut Linux) {
    let qmp = guest.vm().qmp();
    qmp.ok("device_del", json!({ "id": "hot" }));
    qmp.wait_event("DEVICE_DELETED", |e| e["data"]["device"] == "hot");
    qmp.ok("object-del", json!({ "id": "hotmem" }));
}

fn come_and_go(guest: &mut Linux, more: &Value) {
    let before = guest.number(MEM_TOTAL);
    plug(guest, 0, more);
    for size in [256 * MIB, 640 * MIB, 128 * MIB, 0] {
        resize(guest, "hot", size);
        guest_has(guest, before + (size >> 10));
    }
    unplug(guest);
    let left = guest.vm().qmp().ok("query-memory-devices", json!({}));
    assert_eq!(left, json!([]));
}

pub(super) fn device_comes_and_goes(guest: &mut Linux) {
    come_and_go(guest, &json!({}));
    assert_eq!(guest.run("ls /sys/bus/virtio/drivers/virtio_mem | grep -c virtio || true"), "0");
}

pub(super) fn memslots_of_fixed_size(guest: &mut Linux) {
    if program::peer() == Peer::Qemu {
        return guest.skip("QEMU has no property `memslots`");
    }
    come_and_go(guest, &json!({ "memslots": 64 }));
}

pub(super) fn dynamic_memslots(guest: &mut Linux) {
    come_and_go(guest, &json!({ "dynamic-memslots": true }));
}

/// What a VMM's process has.
#[derive(Debug)]
struct Footprint {
    /// KiB of its own memory, without what it shares with others (the guest's memory here).
    own: u64,
    descriptors: usize,
    mappings: usize,
    /// Lines of the flat views, and with them the KVM slots; QEMU shows the views in any order.
    views: Vec<String>,
}

fn footprint(guest: &mut Linux) -> Footprint {
    let shown = guest.vm().qmp().human("info mtree -f");
    let mut views: Vec<String> =
        shown.lines().filter(|line| !line.starts_with("FlatView #")).map(str::to_owned).collect();
    views.sort_unstable();
    let own = guest.vmm_kib("RssAnon");
    let process = format!("/proc/{}", guest.vm().pid().as_raw_nonzero());
    let descriptors = fs::read_dir(format!("{process}/fd")).expect("the VMM runs").count();
    let mappings = fs::read_to_string(format!("{process}/maps")).expect("the VMM runs").lines().count();
    Footprint { own, descriptors, mappings, views }
}

pub(super) fn cycles_leak_nothing(guest: &mut Linux) {
    let bare = guest.number(MEM_TOTAL);
    let cycle = |guest: &mut Linux| {
        plug(guest, 128 * MIB, &json!({}));
        guest_has(guest, bare + (128 << 10));
        resize(guest, "hot", 0);
        unplug(guest);
    };
    // Caches and pools fill up first.
    for _ in 0..4 {
        cycle(guest);
    }
    let before = footprint(guest);
    for _ in 0..20 {
        cycle(guest);
    }
    let after = footprint(guest);
    assert_eq!(after.descriptors, before.descriptors);
    assert_eq!(after.views, before.views);
    assert!(after.mappings <= before.mappings + 4, "{} mappings, {} before", after.mappings, before.mappings);
    assert!(after.own <= before.own + 1024, "{} KiB, {} before", after.own, before.own);
}

pub(super) fn dimm_comes_and_goes(guest: &mut Linux) {
    let before = guest.number(MEM_TOTAL);
    let qmp = guest.vm().qmp();
    qmp.ok("object-add", json!({ "qom-type": "memory-backend-ram", "id": "dimmmem", "size": 256 * MIB }));
    qmp.ok("device_add", json!({ "driver": "pc-dimm", "id": "dimm", "memdev": "dimmmem" }));
    guest_has(guest, before + (256 << 10));
    let qmp = guest.vm().qmp();
    let shown = qmp.ok("query-memory-devices", json!({}));
    assert_eq!(
        (&shown[0]["type"], &shown[0]["data"]["size"]),
        (&json!("dimm"), &json!(256 * MIB)),
        "{shown}"
    );
    qmp.ok("device_del", json!({ "id": "dimm" }));
    qmp.wait_event("DEVICE_DELETED", |e| e["data"]["device"] == "dimm");
    qmp.ok("object-del", json!({ "id": "dimmmem" }));
    guest_has(guest, before);
}

pub(super) fn persistent_memory_keeps_what_is_synced(guest: &mut Linux) {
    let path = guest.vm().scratch().join("persistent");
    let qmp = guest.vm().qmp();
    let backend = json!({
        "qom-type": "memory-backend-file", "id": "lasting", "mem-path": path.to_str(), "size": 64 * MIB, "share": true
    });
    qmp.ok("object-add", backend);
    qmp.ok("device_add", json!({ "driver": "virtio-pmem-pci", "id": "pmem", "memdev": "lasting" }));
    let shown = qmp.ok("query-memory-devices", json!({}));
    assert_eq!(
        (&shown[0]["type"], &shown[0]["data"]["id"]),
        (&json!("virtio-pmem"), &json!("pmem")),
        "{shown}"
    );
    guest.insert_later();
    guest.until("[ -b /dev/pmem0 ] && cat /sys/block/pmem0/size || echo none", |text| {
        text == (64 * MIB / 512).to_string()
    });
    // The last step of `conv=fsync` is a flush, which the device answers.
    guest.run(
        "echo what lasts >/tmp/word; dd if=/tmp/word of=/dev/pmem0 bs=4096 seek=3 conv=fsync 2>/dev/null",
    );
    let kept = fs::read(&path).expect("the backend's file");
    assert!(kept[3 * 4096..].starts_with(b"what lasts\n"));
}
