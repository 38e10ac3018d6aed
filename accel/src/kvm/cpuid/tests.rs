//! Claims about the CPUID that a model becomes.

use super::*;

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

const SECOND_OF_THREE: Identity = Identity { apic_id: 1, max_apic_id: 2, count: 3 };

fn build_text(text: &str) -> CpuId {
    build(&all_on(), &CpuModel::parse(text).unwrap(), &SECOND_OF_THREE, |feature| panic!("{feature}"))
        .unwrap()
}

#[test]
fn host_keeps_features_and_tells_its_own_apic_id() {
    let table = build_text("host");
    let one = leaf(&table, 1, 0).unwrap();
    assert_eq!((one.ecx, one.edx), (u32::MAX, u32::MAX));
    assert_eq!(one.ebx, 1 << 24 | 3 << 16 | 0xffff);
    let cores = leaf(&table, 0xb, 1).unwrap();
    assert_eq!((cores.eax, cores.ebx, cores.ecx, cores.edx), (2, 3, 0x201, 1));
    assert_eq!(leaf(&table, 0x8000_001e, 0).unwrap().eax, 1);
    assert_eq!(phys_bits(&table), 48);
    assert_eq!(leaf(&table, 0x4000_0001, 0).unwrap().eax, u32::MAX);
}

#[test]
fn qemu64_is_small() {
    let table = build_text("qemu64,vendor=GenuineIntel");
    assert_eq!(leaf(&table, 0, 0).unwrap().eax, 0xd);
    assert_eq!(leaf(&table, 0, 0).unwrap().ebx.to_le_bytes(), *b"Genu");
    assert!(leaf(&table, 0x10, 0).is_none() && leaf(&table, 0xb, 0).is_none());
    let one = leaf(&table, 1, 0).unwrap();
    assert_eq!((one.eax, one.ecx), (0x0006_0fb1, 1 | 1 << 13 | 1 << 21 | 1 << 31));
    assert_eq!(leaf(&table, 7, 0).unwrap().ebx, 0);
    assert_eq!(leaf(&table, 0x8000_0002, 0).unwrap().eax.to_le_bytes(), *b"QEMU");
    assert_eq!(phys_bits(&table), 40);
    assert!(leaf(&table, 0x4000_0000, 0).is_some());
}

#[test]
fn features_are_added_and_removed_and_missing_ones_named() {
    let table = build_text("qemu64,+aes,-pni,phys-bits=46");
    assert_eq!(leaf(&table, 1, 0).unwrap().ecx, 1 << 25 | 1 << 13 | 1 << 21 | 1 << 31);
    assert_eq!(phys_bits(&table), 46);
    let poor = CpuId::from_entries(&[entry(1, 0, [0; 4])]).unwrap();
    let mut missing = Vec::new();
    let model = CpuModel::parse("host,+avx,-aes").unwrap();
    let table = build(&poor, &model, &SECOND_OF_THREE, |feature| missing.push(feature.name)).unwrap();
    assert_eq!(missing, ["avx"]);
    assert_eq!(leaf(&table, 1, 0).unwrap().ecx, 0);
    assert_eq!(phys_bits(&table), 36);
}

#[test]
fn what_the_kernel_leaves_to_us_is_said() {
    let mut table = CpuId::from_entries(&[entry(1, 0, [0; 4]), entry(6, 0, [0; 4])]).unwrap();
    complete(&mut table, false);
    assert_eq!((leaf(&table, 1, 0).unwrap().ecx, leaf(&table, 6, 0).unwrap().eax), (1 << 31, 4));
    complete(&mut table, true);
    assert_eq!(leaf(&table, 1, 0).unwrap().ecx, 1 << 31 | 1 << 24);
}
