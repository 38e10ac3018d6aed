//! What a vCPU's registers hold, for debuggers: dumps, memory at virtual addresses, register expressions.
//!
//! Intel SDM volume 1, chapters 3, 8, 10 and 13 (general registers, x87, SSE, XSAVE) and volume 3, chapters 2, 3 and 18
//! (control, segment and debug registers). Left out: performance counters, AMX tiles, protection keys, model-specific registers
//! but two.

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

/// What a vCPU computes floats and vectors with, as XSAVE has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fpu {
    /// Control word.
    pub fcw: u16,
    /// Status word; bits 11 to 13 are the top of the stack.
    pub fsw: u16,
    /// A bit for each x87 register that holds something (FXSAVE's abridged tag word).
    pub ftw: u8,
    /// Control and status of SSE.
    pub mxcsr: u32,
    /// ST(0) to ST(7): significand, then sign and exponent.
    pub st: [(u64, u16); 8],
    /// XCR0: which parts of the rest are enabled.
    pub xcr0: u64,
    /// The 512 bits of each vector register, the lowest first. Of what is not enabled, zeroes.
    pub vectors: [[u64; 8]; 32],
    /// Mask registers of AVX-512.
    pub opmask: [u64; 8],
}

impl Fpu {
    /// After power-up (Intel SDM volume 3, table 10-1), as QEMU shows it: x87 initialised.
    #[must_use]
    pub fn at_reset() -> Self {
        Self {
            fcw: 0x37f,
            fsw: 0,
            ftw: 0,
            mxcsr: 0x1f80,
            st: [(0, 0); 8],
            xcr0: 1,
            vectors: [[0; 8]; 32],
            opmask: [0; 8],
        }
    }

    /// Bits of a vector register as far as the guest has enabled them: 128, 256 or 512.
    #[must_use]
    pub fn vector_bits(&self) -> u32 {
        let has = |components: u64| self.xcr0 & components == components;
        if has(XCR0_AVX512) {
            512
        } else if has(XCR0_AVX) {
            256
        } else {
            128
        }
    }
}

impl Default for Fpu {
    fn default() -> Self {
        Self::at_reset()
    }
}

/// SSE and the upper halves of YMM.
const XCR0_AVX: u64 = 0b110;
/// These, and the three parts of AVX-512.
const XCR0_AVX512: u64 = 0b1110_0110;

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
    /// `DR0` to `DR3`: addresses of breakpoints.
    pub dr: [u64; 4],
    pub dr6: u64,
    pub dr7: u64,
    pub fpu: Fpu,
    /// It executed HLT and waits for an interrupt.
    pub halted: bool,
    /// Interrupts are held off for one instruction, as behind STI.
    pub interrupt_shadow: bool,
    /// In system management mode.
    pub smm: bool,
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
            dr6: 0xffff_0ff0,
            dr7: 0x400,
            ..Self::default()
        }
    }
}
