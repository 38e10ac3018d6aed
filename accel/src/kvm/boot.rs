//! The states in which kernels are entered without firmware, and what firmware would have set up on every processor.
//!
//! - Xen PVH (Xen `docs/misc/pvh.pandoc`, "Direct boot ABI"): 32-bit protected mode, paging off, flat segments, `ebx` at the start
//!   information.
//! - Linux (`Documentation/arch/x86/boot.rst`, "64-bit Boot Protocol"): long mode, the first memory mapped to itself, flat segments with
//!   the selectors 10h and 18h, `rsi` at the zero page.
//!
//! Memory types: Intel SDM volume 3, 12.11 (MTRRs).

use kvm_bindings::{KVM_MAX_CPUID_ENTRIES, Msrs, kvm_msr_entry, kvm_segment, kvm_sregs};
use kvm_ioctls::VcpuFd;

use crate::BootState;

type Result<T> = std::result::Result<T, kvm_ioctls::Error>;

/// Protection enable, extension type.
const CR0: u64 = 0x11;
/// Paging.
const CR0_PG: u64 = 1 << 31;
/// Physical address extension.
const CR4_PAE: u64 = 1 << 5;
/// Long mode enabled and active.
const EFER_LONG: u64 = 1 << 8 | 1 << 10;
/// Only the bit that is always set.
const RFLAGS: u64 = 2;

/// Entries of the local vector table for inputs 0 and 1, bytes from the start of the APIC's registers.
const LVT_LINT0: usize = 0x350;
const LVT_LINT1: usize = 0x360;
/// Delivered as an interrupt of the 8259 pair.
const LVT_EXTINT: u32 = 0x700;
/// Delivered as a non-maskable interrupt.
const LVT_NMI: u32 = 0x400;

const CODE32: kvm_segment = flat(0x08, 0xb);
const DATA32: kvm_segment = flat(0x10, 0x3);
const CODE64: kvm_segment = kvm_segment { l: 1, db: 0, ..flat(0x10, 0xb) };
const DATA64: kvm_segment = flat(0x18, 0x3);
/// A busy TSS of 104 bytes at 0; nobody uses it before there is another.
const TASK: kvm_segment = kvm_segment { limit: 0x67, s: 0, g: 0, db: 0, ..flat(0x20, 0xb) };

const fn flat(selector: u16, type_: u8) -> kvm_segment {
    kvm_segment {
        base: 0,
        limit: u32::MAX,
        selector,
        type_,
        present: 1,
        dpl: 0,
        db: 1,
        s: 1,
        l: 0,
        g: 1,
        avl: 0,
        unusable: 0,
        padding: 0,
    }
}

/// Puts the boot processor, which is in reset state, into the boot state.
pub(crate) fn enter(fd: &VcpuFd, boot: &BootState) -> Result<()> {
    let mut sregs = fd.get_sregs()?;
    sregs.tr = TASK;
    let mut regs = fd.get_regs()?;
    regs.rflags = RFLAGS;
    match *boot {
        BootState::Pvh { entry, start_info } => {
            segments(&mut sregs, CODE32, DATA32);
            (sregs.cr0, sregs.cr4, sregs.efer) = (CR0, 0, 0);
            (regs.rip, regs.rbx) = (u64::from(entry), u64::from(start_info));
        }
        BootState::Linux64 { entry, zero_page, page_tables, descriptors, descriptors_limit } => {
            segments(&mut sregs, CODE64, DATA64);
            (sregs.gdt.base, sregs.gdt.limit) = (u64::from(descriptors), descriptors_limit);
            (sregs.idt.base, sregs.idt.limit) = (0, 0);
            (sregs.cr0, sregs.cr3) = (CR0 | CR0_PG, u64::from(page_tables));
            (sregs.cr4, sregs.efer) = (CR4_PAE, EFER_LONG);
            (regs.rip, regs.rsi) = (entry, u64::from(zero_page));
        }
    }
    fd.set_sregs(&sregs)?;
    fd.set_regs(&regs)
}

fn segments(sregs: &mut kvm_sregs, code: kvm_segment, data: kvm_segment) {
    sregs.cs = code;
    (sregs.ds, sregs.es, sregs.ss, sregs.fs, sregs.gs) = (data, data, data, data, data);
}

/// What firmware leaves in the local APIC of every processor: the board's non-maskable interrupt comes in at LINT1, and, if
/// `external`, which is the boot processor's to have, at LINT0 what the 8259 pair has.
pub(crate) fn local_interrupts(fd: &VcpuFd, external: bool) -> Result<()> {
    let mut lapic = fd.get_lapic()?;
    let mut put = |at: usize, value: u32| {
        for (byte, value) in lapic.regs[at..].iter_mut().zip(value.to_le_bytes()) {
            *byte = value.cast_signed();
        }
    };
    put(LVT_LINT1, LVT_NMI);
    if external {
        put(LVT_LINT0, LVT_EXTINT);
    }
    fd.set_lapic(&lapic)
}

const MTRR_VARIABLE_BASE_0: u32 = 0x200;
const MTRR_VARIABLE_MASK_0: u32 = 0x201;
const MTRR_FIXED_64K: u32 = 0x250;
const MTRR_FIXED_16K_80000: u32 = 0x258;
const MTRR_FIXED_16K_A0000: u32 = 0x259;
const MTRR_FIXED_4K_C0000: u32 = 0x268;
const MTRR_DEFAULT: u32 = 0x2ff;
/// Fixed and variable ranges count, and the rest is write-back.
const MTRR_ENABLED_WRITE_BACK: u64 = 1 << 11 | 1 << 10 | 6;
const MTRR_VALID: u64 = 1 << 11;
/// One byte for each range.
const ALL_WRITE_BACK: u64 = 0x0606_0606_0606_0606;
const ALL_WRITE_PROTECTED: u64 = 0x0505_0505_0505_0505;
const UNCACHED: u64 = 0;

/// Memory types as PC firmware sets them: write-back but for the VGA window, the ROMs of the first megabyte and the device window
/// from `window` (a power of two below 4 GiB from there to the end) to 4 GiB.
pub(crate) fn memory_types(window: u32, phys_bits: u32) -> Vec<kvm_msr_entry> {
    let physical = (1u64 << phys_bits.clamp(32, 52)) - 1;
    // The lowest address of the window doubles as the mask of its size, as it ends at 4 GiB.
    let mask = (u64::MAX << 32 | u64::from(window)) & physical;
    let mut list = vec![
        (MTRR_FIXED_64K, ALL_WRITE_BACK),
        (MTRR_FIXED_16K_80000, ALL_WRITE_BACK),
        (MTRR_FIXED_16K_A0000, UNCACHED),
        (MTRR_VARIABLE_BASE_0, u64::from(window) | UNCACHED),
        (MTRR_VARIABLE_MASK_0, mask | MTRR_VALID),
    ];
    list.extend((0..8).map(|part| (MTRR_FIXED_4K_C0000 + part, ALL_WRITE_PROTECTED)));
    // Last: from here on they count.
    list.push((MTRR_DEFAULT, MTRR_ENABLED_WRITE_BACK));
    list.into_iter().map(|(index, data)| kvm_msr_entry { index, data, ..Default::default() }).collect()
}

/// Loads [`memory_types`]; a processor without them (or a kernel that does not emulate them) stays as it is.
pub(crate) fn set_memory_types(fd: &VcpuFd, window: u32) -> Result<()> {
    let cpuid = fd.get_cpuid2(KVM_MAX_CPUID_ENTRIES)?;
    let leaf = |function| cpuid.as_slice().iter().find(|leaf| leaf.function == function);
    let has_mtrr = leaf(1).is_some_and(|leaf| leaf.edx & 1 << 12 != 0);
    if !has_mtrr {
        return Ok(());
    }
    let phys_bits = leaf(0x8000_0008).map_or(36, |leaf| leaf.eax & 0xff);
    if let Ok(msrs) = Msrs::from_entries(&memory_types(window, phys_bits)) {
        let done = fd.set_msrs(&msrs)?;
        if let Some(refused) = msrs.as_slice().get(done) {
            trace::emit!(pliant_kvm_msr_skipped, refused.index);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_device_window_is_one_uncached_range() {
        let types = memory_types(0xc000_0000, 40);
        let value = |index| types.iter().find(|msr| msr.index == index).map(|msr| msr.data);
        assert_eq!(value(0x200), Some(0xc000_0000));
        assert_eq!(value(0x201), Some(0xff_c000_0800));
        assert_eq!(value(0x259), Some(0));
        assert_eq!(value(0x26f), Some(ALL_WRITE_PROTECTED));
        assert_eq!(types.last().map(|msr| (msr.index, msr.data)), Some((0x2ff, 0xc06)));
    }
}
