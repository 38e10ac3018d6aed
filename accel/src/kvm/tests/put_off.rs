//! Slots that are made after the memory was plugged, by whoever needs them first. The thread that makes them is kept from it unless a
//! test says otherwise.

use std::ops::Range;
use std::sync::{Arc, Mutex, mpsc};

use memory::{DirtyClient, DiscardListener, DiscardManager, RamBlock, RamSpec, RegionDesc, RegionId};

use super::super::KvmAccel;
use super::rig::{RAM, Report, Rig};
use crate::Accel;

const BLOCK: u64 = 2 << 20;
/// Of each half, which is a section of its own.
const HALF: u64 = 8 * BLOCK;
/// Where the halves are mapped, apart.
const AT: [u64; 2] = [0x4000_0000, 0x5000_0000];

/// Writes AL to port 10h and halts.
const REPORT_AL: [u8; 3] = [0xe6, 0x10, 0xf4];

struct Setup {
    rig: Rig,
    block: Arc<RamBlock>,
    manager: Arc<DiscardManager>,
    halves: [RegionId; 2],
    /// What the thread would make, with its hands tied.
    _queue: Option<mpsc::Receiver<u64>>,
}

impl Setup {
    /// A guest whose `program` runs in protected mode, and a device of which nothing is plugged. `content` is at the start of its
    /// memory.
    fn new(program: &[u8], content: &[u8], works: bool) -> Option<Self> {
        let rig = Rig::new(program, 1, true)?;
        let block = rig.memory.create_ram(RamSpec::anonymous("mem0", 2 * HALF)).unwrap();
        block.write(0, content).unwrap();
        let mut manager = DiscardManager::new(2 * HALF, BLOCK);
        manager.protect(&block, BLOCK).unwrap();
        let manager = Arc::new(manager);
        let mut tx = rig.memory.transaction();
        let region = tx.ram(RegionDesc::new("mem0", (2 * HALF).into()), Arc::clone(&block));
        tx.set_discard_manager(region, Some(Arc::clone(&manager))).unwrap();
        let halves = [0, 1].map(|half| {
            let name = format!("half{half}");
            let alias = tx.alias(RegionDesc::new(&name, HALF.into()), region, half * HALF);
            tx.add_subregion(rig.system_root, AT[half as usize], alias, 0);
            alias
        });
        tx.commit();
        let queue = (!works).then(|| rig.accel.shared.slots.without_worker());
        Some(Self { rig, block, manager, halves, _queue: queue })
    }

    /// Starts the guest and waits until its program says so at port 30h.
    fn start(&self) {
        self.rig.accel.resume();
        assert_eq!(self.rig.report(), Report::Port(0x30, 1, 0));
    }

    fn plug(&self, blocks: Range<u64>) {
        self.manager.populate(blocks.start * BLOCK..blocks.end * BLOCK).unwrap();
    }

    fn unplug(&self, blocks: Range<u64>) {
        self.manager.discard(blocks.start * BLOCK..blocks.end * BLOCK).unwrap();
    }

    fn accel(&self) -> &KvmAccel {
        &self.rig.accel
    }

    fn changes(&self) -> u64 {
        self.accel().stats().slot_changes
    }

    fn is_put_off(&self) -> bool {
        !self.accel().shared.slots.put_offs().is_multiple_of(2)
    }
}

/// `xor al,al; out 30h,al`, waits until the byte at 1000h is not zero, then goes on.
fn after_start(rest: &[u8]) -> Vec<u8> {
    let mut program = vec![0x30, 0xc0, 0xe6, 0x30];
    // cmp byte [1000h],0; je back to it
    program.extend([0x80, 0x3d, 0x00, 0x10, 0x00, 0x00, 0x00, 0x74, 0xf7]);
    program.extend(rest);
    program
}

/// The guest's sign to go on.
fn go(setup: &Setup) {
    assert!(setup.rig.system.write(0x1000, &[1]).is_ok());
}

#[test]
fn a_touch_of_the_guest_makes_the_slot_and_finds_memory() {
    // mov eax,40200000h; mov byte [eax],9; lock inc byte [eax]; mov al,[eax]; report
    let rest =
        [&[0xb8, 0x00, 0x00, 0x20, 0x40, 0xc6, 0x00, 0x09, 0xf0, 0xfe, 0x00, 0x8a, 0x00][..], &REPORT_AL];
    let Some(setup) = Setup::new(&after_start(&rest.concat()), &[], false) else { return };
    setup.start();
    let (changes, slots) = (setup.changes(), setup.accel().memory_slots());
    setup.plug(0..4);
    setup.plug(4..6);
    setup.plug(8..9);
    assert_eq!((setup.changes(), setup.is_put_off()), (changes, true));
    // They are spoken for all the same.
    assert_eq!(setup.accel().memory_slots(), slots);
    go(&setup);
    assert_eq!(setup.rig.report(), Report::Port(0x10, 1, 10));
    // The other half's is still put off.
    assert_eq!((setup.changes(), setup.is_put_off()), (changes + 1, true));
    let mut byte = [0];
    setup.block.read(BLOCK, &mut byte).unwrap();
    assert_eq!(byte, [10]);
    setup.block.read(HALF, &mut byte).unwrap();
    assert_eq!((setup.changes(), setup.is_put_off()), (changes + 2, false));
    assert_eq!(setup.accel().memory_slots(), slots);
    setup.accel().shutdown();
}

#[test]
fn a_first_touch_by_a_locked_instruction_is_atomic_and_counts_once() {
    // mov eax,40000000h; mov bl,5; lock xadd [eax],bl; lock xadd [eax],bl; mov al,[eax]; report
    let program = [
        &[0xb8, 0x00, 0x00, 0x00, 0x40, 0xb3, 0x05][..],
        &[0xf0, 0x0f, 0xc0, 0x18, 0xf0, 0x0f, 0xc0, 0x18, 0x8a, 0x00],
        &REPORT_AL,
    ];
    let Some(setup) = Setup::new(&after_start(&program.concat()), &[3], false) else { return };
    setup.start();
    setup.plug(0..1);
    go(&setup);
    // 3 + 5 = 8, then 8 + 3.
    assert_eq!(setup.rig.report(), Report::Port(0x10, 1, 11));
    setup.accel().shutdown();
}

#[test]
fn what_the_kernel_cannot_emulate_is_tried_again_with_the_slot() {
    // mov eax,40000000h; jmp eax: the memory holds mov al,42; report.
    let content = [&[0xb0, 42][..], &REPORT_AL].concat();
    let program = after_start(&[0xb8, 0x00, 0x00, 0x00, 0x40, 0xff, 0xe0]);
    let Some(setup) = Setup::new(&program, &content, false) else { return };
    setup.start();
    let changes = setup.changes();
    setup.plug(0..1);
    setup.plug(8..9);
    go(&setup);
    assert_eq!(setup.rig.report(), Report::Port(0x10, 1, 42));
    // All that was put off was made: the kernel does not say what it was about.
    assert_eq!((setup.changes(), setup.is_put_off()), (changes + 2, false));
    setup.accel().shutdown();
}

#[test]
fn a_fetch_from_where_nothing_is_still_stops_the_guest() {
    let program = after_start(&[0xb8, 0x00, 0x00, 0x00, 0x60, 0xff, 0xe0]);
    let Some(setup) = Setup::new(&program, &[], false) else { return };
    setup.start();
    setup.plug(0..1);
    go(&setup);
    match setup.rig.report() {
        Report::Error(0, text) => assert!(text.starts_with("KVM internal error. Suberror: 1"), "{text}"),
        other => panic!("{other:?}"),
    }
    setup.accel().shutdown();
}

/// `jmp $`
const SPIN: [u8; 2] = [0xeb, 0xfe];

#[test]
fn an_access_of_ours_finds_the_slot_made() {
    let Some(setup) = Setup::new(&after_start(&SPIN), &[], false) else { return };
    setup.start();
    let changes = setup.changes();
    setup.plug(0..1);
    assert!(setup.rig.system.write(AT[0] + 5, &[1]).is_ok());
    assert_eq!((setup.changes(), setup.is_put_off()), (changes + 1, false));
    // Plugged once more, the slot is there.
    setup.plug(1..2);
    assert_eq!((setup.changes(), setup.is_put_off()), (changes + 1, false));
    setup.accel().shutdown();
}

#[test]
fn what_is_unplugged_or_unmapped_before_anybody_came_costs_nothing() {
    let Some(setup) = Setup::new(&after_start(&SPIN), &[], false) else { return };
    setup.start();
    let changes = setup.changes();
    setup.plug(0..2);
    setup.unplug(0..1);
    assert!(setup.is_put_off());
    setup.unplug(1..2);
    assert_eq!((setup.changes(), setup.is_put_off()), (changes, false));
    setup.plug(0..1);
    let mut tx = setup.rig.memory.transaction();
    tx.del_subregion(setup.rig.system_root, setup.halves[0]);
    tx.commit();
    assert_eq!((setup.changes(), setup.is_put_off()), (changes, false));
    // Back with what is in it, the section is not put off: the guest may have something there.
    let mut tx = setup.rig.memory.transaction();
    tx.add_subregion(setup.rig.system_root, AT[0], setup.halves[0], 0);
    tx.commit();
    assert_eq!((setup.changes(), setup.is_put_off()), (changes + 1, false));
    setup.accel().shutdown();
}

#[test]
fn a_dirty_log_that_begins_meanwhile_sees_what_the_guest_writes() {
    // mov byte [40000000h],1; mov al,1; report
    let rest = [&[0xc6, 0x05, 0x00, 0x00, 0x00, 0x40, 0x01, 0xb0, 0x01][..], &REPORT_AL].concat();
    let Some(setup) = Setup::new(&after_start(&rest), &[], false) else { return };
    setup.start();
    setup.plug(0..1);
    setup.rig.memory.start_global_dirty_log(DirtyClient::Migration).unwrap();
    let dirty = setup.block.dirty_log(DirtyClient::Migration).unwrap();
    assert!(setup.is_put_off());
    setup.accel().shared.slots.settle_section(AT[0]);
    // What is plugged may all be reported first, and nothing else is.
    setup.rig.memory.sync_dirty_log();
    let taken = setup.rig.memory.take_dirty(DirtyClient::Migration, &setup.block, 0, 2 * HALF);
    assert!(taken.iter().all(|run| *run == (0..BLOCK)) && dirty.count() == 0);
    go(&setup);
    assert_eq!(setup.rig.report(), Report::Port(0x10, 1, 1));
    setup.rig.memory.sync_dirty_log();
    assert!(dirty.is_dirty(0) && !dirty.is_dirty(4096));
    setup.rig.memory.stop_global_dirty_log(DirtyClient::Migration);
    setup.accel().shutdown();
}

/// Wants to hear of everything.
struct Other(Mutex<Vec<Range<u64>>>);

impl DiscardListener for Other {
    fn populate(&self, range: Range<u64>) -> Result<(), String> {
        self.0.lock().unwrap().push(range);
        Ok(())
    }
    fn discard(&self, _range: Range<u64>) {}
}

#[test]
fn nothing_is_put_off_beside_another_user_or_before_the_kernel_has_slots() {
    let Some(setup) = Setup::new(&after_start(&SPIN), &[], false) else { return };
    setup.plug(8..9);
    assert!(!setup.is_put_off());
    setup.start();
    let changes = setup.changes();
    setup.plug(0..1);
    assert!(setup.is_put_off());
    let other = Arc::new(Other(Mutex::default()));
    setup.manager.register(0..2 * HALF, Arc::<Other>::clone(&other)).unwrap();
    assert_eq!((setup.changes(), setup.is_put_off()), (changes + 1, false));
    setup.unplug(0..16);
    let changes = setup.changes();
    setup.plug(0..16);
    assert_eq!((setup.changes(), setup.is_put_off()), (changes, false));
    assert_eq!(*other.0.lock().unwrap(), [0..BLOCK, 8 * BLOCK..9 * BLOCK, 0..2 * HALF]);
    setup.accel().shutdown();
}

#[test]
fn the_thread_makes_what_nobody_needs() {
    let Some(setup) = Setup::new(&after_start(&SPIN), &[], true) else { return };
    setup.start();
    let changes = setup.changes();
    for _ in 0..20 {
        setup.plug(0..16);
        setup.accel().shared.slots.await_settled();
        assert!(!setup.is_put_off());
        setup.unplug(0..16);
    }
    // The host mapping keeps the guest out, so that the slots could stay.
    assert_eq!(setup.changes(), changes + 2);
    assert!(RAM < AT[0]);
    setup.accel().shutdown();
}

#[test]
fn the_thread_lets_changes_pass_that_may_take_its_work_away() {
    let Some(setup) = Setup::new(&after_start(&SPIN), &[], true) else { return };
    setup.start();
    let changes = setup.changes();
    let slots = &setup.accel().shared.slots;
    slots.begin_batch();
    setup.plug(0..16);
    // Time enough for a thread that does not wait; one that does is not asked to hurry.
    (0..1000).for_each(|_| std::thread::yield_now());
    assert_eq!((setup.changes(), setup.is_put_off()), (changes, true));
    // Who needs a slot does not wait for the batch.
    assert!(setup.rig.system.write(AT[0], &[1]).is_ok());
    assert_eq!(setup.changes(), changes + 1);
    setup.unplug(8..16);
    assert!(!setup.is_put_off());
    setup.plug(8..16);
    slots.end_batch();
    slots.await_settled();
    assert_eq!(setup.changes(), changes + 2);
    setup.accel().shutdown();
}
