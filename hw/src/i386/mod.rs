//! The PC boards: where memory is, bridges and legacy devices, vCPUs, what firmware would do and be told, loading the built-in guest.

mod boot;
pub mod cpu;
pub mod firmware;
mod fw_files;
pub mod host_bridge;
pub mod layout;
mod microvm;
pub mod paging;
mod pc;
pub mod ram;
pub(crate) mod smbios;

use std::sync::Arc;

use qapi::{Error, Result};

use crate::core::machine::{Board, Machine};
use crate::core::machine_types::Board as Kind;
pub(crate) use microvm::transports;

/// Registers bridges and vCPUs.
pub fn register(registry: &mut qom::Registry) {
    host_bridge::register(registry);
    cpu::register(registry);
    microvm::register(registry);
}

/// Builds the board of a machine.
///
/// # Errors
/// QEMU's texts.
pub fn build(machine: &Arc<Machine>) -> Result<Arc<dyn Board>> {
    match machine.kind().board {
        Kind::I440fx | Kind::Q35 => pc::build(machine),
        Kind::Microvm => microvm::build(machine),
        Kind::None => {
            if machine.properties().kernel().is_some() {
                return Err(Error::generic(
                    "The -kernel parameter is not supported (use the generic 'loader' device instead).",
                ));
            }
            if let Some(ram) = ram::take(machine)? {
                machine.memory().transaction().add_subregion(machine.system_region(), 0, ram, 0);
            }
            Ok(Arc::new(NoBoard))
        }
    }
}

/// The machine `none`: no processor, no devices.
struct NoBoard;

impl Board for NoBoard {
    fn load(&self, _machine: &Arc<Machine>) -> Result<()> {
        Ok(())
    }
}
