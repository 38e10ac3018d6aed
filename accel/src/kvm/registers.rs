//! Reading a vCPU's registers. On the vCPU's own thread only: a read from another waits until the guest is left by itself.

use std::ops::Range;

use kvm_bindings::{
    KVM_MAX_CPUID_ENTRIES, KVM_MP_STATE_HALTED, Msrs, kvm_cpuid_entry2, kvm_dtable, kvm_msr_entry,
    kvm_segment, kvm_xsave,
};
use kvm_ioctls::VcpuFd;

use crate::registers::{DescriptorTable, Fpu, Registers, Segment};

const MSR_KERNEL_GS_BASE: u32 = 0xc000_0102;
/// CPUID leaf that says where the parts of an XSAVE area are.
const XSAVE_LEAF: u32 = 0xd;
/// Where an XSAVE area goes on behind its header.
const EXTENDED_REGION: usize = 576;
/// Parts of an XSAVE area: upper halves of YMM, masks, upper halves of ZMM0 to 15, all of ZMM16 to 31.
const YMM_HIGH: u32 = 2;
const OPMASK: u32 = 5;
const ZMM_HIGH: u32 = 6;
const ZMM_MORE: u32 = 7;

/// All that [`Registers`] has.
pub(crate) fn read(fd: &VcpuFd) -> Result<Registers, kvm_ioctls::Error> {
    let (regs, sregs) = (fd.get_regs()?, fd.get_sregs()?);
    let (debug, events) = (fd.get_debug_regs()?, fd.get_vcpu_events()?);
    Ok(Registers {
        rax: regs.rax,
        rbx: regs.rbx,
        rcx: regs.rcx,
        rdx: regs.rdx,
        rsi: regs.rsi,
        rdi: regs.rdi,
        rsp: regs.rsp,
        rbp: regs.rbp,
        r: [regs.r8, regs.r9, regs.r10, regs.r11, regs.r12, regs.r13, regs.r14, regs.r15],
        rip: regs.rip,
        rflags: regs.rflags,
        cs: segment(&sregs.cs),
        ds: segment(&sregs.ds),
        es: segment(&sregs.es),
        fs: segment(&sregs.fs),
        gs: segment(&sregs.gs),
        ss: segment(&sregs.ss),
        ldt: segment(&sregs.ldt),
        tr: segment(&sregs.tr),
        gdt: table(&sregs.gdt),
        idt: table(&sregs.idt),
        cr0: sregs.cr0,
        cr2: sregs.cr2,
        cr3: sregs.cr3,
        cr4: sregs.cr4,
        efer: sregs.efer,
        kernel_gs_base: msr(fd, MSR_KERNEL_GS_BASE),
        dr: debug.db,
        dr6: debug.dr6,
        dr7: debug.dr7,
        fpu: fpu(fd)?,
        halted: fd.get_mp_state()?.mp_state == KVM_MP_STATE_HALTED,
        interrupt_shadow: events.interrupt.shadow != 0,
        smm: events.smi.smm != 0,
    })
}

fn fpu(fd: &VcpuFd) -> Result<Fpu, kvm_ioctls::Error> {
    let xcrs = fd.get_xcrs()?;
    let used = xcrs.xcrs.len().min(xcrs.nr_xcrs as usize);
    // A host without XSAVE has no such register.
    let xcr0 = xcrs.xcrs[..used].iter().find(|xcr| xcr.xcr == 0).map_or(1, |xcr| xcr.value);
    let leaves = fd.get_cpuid2(KVM_MAX_CPUID_ENTRIES)?;
    // Where the processor puts a part of the area.
    let offset = |component: u32| {
        let is_it = |leaf: &&kvm_cpuid_entry2| (leaf.function, leaf.index) == (XSAVE_LEAF, component);
        leaves.as_slice().iter().find(is_it).map(|leaf| leaf.ebx as usize).filter(|at| *at >= EXTENDED_REGION)
    };
    Ok(Area(fd.get_xsave()?).fpu(xcr0, offset))
}

/// An XSAVE area, not compacted. What lies beyond its end is zero.
struct Area(kvm_xsave);

impl Area {
    fn word(&self, at: usize) -> u32 {
        self.0.region.get(at / 4).copied().unwrap_or(0)
    }

    fn long(&self, at: usize) -> u64 {
        u64::from(self.word(at)) | u64::from(self.word(at + 4)) << 32
    }

    fn longs(&self, at: usize, into: &mut [u64]) {
        for (index, long) in into.iter_mut().enumerate() {
            *long = self.long(at + 8 * index);
        }
    }

    /// What it says, as far as `xcr0` enables it; `offset` says where parts behind the header are.
    fn fpu(&self, xcr0: u64, offset: impl Fn(u32) -> Option<usize>) -> Fpu {
        let mut fpu = Fpu {
            fcw: self.word(0) as u16,
            fsw: (self.word(0) >> 16) as u16,
            ftw: self.word(4) as u8,
            mxcsr: self.word(24),
            xcr0,
            ..Fpu::at_reset()
        };
        for (index, st) in fpu.st.iter_mut().enumerate() {
            let at = 32 + 16 * index;
            *st = (self.long(at), self.word(at + 8) as u16);
        }
        let bits = fpu.vector_bits();
        let (low, more) = fpu.vectors.split_at_mut(16);
        let part = |at: Option<usize>, needs: u32, registers: &mut [[u64; 8]], longs: Range<usize>| {
            let Some(at) = at.filter(|_| bits >= needs) else { return };
            for (index, register) in registers.iter_mut().enumerate() {
                self.longs(at + 8 * longs.len() * index, &mut register[longs.clone()]);
            }
        };
        part(Some(160), 128, low, 0..2);
        part(offset(YMM_HIGH), 256, low, 2..4);
        part(offset(ZMM_HIGH), 512, low, 4..8);
        part(offset(ZMM_MORE), 512, more, 0..8);
        if let Some(at) = offset(OPMASK).filter(|_| bits == 512) {
            self.longs(at, &mut fpu.opmask);
        }
        fpu
    }
}

/// 0 for a register that the vCPU lacks, as one without long mode does.
fn msr(fd: &VcpuFd, index: u32) -> u64 {
    let entry = kvm_msr_entry { index, ..Default::default() };
    let Ok(mut msrs) = Msrs::from_entries(&[entry]) else { return 0 };
    match fd.get_msrs(&mut msrs) {
        Ok(1) => msrs.as_slice()[0].data,
        _ => 0,
    }
}

fn segment(segment: &kvm_segment) -> Segment {
    let bit = |value: u8, at: u32| u32::from(value) << at;
    let flags = bit(segment.type_, 8)
        | bit(segment.s, 12)
        | bit(segment.dpl, 13)
        | bit(segment.present, 15)
        | bit(segment.avl, 20)
        | bit(segment.l, 21)
        | bit(segment.db, 22)
        | bit(segment.g, 23);
    let flags = if segment.unusable == 0 { flags } else { 0 };
    Segment { selector: segment.selector, base: segment.base, limit: segment.limit, flags }
}

fn table(table: &kvm_dtable) -> DescriptorTable {
    DescriptorTable { base: table.base, limit: table.limit }
}

#[cfg(test)]
mod tests;
