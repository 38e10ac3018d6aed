//! Memory that comes and goes while a back end has it.

use ::memory::{DiscardManager, MemoryBackend};

use super::super::message::{Request, protocol};
use super::*;
use crate::mem::MemoryDevices;

const HIGH: u64 = 0x100_0000_0000;
/// Where the memory of [`sparse`] is, and the bytes of its parts.
const BASE: u64 = 0x1_0000_0000;
const PART: u64 = 256 << 20;

/// Guest addresses of what the back end has.
fn has(world: &World) -> Vec<u64> {
    world.back_end.state().regions.keys().copied().collect()
}

/// A virtio-mem device in four parts that are mapped, of which nothing is plugged: who says what is.
fn sparse(world: &World) -> Arc<DiscardManager> {
    let tree = world.rig.machine.tree();
    let options = [("size", Input::Keyval("1G")), ("share", Input::Keyval("on"))];
    let backend = tree.create_user_object("memory-backend-memfd", "mem0", options).unwrap();
    let device =
        world.rig.add("virtio-mem-pci,id=vm0,memdev=mem0,memslots=4,unplugged-protection=slot").unwrap();
    (device as qom::ObjectRef).set("requested-size", Input::Option("1G")).unwrap();
    MemoryBackend::from_object(&backend).unwrap().block().unwrap().discard_manager().unwrap()
}

#[test]
fn a_region_is_gone_at_the_back_end_before_the_change_is_over() {
    for slots in [true, false] {
        let mut script = Script::default();
        if !slots {
            script.protocol &= !protocol::CONFIGURE_MEM_SLOTS;
        }
        let world = World::with(script, "");
        let early = world.map_page(HIGH);
        world.start();
        let late = world.map_page(HIGH + 0x1000);
        assert_eq!(has(&world), [0, HIGH, HIGH + 0x1000]);
        world.unmap(early);
        assert_eq!(has(&world), [0, HIGH + 0x1000]);
        world.unmap(late);
        assert_eq!(has(&world), [0]);
    }
}

#[test]
fn memory_follows_while_the_driver_is_away_but_the_back_end_has_it() {
    let world = World::new();
    world.start();
    world.reset();
    let page = world.map_page(HIGH);
    assert!(world.back_end.state().regions.contains_key(&HIGH));
    world.unmap(page);
    assert!(!world.back_end.state().regions.contains_key(&HIGH));
}

#[test]
fn changes_that_are_no_matter_of_the_back_end_are_not_told() {
    let world = World::new();
    world.start();
    world.back_end.take_log();
    world.map_page(HIGH);
    let anonymous = world.rig.machine.memory().create_ram(RamSpec::anonymous("own", 4096)).unwrap();
    let mut tx = world.rig.machine.memory().transaction();
    let region = tx.ram(RegionDesc::new("own", 4096), anonymous);
    tx.add_subregion(world.rig.machine.system_region(), HIGH + 0x1000, region, 0);
    drop(tx);
    world.unmap(region);
    assert_eq!(world.back_end.take_log(), ["AddMemReg"]);
}

#[test]
fn rings_that_the_back_end_cannot_see_are_not_started() {
    let world = World::new();
    let nowhere = [HIGH, HIGH + 0x1000, HIGH + 0x2000];
    world.start_with(&[0], |_| nowhere);
    world.reset();
    assert!(!world.back_end.take_log().iter().any(|request| request.starts_with("SetVring")));
    world.start();
}

#[test]
fn more_regions_than_the_back_end_takes_cost_the_device_only() {
    let world = World::with(Script { slots: 3, ..Script::default() }, "");
    world.start();
    let pages = [HIGH, HIGH + 0x1000].map(|addr| world.map_page(addr));
    assert!(world.is_served());
    let last = world.map_page(HIGH + 0x2000);
    assert!(!world.is_served() && world.is_alive());
    world.unmap(last);
    pages.iter().for_each(|page| world.unmap(*page));
}

#[test]
fn a_back_end_that_does_not_let_go_is_cut_off_before_the_change_is_over() {
    for misdeed in [Misdeed::Stall, Misdeed::HangUp, Misdeed::Refuse] {
        let world = World::impatient();
        let page = world.map_page(HIGH);
        world.start();
        world.back_end.misbehave(Request::RemMemReg, misdeed);
        world.unmap(page);
        assert!(!world.is_served() && world.is_alive());
        let page = world.map_page(HIGH);
        world.unmap(page);
    }
}

#[test]
fn memory_of_which_nothing_is_plugged_is_given_to_nobody() {
    let world = World::new();
    let manager = sparse(&world);
    world.start();
    assert_eq!(has(&world), [0], "mapped, all four parts of them, but empty");
    // In two parts, as a guest plugs two blocks.
    for range in [0..2 << 20, 2 << 20..4 << 20, 2 * PART..2 * PART + (2 << 20)] {
        manager.populate(range).unwrap();
    }
    assert_eq!(has(&world), [0, BASE, BASE + 2 * PART]);
    manager.discard(0..2 << 20).unwrap();
    assert_eq!(has(&world), [0, BASE, BASE + 2 * PART]);
    manager.discard(2 << 20..4 << 20).unwrap();
    assert_eq!(has(&world), [0, BASE + 2 * PART], "gone before the pages are freed");
    assert_eq!(world.back_end.take_log().iter().filter(|r| r.ends_with("MemReg")).count(), 4);
    world.back_end.misbehave(Request::AddMemReg, Misdeed::Refuse);
    let vetoed = manager.populate(PART..PART + (2 << 20)).unwrap_err().to_string();
    assert!(vetoed.contains("'d0' refuses the memory"), "{vetoed}");
    assert!(manager.is_discarded(PART..2 * PART) && world.is_served(), "nothing but that came of it");
    assert_eq!(has(&world), [0, BASE + 2 * PART]);
    manager.populate(PART..PART + (2 << 20)).unwrap();
    assert_eq!(has(&world), [0, BASE + PART, BASE + 2 * PART]);
    manager.discard(PART..PART + (2 << 20)).unwrap();
    assert_eq!(has(&world), [0, BASE + 2 * PART], "what was refused is not counted");
    world.back_end.misbehave(Request::AddMemReg, Misdeed::HangUp);
    manager.populate(0..2 << 20).unwrap();
    assert!(!world.is_served(), "who is gone refuses nothing");
}

#[test]
fn memory_that_comes_with_plugged_blocks_is_given_once_the_change_is_complete() {
    let world = World::new();
    let manager = sparse(&world);
    let region = MemoryDevices::of(&world.rig.machine).devices()[0].region().unwrap();
    let show = |shown| world.rig.machine.memory().transaction().set_enabled(region, shown);
    world.start();
    manager.populate(0..4 << 20).unwrap();
    assert_eq!(has(&world), [0, BASE]);
    show(false);
    manager.populate(4 << 20..6 << 20).unwrap();
    assert_eq!(has(&world), [0]);
    show(true);
    assert_eq!(has(&world), [0, BASE]);
    // Each block counts once, for who follows it now.
    manager.discard(0..4 << 20).unwrap();
    assert_eq!(has(&world), [0, BASE]);
    manager.discard(4 << 20..6 << 20).unwrap();
    assert_eq!(has(&world), [0]);
    manager.populate(0..2 << 20).unwrap();
    show(false);
    // The guest has it already: nobody can be asked any more.
    world.back_end.misbehave(Request::AddMemReg, Misdeed::Refuse);
    show(true);
    assert!(!world.is_served() && world.is_alive());
}
