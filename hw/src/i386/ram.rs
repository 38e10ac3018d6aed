//! Where the machine's RAM comes from and how it is mapped: one backend, one for each NUMA node, or a default one.

use std::sync::Arc;

use memory::{MemoryBackend, Owner, RegionDesc, RegionId};
use qapi::{Error, Result, Value};
use qom::{Input, Tree};

use super::layout::Layout;
use crate::core::config::{DEFAULT_RAM, MemorySizes};
use crate::core::machine::{DeviceMemory, Machine};
use crate::core::machine_types::Board;

/// A backend by id (or path).
pub fn backend(tree: &Tree, id: &str) -> Option<Arc<MemoryBackend>> {
    let path = if id.starts_with('/') { id.to_owned() } else { format!("/objects/{id}") };
    MemoryBackend::from_object(&tree.absolute(&path)?)
}

/// Size of a backend, bytes.
pub fn backend_size(tree: &Tree, id: &str) -> Option<u64> {
    backend(tree, id).map(|b| b.size())
}

fn is_none(machine: &Machine) -> bool {
    machine.kind().board == Board::None
}

/// RAM of a machine whose command line has no `-m`: the backend's size, if there is one.
///
/// # Errors
/// `Memory backend 'x' not found`.
pub fn default_size(machine: &Machine) -> Result<u64> {
    match machine.properties().memory_backend() {
        Some(id) => backend_size(machine.tree(), &id)
            .ok_or_else(|| Error::generic(format!("Memory backend '{id}' not found"))),
        None if is_none(machine) => Ok(0),
        None => Ok(DEFAULT_RAM),
    }
}

/// Whether the backend of the machine fits its size.
///
/// # Errors
/// QEMU's texts.
pub fn check_backend(machine: &Machine, sizes: &MemorySizes) -> Result<()> {
    let Some(id) = machine.properties().memory_backend() else { return Ok(()) };
    if machine.numa().uses_memdev() {
        return Err(Error::generic(
            "'-machine memory-backend' and '-numa memdev' properties are mutually exclusive",
        ));
    }
    if backend_size(machine.tree(), &id) != Some(sizes.ram) {
        return Err(Error::generic("Machine memory size does not match the size of the memory backend"));
    }
    Ok(())
}

/// Takes the RAM into use and returns its region: the backend's own, or `pc.ram` with one backend for each node.
///
/// # Errors
/// A backend is in use already, or the default one cannot be allocated.
pub fn take(machine: &Machine) -> Result<Option<RegionId>> {
    let sizes = machine.sizes();
    if machine.numa().uses_memdev() {
        return nodes(machine, sizes.ram).map(Some);
    }
    let id = match machine.properties().memory_backend() {
        Some(id) => id,
        None if sizes.ram == 0 => return Ok(None),
        None => make_default(machine, sizes.ram)?,
    };
    map_backend(machine, &id).map(Some)
}

fn map_backend(machine: &Machine, id: &str) -> Result<RegionId> {
    let backend = backend(machine.tree(), id)
        .ok_or_else(|| Error::generic(format!("Memory backend '{id}' not found")))?;
    let region =
        backend.region().ok_or_else(|| Error::generic(format!("Memory backend '{id}' is not complete")))?;
    if !backend.try_map() {
        return Err(Error::generic(format!("memory backend {id} can't be used multiple times.")));
    }
    if let Some(block) = backend.block() {
        block.register_name(None);
    }
    Ok(region)
}

fn make_default(machine: &Machine, size: u64) -> Result<String> {
    let id = machine.kind().default_ram_id();
    let properties = machine.properties();
    let values = [
        ("size", Value::from(size)),
        ("merge", properties.mem_merge().into()),
        ("dump", properties.dump_guest_core().into()),
    ];
    let inputs = values.iter().map(|(name, value)| (*name, Input::Json(value)));
    machine.tree().create_user_object("memory-backend-ram", id, inputs)?;
    properties.set_memory_backend(id);
    Ok(id.to_owned())
}

fn nodes(machine: &Machine, ram: u64) -> Result<RegionId> {
    let mut parts = Vec::new();
    for (_, node) in machine.numa().nodes() {
        if let Some(memdev) = &node.memdev {
            parts.push((map_backend(machine, memdev)?, node.size));
        }
    }
    let mut tx = machine.memory().transaction();
    let owner = Owner::of(&machine.object());
    let all = tx.container(RegionDesc::new(machine.kind().default_ram_id(), ram.into()).owned_by(owner));
    let mut at = 0;
    for (region, size) in parts {
        tx.add_subregion(all, at, region, 0);
        at += size;
    }
    Ok(all)
}

/// Maps RAM into the physical address space, and makes the area for memory devices.
pub fn map(machine: &Machine, ram: RegionId, layout: &Layout) {
    let system = machine.system_region();
    let mut tx = machine.memory().transaction();
    let below = tx.alias(RegionDesc::new("ram-below-4g", layout.below_4g.into()), ram, 0);
    tx.add_subregion(system, 0, below, 0);
    if layout.above_4g > 0 {
        let desc = RegionDesc::new("ram-above-4g", layout.above_4g.into());
        let above = tx.alias(desc, ram, layout.below_4g);
        tx.add_subregion(system, layout.above_4g_start, above, 0);
    }
    let Some((base, size)) = layout.device_memory else { return };
    let owner = Owner::of(&machine.object());
    let region = tx.container(RegionDesc::new("device-memory", size.into()).owned_by(owner));
    tx.add_subregion(system, base, region, 0);
    let space = tx.address_space("device-memory", region);
    tx.commit();
    machine.set_device_memory(DeviceMemory { region, space, base, size });
}
