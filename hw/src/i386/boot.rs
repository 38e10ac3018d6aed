//! Loads the built-in guest and tells it about the machine: the PVH boot protocol.
//!
//! Xen `public/arch-x86/hvm/start_info.h`, version 1. The structures lie in the first 640 KiB, which the guest leaves alone.

use accel::BootState;
use qapi::{Error, Result};

use super::elf::Program;
use super::layout::Layout;
use crate::core::machine::Machine;
use crate::inspect::roms::{Rom, Roms};

const MAGIC: u32 = 0x336e_c578;
const VERSION: u32 = 1;
const START_INFO: u64 = 0x6000;
const MEMORY_MAP: u64 = 0x7000;
const COMMAND_LINE: u64 = 0x8000;
/// Bytes for the command line with its terminator.
const COMMAND_LINE_MAX: usize = 0x8000;
/// Top of the RAM below the VGA window that firmware leaves to the guest.
const LOW_RAM: u64 = 0x9_fc00;
const MIB: u64 = 1 << 20;
const RAM: u32 = 1;
const RESERVED: u32 = 2;

/// Puts `image` and its start information into RAM and has the boot processor start there.
///
/// # Errors
/// The program does not fit into RAM, or the command line is too long.
pub fn load(machine: &Machine, image: &[u8], layout: &Layout) -> Result<()> {
    let program = Program::parse(image)?;
    let mut roms = Vec::new();
    for (index, segment) in program.segments.iter().enumerate() {
        let end = segment.address.checked_add(segment.size);
        if segment.address < MIB || end.is_none_or(|end| end > layout.below_4g) {
            return Err(Error::generic("the guest program does not fit into RAM"));
        }
        put(machine, segment.address, segment.data)?;
        clear(
            machine,
            segment.address + segment.data.len() as u64,
            segment.size - segment.data.len() as u64,
        )?;
        let name = format!("built-in guest ELF program header segment {index}");
        roms.push(Rom { address: segment.address, size: segment.size, name });
    }
    let command_line = machine.config().append.clone().unwrap_or_default();
    if command_line.len() >= COMMAND_LINE_MAX {
        return Err(Error::generic("the kernel command line is too long"));
    }
    let mut text = command_line.into_bytes();
    text.push(0);
    put(machine, COMMAND_LINE, &text)?;
    let map = memory_map(layout);
    let mut raw = Vec::new();
    for (address, size, kind) in &map {
        raw.extend(address.to_le_bytes());
        raw.extend(size.to_le_bytes());
        raw.extend(kind.to_le_bytes());
        raw.extend([0; 4]);
    }
    put(machine, MEMORY_MAP, &raw)?;
    let info = start_info(map.len() as u32);
    put(machine, START_INFO, &info)?;
    for (address, data, name) in [
        (START_INFO, &info, "start info"),
        (MEMORY_MAP, &raw, "memory map"),
        (COMMAND_LINE, &text, "command line"),
    ] {
        roms.push(Rom { address, size: data.len() as u64, name: format!("built-in guest {name}") });
    }
    Roms::of(machine).set(roms);
    machine.accel().set_boot(Some(BootState::Pvh { entry: program.entry, start_info: START_INFO as u32 }));
    Ok(())
}

fn start_info(entries: u32) -> Vec<u8> {
    let mut raw = Vec::new();
    for word in [MAGIC, VERSION, 0, 0] {
        raw.extend(word.to_le_bytes());
    }
    // Modules, command line, ACPI root pointer, memory map.
    for long in [0, COMMAND_LINE, 0, MEMORY_MAP] {
        raw.extend(long.to_le_bytes());
    }
    raw.extend(entries.to_le_bytes());
    raw.extend([0; 4]);
    raw
}

/// RAM and what looks like it but is not; memory devices are for their drivers to find.
fn memory_map(layout: &Layout) -> Vec<(u64, u64, u32)> {
    let mut map = vec![
        (0, LOW_RAM, RAM),
        (LOW_RAM, 0xa_0000 - LOW_RAM, RESERVED),
        (0xf_0000, 0x1_0000, RESERVED),
        (MIB, layout.below_4g.saturating_sub(MIB), RAM),
    ];
    if layout.above_4g > 0 {
        map.push((layout.above_4g_start, layout.above_4g, RAM));
    }
    map
}

fn put(machine: &Machine, address: u64, data: &[u8]) -> Result<()> {
    if data.is_empty() || machine.system_space().write_rom(address, data).is_ok() {
        return Ok(());
    }
    Err(Error::generic(format!("the guest program cannot be written to {address:#x}")))
}

fn clear(machine: &Machine, address: u64, size: u64) -> Result<()> {
    const ZEROS: [u8; 4096] = [0; 4096];
    let mut done = 0;
    while done < size {
        let len = (size - done).min(ZEROS.len() as u64);
        put(machine, address + done, &ZEROS[..len as usize])?;
        done += len;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_map_has_all_ram_and_no_device_memory() {
        let layout = Layout {
            below_4g: 2 << 30,
            above_4g_start: 4 << 30,
            above_4g: 2 << 30,
            device_memory: Some((6 << 30, 16 << 30)),
            pci_hole64: (22 << 30, 32 << 30),
        };
        let ram: u64 = memory_map(&layout).iter().filter(|r| r.2 == RAM).map(|r| r.1).sum();
        assert_eq!(ram, (4 << 30) - MIB + LOW_RAM);
        assert!(memory_map(&layout).iter().all(|r| r.0 < 6 << 30));
        assert_eq!(start_info(4).len(), 56);
    }
}
