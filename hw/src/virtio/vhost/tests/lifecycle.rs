//! Drivers that start, stop and reset, machines that stop and go on, devices that come and go.

use rustix::event::{PollFd, PollFlags, poll};

use super::super::message::{Request, protocol};
use super::*;

#[test]
fn a_guest_without_a_driver_gives_no_memory_away() {
    let world = World::new();
    world.map_page(0x100_0000_0000);
    let log = world.back_end.take_log();
    assert!(!log.iter().any(|request| request.contains("Mem") && request != "GetMaxMemSlots"), "{log:?}");
}

#[test]
fn a_start_gives_memory_then_rings() {
    let world = World::new();
    drop(world.back_end.wait(|state| state.log.last().is_some_and(|last| last == "GetConfig")));
    world.back_end.take_log();
    world.start_with(&[0, 1], World::ring);
    let state = world.back_end.wait(|state| state.rings.get(&1).is_some_and(|ring| ring.enabled));
    let ring = ["SetVringNum", "SetVringBase", "SetVringAddr", "SetVringCall", "SetVringKick"];
    let mut expected = vec!["SetFeatures", "AddMemReg"];
    expected.extend(ring.iter().chain(&ring));
    expected.extend(["SetVringEnable"; 2]);
    assert_eq!(state.log, expected);
    assert_eq!(state.features, 1 << 28 | 1 << 30 | 1 << 32);
    let regions: Vec<_> = state.regions.values().map(|region| (region.guest, region.size)).collect();
    assert_eq!(regions, [(0, 1 << 30)]);
    for queue in 0..2 {
        let ring = &state.rings[&(queue as u16)];
        assert_eq!((ring.size, ring.base, ring.addresses), (128, 0, World::ring(queue)));
    }
}

#[test]
fn notifications_go_to_the_back_end_and_interrupts_come_from_it() {
    let mut world = World::new();
    world.start();
    let kick = world.back_end.state().rings[&0].kick.as_ref().unwrap().try_clone().unwrap();
    let mut count = [0; 8];
    let mut kicks = || {
        poll(&mut [PollFd::new(&kick, PollFlags::IN)], None).unwrap();
        rustix::io::read(&kick, &mut count).unwrap();
        u64::from_ne_bytes(count)
    };
    assert_eq!(kicks(), 1, "kicked once for what was there before");
    world.write(NOTIFY, 2, 0);
    assert_eq!(kicks(), 1);
    world.write(NOTIFY + 4, 2, 1);
    assert!(rustix::io::read(&kick, &mut count).is_err(), "that was another queue");
    assert_eq!(world.read(ISR, 1), 0);
    world.back_end.interrupt(0);
    world.until(|world| world.read(ISR, 1) == 1);
}

#[test]
fn a_reset_ends_when_the_back_end_let_go_and_the_next_start_begins_anew() {
    let world = World::with(Script { stops_at: [(0, 9)].into(), ..Script::default() }, "");
    world.start();
    world.reset();
    assert!(world.back_end.state().rings.is_empty());
    world.start();
    assert_eq!(world.back_end.state().rings[&0].base, 0);
    assert_eq!(world.back_end.state().log.iter().filter(|request| *request == "AddMemReg").count(), 1);
}

#[test]
fn what_a_driver_writes_during_a_reset_is_lost() {
    let mut world = World::impatient();
    world.start();
    world.back_end.misbehave(Request::GetVringBase, Misdeed::Stall);
    world.set_status(0);
    assert_eq!(world.status(), RUNNING, "not reset yet");
    world.set_status(1);
    world.write(COMMON + 22, 2, 1);
    assert_eq!((world.status(), world.read(COMMON + 22, 2)), (RUNNING, 0));
    world.until(|world| world.status() == 0);
}

#[test]
fn without_bus_mastering_nobody_serves_the_rings() {
    let world = World::with(Script { stops_at: [(0, 9)].into(), ..Script::default() }, "");
    world.start();
    world.rig.config_write(SLOT, 0, 4, 3);
    drop(world.back_end.wait(|state| state.rings.is_empty()));
    assert_eq!(world.status(), RUNNING & !4);
    world.rig.config_write(SLOT, 0, 4, 7);
    world.set_status(RUNNING);
    let state = world.served();
    assert_eq!(state.rings[&0].base, 9, "it was not reset: it goes on where it was");
}

#[test]
fn rings_are_served_only_while_the_machine_runs() {
    let world = World::with(Script { stops_at: [(0, 40)].into(), ..Script::default() }, "");
    world.start();
    world.rig.machine.stop();
    assert!(world.back_end.state().rings.is_empty(), "before the stop is over");
    world.rig.machine.cont().unwrap();
    let state = world.served();
    assert_eq!(state.rings[&0].base, 40);
}

#[test]
fn a_driver_that_starts_while_the_machine_is_stopped_waits() {
    let world = World::new();
    world.rig.machine.stop();
    world.start_with(&[0], World::ring);
    world.rig.machine.cont().unwrap();
    drop(world.served());
}

#[test]
fn a_system_reset_takes_the_rings_back_before_it_is_over() {
    let world = World::with(Script { stops_at: [(0, 7)].into(), ..Script::default() }, "");
    world.start();
    world.rig.machine.request_reset(qapi::types::ShutdownCause::HostQmpSystemReset);
    world.rig.machine.carry_out_requests();
    assert!(world.back_end.state().rings.is_empty());
    world.map();
    assert_eq!(world.status(), 0);
    world.start();
    assert_eq!(world.back_end.state().rings[&0].base, 0);
}

#[test]
fn a_device_that_is_unplugged_lets_go_of_everything_and_can_come_back() {
    let mut world = World::new();
    for _ in 0..3 {
        world.start();
        qdev::device_del(&world.rig.machine, "d0").unwrap();
        world.rig.outl(0xae08, 1 << SLOT);
        world.until(|world| !world.rig.machine.chardevs().get("c0").unwrap().is_busy());
        world.try_add("").unwrap();
        world.map();
    }
    assert_eq!(world.back_end.state().connections, 4);
}

#[test]
fn the_cache_mode_is_the_byte_that_a_driver_may_write() {
    let world = World::new();
    assert_eq!(world.read(CONFIG + 32, 1), 32);
    world.write(CONFIG + 32, 1, 1);
    assert_eq!(world.read(CONFIG + 32, 1), 1, "at once");
    drop(world.back_end.wait(|state| state.script.config[32] == 1));
    world.write(CONFIG, 4, 0x1234);
    world.write(CONFIG + 34, 2, 7);
    assert_eq!((world.read(CONFIG, 4), world.read(CONFIG + 34, 2)), (0x0302_0100, 2));
}

#[test]
fn a_disk_that_changes_its_size_tells_the_driver() {
    let mut world = World::new();
    world.start();
    let generation = world.read(COMMON + 21, 1);
    world.back_end.state().script.config[0] = 200;
    world.back_end.request(&super::super::message::Header { request: 2, flags: 1, size: 0 }.to_bytes());
    world.until(|world| world.read(COMMON + 21, 1) != generation);
    assert_eq!(world.read(CONFIG, 1), 200);
    assert_eq!(world.read(ISR, 1) & 2, 2);
}

#[test]
fn notes_of_requests_under_way_go_to_the_next_back_end_but_not_across_a_reset() {
    let script = Script { protocol: protocol::KNOWN, ..Script::default() };
    let mut world = World::with(script, "reconnect-ms=10");
    world.start();
    let notes = world.back_end.state().inflight.unwrap();
    assert_eq!((notes.queues, notes.queue_size), (2, 128));
    world.back_end.hang_up();
    world.until(|world| world.back_end.state().connections == 2);
    world.until(|world| world.back_end.state().rings.get(&0).is_some_and(|ring| ring.enabled));
    let asked = |world: &World| {
        let state = world.back_end.state();
        let count = |name: &str| state.log.iter().filter(|request| *request == name).count();
        (count("GetInflightFd"), count("SetInflightFd"))
    };
    assert_eq!(asked(&world), (1, 2));
    world.reset();
    world.start();
    assert_eq!(asked(&world), (2, 3));
}
