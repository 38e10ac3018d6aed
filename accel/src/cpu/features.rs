//! Features by name: bits of the [`WORDS`] and QEMU's second names for some.

use std::fmt;
use std::sync::LazyLock;

use super::words::{Source, WORDS, Words};

/// A feature that can be switched. Nearly always one bit of one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Feature {
    /// The property's name.
    pub name: &'static str,
    /// Number of its word in [`WORDS`].
    pub word: usize,
    /// Its bits there.
    pub mask: u64,
}

impl Feature {
    /// Whether all of it is in `words`.
    #[must_use]
    pub fn is_in(&self, words: &Words) -> bool {
        words[self.word] & self.mask == self.mask
    }

    /// Puts it into `words` or takes it out.
    pub fn switch(&self, words: &mut Words, on: bool) {
        if on { words[self.word] |= self.mask } else { words[self.word] &= !self.mask }
    }
}

impl fmt::Display for Feature {
    /// As QEMU names it in warnings: `CPUID.01H:ECX.pni [bit 0]`, `MSR(10AH).rdctl-no [bit 0]`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match WORDS[self.word].source {
            Source::Cpuid { leaf, register, .. } => write!(f, "CPUID.{leaf:02X}H:{}", register.name())?,
            Source::Msr { index, .. } => write!(f, "MSR({index:X}H)")?,
        }
        write!(f, ".{} [bit {}]", self.name, self.mask.trailing_zeros())
    }
}

static FEATURES: LazyLock<Vec<Feature>> = LazyLock::new(|| {
    let mut list: Vec<Feature> = Vec::new();
    for (word, name, bit) in
        WORDS.iter().enumerate().flat_map(|(at, word)| word.bits().map(move |(bit, name)| (at, name, bit)))
    {
        // Both bits of a name are in one word.
        match list.iter_mut().rev().take_while(|f| f.word == word).find(|f| f.name == name) {
            Some(feature) => feature.mask |= 1 << bit,
            None => list.push(Feature { name, word, mask: 1 << bit }),
        }
    }
    list
});

/// Second names, which are properties as well, and what they mean.
pub static ALIASES: &[(&str, &str)] = &[
    ("cmp_legacy", "cmp-legacy"),
    ("ds_cpl", "ds-cpl"),
    ("ffxsr", "fxsr-opt"),
    ("fxsr_opt", "fxsr-opt"),
    ("i64", "lm"),
    ("kvm_asyncpf", "kvm-asyncpf"),
    ("kvm_asyncpf_int", "kvm-asyncpf-int"),
    ("kvm_mmu", "kvm-mmu"),
    ("kvm_nopiodelay", "kvm-nopiodelay"),
    ("kvm_poll_control", "kvm-poll-control"),
    ("kvm_pv_eoi", "kvm-pv-eoi"),
    ("kvm_pv_unhalt", "kvm-pv-unhalt"),
    ("kvm_steal_time", "kvm-steal-time"),
    ("lahf_lm", "lahf-lm"),
    ("nodeid_msr", "nodeid-msr"),
    ("nrip_save", "nrip-save"),
    ("pause_filter", "pause-filter"),
    ("pclmuldq", "pclmulqdq"),
    ("perfctr_core", "perfctr-core"),
    ("perfctr_nb", "perfctr-nb"),
    ("sse3", "pni"),
    ("sse4-1", "sse4.1"),
    ("sse4-2", "sse4.2"),
    ("sse4_1", "sse4.1"),
    ("sse4_2", "sse4.2"),
    ("svm_lock", "svm-lock"),
    ("tsc_adjust", "tsc-adjust"),
    ("tsc_scale", "tsc-scale"),
    ("vmcb_clean", "vmcb-clean"),
    ("xd", "nx"),
];

/// All features, in the order of the words.
pub fn features() -> impl Iterator<Item = &'static Feature> {
    FEATURES.iter()
}

/// Finds a feature by one of its names, as properties have them.
#[must_use]
pub fn feature(name: &str) -> Option<&'static Feature> {
    let name = ALIASES.iter().find(|(alias, _)| *alias == name).map_or(name, |(_, name)| name);
    FEATURES.iter().find(|feature| feature.name == name)
}

/// Finds a feature as `-cpu` names it: `_` and `-` are the same there.
pub(super) fn feature_of_option(name: &str) -> Option<&'static Feature> {
    feature(name).or_else(|| feature(&name.replace('_', "-")))
}
