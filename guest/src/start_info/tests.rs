//! Start information as boards and as liars write it.

use super::*;
use crate::testing::Machine;
use std::vec::Vec;

fn put(machine: &mut Machine, magic: u32, version: u32, cmdline: &[u8]) {
    let mut info: Vec<u8> = [magic, version, 0, 0].iter().flat_map(|v| v.to_le_bytes()).collect();
    info.extend([0u64, 0x5000, 0xe_0000, 0x6000].iter().flat_map(|v| v.to_le_bytes()));
    info.extend(2u64.to_le_bytes());
    machine.memory.write(0x4000, &info);
    machine.memory.write(0x5000, cmdline);
    let entries: [u64; 6] = [0, 0xa_0000, 1, 1 << 20, 127 << 20, 1];
    machine.memory.write(0x6000, &entries.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>());
}

#[test]
fn version_one_is_read_with_map_and_command_line() {
    let mut machine = Machine::default();
    put(&mut machine, MAGIC, 1, b"touch=all x\0garbage");
    let info = StartInfo::read(&mut machine, 0x4000, 0x20_0000).expect("start information");
    assert_eq!(info.cmdline(), "touch=all x");
    assert_eq!(info.rsdp(), 0xe_0000);
    assert_eq!(info.ram_size(), (127 << 20) + 0xa_0000);
    assert_eq!(info.free_ram().collect::<Vec<_>>(), [(0x20_0000, 128 << 20)]);
    assert_eq!(info.arena(), Arena::new(0x20_0000, 34 << 20));
    assert_eq!(info.spare_ram().collect::<Vec<_>>(), [(34 << 20, 128 << 20)]);
}

#[test]
fn other_structures_are_refused() {
    let mut machine = Machine::default();
    put(&mut machine, 1, 1, b"");
    assert_eq!(StartInfo::read(&mut machine, 0x4000, 0).err(), Some(StartInfoError::Magic(1)));
    put(&mut machine, MAGIC, 0, b"");
    assert_eq!(StartInfo::read(&mut machine, 0x4000, 0).err(), Some(StartInfoError::Version(0)));
}

#[test]
fn hostile_maps_and_command_lines_are_cut_to_size() {
    let ranges = [MemoryRange { addr: u64::MAX - 10, size: u64::MAX, kind: MEMMAP_RAM }; 50];
    let info = StartInfo::new(&ranges, &"é".repeat(5000), 0);
    assert_eq!(info.ranges().len(), 32);
    assert_eq!(info.free_ram().count(), 0);
    assert_eq!(info.arena().take(1, 1), None);
    assert_eq!(info.cmdline().len(), 1024);
}
