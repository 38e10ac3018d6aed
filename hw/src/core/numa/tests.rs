//! Claims about NUMA nodes, with the oracle's texts.

use super::*;

const GIB: u64 = 1 << 30;

fn node() -> NumaNodeOptions {
    NumaNodeOptions::default()
}

fn add(numa: &mut Numa, options: NumaNodeOptions) -> Result<()> {
    numa.add_node(options, 4, false, |id| id.starts_with('r').then_some(GIB / 2))
}

fn text<T: std::fmt::Debug>(result: Result<T>) -> String {
    result.unwrap_err().desc().to_owned()
}

#[test]
fn bad_nodes_are_refused_in_qemus_words() {
    let mut n = Numa::default();
    let memdev = |id: &str| NumaNodeOptions { memdev: Some(id.into()), ..node() };
    assert_eq!(text(add(&mut n, memdev("nope"))), "memdev=nope is ambiguous");
    let mut n = Numa::default();
    let mem = NumaNodeOptions { mem: Some(GIB), ..node() };
    assert_eq!(text(add(&mut n, mem)), "Parameter -numa node,mem is not supported by this machine type");
    let mut n = Numa::default();
    add(&mut n, NumaNodeOptions { nodeid: Some(0), cpus: vec![0, 1], ..memdev("r0") }).unwrap();
    assert_eq!(text(add(&mut n, NumaNodeOptions { nodeid: Some(0), ..node() })), "Duplicate NUMA nodeid: 0");
    assert_eq!(
        text(add(&mut n, NumaNodeOptions { cpus: vec![1, 2, 3], ..node() })),
        "CPU is already assigned to node-id: 0"
    );
    assert_eq!(
        text(add(&mut n, NumaNodeOptions { cpus: vec![4], ..node() })),
        "CPU index (4) should be smaller than maxcpus (4)"
    );
    assert_eq!(
        text(add(&mut n, NumaNodeOptions { nodeid: Some(128), ..node() })),
        "Max number of NUMA nodes reached: 128"
    );
    assert_eq!(
        text(add(&mut n, NumaNodeOptions { mem: Some(GIB), ..node() })),
        "numa configuration should use either mem= or memdev=,mixing both is not allowed"
    );
}

#[test]
fn the_list_must_be_complete_and_sum_up() {
    let mut n = Numa::default();
    add(&mut n, NumaNodeOptions { nodeid: Some(1), memdev: Some("r0".into()), ..node() }).unwrap();
    assert_eq!(text(n.complete(GIB, 4)), "numa: Node ID missing: 0");
    let mut n = Numa::default();
    add(&mut n, NumaNodeOptions { memdev: Some("r0".into()), ..node() }).unwrap();
    assert_eq!(
        text(n.complete(GIB, 4)),
        "total memory for NUMA nodes (0x20000000) should equal RAM size (0x40000000)"
    );
    add(&mut n, NumaNodeOptions { memdev: Some("r0".into()), ..node() }).unwrap();
    assert_eq!(text(n.complete(GIB, 4)), "memory backend r0 can't be used multiple times.");
}

#[test]
fn nodes_without_memory_split_the_ram() {
    let mut n = Numa::default();
    add(&mut n, NumaNodeOptions { cpus: vec![0, 1], ..node() }).unwrap();
    add(&mut n, NumaNodeOptions { cpus: vec![2], ..node() }).unwrap();
    n.complete(3 * GIB + 8192, 4).unwrap();
    let sizes: Vec<u64> = n.nodes().map(|(_, n)| n.size).collect();
    assert_eq!(sizes, [GIB + GIB / 2, GIB + GIB / 2 + 8192]);
    assert_eq!((n.node_of_cpu(2), n.node_of_cpu(3)), (Some(1), Some(0)));
}

#[test]
fn distances_are_checked() {
    let mut n = Numa::default();
    add(&mut n, node()).unwrap();
    assert!(text(n.add_distance(0, 5, 20)).starts_with("Source/Destination NUMA node is missing"));
    assert_eq!(text(n.add_distance(0, 0, 20)), "Local distance of node 0 should be 10.");
    assert_eq!(text(n.add_distance(0, 0, 5)), "NUMA distance (5) is invalid, it shouldn't be less than 10.");
}
