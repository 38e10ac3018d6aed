//! Every way in which bytes get into a block is marked, and clients that go by the rules miss no write, whoever shares the log.
#![expect(clippy::single_range_in_vec_init, reason = "lists of runs, some of one run")]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress, ReadVolatile, VolatileMemory};

use super::*;
use crate::{
    AddressSpace, Backing, BlockRange, DiscardManager, MemfdSpec, RamSpec, RegionDesc, RegionId, SIZE_ALL,
    create_memfd,
};

const PAGE: u64 = 4096;
const SIZE: u64 = 64 * PAGE;
/// Where the block is in the address space, twice.
const AT: [u64; 2] = [0x10_0000, 0x80_0000];

struct Machine {
    memory: Arc<Memory>,
    space: Arc<AddressSpace>,
    root: RegionId,
    block: Arc<RamBlock>,
}

impl Machine {
    fn new(backing: Backing, manager: Option<Arc<DiscardManager>>) -> Self {
        let memory = Memory::new();
        let block = memory.create_ram(RamSpec::anonymous("ram", SIZE).backing(backing)).unwrap();
        let mut tx = memory.transaction();
        let root = tx.container(RegionDesc::new("system", SIZE_ALL));
        let ram = tx.ram(RegionDesc::new("ram", SIZE.into()), Arc::clone(&block));
        tx.set_discard_manager(ram, manager).unwrap();
        let alias = tx.alias(RegionDesc::new("again", SIZE.into()), ram, 0);
        tx.set_readonly(alias, true);
        tx.add_subregion(root, AT[0], ram, 0);
        tx.add_subregion(root, AT[1], alias, 0);
        let space = tx.address_space("memory", root);
        tx.commit();
        Self { memory, space, root, block }
    }

    fn anonymous() -> Self {
        Self::new(Backing::Anonymous, None)
    }

    fn dirty(&self, client: DirtyClient) -> Vec<Range<u64>> {
        let mut runs = Vec::new();
        self.block
            .dirty_log(client)
            .unwrap()
            .runs(0, SIZE, |at, len| runs.push(at / PAGE..(at + len) / PAGE));
        runs
    }

    fn range(&self) -> BlockRange {
        self.space.ram_range(AT[0] + 2 * PAGE, PAGE).unwrap()
    }
}

/// Writes into page 2 of the block, or into 2 and 3.
type Write = fn(&Machine);

const WAYS: [(&str, Write); 14] = [
    ("a vCPU or monitor through the address space", |m| {
        assert!(m.space.write(AT[0] + 2 * PAGE, &[1; 8]).is_ok());
    }),
    ("an integer", |m| assert!(m.space.write_uint(AT[0] + 2 * PAGE + 8, 4, 7).is_ok())),
    ("a loader into what is read-only to the guest", |m| {
        assert!(m.space.write_rom(AT[1] + 2 * PAGE, &[1; 8]).is_ok());
    }),
    ("the block itself", |m| m.block.write(2 * PAGE + 1, &[1]).unwrap()),
    ("a range of it", |m| assert_eq!(m.range().copy_from(&[1; 8]), 8)),
    ("a slice of a range", |m| m.range().slice().unwrap().copy_from(&[1u8; 8])),
    ("a part of a slice", |m| {
        let slice = m.block.slice(0, SIZE as usize).unwrap();
        slice.subslice(2 * PAGE as usize, 8).unwrap().write_obj(1u64, 0).unwrap();
    }),
    ("a reference", |m| {
        m.block.slice(0, SIZE as usize).unwrap().get_ref::<u32>(2 * PAGE as usize).unwrap().store(1)
    }),
    ("an array", |m| {
        let slice = m.block.slice(2 * PAGE, 8).unwrap();
        slice.get_array_ref::<u16>(0, 4).unwrap().copy_from(&[1, 2, 3, 4]);
    }),
    ("DMA of a slice", |m| {
        m.space.view().guest_memory().write_slice(&[1; 16], GuestAddress(AT[0] + 3 * PAGE - 8)).unwrap();
    }),
    ("DMA of an object", |m| {
        m.space.view().guest_memory().write_obj(1u64, GuestAddress(AT[0] + 2 * PAGE)).unwrap();
    }),
    ("DMA of an atomic", |m| {
        let at = GuestAddress(AT[0] + 2 * PAGE + 2);
        m.space.view().guest_memory().store(1u16, at, Ordering::Release).unwrap();
    }),
    ("DMA from a file", |m| {
        let mut file = std::fs::File::open("/dev/zero").unwrap();
        let at = GuestAddress(AT[0] + 2 * PAGE);
        m.space.view().guest_memory().read_exact_volatile_from(at, &mut file, 100).unwrap();
    }),
    ("a file into a slice", |m| {
        let mut slice = m.block.slice(2 * PAGE, 10).unwrap();
        std::fs::File::open("/dev/zero").unwrap().read_volatile(&mut slice).unwrap();
    }),
];

#[test]
fn every_way_to_write_marks_what_was_written_for_every_client() {
    for (name, write) in WAYS {
        let machine = Machine::anonymous();
        for client in [DirtyClient::Migration, DirtyClient::DirtyRate] {
            machine.memory.start_global_dirty_log(client).unwrap();
        }
        write(&machine);
        let pages = if name == "DMA of a slice" { 2..4 } else { 2..3 };
        for client in [DirtyClient::Migration, DirtyClient::DirtyRate] {
            assert_eq!(machine.dirty(client), std::slice::from_ref(&pages), "{name}");
        }
        assert!(machine.block.dirty_log(DirtyClient::DirtyLimit).is_none());
    }
}

#[test]
fn what_is_discarded_reads_as_zeroes_and_is_dirty() {
    let memfd = |shared| {
        let file = create_memfd(&MemfdSpec { name: "t", ..Default::default() }, SIZE).unwrap();
        Backing::File(crate::FileBacking { file, offset: 0, shared, readonly_fd: false })
    };
    for backing in [Backing::Anonymous, Backing::AnonymousShared, memfd(true), memfd(false)] {
        let machine = Machine::new(backing, None);
        machine.block.write(3 * PAGE, &[1]).unwrap();
        machine.memory.start_global_dirty_log(DirtyClient::Migration).unwrap();
        machine.block.discard(2 * PAGE, 3 * PAGE).unwrap();
        assert_eq!(machine.dirty(DirtyClient::Migration), [2..5]);
        let mut byte = [9];
        machine.block.read(3 * PAGE, &mut byte).unwrap();
        assert_eq!(byte, [0]);
        machine.block.discard(1, PAGE).unwrap_err();
        assert_eq!(machine.dirty(DirtyClient::Migration), [2..5], "nothing happened");
    }
}

#[test]
fn reading_marks_nothing_and_writes_that_fail_neither() {
    let machine = Machine::anonymous();
    machine.memory.start_global_dirty_log(DirtyClient::Migration).unwrap();
    assert!(machine.space.read(AT[0], &mut [0; 100]).is_ok());
    machine.block.read(0, &mut [0; 100]).unwrap();
    machine.space.view().guest_memory().read_obj::<u64>(GuestAddress(AT[0])).unwrap();
    assert!(!machine.space.write(AT[1], &[1]).is_ok());
    machine.space.view().guest_memory().write_obj(1u8, GuestAddress(AT[1])).unwrap_err();
    assert_eq!(machine.dirty(DirtyClient::Migration), []);
}

#[test]
fn memory_that_is_added_while_somebody_logs_is_logged_for_him() {
    let machine = Machine::anonymous();
    machine.memory.start_global_dirty_log(DirtyClient::Migration).unwrap();
    let added = machine.memory.create_ram(RamSpec::anonymous("added", SIZE)).unwrap();
    machine.memory.start_global_dirty_log(DirtyClient::DirtyRate).unwrap();
    added.write(0, &[1]).unwrap();
    let dirty = |client| added.dirty_log(client).map(|log| log.count());
    assert_eq!((dirty(DirtyClient::Migration), dirty(DirtyClient::DirtyRate)), (Some(1), Some(1)));
    machine.memory.stop_global_dirty_log(DirtyClient::Migration);
    machine.memory.stop_global_dirty_log(DirtyClient::Migration);
    assert_eq!((dirty(DirtyClient::Migration), dirty(DirtyClient::DirtyRate)), (None, Some(1)));
    let later = machine.memory.create_ram(RamSpec::anonymous("later", SIZE)).unwrap();
    assert!(later.dirty_log(DirtyClient::Migration).is_none());
    assert!(later.dirty_log(DirtyClient::DirtyRate).is_some());
}

#[test]
fn of_sparse_memory_only_what_is_populated_is_marked_and_taken() {
    let manager = Arc::new(DiscardManager::new(SIZE, 8 * PAGE));
    manager.populate(8 * PAGE..16 * PAGE).unwrap();
    manager.populate(32 * PAGE..40 * PAGE).unwrap();
    let machine = Machine::new(Backing::Anonymous, Some(Arc::clone(&manager)));
    machine.memory.mark_all_dirty(DirtyClient::Migration, &machine.block);
    machine.memory.start_global_dirty_log(DirtyClient::Migration).unwrap();
    machine.memory.mark_all_dirty(DirtyClient::Migration, &machine.block);
    assert_eq!(machine.dirty(DirtyClient::Migration), [8..16, 32..40]);
    manager.discard(32 * PAGE..40 * PAGE).unwrap();
    machine.block.discard(32 * PAGE, 8 * PAGE).unwrap();
    machine.block.write(50 * PAGE, &[1]).unwrap();
    let taken = machine.memory.take_dirty(DirtyClient::Migration, &machine.block, 9 * PAGE, SIZE);
    assert_eq!(taken, [9 * PAGE..16 * PAGE]);
    assert_eq!(machine.dirty(DirtyClient::Migration), [8..9]);
    let whole = Machine::anonymous();
    whole.memory.start_global_dirty_log(DirtyClient::DirtyRate).unwrap();
    whole.memory.mark_all_dirty(DirtyClient::DirtyRate, &whole.block);
    assert_eq!(whole.memory.take_dirty(DirtyClient::DirtyRate, &whole.block, 0, SIZE).len(), 1);
    assert_eq!(whole.memory.take_dirty(DirtyClient::DirtyRate, &whole.block, 0, SIZE), []);
}

/// An accelerator that leaves pages unwatched once they were reported, as KVM with manual protection.
#[derive(Default)]
struct Manual {
    pages: Mutex<Pages>,
    refuses: AtomicBool,
}

#[derive(Default)]
struct Pages {
    /// Written since they were watched, and not watched since.
    written: BTreeMap<u64, Reported>,
    started: usize,
    cleared: Vec<Range<u64>>,
}

type Reported = bool;

impl Manual {
    fn pages(&self) -> std::sync::MutexGuard<'_, Pages> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl MemoryListener for Manual {
    fn log_sync(&self, section: &Section) {
        // Of the two, the one that the guest may write.
        if section.readonly {
            return;
        }
        for (page, reported) in &mut self.pages().written {
            section.block.as_ref().unwrap().mark_dirty_unwatched(page * PAGE, PAGE);
            *reported = true;
        }
    }

    fn log_clear(&self, section: &Section) {
        let start = section.offset_in_region;
        let range = start..start + section.size as u64;
        let mut pages = self.pages();
        pages.written.retain(|page, reported| !(*reported && range.contains(&(page * PAGE))));
        pages.cleared.push(range);
    }

    fn log_global_start(&self) -> Result<(), String> {
        self.pages().started += 1;
        if self.refuses.load(Ordering::Relaxed) { Err("no log today".to_owned()) } else { Ok(()) }
    }

    fn log_global_stop(&self) {
        self.pages().started -= 1;
    }
}

#[test]
fn listeners_hear_of_the_first_client_and_the_last() {
    let machine = Machine::anonymous();
    let accelerator = Arc::new(Manual::default());
    machine.memory.add_listener(&machine.space, Arc::<Manual>::clone(&accelerator));
    let started = || accelerator.pages().started;
    accelerator.refuses.store(true, Ordering::Relaxed);
    let error = machine.memory.start_global_dirty_log(DirtyClient::DirtyRate).unwrap_err();
    assert_eq!(
        (error.desc(), machine.block.dirty_log(DirtyClient::DirtyRate).is_none()),
        ("no log today", true)
    );
    accelerator.refuses.store(false, Ordering::Relaxed);
    accelerator.pages().started = 0;
    machine.memory.start_global_dirty_log(DirtyClient::DirtyRate).unwrap();
    machine.memory.start_global_dirty_log(DirtyClient::Migration).unwrap();
    machine.memory.start_global_dirty_log(DirtyClient::Migration).unwrap();
    assert_eq!(started(), 1);
    machine.memory.stop_global_dirty_log(DirtyClient::DirtyRate);
    assert_eq!(started(), 1);
    machine.memory.stop_global_dirty_log(DirtyClient::Migration);
    assert_eq!(started(), 0);
}

#[test]
fn clearing_goes_by_granules_to_wherever_the_block_is_seen_and_only_where_pages_are_unwatched() {
    let machine = Machine::anonymous();
    let accelerator = Arc::new(Manual::default());
    machine.memory.add_listener(&machine.space, Arc::<Manual>::clone(&accelerator));
    machine.memory.start_global_dirty_log(DirtyClient::Migration).unwrap();
    let cleared = || std::mem::take(&mut accelerator.pages().cleared);
    machine.memory.clear_dirty_log(&machine.block, 0, SIZE);
    machine.block.write(0, &[1]).unwrap();
    assert_eq!(machine.memory.take_dirty(DirtyClient::Migration, &machine.block, 0, SIZE), [0..PAGE]);
    assert_eq!(cleared(), [], "what this program writes is watched");
    accelerator.pages().written.insert(5, false);
    machine.memory.sync_dirty_log();
    assert_eq!(machine.memory.take_dirty(DirtyClient::Migration, &machine.block, 0, 5 * PAGE), []);
    assert_eq!(cleared(), []);
    let taken = machine.memory.take_dirty(DirtyClient::Migration, &machine.block, 0, SIZE);
    assert_eq!((taken, cleared()), (vec![5 * PAGE..6 * PAGE], vec![0..SIZE, 0..SIZE]));
    assert!(accelerator.pages().written.is_empty());
    // A part that the guest does not see has nobody to be told.
    machine
        .memory
        .transaction()
        .del_subregion(machine.root, machine.space.view().lookup(AT[0]).unwrap().region());
    machine.block.mark_dirty_unwatched(0, 1);
    assert_eq!(machine.memory.take_dirty(DirtyClient::Migration, &machine.block, 0, SIZE), [0..PAGE]);
    assert_eq!(cleared(), [0..SIZE]);
}

#[test]
fn whoever_joins_is_told_of_pages_that_are_not_watched() {
    let machine = Machine::anonymous();
    let accelerator = Arc::new(Manual::default());
    machine.memory.add_listener(&machine.space, Arc::<Manual>::clone(&accelerator));
    machine.memory.start_global_dirty_log(DirtyClient::Migration).unwrap();
    accelerator.pages().written.insert(5, false);
    machine.memory.sync_dirty_log();
    machine.memory.start_global_dirty_log(DirtyClient::DirtyRate).unwrap();
    // A write to page 5 is not seen now, and the other client has it watched before anybody looks again.
    assert_eq!(machine.memory.take_dirty(DirtyClient::Migration, &machine.block, 0, SIZE).len(), 1);
    machine.memory.sync_dirty_log();
    assert_eq!(machine.dirty(DirtyClient::DirtyRate), [5..6]);
}

#[test]
fn what_an_accelerator_holds_to_be_dirty_at_first_comes_once() {
    let machine = Machine::anonymous();
    let accelerator = Arc::new(Manual::default());
    machine.memory.add_listener(&machine.space, Arc::<Manual>::clone(&accelerator));
    accelerator.pages().written = (0..SIZE / PAGE).map(|page| (page, false)).collect();
    machine.memory.start_global_dirty_log(DirtyClient::Migration).unwrap();
    machine.memory.mark_all_dirty(DirtyClient::Migration, &machine.block);
    assert_eq!(machine.memory.take_dirty(DirtyClient::Migration, &machine.block, 0, SIZE), [0..SIZE]);
    machine.memory.sync_dirty_log();
    assert_eq!(machine.dirty(DirtyClient::Migration), []);
}

#[derive(Debug, Clone, Copy)]
enum Step {
    GuestWrites(u64),
    WeWrite(u64),
    Sync,
    /// A client takes a range and reads what it took.
    Take(usize, u64, u64),
    /// A client comes or goes.
    Toggle(usize),
    /// Somebody has pages watched again.
    Clear(u64, u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    // Few enough to be met again.
    let page = 0..8u64;
    proptest::collection::vec(
        prop_oneof![
            4 => page.clone().prop_map(Step::GuestWrites),
            2 => page.clone().prop_map(Step::WeWrite),
            2 => Just(Step::Sync),
            4 => (0usize..2, page.clone(), 1..40u64).prop_map(|(client, at, len)| Step::Take(client, at, len)),
            1 => (0usize..2).prop_map(Step::Toggle),
            1 => (page, 1..40u64).prop_map(|(at, len)| Step::Clear(at, len)),
        ],
        1..120,
    )
}

/// What a client has read so far, by page.
type Copy = Vec<[u8; 1]>;

fn read(machine: &Machine, page: u64) -> [u8; 1] {
    let mut byte = [0];
    machine.block.read(page * PAGE, &mut byte).unwrap();
    byte
}

proptest! {
    #[test]
    fn two_clients_that_share_an_accelerator_have_everything_in_the_end(steps in steps()) {
        const CLIENTS: [DirtyClient; 2] = [DirtyClient::Migration, DirtyClient::DirtyRate];
        let machine = Machine::anonymous();
        let accelerator = Arc::new(Manual::default());
        machine.memory.add_listener(&machine.space, Arc::<Manual>::clone(&accelerator));
        let mut copies: [Option<Copy>; 2] = [None, None];
        let mut value = 0u8;
        let take = |copies: &mut [Option<Copy>; 2], client: usize, offset, len| {
            let Some(copy) = &mut copies[client] else { return };
            for run in machine.memory.take_dirty(CLIENTS[client], &machine.block, offset, len) {
                for page in run.start / PAGE..run.end / PAGE {
                    copy[page as usize] = read(&machine, page);
                }
            }
        };
        for step in steps {
            value = value.wrapping_add(1);
            match step {
                Step::GuestWrites(page) => {
                    // Seen only if it is watched.
                    accelerator.pages().written.entry(page).or_insert(false);
                    // Past this program's marks.
                    let at = machine.block.host_address().wrapping_add((page * PAGE) as usize);
                    crate::ram::poke(at, value);
                }
                Step::WeWrite(page) => machine.block.write(page * PAGE, &[value]).unwrap(),
                Step::Sync => machine.memory.sync_dirty_log(),
                Step::Take(client, page, pages) => take(&mut copies, client, page * PAGE, pages * PAGE),
                Step::Toggle(client) if copies[client].is_some() => {
                    machine.memory.stop_global_dirty_log(CLIENTS[client]);
                    copies[client] = None;
                }
                Step::Toggle(client) => {
                    machine.memory.start_global_dirty_log(CLIENTS[client]).unwrap();
                    // Reads everything now, without a mark.
                    copies[client] = Some((0..SIZE / PAGE).map(|page| read(&machine, page)).collect());
                }
                Step::Clear(page, pages) => machine.memory.clear_dirty_log(&machine.block, page * PAGE, pages * PAGE),
            }
        }
        machine.memory.sync_dirty_log();
        for client in 0..2 {
            take(&mut copies, client, 0, SIZE);
            if let Some(copy) = &copies[client] {
                for page in 0..SIZE / PAGE {
                    prop_assert_eq!(copy[page as usize], read(&machine, page), "client {} page {}", client, page);
                }
            }
        }
    }
}

#[test]
fn a_client_that_takes_while_others_write_has_the_last_of_it() {
    const ROUNDS: u64 = 20_000;
    let machine = Machine::anonymous();
    let writers = 4;
    thread::scope(|scope| {
        let machine = &machine;
        let writers: Vec<_> = (0..writers)
            .map(|writer| {
                scope.spawn(move || {
                    for round in 1..=ROUNDS {
                        let at = writer * 8 * PAGE + round % 8 * PAGE;
                        match writer {
                            0 => machine.block.write(at, &round.to_le_bytes()).unwrap(),
                            1 => _ = machine.space.write(AT[0] + at, &round.to_le_bytes()),
                            2 => machine
                                .space
                                .view()
                                .guest_memory()
                                .write_obj(round, GuestAddress(AT[0] + at))
                                .unwrap(),
                            _ => machine.block.slice(at, 8).unwrap().get_ref::<u64>(0).unwrap().store(round),
                        }
                    }
                })
            })
            .collect();
        let value = |page: u64| {
            let mut bytes = [0; 8];
            machine.block.read(page * PAGE, &mut bytes).unwrap();
            u64::from_le_bytes(bytes)
        };
        // The log begins and ends while they write.
        while !writers.iter().all(|writer| writer.is_finished()) {
            machine.memory.start_global_dirty_log(DirtyClient::Migration).unwrap();
            let mut copy: Vec<u64> = (0..32).map(value).collect();
            let mut take = || {
                for run in machine.memory.take_dirty(DirtyClient::Migration, &machine.block, 0, SIZE) {
                    (run.start / PAGE..run.end / PAGE).for_each(|page| copy[page as usize] = value(page));
                }
            };
            while !writers.iter().all(|writer| writer.is_finished()) {
                take();
            }
            take();
            let last: Vec<u64> = (0..32).map(value).collect();
            assert_eq!(copy, last);
            machine.memory.stop_global_dirty_log(DirtyClient::Migration);
        }
    });
}
