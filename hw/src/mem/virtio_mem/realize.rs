//! Realizing a virtio-mem device: the checks in QEMU's order and words, then the memory is taken and emptied.

use std::sync::Arc;

use memory::{DiscardClaim, DiscardManager, MemoryBackend, Owner, RamBlock};
use qapi::{Error, Result};
use qom::ObjectRef;

use super::device::{
    Config, F_ACPI_PXM, F_PERSISTENT_SUSPEND, F_UNPLUGGED_INACCESSIBLE, Live, OnOffAuto, VirtioMem,
};
use super::policy::Layout;
use super::protection::Protection;
use super::sizes::{default_block_size, thp_size};
use super::unit::Unit;
use crate::core::Machine;
use crate::mem::device::MemoryDevices;
use crate::mem::memslots::sizing::Parts;
use crate::mem::memslots::{Memslots, Names, Policy};

fn error<T>(text: impl Into<String>) -> Result<T> {
    Err(Error::generic(text))
}

/// Realizes `device`.
///
/// # Errors
/// QEMU's texts; the memory backend is free again then.
pub(super) fn realize(device: &Arc<VirtioMem>, machine: &Arc<Machine>) -> Result<()> {
    let devices = MemoryDevices::of(machine);
    let mut inner = device.lock();
    let Some(backend) = inner.config.memdev.clone() else {
        return error("'memdev' property is not set");
    };
    check_backend(&backend)?;
    check_machine(&inner.config, machine, &devices)?;
    resolve(&mut inner.config, &backend)?;
    check_sizes(&mut inner.config, &backend)?;
    let (Some(block), Some(region)) = (backend.block(), backend.region()) else {
        return error("'memdev' property specifies an unsupported memdev");
    };
    let Ok(discards) = machine.memory().discard_policy().claim(DiscardClaim::CoordinatedRequired) else {
        return error("Discarding RAM is disabled");
    };
    // What is in memory that another process shares may be what is to arrive.
    let keep = machine.is_incoming() && block.is_shared();
    if let Some(Err(failed)) = (!keep).then(|| block.discard(0, block.size())) {
        tracing::error!("{failed}");
        return error(format!("Unexpected error discarding RAM: {}", failed.reason()));
    }
    let config = &inner.config;
    let layout = Layout { addr: config.memaddr, region_size: backend.size(), block_size: config.block_size };
    let blocks = discard_manager(config.parts, config.protection, &layout, &block)?;
    machine
        .memory()
        .transaction()
        .set_discard_manager(region, Some(Arc::clone(&blocks)))
        .map_err(|e| Error::generic(e.to_string()))?;
    backend.set_mapped(true);
    let slots = config.parts.map(|(policy, parts)| {
        let owner = Owner::of(&(Arc::clone(device) as ObjectRef));
        Memslots::new(machine.memory(), policy, names(policy), &owner, region, layout.region_size, parts)
    });
    let mapped = slots.as_ref().map_or(region, Memslots::container);
    let prealloc = config.prealloc.then(|| backend.prealloc_threads());
    let unit = Unit::new(layout, block, blocks, slots, prealloc, config.requested);
    let features = features(config, machine);
    let machine = Arc::downgrade(machine);
    inner.live = Some(Live { unit, region: mapped, machine, devices, features, _discards: discards });
    Ok(())
}

/// The manager of the device's blocks, and with it the protection of what is not plugged.
///
/// # Errors
/// The host's.
pub(super) fn discard_manager(
    parts: Option<(Policy, Parts)>,
    protection: Protection,
    layout: &Layout,
    block: &Arc<RamBlock>,
) -> Result<Arc<DiscardManager>> {
    let mut blocks = DiscardManager::new(layout.region_size, layout.block_size);
    let mut part_size = layout.region_size;
    if let Some((policy, parts)) = parts {
        part_size = parts.size;
        if policy == Policy::WhilePlugged {
            blocks = blocks.followed_by_mappings();
        }
    }
    if let Some(unit) = protection.unit(layout.block_size, part_size) {
        blocks.protect(block, unit).map_err(|source| {
            Error::generic(format!(
                "unplugged memory cannot be protected: {}",
                memory::Error::Protect(source)
            ))
        })?;
    }
    Ok(Arc::new(blocks))
}

/// What the regions of the parts are called: as QEMU's where it has them.
pub(super) fn names(policy: Policy) -> Names {
    match policy {
        Policy::WhilePlugged => Names { container: "virtio-mem", part: "memslot" },
        Policy::WhileUsable => Names { container: "virtio-mem-memslots", part: "virtio-mem-memslot" },
    }
}

/// Undoes [`realize`]; the machine does not map the memory any more.
pub(super) fn unrealize(device: &Arc<VirtioMem>, machine: &Arc<Machine>) {
    let (live, backend) = {
        let mut inner = device.lock();
        (inner.live.take(), inner.config.memdev.clone())
    };
    let (Some(mut live), Some(backend)) = (live, backend) else { return };
    live.unit.abandon();
    live.unit.block().unregister_name();
    live.unit.blocks().lift_protection();
    if let Some(slots) = live.unit.into_slots() {
        slots.destroy();
    }
    if let Some(region) = backend.region()
        && let Err(error) = machine.memory().transaction().set_discard_manager(region, None)
    {
        tracing::error!(%error, "the memory of a device keeps its discard manager");
    }
    backend.set_mapped(false);
}

fn check_backend(backend: &MemoryBackend) -> Result<()> {
    let id = backend.id();
    if backend.is_mapped() {
        return error(format!("'memdev' property specifies a busy memdev: {id}"));
    }
    if backend.is_rom() || backend.block().is_none() {
        return error("'memdev' property specifies an unsupported memdev");
    }
    if backend.prealloc() {
        // The blank at the end is part of the message.
        return error(format!(
            "'memdev' property specifies a memdev with preallocation enabled: {id}. Instead, specify 'prealloc=on' \
             for the virtio-mem device. "
        ));
    }
    Ok(())
}

fn check_machine(config: &Config, machine: &Machine, devices: &MemoryDevices) -> Result<()> {
    let nodes = machine.numa().len().max(1);
    if config.node as usize >= nodes {
        return error(format!(
            "'node' property has value '{}', which exceedsthe number of numa nodes: {nodes}",
            config.node
        ));
    }
    if devices.is_memory_locked() {
        return error("Incompatible with mlock");
    }
    Ok(())
}

/// Settles `unplugged-inaccessible` and `unplugged-protection`, which read back as what they came to.
fn resolve(config: &mut Config, backend: &MemoryBackend) -> Result<()> {
    let zeropage = backend.block().is_some_and(|block| block.has_shared_zeropage());
    match config.unplugged_inaccessible {
        OnOffAuto::Auto => {
            config.unplugged_inaccessible = if zeropage { OnOffAuto::Off } else { OnOffAuto::On };
        }
        OnOffAuto::Off if !zeropage => tracing::warn!(
            "'unplugged-inaccessible' property set to 'off' with a memdev that does not support the shared zeropage."
        ),
        OnOffAuto::On | OnOffAuto::Off => {}
    }
    if config.dynamic_memslots && config.unplugged_inaccessible != OnOffAuto::On {
        return error("'dynamic-memslots' property set to 'on' requires 'unplugged-inaccessible' to be 'on'");
    }
    config.protection = config.protection.resolve(config.unplugged_inaccessible)?;
    Ok(())
}

/// Settles the block size and checks everything that has to be a multiple of it.
fn check_sizes(config: &mut Config, backend: &MemoryBackend) -> Result<()> {
    let page_size = backend.page_size();
    let thp = thp_size();
    if thp.guessed {
        tracing::warn!("Could not detect THP size, falling back to {} MiB.", thp.bytes >> 20);
    }
    let default = default_block_size(page_size, memory::host_page_size(), thp.bytes);
    if config.block_size == 0 {
        config.block_size = default;
    }
    let block = config.block_size;
    if block < page_size {
        return error(format!("'block-size' property has to be at least the page size ({page_size:#x})"));
    }
    if block < default {
        let mib = default >> 20;
        tracing::warn!("'block-size' property is smaller than the default block size ({mib} MiB)");
    }
    if !config.requested.is_multiple_of(block) {
        return error(format!("'requested-size' property has to be multiples of 'block-size' ({block:#x})"));
    }
    if !config.memaddr.is_multiple_of(block) {
        return error(format!("'memaddr' property has to be multiples of 'block-size' ({block:#x})"));
    }
    if !backend.size().is_multiple_of(block) {
        return error(format!(
            "'memdev' property memdev size has to be multiples of'block-size' ({block:#x})"
        ));
    }
    Ok(())
}

fn features(config: &Config, machine: &Machine) -> u64 {
    let bit = |on: bool, bit: u64| if on { bit } else { 0 };
    F_ACPI_PXM
        | bit(config.unplugged_inaccessible == OnOffAuto::On, F_UNPLUGGED_INACCESSIBLE)
        | bit(machine.properties().acpi(), F_PERSISTENT_SUSPEND)
}
