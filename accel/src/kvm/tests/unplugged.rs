//! A guest in ring 3 and memory that is plugged in blocks: what it reaches, what it costs, what is told.

use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};

use memory::{DiscardManager, RamBlock, RamSpec, RegionDesc};

use super::guest_image::{Machine, machine};
use crate::{Accel, VcpuEvents};

const BLOCK: u64 = 2 << 20;
const BLOCKS: u64 = 64;
/// Where the memory is mapped.
const AT: u64 = 0x4000_0000;

#[derive(Debug, PartialEq, Eq)]
enum Told {
    Access { addr: u64, write: bool },
    Error(String),
}

struct Events(Mutex<Sender<Told>>);

impl VcpuEvents for Events {
    fn triple_fault(&self, _cpu: u32) {
        self.internal_error(0, "triple fault");
    }
    fn reset(&self, _cpu: u32) {}
    fn shutdown(&self, _cpu: u32) {}
    fn failed_access(&self, _cpu: u32, addr: u64, write: bool) {
        let _ = self.0.lock().unwrap().send(Told::Access { addr, write });
    }
    fn internal_error(&self, _cpu: u32, text: &str) {
        let _ = self.0.lock().unwrap().send(Told::Error(text.into()));
    }
}

struct Rig {
    machine: Machine,
    told: Receiver<Told>,
    block: Arc<RamBlock>,
    manager: Arc<DiscardManager>,
}

impl Rig {
    /// A running guest, with nothing plugged.
    fn new() -> Option<Self> {
        let (sender, told) = mpsc::channel();
        let machine = machine("host", Arc::new(Events(Mutex::new(sender))))?;
        let block = machine.memory.create_ram(RamSpec::anonymous("mem0", BLOCKS * BLOCK)).unwrap();
        let mut manager = DiscardManager::new(BLOCKS * BLOCK, BLOCK);
        manager.protect(&block, BLOCK).unwrap();
        let manager = Arc::new(manager);
        let mut tx = machine.memory.transaction();
        let region = tx.ram(RegionDesc::new("mem0", (BLOCKS * BLOCK).into()), Arc::clone(&block));
        tx.set_discard_manager(region, Some(Arc::clone(&manager))).unwrap();
        tx.add_subregion(machine.root, AT, region, 0);
        tx.commit();
        machine.accel.resume();
        machine.console.read_until("ready: ");
        Some(Self { machine, told, block, manager })
    }

    /// Slots beside that of RAM.
    fn slots(&self) -> u32 {
        let slots = self.machine.accel.memory_slots().unwrap();
        slots.max - slots.free - 1
    }

    fn plug(&self, from: u64, to: u64) {
        self.manager.populate(from * BLOCK..to * BLOCK).unwrap();
    }

    fn unplug(&self, from: u64, to: u64) {
        self.manager.discard(from * BLOCK..to * BLOCK).unwrap();
        self.block.discard(from * BLOCK, (to - from) * BLOCK).unwrap();
    }

    fn poke(&self, addr: u64, value: u64) {
        self.machine.console.type_line(&format!("poke {addr:#x} {value:#x}"));
        self.machine.console.read_until(&format!("poke {addr:#x}: "));
        self.machine.console.read_until("\n");
    }

    fn peek(&self, addr: u64) -> u64 {
        self.machine.console.type_line(&format!("peek {addr:#x}"));
        self.machine.console.read_until(&format!("peek {addr:#x}: 0x"));
        let text = self.machine.console.read_until("\n");
        u64::from_str_radix(text.trim(), 16).unwrap()
    }

    /// Accesses that failed, as often as they did.
    fn accesses(&self) -> Vec<(u64, bool)> {
        let access = |told| match told {
            Told::Access { addr, write } => (addr, write),
            Told::Error(text) => panic!("{text}"),
        };
        self.told.try_iter().map(access).collect()
    }
}

#[test]
fn unplugged_blocks_give_nothing_take_nothing_and_are_reported() {
    let Some(rig) = Rig::new() else { return };
    // Nothing plugged: not even a slot, though one is spoken for.
    assert_eq!(rig.slots(), 1);
    assert_eq!((rig.peek(AT), rig.accesses()), (0, vec![(AT, false)]));
    let changes = || rig.machine.accel.stats().slot_changes;
    let before = changes();
    rig.plug(0, 4);
    rig.plug(4, 8);
    rig.poke(AT + 5 * BLOCK, 77);
    assert_eq!((rig.peek(AT + 5 * BLOCK), changes() - before, rig.slots()), (77, 1, 1));
    assert_eq!(rig.accesses(), []);
    // The first touch of what is unplugged changes the slots, and later ones need not.
    let hole = AT + 20 * BLOCK + 0x12_3000;
    rig.poke(hole, 1);
    assert_eq!((rig.peek(hole), rig.peek(AT + 63 * BLOCK)), (0, 0));
    assert_eq!(rig.accesses(), [(hole, true), (hole, false), (AT + 63 * BLOCK, false)]);
    assert_eq!((changes() - before, rig.slots()), (3, 1));
    // What was plugged is as it was, what is plugged now is there at once.
    assert_eq!(rig.peek(AT + 5 * BLOCK), 77);
    rig.plug(20, 21);
    rig.poke(hole, 88);
    assert_eq!((rig.peek(hole), rig.slots()), (88, 2));
    // A block in the middle goes, and with it what the guest had there.
    rig.unplug(5, 6);
    assert_eq!((rig.peek(AT + 5 * BLOCK), rig.peek(AT + 4 * BLOCK), rig.slots()), (0, 0, 3));
    assert_eq!(rig.accesses(), [(AT + 5 * BLOCK, false)]);
    rig.unplug(0, BLOCKS);
    rig.unplug(0, BLOCKS);
    assert_eq!((rig.peek(AT), rig.slots()), (0, 1));
    rig.plug(0, 1);
    assert_eq!((rig.peek(AT), rig.accesses()), (0, vec![(AT, false)]));
    rig.machine.accel.shutdown();
}

#[test]
fn a_guest_that_touches_everything_costs_the_host_nothing() {
    let Some(rig) = Rig::new() else { return };
    for block in (0..BLOCKS).step_by(4) {
        rig.plug(block, block + 1);
    }
    let mut failed = 0;
    for block in 0..BLOCKS {
        rig.poke(AT + block * BLOCK, block + 1);
        let plugged = block % 4 == 0;
        assert_eq!(rig.peek(AT + block * BLOCK), if plugged { block + 1 } else { 0 });
        failed += if plugged { 0 } else { 2 };
    }
    assert_eq!(rig.accesses().len(), failed);
    assert_eq!(rig.slots(), 16);
    // One page of each plugged block, at most a huge one.
    let resident = resident(&rig.block);
    assert!(resident.iter().all(|kib| [0, 4, 2048].contains(kib)), "{resident:?}");
    rig.machine.accel.shutdown();
}

/// Resident KiB of each mapping that `block` is made of.
fn resident(block: &RamBlock) -> Vec<u64> {
    let first = block.host_address() as u64;
    let (mut inside, mut found) = (false, Vec::new());
    for line in std::fs::read_to_string("/proc/self/smaps").unwrap().lines() {
        let start = line.split_once('-').and_then(|(start, _)| u64::from_str_radix(start, 16).ok());
        if let Some(start) = start {
            inside = (first..first + block.size()).contains(&start);
        }
        if let Some(kib) = line.strip_prefix("Rss:").filter(|_| inside) {
            found.push(kib.trim().trim_end_matches(" kB").parse().unwrap());
        }
    }
    assert!(!found.is_empty());
    found
}
