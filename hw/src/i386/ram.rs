//! Where the machine's RAM comes from: one backend, one backend for each NUMA node, or an anonymous block of its own.

use std::sync::Arc;

use memory::MemoryBackend;
use qapi::{Error, Result};
use qom::Tree;

use crate::core::config::{DEFAULT_RAM, MemorySizes};
use crate::core::machine::Machine;

/// A backend by id (or path).
pub fn backend(tree: &Tree, id: &str) -> Option<Arc<MemoryBackend>> {
    let path = if id.starts_with('/') { id.to_owned() } else { format!("/objects/{id}") };
    MemoryBackend::from_object(&tree.absolute(&path)?)
}

/// Size of a backend, bytes.
pub fn backend_size(tree: &Tree, id: &str) -> Option<u64> {
    backend(tree, id).map(|b| b.size())
}

/// RAM of a machine whose command line has no `-m`: the backend's size, if there is one.
///
/// # Errors
/// `Memory backend 'x' not found`.
pub fn default_size(machine: &Machine) -> Result<u64> {
    match machine.properties().memory_backend() {
        Some(id) => backend_size(machine.tree(), &id)
            .ok_or_else(|| Error::generic(format!("Memory backend '{id}' not found"))),
        None if machine.kind().board == crate::core::machine_types::Board::None => Ok(0),
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
        return Err(Error::generic("'-machine memory-backend' and '-numa memdev' properties are mutually exclusive"));
    }
    if backend_size(machine.tree(), &id) != Some(sizes.ram) {
        return Err(Error::generic("Machine memory size does not match the size of the memory backend"));
    }
    Ok(())
}
