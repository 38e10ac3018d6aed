//! What the guest writes is reported, whatever was read, cleared and rearranged before.
#![expect(clippy::single_range_in_vec_init, reason = "lists of runs, some of one run")]

use std::ops::Range;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use memory::{DirtyClient, RamBlock, RamSpec, RegionDesc};

use super::rig::{RAM, Report, Rig, kvm_with};
use crate::Accel;
use crate::testing::until;

const PAGE: u64 = 4096;
const CLIENT: DirtyClient = DirtyClient::Migration;

/// Options of `-accel kvm`: the kernel's bitmaps, and rings as small as it has them.
type Options = &'static [(&'static str, &'static str)];
const WAYS: [Options; 2] = [&[], &[("dirty-ring-size", "1024")]];

fn rig(program: &[u8], options: Options) -> Option<Rig> {
    Some(Rig::on(kvm_with(options)?, "qemu64", program, 1, false))
}

/// A guest that waits at each write to a port until the test lets it go.
struct Walk {
    rig: Rig,
    arrived: mpsc::Receiver<()>,
    go: mpsc::Sender<()>,
}

impl Walk {
    /// `program` writes to a port now and then.
    fn new(program: &[u8], options: Options) -> Option<Self> {
        let rig = rig(program, options)?;
        let (arrive, arrived) = mpsc::channel();
        let (go, gone) = mpsc::channel();
        *rig.port_probe.hook.lock().unwrap() = Some(Box::new(move || {
            // Both ends are gone when the test ends.
            let _ = arrive.send(());
            let _ = gone.recv();
        }));
        rig.accel.resume();
        let walk = Self { rig, arrived, go };
        walk.await_arrival();
        Some(walk)
    }

    fn await_arrival(&self) {
        self.arrived.recv_timeout(Duration::from_secs(20)).expect("the guest gets to its next step");
    }

    /// Has the guest go on to its next step.
    fn step(&self) {
        self.go.send(()).unwrap();
        self.await_arrival();
    }

    fn sync(&self) {
        self.rig.memory.sync_dirty_log();
    }

    /// Pages of the first RAM that a sync finds, watched again.
    fn look(&self) -> Vec<Range<u64>> {
        self.sync();
        self.take()
    }

    fn take(&self) -> Vec<Range<u64>> {
        let taken = self.rig.memory.take_dirty(CLIENT, &self.rig.ram, 0, RAM);
        taken.into_iter().map(|run| run.start / PAGE..run.end / PAGE).collect()
    }

    fn marked(&self) -> u64 {
        self.rig.ram.dirty_log(CLIENT).unwrap().count()
    }

    fn is_manual(&self) -> bool {
        self.rig.accel.shared.slots.slots().table.is_manual()
    }
}

impl Drop for Walk {
    fn drop(&mut self) {
        *self.rig.port_probe.hook.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = None;
    }
}

/// `next: out 10h,al; inc byte [3000h]; out 10h,al; inc byte [5000h]; jmp next`
const TWO_PAGES: [u8; 14] =
    [0xe6, 0x10, 0xfe, 0x06, 0x00, 0x30, 0xe6, 0x10, 0xfe, 0x06, 0x00, 0x50, 0xeb, 0xf2];

/// Ends the guest's wait before the rig goes.
fn end(walk: Walk) {
    let Walk { go, .. } = &walk;
    let _ = go.send(());
    let (nobody, _) = mpsc::channel();
    let mut walk = walk;
    walk.go = nobody;
    walk.rig.accel.pause();
}

#[test]
fn a_write_after_its_page_was_taken_is_seen_by_a_later_sync() {
    for options in WAYS {
        let Some(walk) = Walk::new(&TWO_PAGES, options) else { return };
        walk.rig.memory.start_global_dirty_log(CLIENT).unwrap();
        // A new log reports everything, or nothing.
        let all = if walk.is_manual() { vec![0..RAM / PAGE] } else { vec![] };
        assert_eq!(walk.look(), all);
        for _ in 0..3 {
            walk.step();
            assert_eq!(walk.look(), [3..4]);
            walk.step();
            assert_eq!(walk.look(), [5..6]);
            assert_eq!(walk.look(), []);
        }
        // Found by one look and taken by another, with writes in between.
        walk.step();
        walk.sync();
        walk.step();
        walk.step();
        assert_eq!(walk.look(), [3..4, 5..6]);
        walk.step();
        assert_eq!(walk.look(), [5..6]);
        end(walk);
    }
}

#[test]
fn pages_that_were_reported_are_not_watched_until_they_are_cleared() {
    let Some(walk) = Walk::new(&TWO_PAGES, WAYS[0]) else { return };
    if !walk.is_manual() {
        eprintln!("SKIPPED, the log of this kernel clears itself");
        return end(walk);
    }
    let memory = &walk.rig.memory;
    memory.start_global_dirty_log(CLIENT).unwrap();
    walk.look();
    walk.step();
    walk.sync();
    let bitmap = walk.rig.ram.dirty_log(CLIENT).unwrap();
    assert_eq!(bitmap.clean(0, RAM), 1);
    walk.sync();
    assert_eq!(bitmap.clean(0, RAM), 1, "reported again, written or not");
    memory.clear_dirty_log(&walk.rig.ram, 0, 1);
    walk.sync();
    assert_eq!(bitmap.count(), 0);
    // What nobody was told of is not cleared.
    walk.step();
    memory.clear_dirty_log(&walk.rig.ram, 0, RAM);
    walk.rig.ram.mark_dirty_unwatched(0, 1);
    memory.clear_dirty_log(&walk.rig.ram, 0, RAM);
    bitmap.clean(0, RAM);
    assert_eq!(walk.look(), [5..6]);
    end(walk);
}

#[test]
fn clients_that_share_the_log_each_see_every_write() {
    for options in WAYS {
        let Some(walk) = Walk::new(&TWO_PAGES, options) else { return };
        let memory = &walk.rig.memory;
        memory.start_global_dirty_log(CLIENT).unwrap();
        walk.look();
        walk.step();
        walk.sync();
        // Page 3 is not watched, so whoever joins has to be told of it.
        memory.start_global_dirty_log(DirtyClient::DirtyRate).unwrap();
        let rate = || -> Vec<u64> {
            let taken = memory.take_dirty(DirtyClient::DirtyRate, &walk.rig.ram, 0, RAM);
            taken.into_iter().flat_map(|run| run.start / PAGE..run.end / PAGE).collect()
        };
        if walk.is_manual() {
            assert_eq!(rate(), [3]);
        }
        walk.step();
        walk.step();
        walk.sync();
        assert_eq!((rate(), walk.take()), (vec![3, 5], vec![3..4, 5..6]));
        walk.step();
        walk.sync();
        assert_eq!(walk.take(), [5..6]);
        walk.step();
        walk.sync();
        assert_eq!((rate(), walk.take()), (vec![3, 5], vec![3..4]));
        memory.stop_global_dirty_log(CLIENT);
        walk.step();
        walk.sync();
        assert_eq!(rate(), [5]);
        assert!(walk.rig.ram.dirty_log(CLIENT).is_none());
        end(walk);
    }
}

#[test]
fn the_log_of_a_slot_that_goes_is_not_lost_and_a_new_slot_is_logged_at_once() {
    for options in WAYS {
        let Some(walk) = Walk::new(&TWO_PAGES, options) else { return };
        let memory = &walk.rig.memory;
        memory.start_global_dirty_log(CLIENT).unwrap();
        walk.look();
        let region = walk.rig.system.view().lookup(0).unwrap().region();
        walk.step();
        memory.transaction().set_enabled(region, false);
        assert!(walk.marked() >= 1);
        assert_eq!(walk.take(), [3..4]);
        assert_eq!(walk.look(), []);
        memory.transaction().set_enabled(region, true);
        walk.step();
        // A new slot reports all that is in it, or what was written.
        let all = if walk.is_manual() { 0..RAM / PAGE } else { 5..6 };
        assert_eq!(walk.look(), [all]);
        walk.step();
        assert_eq!(walk.look(), [3..4]);
        // RAM that is added now is logged as the rest.
        let late = memory.create_ram(RamSpec::anonymous("late", RAM)).unwrap();
        let mut tx = memory.transaction();
        let over = tx.ram(RegionDesc::new("late", RAM.into()), Arc::clone(&late));
        tx.add_subregion(walk.rig.system_root, 0, over, 1);
        tx.commit();
        walk.step();
        walk.sync();
        let taken = memory.take_dirty(CLIENT, &late, 0, RAM);
        assert!(taken.iter().any(|run| run.contains(&(5 * PAGE))), "{taken:?}");
        assert_eq!(walk.take(), []);
        end(walk);
    }
}

/// The guest in [`a_slot_that_goes_while_the_guest_writes_takes_no_write_with_it`].
struct Writer(Rig);

impl Writer {
    fn new(options: Options) -> Option<Self> {
        // again: mov cx,256; next: inc dword [3000h]; loop next; out 10h,al; jmp again
        let program = [0xb9, 0, 1, 0x66, 0xff, 0x06, 0, 0x30, 0xe2, 0xf9, 0xe6, 0x10, 0xeb, 0xf2];
        Some(Self(rig(&program, options)?))
    }

    fn value(&self) -> u32 {
        let mut bytes = [0; 4];
        self.0.ram.read(3 * PAGE, &mut bytes).unwrap();
        u32::from_le_bytes(bytes)
    }

    /// Waits until the guest has written again and again, and has told all that came before.
    fn await_writes(&self) {
        self.0.drain();
        // What lies between two reports came after the first.
        for _ in 0..2 {
            self.0.await_report("writes", |report| matches!(report, Report::Port(0x10, 1, _)));
        }
        self.0.drain();
    }

    /// Waits until the guest writes where nothing is, and is through with what it wrote before. To be called after
    /// [`await_writes`](Self::await_writes) and what took its memory away.
    fn await_hole(&self) {
        let gone = Report::FailedAccess { cpu: 0, addr: 3 * PAGE, write: true };
        self.0.await_report("finds no memory", |report| *report == gone);
    }

    fn take(&self) -> bool {
        !self.0.memory.take_dirty(CLIENT, &self.0.ram, 0, RAM).is_empty()
    }
}

/// A vCPU that has left the guest for an access, without a slot, carries it out in the memory that it saw when it left, and may be late with
/// that: the log has such a write when it is done, and who compares before compares too early.
#[test]
fn a_slot_that_goes_while_the_guest_writes_takes_no_write_with_it() {
    for options in WAYS {
        let Some(guest) = Writer::new(options) else { return };
        let Writer(rig) = &guest;
        rig.memory.start_global_dirty_log(CLIENT).unwrap();
        rig.accel.resume();
        let region = rig.system.view().lookup(0).unwrap().region();
        let (mut copy, mut written) = (guest.value(), 0);
        for round in 0..12 {
            guest.await_writes();
            if round % 2 == 0 {
                rig.memory.sync_dirty_log();
                if guest.take() {
                    copy = guest.value();
                }
                // So that there is something to be lost.
                guest.await_writes();
            }
            rig.memory.transaction().set_enabled(region, false);
            guest.await_hole();
            written += u32::from(copy != guest.value());
            if guest.take() {
                copy = guest.value();
            }
            assert_eq!(copy, guest.value(), "round {round}");
            rig.memory.transaction().set_enabled(region, true);
        }
        // A guest that began to count in the hole may come to the same number.
        assert!(written > 6, "there was something to be lost: {written}");
        rig.accel.pause();
    }
}

#[test]
fn a_client_that_takes_while_the_guest_writes_has_the_last_of_it() {
    for options in WAYS {
        // next: inc dword [3000h]; inc dword [5000h]; jmp next
        let program = [0x66, 0xff, 0x06, 0x00, 0x30, 0x66, 0xff, 0x06, 0x00, 0x50, 0xeb, 0xf4];
        let Some(rig) = rig(&program, options) else { return };
        rig.memory.start_global_dirty_log(CLIENT).unwrap();
        let mut copy = vec![0u8; RAM as usize];
        let look = |copy: &mut Vec<u8>| {
            rig.memory.sync_dirty_log();
            for run in rig.memory.take_dirty(CLIENT, &rig.ram, 0, RAM) {
                rig.ram.read(run.start, &mut copy[run.start as usize..run.end as usize]).unwrap();
            }
        };
        for _ in 0..50 {
            rig.accel.resume();
            for _ in 0..20 {
                look(&mut copy);
            }
            rig.accel.pause();
            look(&mut copy);
            let mut now = vec![0; RAM as usize];
            rig.ram.read(0, &mut now).unwrap();
            assert_eq!(copy, now);
        }
    }
}

/// Pages that a guest writes.
const PAGES: u32 = 5000;

/// A guest with rings that writes into each of many pages of a block of their own, then to port 10h. Paused.
fn many_pages() -> Option<(Rig, Arc<RamBlock>)> {
    const AT: u64 = 0x10_0000;
    // mov edi,AT; mov ecx,PAGES; next: inc byte [edi]; add edi,4096; dec ecx; jnz next; out 10h,al; hlt
    let mut program = vec![0xbf];
    program.extend((AT as u32).to_le_bytes());
    program.push(0xb9);
    program.extend(PAGES.to_le_bytes());
    program.extend([0xfe, 0x07, 0x81, 0xc7, 0x00, 0x10, 0x00, 0x00, 0x49, 0x75, 0xf5, 0xe6, 0x10, 0xf4]);
    let rig = Rig::on(kvm_with(WAYS[1])?, "qemu64", &program, 1, true);
    let block = rig.memory.create_ram(RamSpec::anonymous("many", u64::from(PAGES) * PAGE)).unwrap();
    let mut tx = rig.memory.transaction();
    let many = tx.ram(RegionDesc::new("many", (u64::from(PAGES) * PAGE).into()), Arc::clone(&block));
    tx.add_subregion(rig.system_root, AT, many, 0);
    tx.commit();
    Some((rig, block))
}

#[test]
fn a_vcpu_with_a_limit_rests_and_is_let_go_without() {
    let Some((rig, _)) = many_pages() else { return };
    if rig.accel.dirty_ring_size() == 0 {
        return;
    }
    rig.memory.start_global_dirty_log(CLIENT).unwrap();
    // Of 20 MiB, at least a ring's worth is paid for before the guest is through.
    rig.accel.limit_dirty(0, Some(8 << 20));
    let start = Instant::now();
    rig.accel.resume();
    assert!(matches!(rig.report(), Report::Port(0x10, 1, _)));
    assert!(start.elapsed() > Duration::from_millis(400), "{:?}", start.elapsed());
    // Nobody waits for one that rests.
    rig.accel.limit_dirty(0, Some(1));
    rig.accel.pause();
    rig.accel.reset();
    rig.accel.resume();
    until("3000 pages", || {
        rig.accel.pace_dirty();
        rig.accel.dirty_pages(0).unwrap() >= 3000
    });
    rig.accel.pause();
    rig.accel.resume();
    rig.accel.limit_dirty(0, None);
    assert!(matches!(rig.report(), Report::Port(0x10, 1, _)));
    rig.accel.pause();
}

#[test]
fn a_ring_that_is_full_is_read_and_the_guest_goes_on() {
    let Some((rig, block)) = many_pages() else { return };
    let rings = rig.accel.dirty_ring_size() != 0;
    rig.memory.start_global_dirty_log(CLIENT).unwrap();
    rig.accel.resume();
    assert!(matches!(rig.report(), Report::Port(0x10, 1, _)));
    let log = block.dirty_log(CLIENT).unwrap();
    if rings {
        assert!(log.count() > 0, "full more than once");
    }
    rig.memory.sync_dirty_log();
    assert_eq!(log.count(), u64::from(PAGES));
    if rings {
        assert!(rig.accel.dirty_pages(0).unwrap() > 1000);
    }
    assert_eq!(rig.accel.dirty_pages(1), None);
    rig.accel.pause();
}
