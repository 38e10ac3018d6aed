//! Numbers of slots against the oracle's table, and which are mapped when.

use memory::{MemTx, RamSpec};

use super::*;

const M: u64 = 1 << 20;
const G: u64 = 1 << 30;
const T: u64 = 1 << 40;

fn budget(limit: u64, required: u64, used: u64) -> Budget {
    Budget { max: None, free: None, required, limit, used }
}

#[test]
fn slots_are_what_qemu_makes_of_the_same_devices() {
    // (device, area, slots taken, bytes taken, limit, slots, MiB)
    let table = [
        (G, G, 0, 0, 256, 1, 1024),
        (256 * G, 256 * G, 0, 0, 256, 256, 1024),
        (257 * G, 257 * G, 0, 0, 256, 256, 1028),
        (300 * G, 300 * G, 0, 0, 256, 256, 1200),
        (500 * G, 500 * G, 0, 0, 256, 256, 2000),
        (T, T, 0, 0, 256, 256, 4096),
        (8 * G, 16 * G, 0, 0, 128, 8, 1024),
        (200 * G, 400 * G, 0, 0, 128, 128, 1600),
        (500 * G, 1000 * G, 0, 0, 128, 128, 4000),
        (500 * G, 1037 * G, 0, 0, 123, 123, 4164),
        (4 * G, T, 0, 0, 1, 1, 4096),
        (100 * G, T, 0, 0, 25, 25, 4096),
        (10 * G, 1010 * G, 0, 0, 2, 2, 5120),
        (1000 * G, 1010 * G, 2, 10 * G, 254, 254, 4032),
        (500 * G, 508 * G, 1, 8 * G, 255, 255, 2008),
        (500 * G, 508 * G, 0, 0, 251, 251, 2040),
    ];
    for (size, area, required, used, limit, count, mib) in table {
        let share = budget(area, required, used).share(size);
        assert_eq!((share, slots(size, share, 2 * M)), (limit, (mib * M, count)), "{size:#x} of {area:#x}");
    }
}

#[test]
fn an_accelerator_with_few_slots_gets_one() {
    let few = Budget { max: Some(508), ..budget(500 * G, 0, 0) };
    assert_eq!(few.share(500 * G), 1);
    let taken = budget(500 * G, 256, 0);
    assert_eq!(taken.share(100 * G), 1);
    let nearly = Budget { max: Some(509), free: Some(10), ..budget(500 * G, 0, 0) };
    assert_eq!(nearly.share(500 * G), 10);
}

#[test]
fn a_slot_is_there_exactly_while_a_block_in_it_is() {
    let memory = Memory::new();
    let block = memory.create_ram(RamSpec::anonymous("mem0", 4 * M)).unwrap();
    let blocks = DiscardManager::new(4 * M, M / 4);
    let mut tx = memory.transaction();
    let region = tx.ram(RegionDesc::new("mem0", 4 << 20), block);
    drop(tx);
    let mut slots = Memslots::new(&memory, "virtio-mem", &Owner::None, region, 4 * M, (M + M / 4, 4));
    let mut tx = memory.transaction();
    let space = tx.address_space("test", slots.container());
    drop(tx);
    let there = |at: u64| space.read_uint(at, 4).1 == MemTx::Ok;

    let first = 0..M / 4;
    blocks.populate(first.clone()).unwrap();
    slots.map(&first);
    assert!(there(0) && there(M) && !there(M + M / 4));
    let crossing = M..M + M / 2;
    blocks.populate(crossing.clone()).unwrap();
    slots.map(&crossing);
    assert_eq!(slots.mapped(), 2);
    slots.unmap(&first, &blocks);
    blocks.discard(first).unwrap();
    assert!(there(0), "another block of the slot is plugged");
    slots.unmap(&crossing, &blocks);
    blocks.discard(crossing).unwrap();
    assert!(!there(0) && slots.mapped() == 0);
    let last = 4 * M - M / 4..4 * M;
    blocks.populate(last.clone()).unwrap();
    slots.map(&last);
    assert!(there(4 * M - 4) && !there(3 * M));
    slots.unmap(&(0..4 * M), &blocks);
    assert_eq!(slots.mapped(), 0);
    memory.transaction().remove_address_space(&space);
    slots.destroy();
}
