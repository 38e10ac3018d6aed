//! Loads the built-in guest and tells it about the machine: the PVH boot protocol.

use qapi::{Error, Result};

use super::elf::Program;
use super::file::Image;
use super::memory_map::MemoryMap;
use super::ram::Ram;
use super::{Environment, pvh};
use crate::core::machine::Machine;
use crate::i386::layout::Layout;
use crate::inspect::roms::{Rom, Roms};

/// Puts `image` and its start information into RAM and has the boot processor start there.
///
/// # Errors
/// The program does not fit into RAM, or the command line is too long.
pub(super) fn load(machine: &Machine, ram: &Ram, image: &[u8], layout: &Layout) -> Result<()> {
    let program = Program::parse(&image)?;
    let entry = program.pvh_entry.ok_or_else(|| image.bad("it has no PVH entry point"))?;
    let map = MemoryMap::all_ram(layout);
    if program.extent(&image, &map).is_err() {
        return Err(Error::generic("the guest program does not fit into RAM"));
    }
    program.load(&image, ram)?;
    let mut roms: Vec<Rom> = program
        .segments
        .iter()
        .enumerate()
        .map(|(index, segment)| Rom {
            address: segment.address,
            size: segment.size,
            name: format!("built-in guest ELF program header segment {index}"),
        })
        .collect();
    let command_line = machine.properties().append().unwrap_or_default();
    let environment = Environment { command_line: &command_line, initrd: None, rsdp: None, map: &map };
    let state = pvh::enter(ram, &environment, entry)?;
    for (address, size, name) in pvh::parts(&environment) {
        roms.push(Rom { address, size, name: format!("built-in guest {name}") });
    }
    Roms::of(machine).set(roms);
    machine.accel().set_boot(Some(state));
    Ok(())
}
