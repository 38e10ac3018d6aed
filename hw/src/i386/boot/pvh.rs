//! The start information of the PVH boot protocol: Xen `public/arch-x86/hvm/start_info.h`, version 1.
//!
//! The structures lie in the first 640 KiB, which the guest leaves alone.

use accel::BootState;
use linux_loader::loader::elf::start_info::{hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info};
use qapi::{Error, Result};
use vm_memory::ByteValued;

use super::Environment;
use super::ram::Ram;

const MAGIC: u32 = 0x336e_c578;
const VERSION: u32 = 1;
const START_INFO: u64 = 0x6000;
const MODULES: u64 = 0x6800;
const MEMORY_MAP: u64 = 0x7000;
const COMMAND_LINE: u64 = 0x8000;
/// Bytes for the command line with its terminator.
const COMMAND_LINE_MAX: usize = 0x8000;

/// Writes the start information; `entry` is where the program starts.
///
/// # Errors
/// The command line is too long.
pub(super) fn enter(ram: &Ram, environment: &Environment<'_>, entry: u32) -> Result<BootState> {
    let text = environment.command_line;
    if text.len() >= COMMAND_LINE_MAX {
        return Err(Error::generic("the kernel command line is too long"));
    }
    ram.write(COMMAND_LINE, text.as_bytes())?;
    ram.write(COMMAND_LINE + text.len() as u64, &[0])?;
    let ranges = environment.map.ranges();
    for (place, &(addr, size, kind)) in
        (MEMORY_MAP..).step_by(size_of::<hvm_memmap_table_entry>()).zip(ranges)
    {
        let entry = hvm_memmap_table_entry { addr, size, type_: kind as u32, reserved: 0 };
        ram.write(place, entry.as_slice())?;
    }
    let module =
        environment.initrd.map(|(paddr, size)| hvm_modlist_entry { paddr, size, ..Default::default() });
    if let Some(module) = module {
        ram.write(MODULES, module.as_slice())?;
    }
    let info = hvm_start_info {
        magic: MAGIC,
        version: VERSION,
        nr_modules: module.is_some().into(),
        modlist_paddr: if module.is_some() { MODULES } else { 0 },
        cmdline_paddr: COMMAND_LINE,
        rsdp_paddr: environment.rsdp.unwrap_or(0),
        memmap_paddr: MEMORY_MAP,
        memmap_entries: ranges.len() as u32,
        ..Default::default()
    };
    ram.write(START_INFO, info.as_slice())?;
    Ok(BootState::Pvh { entry, start_info: START_INFO as u32 })
}

/// Address, size and name of what [`enter`] has written, but for modules.
pub(super) fn parts(environment: &Environment<'_>) -> [(u64, u64, &'static str); 3] {
    let map = environment.map.ranges().len() * size_of::<hvm_memmap_table_entry>();
    [
        (START_INFO, size_of::<hvm_start_info>() as u64, "start info"),
        (MEMORY_MAP, map as u64, "memory map"),
        (COMMAND_LINE, environment.command_line.len() as u64 + 1, "command line"),
    ]
}
