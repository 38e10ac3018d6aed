//! Claims about NUMA nodes, with the oracle's texts.

use super::*;

const GIB: u64 = 1 << 30;

fn node() -> NumaNodeOptions {
    NumaNodeOptions::default()
}

fn add(numa: &mut Numa, options: NumaNodeOptions) -> Result<()> {
    numa.add_node(options, 4, false, |id| id.starts_with('r').then_some(GIB / 2))
}

/// One socket of `cores` cores.
fn smp(cores: u32) -> Smp {
    Smp { cpus: cores, sockets: 1, dies: 1, modules: 1, cores, threads: 1, maxcpus: cores }
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
    assert_eq!(text(n.complete(GIB, &smp(4))), "numa: Node ID missing: 0");
    let mut n = Numa::default();
    add(&mut n, NumaNodeOptions { memdev: Some("r0".into()), ..node() }).unwrap();
    assert_eq!(
        text(n.complete(GIB, &smp(4))),
        "total memory for NUMA nodes (0x20000000) should equal RAM size (0x40000000)"
    );
    add(&mut n, NumaNodeOptions { memdev: Some("r0".into()), ..node() }).unwrap();
    assert_eq!(text(n.complete(GIB, &smp(4))), "memory backend r0 can't be used multiple times.");
}

#[test]
fn nodes_without_memory_split_the_ram() {
    let mut n = Numa::default();
    add(&mut n, NumaNodeOptions { cpus: vec![0, 1], ..node() }).unwrap();
    add(&mut n, NumaNodeOptions { cpus: vec![2], ..node() }).unwrap();
    n.complete(3 * GIB + 8192, &smp(4)).unwrap();
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

#[test]
fn distances_are_all_there_or_none_and_the_way_back_is_as_long() {
    let nodes = |distances: &[(u16, u16, u8)]| {
        let mut n = Numa::default();
        (0..3).for_each(|_| add(&mut n, node()).unwrap());
        distances.iter().for_each(|(a, b, val)| n.add_distance(*a, *b, *val).unwrap());
        n.complete(GIB, &smp(4)).map(|_| n)
    };
    let n = nodes(&[(0, 1, 20), (2, 1, 21), (0, 2, 22)]).unwrap();
    let all = [(0, 0), (1, 0), (1, 2), (2, 0)].map(|(a, b)| n.distance(a, b));
    assert_eq!(all, [10, 20, 21, 22]);
    assert!(!nodes(&[]).unwrap().has_distances());
    assert_eq!(
        text(nodes(&[(0, 1, 20)])),
        "The distance between node 0 and 2 is missing, at least one distance value between each nodes should be provided."
    );
    assert_eq!(
        text(nodes(&[(0, 1, 20), (1, 2, 21), (0, 2, 21), (2, 0, 25)])),
        "At least one asymmetrical pair of distances is given, please provide distances for both directions of all node pairs."
    );
}

#[test]
fn sockets_go_round_where_nobody_says_whose_they_are() {
    let mut n = Numa::default();
    (0..2).for_each(|_| add(&mut n, node()).unwrap());
    let four_sockets = Smp { sockets: 4, cores: 2, maxcpus: 8, ..smp(2) };
    assert!(n.complete(GIB, &four_sockets).unwrap().is_empty());
    assert_eq!([0, 1, 2, 3, 4].map(|cpu| n.node_of_cpu(cpu)), [0, 0, 1, 1, 0].map(Some));
}

#[test]
fn cpus_are_given_by_their_place() {
    let topology = Smp { sockets: 2, dies: 2, maxcpus: 8, ..smp(2) };
    let mut n = Numa::default();
    (0..2).for_each(|_| add(&mut n, node()).unwrap());
    let of = |node_id, place| NumaCpuOptions { node_id: Some(node_id), place, cluster_id: None };
    let whole = |socket| [Some(socket), None, None, None, None];
    n.add_cpus(&of(1, whole(0)), &topology).unwrap();
    n.add_cpus(&of(1, whole(0)), &topology).unwrap();
    n.add_cpus(&of(0, [Some(1), Some(1), None, Some(1), None]), &topology).unwrap();
    assert_eq!([0, 3, 4, 7].map(|cpu| n.node_of_cpu(cpu)), [Some(1), Some(1), None, Some(0)]);
    let mut refused = |options: &NumaCpuOptions| text(n.add_cpus(options, &topology));
    assert_eq!(refused(&of(0, whole(0))), "CPU is already assigned to node-id: 1");
    assert_eq!(refused(&of(0, whole(7))), "no match found");
    assert_eq!(refused(&of(0, whole(-1))), "no match found");
    assert_eq!(refused(&NumaCpuOptions::default()), "Missing mandatory node-id property");
    assert_eq!(refused(&of(0, [None, None, Some(0), None, None])), "module-id is not supported");
    assert_eq!(
        refused(&NumaCpuOptions { cluster_id: Some(0), ..of(0, [None; 5]) }),
        "cluster-id is not supported"
    );
    assert_eq!(
        refused(&of(-1, whole(0))),
        "Invalid node-id=-1, NUMA node must be defined with -numa node,nodeid=ID before it's used with -numa cpu,node-id=ID"
    );
}

#[test]
fn memory_without_cpus_names_a_node_with_some() {
    let two = |cpus: Vec<u16>, first: Option<u16>, second: Option<u16>| {
        let mut n = Numa::default();
        add(&mut n, NumaNodeOptions { cpus, initiator: first, ..node() })?;
        add(&mut n, NumaNodeOptions { initiator: second, ..node() })?;
        n.complete(GIB, &smp(4)).map(|_| n)
    };
    let n = two(vec![0, 1, 2, 3], None, Some(0)).unwrap();
    assert_eq!([n.initiator_of(0), n.initiator_of(1)], [Some(0), Some(0)]);
    assert_eq!(two(vec![0], None, None).unwrap().initiator_of(1), None);
    assert_eq!(text(two(vec![0], None, Some(1))), "The initiator of NUMA node 1 is invalid");
    assert_eq!(
        text(two(vec![0], None, Some(4))),
        "NUMA node 4 is missing, use '-numa node' option to declare it first"
    );
    assert_eq!(
        text(two(vec![0], Some(1), None)),
        "The initiator of CPU NUMA node 0 should be itself (got 1)"
    );
    assert_eq!(
        text(two(vec![], Some(128), None)),
        "The initiator id 128 expects an integer between 0 and 127"
    );
}
