//! Claims about reading memory: what is there, what is plugged, what the tables map.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use accel::Registers;
use memory::{
    AccessConstraints, DiscardManager, MemTx, Memory, RamBlock, RamSpec, RegionDesc, RegionOps, SIZE_ALL,
};

use super::*;

const M: u64 = 1 << 20;
/// Unit of plugging: a huge page, so that none reaches into what is not plugged.
const U: u64 = 2 * M;
/// Where the plugged unit is.
const PLUGGED: u64 = 4 * M + U;

/// Reads 5ah, and refuses behind its first 8 bytes.
#[derive(Default)]
struct Device(AtomicU64);

impl RegionOps for Device {
    fn read(&self, _offset: u64, _size: u8) -> u64 {
        0x5a5a_5a5a
    }

    fn try_read(&self, offset: u64, size: u8) -> (u64, MemTx) {
        self.0.fetch_add(1, Ordering::Relaxed);
        (self.read(offset, size), if offset < 8 { MemTx::Ok } else { MemTx::Error })
    }

    fn write(&self, _offset: u64, _size: u8, _value: u64) {}

    fn constraints(&self) -> AccessConstraints {
        AccessConstraints::new()
    }
}

/// 2 MiB of RAM at 0, a device at 2 MiB; at 4 MiB a block of four units of which the second is plugged.
struct Setup {
    space: Arc<AddressSpace>,
    ram: Arc<RamBlock>,
    sparse: Arc<RamBlock>,
    device: Arc<Device>,
    _memory: Arc<Memory>,
}

impl Setup {
    fn new(protect: bool) -> Self {
        let memory = Memory::new();
        let ram = memory.create_ram(RamSpec::anonymous("ram", 2 * M)).unwrap();
        let sparse = memory.create_ram(RamSpec::anonymous("sparse", 4 * U)).unwrap();
        let mut manager = DiscardManager::new(4 * U, U);
        if protect {
            manager.protect(&sparse, U).unwrap();
        }
        let device = Arc::new(Device::default());
        let mut tx = memory.transaction();
        let root = tx.container(RegionDesc::new("system", SIZE_ALL));
        let low = tx.ram(RegionDesc::new("ram", u128::from(2 * M)), Arc::clone(&ram));
        let io = tx.io(RegionDesc::new("io", 16), Arc::<Device>::clone(&device));
        let plugged = tx.ram(RegionDesc::new("sparse", u128::from(4 * U)), Arc::clone(&sparse));
        tx.add_subregion(root, 0, low, 0);
        tx.add_subregion(root, 2 * M, io, 0);
        tx.add_subregion(root, 4 * M, plugged, 0);
        let manager = Arc::new(manager);
        tx.set_discard_manager(plugged, Some(Arc::clone(&manager))).unwrap();
        let space = tx.address_space("memory", root);
        tx.commit();
        manager.populate(U..2 * U).unwrap();
        ram.write(0, &[1, 2, 3, 4]).unwrap();
        ram.write(2 * M - 4, &[5, 6, 7, 8]).unwrap();
        sparse.write(U, &[9; 16]).unwrap();
        Self { space, ram, sparse, device, _memory: memory }
    }

    fn read(&self, addr: u64, len: usize) -> (Vec<u8>, Option<Unreadable>) {
        let mut buf = vec![0xee; len];
        let (done, why) = read_all(addr, &mut buf, |at, buf| physical::read(&self.space, at, buf));
        buf.truncate(done);
        (buf, why)
    }
}

#[test]
fn ram_and_devices_are_read_up_to_where_nothing_is() {
    let setup = Setup::new(false);
    assert_eq!(setup.read(0, 6), (vec![1, 2, 3, 4, 0, 0], None));
    let (bytes, why) = setup.read(2 * M - 2, 20);
    assert_eq!(bytes, [7, 8, 0x5a, 0x5a, 0x5a, 0x5a, 0x5a, 0x5a, 0x5a, 0x5a][..bytes.len()]);
    assert_eq!((bytes.len(), why), (2, Some(Unreadable::Refused)), "of a device all or nothing");
    assert_eq!(setup.read(2 * M - 2, 10), (vec![7, 8, 0x5a, 0x5a, 0x5a, 0x5a, 0x5a, 0x5a, 0x5a, 0x5a], None));
    assert_eq!(setup.read(2 * M + 16, 4), (vec![], Some(Unreadable::Nothing { len: 2 * M - 16 })));
    assert_eq!(setup.read(16 * M, 4), (vec![], Some(Unreadable::Nothing { len: u64::MAX - 16 * M })));
    assert_eq!(setup.read(u64::MAX, 1), (vec![], Some(Unreadable::Nothing { len: 1 })));
}

#[test]
fn only_what_is_plugged_is_read_with_and_without_protection() {
    for protect in [false, true] {
        let setup = Setup::new(protect);
        let unplugged = Some(Unreadable::Unplugged);
        assert_eq!(setup.read(4 * M, 8), (vec![], unplugged));
        assert_eq!(setup.read(PLUGGED - 1, 8), (vec![], unplugged));
        assert_eq!(setup.read(PLUGGED, 2), (vec![9, 9], None));
        let (bytes, why) = setup.read(PLUGGED, 3 * U as usize);
        assert_eq!((bytes.len() as u64, why), (U, unplugged));
        assert_eq!(setup.read(PLUGGED + U - 1, 2), (vec![0], unplugged));
        let read_ram = |addr, len| physical::read_ram(&setup.space, addr, &mut vec![0; len]);
        assert!(read_ram(PLUGGED, 8) && !read_ram(PLUGGED - 1, 8) && !read_ram(PLUGGED + U - 1, 8));
    }
}

#[test]
fn reading_unplugged_memory_leaves_no_page_behind() {
    let setup = Setup::new(false);
    let at = |offset: u64| setup.sparse.reader().next_data(offset..offset + U);
    for offset in [0, 2 * U, 3 * U] {
        assert!(setup.read(4 * M + offset, 4096).0.is_empty());
        assert!(at(offset).is_empty(), "{offset:#x}: {:?}", at(offset));
    }
    assert!(!at(U).is_empty());
}

/// Maps 400000h to the start of the RAM, 401000h to where nothing is plugged, 402000h to the device.
fn tables(setup: &Setup) -> Paging {
    let entry = |at: u64, value: u64| setup.ram.write(at, &(value | 7).to_le_bytes()).unwrap();
    for (table, next) in [(0x1000, 0x2000), (0x2000, 0x3000)] {
        entry(table, next);
    }
    entry(0x3000 + 2 * 8, 0x4000);
    entry(0x4000, 0);
    entry(0x4000 + 8, 4 * M);
    entry(0x4000 + 2 * 8, 2 * M);
    Paging::of(&Registers {
        cr0: 1 << 31 | 1,
        cr3: 0x1000,
        cr4: 1 << 5,
        efer: 1 << 10 | 1 << 8,
        ..Registers::default()
    })
}

#[test]
fn linear_addresses_lead_through_the_tables_page_by_page() {
    let setup = Setup::new(true);
    let linear = Linear { space: &setup.space, paging: tables(&setup) };
    let read = |addr, len| {
        let mut buf = vec![0; len];
        let (done, why) = read_all(addr, &mut buf, |at, buf| linear.read(at, buf));
        buf.truncate(done);
        (buf, why)
    };
    assert_eq!(read(0x40_0000, 4), (vec![1, 2, 3, 4], None));
    assert_eq!(read(0x40_0ffe, 4), (vec![0, 0], Some(Unreadable::Unplugged)));
    assert_eq!(read(0x40_2000, 2), (vec![0x5a, 0x5a], None));
    assert_eq!(read(0x40_3000, 2), (vec![], Some(Unreadable::NotMapped)));
    assert_eq!(read(0, 2), (vec![], Some(Unreadable::NotMapped)));
}

#[test]
fn tables_that_are_a_device_are_not_read() {
    let setup = Setup::new(false);
    let registers = Registers { cr0: 1 << 31, cr3: 2 * M, ..Registers::default() };
    let linear = Linear { space: &setup.space, paging: Paging::of(&registers) };
    assert_eq!(linear.read(0, &mut [0; 4]), Err(Unreadable::NotMapped));
    assert_eq!(setup.device.0.load(Ordering::Relaxed), 0);
}
