//! Whatever sections come and go, the back end has one region for each that can be shared, and never more than it takes.

use std::collections::BTreeSet;

use memory::{Backing, FileBacking, MemfdSpec, Memory, RamSpec, RegionDesc, create_memfd};
use proptest::prelude::*;

use super::super::channel::Channel;
use super::super::testing::{BackEnd, LONG, Script};
use super::*;

const PAGE: u64 = 4096;
/// Pieces of the file, a page each.
const PIECES: u64 = 12;

/// A section of a region of `backing` at `addr`.
fn section(backing: Backing, readonly: bool) -> Section {
    let memory = Memory::new();
    let block = memory.create_ram(RamSpec::anonymous("mem", 16 * PAGE).backing(backing)).unwrap();
    let mut tx = memory.transaction();
    let region = tx.ram(RegionDesc::new("mem", 16 * u128::from(PAGE)), Arc::clone(&block));
    tx.commit();
    Section {
        region,
        name: "mem".into(),
        block: Some(block),
        offset_in_region: 0,
        addr: 0,
        size: u128::from(PAGE),
        readonly,
        unmergeable: true,
        log: false,
    }
}

fn memfd(shared: bool) -> Backing {
    let file = create_memfd(&MemfdSpec { name: "test", ..Default::default() }, 16 * PAGE).unwrap();
    Backing::File(FileBacking { file, offset: 2 * PAGE, shared, readonly_fd: false })
}

/// The section with a page of the file at a page of the guest.
fn at(section: &Section, guest: u64, offset: u64) -> Section {
    Section { addr: guest * PAGE, offset_in_region: offset * PAGE, ..section.clone() }
}

#[test]
fn only_whole_pages_of_memory_that_others_can_map_and_the_guest_can_write_are_visible() {
    let shared = section(memfd(true), false);
    let region = visible(&at(&shared, 7, 3)).unwrap().body;
    assert_eq!(region, RegionBody { guest: 7 * PAGE, size: PAGE, offset: 5 * PAGE });
    assert!(visible(&section(Backing::AnonymousShared, false)).is_some());
    assert!(visible(&section(Backing::Anonymous, false)).is_none(), "without a descriptor");
    assert!(visible(&section(memfd(false), false)).is_none(), "private");
    assert!(visible(&section(memfd(true), true)).is_none(), "read-only for the guest");
    assert!(visible(&Section { block: None, ..shared.clone() }).is_none(), "a device");
    assert!(visible(&Section { addr: 100, ..shared.clone() }).is_none());
    assert!(visible(&Section { size: 100, ..shared }).is_none());
}

#[test]
fn what_is_covered_is_covered_by_one_region() {
    let shared = section(memfd(true), false);
    let mut regions = Regions::default();
    for piece in [at(&shared, 1, 0), at(&shared, 2, 1)] {
        regions.add(visible(&piece).unwrap(), false);
    }
    regions.add(visible(&at(&shared, 5, 5)).unwrap(), true);
    assert!(!regions.covers(5 * PAGE, 1), "nothing of it is plugged");
    assert!(regions.covers(PAGE, PAGE) && regions.covers(2 * PAGE, PAGE) && regions.covers(3 * PAGE - 1, 1));
    assert!(!regions.covers(2 * PAGE - 1, 2), "two mappings at the back end");
    assert!(!regions.covers(0, 1) && !regions.covers(3 * PAGE, 1) && !regions.covers(u64::MAX, 2));
}

#[test]
fn more_regions_than_the_back_end_takes_are_a_fault_and_none_is_given() {
    let shared = section(memfd(true), false);
    let back_end = BackEnd::new(Script { slots: 2, ..Script::default() });
    let deadline = Deadline::after(LONG);
    let front = FrontEnd::negotiate(Channel::new(back_end.connect()), deadline).unwrap();
    let mut regions = Regions::default();
    for guest in 0..3 {
        regions.add(visible(&at(&shared, guest, guest)).unwrap(), guest == 2);
    }
    assert_eq!(
        regions.give(&front, deadline).unwrap_err().to_string(),
        "vhost backend memory slots limit (2) is less than current number of used (3) memory slots."
    );
    assert!(back_end.state().regions.is_empty());
}

/// A piece appears at a place of the guest, or what is there goes.
#[derive(Debug, Clone)]
enum Step {
    Add {
        guest: u64,
        offset: u64,
    },
    Remove {
        guest: u64,
    },
    /// What is there is one whose unplugged memory is protected; a piece of it is plugged or unplugged.
    Plug {
        guest: u64,
        plug: bool,
    },
    Give,
    NewBackEnd,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..PIECES, 0..PIECES).prop_map(|(guest, offset)| Step::Add { guest, offset }),
        3 => (0..PIECES).prop_map(|guest| Step::Remove { guest }),
        4 => (0..PIECES, any::<bool>()).prop_map(|(guest, plug)| Step::Plug { guest, plug }),
        3 => Just(Step::Give),
        1 => Just(Step::NewBackEnd),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn the_back_end_has_what_there_is(steps in prop::collection::vec(step(), 1..60), slots in any::<bool>()) {
        let shared = section(memfd(true), false);
        let mut script = Script { slots: PIECES, ..Script::default() };
        if !slots {
            script.protocol &= !protocol::CONFIGURE_MEM_SLOTS;
        }
        let back_end = BackEnd::new(script);
        let deadline = Deadline::after(LONG);
        let connect = || FrontEnd::negotiate(Channel::new(back_end.connect()), deadline).unwrap();
        let mut front = connect();
        let mut regions = Regions::default();
        // The naive model: which page of the file is at a place, and how much of it is plugged; odd pages are sparse.
        let mut model = BTreeMap::new();
        let mut given = BTreeMap::new();
        let limit = if slots { PIECES } else { 8 };
        for step in steps {
            match step {
                Step::Add { guest, offset } if (model.len() as u64) < limit && !model.contains_key(&guest) => {
                    let sparse = offset % 2 == 1;
                    model.insert(guest, (offset, if sparse { 0 } else { 1 }));
                    regions.add(visible(&at(&shared, guest, offset)).unwrap(), sparse);
                }
                Step::Remove { guest } => {
                    model.remove(&guest);
                    regions.remove(guest * PAGE);
                }
                Step::Plug { guest, plug } => {
                    if let Some((offset, plugged)) = model.get_mut(&guest) {
                        let sparse = *offset % 2 == 1;
                        match plug {
                            true if sparse => *plugged += 1,
                            false if sparse && *plugged > 0 => *plugged -= 1,
                            _ => continue,
                        }
                        let crosses = *plugged == u64::from(plug);
                        let changed = regions.is_changed() || crosses;
                        regions.replug(guest * PAGE, if plug { 512 } else { -512 });
                        prop_assert_eq!(regions.is_changed(), changed);
                    }
                }
                Step::Add { .. } => {}
                Step::Give => {
                    back_end.take_log();
                    regions.give(&front, deadline).unwrap();
                    let state = back_end.state();
                    let has: BTreeMap<_, _> =
                        state.regions.values().map(|r| (r.guest / PAGE, r.offset / PAGE - 2)).collect();
                    let wanted: BTreeMap<_, _> =
                        model.iter().filter(|(_, (_, plugged))| *plugged > 0).map(|(g, (o, _))| (*g, *o)).collect();
                    prop_assert_eq!(&has, &wanted);
                    prop_assert_eq!((regions.given(), regions.len()), (wanted.len(), model.len()));
                    // No message about what stayed.
                    let changed: BTreeSet<_> = given.iter().chain(&wanted).filter(|(guest, offset)| {
                        given.get(guest) != Some(offset) || wanted.get(guest) != Some(offset)
                    }).collect();
                    let expected = if slots { changed.len() } else { usize::from(!changed.is_empty()) };
                    let told: Vec<_> = state.log.iter().filter(|request| request.contains("Mem")).collect();
                    prop_assert_eq!(told.len(), expected);
                    prop_assert!(told.is_sorted_by_key(|request| request.contains("Add")), "what goes is first");
                    prop_assert!(!regions.is_changed());
                    drop(state);
                    given = wanted;
                }
                Step::NewBackEnd => {
                    front = connect();
                    regions.forget();
                    prop_assert!(regions.is_changed());
                    given = BTreeMap::new();
                }
            }
        }
    }
}
