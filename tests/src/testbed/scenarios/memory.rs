//! The README's session: two nodes, a virtio-mem device each, resized while the guest's own driver follows.

use serde_json::json;

use super::cpus::MEM_TOTAL;
use crate::testbed::Linux;
use crate::testbed::machine::Machine;

const MIB: u64 = 1 << 20;

/// KiB that a node has.
pub(super) fn node_total(guest: &mut Linux, node: &str) -> u64 {
    guest.number(&total_of(node))
}

fn total_of(node: &str) -> String {
    format!("awk '/MemTotal/ {{ print $4 }}' /sys/devices/system/node/node{node}/meminfo")
}

/// Asks a device for a size and waits until the VMM says that the guest's driver has it there.
pub(super) fn resize(guest: &mut Linux, id: &str, size: u64) {
    let qmp = guest.vm().qmp();
    // What was said before is not the answer.
    qmp.ok("query-status", json!({}));
    qmp.events();
    let path = format!("/machine/peripheral/{id}");
    if qmp.qom_get(&path, "size") == json!(size) {
        qmp.qom_set(&path, "requested-size", json!(size));
        return;
    }
    qmp.qom_set(&path, "requested-size", json!(size));
    qmp.wait_event("MEMORY_DEVICE_SIZE_CHANGE", |e| e["data"]["id"] == id && e["data"]["size"] == size);
    assert_eq!(qmp.qom_get(&path, "size"), json!(size));
}

/// Waits until the guest has so many KiB.
pub(super) fn guest_has<M: Machine>(guest: &mut Linux<M>, kib: u64) {
    guest.until(MEM_TOTAL, |text| text == kib.to_string());
}

pub(super) fn resizes_ten_times(guest: &mut Linux) {
    resize(guest, "vm1", 0);
    let bare: Vec<u64> = ["0", "1"].map(|node| node_total(guest, node)).to_vec();
    for round in 0..10 {
        // Up and down on both nodes; the README's sizes first.
        let sizes = if round % 2 == 0 { [500 * MIB, 200 * MIB] } else { [0, 1024 * MIB] };
        for (id, size) in ["vm0", "vm1"].into_iter().zip(sizes) {
            resize(guest, id, size);
        }
        for (node, size) in sizes.into_iter().enumerate() {
            let wanted = (bare[node] + (size >> 10)).to_string();
            guest.until(&total_of(&node.to_string()), |text| text == wanted);
        }
        let shown = guest.vm().qmp().human("info memory-devices");
        for (id, size) in ["vm0", "vm1"].into_iter().zip(sizes) {
            let device = shown.split("Memory device").find(|part| part.contains(id)).unwrap_or_default();
            assert!(device.contains(&format!("\n  size: {size}\n")), "{id} in {shown}");
        }
    }
}

pub(super) fn reboot_unplugs_and_plugs_again(guest: &mut Linux) {
    resize(guest, "vm0", 0);
    resize(guest, "vm1", 0);
    let bare = guest.number(MEM_TOTAL);
    resize(guest, "vm0", 512 * MIB);
    resize(guest, "vm1", 256 * MIB);
    guest_has(guest, bare + (768 << 10));
    super::power::reboot(guest, |guest| {
        // The guest's driver is not there yet: the memory went with the reset.
        let qmp = guest.vm().qmp();
        for id in ["vm0", "vm1"] {
            qmp.wait_event("MEMORY_DEVICE_SIZE_CHANGE", |e| e["data"]["id"] == id && e["data"]["size"] == 0);
        }
    });
    for (id, size) in [("vm0", 512 * MIB), ("vm1", 256 * MIB)] {
        let qmp = guest.vm().qmp();
        if qmp.qom_get(&format!("/machine/peripheral/{id}"), "size") != json!(size) {
            qmp.wait_event("MEMORY_DEVICE_SIZE_CHANGE", |e| {
                e["data"]["id"] == id && e["data"]["size"] == size
            });
        }
    }
    // Another boot of the same kernel keeps a little more or less for itself.
    let wanted = bare + (768 << 10);
    guest.until(MEM_TOTAL, |text| text.parse::<u64>().is_ok_and(|kib| kib.abs_diff(wanted) < 16 << 10));
}
