//! Plugging and unplugging real memory: what the guest reads, what the host gets back, what a veto leaves.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::sync::Mutex;

use memory::{
    AddressSpace, Backing, DiscardListener, FileBacking, MemTx, MemfdSpec, Memory, Owner, RamSpec,
    RegionDesc, create_memfd,
};
use proptest::prelude::*;

use super::super::request::{BlockState, Span};
use super::super::sizes::usable_region;
use super::*;
use crate::mem::memslots::sizing::Parts;
use crate::mem::memslots::{Memslots, Names, Policy};

const M: u64 = 1 << 20;
const BLOCK: u64 = 2 * M;
const REGION: u64 = 32 * M;
const ADDR: u64 = 0x1_4000_0000;
const LAYOUT: Layout = Layout { addr: ADDR, region_size: REGION, block_size: BLOCK };

fn unit_on(backing: Backing, requested: u64, prealloc: Option<u32>) -> Unit {
    let spec = RamSpec::anonymous("mem0", REGION).backing(backing);
    let block = Memory::new().create_ram(spec).unwrap();
    let blocks = Arc::new(DiscardManager::new(REGION, BLOCK));
    Unit::new(LAYOUT, block, blocks, None, prealloc, requested)
}

fn unit(requested: u64) -> Unit {
    unit_on(Backing::Anonymous, requested, None)
}

fn span(first: u64, blocks: u16) -> Span {
    Span { addr: ADDR + first * BLOCK, blocks }
}

fn plug(unit: &mut Unit, first: u64, blocks: u16) -> Response {
    unit.serve(Request::Plug(span(first, blocks)), false)
}

fn unplug(unit: &mut Unit, first: u64, blocks: u16) -> Response {
    unit.serve(Request::Unplug(span(first, blocks)), false)
}

fn fill(unit: &Unit, first: u64, blocks: u64) {
    let bytes = vec![0x5a; (blocks * BLOCK) as usize];
    unit.block().write(first * BLOCK, &bytes).unwrap();
}

/// Pages of the block that are in memory, from the kernel's description of the mapping.
fn resident(unit: &Unit) -> u64 {
    let start = unit.block().host_address() as usize;
    let text = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let (mut inside, mut kib) = (false, 0);
    for line in text.lines() {
        let first = line.split_whitespace().next().unwrap_or_default();
        if let Some((low, high)) = first.split_once('-') {
            let parse = |s: &str| usize::from_str_radix(s, 16).ok();
            // The kernel may have split the mapping; every part of it counts.
            inside = parse(low)
                .zip(parse(high))
                .is_some_and(|(low, high)| low < start + REGION as usize && high > start);
        } else if inside && first == "Rss:" {
            kib += line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap();
        }
    }
    kib / 4
}

#[test]
fn a_new_device_costs_no_memory_and_offers_its_configuration() {
    let unit = unit(8 * M);
    assert_eq!(resident(&unit), 0);
    let config = unit.config(1);
    let word = |at: usize| u64::from_le_bytes(config[at..at + 8].try_into().unwrap());
    assert_eq!([0, 8, 16, 24, 32, 40, 48].map(word), [BLOCK, 1, ADDR, REGION, REGION, 0, 8 * M]);
}

#[test]
fn a_tebibyte_costs_next_to_nothing_until_it_is_used() {
    // Anonymous memory only: code that is paged in on the way is not the device's. nextest gives each test its own
    // process, so nobody else allocates meanwhile.
    let anonymous_kib = || -> u64 {
        let text = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = text.lines().find_map(|l| l.strip_prefix("RssAnon:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    };
    let before = anonymous_kib();
    let size = 1 << 40;
    let layout = Layout { region_size: size, ..LAYOUT };
    let spec = RamSpec { reserve: false, ..RamSpec::anonymous("mem0", size) };
    let block = Memory::new().create_ram(spec).unwrap();
    let blocks = Arc::new(DiscardManager::new(size, BLOCK));
    let mut unit = Unit::new(layout, block, blocks, None, None, size);
    assert_eq!(plug(&mut unit, 1000, 65535), Response::Ack);
    assert_eq!(unit.serve(Request::UnplugAll, false), Response::Ack);
    let grown = anonymous_kib().saturating_sub(before);
    assert!(grown < 192, "{grown} KiB; the bitmap alone is 64");
}

#[test]
fn the_usable_region_grows_at_once_and_shrinks_with_unplug_all() {
    let layout = Layout { region_size: 1 << 30, ..LAYOUT };
    let block = Memory::new().create_ram(RamSpec::anonymous("mem0", 1 << 30)).unwrap();
    let blocks = Arc::new(DiscardManager::new(1 << 30, BLOCK));
    let mut unit = Unit::new(layout, block, blocks, None, None, 64 * M);
    assert_eq!(unit.usable(), 320 * M);
    unit.set_requested(128 * M);
    assert_eq!(unit.usable(), 384 * M);
    unit.set_requested(2 * M);
    assert_eq!(unit.usable(), 384 * M, "nothing is taken away");
    assert_eq!(
        unit.serve(Request::UnplugAll, true),
        Response::Ack,
        "busy does not matter when nothing is plugged"
    );
    assert_eq!(unit.usable(), 258 * M);
    unit.set_requested(0);
    unit.system_reset(false);
    assert_eq!(unit.usable(), 0);
    assert_eq!(unit.serve(Request::State(span(0, 1)), false), Response::Error);
}

#[test]
fn a_block_that_comes_back_is_zero() {
    let mut unit = unit(8 * M);
    assert_eq!(plug(&mut unit, 0, 4), Response::Ack);
    fill(&unit, 0, 4);
    assert_eq!(unplug(&mut unit, 1, 2), Response::Ack);
    assert_eq!(unit.size(), 4 * M);
    assert_eq!(plug(&mut unit, 1, 1), Response::Ack);
    let mut bytes = [1; 16];
    unit.block().read(BLOCK + 100, &mut bytes).unwrap();
    assert_eq!(bytes, [0; 16]);
    unit.block().read(100, &mut bytes).unwrap();
    assert_eq!(bytes, [0x5a; 16], "its neighbour keeps its contents");
    assert_eq!(unit.serve(Request::State(span(0, 4)), false), Response::State(BlockState::Mixed));
}

#[test]
fn a_system_reset_unplugs_unless_somebody_forbids_it() {
    let mut unit = unit(8 * M);
    plug(&mut unit, 0, 4);
    unit.system_reset(true);
    assert_eq!(unit.size(), 8 * M);
    unit.system_reset(false);
    assert_eq!(unit.size(), 0);
}

fn memfd(shared: bool) -> (Backing, std::fs::File) {
    let file = create_memfd(&MemfdSpec::default(), REGION).unwrap();
    let watch = file.try_clone().unwrap();
    (Backing::File(FileBacking { file, offset: 0, shared, readonly_fd: false }), watch)
}

fn on_disk(shared: bool) -> (Backing, std::fs::File) {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&vec![1; REGION as usize]).unwrap();
    let watch = file.try_clone().unwrap();
    (Backing::File(FileBacking { file, offset: 0, shared, readonly_fd: false }), watch)
}

/// Bytes that the file occupies.
fn occupied(file: &std::fs::File) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    file.metadata().unwrap().blocks() * 512
}

#[test]
fn unplugged_anonymous_memory_is_given_back() {
    for backing in [Backing::Anonymous, Backing::AnonymousShared] {
        let mut unit = unit_on(backing, REGION, None);
        plug(&mut unit, 0, 16);
        fill(&unit, 0, 16);
        assert_eq!(resident(&unit), REGION / 4096);
        unplug(&mut unit, 4, 8);
        assert_eq!(resident(&unit), REGION / 4096 / 2);
        unit.serve(Request::UnplugAll, false);
        assert_eq!(resident(&unit), 0);
    }
}

#[test]
fn unplugged_file_memory_is_given_back_by_mapping_and_file() {
    for (backing, file) in [memfd(true), memfd(false), on_disk(true), on_disk(false)] {
        let shared = matches!(&backing, Backing::File(f) if f.shared);
        let mut unit = unit_on(backing, REGION, None);
        plug(&mut unit, 0, 16);
        fill(&unit, 0, 16);
        let full = occupied(&file);
        assert!(full >= REGION || !shared, "a private mapping writes to its own pages");
        assert_eq!(resident(&unit), REGION / 4096);
        unplug(&mut unit, 4, 8);
        assert_eq!(resident(&unit), REGION / 4096 / 2, "shared {shared}");
        assert!(occupied(&file) <= full / 2 + M, "shared {shared}");
        unit.serve(Request::UnplugAll, false);
        assert_eq!(resident(&unit), 0);
        assert!(occupied(&file) < M, "shared {shared}");
    }
}

#[test]
fn preallocated_blocks_are_there_before_the_guest_touches_them() {
    let mut unit = unit_on(Backing::Anonymous, REGION, Some(3));
    assert_eq!(plug(&mut unit, 3, 2), Response::Ack);
    assert_eq!(resident(&unit), 2 * BLOCK / 4096);
    unplug(&mut unit, 3, 2);
    assert_eq!(resident(&unit), 0);
}

/// Refuses whatever touches one byte, and remembers what it holds.
struct Picky {
    refuses: u64,
    holds: Mutex<BTreeSet<u64>>,
}

impl DiscardListener for Picky {
    fn populate(&self, range: Range<u64>) -> Result<(), String> {
        if range.contains(&self.refuses) {
            return Err("no".into());
        }
        self.holds.lock().unwrap().extend(range.step_by(BLOCK as usize));
        Ok(())
    }
    fn discard(&self, range: Range<u64>) {
        self.holds.lock().unwrap().retain(|at| !range.contains(at));
    }
}

#[test]
fn a_veto_is_busy_and_leaves_nothing_half_plugged() {
    let mut unit = unit_on(Backing::Anonymous, REGION, Some(3));
    let picky = Arc::new(Picky { refuses: 5 * BLOCK, holds: Mutex::default() });
    unit.blocks().register(0..REGION, Arc::clone(&picky) as _).unwrap();
    assert_eq!(plug(&mut unit, 4, 2), Response::Busy);
    assert_eq!((unit.size(), resident(&unit)), (0, 0), "pages that were allocated for it are gone");
    assert!(picky.holds.lock().unwrap().is_empty());
    assert_eq!(plug(&mut unit, 3, 2), Response::Ack);
    assert_eq!(picky.holds.lock().unwrap().len(), 2);
    unit.serve(Request::UnplugAll, false);
    assert!(picky.holds.lock().unwrap().is_empty());
}

/// Looks at the memory when it is told that a part goes: the pages must still be there.
struct Witness {
    block: Arc<RamBlock>,
    seen: Mutex<Vec<u8>>,
}

impl DiscardListener for Witness {
    fn populate(&self, _range: Range<u64>) -> Result<(), String> {
        Ok(())
    }
    fn discard(&self, range: Range<u64>) {
        let mut byte = [0];
        self.block.read(range.start, &mut byte).unwrap();
        self.seen.lock().unwrap().push(byte[0]);
    }
}

#[test]
fn listeners_are_told_before_pages_are_freed() {
    let mut unit = unit(REGION);
    let witness = Arc::new(Witness { block: Arc::clone(unit.block()), seen: Mutex::default() });
    unit.blocks().register(0..REGION, Arc::clone(&witness) as _).unwrap();
    plug(&mut unit, 0, 3);
    fill(&unit, 0, 3);
    unplug(&mut unit, 0, 1);
    unit.serve(Request::UnplugAll, false);
    assert_eq!(*witness.seen.lock().unwrap(), [0x5a, 0x5a]);
}

#[test]
fn a_file_that_cannot_be_punched_keeps_its_blocks_plugged() {
    let file = tempfile::tempfile().unwrap();
    file.set_len(REGION).unwrap();
    let backing = Backing::File(FileBacking { file, offset: 0, shared: false, readonly_fd: true });
    let mut unit = unit_on(backing, REGION, None);
    plug(&mut unit, 0, 4);
    assert_eq!(unplug(&mut unit, 0, 1), Response::Busy);
    assert_eq!(unit.serve(Request::UnplugAll, false), Response::Busy);
    assert_eq!(unit.size(), 4 * BLOCK);
}

/// A device in four parts of four blocks, and an address space that shows them.
fn in_parts(policy: Policy, backing: Backing) -> (Unit, Arc<AddressSpace>) {
    let memory = Memory::new();
    let block = memory.create_ram(RamSpec::anonymous("mem0", REGION).backing(backing)).unwrap();
    let mut tx = memory.transaction();
    let region = tx.ram(RegionDesc::new("mem0", REGION.into()), Arc::clone(&block));
    let blocks = Arc::new(DiscardManager::new(REGION, BLOCK));
    tx.set_discard_manager(region, Some(Arc::clone(&blocks))).unwrap();
    drop(tx);
    let names = Names { container: "parts", part: "part" };
    let parts = Parts { size: 4 * BLOCK, count: 4 };
    let slots = Memslots::new(&memory, policy, names, &Owner::None, region, REGION, parts);
    let space = memory.transaction().address_space("test", slots.container());
    (Unit::new(LAYOUT, block, blocks, Some(slots), None, 0), space)
}

fn mapped(unit: &Unit) -> u64 {
    unit.slots().unwrap().mapped()
}

#[test]
fn parts_are_mapped_while_blocks_in_them_are_plugged() {
    let (mut unit, _space) = in_parts(Policy::WhilePlugged, Backing::Anonymous);
    unit.set_requested(REGION);
    assert_eq!(mapped(&unit), 0);
    plug(&mut unit, 3, 2);
    assert_eq!(mapped(&unit), 2);
    unplug(&mut unit, 4, 1);
    assert_eq!(mapped(&unit), 1);
    plug(&mut unit, 12, 4);
    assert_eq!(mapped(&unit), 2);
    unit.system_reset(false);
    assert_eq!(mapped(&unit), 0);
}

#[test]
fn parts_are_mapped_while_they_are_usable() {
    let (mut unit, space) = in_parts(Policy::WhileUsable, Backing::Anonymous);
    assert_eq!(mapped(&unit), 0);
    // Small as the region is, all of it is usable as soon as anything is requested.
    unit.set_requested(BLOCK);
    assert_eq!(mapped(&unit), 4);
    assert_eq!(plug(&mut unit, 0, 1), Response::Ack);
    fill(&unit, 0, 1);
    assert_eq!(space.read_uint(0, 1), (0x5a, MemTx::Ok));
    unit.set_requested(0);
    assert_eq!(mapped(&unit), 4, "the usable region does not shrink under the guest");
    assert_eq!(unplug(&mut unit, 0, 1), Response::Ack);
    assert_eq!(mapped(&unit), 4);
    unit.set_requested(BLOCK);
    plug(&mut unit, 0, 1);
    unit.set_requested(0);
    unit.system_reset(true);
    assert_eq!((mapped(&unit), unit.size()), (4, BLOCK), "somebody forbids it");
    assert_eq!(unit.serve(Request::UnplugAll, false), Response::Ack);
    assert_eq!((mapped(&unit), unit.usable()), (0, 0));
    assert_eq!(space.read_uint(0, 1).1, MemTx::DecodeError);
    assert_eq!(unit.serve(Request::UnplugAll, false), Response::Ack, "and again");
}

/// Looks at the guest's address space when it is told that a part goes.
struct Lookout {
    space: Arc<AddressSpace>,
    seen: Mutex<Vec<MemTx>>,
}

impl DiscardListener for Lookout {
    fn populate(&self, _range: Range<u64>) -> Result<(), String> {
        Ok(())
    }
    fn discard(&self, range: Range<u64>) {
        self.seen.lock().unwrap().push(self.space.read_uint(range.start, 1).1);
    }
}

#[test]
fn parts_are_gone_before_listeners_are_told_and_pages_are_freed() {
    for policy in [Policy::WhilePlugged, Policy::WhileUsable] {
        let (mut unit, space) = in_parts(policy, Backing::Anonymous);
        let lookout = Arc::new(Lookout { space, seen: Mutex::default() });
        unit.blocks().register(0..REGION, Arc::clone(&lookout) as _).unwrap();
        unit.set_requested(REGION);
        plug(&mut unit, 0, 16);
        unit.set_requested(0);
        unit.serve(Request::UnplugAll, false);
        assert_eq!(*lookout.seen.lock().unwrap(), [MemTx::DecodeError], "{policy:?}");
    }
}

#[test]
fn parts_stay_when_the_host_does_not_take_the_memory_back() {
    for policy in [Policy::WhilePlugged, Policy::WhileUsable] {
        let file = tempfile::tempfile().unwrap();
        file.set_len(REGION).unwrap();
        let backing = FileBacking { file, offset: 0, shared: false, readonly_fd: true };
        let (mut unit, _space) = in_parts(policy, Backing::File(backing));
        unit.set_requested(REGION);
        plug(&mut unit, 0, 16);
        unit.set_requested(0);
        assert_eq!(unit.serve(Request::UnplugAll, false), Response::Busy);
        assert_eq!((mapped(&unit), unit.usable(), unit.size()), (4, REGION, REGION), "{policy:?}");
    }
}

#[derive(Debug, Clone)]
enum Step {
    Plug(u64, u16),
    Unplug(u64, u16),
    UnplugAll,
    State(u64, u16),
    Request(u64),
    Busy(bool),
    Reset,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let range = || (0u64..18, 0u16..6);
    let step = prop_oneof![
        6 => range().prop_map(|(a, n)| Step::Plug(a, n)),
        4 => range().prop_map(|(a, n)| Step::Unplug(a, n)),
        1 => Just(Step::UnplugAll),
        3 => range().prop_map(|(a, n)| Step::State(a, n)),
        3 => (0u64..17).prop_map(Step::Request),
        1 => any::<bool>().prop_map(Step::Busy),
        1 => Just(Step::Reset),
    ];
    proptest::collection::vec(step, 0..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Any guest and any user: the device agrees with a set of block numbers, request by request.
    #[test]
    fn the_device_agrees_with_a_set_of_blocks(steps in steps()) {
        let mut unit = unit(0);
        let mut model = BTreeSet::new();
        let (mut requested, mut usable, mut busy) = (0, 0, false);
        for step in steps {
            let range = |a: u64, n: u16| a..a + u64::from(n);
            let valid = |a: u64, n: u16, usable: u64| n > 0 && range(a, n).end * BLOCK <= usable;
            match step {
                Step::Request(blocks) => {
                    requested = blocks.min(16) * BLOCK;
                    unit.set_requested(requested);
                    usable = usable.max(usable_region(requested, REGION, BLOCK));
                }
                Step::Busy(b) => busy = b,
                Step::Reset => {
                    unit.system_reset(busy);
                    if !busy || model.is_empty() {
                        model.clear();
                        usable = usable_region(requested, REGION, BLOCK);
                    }
                }
                Step::Plug(a, n) => {
                    let expected = if !valid(a, n, usable) {
                        Response::Error
                    } else if (model.len() as u64 + u64::from(n)) * BLOCK > requested {
                        Response::Nack
                    } else if range(a, n).any(|b| model.contains(&b)) {
                        Response::Error
                    } else if busy {
                        Response::Busy
                    } else {
                        model.extend(range(a, n));
                        Response::Ack
                    };
                    prop_assert_eq!(unit.serve(Request::Plug(span(a, n)), busy), expected);
                }
                Step::Unplug(a, n) => {
                    let expected = if !valid(a, n, usable) || !range(a, n).all(|b| model.contains(&b)) {
                        Response::Error
                    } else if busy {
                        Response::Busy
                    } else {
                        model.retain(|b| !range(a, n).contains(b));
                        Response::Ack
                    };
                    prop_assert_eq!(unit.serve(Request::Unplug(span(a, n)), busy), expected);
                }
                Step::UnplugAll => {
                    let expected = if busy && !model.is_empty() {
                        Response::Busy
                    } else {
                        model.clear();
                        usable = usable_region(requested, REGION, BLOCK);
                        Response::Ack
                    };
                    prop_assert_eq!(unit.serve(Request::UnplugAll, busy), expected);
                }
                Step::State(a, n) => {
                    let expected = if !valid(a, n, usable) {
                        Response::Error
                    } else if range(a, n).all(|b| model.contains(&b)) {
                        Response::State(BlockState::Plugged)
                    } else if range(a, n).any(|b| model.contains(&b)) {
                        Response::State(BlockState::Mixed)
                    } else {
                        Response::State(BlockState::Unplugged)
                    };
                    prop_assert_eq!(unit.serve(Request::State(span(a, n)), busy), expected);
                }
            }
            prop_assert_eq!((unit.size(), unit.usable()), (model.len() as u64 * BLOCK, usable));
            let mut populated = BTreeSet::new();
            unit.blocks().replay_populated(0..REGION, |run| populated.extend(run.step_by(BLOCK as usize).map(|b| b / BLOCK)));
            prop_assert_eq!(&populated, &model);
        }
    }
}
