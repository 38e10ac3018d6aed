//! What is put into the guest's memory in place of firmware, and where the boot processor starts: the built-in guest, or a kernel.
//!
//! | file | entered by |
//! | --- | --- |
//! | none | the built-in guest, PVH |
//! | bzImage with a 64-bit entry point | the Linux boot protocol, 64-bit |
//! | ELF with the note `XEN_ELFNOTE_PHYS32_ENTRY` | PVH |
//! | other 64-bit ELF | the Linux boot protocol, 64-bit |
//!
//! Files are opened and their headers are checked when the board is built. They stay open: at every reset what is loaded goes from the file
//! into the guest's memory, with no copy in between.
//!
//! Left out: kernels without a 64-bit entry point, multiboot, device trees.

mod builtin;
mod bzimage;
mod elf;
mod file;
mod items;
mod linux;
mod memory_map;
mod pvh;
mod ram;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::Arc;

use qapi::{Error, Result};

use self::bzimage::BzImage;
use self::elf::Program;
use self::file::{Image, ImageFile};
use self::memory_map::MemoryMap;
use self::ram::Ram;
use super::layout::Layout;
use super::smbios::Smbios;
use crate::acpi::tables::Tables;
use crate::acpi::{self, vmgenid};
use crate::core::machine::Machine;
use crate::core::machine_types::Board;
use crate::inspect::roms::{Rom, Roms};
use crate::isa::fw_cfg::FwCfg;

/// Names of [`Roms`] begin with it.
const PREFIX: &str = "kernel";
/// Where the root pointer of the ACPI tables is: guests that are not told look for it from E0000h on.
const RSDP: u64 = 0xf_5000;
/// The entry point of SMBIOS, and its tables; so much room there is for them.
const SMBIOS: u64 = 0xf_5040;
const SMBIOS_TABLES: (u64, u64) = (0xf_6000, 0x9ff0);
/// Where firmware begins. A kernel that knows no other way to reboot jumps there in real mode (Linux on `microvm`, where it counts on EFI for that).
const RESET_VECTOR: u64 = 0xf_fff0;
/// What it finds: `lidt cs:[fff8h]`, an empty table, and `int3`: a triple fault, which resets every machine.
const RESET_CODE: [u8; 16] = [0x2e, 0x0f, 0x01, 0x1e, 0xf8, 0xff, 0xcc, 0xf4, 0, 0, 0, 0, 0, 0, 0, 0];

/// What is booted.
pub(super) struct Boot(What);

enum What {
    /// A test's client plays firmware and guest.
    Nothing,
    BuiltIn,
    Kernel(Box<Kernel>),
}

/// A kernel with what it is given.
struct Kernel {
    kind: Kind,
    initrd: Option<ImageFile>,
    command_line: String,
}

enum Kind {
    BzImage(BzImage),
    Elf(ImageFile, Program),
}

/// Where the parts of a kernel's environment are, for the structure that tells it.
struct Environment<'a> {
    command_line: &'a str,
    /// Address and size; the size is not 0.
    initrd: Option<(u64, u64)>,
    /// Root pointer of the ACPI tables.
    rsdp: Option<u64>,
    map: &'a MemoryMap,
}

impl Boot {
    /// Opens the files that the machine names and looks at their headers.
    ///
    /// # Errors
    /// QEMU's texts: a file is missing or is no kernel, `-initrd` without `-kernel`.
    pub(super) fn open(machine: &Machine) -> Result<Self> {
        let properties = machine.properties();
        if let Some(path) = properties.firmware() {
            let why = if Path::new(&path).exists() { ": firmware is not supported" } else { "" };
            return Err(Error::generic(format!("could not load PC BIOS '{path}'{why}")));
        }
        if let Some(path) = properties.dtb() {
            return Err(Error::generic(format!("error reading dtb {path}: device trees are not supported")));
        }
        let Some(path) = properties.kernel() else {
            if properties.initrd().is_some() {
                return Err(Error::generic("-initrd only allowed with -kernel option"));
            }
            return Ok(Self(if machine.config().boot_guest { What::BuiltIn } else { What::Nothing }));
        };
        if machine.accel().name() == "sim" {
            return Err(Error::generic(
                "-kernel needs an accelerator that runs it: sim has the built-in guest only",
            ));
        }
        let file = ImageFile::kernel(&path)?;
        let kind = if elf::is_elf(&file)? {
            let program = Program::parse(&file)?;
            Kind::Elf(file, program)
        } else {
            Kind::BzImage(BzImage::parse(file)?)
        };
        let initrd = properties.initrd().map(|path| ImageFile::initrd(&path)).transpose()?;
        let command_line = properties.append().unwrap_or_default();
        Ok(Self(What::Kernel(Box::new(Kernel { kind, initrd, command_line }))))
    }

    /// Whether the board gives BARs of devices that come later their addresses: kernels do that themselves.
    pub(super) fn is_built_in(&self) -> bool {
        matches!(self.0, What::BuiltIn)
    }

    /// Loads it and has the boot processor start there; at every reset. `reserved`: addresses that are no memory's, besides those of
    /// the board. `more` is what the board adds to a kernel's command line.
    ///
    /// # Errors
    /// It does not fit, or a file is not what it was.
    pub(super) fn load(
        &self,
        machine: &Arc<Machine>,
        layout: &Layout,
        reserved: &[(u64, u64)],
        more: &str,
    ) -> Result<()> {
        let ram = Ram::of(machine);
        match &self.0 {
            What::Nothing => Ok(()),
            What::BuiltIn => builtin::load(machine, &ram, guest::IMAGE, layout),
            What::Kernel(kernel) => kernel.load(machine, &ram, layout, reserved, more),
        }
    }
}

impl Kernel {
    fn load(
        &self,
        machine: &Arc<Machine>,
        ram: &Ram,
        layout: &Layout,
        reserved: &[(u64, u64)],
        more: &str,
    ) -> Result<()> {
        let names = matches!(machine.kind().board, Board::I440fx | Board::Q35)
            .then(|| Smbios::new(machine, layout, true))
            .transpose()?;
        let size = names.as_ref().map_or(0, |names| names.tables.len() as u64);
        // Hundreds of sockets or DIMMs.
        let extra = if size > SMBIOS_TABLES.1 { size } else { 0 };
        let (map, tables) = tables(machine, layout, reserved, extra)?;
        let mut roms = Vec::new();
        let mut note = |address, size, name: &str| {
            roms.push(Rom { address, size, name: format!("{PREFIX} {name}") });
        };
        let (space, initrd_max) = match &self.kind {
            Kind::BzImage(image) => (image.place(&map)?, image.initrd_max(&map)),
            Kind::Elf(file, program) => (program.extent(file, &map)?, map.initrd_max()),
        };
        let initrd =
            self.initrd.as_ref().map(|file| place_initrd(file.len(), space.1, initrd_max)).transpose()?;
        let initrd = initrd.flatten();
        match &self.kind {
            Kind::BzImage(image) => image.load(ram, space.0)?,
            Kind::Elf(file, program) => program.load(file, ram)?,
        }
        note(space.0, space.1 - space.0, "image");
        if let (Some(file), Some((address, size))) = (&self.initrd, initrd) {
            file.load(0, size, ram, address)?;
            note(address, size, "initial RAM disk");
        }
        ram.write(RESET_VECTOR, &RESET_CODE)?;
        note(RESET_VECTOR, RESET_CODE.len() as u64, "reset vector");
        let rsdp = tables.as_ref().map(|_| RSDP);
        if let Some(Tables { blob, rsdp }) = &tables {
            ram.write(map.tables(), blob)?;
            ram.write(RSDP, rsdp)?;
            note(map.tables(), blob.len() as u64, "ACPI tables");
            note(RSDP, rsdp.len() as u64, "ACPI root pointer");
            if let Some(page) = vmgenid::page(machine) {
                ram.write(vmgenid::PAGE.into(), &page)?;
                note(vmgenid::PAGE.into(), page.len() as u64, "generation ID");
                if let Some(fw) = FwCfg::of(machine) {
                    fw.set_file(vmgenid::ADDR_FILE, vmgenid::placed())?;
                }
            }
        }
        if let Some(names) = names {
            let blob = tables.as_ref().map_or(0, |tables| tables.blob.len() as u64).next_multiple_of(16);
            let at = if extra > 0 { map.tables() + blob } else { SMBIOS_TABLES.0 };
            let entry = names.entry_point(at, true);
            ram.write(at, &names.tables)?;
            ram.write(SMBIOS, &entry)?;
            note(at, names.tables.len() as u64, "SMBIOS tables");
            note(SMBIOS, entry.len() as u64, "SMBIOS entry point");
        }
        let command_line = format!("{}{more}", self.command_line);
        let environment = Environment { command_line: &command_line, initrd, rsdp, map: &map };
        let state = match &self.kind {
            Kind::BzImage(image) => {
                linux::enter(ram, &environment, Some(image.header()), space, image.entry(space.0))?
            }
            Kind::Elf(_, program) => match program.pvh_entry {
                Some(entry) => pvh::enter(ram, &environment, entry)?,
                None => linux::enter(ram, &environment, None, space, program.entry)?,
            },
        };
        Roms::of(machine).set(roms);
        machine.accel().set_device_window(Some(map.device_window()));
        machine.accel().set_boot(Some(state));
        Ok(())
    }
}

/// The memory map, with room for the tables and `extra` bytes behind them, and the tables, if the machine has ACPI.
fn tables(
    machine: &Arc<Machine>,
    layout: &Layout,
    reserved: &[(u64, u64)],
    extra: u64,
) -> Result<(MemoryMap, Option<Tables>)> {
    let map = |size| MemoryMap::new(layout, machine.kind().board == Board::Q35, reserved, size);
    if !machine.properties().acpi() {
        return Ok((map(extra), None));
    }
    let usual = map(0);
    let tables = acpi::tables::build(machine, layout, usual.tables())?;
    let size = (tables.blob.len() as u64).next_multiple_of(16) + extra;
    if size <= usual.tables_room() {
        return Ok((usual, Some(tables)));
    }
    let larger = map(size);
    let tables = acpi::tables::build(machine, layout, larger.tables())?;
    Ok((larger, Some(tables)))
}

/// Where an initial RAM disk of `size` bytes goes: as high as can be below `max`, above the kernel, which ends at `from`.
fn place_initrd(size: u64, from: u64, max: u64) -> Result<Option<(u64, u64)>> {
    if size == 0 {
        return Ok(None);
    }
    let address = max.checked_sub(size).map(|address| address & !0xfff);
    match address.filter(|&address| address >= from) {
        Some(address) => Ok(Some((address, size))),
        None => {
            let room = max.saturating_sub(if size < max { from } else { 0 });
            Err(Error::generic(format!("initrd is too large, cannot support.(max: {room}, need {size})")))
        }
    }
}
