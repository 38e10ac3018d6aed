//! Processors, their topology, memory and nodes, as the command line said.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::program::{self, Peer};
use crate::testbed::Linux;

/// What a kernel keeps of the memory for itself, in KiB: its image, the pages' descriptions, what the firmware took.
const KERNEL_KEEPS: u64 = 128 << 10;

pub(super) fn cpus_and_memory(guest: &mut Linux) {
    let cpus = guest.vm().qmp().ok("query-cpus-fast", json!({}));
    let cpus = cpus.as_array().expect("a list");
    let distinct = |keys: &[&str]| -> usize {
        let of =
            |cpu: &Value| keys.iter().map(|key| cpu["props"][key].as_u64().unwrap_or(0)).collect::<Vec<_>>();
        cpus.iter().map(of).collect::<BTreeSet<_>>().len()
    };
    let (sockets, cores) =
        (distinct(&["socket-id"]), distinct(&["socket-id", "die-id", "module-id", "core-id"]));
    assert_eq!(guest.number("nproc"), cpus.len() as u64);
    let topology = guest.run(
        "cd /sys/devices/system/cpu; for c in cpu[0-9]*; do cat $c/topology/physical_package_id $c/topology/core_id | xargs; done",
    );
    let seen: BTreeSet<&str> = topology.lines().collect();
    // Linux 6.1 takes threads of AMD's processors for cores if they lack `topoext`, as they do on QEMU.
    let blind = "grep -q AuthenticAMD /proc/cpuinfo && ! grep -q topoext /proc/cpuinfo && echo blind || true";
    let cores = if guest.kernel() == "6.1" && guest.run(blind) == "blind" { cpus.len() } else { cores };
    let packages: BTreeSet<&str> = topology.lines().filter_map(|line| line.split(' ').next()).collect();
    assert_eq!((packages.len(), seen.len()), (sockets, cores), "packages and cores in {topology:?}");

    let base =
        guest.vm().qmp().ok("query-memory-size-summary", json!({}))["base-memory"].as_u64().expect("a size");
    // What virtio-mem devices plug at the start comes on top of it.
    let plugged = guest.vm().qmp().ok("query-memory-devices", json!({}));
    let plugged: u64 =
        plugged.as_array().expect("a list").iter().filter_map(|d| d["data"]["size"].as_u64()).sum();
    let expected = (base + plugged) >> 10;
    let total =
        guest.until(MEM_TOTAL, |text| text.parse::<u64>().is_ok_and(|kib| kib + kept(expected) > expected));
    assert!(total.parse::<u64>().is_ok_and(|total| total <= expected), "{total} of {expected} KiB");
}

/// KiB of usable memory.
pub(super) const MEM_TOTAL: &str = "awk '/^MemTotal/ { print $2 }' /proc/meminfo";

/// What a kernel keeps at most, with the descriptions of so many pages.
fn kept(total: u64) -> u64 {
    KERNEL_KEEPS + total / 50
}

pub(super) fn nodes(guest: &mut Linux) {
    let cd = "cd /sys/devices/system/node";
    assert_eq!(guest.run(&format!("{cd}; cat online")), "0-1");
    assert_eq!(guest.run(&format!("{cd}; cat node0/cpulist node1/cpulist")), "0-1\n2-3");
    assert_eq!(guest.run(&format!("{cd}; cat node0/distance node1/distance")), "10 20\n20 10");
    for node in ["0", "1"] {
        let total = super::memory::node_total(guest, node);
        assert!(total > (2 << 20) - kept(2 << 20), "node {node} has {total} KiB");
    }
}

/// A processor that was plugged.
pub(super) struct Plugged {
    index: u64,
    /// Processors before it came.
    before: u64,
}

/// What a kernel says of time stamp counters that are not in step. Where processors are emulated it may do so while it boots.
const COMPLAINTS: &str = "dmesg | grep -i 'tsc.*\\(unstable\\|warp\\)' || true";

fn count(guest: &mut Linux) -> u64 {
    let cpus = guest.vm().qmp().ok("query-cpus-fast", json!({}));
    cpus.as_array().expect("a list").len() as u64
}

/// Plugs the first processor that is missing and has the guest use it.
pub(super) fn plug(guest: &mut Linux) -> Plugged {
    let (before, complaints) = (count(guest), guest.run(COMPLAINTS));
    let qmp = guest.vm().qmp();
    let places = qmp.ok("query-hotpluggable-cpus", json!({}));
    let places = places.as_array().expect("a list");
    let free = places.iter().rposition(|place| place["qom-path"].is_null()).expect("a free place");
    let index = (places.len() - 1 - free) as u64;
    let mut device = json!({ "driver": places[free]["type"], "id": "hotcpu" });
    for (name, value) in places[free]["props"].as_object().expect("a place") {
        device[name] = value.clone();
    }
    qmp.events();
    qmp.ok("device_add", device);
    // What the guest answers: the device was taken in.
    let taken = qmp.wait_event("ACPI_DEVICE_OST", |_| true);
    let info = &taken["data"]["info"];
    assert_eq!((&info["device"], &info["status"]), (&json!("hotcpu"), &json!(0)), "{info}");
    let folder = format!("/sys/devices/system/cpu/cpu{index}");
    guest.until(&format!("cat {folder}/online || echo none"), |text| text == "0");
    guest.run(&format!("echo 1 >{folder}/online"));
    let plugged = Plugged { index, before };
    works(guest, &plugged);
    assert_eq!(guest.run(COMPLAINTS), complaints);
    plugged
}

/// The guest counts the processor and runs on it.
pub(super) fn works(guest: &mut Linux, plugged: &Plugged) {
    let Plugged { index, before } = plugged;
    assert_eq!(guest.number("nproc"), before + 1);
    assert_eq!(guest.number("grep -c ^processor /proc/cpuinfo"), before + 1);
    let on_it = format!(
        "taskset {:x} sh -c 'read -r a b </proc/self/stat; set -- $b; shift 37; echo $1'",
        1 << index
    );
    assert_eq!(guest.number(&on_it), *index);
}

/// Takes it away again: the guest lets go of it by itself.
pub(super) fn unplug(guest: &mut Linux, plugged: &Plugged) {
    let qmp = guest.vm().qmp();
    qmp.events();
    qmp.ok("device_del", json!({ "id": "hotcpu" }));
    if program::peer() == Peer::Qemu {
        // It tells of the local APIC alone.
        qmp.wait_event("DEVICE_DELETED", |e| e["data"]["path"] == "/machine/peripheral/hotcpu/lapic");
    } else {
        qmp.wait_event("DEVICE_DELETED", |e| e["data"]["device"] == "hotcpu");
    }
    assert_eq!(count(guest), plugged.before);
    let before = plugged.before.to_string();
    guest.until("nproc", |text| text == before);
    let folder = format!("/sys/devices/system/cpu/cpu{}", plugged.index);
    guest.until(&format!("[ -e {folder}/online ] && echo there || echo none"), |text| text == "none");
}

pub(super) fn cpu_comes_and_goes(guest: &mut Linux) {
    let places = guest.vm().qmp().ok("query-hotpluggable-cpus", json!({}));
    let last = places.as_array().expect("a list").len() - 1;
    assert_eq!(guest.run("cat /sys/devices/system/cpu/possible"), format!("0-{last}"));
    // The second time it is the processor that the kernel has already.
    for _ in 0..2 {
        let plugged = plug(guest);
        unplug(guest, &plugged);
    }
}
