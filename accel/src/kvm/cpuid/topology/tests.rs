//! Claims about places and caches; the numbers are those that QEMU 10.0.2 gives KVM.

use super::*;
use crate::cpu::{CpuModel, Supported};

fn table(text: &str, [dies, modules, cores, threads]: [u32; 4], apic_id: u32) -> Vec<kvm_cpuid_entry2> {
    let facts = CpuModel::parse(text).unwrap().facts(&Supported::nominal());
    let topology = Topology { dies, modules, cores, threads };
    leaves(&facts, &Identity { apic_id, topology, phys_bits: 40 })
}

fn of(table: &[kvm_cpuid_entry2], function: u32) -> Vec<[u32; 4]> {
    let found = table.iter().filter(|entry| entry.function == function);
    found.map(|e| [e.eax, e.ebx, e.ecx, e.edx]).collect()
}

#[test]
fn every_level_is_told_with_its_width_and_size() {
    let leaves = table("qemu64,vendor=GenuineIntel", [2, 2, 1, 2], 0);
    assert_eq!(of(&leaves, 0xb), [[1, 2, 0x100, 0], [3, 8, 0x201, 0], [0, 0, 2, 0]]);
    assert_eq!(
        of(&leaves, 0x1f),
        [[1, 2, 0x100, 0], [1, 2, 0x201, 0], [2, 4, 0x302, 0], [3, 8, 0x503, 0], [0, 0, 4, 0]]
    );
    let flat = table("qemu64", [1, 1, 3, 1], 6);
    assert_eq!(of(&flat, 0xb), [[0, 1, 0x100, 6], [2, 3, 0x201, 6], [0, 0, 2, 6]]);
    assert!(of(&flat, 0x1f).is_empty());
}

#[test]
fn intels_caches_say_who_shares_them() {
    let leaves = table("qemu64,vendor=GenuineIntel", [1, 1, 3, 2], 5);
    let shared = of(&leaves, 4);
    assert_eq!(
        shared.iter().map(|r| r[0]).collect::<Vec<_>>(),
        [0x0c00_4121, 0x0c00_4122, 0x0c00_4143, 0x0c01_c163, 0]
    );
    assert_eq!(of(&leaves, 2), [[1, 0, 0x4d, 0x002c_307d]]);
    let without = table("qemu64,vendor=GenuineIntel,l3-cache=off", [1; 4], 0);
    assert_eq!(of(&without, 4).len(), 4);
    assert_eq!((of(&without, 2)[0][2], of(&without, 0x8000_0006)[0][3]), (0, 0));
}

#[test]
fn amds_caches_and_places_are_in_the_extended_leaves() {
    let leaves = table("qemu64", [2, 1, 3, 2], 0xb);
    let shared: Vec<u32> = of(&leaves, 0x8000_001d).iter().map(|r| r[0]).collect();
    assert_eq!(shared, [0x4121, 0x4122, 0x4043, 0x1_c163, 0]);
    assert_eq!(of(&leaves, 4), [[0; 4]]);
    assert_eq!(of(&leaves, 0x8000_001e), [[0xb, 0x101, 0, 0]]);
    let second_socket = table("qemu64", [1, 2, 2, 1], 5);
    assert_eq!(of(&second_socket, 0x8000_001e), [[5, 1, 1, 0]]);
}

#[test]
fn a_package_of_several_says_how_many() {
    let topology = Topology { dies: 2, modules: 1, cores: 3, threads: 2 };
    assert_eq!(package_size(&topology), 0x400b);
    let identity = Identity { apic_id: 0x105, topology, phys_bits: 40 };
    assert_eq!(logical(0xffff_08ff, &identity), 0x050c_0800);
    let alone = Topology { dies: 1, modules: 1, cores: 1, threads: 1 };
    assert_eq!((package_size(&alone), cores_of_package(&alone)), (0, 0));
}
