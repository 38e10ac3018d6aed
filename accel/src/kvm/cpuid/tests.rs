//! Claims about the CPUID that a model becomes.

use super::super::features::cpuid_words;
use super::*;
use crate::cpu::{CpuModel, Supported};

fn entry(function: u32, index: u32, [eax, ebx, ecx, edx]: [u32; 4]) -> kvm_cpuid_entry2 {
    kvm_cpuid_entry2 { function, index, flags: 0, eax, ebx, ecx, edx, padding: [0; 3] }
}

fn all_on() -> CpuId {
    let ones = [u32::MAX; 4];
    let entries: Vec<_> = [
        0,
        1,
        4,
        7,
        0xb,
        0xd,
        0x10,
        0x4000_0000,
        0x4000_0001,
        0x8000_0000,
        0x8000_0001,
        0x8000_0002,
        0x8000_0003,
        0x8000_0004,
        0x8000_001e,
    ]
    .into_iter()
    .map(|function| entry(function, 0, ones))
    .chain([entry(0xb, 1, ones), entry(0x8000_0008, 0, [0x3030, 0, 0, 0])])
    .collect();
    CpuId::from_entries(&entries).unwrap()
}

fn leaf(table: &CpuId, function: u32, index: u32) -> Option<kvm_cpuid_entry2> {
    table.as_slice().iter().find(|entry| entry.function == function && entry.index == index).copied()
}

const SECOND_OF_THREE: Identity =
    Identity { apic_id: 1, topology: Topology { dies: 1, modules: 1, cores: 3, threads: 1 }, phys_bits: 46 };

fn build_from(table: &CpuId, text: &str) -> CpuId {
    let supported = Supported {
        words: cpuid_words(table),
        vendor: *b"GenuineIntel",
        numbers: [6, 143, 8],
        model_id: "A Processor".into(),
        level: 0x20,
        xlevel: 0x8000_0022,
        kvm: true,
    };
    let mut facts = CpuModel::parse(text).unwrap().facts(&supported);
    facts.realize(&SECOND_OF_THREE.topology, &supported);
    build(table, &facts, &SECOND_OF_THREE).unwrap()
}

fn build_text(text: &str) -> CpuId {
    build_from(&all_on(), text)
}

#[test]
fn host_keeps_features_and_tells_its_own_apic_id() {
    let table = build_text("host,migratable=off");
    let one = leaf(&table, 1, 0).unwrap();
    assert_eq!((one.eax, one.ecx, one.edx), (0x0008_06f8, u32::MAX, u32::MAX));
    assert_eq!(one.ebx, 1 << 24 | 3 << 16 | 0xff00);
    let cores = leaf(&table, 0xb, 1).unwrap();
    assert_eq!((cores.eax, cores.ebx, cores.ecx, cores.edx), (2, 3, 0x201, 1));
    assert_eq!(leaf(&table, 0x8000_001e, 0).unwrap().eax, 1);
    assert_eq!(phys_bits(&table), 46);
    assert_eq!(leaf(&table, 0x4000_0001, 0).unwrap().eax, u32::MAX);
    let names = BRAND_LEAVES.filter_map(|at| leaf(&table, at, 0)).map(|e| [e.eax, e.ebx, e.ecx, e.edx]);
    assert_eq!(brand(names), "A Processor");
}

#[test]
fn qemu64_is_small() {
    let table = build_text("qemu64,vendor=AuthenticAMD");
    let zero = leaf(&table, 0, 0).unwrap();
    assert_eq!((zero.eax, zero.ebx.to_le_bytes()), (0xd, *b"Auth"));
    assert!(leaf(&table, 0x10, 0).is_none() && leaf(&table, 0x1f, 0).is_none());
    let one = leaf(&table, 1, 0).unwrap();
    assert_eq!((one.eax, one.ecx), (0x0006_0fb1, 1 | 1 << 13 | 1 << 21 | 1 << 31));
    assert_eq!(leaf(&table, 7, 0).unwrap().ebx, 0);
    assert_eq!(leaf(&table, 0x8000_0002, 0).unwrap().eax.to_le_bytes(), *b"QEMU");
    // Those that every named model has.
    assert_eq!(leaf(&table, 0x4000_0001, 0).unwrap().eax, 0x0100_007b);
    let state = leaf(&table, 0xd, 0).unwrap();
    assert_eq!([state.eax, state.ebx, state.ecx, state.edx], [0; 4]);
}

#[test]
fn base_is_empty_and_a_guest_can_be_kept_from_seeing_kvm() {
    let table = build_text("base");
    assert!(leaf(&table, 1, 0).is_none(), "leaf 0 is the highest");
    let table = build_text("base,+aes,family=6,kvm=off");
    let one = leaf(&table, 1, 0).unwrap();
    assert_eq!((one.eax, one.ecx), (0x600, 1 << 25));
    assert!(leaf(&table, 0x4000_0000, 0).is_none());
}

#[test]
fn features_are_added_and_removed() {
    let table = build_text("qemu64,+aes,-pni");
    assert_eq!(leaf(&table, 1, 0).unwrap().ecx, 1 << 25 | 1 << 13 | 1 << 21 | 1 << 31);
    let poor = CpuId::from_entries(&[entry(1, 0, [0; 4])]).unwrap();
    let table = build_from(&poor, "host,+avx,-aes");
    assert_eq!(leaf(&table, 1, 0).unwrap().ecx, 0);
    assert_eq!(phys_bits(&table), 36);
}

#[test]
fn a_named_model_has_only_the_sub_leaves_of_its_features() {
    let ones = [u32::MAX; 4];
    let table = CpuId::from_entries(&[entry(7, 0, ones), entry(7, 1, ones), entry(7, 2, ones)]).unwrap();
    let plain = build_from(&table, "qemu64,+avx2");
    let seven = leaf(&plain, 7, 0).unwrap();
    assert_eq!((seven.eax, seven.ebx, leaf(&plain, 7, 1).is_none()), (0, 1 << 5, true));
    let more = build_from(&table, "qemu64,+sm3");
    assert_eq!((leaf(&more, 7, 0).unwrap().eax, leaf(&more, 7, 1).unwrap().eax), (1, 2));
}

#[test]
fn the_extended_state_is_as_large_as_its_parts() {
    // x87 and SSE, AVX at 576, keys at 2688; the size of all of it is the host's.
    let table = [
        entry(1, 0, [0, 0, 1 << 26 | 1 << 28, 0]),
        entry(7, 0, [0, 0, 1 << 3, 0]),
        entry(0xd, 0, [0x207, 0, 2696, 0]),
        entry(0xd, 2, [256, 576, 0, 0]),
        entry(0xd, 9, [8, 2688, 0, 0]),
    ];
    let table = CpuId::from_entries(&table).unwrap();
    let size = |text| {
        let built = build_from(&table, text);
        let state = leaf(&built, 0xd, 0).unwrap();
        (state.eax, state.ecx, leaf(&built, 0xd, 2).is_some())
    };
    assert_eq!(size("host"), (0x207, 2696, true));
    assert_eq!(size("host,-pku"), (7, 832, true));
    assert_eq!(size("host,-pku,-avx"), (3, 576, false));
    assert_eq!(size("host,-xsave"), (0, 0, false));
    assert_eq!(size("qemu64,+xsave,+avx"), (7, 832, true));
}

#[test]
fn signatures_are_read_as_they_are_written() {
    for [family, model, stepping] in [[6, 143, 8], [15, 107, 1], [25, 1, 1], [0, 0, 0], [270, 255, 15]] {
        assert_eq!(numbers(signature(family, model, stepping)), [family, model, stepping]);
    }
    assert_eq!(signature(15, 107, 1), 0x0006_0fb1);
}

#[test]
fn what_the_kernel_leaves_to_us_is_said() {
    let entries = [entry(1, 0, [0; 4]), entry(6, 0, [0; 4]), entry(7, 0, [0; 4]), entry(7, 1, [0; 4])];
    let mut table = CpuId::from_entries(&entries).unwrap();
    complete(&mut table, false, [0; 2]);
    assert_eq!((leaf(&table, 1, 0).unwrap().ecx, leaf(&table, 6, 0).unwrap().eax), (1 << 31, 4));
    complete(&mut table, true, [u32::MAX; 2]);
    assert_eq!(leaf(&table, 1, 0).unwrap().ecx, 1 << 31 | 1 << 24);
    let seven = leaf(&table, 7, 0).unwrap();
    assert_eq!((seven.ebx, seven.edx, leaf(&table, 7, 1).unwrap().ebx), (1 << 9, 1 << 4, 0));
}
