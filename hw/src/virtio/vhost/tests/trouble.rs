//! Back ends that die, stall, or answer nonsense: they cost the machine one device.

use super::super::message::{Header, Request, protocol};
use super::*;

/// What a back end says of its own accord.
fn say(request: u32, flags: u32, size: u32) -> Vec<u8> {
    Header { request, flags, size }.to_bytes().to_vec()
}

#[test]
fn a_back_end_that_comes_back_goes_on_behind_what_was_used() {
    let mut world = World::with(Script { stops_at: [(0, 3)].into(), ..Script::default() }, "reconnect-ms=10");
    world.start();
    let page = world.map_page(0x100_0000_0000);
    world.write(World::ring(0)[2] + 2, 2, 21);
    world.back_end.hang_up();
    world.until(|world| world.back_end.state().connections == 2);
    world.until(|world| world.back_end.state().rings.get(&0).is_some_and(|ring| ring.enabled));
    {
        let state = world.back_end.state();
        assert_eq!((state.rings[&0].base, state.rings[&0].addresses), (21, World::ring(0)));
        assert_eq!(state.regions.len(), 2);
    }
    assert_eq!(world.status(), RUNNING, "the driver notices nothing");
    world.unmap(page);
    world.rig.machine.stop();
    world.rig.machine.cont().unwrap();
    let state = world.served();
    assert_eq!(state.rings[&0].base, 3, "a back end that stops in order knows better");
}

#[test]
fn without_reconnect_requests_wait_and_everything_else_goes_on() {
    let mut world = World::new();
    world.start();
    world.back_end.hang_up();
    world.until(|world| !world.is_served());
    world.until(|world| !world.rig.machine.chardevs().get("c0").unwrap().is_open());
    world.write(NOTIFY, 2, 0);
    assert_eq!(world.status(), RUNNING);
    world.rig.machine.stop();
    world.rig.machine.cont().unwrap();
    world.reset();
    world.start_with(&[0], World::ring);
    world.reset();
    assert!(world.is_alive() && world.back_end.state().connections == 1);
}

#[test]
fn a_back_end_that_stalls_is_waited_for_once_whatever_is_asked_of_it() {
    type Way = fn(&mut World);
    let ways: [(Request, Way); 5] = [
        (Request::GetVringBase, |world| world.reset()),
        (Request::GetVringBase, |world| world.rig.machine.stop()),
        (Request::SetVringEnable, |world| {
            world.rig.machine.request_reset(qapi::types::ShutdownCause::HostQmpSystemReset);
            world.rig.machine.carry_out_requests();
        }),
        (Request::SetVringEnable, |world| {
            qdev::device_del(&world.rig.machine, "d0").unwrap();
            world.rig.outl(0xae08, 1 << SLOT);
            world.until(|world| !world.rig.machine.chardevs().get("c0").unwrap().is_busy());
        }),
        (Request::AddMemReg, |world| {
            world.map_page(0x100_0000_0000);
        }),
    ];
    for (request, way) in ways {
        let mut world = World::impatient();
        world.start();
        world.back_end.misbehave(request, Misdeed::Stall);
        way(&mut world);
        world.back_end.take_log();
        assert!(world.is_alive());
        let page = world.map_page(0x200_0000_0000);
        world.unmap(page);
        assert_eq!(world.back_end.take_log(), [""; 0], "nobody asks it again");
    }
}

#[test]
fn a_back_end_that_stalls_while_the_driver_starts_holds_nobody_up() {
    let world = World::new();
    world.back_end.misbehave(Request::AddMemReg, Misdeed::Stall);
    world.start_with(&[0], World::ring);
    world.write(NOTIFY, 2, 0);
    drop(world.back_end.wait(State::is_stalled));
    assert!(world.is_alive());
    // Whoever had waited for it would have lost it.
    assert!(world.back_end.state().is_stalled());
    world.back_end.hang_up();
}

#[test]
fn nonsense_on_the_back_ends_own_socket_ends_the_connection() {
    let endless = [say(2, 1, 0), say(2, 1, 0), say(9, 1, 0)].concat();
    for bytes in
        [say(3, 1, 0), say(2, 1, 8), say(2, 5, 0), say(2, 2, 0), say(u32::MAX, u32::MAX, u32::MAX), endless]
    {
        let mut world = World::new();
        world.start();
        world.back_end.request(&bytes);
        world.until(|world| !world.rig.machine.chardevs().get("c0").unwrap().is_open());
        assert!(!world.is_served() && world.is_alive());
    }
}

#[test]
fn a_flood_of_changes_that_change_nothing_interrupts_nobody() {
    let mut world = World::new();
    world.start();
    let generation = world.read(COMMON + 21, 1);
    world.back_end.take_log();
    for _ in 0..500 {
        world.back_end.request(&say(2, 1, 0));
        world.rig.turn();
    }
    world.until(|world| world.back_end.state().log.iter().any(|request| request == "GetConfig"));
    world.back_end.state().script.config[1] = 77;
    world.back_end.request(&say(2, 1, 0));
    world.until(|world| world.read(CONFIG + 1, 1) == 77);
    world.until(|world| world.read(COMMON + 21, 1) == generation + 1);
}

#[test]
fn a_back_end_that_comes_back_with_less_than_it_had_is_sent_away() {
    let less: [fn(&mut Script); 5] = [
        |script| script.features &= !(1 << 9),
        |script| script.features &= !(1 << 29),
        |script| script.queues = 1,
        |script| script.slots = 63,
        |script| script.protocol &= !protocol::CONFIG,
    ];
    for change in less {
        let mut world = World::with(Script::default(), "reconnect-ms=10");
        world.start();
        let whole = world.back_end.state().script.clone();
        change(&mut world.back_end.state().script);
        world.back_end.misbehave(Request::SetConfig, Misdeed::HangUp);
        world.write(CONFIG + 32, 1, 1);
        world.until(|world| world.back_end.state().connections >= 3);
        assert!(!world.is_served() && world.is_alive());
        world.back_end.state().script = whole;
        world.until(World::is_served);
    }
}

#[test]
fn a_back_end_that_stalls_when_it_comes_back_is_waited_for_by_nobody() {
    let mut world = World::with(Script::default(), "reconnect-ms=10");
    world.start();
    world.back_end.misbehave(Request::GetFeatures, Misdeed::Stall);
    world.back_end.misbehave(Request::SetConfig, Misdeed::HangUp);
    world.write(CONFIG + 32, 1, 1);
    world.until(|world| world.back_end.state().is_stalled());
    world.rig.machine.stop();
    world.rig.machine.cont().unwrap();
    world.reset();
    let page = world.map_page(0x100_0000_0000);
    world.unmap(page);
    world.start_with(&[0], World::ring);
    world.rig.machine.request_reset(qapi::types::ShutdownCause::HostQmpSystemReset);
    world.rig.machine.carry_out_requests();
    world.rig.turn();
    // Whoever had waited for it would have lost it.
    assert!(world.back_end.state().is_stalled());
}

#[test]
fn a_back_end_that_stalled_is_tried_again() {
    let mut world = World::with_disk(",x-pliant-timeout-ms=100", Script::default(), "reconnect-ms=10");
    world.start();
    world.back_end.state().script.misdeeds = vec![(Request::GetFeatures, Misdeed::Stall); 3];
    world.back_end.misbehave(Request::SetConfig, Misdeed::Stall);
    world.write(CONFIG + 32, 1, 1);
    world.until(|world| world.back_end.state().connections >= 5 && world.is_served());
}
