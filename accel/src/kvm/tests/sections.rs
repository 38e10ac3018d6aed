//! Sections of a VM without vCPUs, with as few slots as a test wants: what follows the plugged blocks and what is put off, step by step.
#![expect(clippy::single_range_in_vec_init, reason = "lists of runs, some of one run")]

use std::ops::Range;
use std::sync::{Arc, Mutex, mpsc};
use std::thread;

use memory::{
    DirtyClient, DiscardListener, DiscardManager, Memory, RamBlock, RamSpec, RegionDesc, RegionId, SIZE_ALL,
};

use super::super::KvmAccel;
use super::super::follow::Resolution;
use super::super::listener::{DirtyLog, Ioctls, SystemListener};
use super::super::put_off::Later;
use super::super::slots::{Slot, SlotIoctls};
use super::rig::kvm;

const BLOCK: u64 = 2 << 20;
/// Of each half of the block, which is a section of its own.
const HALF: u64 = 16 * BLOCK;
/// Where the halves are mapped, apart.
const AT: [u64; 2] = [0x4000_0000, 0x5000_0000];
/// Blocks of a half.
const ALL: Range<u64> = 0..16;

struct Bench {
    accel: Arc<KvmAccel>,
    listener: Arc<SystemListener>,
    memory: Arc<Memory>,
    root: RegionId,
    halves: [RegionId; 2],
    manager: Arc<DiscardManager>,
    block: Arc<RamBlock>,
    /// What the thread would make, with its hands tied.
    _queue: Mutex<mpsc::Receiver<u64>>,
}

impl Bench {
    /// `max` slots, nothing plugged, and the kernel has no slots yet. What is not plugged is protected if `protects`.
    fn new(max: u32, protects: bool) -> Option<Self> {
        let accel = kvm()?;
        let (vm, gate) = (Arc::clone(&accel.shared.vm), Arc::clone(&accel.shared.gate));
        let manual = accel.shared.slots.slots().table.is_manual();
        let log = if manual { DirtyLog::Manual } else { DirtyLog::Clearing };
        let listener = SystemListener::new(vm, gate, max, log);
        let memory = Memory::new();
        let block = memory.create_ram(RamSpec::anonymous("mem0", 2 * HALF)).unwrap();
        let mut manager = DiscardManager::new(2 * HALF, BLOCK).followed_by_mappings();
        if protects {
            manager.protect(&block, BLOCK).unwrap();
        }
        let manager = Arc::new(manager);
        let mut tx = memory.transaction();
        let root = tx.container(RegionDesc::new("system", SIZE_ALL));
        let region = tx.ram(RegionDesc::new("mem0", (2 * HALF).into()), Arc::clone(&block));
        tx.set_discard_manager(region, Some(Arc::clone(&manager))).unwrap();
        let halves = [0, 1].map(|half| {
            let alias = tx.alias(RegionDesc::new(format!("half{half}"), HALF.into()), region, half * HALF);
            tx.add_subregion(root, AT[half as usize], alias, 0);
            alias
        });
        let space = tx.address_space("memory", root);
        tx.commit();
        memory.add_listener(&space, Arc::<SystemListener>::clone(&listener));
        let queue = Mutex::new(listener.without_worker());
        Some(Self { accel, listener, memory, root, halves, manager, block, _queue: queue })
    }

    /// The same, and from now on slots can be put off.
    fn started(max: u32, protects: bool) -> Option<Self> {
        let bench = Self::new(max, protects)?;
        bench.listener.start();
        Some(bench)
    }

    /// Bytes of blocks, counted from the start of a half.
    fn bytes(half: u64, blocks: Range<u64>) -> Range<u64> {
        half * HALF + blocks.start * BLOCK..half * HALF + blocks.end * BLOCK
    }

    fn plug(&self, half: u64, blocks: Range<u64>) {
        self.manager.populate(Self::bytes(half, blocks)).unwrap();
    }

    fn unplug(&self, half: u64, blocks: Range<u64>) {
        self.manager.discard(Self::bytes(half, blocks)).unwrap();
    }

    fn hide(&self, half: usize) {
        self.memory.transaction().del_subregion(self.root, self.halves[half]);
    }

    fn show(&self, half: usize) {
        self.memory.transaction().add_subregion(self.root, AT[half], self.halves[half], 0);
    }

    /// Blocks of a half that have slots, slot by slot.
    fn slots(&self, half: usize) -> Vec<Range<u64>> {
        let slots = self.listener.slots();
        let inside = slots.table.slots().filter(|slot| (AT[half]..AT[half] + HALF).contains(&slot.gpa));
        let blocks = inside.map(|slot| {
            let start = slot.gpa - AT[half];
            start / BLOCK..(start + slot.size) / BLOCK
        });
        blocks.collect()
    }

    /// Somebody else wants to hear of blocks of the first half.
    fn listen(&self, blocks: Range<u64>) {
        self.manager.register(Self::bytes(0, blocks), Arc::new(Other)).unwrap();
    }

    fn free(&self) -> u32 {
        self.listener.memory_slots().free
    }

    fn is_put_off(&self) -> bool {
        !self.listener.put_offs().is_multiple_of(2)
    }

    fn later(&self, half: usize) -> Later {
        self.listener.slots().follow(AT[half]).unwrap().later
    }

    /// Claims that somebody is making the slot of the first half, which was put off.
    fn pretend_making(&self) {
        self.listener.slots().follow(AT[0]).unwrap().later = Later::Making;
    }

    /// What somebody does who has made the slot of the first half, at one go.
    fn finish(&self) {
        let mut slots = self.listener.slots();
        slots.book(AT[0]).iter().for_each(|slot| Ioctls(&self.listener.vm).set(slot).unwrap());
        self.listener.call_off(&mut slots, AT[0]);
        drop(slots);
        self.listener.made.notify_all();
    }

    /// Whether vCPUs are kept out of the guest at some time in `change`.
    fn closes_the_gate(&self, change: impl FnOnce(&Self)) -> bool {
        super::super::kick::install().unwrap();
        let gate = &self.accel.shared.gate;
        let (inside, is_inside) = mpsc::channel();
        let (over, is_over) = mpsc::channel();
        thread::scope(|scope| {
            let vcpu = scope.spawn(move || {
                let passage = gate.passage();
                gate.enter(&passage);
                inside.send(()).unwrap();
                while !gate.is_closed() && is_over.try_recv().is_err() {
                    thread::yield_now();
                }
                let closed = gate.is_closed();
                gate.leave(&passage);
                gate.forget(&passage);
                closed
            });
            is_inside.recv().unwrap();
            change(self);
            // Nobody listens if the gate was closed.
            let _ = over.send(());
            vcpu.join().unwrap()
        })
    }
}

#[test]
fn plugged_runs_share_one_slot_again_when_slots_run_out() {
    let Some(bench) = Bench::new(10, true) else { return };
    // Half of the ten are left for sections to come, and one for the other half.
    for block in [0, 2] {
        bench.plug(0, block..block + 1);
    }
    bench.listener.start();
    assert_eq!((bench.slots(0), bench.free()), (vec![ALL], 8));
    assert_eq!(bench.listener.resolve_fault(), Resolution::Changed, "in one section, if not in the other");
    assert_eq!((bench.slots(0), bench.free()), (vec![0..1, 2..3], 7));
    for block in [4, 6] {
        bench.plug(0, block..block + 1);
    }
    assert_eq!((bench.slots(0), bench.free()), (vec![0..1, 2..3, 4..5, 6..7], 5));
    assert!(bench.closes_the_gate(|bench| bench.plug(0, 8..9)));
    assert_eq!((bench.slots(0), bench.free()), (vec![ALL], 8));
    assert_eq!(bench.listener.resolve_fault(), Resolution::TooMany);
    assert_eq!((bench.slots(0), bench.free()), (vec![ALL], 8));
    bench.unplug(0, 8..9);
    assert!(bench.closes_the_gate(|bench| assert_eq!(bench.listener.resolve_fault(), Resolution::Changed)));
    assert_eq!((bench.slots(0), bench.free()), (vec![0..1, 2..3, 4..5, 6..7], 5));
    bench.plug(0, 10..12);
    assert_eq!(bench.slots(0), [ALL]);
    bench.plug(0, 14..15);
    assert_eq!(bench.slots(0), [ALL]);
}

#[test]
fn slots_of_plugged_runs_are_changed_only_where_they_have_to_be() {
    let Some(bench) = Bench::new(32000, true) else { return };
    bench.plug(1, 0..2);
    bench.listener.start();
    assert_eq!(bench.listener.resolve_fault(), Resolution::Changed);
    assert!(bench.slots(1).iter().eq([&(0..2)]));
    assert!(!bench.closes_the_gate(|bench| bench.plug(1, 2..3)), "what is added disturbs nobody");
    assert_eq!(bench.slots(1), [0..2, 2..3]);
    let changes = bench.listener.slot_changes();
    assert_eq!(bench.listener.resolve_fault(), Resolution::Nothing, "two slots of one run do");
    bench.unplug(1, 0..1);
    bench.plug(1, 0..1);
    assert_eq!((bench.slots(1), bench.listener.slot_changes()), (vec![0..2, 2..3], changes));
    bench.unplug(1, 0..1);
    assert_eq!(bench.listener.resolve_fault(), Resolution::Changed);
    assert_eq!((bench.slots(1), bench.listener.slot_changes()), (vec![1..2, 2..3], changes + 2));
    assert_eq!(bench.slots(0), []);
}

#[test]
fn what_is_put_off_is_no_slot_that_somebody_touched() {
    let Some(bench) = Bench::started(32000, true) else { return };
    bench.plug(0, 3..4);
    assert_eq!((bench.listener.resolve_fault(), bench.slots(0)), (Resolution::Nothing, vec![]));
    assert!(bench.is_put_off());
    bench.listener.settle_section(AT[0]);
    assert_eq!((bench.slots(0), bench.is_put_off()), (vec![ALL], false));
    let changes = bench.listener.slot_changes();
    bench.listener.settle_section(AT[0]);
    bench.listener.settle_section(AT[1]);
    assert_eq!((bench.slots(0), bench.slots(1)), (vec![ALL], vec![]));
    assert_eq!((bench.listener.slot_changes(), bench.later(0)), (changes, Later::No));
}

/// Agrees to everything.
struct Other;

impl DiscardListener for Other {
    fn populate(&self, _range: Range<u64>) -> Result<(), String> {
        Ok(())
    }
    fn discard(&self, _range: Range<u64>) {}
}

#[test]
fn a_block_that_cannot_wait_brings_the_slot_that_was_put_off() {
    let Some(bench) = Bench::started(32000, true) else { return };
    bench.plug(0, 0..1);
    bench.listen(1..2);
    assert!(bench.is_put_off(), "the other one does not hear of the block");
    let changes = bench.listener.slot_changes();
    bench.plug(0, 1..2);
    assert_eq!((bench.slots(0), bench.is_put_off()), (vec![ALL], false));
    bench.listener.settle_section(AT[0]);
    assert_eq!(bench.listener.slot_changes(), changes + 1);
    assert_eq!(bench.free(), 32000 - 2, "one, and one for the other half");
}

#[test]
fn without_protection_a_section_without_plugged_blocks_has_no_slot() {
    let Some(bench) = Bench::started(32000, false) else { return };
    bench.plug(0, 0..2);
    assert!(bench.is_put_off());
    bench.unplug(0, 0..2);
    assert_eq!((bench.slots(0), bench.is_put_off()), (vec![], false));
    bench.plug(0, 0..2);
    bench.listener.settle_section(AT[0]);
    // Whoever left is told no more: the blocks count once.
    bench.hide(0);
    assert_eq!(bench.slots(0), []);
    bench.show(0);
    assert_eq!((bench.slots(0), bench.is_put_off()), (vec![ALL], false));
    bench.plug(0, 5..6);
    bench.unplug(0, 0..2);
    assert_eq!(bench.slots(0), [ALL]);
    bench.unplug(0, 5..6);
    assert_eq!(bench.slots(0), []);
    bench.plug(0, 7..8);
    bench.listener.settle_section(AT[0]);
    assert_eq!(bench.slots(0), [ALL], "and again");
}

#[test]
fn a_slot_that_the_kernel_refuses_is_free_again() {
    let Some(bench) = Bench::started(32000, true) else { return };
    let free = bench.free();
    // What the books know nothing of is in the way.
    let hva = bench.block.host_address() as u64;
    let obstacle = Slot { number: 32000, gpa: AT[0] + BLOCK, size: 4096, hva, readonly: false, log: false };
    Ioctls(&bench.listener.vm).set(&obstacle).unwrap();
    bench.plug(0, 0..1);
    bench.listener.settle_section(AT[0]);
    assert_eq!((bench.slots(0), bench.is_put_off()), (vec![], false));
    assert_eq!(bench.free(), free + 1, "nor does it wait for one any more");
}

#[test]
fn the_last_one_that_was_put_off_closes_the_gate() {
    let Some(bench) = Bench::started(32000, true) else { return };
    bench.plug(0, 0..1);
    bench.plug(1, 0..1);
    assert!(!bench.closes_the_gate(|bench| bench.listener.settle_section(AT[0])));
    assert!(bench.closes_the_gate(|bench| bench.listener.settle_section(AT[1])));
}

#[test]
fn an_instruction_that_failed_while_something_was_put_off_is_tried_again_with_all_slots() {
    let Some(bench) = Bench::started(32000, true) else { return };
    let before = bench.listener.put_offs();
    assert!(!bench.listener.retry_emulation(before), "nothing was missing");
    bench.plug(0, 0..1);
    assert!(bench.listener.retry_emulation(before));
    assert_eq!((bench.slots(0), bench.is_put_off()), (vec![ALL], false));
    assert!(bench.listener.retry_emulation(before), "began and ceased");
    assert!(!bench.listener.retry_emulation(bench.listener.put_offs()));
    bench.plug(1, 0..1);
    assert!(bench.listener.retry_emulation(bench.listener.put_offs()), "put off all the while");
    assert_eq!((bench.slots(1), bench.is_put_off()), (vec![ALL], false));
}

#[test]
fn the_kernel_makes_a_slot_that_was_put_off_while_others_can_look() {
    let Some(bench) = Bench::started(32000, true) else { return };
    bench.plug(0, 0..1);
    let seen: Arc<Mutex<Vec<Later>>> = Arc::default();
    let (listener, notes) = (Arc::clone(&bench.listener), Arc::clone(&seen));
    // What is said of the first half while the kernel gets its slot.
    let look = move |_: &str| notes.lock().unwrap().push(listener.slots().follow(AT[0]).unwrap().later);
    let events = crate::trace_events::EVENTS;
    trace::watch("kvm_set_user_memory", events, look, || bench.listener.settle_section(AT[0]));
    assert_eq!((&**seen.lock().unwrap(), bench.later(0)), (&[Later::Making][..], Later::No));
}

#[test]
fn a_log_of_a_section_is_one_of_what_is_plugged() {
    let Some(bench) = Bench::started(32000, true) else { return };
    let manual = bench.listener.slots().table.is_manual();
    bench.plug(0, 3..5);
    bench.listener.settle_section(AT[0]);
    bench.memory.start_global_dirty_log(DirtyClient::Migration).unwrap();
    let log = bench.block.dirty_log(DirtyClient::Migration).unwrap();
    let blocks = || {
        bench.memory.sync_dirty_log();
        let mut runs = Vec::new();
        log.runs(0, 2 * HALF, |at, len| runs.push(at / BLOCK..(at + len) / BLOCK));
        runs
    };
    let if_manual = |blocks: &[Range<u64>]| if manual { blocks.to_vec() } else { vec![] };
    assert_eq!(blocks(), if_manual(&[3..5]), "the slot has all of the section");
    bench.plug(0, 8..9);
    assert_eq!(blocks(), if_manual(&[3..5, 8..9]));
    // Slots of runs take the place of the one.
    log.clean(0, 2 * HALF);
    assert_eq!(bench.listener.resolve_fault(), Resolution::Changed);
    assert_eq!(bench.slots(0), [3..5, 8..9]);
    assert_eq!(log.count(), if manual { 3 * BLOCK / 4096 } else { 0 }, "was looked at before it went");
    bench.memory.take_dirty(DirtyClient::Migration, &bench.block, 0, 2 * HALF);
    assert_eq!(blocks(), if_manual(&[3..5, 8..9]), "new slots");
    bench.unplug(0, 3..5);
    log.clean(0, 2 * HALF);
    assert!(bench.closes_the_gate(|bench| bench.hide(0)), "nobody writes between the last look and the end");
    assert_eq!(blocks(), if_manual(&[8..9]));
    let taken = bench.memory.take_dirty(DirtyClient::Migration, &bench.block, 0, 2 * HALF);
    assert_eq!(taken.len(), usize::from(manual));
}

#[test]
fn an_unplug_leaves_a_slot_alone_that_is_being_made() {
    let Some(bench) = Bench::started(32000, true) else { return };
    bench.plug(0, 0..1);
    bench.pretend_making();
    bench.unplug(0, 0..1);
    assert_eq!((bench.later(0), bench.is_put_off()), (Later::Making, true));
    bench.plug(0, 1..2);
    assert_eq!((bench.later(0), bench.slots(0)), (Later::Making, vec![]), "nor is it begun again");
    bench.finish();
    assert_eq!((bench.slots(0), bench.is_put_off()), (vec![ALL], false));
}

#[test]
fn whoever_needs_or_changes_a_slot_waits_for_whoever_makes_it() {
    /// Whether the section is protected, what is done to it, and the slot that comes of it.
    type Case = (bool, fn(&Bench), Option<Range<u64>>);
    let cases: [Case; 7] = [
        (true, |bench| bench.listener.settle_section(AT[0]), Some(ALL)),
        (true, |bench| assert_eq!(bench.listener.resolve_fault(), Resolution::Changed), Some(0..1)),
        (true, |bench| bench.memory.start_global_dirty_log(DirtyClient::Migration).unwrap(), Some(ALL)),
        (true, |bench| bench.listen(0..16), Some(ALL)),
        (true, |bench| bench.hide(0), None),
        (false, |bench| bench.unplug(0, 0..1), None),
        (
            true,
            |bench| {
                bench.listen(8..9);
                bench.plug(0, 8..9);
            },
            Some(ALL),
        ),
    ];
    for (number, (protects, change, slot)) in cases.into_iter().enumerate() {
        let Some(bench) = Bench::started(32000, protects) else { return };
        bench.plug(0, 0..1);
        bench.pretend_making();
        let waits = thread::scope(|scope| {
            let changer = scope.spawn(|| change(&bench));
            // Enough to see whoever does not wait; nobody is seen who does.
            for _ in 0..1000 {
                thread::yield_now();
            }
            let waits = !changer.is_finished();
            bench.finish();
            waits
        });
        assert!(waits, "{number}");
        assert_eq!((bench.slots(0), bench.is_put_off()), (Vec::from_iter(slot), false), "{number}");
    }
}
