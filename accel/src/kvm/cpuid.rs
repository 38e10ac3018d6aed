//! CPUID tables: what KVM supports, cut down to what a processor is to have and made this vCPU's own.
//!
//! Sources: Intel SDM volume 2 "CPUID", AMD APM volume 3 appendix E, KVM's `Documentation/virt/kvm/x86/cpuid.rst` (leaves
//! 4000_0000 and 4000_0001 come from the kernel). A vCPU's place among the others and the caches are in [`topology`].

use kvm_bindings::{CpuId, kvm_cpuid_entry2};

use crate::Topology;
use crate::cpu::{Facts, Register, Source, WORDS, signature, word_at};

mod topology;

/// What a small processor's leaves without features may tell: caches and TLBs, the monitor, power, its own names.
const PLAIN_LEAVES: [u32; 19] = [
    0,
    1,
    2,
    3,
    4,
    5,
    6,
    7,
    9,
    0xd,
    0x8000_0000,
    0x8000_0001,
    0x8000_0002,
    0x8000_0003,
    0x8000_0004,
    0x8000_0005,
    0x8000_0006,
    0x8000_0007,
    0x8000_0008,
];
const PERFORMANCE_COUNTERS: u32 = 0xa;
/// Bytes of a brand string.
const BRAND: usize = 48;
/// The leaves it is in.
pub(crate) const BRAND_LEAVES: std::ops::RangeInclusive<u32> = 0x8000_0002..=0x8000_0004;
/// The legacy area and the header of the extended state.
const XSAVE_HEAD: u32 = 576;

/// The processor as one vCPU sees it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Identity {
    pub(crate) apic_id: u32,
    /// What a package is made of.
    pub(crate) topology: Topology,
    /// Physical address bits.
    pub(crate) phys_bits: u32,
}

/// Physical address bits in a table, 36 if it does not say.
pub(crate) fn phys_bits(table: &CpuId) -> u32 {
    find(table, 0x8000_0008, None).map_or(36, |entry| entry.eax & 0xff)
}

/// An entry; a leaf without sub-leaves is asked for without index.
pub(crate) fn find(table: &CpuId, function: u32, index: Option<u32>) -> Option<&kvm_cpuid_entry2> {
    table.as_slice().iter().find(|entry| entry.function == function && entry.index == index.unwrap_or(0))
}

/// Adds what the kernel supports and leaves to us to say: that there is a hypervisor, the local APIC's deadline timer (if
/// `KVM_CAP_TSC_DEADLINE_TIMER`), that this timer never stops, and how fast string moves of the host (EBX and EDX of its leaf 7)
/// are, which guests get in any case.
pub(crate) fn complete(supported: &mut CpuId, deadline_timer: bool, host: [u32; 2]) {
    for entry in supported.as_mut_slice() {
        match (entry.function, entry.index) {
            (1, _) => entry.ecx |= 1 << 31 | u32::from(deadline_timer) << 24,
            (6, _) => entry.eax |= 1 << 2,
            (7, 0) => {
                entry.ebx |= host[0] & 1 << 9;
                entry.edx |= host[1] & 1 << 4;
            }
            _ => {}
        }
    }
}

/// Builds the table for one vCPU.
pub(crate) fn build(
    supported: &CpuId,
    facts: &Facts,
    identity: &Identity,
) -> Result<CpuId, vmm_sys_util::fam::Error> {
    let mut entries: Vec<kvm_cpuid_entry2> =
        supported.as_slice().iter().filter(|entry| keeps(facts, entry)).copied().collect();
    entries.extend(topology::leaves(facts, identity).into_iter().filter(|e| in_range(facts, e.function)));
    for entry in &mut entries {
        cut(entry, facts);
        features(entry, facts);
        name(entry, facts);
        personalise(entry, identity);
    }
    xsave_size(&mut entries);
    CpuId::from_entries(&entries)
}

/// The word in that register of the entry.
fn word_of(facts: &Facts, entry: &kvm_cpuid_entry2, register: Register) -> Option<u32> {
    let at = |index| word_at(Source::Cpuid { leaf: entry.function, index, register });
    at(Some(entry.index)).or_else(|| at(None)).map(|at| facts.words[at] as u32)
}

/// Whether the leaf has features that the processor has.
fn has_features(facts: &Facts, function: u32, of_index: Option<u32>) -> bool {
    WORDS.iter().zip(&facts.words).any(|(word, value)| match word.source {
        Source::Cpuid { leaf, index, .. } => {
            *value != 0 && leaf == function && (of_index.is_none() || index == of_index)
        }
        Source::Msr { .. } => false,
    })
}

fn in_range(facts: &Facts, function: u32) -> bool {
    match function {
        0..0x4000_0000 => function <= facts.level,
        0x4000_0000..0x8000_0000 => facts.kvm,
        0x8000_0000..0xc000_0000 => function == 0x8000_0000 || function <= facts.xlevel,
        _ => facts.base.is_max() || has_features(facts, 0xc000_0001, None),
    }
}

/// Whether the entry of the host's table is in the processor's at all.
fn keeps(facts: &Facts, entry: &kvm_cpuid_entry2) -> bool {
    let function = entry.function;
    let hidden = function == PERFORMANCE_COUNTERS && !facts.pmu;
    // A part of the extended state: bits of both masks, user's and supervisor's.
    let part = function == 0xd && entry.index >= 2 && !state_has(facts, entry.index);
    let plain = facts.base.is_max()
        || (0x4000_0000..0x8000_0000).contains(&function)
        || function >= 0xc000_0000
        || (PLAIN_LEAVES.contains(&function) && !(function == 7 && entry.index > 0))
        || (function == PERFORMANCE_COUNTERS && facts.pmu)
        || has_features(facts, function, (function == 7).then_some(entry.index));
    in_range(facts, function) && !topology::replaces(facts, function) && !hidden && !part && plain
}

fn state_has(facts: &Facts, part: u32) -> bool {
    let mask = |index, register| {
        word_at(Source::Cpuid { leaf: 0xd, index: Some(index), register }).map_or(0, |at| facts.words[at])
    };
    let low = mask(0, Register::Eax) | mask(1, Register::Ecx);
    let high = mask(0, Register::Edx) | mask(1, Register::Edx);
    (low | high << 32).checked_shr(part).is_some_and(|mask| mask & 1 != 0)
}

/// Leaves that tell more than features.
fn cut(entry: &mut kvm_cpuid_entry2, facts: &Facts) {
    let named = !facts.base.is_max();
    match entry.function {
        // How the host's package is called.
        0x8000_0001 => entry.ebx = 0,
        0x8000_0021 => (entry.ecx, entry.edx) = (0, 0),
        6 | 0x8000_0007 if named => (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, 0, 0),
        7 if named && entry.index == 0 => {
            entry.eax = (1..=2).rev().find(|index| has_features(facts, 7, Some(*index))).unwrap_or(0);
        }
        0xd if !has_features(facts, 0xd, Some(0)) => {
            (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, 0, 0);
        }
        _ => {}
    }
}

fn features(entry: &mut kvm_cpuid_entry2, facts: &Facts) {
    let registers = [Register::Eax, Register::Ebx, Register::Ecx, Register::Edx];
    let [eax, ebx, ecx, edx] = registers.map(|register| word_of(facts, entry, register));
    entry.eax = eax.unwrap_or(entry.eax);
    entry.ebx = ebx.unwrap_or(entry.ebx);
    entry.ecx = ecx.unwrap_or(entry.ecx);
    entry.edx = edx.unwrap_or(entry.edx);
}

/// What the processor calls itself.
fn name(entry: &mut kvm_cpuid_entry2, facts: &Facts) {
    match entry.function {
        0 | 0x8000_0000 => {
            let word = |at: usize| le_u32(&facts.vendor, at);
            (entry.ebx, entry.edx, entry.ecx) = (word(0), word(4), word(8));
            entry.eax = if entry.function == 0 { facts.level } else { facts.xlevel };
        }
        1 => entry.eax = signature(facts.family, facts.model, facts.stepping),
        0x8000_0001 if !facts.base.is_max() || &facts.vendor != b"GenuineIntel" => {
            entry.eax = signature(facts.family, facts.model, facts.stepping);
        }
        leaf if BRAND_LEAVES.contains(&leaf) => {
            let mut brand = [0; BRAND];
            let text = &facts.model_id.as_bytes()[..facts.model_id.len().min(BRAND)];
            brand[..text.len()].copy_from_slice(text);
            let at = (leaf - 0x8000_0002) as usize * 16;
            let word = |n: usize| le_u32(&brand, at + 4 * n);
            (entry.eax, entry.ebx, entry.ecx, entry.edx) = (word(0), word(1), word(2), word(3));
        }
        _ => {}
    }
}

fn le_u32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// Family, model and stepping of a signature.
pub(crate) fn numbers(signature: u32) -> [u32; 3] {
    let base = signature >> 8 & 0xf;
    let family = base + if base == 0xf { signature >> 20 & 0xff } else { 0 };
    let model = signature >> 4 & 0xf | if base == 6 || base == 0xf { signature >> 12 & 0xf0 } else { 0 };
    [family, model, signature & 0xf]
}

/// The brand string in the registers of its three leaves, without the blanks behind it.
pub(crate) fn brand(leaves: impl IntoIterator<Item = [u32; 4]>) -> String {
    let bytes: Vec<u8> = leaves.into_iter().flatten().flat_map(u32::to_le_bytes).collect();
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).trim_end().to_owned()
}

/// How much all the parts of the extended state take that a guest can switch on; the kernel keeps what those take that it did.
fn xsave_size(entries: &mut [kvm_cpuid_entry2]) {
    let ends = entries.iter().filter(|e| e.function == 0xd && e.index >= 2 && e.ecx & 1 == 0);
    let end = ends.map(|e| e.eax.saturating_add(e.ebx)).max().unwrap_or(0).max(XSAVE_HEAD);
    for entry in entries.iter_mut().filter(|e| e.function == 0xd && e.index == 0 && e.eax != 0) {
        entry.ecx = end;
    }
}

fn personalise(entry: &mut kvm_cpuid_entry2, identity: &Identity) {
    match entry.function {
        1 => entry.ebx = topology::logical(entry.ebx, identity),
        // The host's, where the processor has its caches.
        4 if entry.eax & 0x1f != 0 => {
            entry.eax = entry.eax & 0x03ff_ffff | topology::cores_of_package(&identity.topology);
        }
        0x8000_0008 => {
            entry.eax = (entry.eax & !0xff) | identity.phys_bits;
            entry.ecx = topology::package_size(&identity.topology);
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests;
