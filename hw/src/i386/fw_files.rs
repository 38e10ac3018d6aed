//! What the board tells a guest through `fw_cfg`: items once, when it is built; files about memory, tables and names at each reset, as
//! they depend on devices.
//!
//! Left out of what QEMU has there: SMM (`etc/smi/…`), option ROMs, HPET; sleep states are those that there are.

use std::sync::Arc;

use qapi::{Error, Result};
use qom::ObjectRef;

use super::cpu::Cpus;
use super::layout::Layout;
use super::smbios::{self, Smbios};
use crate::acpi::{self, vmgenid};
use crate::core::machine::Machine;
use crate::core::qdev::{self, Place};
use crate::isa::fw_cfg::{FwCfg, key};
use crate::isa::vmcoreinfo;

const RAM: u32 = 1;
const RESERVED: u32 = 2;
const GIB: u64 = 1 << 30;
/// What tables take is rounded up to this, so that a guest's copy need not grow.
const TABLES_SIZE: usize = 0x2_0000;
const SCRIPT_SIZE: usize = 0x1000;
/// A bit for each sleep state that there is, and the sleep types of S3 and S4: S0 and S5.
const SLEEP_STATES: [u8; 6] = [0x80, 0, 0, 1, 2, 0x80];

/// Makes the device `/machine/fw_cfg` and sets what stays as it is.
///
/// # Errors
/// QEMU's texts about the device's properties.
pub(super) fn create(machine: &Arc<Machine>, layout: &Layout) -> Result<()> {
    let place = Place::Child(machine.object(), "fw_cfg");
    let device = qdev::build(machine, "fw_cfg_io", place, Some(&machine.main_bus()), &[])?;
    let device = (device as ObjectRef).downcast::<FwCfg>();
    let fw = device.ok_or_else(|| Error::generic("class 'fw_cfg_io' is something else"))?;
    let (smp, numa) = (machine.smp(), machine.numa());
    let apic_ids = (0..smp.maxcpus).map(|index| smp.apic_id(index)).max().map_or(0, |id| id + 1);
    let half = |number: u32| (number as u16).to_le_bytes();
    fw.set(key::UUID, smbios::uuid(machine));
    fw.set(key::RAM_SIZE, machine.sizes().ram.to_le_bytes());
    fw.set(key::NOGRAPHIC, half(machine.config().nographic.into()));
    fw.set(key::NB_CPUS, half(Cpus::of(machine).count()));
    let boot = &machine.config().boot;
    fw.set(key::BOOT_MENU, half(boot.menu.into()));
    fw.set(key::MAX_CPUS, half(apic_ids));
    fw.set(key::IRQ0_OVERRIDE, 1u32.to_le_bytes());
    let mut nodes = vec![0u64; 1 + apic_ids as usize];
    nodes[0] = numa.len() as u64;
    for index in 0..smp.maxcpus {
        nodes[1 + smp.apic_id(index) as usize] = numa.node_of_cpu(index).unwrap_or(0).into();
    }
    nodes.extend(numa.nodes().map(|(_, node)| node.size));
    fw.set(key::NUMA, nodes.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>());
    if let Some(time) = boot.splash_time {
        fw.add_file("etc/boot-menu-wait", time.to_le_bytes())?;
    }
    fw.add_file("etc/boot-fail-wait", boot.reboot_timeout.to_le_bytes())?;
    if let Some((base, size)) = layout.device_memory {
        let end = (base + size).next_multiple_of(GIB);
        fw.add_file("etc/reserved-memory-end", end.to_le_bytes())?;
    }
    Ok(())
}

/// Sets what depends on devices and on what the user has added; at each reset.
///
/// # Errors
/// The user has added a file of that name.
pub(super) fn refresh(
    machine: &Arc<Machine>,
    layout: &Layout,
    reserved: &[(u64, u64)],
    first: bool,
) -> Result<()> {
    let Some(fw) = FwCfg::of(machine) else { return Ok(()) };
    let file = |name: &str, bytes: Vec<u8>| {
        if first { fw.add_file(name, bytes) } else { fw.set_file(name, bytes) }
    };
    vmcoreinfo::forget(machine)?;
    // No disk that a BIOS could boot, whatever the user says.
    for name in ["bios-geometry", "bootorder"] {
        fw.set_file(name, Vec::new())?;
    }
    file("etc/e820", memory(layout, reserved))?;
    let names = Smbios::new(machine, layout, false)?;
    file("etc/smbios/smbios-anchor", names.entry_point(0, false))?;
    file("etc/smbios/smbios-tables", names.tables)?;
    if machine.properties().acpi() {
        let movable = acpi::tables::movable(machine, layout)?;
        file("etc/acpi/rsdp", movable.tables.rsdp)?;
        file("etc/acpi/tables", padded(movable.tables.blob, TABLES_SIZE))?;
        file("etc/table-loader", padded(movable.script, SCRIPT_SIZE))?;
        file("etc/system-states", SLEEP_STATES.to_vec())?;
        file("etc/tpm/log", Vec::new())?;
        if let Some(page) = vmgenid::page(machine) {
            file(vmgenid::GUID_FILE, page)?;
            // Where a guest had it is no more.
            if first {
                fw.add_writable(vmgenid::ADDR_FILE, vec![0; 8], |_| {})?;
            } else {
                fw.set_file(vmgenid::ADDR_FILE, [0; 8])?;
            }
        }
    }
    Ok(())
}

fn padded(mut bytes: Vec<u8>, unit: usize) -> Vec<u8> {
    bytes.resize(bytes.len().next_multiple_of(unit), 0);
    bytes
}

/// Memory as firmware finds it.
fn memory(layout: &Layout, reserved: &[(u64, u64)]) -> Vec<u8> {
    let ram = [(0, layout.below_4g), (layout.above_4g_start, layout.above_4g)];
    let reserved = reserved.iter().map(|&(start, size)| (start, size, RESERVED));
    let ram = ram.iter().filter(|(_, size)| *size > 0).map(|&(start, size)| (start, size, RAM));
    let entry = |(start, size, kind): (u64, u64, u32)| {
        let mut entry = start.to_le_bytes().to_vec();
        entry.extend(size.to_le_bytes());
        entry.extend(kind.to_le_bytes());
        entry
    };
    reserved.chain(ram).flat_map(entry).collect()
}

#[cfg(test)]
mod tests;
