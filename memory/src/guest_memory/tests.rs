//! A virtqueue of `virtio-queue` runs on a view.

use virtio_queue::desc::split::Descriptor as SplitDescriptor;
use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemory, Permissions};

use crate::{DirtyClient, Memory, RamSpec, RegionDesc, SIZE_ALL};

const DESC: u64 = 0x1000;
const AVAIL: u64 = 0x2000;
const USED: u64 = 0x3000;

#[test]
fn a_virtqueue_is_served_and_its_used_ring_is_marked_dirty() {
    let memory = Memory::new();
    let block = memory.create_ram(RamSpec::anonymous("ram", 0x10000)).unwrap();
    let mut tx = memory.transaction();
    let system = tx.container(RegionDesc::new("system", SIZE_ALL));
    let ram = tx.ram(RegionDesc::new("ram", 0x10000), block.clone());
    // Two aliases side by side: ranges of the view that only together hold the buffer.
    for (name, offset) in [("low", 0), ("high", 0x8000)] {
        let alias = tx.alias(RegionDesc::new(name, 0x8000), ram, offset);
        tx.set_unmergeable(alias, true);
        tx.add_subregion(system, offset, alias, 0);
    }
    let space = tx.address_space("memory", system);
    drop(tx);
    let view = space.view();
    assert_eq!(view.ranges().len(), 2);
    let mem = view.guest_memory();

    let descriptor = SplitDescriptor::new(0x7ff8, 16, 0, 0);
    mem.write_obj(descriptor, GuestAddress(DESC)).unwrap();
    mem.write_obj(0u16, GuestAddress(AVAIL + 4)).unwrap();
    mem.write_obj(1u16, GuestAddress(AVAIL + 2)).unwrap();
    mem.write_slice(b"spanning both!!!", GuestAddress(0x7ff8)).unwrap();

    let mut queue = Queue::new(16).unwrap();
    queue.set_size(16);
    queue.set_desc_table_address(Some(DESC as u32), Some(0));
    queue.set_avail_ring_address(Some(AVAIL as u32), Some(0));
    queue.set_used_ring_address(Some(USED as u32), Some(0));
    queue.set_ready(true);
    assert!(queue.is_valid(mem));

    block.start_dirty_log(DirtyClient::Migration);
    let chain = queue.pop_descriptor_chain(mem).expect("one chain is available");
    let head = chain.head_index();
    let mut text = [0; 16];
    let buffer = chain.clone().next().unwrap();
    mem.read_slice(&mut text, buffer.addr()).unwrap();
    assert_eq!(&text, b"spanning both!!!");
    queue.add_used(mem, head, 16).unwrap();
    assert_eq!(mem.read_obj::<u16>(GuestAddress(USED + 2)).unwrap(), 1);

    let log = block.dirty_log(DirtyClient::Migration).unwrap();
    assert!(log.is_dirty(USED) && !log.is_dirty(AVAIL) && log.count() == 1);
}

#[test]
fn rom_can_be_read_and_not_written_and_holes_are_errors() {
    let memory = Memory::new();
    let block = memory.create_ram(RamSpec::anonymous("rom", 0x2000)).unwrap();
    block.write(0, &[7; 0x2000]).unwrap();
    let mut tx = memory.transaction();
    let system = tx.container(RegionDesc::new("system", SIZE_ALL));
    let rom = tx.rom(RegionDesc::new("rom", 0x2000), block);
    tx.add_subregion(system, 0x4000, rom, 0);
    let space = tx.address_space("memory", system);
    drop(tx);
    let view = space.view();
    let mem = view.guest_memory();
    assert_eq!(mem.read_obj::<u32>(GuestAddress(0x4ffe)).unwrap(), 0x07070707);
    assert!(mem.write_obj(1u32, GuestAddress(0x4000)).is_err());
    assert!(mem.read_obj::<u32>(GuestAddress(0x5ffe)).is_err());
    assert!(mem.check_range(GuestAddress(0x4000), 0x2000, Permissions::Read));
    assert!(!mem.check_range(GuestAddress(0x4000), 0x2001, Permissions::Read));
    assert!(!mem.check_range(GuestAddress(0x4000), 1, Permissions::Write));
    assert!(mem.check_range(GuestAddress(0), 0, Permissions::Write));
    assert!(!mem.check_range(GuestAddress(u64::MAX), usize::MAX, Permissions::Read));
}
