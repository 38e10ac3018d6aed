//! Claims about the run states of a machine on the move, in QEMU's order.

use super::*;
use qapi::types::{ShutdownAction, ShutdownCause};
use vmstate::{Decoder, Encoder};

use crate::core::{Actions, MachineConfig};
use crate::testing::carry::{carry, spoil};
use crate::testing::{Rig, config};

const RESET: &str = "RESET {\"guest\": false, \"reason\": \"host-qmp-system-reset\"}";

fn incoming(kind: &str) -> Rig {
    let rig = Rig::build(config(kind)).unwrap();
    rig.machine.expect_incoming();
    rig.machine.finish().unwrap();
    rig
}

fn reset(rig: &mut Rig) {
    rig.machine.request_reset(ShutdownCause::HostQmpSystemReset);
    rig.turn();
}

#[test]
fn a_machine_that_is_to_arrive_only_notes_whether_it_is_to_run() {
    let mut rig = incoming("pc");
    let machine = Arc::clone(&rig.machine);
    let stop: fn(&Arc<Machine>) = |m| m.stop();
    let cont: fn(&Arc<Machine>) = |m| m.cont().unwrap();
    for work in [Machine::start, cont, stop] {
        work(&machine);
        assert_eq!((machine.run_state(), rig.events().len()), (RunState::Inmigrate, 0));
    }
    reset(&mut rig);
    assert_eq!((machine.run_state(), rig.events()), (RunState::Inmigrate, vec![RESET.to_owned()]));
    assert!(!machine.run.lock().firmware_due);
    machine.incoming_done(RunState::Running);
    assert_eq!((machine.run_state(), rig.events().len()), (RunState::Paused, 0));
    machine.incoming_done(RunState::Running);
    assert_eq!(machine.run_state(), RunState::Paused, "it has arrived already");
    machine.cont().unwrap();
    assert_eq!(rig.events(), ["RESUME"]);
    // From now on a reset is what it ever was.
    reset(&mut rig);
    assert_eq!((machine.run_state(), rig.events()), (RunState::Running, vec![RESET.to_owned()]));
}

#[test]
fn a_machine_arrives_in_the_state_that_it_left() {
    use RunState::*;
    for (source, with_start, without) in [
        (Running, Running, Paused),
        (Suspended, Running, Paused),
        (Paused, Paused, Paused),
        (Prelaunch, Prelaunch, Prelaunch),
        (Shutdown, Shutdown, Shutdown),
        (GuestPanicked, GuestPanicked, GuestPanicked),
        (FinishMigrate, Paused, Paused),
        (Inmigrate, Paused, Paused),
    ] {
        for (start, expected) in [(true, with_start), (false, without)] {
            let rig = incoming("q35");
            if start {
                rig.machine.start();
            }
            rig.machine.incoming_done(source);
            assert_eq!(rig.machine.run_state(), expected, "{source:?} {start}");
            assert_eq!(rig.events().len(), usize::from(expected == Running), "{source:?} {start}");
        }
    }
}

#[test]
fn a_running_machine_stops_to_move_and_goes_on_or_not() {
    let mut rig = Rig::ready("pc");
    let machine = Arc::clone(&rig.machine);
    machine.start();
    rig.events();
    assert!(machine.stop_to_move());
    assert_eq!((rig.events(), machine.run_state()), (vec!["STOP".to_owned()], RunState::FinishMigrate));
    assert_eq!(machine.moving_state(), RunState::Running);
    assert_eq!(machine.cont().unwrap_err().desc(), "Migration is not finalized yet");
    machine.stop();
    reset(&mut rig);
    assert_eq!((rig.events(), machine.run_state()), (vec![RESET.to_owned()], RunState::FinishMigrate));
    machine.not_moved();
    assert_eq!((rig.events(), machine.run_state()), (vec!["RESUME".to_owned()], RunState::Running));
    machine.not_moved();
    machine.moved();
    assert_eq!((rig.events().len(), machine.run_state()), (0, RunState::Running), "it was not stopped");

    assert!(machine.stop_to_move());
    machine.moved();
    machine.stop();
    assert_eq!(machine.run_state(), RunState::Postmigrate);
    // Another copy of it runs there, too.
    assert!(machine.stop_to_move());
    assert_eq!((machine.run_state(), machine.moving_state()), (RunState::FinishMigrate, RunState::Running));
    machine.not_moved();
    assert_eq!((machine.run_state(), rig.events()), (RunState::Postmigrate, vec!["STOP".to_owned()]));
    machine.cont().unwrap();
    assert_eq!((machine.run_state(), rig.events()), (RunState::Running, vec!["RESUME".to_owned()]));
}

#[test]
fn a_machine_that_does_not_run_moves_without_a_sound() {
    let rig = Rig::ready("pc");
    let machine = &rig.machine;
    for cycle in [RunState::Prelaunch, RunState::Paused] {
        assert!(machine.stop_to_move() && machine.stop_to_move());
        assert_eq!(machine.moving_state(), cycle);
        machine.not_moved();
        assert_eq!((machine.run_state(), rig.events().len()), (cycle, 0));
        machine.start();
        machine.stop();
        rig.events();
    }
    assert!(machine.stop_to_move());
    machine.moved();
    assert_eq!((machine.run_state(), machine.moving_state()), (RunState::Postmigrate, RunState::Paused));
}

#[test]
fn what_the_guest_did_last_belongs_to_what_is_moved() {
    let actions = Actions { shutdown: ShutdownAction::Pause, ..Actions::default() };
    let rig = Rig::build(MachineConfig { actions, ..config("q35") }).unwrap();
    rig.machine.finish().unwrap();
    rig.machine.start();
    rig.events();
    // Nothing of it has come to the main loop yet.
    rig.outb(0xcf9, 2);
    rig.outb(0xcf9, 6);
    assert!(rig.machine.stop_to_move());
    assert_eq!(rig.events(), ["STOP", "RESET {\"guest\": true, \"reason\": \"guest-reset\"}"]);
    assert_eq!(rig.machine.moving_state(), RunState::Running);
    rig.machine.not_moved();
    rig.machine.request_shutdown(ShutdownCause::GuestShutdown);
    assert!(rig.machine.stop_to_move());
    assert_eq!(rig.machine.moving_state(), RunState::Shutdown);
    rig.machine.not_moved();
    assert_eq!(
        rig.machine.cont().unwrap_err().desc(),
        "Resetting the Virtual Machine is required",
        "it is over here, too"
    );
    let rig = Rig::ready("pc");
    rig.machine.start();
    rig.machine.request_shutdown(ShutdownCause::GuestShutdown);
    assert!(!rig.machine.stop_to_move(), "the program ends");
}

#[test]
fn whether_firmware_has_run_goes_along() {
    let section = |machine: &Arc<Machine>| match machine.saved() {
        Saved::Sections(mut sections) => sections.remove(0),
        other => panic!("{other:?}"),
    };
    let state = |rig: &Rig| {
        let mut out = Encoder::new();
        section(&rig.machine).save(&mut out);
        out.into_bytes()
    };
    let source = Rig::ready("pc");
    assert_eq!(state(&source), [1]);
    let destination = incoming("pc");
    assert_eq!(state(&destination), [0]);
    section(&destination.machine).load(&mut Decoder::new(&state(&source)[..]), 1).unwrap();
    assert_eq!(state(&destination), [1]);
    source.machine.start();
    assert_eq!(state(&source), [0]);
    let rom = |name: &str| Rom { address: 0xf_fff0, size: 16, name: name.into() };
    Roms::of(&source.machine).set(vec![rom("kernel reset vector")]);
    section(&destination.machine).load(&mut Decoder::new(&state(&source)[..]), 1).unwrap();
    assert_eq!(Roms::of(&destination.machine).list(), [rom("kernel reset vector")]);
    for bad in [vec![rom("\u{1b}[2J")], vec![rom(&"x".repeat(65))], vec![rom("x"); 65]] {
        Roms::of(&source.machine).set(bad);
        let error =
            section(&destination.machine).load(&mut Decoder::new(&state(&source)[..]), 1).unwrap_err();
        assert_eq!(error.to_string(), "the list of what was loaded is none");
    }
    Roms::of(&source.machine).set(Vec::new());
    assert!(section(&destination.machine).load(&mut Decoder::new(&[][..]), 1).is_err());
}

#[test]
fn small_registers_arrive_as_they_were_left() {
    for kind in ["pc", "q35"] {
        let source = Rig::ready(kind);
        source.machine.start();
        source.outb(0x92, 0x02);
        source.outb(0xcf9, 0x02);
        // A self test that nobody has read the result of, and a command that waits for its byte.
        source.outb(0x64, 0xaa);
        source.outb(0x64, 0xd1);
        for (reg, route) in (0x60..).zip([5, 10, 11, 0x80]) {
            source.outl(0xcf8, 1 << 31 | if kind == "pc" { 1 << 11 } else { 31 << 11 } | (reg & 0xfc));
            source.outb(0xcfc + u64::from(reg & 3), route);
        }
        let mut destination = incoming(kind);
        carry(&source.machine, &destination.machine);
        destination.machine.incoming_done(RunState::Running);
        destination.events();
        assert_eq!(
            [0x92, 0xcf9, 0x64, 0x60].map(|port| destination.read(port, 1)),
            [2, 2, 0x1d, 0x55],
            "{kind}"
        );
        let slot = if kind == "pc" { 1 } else { 31 };
        assert_eq!(destination.config_read(slot, 0, 0x60), 0x800b_0a05, "{kind}");
        // The byte resets.
        destination.outb(0x60, 0);
        destination.turn();
        assert_eq!(destination.events(), ["RESET {\"guest\": true, \"reason\": \"guest-reset\"}"], "{kind}");
        for name in ["pckbd", "port92"] {
            spoil(&destination.machine, name);
        }
    }
}

#[test]
fn devices_on_no_bus_come_in_the_order_of_their_paths() {
    let rig = Rig::build(config("pc")).unwrap();
    rig.add("vmgenid,id=z").unwrap();
    rig.add("vmcoreinfo,id=a").unwrap();
    let all = rig.machine.devices_without_bus();
    let names: Vec<_> = all.iter().map(|device| device.dev().type_name()).collect();
    assert_eq!(names, ["vmcoreinfo", "vmgenid", "qemu64-x86_64-cpu"]);
}
