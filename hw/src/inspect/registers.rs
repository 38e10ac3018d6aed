//! A vCPU's registers as `x-pliant-query-registers` tells them.

use accel::{DescriptorTable, Fpu, Registers, Segment};
use qapi::types::{VcpuFloat, VcpuRegisters, VcpuSegment, VcpuTable};

/// Registers as a monitor tells them.
pub(super) fn registers(r: &Registers) -> VcpuRegisters {
    let [dr0, dr1, dr2, dr3] = r.dr;
    let [r8, r9, r10, r11, r12, r13, r14, r15] = r.r;
    VcpuRegisters {
        rax: r.rax,
        rbx: r.rbx,
        rcx: r.rcx,
        rdx: r.rdx,
        rsi: r.rsi,
        rdi: r.rdi,
        rsp: r.rsp,
        rbp: r.rbp,
        r8,
        r9,
        r10,
        r11,
        r12,
        r13,
        r14,
        r15,
        rip: r.rip,
        rflags: r.rflags,
        cs: segment(&r.cs),
        ds: segment(&r.ds),
        es: segment(&r.es),
        fs: segment(&r.fs),
        gs: segment(&r.gs),
        ss: segment(&r.ss),
        ldt: segment(&r.ldt),
        tr: segment(&r.tr),
        gdt: table(&r.gdt),
        idt: table(&r.idt),
        cr0: r.cr0,
        cr2: r.cr2,
        cr3: r.cr3,
        cr4: r.cr4,
        efer: r.efer,
        dr0,
        dr1,
        dr2,
        dr3,
        dr6: r.dr6,
        dr7: r.dr7,
        halted: r.halted,
        interrupt_shadow: r.interrupt_shadow,
        smm: r.smm,
        fcw: r.fpu.fcw,
        fsw: r.fpu.fsw,
        ftw: r.fpu.ftw,
        st: r.fpu.st.map(|(significand, exponent)| VcpuFloat { significand, exponent }).to_vec(),
        mxcsr: r.fpu.mxcsr,
        xcr0: r.fpu.xcr0,
        vectors: vectors(&r.fpu),
        opmask: (r.fpu.vector_bits() == 512).then(|| r.fpu.opmask.to_vec()),
    }
}

/// The vector registers that there are, the highest digit first. Sixteen more come with AVX-512.
fn vectors(fpu: &Fpu) -> Vec<String> {
    let bits = fpu.vector_bits();
    let count = if bits == 512 { 32 } else { 16 };
    let digits = |register: &[u64; 8]| {
        let parts = register[..bits as usize / 64].iter().rev();
        parts.map(|part| format!("{part:016x}")).collect()
    };
    fpu.vectors[..count].iter().map(digits).collect()
}

fn segment(segment: &Segment) -> VcpuSegment {
    let Segment { selector, base, limit, flags } = *segment;
    VcpuSegment { selector, base, limit, flags }
}

fn table(table: &DescriptorTable) -> VcpuTable {
    VcpuTable { base: table.base, limit: table.limit }
}
