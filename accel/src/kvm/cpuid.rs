//! CPUID tables: what KVM supports, cut down to the model and made this vCPU's own.
//!
//! Sources: Intel SDM volume 2 "CPUID", AMD APM volume 3 appendix E, KVM's `Documentation/virt/kvm/x86/cpuid.rst` (leaves
//! 4000_0000 and 4000_0001 come from the kernel as they are). All vCPUs appear as cores of one package; cache sharing is
//! told as the host has it.

use kvm_bindings::{CpuId, kvm_cpuid_entry2};

use crate::cpu::{self, Base, CpuModel, Feature, Register};

/// Highest basic leaf of `qemu64`.
const QEMU64_LEVEL: u32 = 0xd;
/// Highest extended leaf of `qemu64`.
const QEMU64_XLEVEL: u32 = 0x8000_0008;
/// Family 15, model 107, stepping 1.
const QEMU64_SIGNATURE: u32 = 0x0006_0fb1;
/// Shown in leaves 8000_0002 to 8000_0004.
const QEMU64_BRAND: &[u8; 48] = b"QEMU Virtual CPU version 2.5+\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";

/// The processor as one vCPU sees it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Identity {
    pub(crate) apic_id: u32,
    /// Highest APIC ID of all vCPUs.
    pub(crate) max_apic_id: u32,
    /// vCPUs in all.
    pub(crate) count: u32,
}

/// Physical address bits in a table, 36 if it does not say.
pub(crate) fn phys_bits(table: &CpuId) -> u32 {
    table.as_slice().iter().find(|entry| entry.function == 0x8000_0008).map_or(36, |entry| entry.eax & 0xff)
}

/// Adds what the kernel supports and leaves to us to say: that there is a hypervisor, the local APIC's deadline timer (if
/// `KVM_CAP_TSC_DEADLINE_TIMER`), and that this timer never stops.
pub(crate) fn complete(supported: &mut CpuId, deadline_timer: bool) {
    for entry in supported.as_mut_slice() {
        match entry.function {
            1 => entry.ecx |= 1 << 31 | u32::from(deadline_timer) << 24,
            6 => entry.eax |= 1 << 2,
            _ => {}
        }
    }
}

/// Builds the table for one vCPU. `warn` hears of features that were asked for and do not exist here.
pub(crate) fn build(
    supported: &CpuId,
    model: &CpuModel,
    identity: &Identity,
    mut warn: impl FnMut(&Feature),
) -> Result<CpuId, vmm_sys_util::fam::Error> {
    let mut entries: Vec<kvm_cpuid_entry2> = supported.as_slice().to_vec();
    if model.base_model() == Base::Qemu64 {
        entries.retain(|entry| match entry.function {
            0..0x4000_0000 => entry.function <= QEMU64_LEVEL && !matches!(entry.function, 0xa | 0xb),
            0x4000_0000..0x8000_0000 => true,
            _ => entry.function <= QEMU64_XLEVEL,
        });
        entries.iter_mut().for_each(cut_to_qemu64);
    }
    let has = |feature: &Feature| {
        let entry = supported.as_slice().iter().find(|e| e.function == feature.leaf && e.index == 0);
        entry.is_some_and(|entry| register(entry, feature.register) >> feature.bit & 1 == 1)
    };
    if model.base_model() == Base::Qemu64 {
        let wanted = cpu::QEMU64.iter().flat_map(|(_, _, names)| names.iter());
        let switched_off = |name: &str| model.switched().any(|(feature, on)| !on && feature.name == name);
        wanted
            .filter(|name| !switched_off(name))
            .filter_map(|name| cpu::feature(name))
            .filter(|feature| !has(feature))
            .for_each(&mut warn);
    }
    for (feature, on) in model.switched() {
        let supported = has(feature);
        if on && !supported {
            warn(feature);
        }
        if let Some(entry) =
            entries.iter_mut().find(|entry| entry.function == feature.leaf && entry.index == 0)
        {
            let bit = 1 << feature.bit;
            let value = register_mut(entry, feature.register);
            *value = if on && supported { *value | bit } else { *value & !bit };
        }
    }
    let phys_bits = model.phys_bits(phys_bits(supported));
    for entry in &mut entries {
        personalise(entry, model, identity, phys_bits);
    }
    CpuId::from_entries(&entries)
}

fn register(entry: &kvm_cpuid_entry2, register: Register) -> u32 {
    match register {
        Register::Ebx => entry.ebx,
        Register::Ecx => entry.ecx,
        Register::Edx => entry.edx,
    }
}

fn register_mut(entry: &mut kvm_cpuid_entry2, register: Register) -> &mut u32 {
    match register {
        Register::Ebx => &mut entry.ebx,
        Register::Ecx => &mut entry.ecx,
        Register::Edx => &mut entry.edx,
    }
}

fn cut_to_qemu64(entry: &mut kvm_cpuid_entry2) {
    for (leaf, name, features) in cpu::QEMU64 {
        if *leaf == entry.function && entry.index == 0 {
            let mask = features
                .iter()
                .filter_map(|feature| cpu::feature(feature))
                .fold(0, |mask, feature| mask | 1 << feature.bit);
            *register_mut(entry, *name) &= mask;
        }
    }
    match entry.function {
        0 => entry.eax = QEMU64_LEVEL,
        1 => entry.eax = QEMU64_SIGNATURE,
        6 | 0xd => (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, 0, 0),
        0x8000_0000 => entry.eax = QEMU64_XLEVEL,
        0x8000_0001 => entry.eax = QEMU64_SIGNATURE,
        leaf @ 0x8000_0002..=0x8000_0004 => {
            let at = (leaf - 0x8000_0002) as usize * 16;
            let word = |n: usize| {
                let b = &QEMU64_BRAND[at + 4 * n..at + 4 * n + 4];
                u32::from_le_bytes([b[0], b[1], b[2], b[3]])
            };
            (entry.eax, entry.ebx, entry.ecx, entry.edx) = (word(0), word(1), word(2), word(3));
        }
        _ => {}
    }
}

fn personalise(entry: &mut kvm_cpuid_entry2, model: &CpuModel, identity: &Identity, phys_bits: u32) {
    // Bits of an APIC ID that tell cores of one package apart.
    let core_bits = u32::BITS - identity.max_apic_id.leading_zeros();
    match entry.function {
        0 | 0x8000_0000 => {
            if let Some(vendor) = model.vendor() {
                let word = |at: usize| {
                    u32::from_le_bytes([vendor[at], vendor[at + 1], vendor[at + 2], vendor[at + 3]])
                };
                (entry.ebx, entry.edx, entry.ecx) = (word(0), word(4), word(8));
            }
        }
        1 => {
            let logical = identity.count.min(255) << 16;
            entry.ebx = (entry.ebx & 0xffff) | logical | identity.apic_id << 24;
            let hyperthreading = 1 << 28;
            entry.edx = entry.edx & !hyperthreading | if identity.count > 1 { hyperthreading } else { 0 };
        }
        // Cores of the package, less one.
        4 if entry.eax & 0x1f != 0 => {
            let cores = (1 << core_bits.min(6)) - 1u32;
            entry.eax = (entry.eax & 0x03ff_ffff) | cores << 26;
        }
        0xb | 0x1f => {
            entry.edx = identity.apic_id;
            let level = entry.index & 0xff;
            (entry.eax, entry.ebx, entry.ecx) = match level {
                0 => (0, 1, level | 1 << 8),
                1 => (core_bits, identity.count, level | 2 << 8),
                _ => (0, 0, level),
            };
        }
        0x8000_0008 => {
            entry.eax = (entry.eax & !0xff) | phys_bits;
            entry.ecx = if identity.count > 1 { core_bits << 12 | (identity.count - 1).min(0xff) } else { 0 };
        }
        0x8000_001e => {
            entry.eax = identity.apic_id;
            entry.ebx = identity.apic_id & 0xff;
            entry.ecx = 0;
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests;
