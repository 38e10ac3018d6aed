//! Accesses: splitting, widening, holes, ROM, ports.

use std::sync::{Arc, Mutex};

use crate::*;

/// Records accesses; reads give the offset in every byte.
struct Device {
    constraints: AccessConstraints,
    log: Mutex<Vec<(char, u64, u8, u64)>>,
}

impl RegionOps for Device {
    fn read(&self, offset: u64, size: u8) -> u64 {
        self.log.lock().unwrap().push(('r', offset, size, 0));
        let bytes: [u8; 8] = std::array::from_fn(|i| (offset + i as u64) as u8);
        u64::from_le_bytes(bytes)
    }
    fn write(&self, offset: u64, size: u8, value: u64) {
        self.log.lock().unwrap().push(('w', offset, size, value));
    }
    fn constraints(&self) -> AccessConstraints {
        self.constraints
    }
}

fn space(constraints: AccessConstraints) -> (Arc<Memory>, Arc<AddressSpace>, Arc<Device>) {
    let memory = Memory::new();
    let device = Arc::new(Device { constraints, log: Mutex::default() });
    let ram = memory.create_ram(RamSpec::anonymous("ram", 0x2000)).unwrap();
    let rom = memory.create_ram(RamSpec::anonymous("rom", 0x1000)).unwrap();
    let mut tx = memory.transaction();
    let system = tx.container(RegionDesc::new("system", SIZE_ALL));
    let parts = [
        (0, tx.ram(RegionDesc::new("ram", 0x2000), ram)),
        (0x2000, tx.rom(RegionDesc::new("rom", 0x1000), rom)),
        (0x8000, tx.io(RegionDesc::new("device", 0x1000), device.clone())),
        (u64::MAX - 0xfff, tx.io(RegionDesc::new("top", 0x1000), device.clone())),
    ];
    parts.into_iter().for_each(|(at, region)| tx.add_subregion(system, at, region, 0));
    let space = tx.address_space("memory", system);
    drop(tx);
    (memory, space, device)
}

fn accesses(device: &Device) -> Vec<(char, u64, u8, u64)> {
    std::mem::take(&mut device.log.lock().unwrap())
}

#[test]
fn large_accesses_are_split_to_what_is_implemented() {
    let (_memory, space, device) = space(AccessConstraints::new().valid(1, 8).implemented(2, 2));
    assert_eq!(space.read_uint(0x8010, 8), (0x1716151413121110, MemTx::Ok));
    assert_eq!(
        accesses(&device),
        [('r', 0x10, 2, 0), ('r', 0x12, 2, 0), ('r', 0x14, 2, 0), ('r', 0x16, 2, 0)]
    );
    assert!(space.write_uint(0x8020, 4, 0x44332211).is_ok());
    assert_eq!(accesses(&device), [('w', 0x20, 2, 0x2211), ('w', 0x22, 2, 0x4433)]);
}

#[test]
fn small_accesses_are_widened_to_what_is_implemented() {
    let (_memory, space, device) = space(AccessConstraints::new().implemented(4, 4));
    assert_eq!(space.read_uint(0x8020, 1), (0x20, MemTx::Ok));
    assert_eq!(accesses(&device), [('r', 0x20, 4, 0)]);
}

#[test]
fn unaligned_accesses_are_cut_at_their_alignment() {
    let (_memory, space, device) = space(AccessConstraints::new());
    assert_eq!(space.read_uint(0x8001, 4), (0x04030201, MemTx::Ok));
    assert_eq!(accesses(&device), [('r', 1, 1, 0), ('r', 2, 2, 0), ('r', 4, 1, 0)]);
}

#[test]
fn sizes_that_are_not_taken_read_zero_and_write_nothing() {
    let (_memory, space, device) = space(AccessConstraints::new().valid(4, 4).implemented(4, 4));
    assert_eq!(space.read_uint(0x8000, 2), (0, MemTx::DecodeError));
    assert_eq!(space.write_uint(0x8000, 1, 1), MemTx::DecodeError);
    assert!(accesses(&device).is_empty());
}

#[test]
fn an_access_across_ram_rom_and_nothing_does_what_it_can() {
    let (memory, space, _device) = space(AccessConstraints::new());
    let ram = memory.ram_blocks().into_iter().find(|b| b.name() == "ram").unwrap();
    ram.start_dirty_log(DirtyClient::Migration);
    assert_eq!(space.write(0x1ffe, &[1, 2, 3, 4]), MemTx::DecodeError, "ROM takes nothing");
    assert_eq!(space.read_uint(0x1ffe, 4), (0x0201, MemTx::Ok));
    assert!(ram.dirty_log(DirtyClient::Migration).unwrap().is_dirty(0x1ffe));
    assert!(space.write_rom(0x2000, &[9]).is_ok());
    assert_eq!(space.read_uint(0x2000, 1), (9, MemTx::Ok));
    let mut buf = [7; 8];
    assert_eq!(space.read(0x2ffc, &mut buf), MemTx::DecodeError);
    assert_eq!(buf, [0; 8]);
    assert_eq!(space.read_uint(0x5000, 8), (0, MemTx::DecodeError), "holes read as zero");
}

#[test]
fn accesses_reach_the_last_byte_and_wrap() {
    let (_memory, space, device) = space(AccessConstraints::new());
    assert!(space.write(0, &[0xaa]).is_ok());
    assert_eq!(space.read_uint(u64::MAX, 2), (0xaaff, MemTx::Ok));
    assert_eq!(accesses(&device), [('r', 0xfff, 1, 0)]);
}

#[test]
fn ports_that_nobody_answers_read_as_ones() {
    let memory = Memory::new();
    let mut tx = memory.transaction();
    let io = tx.io(RegionDesc::new("io", 65536), Arc::new(UnassignedIo));
    let ports = tx.address_space("I/O", io);
    drop(tx);
    assert_eq!(ports.read_uint(0x80, 1), (0xff, MemTx::Ok));
    assert_eq!(ports.read_uint(0x81, 4), (0xffff_ffff, MemTx::Ok));
    assert!(ports.write_uint(0x80, 1, 1).is_ok());
}

#[test]
fn a_ram_range_is_given_only_where_it_is_whole_and_writable() {
    let (_memory, space, _device) = space(AccessConstraints::new());
    assert_eq!(space.ram_range(0x10, 0x1ff0).unwrap().offset(), 0x10);
    for (addr, len) in [(0x10, 0x1ff1), (0x2000, 1), (0x8000, 1), (0, 0), (1, u64::MAX)] {
        assert!(space.ram_range(addr, len).is_none(), "{addr:#x}+{len:#x}");
    }
    let range = space.ram_range(0x1000, 4).unwrap();
    range.copy_from(&[1, 2, 3, 4, 5]);
    assert_eq!(space.read_uint(0x1000, 8), (0x04030201, MemTx::Ok));
    assert!(range.sub(1, 4).is_none() && range.sub(1, 3).is_some());
}

#[test]
fn a_register_with_another_region_on_its_middle_is_accessed_whole() {
    let (memory, space, device) = space(AccessConstraints::new());
    let mut tx = memory.transaction();
    let root = space.root();
    let byte = tx.io(RegionDesc::new("byte", 1), Arc::new(UnassignedIo));
    tx.add_subregion(root, 0x8041, byte, 1);
    tx.commit();
    assert!(space.write_uint(0x8040, 4, 0x44332211).is_ok());
    assert!(space.write_uint(0x8041, 1, 0x55).is_ok());
    assert_eq!(accesses(&device), [('w', 0x40, 4, 0x44332211)]);
    // At the end of a region it is cut, as ever.
    let mut bytes = [0; 4];
    assert!(space.read(0x8ffe, &mut bytes) == MemTx::DecodeError);
    assert_eq!(accesses(&device), [('r', 0xffe, 2, 0)]);
}
