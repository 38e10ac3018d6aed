//! Names of CPUID feature bits (Intel SDM volume 2 "CPUID", AMD APM volume 3 appendix E), as QEMU spells them.

use std::fmt;

/// The register a feature bit is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Register {
    /// EBX.
    Ebx,
    /// ECX.
    Ecx,
    /// EDX.
    Edx,
}

/// One feature bit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Feature {
    /// The property's name.
    pub name: &'static str,
    /// CPUID leaf (sub-leaf 0).
    pub leaf: u32,
    /// Register of the leaf.
    pub register: Register,
    /// Bit number.
    pub bit: u8,
}

impl fmt::Display for Feature {
    /// As QEMU names it in warnings: `CPUID.01H:ECX.pni [bit 0]`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let register = match self.register {
            Register::Ebx => "EBX",
            Register::Ecx => "ECX",
            Register::Edx => "EDX",
        };
        write!(f, "CPUID.{:02X}H:{register}.{} [bit {}]", self.leaf, self.name, self.bit)
    }
}

const LEAF_1: u32 = 1;
const LEAF_7: u32 = 7;
const LEAF_80000001: u32 = 0x8000_0001;

/// What `qemu64` has in leaf 1 EDX, leaf 1 ECX, leaf 8000_0001 EDX and ECX.
pub(crate) const QEMU64: &[(u32, Register, &[&str])] = &[
    (
        LEAF_1,
        Register::Edx,
        &[
            "fpu", "de", "pse", "tsc", "msr", "pae", "mce", "cx8", "apic", "sep", "mtrr", "pge", "mca",
            "cmov", "pat", "pse36", "clflush", "mmx", "fxsr", "sse", "sse2",
        ],
    ),
    // KVM gives every model x2apic, which its LAPIC has anyway.
    (LEAF_1, Register::Ecx, &["pni", "cx16", "x2apic", "hypervisor"]),
    (LEAF_80000001, Register::Edx, &["syscall", "nx", "lm"]),
    (LEAF_80000001, Register::Ecx, &["lahf-lm"]),
    (LEAF_7, Register::Ebx, &[]),
    (LEAF_7, Register::Ecx, &[]),
    (LEAF_7, Register::Edx, &[]),
];

macro_rules! features {
    ($($leaf:ident $register:ident: $($name:literal = $bit:literal),+;)+) => {
        &[$($(Feature { name: $name, leaf: $leaf, register: Register::$register, bit: $bit },)+)+]
    };
}

static FEATURES: &[Feature] = features! {
    LEAF_1 Edx: "fpu" = 0, "vme" = 1, "de" = 2, "pse" = 3, "tsc" = 4, "msr" = 5, "pae" = 6, "mce" = 7, "cx8" = 8,
        "apic" = 9, "sep" = 11, "mtrr" = 12, "pge" = 13, "mca" = 14, "cmov" = 15, "pat" = 16, "pse36" = 17,
        "clflush" = 19, "acpi" = 22, "mmx" = 23, "fxsr" = 24, "sse" = 25, "sse2" = 26, "ss" = 27, "ht" = 28;
    LEAF_1 Ecx: "pni" = 0, "pclmulqdq" = 1, "vmx" = 5, "ssse3" = 9, "fma" = 12, "cx16" = 13, "pcid" = 17, "sse4.1" = 19,
        "sse4.2" = 20, "x2apic" = 21, "movbe" = 22, "popcnt" = 23, "tsc-deadline" = 24, "aes" = 25, "xsave" = 26,
        "avx" = 28, "f16c" = 29, "rdrand" = 30, "hypervisor" = 31;
    LEAF_7 Ebx: "fsgsbase" = 0, "tsc-adjust" = 1, "bmi1" = 3, "hle" = 4, "avx2" = 5, "smep" = 7, "bmi2" = 8, "erms" = 9,
        "invpcid" = 10, "rtm" = 11, "avx512f" = 16, "avx512dq" = 17, "rdseed" = 18, "adx" = 19, "smap" = 20,
        "avx512ifma" = 21, "clflushopt" = 23, "clwb" = 24, "avx512cd" = 28, "sha-ni" = 29, "avx512bw" = 30,
        "avx512vl" = 31;
    LEAF_7 Ecx: "avx512vbmi" = 1, "umip" = 2, "pku" = 3, "avx512vbmi2" = 6, "gfni" = 8, "vaes" = 9, "vpclmulqdq" = 10,
        "avx512vnni" = 11, "avx512bitalg" = 12, "avx512-vpopcntdq" = 14, "la57" = 16, "rdpid" = 22;
    LEAF_7 Edx: "fsrm" = 4, "md-clear" = 10, "spec-ctrl" = 26, "stibp" = 27, "arch-capabilities" = 29, "ssbd" = 31;
    LEAF_80000001 Edx: "syscall" = 11, "nx" = 20, "mmxext" = 22, "fxsr-opt" = 25, "pdpe1gb" = 26, "rdtscp" = 27,
        "lm" = 29, "3dnowext" = 30, "3dnow" = 31;
    LEAF_80000001 Ecx: "lahf-lm" = 0, "cmp-legacy" = 1, "svm" = 2, "cr8legacy" = 4, "abm" = 5, "sse4a" = 6,
        "misalignsse" = 7, "3dnowprefetch" = 8, "osvw" = 9, "xop" = 11, "fma4" = 16, "tbm" = 21, "topoext" = 22;
};

/// Names of all features.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    FEATURES.iter().map(|f| f.name)
}

/// Finds a feature by its name; `_` and `-` are the same, `sse3` and other second names work.
#[must_use]
pub fn feature(name: &str) -> Option<&'static Feature> {
    let name = name.replace('_', "-");
    let name = match name.as_str() {
        "sse3" => "pni",
        "sse4-1" => "sse4.1",
        "sse4-2" => "sse4.2",
        "xd" => "nx",
        "i64" => "lm",
        "ffxsr" => "fxsr-opt",
        other => other,
    };
    FEATURES.iter().find(|feature| feature.name == name)
}
