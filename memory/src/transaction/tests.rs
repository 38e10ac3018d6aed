//! What a batch of changes tells listeners, and what a change does not touch.

use std::sync::{Arc, Mutex};

use vmm_sys_util::eventfd::EventFd;

use crate::*;

const GIB: u64 = 1 << 30;

#[derive(Default)]
struct Trace(Mutex<Vec<String>>);

impl Trace {
    fn put(&self, text: String) {
        self.0.lock().unwrap().push(text);
    }
    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

impl MemoryListener for Trace {
    fn begin(&self) {
        self.put("begin".into());
    }
    fn commit(&self) {
        self.put("commit".into());
    }
    fn region_add(&self, s: &Section) {
        self.put(format!("add {} {:#x}+{:#x} @{:#x}", s.name, s.addr, s.size, s.offset_in_region));
    }
    fn region_del(&self, s: &Section) {
        self.put(format!("del {} {:#x}+{:#x} @{:#x}", s.name, s.addr, s.size, s.offset_in_region));
    }
    fn log_start(&self, s: &Section) {
        self.put(format!("log {}", s.name));
    }
    fn log_stop(&self, s: &Section) {
        self.put(format!("nolog {}", s.name));
    }
    fn eventfd_add(&self, fd: &IoEventFdSection) {
        self.put(format!("+fd {:#x}/{} {:?}", fd.addr, fd.size, fd.datamatch));
    }
    fn eventfd_del(&self, fd: &IoEventFdSection) {
        self.put(format!("-fd {:#x}/{} {:?}", fd.addr, fd.size, fd.datamatch));
    }
}

/// `device-memory` with eight memslots of a sparse block, as virtio-mem maps them.
struct Slots {
    memory: Arc<Memory>,
    space: Arc<AddressSpace>,
    container: RegionId,
    slots: Vec<RegionId>,
    trace: Arc<Trace>,
}

fn slots() -> Slots {
    let memory = Memory::new();
    let block = memory.create_ram(RamSpec { reserve: false, ..RamSpec::anonymous("mem0", 8 * GIB) }).unwrap();
    let mut tx = memory.transaction();
    let system = tx.container(RegionDesc::new("system", SIZE_ALL));
    let container = tx.container(RegionDesc::new("virtio-mem", u128::from(8 * GIB)));
    let mem0 = tx.ram(RegionDesc::new("mem0", u128::from(8 * GIB)), block);
    tx.add_subregion(system, 0x1_4000_0000, container, 0);
    let slots = (0..8)
        .map(|n| {
            let slot = tx.alias(RegionDesc::new(format!("memslot-{n}"), u128::from(GIB)), mem0, n * GIB);
            tx.set_unmergeable(slot, true);
            slot
        })
        .collect();
    let space = tx.address_space("memory", system);
    drop(tx);
    let trace = Arc::new(Trace::default());
    memory.add_listener(&space, trace.clone());
    assert_eq!(trace.take(), ["begin", "commit"]);
    Slots { memory, space, container, slots, trace }
}

impl Slots {
    fn map(&self, which: &[usize]) -> Vec<String> {
        let mut tx = self.memory.transaction();
        for &n in which {
            tx.add_subregion(self.container, n as u64 * GIB, self.slots[n], 0);
        }
        drop(tx);
        self.trace.take()
    }
}

#[test]
fn mapping_one_memslot_is_one_section_and_touches_no_other() {
    let s = slots();
    s.map(&[0, 1, 3]);
    assert_eq!(
        s.map(&[2]),
        ["begin", "add mem0 0x1c0000000+0x40000000 @0x80000000", "commit"],
        "between two neighbours"
    );
    s.memory.transaction().del_subregion(s.container, s.slots[1]);
    assert_eq!(s.trace.take(), ["begin", "del mem0 0x180000000+0x40000000 @0x40000000", "commit"]);
    assert_eq!(s.space.view().ranges().len(), 3);
}

#[test]
fn without_the_mark_neighbours_are_merged() {
    let s = slots();
    let mut tx = s.memory.transaction();
    s.slots.iter().for_each(|&slot| tx.set_unmergeable(slot, false));
    drop(tx);
    assert_eq!(s.map(&[4, 5]), ["begin", "add mem0 0x240000000+0x80000000 @0x100000000", "commit"]);
    assert_eq!(
        s.map(&[6]),
        [
            "begin",
            "del mem0 0x240000000+0x80000000 @0x100000000",
            "add mem0 0x240000000+0xc0000000 @0x100000000",
            "commit"
        ]
    );
}

#[test]
fn changes_of_one_transaction_come_as_one_batch_and_a_change_taken_back_as_none() {
    let s = slots();
    let batch = s.map(&[0, 7]);
    assert_eq!(batch.iter().filter(|l| *l == "begin").count(), 1);
    assert_eq!(batch.iter().filter(|l| l.starts_with("add")).count(), 2);
    let view = s.space.view();
    let mut tx = s.memory.transaction();
    tx.del_subregion(s.container, s.slots[0]);
    tx.add_subregion(s.container, 0, s.slots[0], 0);
    drop(tx);
    assert!(s.trace.take().is_empty());
    assert_eq!(view.ranges().len(), s.space.view().ranges().len());
}

#[test]
fn address_spaces_that_cannot_show_a_change_keep_their_view() {
    let s = slots();
    s.map(&[0]);
    let mut tx = s.memory.transaction();
    let io = tx.io(RegionDesc::new("io", 65536), Arc::new(UnassignedIo));
    let ports = tx.address_space("I/O", io);
    let port = tx.io(RegionDesc::new("port", 1), Arc::new(UnassignedIo));
    drop(tx);
    s.trace.take();
    let (before, io_before) = (s.space.view(), ports.view());
    s.memory.transaction().add_subregion(io, 0x80, port, 0);
    assert!(Arc::ptr_eq(&before, &s.space.view()) && !Arc::ptr_eq(&io_before, &ports.view()));
    assert!(s.trace.take().is_empty(), "and their listeners hear nothing");
}

#[test]
fn address_spaces_with_the_same_root_share_one_view_also_through_aliases() {
    let s = slots();
    let mut tx = s.memory.transaction();
    let cpu = tx.address_space("cpu-memory-0", s.space.root());
    let container = tx.container(RegionDesc::new("bus master container", SIZE_ALL));
    let master = tx.alias(RegionDesc::new("bus master", SIZE_ALL), s.space.root(), 0);
    tx.add_subregion(container, 0, master, 0);
    tx.set_enabled(master, false);
    let device = tx.address_space("virtio-mem-pci", container);
    drop(tx);
    assert!(Arc::ptr_eq(&cpu.view(), &s.space.view()));
    assert!(device.view().root().is_none());
    s.memory.transaction().set_enabled(master, true);
    assert!(Arc::ptr_eq(&device.view(), &s.space.view()));
    s.map(&[0]);
    assert_eq!(device.view().ranges().len(), 1);
    assert!(Arc::ptr_eq(&device.view(), &cpu.view()));
}

#[test]
fn an_alias_of_no_size_is_followed_once_its_target_has_none_either() {
    let s = slots();
    let mut tx = s.memory.transaction();
    let target = tx.container(RegionDesc::new("target", 0x1000));
    let alias = tx.alias(RegionDesc::new("alias", 0), target, 0);
    let inside = tx.io(RegionDesc::new("inside", 0x10), Arc::new(UnassignedIo));
    tx.add_subregion(target, 0x10, inside, 0);
    let space = tx.address_space("space", alias);
    drop(tx);
    assert_eq!(space.view().root(), Some(alias), "it shows less than all of the target");
    s.memory.transaction().set_size(target, 0);
    assert_eq!(space.view().root(), Some(target));
    s.memory.transaction().set_size(target, 0x1000);
    assert_eq!(space.view().root(), Some(alias));
}

#[test]
fn logging_starts_and_stops_without_mapping_anew() {
    let s = slots();
    s.map(&[0]);
    let mem0 = s.space.view().ranges()[0].region();
    s.memory.transaction().set_log(mem0, true);
    s.memory.transaction().set_log(mem0, false);
    assert_eq!(s.trace.take(), ["begin", "log mem0", "commit", "begin", "nolog mem0", "commit"]);
}

#[test]
fn event_descriptors_follow_their_region() {
    let s = slots();
    let fd = Arc::new(EventFd::new(0).unwrap());
    let mut tx = s.memory.transaction();
    let notify = tx.io(RegionDesc::new("notify", 0x1000), Arc::new(UnassignedIo));
    tx.add_ioeventfd(notify, 4, 2, Some(1), fd.clone());
    tx.add_subregion(s.space.root(), 0xfe00_0000, notify, 0);
    drop(tx);
    assert_eq!(
        s.trace.take(),
        ["begin", "add notify 0xfe000000+0x1000 @0x0", "+fd 0xfe000004/2 Some(1)", "commit"]
    );
    assert!(s.space.write_uint(0xfe00_0004, 2, 1).is_ok());
    assert!(s.space.write_uint(0xfe00_0004, 2, 2).is_ok());
    assert_eq!(fd.read().unwrap(), 1, "signalled once, for the value that matches");
    s.memory.transaction().set_address(notify, 0xfe10_0000);
    assert!(s.trace.take().contains(&"-fd 0xfe000004/2 Some(1)".to_owned()));
    s.memory.transaction().del_ioeventfd(notify, 4, 2, Some(1), &fd);
    assert_eq!(s.trace.take(), ["begin", "-fd 0xfe100004/2 Some(1)", "commit"]);
}

#[test]
fn what_is_still_named_is_not_destroyed_and_a_stale_id_names_nothing() {
    let s = slots();
    s.map(&[0]);
    let mut tx = s.memory.transaction();
    let mem0 = match tx.kind(s.slots[0]) {
        RegionKind::Alias(target) => target,
        other => panic!("{other:?}"),
    };
    assert_eq!(tx.destroy(mem0).unwrap_err().to_string(), "memory region 'mem0' is in use");
    assert!(tx.destroy(s.space.root()).is_err(), "an address space shows it");
    s.slots.iter().for_each(|&slot| tx.destroy(slot).unwrap());
    tx.destroy(mem0).unwrap();
    let new = tx.container(RegionDesc::new("new", 1));
    assert_ne!(new, mem0, "the slot is used again under another generation");
    drop(tx);
    assert!(s.space.view().ranges().is_empty());
    assert!(s.memory.ram_blocks().is_empty(), "the block went with its region");
}

#[test]
fn a_removed_address_space_takes_its_sections_away() {
    let s = slots();
    s.map(&[0]);
    s.memory.transaction().remove_address_space(&s.space);
    assert_eq!(s.trace.take(), ["begin", "del mem0 0x140000000+0x40000000 @0x0", "commit"]);
    assert_eq!(s.space.read_uint(0x1_4000_0000, 4), (0, MemTx::DecodeError));
}

#[test]
fn changes_that_do_not_show_are_not_told() {
    let s = slots();
    s.map(&[0, 2]);
    let after = s.space.view();
    let mut tx = s.memory.transaction();
    let hidden = tx.container(RegionDesc::new("hidden", 16));
    tx.add_subregion(s.container, 9 * GIB, hidden, 0);
    tx.set_size(hidden, 32);
    tx.set_address(hidden, 10 * GIB);
    drop(tx);
    assert!(s.trace.take().is_empty());
    assert_eq!(after.ranges(), s.space.view().ranges());
}

#[test]
fn readers_see_the_view_before_or_after_a_transaction_and_nothing_between() {
    let memory = Memory::new();
    let mut tx = memory.transaction();
    let system = tx.container(RegionDesc::new("system", SIZE_ALL));
    let regions = [1u8, 2].map(|value| {
        let block = memory.create_ram(RamSpec::anonymous("ram", 4096)).unwrap();
        block.write(0, &[value; 4096]).unwrap();
        tx.ram(RegionDesc::new("ram", 4096), block)
    });
    tx.add_subregion(system, 0, regions[0], 0);
    let space = tx.address_space("memory", system);
    drop(tx);
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut seen = [0u32; 3];
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                let (value, result) = space.read_uint(8, 1);
                assert!(result.is_ok());
                seen[value as usize] += 1;
            }
            seen
        });
        for turn in 0..2000 {
            let mut tx = memory.transaction();
            tx.del_subregion(system, regions[turn % 2]);
            tx.add_subregion(system, 0, regions[(turn + 1) % 2], 0);
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        assert_eq!(reader.join().unwrap()[0], 0, "never the hole between");
    });
}
