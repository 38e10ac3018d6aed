//! What comes of a model under an accelerator: the features it is to have, those it has, and its other numbers.

use std::fmt;

use qapi::{Dict, Error, Result, Value};

use super::features::{Feature, feature, features};
use super::model::{Base, CpuModel};
use super::named::Named;
use super::words::{COUNT, NAMED, Register, Source, WORDS, Words, word_at};
use crate::Topology;

/// What named models have under KVM besides: the local APIC has x2APIC mode anyway, and these of KVM's own cost nothing.
const KVM_DEFAULTS: &[&str] = &[
    "x2apic",
    "kvmclock",
    "kvm-nopiodelay",
    "kvm-asyncpf",
    "kvm-steal-time",
    "kvm-pv-eoi",
    "kvmclock-stable-bit",
];
/// What KVM takes from named models unless it is asked for: guests are to find no virtualization and no such power states.
const NOT_UNDER_KVM: &[&str] = &["svm", "monitor", "acpi"];
/// What named models do not have elsewhere, where nothing knows it.
const ONLY_UNDER_KVM: &[&str] = &["vme"];
/// What ties a guest to its host.
const UNMIGRATABLE: &[&str] = &["invtsc"];
/// What `host` and `max` have only if asked for: it is about the place of a processor among others, and ours is another.
const NOT_OF_ITSELF: &[&str] = &["ht", "topoext"];

const NOMINAL_NUMBERS: [u32; 3] = [15, 107, 1];
const NOMINAL_ID: &str = "QEMU Virtual CPU version 2.5+";
/// The leaf of levels between the core and the package.
const TOPOLOGY_LEAF: u32 = 0x1f;
const AMD: [u8; 12] = *b"AuthenticAMD";

/// What an accelerator can give its guests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Supported {
    /// Features, bits without names included.
    pub words: Words,
    /// The host's vendor; named models have it too, so that guests take the right path for it.
    pub vendor: [u8; 12],
    /// Family, model and stepping.
    pub numbers: [u32; 3],
    /// The name that a processor tells of itself.
    pub model_id: String,
    /// Highest basic leaf.
    pub level: u32,
    /// Highest extended leaf.
    pub xlevel: u32,
    /// Whether this is KVM.
    pub kvm: bool,
}

impl Supported {
    /// Where no guest code asks for CPUID, a processor has whatever its model says; `max` has all that has a name, but
    /// for KVM's own.
    #[must_use]
    pub fn nominal() -> Self {
        let mut words = *NAMED;
        for (at, word) in WORDS.iter().enumerate() {
            if matches!(word.source, Source::Cpuid { leaf: 0x4000_0001, .. }) {
                words[at] = 0;
            }
        }
        Self {
            vendor: AMD,
            numbers: NOMINAL_NUMBERS,
            model_id: NOMINAL_ID.into(),
            level: required_level(&words, 0),
            xlevel: required_level(&words, 0x8000_0000),
            kvm: false,
            words,
        }
    }
}

/// Why a processor does not have a feature that it was to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unavailable {
    /// The accelerator cannot give it.
    Unsupported,
    /// It was asked for without the feature that it is a part of.
    Dependent,
}

/// A feature that a processor does not have although it was to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Missing {
    /// It.
    pub feature: &'static Feature,
    /// Why.
    pub why: Unavailable,
}

impl fmt::Display for Missing {
    /// QEMU's warning, of KVM's words.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let feature = self.feature;
        match self.why {
            Unavailable::Unsupported => write!(f, "host doesn't support requested feature: {feature}"),
            Unavailable::Dependent => {
                write!(f, "This feature depends on other features that were not requested: {feature}")
            }
        }
    }
}

impl Missing {
    fn unsupported(feature: &'static Feature) -> Self {
        Self { feature, why: Unavailable::Unsupported }
    }
}

/// A processor in numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// The model that it came from.
    pub base: Base,
    /// Features that it is to have.
    pub wanted: Words,
    /// Features that it has.
    pub words: Words,
    /// Named features that it was to have and has not.
    pub filtered: Words,
    /// The same by name, those that were asked for without what they depend on included.
    pub missing: Vec<Missing>,
    /// Family, with the extended one.
    pub family: u32,
    /// Model, with the extended one.
    pub model: u32,
    /// Stepping.
    pub stepping: u32,
    /// Twelve characters; zeroes of `base`.
    pub vendor: [u8; 12],
    /// At most 48 bytes of it are told.
    pub model_id: String,
    /// Highest basic leaf.
    pub level: u32,
    /// Highest extended leaf, 0 for none.
    pub xlevel: u32,
    /// What `level` is unless it was set.
    pub min_level: u32,
    /// What `xlevel` is unless it was set.
    pub min_xlevel: u32,
    /// Physical address bits as asked for, 0 if not.
    pub phys_bits: u32,
    /// Whether they are the host's.
    pub host_phys_bits: bool,
    /// How many of the host's there are at most, 0 if there is no limit.
    pub host_phys_bits_limit: u32,
    /// Hz; 0 is whatever the host has.
    pub tsc_frequency: u64,
    /// Whether what cannot be migrated was left out.
    pub migratable: bool,
    /// Whether there is a third level of caches.
    pub l3_cache: bool,
    /// Whether the caches are the host's.
    pub host_cache_info: bool,
    /// Whether the guest sees performance counters.
    pub pmu: bool,
    /// Whether the guest sees that there is KVM.
    pub kvm: bool,
    /// Whether missing features are warned about.
    pub check: bool,
    /// Whether missing features end the program.
    pub enforce: bool,
}

impl Named {
    /// Under KVM a guest is told the host's vendor, so that it takes the right path for the processor that it runs on.
    fn vendor(&self, supported: &Supported) -> [u8; 12] {
        if supported.kvm { supported.vendor } else { self.vendor }
    }
}

impl Base {
    fn vendor(self, supported: &Supported) -> [u8; 12] {
        match self {
            Self::Max | Self::Host => supported.vendor,
            Self::Base => [0; 12],
            Self::Named(named) => named.vendor(supported),
        }
    }

    /// Whether the model says which parts of VMX it has.
    fn tells_of_vmx(self) -> bool {
        match self {
            Self::Max | Self::Host => true,
            Self::Base => false,
            Self::Named(named) => {
                WORDS.iter().zip(named.features).any(|(word, value)| word.needs == Some("vmx") && value != 0)
            }
        }
    }
}

impl CpuModel {
    /// What comes of the model where `supported` is what there can be.
    #[must_use]
    pub fn facts(&self, supported: &Supported) -> Facts {
        let asked = |on: bool| self.switched().filter(move |(_, is)| *is == on).map(|(feature, _)| feature);
        let mut wanted = self.initial(supported);
        asked(true).for_each(|feature| feature.switch(&mut wanted, true));
        asked(false).for_each(|feature| feature.switch(&mut wanted, false));
        self.hide(&mut wanted);
        self.take_defaults_of_words(supported, &mut wanted);
        let mut missing = Vec::new();
        for (at, word) in WORDS.iter().enumerate() {
            let Some(needs) = word.needs.and_then(feature) else { continue };
            if !needs.is_in(&wanted) {
                let lost = asked(true).filter(|f| f.word == at && f.is_in(&wanted));
                missing.extend(lost.map(|feature| Missing { feature, why: Unavailable::Dependent }));
                wanted[at] = 0;
            }
        }
        let mut words: Words = std::array::from_fn(|at| wanted[at] & supported.words[at]);
        let filtered: Words = std::array::from_fn(|at| wanted[at] & !words[at] & NAMED[at]);
        let lost = features().filter(|f| filtered[f.word] & f.mask != 0);
        missing.extend(lost.map(Missing::unsupported));
        follow_xsave(&mut words);
        if is_amd(&self.vendor.unwrap_or(self.base.vendor(supported))) {
            repeat_for_amd(&mut words);
        }
        self.numbers(supported, wanted, words, filtered, missing)
    }

    fn initial(&self, supported: &Supported) -> Words {
        let mut words = match self.base {
            Base::Max | Base::Host => {
                let mut words = supported.words;
                NOT_OF_ITSELF.iter().filter_map(|n| feature(n)).for_each(|f| f.switch(&mut words, false));
                words
            }
            Base::Base => [0; COUNT],
            Base::Named(named) => {
                let mut words = named.features;
                let (more, less) =
                    if supported.kvm { (KVM_DEFAULTS, NOT_UNDER_KVM) } else { (&[][..], ONLY_UNDER_KVM) };
                more.iter().filter_map(|n| feature(n)).for_each(|f| f.switch(&mut words, true));
                less.iter().filter_map(|n| feature(n)).for_each(|f| f.switch(&mut words, false));
                words
            }
        };
        if self.migratable {
            // What has no name could not be asked of another host.
            for (at, word) in WORDS.iter().enumerate().filter(|(_, word)| !is_xsave_state(word.source)) {
                words[at] &= if matches!(word.source, Source::Cpuid { .. }) { NAMED[at] } else { u64::MAX };
            }
            UNMIGRATABLE.iter().filter_map(|name| feature(name)).for_each(|f| f.switch(&mut words, false));
        }
        words
    }

    /// What is part of something that the guest is not to see.
    fn hide(&self, wanted: &mut Words) {
        if !self.pmu {
            ["pdcm", "perfmon-v2"].iter().filter_map(|n| feature(n)).for_each(|f| f.switch(wanted, false));
        }
        for (at, word) in WORDS.iter().enumerate() {
            if !self.kvm && matches!(word.source, Source::Cpuid { leaf: 0x4000_0001, .. }) {
                wanted[at] = 0;
            }
        }
    }

    /// A named model with `vmx` has all of it that there is, unless the model tells of its parts one by one. What has no name
    /// follows `xsave`.
    fn take_defaults_of_words(&self, supported: &Supported, wanted: &mut Words) {
        let [vmx, xsave] = ["vmx", "xsave"].map(|name| feature(name).is_some_and(|f| f.is_in(wanted)));
        for (at, word) in WORDS.iter().enumerate() {
            let whole = vmx && word.needs == Some("vmx") && !self.base.tells_of_vmx();
            if whole || (xsave && is_xsave_state(word.source)) {
                let off =
                    self.switched().filter(|(f, on)| f.word == at && !on).fold(0, |m, (f, _)| m | f.mask);
                wanted[at] |= supported.words[at] & !off;
            }
        }
    }

    fn numbers(
        &self,
        supported: &Supported,
        wanted: Words,
        words: Words,
        filtered: Words,
        missing: Vec<Missing>,
    ) -> Facts {
        let (numbers, id, vendor, min_level, min_xlevel) = match self.base {
            Base::Max | Base::Host => (
                supported.numbers,
                supported.model_id.as_str(),
                supported.vendor,
                supported.level,
                supported.xlevel,
            ),
            Base::Base => ([0; 3], "", [0; 12], 0, 0),
            Base::Named(named) => {
                (named.numbers, named.model_id, named.vendor(supported), named.min_level, named.min_xlevel)
            }
        };
        let min_level = self.min_level.unwrap_or(min_level).max(required_level(&wanted, 0));
        let min_xlevel = self.min_xlevel.unwrap_or(min_xlevel).max(required_level(&wanted, 0x8000_0000));
        Facts {
            base: self.base,
            family: self.family.unwrap_or(numbers[0]),
            model: self.model.unwrap_or(numbers[1]),
            stepping: self.stepping.unwrap_or(numbers[2]),
            vendor: self.vendor.unwrap_or(vendor),
            model_id: self.model_id.clone().unwrap_or_else(|| id.to_owned()),
            level: self.level.unwrap_or(min_level),
            xlevel: self.xlevel.unwrap_or(min_xlevel),
            min_level,
            min_xlevel,
            phys_bits: self.phys_bits.unwrap_or(0),
            host_phys_bits: self.host_phys_bits,
            host_phys_bits_limit: self.host_phys_bits_limit,
            tsc_frequency: self.tsc_frequency,
            migratable: self.migratable,
            l3_cache: self.l3_cache,
            host_cache_info: self.host_cache_info,
            pmu: self.pmu,
            kvm: self.kvm,
            check: self.check,
            enforce: self.enforce,
            wanted,
            words,
            filtered,
            missing,
        }
    }
}

/// Whether the word lists parts of the state that `XSAVE` saves.
fn is_xsave_state(source: Source) -> bool {
    matches!(
        source,
        Source::Cpuid { leaf: 0xd, index: Some(0), .. }
            | Source::Cpuid { leaf: 0xd, index: Some(1), register: Register::Ecx | Register::Edx }
    )
}

/// Parts of the extended state (Intel SDM volume 1, 13.1) and the features of which one brings it.
const STATE: [(u32, &[&str]); 8] = [
    (2, &["avx"]),
    (3, &["mpx"]),
    (4, &["mpx"]),
    (5, &["avx512f"]),
    (6, &["avx512f"]),
    (7, &["avx512f"]),
    (9, &["pku"]),
    (17, &["amx-tile"]),
];
/// Tile data, with [`STATE`]'s tile configuration.
const TILE_DATA: u32 = 18;

/// Takes the parts of the extended state out of which the processor does not have the feature.
fn follow_xsave(words: &mut Words) {
    let has = |words: &Words, name: &str| feature(name).is_some_and(|f| f.is_in(words));
    let low = word_at(Source::Cpuid { leaf: 0xd, index: Some(0), register: Register::Eax });
    let (xsave, xsaves) = (has(words, "xsave"), has(words, "xsaves"));
    for (at, word) in WORDS.iter().enumerate().filter(|(_, word)| is_xsave_state(word.source)) {
        let saved_by_user = matches!(word.source, Source::Cpuid { index: Some(0), .. });
        if !(xsave && (saved_by_user || xsaves)) {
            words[at] = 0;
        }
    }
    let Some(low) = low else { return };
    for (bit, names) in STATE {
        if !names.iter().any(|name| has(words, name)) {
            words[low] &= !(1 << bit);
            if bit + 1 == TILE_DATA {
                words[low] &= !(1 << TILE_DATA);
            }
        }
    }
}

fn is_amd(vendor: &[u8; 12]) -> bool {
    matches!(vendor, b"AuthenticAMD" | b"HygonGenuine")
}

/// AMD's leaf 8000_0001 has in EDX what leaf 1 has there, as far as both are about the same (APM volume 3, E.4.2).
fn repeat_for_amd(words: &mut Words) {
    const SAME: u64 = 0x0183_f3ff;
    let edx = |leaf| word_at(Source::Cpuid { leaf, index: None, register: Register::Edx });
    if let (Some(basic), Some(extended)) = (edx(1), edx(0x8000_0001)) {
        words[extended] = words[extended] & !SAME | words[basic] & SAME;
    }
}

/// The highest leaf from `start` on that the features need, as QEMU has it: some leaves are there when the feature is that
/// they belong to, whatever is in them.
fn required_level(words: &Words, start: u32) -> u32 {
    const BY_FEATURE: [(u32, &str); 3] = [(0x12, "sgx"), (0x14, "intel-pt"), (0x24, "avx10")];
    const NOT_COUNTED: [u32; 4] = [0x12, 0x14, 0x24, 0x8000_0022];
    let leaf = |at: usize| match WORDS[at].source {
        Source::Cpuid { leaf: 0x8000_0007, register: Register::Ebx, .. } => None,
        Source::Cpuid { leaf, .. } if words[at] != 0 && leaf >> 28 == start >> 28 => {
            Some(leaf).filter(|leaf| !NOT_COUNTED.contains(leaf))
        }
        _ => None,
    };
    let has = |name: &str| start == 0 && feature(name).is_some_and(|f| f.is_in(words));
    let by_feature = BY_FEATURE.into_iter().filter(|(_, name)| has(name)).map(|(leaf, _)| leaf);
    (0..COUNT).filter_map(leaf).chain(by_feature).max().unwrap_or(0)
}

impl Facts {
    /// Names of what it was to have and has not.
    pub fn unavailable(&self) -> impl Iterator<Item = &'static str> + '_ {
        features().filter(|f| self.filtered[f.word] & f.mask != 0).map(|f| f.name)
    }

    /// The vendor as text.
    #[must_use]
    pub fn vendor_text(&self) -> String {
        String::from_utf8_lossy(&self.vendor).trim_end_matches('\0').to_owned()
    }

    /// Whether it is taken for one of AMD's.
    #[must_use]
    pub fn is_amd(&self) -> bool {
        is_amd(&self.vendor)
    }

    /// Puts the processor into a package: threads of one are to say so, if `supported` has it, and what lies between the core and the
    /// package needs a leaf.
    pub fn realize(&mut self, topology: &Topology, supported: &Supported) {
        let several = topology.package_size() > 1;
        let names = [("ht", several), ("cmp-legacy", several && self.is_amd())];
        for feature in names.into_iter().filter(|(_, is)| *is).filter_map(|(n, _)| feature(n)) {
            feature.switch(&mut self.wanted, true);
            let is_there = feature.is_in(&supported.words);
            feature.switch(&mut self.words, is_there);
            feature.switch(&mut self.filtered, !is_there);
            self.missing.retain(|missing| missing.feature != feature);
            self.missing.extend((!is_there).then(|| Missing::unsupported(feature)));
        }
        self.missing.sort_by_key(|missing| match missing.why {
            Unavailable::Dependent => None,
            Unavailable::Unsupported => Some((missing.feature.word, missing.feature.mask)),
        });
        let between = topology.dies > 1 || topology.modules > 1;
        if between && &self.vendor == b"GenuineIntel" && self.level == self.min_level {
            self.min_level = self.min_level.max(TOPOLOGY_LEAF);
            self.level = self.min_level;
        }
    }

    /// Warns of what the processor was to have and has not, and of a topology that such a processor does not have.
    ///
    /// # Errors
    /// All of it was to be there (`enforce`).
    pub fn report(&self, topology: &Topology, host_phys_bits: Option<u32>) -> Result<()> {
        if self.check || self.enforce {
            self.missing.iter().for_each(|missing| tracing::warn!("{missing}"));
        }
        let asked = Some(self.phys_bits).filter(|bits| *bits != 0 && !self.host_phys_bits);
        if let (Some(host), Some(asked)) = (host_phys_bits, asked)
            && host != asked
        {
            tracing::warn!("Host physical bits ({host}) does not match phys-bits property ({asked})");
        }
        if self.enforce && !self.missing.is_empty() {
            return Err(Error::generic("Host doesn't support requested features"));
        }
        let threads = topology.threads;
        if threads > 1 && self.is_amd() && !feature("topoext").is_some_and(|f| f.is_in(&self.words)) {
            tracing::warn!(
                "This family of AMD CPU doesn't support hyperthreading({threads}). Please configure -smp options \
                 properly or try enabling topoext feature."
            );
        }
        Ok(())
    }
}

/// EAX of leaf 1: what does not fit into the four bits of family and model is in their extensions.
#[must_use]
pub fn signature(family: u32, model: u32, stepping: u32) -> u32 {
    let (base, extended) = if family > 0xf { (0xf, family - 0xf) } else { (family, 0) };
    extended << 20 | (model >> 4) << 16 | base << 8 | (model & 0xf) << 4 | stepping
}

/// `words` as the properties `feature-words` and `filtered-features` show them.
#[must_use]
pub fn words_value(words: &Words) -> Value {
    let entry = |(at, word): (usize, &super::words::Word)| {
        let Source::Cpuid { leaf, index, register } = word.source else { return None };
        let mut dict = Dict::new();
        dict.insert("cpuid-register", register.name());
        if let Some(index) = index {
            dict.insert("cpuid-input-ecx", index);
        }
        dict.insert("cpuid-input-eax", leaf);
        dict.insert("features", words[at]);
        Some(Value::Dict(dict))
    };
    WORDS.iter().enumerate().rev().filter_map(entry).collect::<Vec<_>>().into()
}
