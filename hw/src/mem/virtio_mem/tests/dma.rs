//! A device outside of the program that reaches guest memory by DMA: what it can reach is what the guest has plugged, and its budget
//! is the guest's.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use memory::{BlockRange, DmaLimits, DmaMapper, DmaSink};

use super::rig::{G, M, Raw, Rig};

const BUSY: u16 = 2;

/// Remembers what of `mem0` is mapped: block offset by guest address.
#[derive(Default)]
struct Server(Mutex<BTreeMap<u64, u64>>);

impl DmaSink for Server {
    fn map(&self, iova: u64, memory: &BlockRange, writable: bool) -> Result<(), String> {
        if memory.block().label() == "mem0" {
            assert!(writable && memory.len() == 2 * M, "a block of the device");
            assert_eq!(self.0.lock().unwrap().insert(iova, memory.offset()), None);
        }
        Ok(())
    }
    fn unmap(&self, iova: u64, len: u64) {
        let known = self.0.lock().unwrap().remove(&iova).is_some();
        assert!(!known || len == 2 * M);
    }
    fn incomplete(&self, why: &str) {
        panic!("{why}");
    }
}

impl Server {
    /// Blocks that the device reaches.
    fn blocks(&self) -> Vec<u64> {
        let map = self.0.lock().unwrap();
        let block = |(iova, offset): (&u64, &u64)| {
            assert_eq!(iova - 4 * G, *offset, "the memory at that address");
            offset / (2 * M)
        };
        map.iter().map(block).collect()
    }
}

fn guest(dynamic: &str) -> Raw {
    let rig = Rig::new("pc");
    rig.backend("memory-backend-ram", "mem0", "2G", &[]).unwrap();
    let options =
        [("id", "vm0"), ("memdev", "mem0"), ("requested-size", "2G"), ("dynamic-memslots", dynamic)];
    rig.device(&options).unwrap();
    rig.machine.finish().unwrap();
    Raw::new(rig, 1 << 32 | 3)
}

fn block(number: u64) -> u64 {
    4 * G + number * 2 * M
}

#[test]
fn a_device_reaches_what_the_guest_has_plugged_and_its_budget_makes_the_guest_wait() {
    for dynamic in ["off", "on"] {
        let mut d = guest(dynamic);
        let (memory, space) = (Arc::clone(d.rig.machine.memory()), Arc::clone(d.rig.machine.system_space()));
        let attach = |server: &Arc<Server>, max_mappings| {
            let limits = DmaLimits { max_mappings, ..DmaLimits::default() };
            DmaMapper::attach(&memory, &space, Arc::clone(server) as _, limits).unwrap()
        };
        assert_eq!(d.plug(block(5), 3), 0);
        let server = Arc::<Server>::default();
        let late = attach(&server, None);
        assert_eq!(server.blocks(), [5, 6, 7]);
        let used = late.mappings();
        drop(late);
        assert!(server.blocks().is_empty());

        let _mapper = attach(&server, Some(used + 2));
        assert_eq!(d.plug(block(100), 3), BUSY, "three more than there are");
        assert_eq!((server.blocks(), d.sizes().1), (vec![5, 6, 7], 6 * M));
        assert_eq!(d.plug(block(100), 2), 0);
        assert_eq!(d.plug(block(8), 1), BUSY);
        assert_eq!(d.unplug(block(6), 1), 0);
        assert_eq!(d.plug(block(8), 1), 0);
        assert_eq!(server.blocks(), [5, 7, 8, 100, 101]);
        d.rig.system_reset();
        assert!(server.blocks().is_empty());
    }
}

#[test]
fn the_first_block_of_a_new_memory_slot_is_refused_like_any_other() {
    let mut d = guest("on");
    let (memory, space) = (Arc::clone(d.rig.machine.memory()), Arc::clone(d.rig.machine.system_space()));
    let server = Arc::<Server>::default();
    let attach = |max_mappings| {
        let limits = DmaLimits { max_mappings, ..DmaLimits::default() };
        DmaMapper::attach(&memory, &space, Arc::clone(&server) as _, limits).unwrap()
    };
    let ram = attach(None).mappings();
    let mapper = attach(Some(ram + 2));
    assert_eq!(d.plug(block(0), 3), BUSY);
    assert_eq!(d.plug(block(0), 2), 0);
    assert_eq!(d.plug(block(512), 1), BUSY, "the other slot");
    assert_eq!((server.blocks(), mapper.fault()), (vec![0, 1], None));
    assert_eq!(d.unplug(block(1), 1), 0);
    assert_eq!(d.plug(block(512), 1), 0);
    assert_eq!(server.blocks(), [0, 512]);
}

#[test]
fn memory_slots_that_come_and_go_take_their_blocks_along() {
    let mut d = guest("on");
    let (memory, space) = (Arc::clone(d.rig.machine.memory()), Arc::clone(d.rig.machine.system_space()));
    let server = Arc::<Server>::default();
    let limits = DmaLimits::default();
    let _mapper = DmaMapper::attach(&memory, &space, Arc::clone(&server) as _, limits).unwrap();
    // Slots are 1 GiB each, 512 blocks; the request maps both.
    assert_eq!(d.plug(block(510), 4), 0);
    assert_eq!(server.blocks(), [510, 511, 512, 513]);
    assert_eq!(d.unplug(block(512), 2), 0);
    assert_eq!(server.blocks(), [510, 511]);
    assert_eq!(d.plug(block(600), 1), 0);
    assert_eq!(d.unplug_all(), 0);
    assert!(server.blocks().is_empty());
}
