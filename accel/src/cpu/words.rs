//! Feature words: the registers that say what a processor can do, and what QEMU calls their bits.
//!
//! Sources: Intel SDM volume 2 "CPUID" and volume 3 appendix A (VMX) and "Model-specific registers", AMD APM volume 3
//! appendix E, KVM's `Documentation/virt/kvm/x86/cpuid.rst`; names as QEMU 10.0.2 prints them in its warnings. The order is that of
//! `feature-words` read backwards. Left out: `lmce` and `lbr-fmt`, which are no bits of their own.

use std::sync::LazyLock;

/// The register of a CPUID leaf.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Register {
    /// EAX.
    Eax,
    /// EBX.
    Ebx,
    /// ECX.
    Ecx,
    /// EDX.
    Edx,
}

impl Register {
    /// `EAX` to `EDX`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Eax => "EAX",
            Self::Ebx => "EBX",
            Self::Ecx => "ECX",
            Self::Edx => "EDX",
        }
    }
}

/// How a model-specific register tells what there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MsrForm {
    /// A bit a feature.
    Bits,
    /// VMX controls: the lower half has what must be one, the upper half what may be one. A feature can be chosen.
    Controls,
}

impl MsrForm {
    /// The features that the register's value tells of.
    #[must_use]
    pub fn features(self, value: u64) -> u64 {
        match self {
            Self::Bits => value,
            Self::Controls => (value >> 32) & !value & 0xffff_ffff,
        }
    }

    /// `value` without the features `lost`.
    #[must_use]
    pub fn without(self, value: u64, lost: u64) -> u64 {
        match self {
            Self::Bits => value & !lost,
            Self::Controls => value & !(lost << 32),
        }
    }
}

/// Where a feature word is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// In a CPUID leaf; `index` is the sub-leaf if the leaf has any.
    Cpuid {
        /// EAX of the question.
        leaf: u32,
        /// ECX of the question.
        index: Option<u32>,
        /// Where the answer is.
        register: Register,
    },
    /// In a model-specific register.
    Msr {
        /// Its number.
        index: u32,
        /// How to read it.
        form: MsrForm,
    },
}

/// One feature word.
#[derive(Debug)]
pub struct Word {
    /// Where it is.
    pub source: Source,
    /// The feature without which the word is empty.
    pub needs: Option<&'static str>,
    /// Names from bit 0 on; `.` is a bit without one, `@N` goes on at bit N.
    names: &'static str,
}

impl Word {
    /// Its named bits.
    pub fn bits(&self) -> impl Iterator<Item = (u32, &'static str)> {
        let mut bit = 0;
        self.names.split_whitespace().filter_map(move |word| {
            if let Some(at) = word.strip_prefix('@') {
                bit = at.parse().unwrap_or(bit);
                return None;
            }
            bit += 1;
            (word != ".").then_some((bit - 1, word))
        })
    }
}

const fn cpuid(
    leaf: u32,
    index: Option<u32>,
    register: Register,
    needs: Option<&'static str>,
    names: &'static str,
) -> Word {
    Word { source: Source::Cpuid { leaf, index, register }, needs, names }
}

const fn msr(index: u32, form: MsrForm, needs: Option<&'static str>, names: &'static str) -> Word {
    Word { source: Source::Msr { index, form }, needs, names }
}

/// All feature words.
#[rustfmt::skip]
pub static WORDS: [Word; COUNT] = [
    cpuid(1, None, Register::Edx, None,
        "fpu vme de pse tsc msr pae mce cx8 apic . sep mtrr pge mca cmov pat pse36 pn clflush . ds acpi \
         mmx fxsr sse sse2 ss ht tm ia64 pbe"),
    cpuid(1, None, Register::Ecx, None,
        "pni pclmulqdq dtes64 monitor ds-cpl vmx smx est tm2 ssse3 cid . fma cx16 xtpr pdcm . pcid dca \
         sse4.1 sse4.2 x2apic movbe popcnt tsc-deadline aes xsave . avx f16c rdrand hypervisor"),
    cpuid(7, Some(0), Register::Ebx, None,
        "fsgsbase tsc-adjust sgx bmi1 hle avx2 fdp-excptn-only smep bmi2 erms invpcid rtm . zero-fcs-fds \
         mpx . avx512f avx512dq rdseed adx smap avx512ifma pcommit clflushopt clwb intel-pt avx512pf \
         avx512er avx512cd sha-ni avx512bw avx512vl"),
    cpuid(7, Some(0), Register::Ecx, None,
        ". avx512vbmi umip pku . waitpkg avx512vbmi2 . gfni vaes vpclmulqdq avx512vnni avx512bitalg . \
         avx512-vpopcntdq . la57 @22 rdpid . bus-lock-detect cldemote . movdiri movdir64b . sgxlc pks"),
    cpuid(7, Some(0), Register::Edx, None,
        ". . avx512-4vnniw avx512-4fmaps fsrm . . . avx512-vp2intersect . md-clear . . . serialize . \
         tsx-ldtrk . . arch-lbr . . amx-bf16 avx512-fp16 amx-tile amx-int8 spec-ctrl stibp flush-l1d \
         arch-capabilities core-capability ssbd"),
    cpuid(7, Some(1), Register::Eax, None,
        "sha512 sm3 sm4 . avx-vnni avx512-bf16 . cmpccxadd . . fzrm fsrs fsrc @17 fred lkgs wrmsrns . \
         amx-fp16 . avx-ifma . . lam"),
    cpuid(0x8000_0001, None, Register::Edx, None,
        "@11 syscall @20 nx . mmxext . . fxsr-opt pdpe1gb rdtscp . lm 3dnowext 3dnow"),
    cpuid(0x8000_0001, None, Register::Ecx, None,
        "lahf-lm cmp-legacy svm extapic cr8legacy abm sse4a misalignsse 3dnowprefetch osvw ibs xop \
         skinit wdt . lwp fma4 tce . nodeid-msr . tbm topoext perfctr-core perfctr-nb"),
    cpuid(0x8000_0007, None, Register::Ebx, None,
        "overflow-recov succor"),
    cpuid(0x8000_0007, None, Register::Edx, None,
        "@8 invtsc"),
    cpuid(0x8000_0008, None, Register::Ebx, None,
        "clzero . xsaveerptr @9 wbnoinvd . . ibpb . ibrs amd-stibp . stibp-always-on @24 amd-ssbd \
         virt-ssbd amd-no-ssb . amd-psfd"),
    cpuid(0x8000_0021, None, Register::Eax, None,
        "no-nested-data-bp . lfence-always-serializing . . . null-sel-clr-base . auto-ibrs @24 eraps . . \
         sbpb ibpb-brtype srso-no srso-user-kernel-no"),
    cpuid(0x8000_0021, None, Register::Ebx, None,
        ""),
    cpuid(0x8000_0022, None, Register::Eax, None,
        "perfmon-v2"),
    cpuid(0xc000_0001, None, Register::Edx, None,
        ". . xstore xstore-en . . xcrypt xcrypt-en ace2 ace2-en phe phe-en pmm pmm-en"),
    cpuid(0x4000_0001, None, Register::Eax, None,
        "kvmclock kvm-nopiodelay kvm-mmu kvmclock kvm-asyncpf kvm-steal-time kvm-pv-eoi kvm-pv-unhalt . \
         kvm-pv-tlb-flush kvm-asyncpf-vmexit kvm-pv-ipi kvm-poll-control kvm-pv-sched-yield \
         kvm-asyncpf-int kvm-msi-ext-dest-id @24 kvmclock-stable-bit"),
    cpuid(0x4000_0001, None, Register::Edx, None,
        "kvm-hint-dedicated"),
    cpuid(0x8000_000a, None, Register::Edx, Some("svm"),
        "npt lbrv svm-lock nrip-save tsc-scale vmcb-clean flushbyasid decodeassists . . pause-filter . \
         pfthreshold avic . v-vmsave-vmload vgif @25 vnmi . . svme-addr-chk"),
    cpuid(0xd, Some(1), Register::Eax, None,
        "xsaveopt xsavec xgetbv1 xsaves xfd"),
    cpuid(6, None, Register::Eax, None,
        ". . arat"),
    cpuid(0xd, Some(0), Register::Eax, None,
        ""),
    cpuid(0xd, Some(0), Register::Edx, None,
        ""),
    msr(0x10a, MsrForm::Bits, Some("arch-capabilities"),
        "rdctl-no ibrs-all rsba skip-l1dfl-vmentry ssb-no mds-no pschange-mc-no tsx-ctrl taa-no @13 \
         sbdr-ssdp-no fbsdp-no psdp-no . fb-clear . . bhi-no . . . pbrsb-no . gds-no rfds-no rfds-clear"),
    msr(0xcf, MsrForm::Bits, Some("core-capability"),
        "@5 split-lock-detect"),
    msr(0x345, MsrForm::Bits, Some("pdcm"),
        "@13 full-width-write"),
    msr(0x48e, MsrForm::Controls, Some("vmx"),
        ". . vmx-vintr-pending vmx-tsc-offset . . . vmx-hlt-exit . vmx-invlpg-exit vmx-mwait-exit \
         vmx-rdpmc-exit vmx-rdtsc-exit . . vmx-cr3-load-noexit vmx-cr3-store-noexit . . \
         vmx-cr8-load-exit vmx-cr8-store-exit vmx-flexpriority vmx-vnmi-pending vmx-movdr-exit \
         vmx-io-exit vmx-io-bitmap . vmx-mtf vmx-msr-bitmap vmx-monitor-exit vmx-pause-exit \
         vmx-secondary-ctls"),
    msr(0x48b, MsrForm::Controls, Some("vmx"),
        "vmx-apicv-xapic vmx-ept vmx-desc-exit vmx-rdtscp-exit vmx-apicv-x2apic vmx-vpid vmx-wbinvd-exit \
         vmx-unrestricted-guest vmx-apicv-register vmx-apicv-vid vmx-ple vmx-rdrand-exit \
         vmx-invpcid-exit vmx-vmfunc vmx-shadow-vmcs vmx-encls-exit vmx-rdseed-exit vmx-pml . . \
         vmx-xsaves @25 vmx-tsc-scaling vmx-enable-user-wait-pause"),
    msr(0x48d, MsrForm::Controls, Some("vmx"),
        "vmx-intr-exit . . vmx-nmi-exit . vmx-vnmi vmx-preemption-timer vmx-posted-intr"),
    msr(0x48f, MsrForm::Controls, Some("vmx"),
        ". . vmx-exit-nosave-debugctl @12 vmx-exit-load-perf-global-ctrl . . vmx-exit-ack-intr . . \
         vmx-exit-save-pat vmx-exit-load-pat vmx-exit-save-efer vmx-exit-load-efer \
         vmx-exit-save-preemption-timer vmx-exit-clear-bndcfgs . vmx-exit-clear-rtit-ctl . . . \
         vmx-exit-load-pkrs . vmx-exit-secondary-ctls"),
    msr(0x490, MsrForm::Controls, Some("vmx"),
        ". . vmx-entry-noload-debugctl @9 vmx-entry-ia32e-mode . . . vmx-entry-load-perf-global-ctrl \
         vmx-entry-load-pat vmx-entry-load-efer vmx-entry-load-bndcfgs . vmx-entry-load-rtit-ctl . . . \
         vmx-entry-load-pkrs vmx-entry-load-fred"),
    msr(0x485, MsrForm::Bits, Some("vmx"),
        "@5 vmx-store-lma vmx-activity-hlt vmx-activity-shutdown vmx-activity-wait-sipi @29 \
         vmx-vmwrite-vmexit-fields vmx-zero-len-inject"),
    msr(0x48c, MsrForm::Bits, Some("vmx"),
        "vmx-ept-execonly @6 vmx-page-walk-4 vmx-page-walk-5 @16 vmx-ept-2mb vmx-ept-1gb . . vmx-invept \
         vmx-eptad vmx-ept-advanced-exitinfo . . vmx-invept-single-context vmx-invept-all-context @32 \
         vmx-invvpid @40 vmx-invvpid-single-addr vmx-invept-single-context vmx-invvpid-all-context \
         vmx-invept-single-context-noglobals"),
    msr(0x480, MsrForm::Bits, Some("vmx"),
        "@54 vmx-ins-outs vmx-true-ctls vmx-any-errcode . vmx-nested-exception"),
    msr(0x491, MsrForm::Bits, Some("vmx"),
        "vmx-eptp-switching"),
    cpuid(0x14, Some(0), Register::Ecx, None,
        "@31 intel-pt-lip"),
    cpuid(0x12, Some(0), Register::Eax, None,
        "sgx1 sgx2 @11 sgx-edeccssa"),
    cpuid(0x12, Some(0), Register::Ebx, None,
        "sgx-exinfo"),
    cpuid(0x12, Some(1), Register::Eax, None,
        ". sgx-debug sgx-mode64 . sgx-provisionkey sgx-tokenkey . sgx-kss . . sgx-aex-notify"),
    cpuid(0xd, Some(1), Register::Ecx, None,
        ""),
    cpuid(0xd, Some(1), Register::Edx, None,
        ""),
    cpuid(7, Some(1), Register::Edx, None,
        "@4 avx-vnni-int8 avx-ne-convert . . amx-complex . avx-vnni-int16 . . . prefetchiti @19 avx10"),
    cpuid(7, Some(2), Register::Edx, None,
        "intel-psfd ipred-ctrl rrsba-ctrl ddpd-u bhi-ctrl mcdt-no"),
    cpuid(0x24, Some(0), Register::Ebx, None,
        "@16 avx10-128 avx10-256 avx10-512"),];

/// How many there are.
pub const COUNT: usize = 43;

/// A value for each of [`WORDS`].
pub type Words = [u64; COUNT];

/// Bits that have names, of each word.
pub static NAMED: LazyLock<Words> =
    LazyLock::new(|| std::array::from_fn(|at| WORDS[at].bits().fold(0, |mask, (bit, _)| mask | 1 << bit)));

/// The number of the word at `source`.
pub(crate) fn word_at(source: Source) -> Option<usize> {
    WORDS.iter().position(|word| word.source == source)
}
