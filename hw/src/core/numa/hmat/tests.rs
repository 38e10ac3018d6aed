//! Claims about latencies, bandwidths and caches beside memory; the texts are QEMU's.

use super::super::NumaNodeOptions;
use super::*;

fn two_nodes() -> Numa {
    let mut numa = Numa::default();
    let node = |cpus: Vec<u16>| NumaNodeOptions { cpus, ..NumaNodeOptions::default() };
    for cpus in [vec![0, 1], vec![]] {
        numa.add_node(node(cpus), 2, false, |_| None).unwrap();
    }
    numa
}

fn lb(data_type: DataType, target: u16, value: u64) -> HmatLb {
    let latency = data_type.is_latency().then_some(value);
    let bandwidth = (!data_type.is_latency()).then_some(value);
    HmatLb { initiator: 0, target, hierarchy: Hierarchy::Memory, data_type, latency, bandwidth }
}

fn cache(size: u64, level: u8) -> HmatCache {
    let (associativity, policy) = (Associativity::Direct, WritePolicy::WriteBack);
    HmatCache { node_id: 0, size, level, associativity, policy, line: 8 }
}

fn text<T: std::fmt::Debug>(result: Result<T>) -> String {
    result.unwrap_err().desc().to_owned()
}

use DataType::{AccessBandwidth as Bandwidth, AccessLatency as Latency};

#[test]
fn entries_are_told_in_the_largest_unit_that_divides_all() {
    let mut numa = two_nodes();
    numa.add_hmat_lb(&lb(Latency, 0, 20)).unwrap();
    numa.add_hmat_lb(&lb(Latency, 1, 655_340)).unwrap();
    numa.add_hmat_lb(&lb(Bandwidth, 0, 2 * MIB)).unwrap();
    numa.add_hmat_lb(&lb(Bandwidth, 1, 131_068 * MIB)).unwrap();
    let of = |wanted| numa.hmat().tables().find(|(_, data_type, _)| *data_type == wanted).unwrap().2;
    let (latency, bandwidth) = (of(Latency), of(Bandwidth));
    assert_eq!((latency.unit(Latency), bandwidth.unit(Bandwidth)), (10, 2 * MIB));
    assert_eq!([latency.entry(Latency, 0, 0), latency.entry(Latency, 0, 1)], [2, 65534]);
    assert_eq!([bandwidth.entry(Bandwidth, 0, 0), bandwidth.entry(Bandwidth, 0, 1)], [1, 65534]);
    assert_eq!(latency.entry(Latency, 1, 1), 0);
}

#[test]
fn what_does_not_fit_into_an_entry_changes_nothing() {
    let mut numa = two_nodes();
    numa.add_hmat_lb(&lb(Latency, 0, 5)).unwrap();
    let before = numa.hmat().clone();
    assert_eq!(
        text(numa.add_hmat_lb(&lb(Latency, 1, 65535))),
        "Latency 65535 between initiator=0 and target=1 should not differ from previously entered min or max values \
         on more than 65534"
    );
    assert_eq!(
        text(numa.add_hmat_lb(&lb(Bandwidth, 0, 65535 * MIB))),
        "Bandwidth 68718428160 between initiator=0 and target=0 should not differ from previously entered values on \
         more than 65534"
    );
    assert_eq!(
        text(numa.add_hmat_lb(&lb(Bandwidth, 0, 1_049_600))),
        "Bandwidth 1049600 between initiator=0 and target=0 should be 1MB aligned"
    );
    assert_eq!(*numa.hmat(), before);
    numa.add_hmat_lb(&lb(Latency, 1, 65534)).unwrap();
}

#[test]
fn mistakes_are_named_as_by_qemu() {
    let mut numa = two_nodes();
    let at = |initiator, target| HmatLb { initiator, target, ..lb(Latency, 0, 5) };
    assert_eq!(text(numa.add_hmat_lb(&at(5, 7))), "Invalid initiator=5, it should be less than 2");
    assert_eq!(text(numa.add_hmat_lb(&at(0, 5))), "Invalid target=5, it should be less than 2");
    assert_eq!(
        text(numa.add_hmat_lb(&at(1, 0))),
        "Invalid initiator=1, it isn't an initiator proximity domain"
    );
    assert_eq!(text(numa.add_hmat_lb(&HmatLb { latency: None, ..at(0, 0) })), "Missing 'latency' option");
    assert_eq!(
        text(numa.add_hmat_lb(&HmatLb { latency: Some(1), ..lb(Bandwidth, 0, MIB) })),
        "Invalid option 'latency' since the data type is bandwidth"
    );
    numa.add_hmat_lb(&at(0, 0)).unwrap();
    assert_eq!(
        text(numa.add_hmat_lb(&at(0, 0))),
        "Duplicate configuration of the latency for initiator=0 and target=0"
    );
}

#[test]
fn caches_grow_outwards_and_need_the_memory_told_of_first() {
    let mut numa = two_nodes();
    assert_eq!(
        text(numa.add_hmat_cache(&cache(10240, 1))),
        "The latency and bandwidth information of node-id=0 should be provided before memory side cache attributes"
    );
    numa.add_hmat_lb(&lb(Latency, 0, 5)).unwrap();
    numa.add_hmat_lb(&lb(Bandwidth, 0, MIB)).unwrap();
    assert_eq!(text(numa.add_hmat_cache(&cache(10240, 2))), "Cache level=1 shall be defined first");
    assert_eq!(
        text(numa.add_hmat_cache(&cache(10240, 4))),
        "Invalid level=4, it should be larger than 0 and less than or equal to 3"
    );
    numa.add_hmat_cache(&cache(10240, 1)).unwrap();
    assert_eq!(
        text(numa.add_hmat_cache(&cache(5120, 2))),
        "Invalid size=5120, the size of level=2 should be larger than the size(10240) of level=1"
    );
    assert_eq!(
        text(numa.add_hmat_cache(&cache(10240, 1))),
        "Duplicate configuration of the side cache for node-id=0 and level=1"
    );
    numa.add_hmat_cache(&cache(20480, 2)).unwrap();
    assert_eq!((numa.hmat().levels_of(0), numa.hmat().levels_of(1)), (2, 0));
}
