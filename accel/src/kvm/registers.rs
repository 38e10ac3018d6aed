//! Reading a vCPU's registers. On the vCPU's own thread only: a read from another waits until the guest is left by itself.

use kvm_bindings::{Msrs, kvm_dtable, kvm_msr_entry, kvm_segment};
use kvm_ioctls::VcpuFd;

use crate::registers::{DescriptorTable, Registers, Segment};

const MSR_KERNEL_GS_BASE: u32 = 0xc000_0102;

/// All that [`Registers`] has.
pub(crate) fn read(fd: &VcpuFd) -> Result<Registers, kvm_ioctls::Error> {
    let (regs, sregs) = (fd.get_regs()?, fd.get_sregs()?);
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
    })
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
