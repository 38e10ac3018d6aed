//! What a vCPU's registers hold, for debuggers: dumps, memory at virtual addresses, register expressions.
//!
//! Intel SDM volume 1, chapter 3 (general registers) and volume 3, chapters 2 and 3 (control and segment registers). Left
//! out: x87, SSE and later vectors, debug registers, performance counters, model-specific registers but two.

/// A segment register with its hidden part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Segment {
    /// The visible part.
    pub selector: u16,
    /// First linear address.
    pub base: u64,
    /// Last offset, bytes.
    pub limit: u32,
    /// Attributes where a descriptor's second doubleword has them: type in bits 8 to 11, S 12, DPL 13 and 14, P 15, AVL 20, L 21,
    /// D/B 22, G 23. 0 for a register that is unusable.
    pub flags: u32,
}

/// The register of a descriptor table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DescriptorTable {
    /// Linear address.
    pub base: u64,
    /// Last offset, bytes.
    pub limit: u16,
}

/// Registers of a vCPU at one moment, between two instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[expect(missing_docs, reason = "the architecture's names")]
pub struct Registers {
    pub rax: u64,
    pub rbx: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    pub rsp: u64,
    pub rbp: u64,
    /// `r8` to `r15`.
    pub r: [u64; 8],
    pub rip: u64,
    pub rflags: u64,
    pub cs: Segment,
    pub ds: Segment,
    pub es: Segment,
    pub fs: Segment,
    pub gs: Segment,
    pub ss: Segment,
    pub ldt: Segment,
    pub tr: Segment,
    pub gdt: DescriptorTable,
    pub idt: DescriptorTable,
    pub cr0: u64,
    pub cr2: u64,
    pub cr3: u64,
    pub cr4: u64,
    pub efer: u64,
    /// `IA32_KERNEL_GS_BASE`: what SWAPGS exchanges with the base of GS.
    pub kernel_gs_base: u64,
}

/// EFER.LMA: long mode is active.
const EFER_LMA: u64 = 1 << 10;

impl Registers {
    /// Whether the processor is in long mode (64-bit or compatibility).
    #[must_use]
    pub fn is_long_mode(&self) -> bool {
        self.efer & EFER_LMA != 0
    }

    /// After power-up (Intel SDM volume 3, table 10-1): in real mode, 16 bytes below 4 GiB. RDX identifies the processor, here
    /// `qemu64`.
    #[must_use]
    pub fn at_reset() -> Self {
        let segment = |kind: u32| Segment { selector: 0, base: 0, limit: 0xffff, flags: kind << 8 };
        let data = segment(0x93);
        let table = DescriptorTable { base: 0, limit: 0xffff };
        Self {
            rdx: 0x60fb1,
            rip: 0xfff0,
            rflags: 2,
            cs: Segment { selector: 0xf000, base: 0xffff_0000, ..segment(0x9b) },
            ds: data,
            es: data,
            fs: data,
            gs: data,
            ss: data,
            ldt: segment(0x82),
            tr: segment(0x8b),
            gdt: table,
            idt: table,
            cr0: 0x6000_0010,
            ..Self::default()
        }
    }
}
