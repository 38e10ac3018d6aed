//! Leaves about a vCPU's place among the others and about caches.
//!
//! Sources: Intel SDM volume 2 "CPUID" (leaves 2, 4, 0Bh, 1Fh), AMD APM volume 3 appendix E.4 (8000_0005h, 8000_0006h, 8000_0008h,
//! 8000_001Dh, 8000_001Eh). Which caches a processor has unless it has the host's was seen in what QEMU 10.0.2 gives KVM.
//! Left out: caches of named models that have others there (`EPYC…`).

use kvm_bindings::{KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};

use super::Identity;
use crate::Topology;
use crate::cpu::Facts;

/// Leaves that are made here whatever the host has.
const OWN: [u32; 4] = [5, 0xb, 0x1f, 0x8000_001e];
/// Leaves about caches, made here unless the processor has the host's.
const CACHES: [u32; 5] = [2, 4, 0x8000_0005, 0x8000_0006, 0x8000_001d];
/// TLBs with huge pages and performance hints of the host, which a guest is not told.
const HIDDEN: [u32; 2] = [0x8000_0019, 0x8000_001a];

/// Whether an entry of the host's table is of no use.
pub(super) fn replaces(facts: &Facts, function: u32) -> bool {
    OWN.contains(&function)
        || HIDDEN.contains(&function)
        || (CACHES.contains(&function) && !facts.host_cache_info)
}

/// Bits of an APIC ID below a level, and CPUs in one of the level.
struct Level {
    shift: u32,
    count: u32,
}

impl Topology {
    /// Levels from the thread to the package: each holds the ones before it.
    fn levels(&self) -> [Level; 5] {
        let mut level = Level { shift: 0, count: 1 };
        let mut next = |parts: u32| {
            level.shift += parts.next_power_of_two().trailing_zeros();
            level.count = level.count.saturating_mul(parts);
            Level { ..level }
        };
        let thread = next(1);
        [thread, next(self.threads), next(self.cores), next(self.modules), next(self.dies)]
    }
}

/// The leaves of one vCPU, those beyond the processor's last leaf included.
pub(super) fn leaves(facts: &Facts, identity: &Identity) -> Vec<kvm_cpuid_entry2> {
    let topology = &identity.topology;
    let mut list = vec![plain(5, [0, 0, 3, 0])];
    list.extend(levels(topology, identity.apic_id));
    if !facts.host_cache_info {
        list.extend(caches(facts, topology));
    }
    let [_, core, module, _, package] = topology.levels();
    let core_id = identity.apic_id >> core.shift & ((1 << (module.shift - core.shift)) - 1);
    let socket = identity.apic_id >> package.shift;
    list.push(plain(
        0x8000_001e,
        [identity.apic_id, (topology.threads - 1).min(0xff) << 8 | core_id & 0xff, socket & 0xff, 0],
    ));
    list
}

/// EBX of leaf 1: CPUs in the package and the APIC ID, eight bits each.
pub(super) fn logical(ebx: u32, identity: &Identity) -> u32 {
    let [.., package] = identity.topology.levels();
    let count = if package.count > 1 { package.count.min(0xff) << 16 } else { 0 };
    ebx & 0xff00 | count | (identity.apic_id & 0xff) << 24
}

/// ECX of leaf 8000_0008: the width of the APIC IDs in a package, and CPUs in it, less one.
pub(super) fn package_size(topology: &Topology) -> u32 {
    let [.., package] = topology.levels();
    if package.count > 1 { package.shift << 12 | (package.count - 1).min(0xff) } else { 0 }
}

/// EAX of leaf 4: cores in the package, less one.
pub(super) fn cores_of_package(topology: &Topology) -> u32 {
    let [_, core, .., package] = topology.levels();
    ((1u32 << (package.shift - core.shift).min(6)) - 1) << 26
}

/// Leaf 0Bh knows threads and cores, leaf 1Fh what is between the core and the package as well; it is there if anything is.
fn levels(topology: &Topology, apic_id: u32) -> Vec<kvm_cpuid_entry2> {
    const SMT: u32 = 1;
    const CORE: u32 = 2;
    const MODULE: u32 = 3;
    const DIE: u32 = 5;
    let [_, core, module, die, package] = topology.levels();
    let leaf = |function, levels: &[(u32, &Level)]| {
        let told = levels.iter().zip(0..).map(|((kind, level), index)| {
            indexed(function, index, [level.shift, level.count, kind << 8 | index, apic_id])
        });
        let last = levels.len() as u32;
        told.chain([indexed(function, last, [0, 0, last, apic_id])]).collect::<Vec<_>>()
    };
    let mut list = leaf(0xb, &[(SMT, &core), (CORE, &package)]);
    if topology.dies > 1 || topology.modules > 1 {
        let mut found = vec![(SMT, &core), (CORE, &module)];
        if topology.modules > 1 {
            found.push((MODULE, &die));
        }
        if topology.dies > 1 {
            found.push((DIE, &package));
        }
        list.extend(leaf(0x1f, &found));
    }
    list
}

/// One cache, as leaves 4 and 8000_001D tell it: the registers without who shares it.
struct Cache {
    registers: [u32; 4],
    /// Whether all cores of a die share it.
    of_die: bool,
}

const fn cache(registers: [u32; 4], of_die: bool) -> Cache {
    Cache { registers, of_die }
}

/// 32 KiB of each kind, 4 MiB and 16 MiB.
const INTEL: [Cache; 4] = [
    cache([0x121, 0x01c0_003f, 0x3f, 1], false),
    cache([0x122, 0x01c0_003f, 0x3f, 1], false),
    cache([0x143, 0x03c0_003f, 0xfff, 1], false),
    cache([0x163, 0x03c0_003f, 0x3fff, 6], true),
];
/// 64 KiB of each kind, 512 KiB and 16 MiB.
const AMD: [Cache; 4] = [
    cache([0x121, 0x0040_003f, 0x1ff, 1], false),
    cache([0x122, 0x0040_003f, 0x1ff, 1], false),
    cache([0x43, 0x03c0_003f, 0x1ff, 0], false),
    cache([0x163, 0x03c0_003f, 0x3fff, 2], true),
];

fn caches(facts: &Facts, topology: &Topology) -> Vec<kvm_cpuid_entry2> {
    let [_, core, _, die, _] = topology.levels();
    let leaf = |function, caches: &[Cache], cores: u32| {
        let there = caches.iter().filter(|cache| facts.l3_cache || !cache.of_die);
        let mut list: Vec<_> = there
            .zip(0..)
            .map(|(cache, index)| {
                let [eax, rest @ ..] = cache.registers;
                let shift = if cache.of_die { die.shift } else { core.shift };
                let sharing = ((1u32 << shift.min(12)) - 1) << 14;
                let [ebx, ecx, edx] = rest;
                indexed(function, index, [eax | sharing | cores, ebx, ecx, edx])
            })
            .collect();
        list.push(indexed(function, list.len() as u32, [0; 4]));
        list
    };
    let third = |leaf: u32| if facts.l3_cache { leaf } else { 0 };
    let mut list = if facts.is_amd() {
        vec![plain(2, [0; 4]), indexed(4, 0, [0; 4])]
    } else {
        let mut list = leaf(4, &INTEL, cores_of_package(topology));
        list.push(plain(2, [1, 0, third(0x4d), 0x002c_307d]));
        list
    };
    list.push(plain(0x8000_0005, [0x01ff_01ff, 0x01ff_01ff, 0x4002_0140, 0x4002_0140]));
    list.push(plain(0x8000_0006, [0, 0x4200_4200, 0x0200_8140, third(0x0080_8140)]));
    list.extend(leaf(0x8000_001d, &AMD, 0));
    list
}

fn plain(function: u32, [eax, ebx, ecx, edx]: [u32; 4]) -> kvm_cpuid_entry2 {
    kvm_cpuid_entry2 { function, eax, ebx, ecx, edx, ..Default::default() }
}

fn indexed(function: u32, index: u32, registers: [u32; 4]) -> kvm_cpuid_entry2 {
    kvm_cpuid_entry2 { index, flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX, ..plain(function, registers) }
}

#[cfg(test)]
mod tests;
