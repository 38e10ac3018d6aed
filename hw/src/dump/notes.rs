//! Notes about vCPUs: `NT_PRSTATUS` as Linux writes it into core files (`struct elf_prstatus`), and QEMU's own, which has all that a
//! debugger of kernels wants (segments, tables, control registers).

use accel::{DescriptorTable, Registers, Segment};

/// Type of the note with general registers.
const NT_PRSTATUS: u32 = 1;
/// Bytes before the name: sizes of name and contents, type.
const HEADER: u64 = 12;
/// Version of QEMU's note.
const VERSION: u32 = 1;

/// Little-endian fields one after the other.
#[derive(Default)]
struct Fields(Vec<u8>);

impl Fields {
    fn u32(&mut self, value: u32) {
        self.0.extend(value.to_le_bytes());
    }

    fn u64(&mut self, value: u64) {
        self.0.extend(value.to_le_bytes());
    }

    fn zeroes(&mut self, count: usize) {
        self.0.resize(self.0.len() + count, 0);
    }
}

/// A note with its header; name and contents are padded to 4 bytes.
fn note(name: &str, kind: u32, contents: &[u8]) -> Vec<u8> {
    let mut out = Fields::default();
    out.u32(name.len() as u32 + 1);
    out.u32(contents.len() as u32);
    out.u32(kind);
    let name = [name.as_bytes(), &[0]].concat();
    for part in [&name, contents] {
        out.0.extend(part);
        out.zeroes(part.len().next_multiple_of(4) - part.len());
    }
    out.0
}

/// Bytes of the note that `bytes` begin with; `None` if they are no whole one.
pub(super) fn length(bytes: &[u8]) -> Option<usize> {
    let word = |at: usize| Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?));
    let padded = |size: u32| u64::from(size).next_multiple_of(4);
    let length = HEADER + padded(word(0)?) + padded(word(4)?);
    usize::try_from(length).ok().filter(|length| *length <= bytes.len())
}

/// `NT_PRSTATUS` of vCPU `id`, for a file of 64-bit code or of older one.
pub(super) fn status(id: u32, registers: &Registers, long_mode: bool) -> Vec<u8> {
    let r = registers;
    let mut out = Fields::default();
    // Signal numbers and process ids come first; only the process id says something here.
    out.zeroes(if long_mode { 32 } else { 24 });
    out.u32(id);
    out.zeroes(if long_mode { 76 } else { 44 });
    // Where a system call's number would be.
    let original = 0;
    let selectors = [&r.ds, &r.es, &r.fs, &r.gs].map(|segment| u64::from(segment.selector));
    if long_mode {
        let [r8, r9, r10, r11, r12, r13, r14, r15] = r.r;
        let first =
            [r15, r14, r13, r12, r.rbp, r.rbx, r11, r10, r9, r8, r.rax, r.rcx, r.rdx, r.rsi, r.rdi, original];
        let code = [r.rip, r.cs.selector.into(), r.rflags, r.rsp, r.ss.selector.into(), r.fs.base, r.gs.base];
        first.into_iter().chain(code).chain(selectors).for_each(|value| out.u64(value));
        out.zeroes(8);
    } else {
        let first = [r.rbx, r.rcx, r.rdx, r.rsi, r.rdi, r.rbp, r.rax];
        let code = [original, r.rip, r.cs.selector.into(), r.rflags, r.rsp, r.ss.selector.into()];
        first.into_iter().chain(selectors).chain(code).for_each(|value| out.u32(value as u32));
        out.zeroes(4);
    }
    note("CORE", NT_PRSTATUS, &out.0)
}

/// QEMU's note of a vCPU.
#[doc(alias = "QEMUCPUState")]
pub(super) fn state(registers: &Registers) -> Vec<u8> {
    let r = registers;
    let mut out = Fields::default();
    out.u32(VERSION);
    // The size of it all, known at the end.
    out.u32(0);
    for value in [r.rax, r.rbx, r.rcx, r.rdx, r.rsi, r.rdi, r.rsp, r.rbp] {
        out.u64(value);
    }
    r.r.into_iter().chain([r.rip, r.rflags]).for_each(|value| out.u64(value));
    let mut segment = |segment: &Segment| {
        out.u32(segment.selector.into());
        out.u32(segment.limit);
        out.u32(segment.flags);
        out.zeroes(4);
        out.u64(segment.base);
    };
    [&r.cs, &r.ds, &r.es, &r.fs, &r.gs, &r.ss, &r.ldt, &r.tr].into_iter().for_each(&mut segment);
    let table = |table: &DescriptorTable| Segment {
        base: table.base,
        limit: table.limit.into(),
        ..Segment::default()
    };
    [table(&r.gdt), table(&r.idt)].iter().for_each(&mut segment);
    // There is no CR1.
    [r.cr0, 0, r.cr2, r.cr3, r.cr4].into_iter().for_each(|value| out.u64(value));
    out.u64(r.kernel_gs_base);
    let size = (out.0.len() as u32).to_le_bytes();
    out.0[4..8].copy_from_slice(&size);
    note("QEMU", 0, &out.0)
}

#[cfg(test)]
mod tests;
