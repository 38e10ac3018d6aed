//! What KVM can give a vCPU, from its CPUID table and its feature MSRs, and the MSRs of a vCPU that is to have less.
//!
//! Interface: Linux `Documentation/virt/kvm/api.rst`, `KVM_GET_SUPPORTED_CPUID`, `KVM_GET_MSR_FEATURE_INDEX_LIST`,
//! `KVM_GET_MSRS` on the system file. A new vCPU has every feature MSR at the value that is read there.

use std::arch::x86_64::{__cpuid, __cpuid_count};
use std::io;

use kvm_bindings::{CpuId, Msrs, kvm_msr_entry};
use kvm_ioctls::{Kvm, VcpuFd};

use super::cpuid::{BRAND_LEAVES, brand, find, numbers};
use super::os_error;
use crate::cpu::{COUNT, Facts, MsrForm, Register, Source, Supported, WORDS, Words, feature};

/// What KVM does not tell, as it is about a processor's place among others, which is ours to say.
const OURS: [&str; 2] = ["ht", "topoext"];

/// Reads what there is. `table` is KVM's, completed.
pub(crate) fn supported(kvm: &Kvm, table: &CpuId) -> Supported {
    let mut words = cpuid_words(table);
    OURS.iter().filter_map(|name| feature(name)).for_each(|ours| ours.switch(&mut words, true));
    let known = kvm.get_msr_feature_index_list().map(|list| list.as_slice().to_vec()).unwrap_or_default();
    for (at, index, form) in msr_words().filter(|(_, index, _)| known.contains(index)) {
        let value = Msrs::from_entries(&[entry(index, 0)]).ok().and_then(|mut msrs| {
            let read = kvm.get_msrs(&mut msrs).ok()?;
            (read == 1).then(|| msrs.as_slice()[0].data)
        });
        words[at] = value.map_or(0, |value| form.features(value));
    }
    let zero = find(table, 0, None);
    let vendor = zero.map_or([0; 12], |e| {
        let mut text = [0; 12];
        for (at, register) in [e.ebx, e.edx, e.ecx].into_iter().enumerate() {
            text[at * 4..at * 4 + 4].copy_from_slice(&register.to_le_bytes());
        }
        text
    });
    Supported {
        words,
        vendor,
        numbers: find(table, 1, None).map_or([0; 3], |e| numbers(e.eax)),
        // As QEMU, of the processor that this program runs on: not every KVM tells it.
        model_id: brand(BRAND_LEAVES.map(|leaf| {
            let told = __cpuid(leaf);
            [told.eax, told.ebx, told.ecx, told.edx]
        })),
        level: zero.map_or(0, |e| e.eax),
        xlevel: find(table, 0x8000_0000, None).map_or(0, |e| e.eax),
        kvm: true,
    }
}

/// EBX and EDX of leaf 7 of the processor that this program runs on.
pub(crate) fn host_leaf_7() -> [u32; 2] {
    if __cpuid(0).eax < 7 {
        return [0; 2];
    }
    let told = __cpuid_count(7, 0);
    [told.ebx, told.edx]
}

/// Physical address bits of the processor that this program runs on; 36 if it does not tell.
pub(crate) fn host_phys_bits() -> u32 {
    if __cpuid(0x8000_0000).eax < 0x8000_0008 { 36 } else { __cpuid(0x8000_0008).eax & 0xff }
}

/// The CPUID words of a table.
pub(super) fn cpuid_words(table: &CpuId) -> Words {
    let mut words = [0; COUNT];
    for (at, word) in WORDS.iter().enumerate() {
        let Source::Cpuid { leaf, index, register } = word.source else { continue };
        let Some(entry) = find(table, leaf, index) else { continue };
        words[at] = u64::from(match register {
            Register::Eax => entry.eax,
            Register::Ebx => entry.ebx,
            Register::Ecx => entry.ecx,
            Register::Edx => entry.edx,
        });
    }
    words
}

fn msr_words() -> impl Iterator<Item = (usize, u32, MsrForm)> {
    WORDS.iter().enumerate().filter_map(|(at, word)| match word.source {
        Source::Msr { index, form } => Some((at, index, form)),
        Source::Cpuid { .. } => None,
    })
}

fn entry(index: u32, data: u64) -> kvm_msr_entry {
    kvm_msr_entry { index, data, ..Default::default() }
}

/// Takes features out of the vCPU's MSRs that the host has and this processor has not. Without the feature that a register
/// belongs to the guest cannot read it at all.
///
/// # Errors
/// The kernel does not let the register be changed.
pub(crate) fn set_msrs(fd: &VcpuFd, supported: &Supported, facts: &Facts) -> io::Result<()> {
    for (at, index, form) in msr_words() {
        let lost = supported.words[at] & !facts.words[at];
        let there = WORDS[at].needs.and_then(feature).is_none_or(|needs| needs.is_in(&facts.words));
        if lost == 0 || !there {
            continue;
        }
        let error = |error: io::Error| io::Error::other(format!("cannot set MSR {index:#x}: {error}"));
        let mut msrs =
            Msrs::from_entries(&[entry(index, 0)]).map_err(|e| io::Error::other(format!("{e:?}")))?;
        if fd.get_msrs(&mut msrs).map_err(|e| error(os_error(e)))? != 1 {
            return Err(error(io::Error::from_raw_os_error(libc::EINVAL)));
        }
        let old = msrs.as_slice()[0].data;
        msrs.as_mut_slice()[0].data = form.without(old, lost);
        if fd.set_msrs(&msrs).map_err(|e| error(os_error(e)))? != 1 {
            return Err(error(io::Error::from_raw_os_error(libc::EINVAL)));
        }
    }
    Ok(())
}
