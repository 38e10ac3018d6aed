//! Processors, their topology, memory and nodes, as the command line said.

use std::collections::BTreeSet;

use serde_json::{Value, json};

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
