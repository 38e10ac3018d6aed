//! What a guest was told of its processor and must find again where it is moved to: features, names, its place among others.
//!
//! QEMU leaves that to whoever starts the destination; here a processor that differs is refused, in the words that QEMU has for properties
//! of other devices.

use vmstate::{LoadError, Result, vmstate};

use crate::VcpuConfig;
use crate::cpu::{Source, WORDS, features};

vmstate! {
    /// What decides a processor's CPUID and feature MSRs.
    pub(in crate::kvm) struct Processor: "cpu/processor", version 1 {
        /// How many there are.
        cpus: u32,
        apic_id: u32,
        /// Of a package: dies, and so on down to threads.
        topology: [u32; 4],
        /// By the table of words that this program has.
        features: Vec<u64>,
        vendor: [u8; 12],
        family: u32,
        model: u32,
        stepping: u32,
        level: u32,
        xlevel: u32,
        phys_bits: u32,
    }
}

/// What vCPU `cpu`, one of `count`, is told here.
pub(super) fn told(config: &VcpuConfig, cpu: usize, count: usize) -> Processor {
    let VcpuConfig { apic_ids, present: _, topology, facts, phys_bits } = config;
    Processor {
        cpus: count as u32,
        apic_id: apic_ids.get(cpu).copied().unwrap_or(0),
        topology: [topology.dies, topology.modules, topology.cores, topology.threads],
        features: facts.words.to_vec(),
        vendor: facts.vendor,
        family: facts.family,
        model: facts.model,
        stepping: facts.stepping,
        level: facts.level,
        xlevel: facts.xlevel,
        phys_bits: *phys_bits,
    }
}

/// Refuses a processor that vCPU `cpu`, one of `count`, is not.
pub(super) fn check(from: &Processor, config: &VcpuConfig, cpu: usize, count: usize) -> Result<()> {
    let to = told(config, cpu, count);
    let Processor {
        cpus,
        apic_id,
        topology,
        features,
        vendor,
        family,
        model,
        stepping,
        level,
        xlevel,
        phys_bits,
    } = from;
    same("cpus", *cpus, to.cpus)?;
    for (name, (from, to)) in
        ["dies", "modules", "cores", "threads"].into_iter().zip(topology.iter().zip(to.topology))
    {
        same(name, *from, to)?;
    }
    same("apic-id", *apic_id, to.apic_id)?;
    same("vendor", text(vendor), text(&to.vendor))?;
    let numbers = [
        ("family", *family, to.family),
        ("model", *model, to.model),
        ("stepping", *stepping, to.stepping),
        ("level", *level, to.level),
        ("xlevel", *xlevel, to.xlevel),
        ("phys-bits", *phys_bits, to.phys_bits),
    ];
    numbers.into_iter().try_for_each(|(name, from, to)| same(name, from, to))?;
    // A word that one of the two does not know has no features.
    let count = features.len().max(to.features.len());
    let word = |words: &[u64], at: usize| words.get(at).copied().unwrap_or(0);
    (0..count).try_for_each(|at| same_word(at, word(features, at), word(&to.features, at)))
}

fn same<T: PartialEq + std::fmt::Display>(name: &str, from: T, to: T) -> Result<()> {
    if from == to {
        return Ok(());
    }
    Err(LoadError::invalid(format!("Property '{name}' changed from {from} to {to}")))
}

fn text(vendor: &[u8; 12]) -> String {
    String::from_utf8_lossy(vendor).into_owned()
}

fn same_word(at: usize, from: u64, to: u64) -> Result<()> {
    let differs = from ^ to;
    if differs == 0 {
        return Ok(());
    }
    if let Some(feature) = features().find(|f| f.word == at && f.mask & differs != 0) {
        let state = |word: u64| if word & feature.mask != 0 { "on" } else { "off" };
        return Err(LoadError::invalid(format!(
            "Property '{}' changed from {} to {}",
            feature.name,
            state(from),
            state(to)
        )));
    }
    let place = WORDS.get(at).map_or_else(
        || format!("word {at}"),
        |word| match word.source {
            Source::Cpuid { leaf, register, .. } => format!("CPUID.{leaf:02X}H:{}", register.name()),
            Source::Msr { index, .. } => format!("MSR({index:X}H)"),
        },
    );
    Err(LoadError::invalid(format!("{place} changed from {from:#x} to {to:#x}")))
}
