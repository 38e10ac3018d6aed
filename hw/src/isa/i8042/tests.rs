//! The controller against what QEMU's does, and against everything at all; and the device with its ports.

use proptest::prelude::*;
use qapi::Enum;
use vmstate::{Decoder, Encoder, VmState};

use super::controller::ControllerState;
use super::*;
use crate::core::Machine;
use crate::testing::{Rig, carry, config};

/// All that waits, of the mouse's with 100h.
fn drain(c: &mut Controller) -> Vec<u16> {
    let mut out = Vec::new();
    while c.status() & 1 != 0 {
        let mouse = if c.status() & 0x20 != 0 { 0x100 } else { 0 };
        out.push(mouse | u16::from(c.read()));
    }
    out
}

fn mode(c: &mut Controller, mode: u8) {
    c.command(0x60);
    c.data(mode);
}

fn to_mouse(c: &mut Controller, byte: u8) {
    c.command(0xd4);
    c.data(byte);
}

#[test]
fn commands_are_answered_as_by_qemu() {
    let mut c = Controller::default();
    assert_eq!((c.status(), c.read()), (0x18, 0));
    for (command, answer) in [
        (0x20, &[3][..]),
        (0xaa, &[0x55]),
        (0xab, &[0]),
        (0xa9, &[0]),
        (0xd0, &[0xcf]),
        (0xc0, &[0x80]),
        (0xe0, &[]),
    ] {
        assert_eq!(c.command(command), Effect::None);
        assert_eq!(drain(&mut c), answer, "{command:02x}");
    }
    assert_eq!((c.status(), c.read()), (0x1c, 0x80), "an empty buffer has what was read last");
    mode(&mut c, 0x47);
    for (command, after) in [(0x20, 0x47), (0xa7, 0x67), (0xa8, 0x47), (0xad, 0x57), (0xae, 0x47)] {
        c.command(command);
        drain(&mut c);
        c.command(0x20);
        assert_eq!(drain(&mut c), [after], "{command:02x}");
    }
    for (command, port) in [(0xdd, 0xcd), (0xdf, 0xcf)] {
        c.command(command);
        c.command(0xd0);
        assert_eq!(drain(&mut c), [port]);
    }
    c.command(0xd2);
    c.data(0x33);
    assert_eq!((c.status(), drain(&mut c)), (0x1d, vec![0x33]));
    c.command(0xd3);
    c.data(0x34);
    assert_eq!((c.status(), drain(&mut c)), (0x3d, vec![0x134]));
}

#[test]
fn the_processor_is_reset_by_the_output_port_and_by_pulses() {
    let mut c = Controller::default();
    let resets: Vec<u8> = (0xf0..=0xff).filter(|command| c.command(*command) == Effect::Reset).collect();
    assert_eq!(resets, [0xf0, 0xf2, 0xf4, 0xf6, 0xf8, 0xfa, 0xfc, 0xfe]);
    c.command(0xd1);
    assert_eq!(c.data(0xcf), Effect::None);
    c.command(0xd1);
    assert_eq!(c.data(0xce), Effect::Reset);
    assert_eq!(c.data(0xce), Effect::None, "a byte for the keyboard");
}

#[test]
fn bytes_come_in_qemus_order() {
    let mut c = Controller::default();
    mode(&mut c, 0x47);
    // Its own before what follows, but whose turn it is stays.
    c.data(0xf2);
    c.command(0xd0);
    assert_eq!(drain(&mut c), [0xfa, 0xdf, 0xab, 0x41]);
    c.data(0xf2);
    c.command(0xd2);
    c.data(0x11);
    c.command(0xd3);
    c.data(0x12);
    assert_eq!(drain(&mut c), [0xfa, 0x112, 0xab, 0x41]);
    to_mouse(&mut c, 0xf2);
    c.command(0xd0);
    assert_eq!(drain(&mut c), [0x1fa, 0xff, 0x100]);
    // By turns.
    to_mouse(&mut c, 0xf2);
    c.data(0xf2);
    assert_eq!(drain(&mut c), [0x1fa, 0xfa, 0x100, 0xab, 0x41]);
    // Who is spoken to is listened to.
    c.command(0xad);
    c.command(0xa7);
    c.data(0xf2);
    c.command(0x20);
    assert_eq!(drain(&mut c), [0xfa, 0x67, 0xab, 0x41]);
    to_mouse(&mut c, 0xf2);
    assert_eq!(drain(&mut c), [0x1fa, 0x100]);
    // Nobody else is, until then.
    c.command(0xad);
    c.key(QKeyCode::A, true);
    assert!(drain(&mut c).is_empty());
    c.command(0xae);
    assert_eq!(drain(&mut c), [0x1e]);
}

#[test]
fn interrupts_follow_the_byte_that_waits_and_the_mode() {
    let mut c = Controller::default();
    assert_eq!(c.interrupts(), (false, false));
    c.key(QKeyCode::A, true);
    assert_eq!(c.interrupts(), (true, false));
    mode(&mut c, 0x42);
    assert_eq!(c.interrupts(), (false, false));
    mode(&mut c, 0x51);
    assert_eq!(c.interrupts(), (false, false));
    mode(&mut c, 0x43);
    assert_eq!((c.interrupts(), c.read(), c.interrupts()), ((true, false), 0x1c, (false, false)));
    to_mouse(&mut c, 0xf4);
    assert_eq!((c.interrupts(), c.read(), c.interrupts()), ((false, true), 0xfa, (false, false)));
    c.command(0x20);
    assert_eq!(c.interrupts(), (true, false), "an answer of its own");
}

fn bytes_of(c: &Controller) -> Vec<u8> {
    let mut out = Encoder::new();
    c.saved().put_fields(&mut out);
    out.into_bytes()
}

fn loaded(bytes: &[u8], version: u32) -> vmstate::Result<Controller> {
    Controller::from_state(ControllerState::get_versioned(&mut Decoder::new(bytes), version)?)
}

/// What a guest or a person may do.
#[derive(Debug, Clone, Copy)]
enum Act {
    Command(u8),
    Data(u8),
    Read,
    Key(usize, bool),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        any::<u8>().prop_map(Act::Command),
        Just(Act::Command(0xd4)),
        Just(Act::Command(0x60)),
        any::<u8>().prop_map(Act::Data),
        (0xe6u8..=0xff).prop_map(Act::Data),
        Just(Act::Read),
        (0..QKeyCode::NAMES.len(), any::<bool>()).prop_map(|(key, down)| Act::Key(key, down)),
    ]
}

proptest! {
    #[test]
    fn whatever_is_done_it_can_be_moved_and_nobodys_byte_never_waits(
        acts in proptest::collection::vec(act(), 0..200)
    ) {
        let mut c = Controller::default();
        for act in acts {
            match act {
                Act::Command(byte) => { c.command(byte); }
                Act::Data(byte) => { c.data(byte); }
                Act::Read => {
                    // Twice the queues, the answers and its own.
                    prop_assert!(drain(&mut c.clone()).len() <= 16 + 3 + 16 + 1);
                    c.read();
                }
                Act::Key(key, down) => c.key(QKeyCode::from_name(QKeyCode::NAMES[key]).unwrap(), down),
            }
            let (keyboard, mouse) = c.interrupts();
            prop_assert!(!(keyboard && mouse));
            prop_assert!(!(keyboard || mouse) || c.status() & 1 != 0);
            // A byte that is told of is somebody's.
            let other = loaded(&bytes_of(&c), 2);
            prop_assert_eq!(&other.unwrap(), &c);
        }
    }

    #[test]
    fn no_stream_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..120), version in 0u32..4) {
        if let Ok(mut c) = loaded(&bytes, version) {
            prop_assert!(drain(&mut c).len() <= 36);
        }
    }
}

#[test]
fn version_1_had_an_answer_and_a_command() {
    let mut c = loaded(&[1, 0x55, 0xd1], 1).unwrap();
    assert_eq!((c.status(), c.read(), c.data(0)), (0x1d, 0x55, Effect::Reset));
    let idle = loaded(&[0, 0], 1).unwrap();
    assert_eq!(idle.status(), 0x1c);
}

#[test]
fn what_cannot_be_is_not_loaded() {
    let mut c = Controller::default();
    c.data(0xf2);
    let good = c.saved();
    let refused = |spoil: &dyn Fn(&mut ControllerState)| {
        let mut state = good.clone();
        spoil(&mut state);
        Controller::from_state(state).is_err()
    };
    assert!(!refused(&|_| {}));
    assert!(refused(&|s| s.obsrc = 1));
    assert!(refused(&|s| s.obsrc = 3));
    assert!(refused(&|s| s.obsrc = 4));
    assert!(refused(&|s| s.kbd.scancode_set = 0));
    assert!(refused(&|s| s.kbd.write_cmd = 0xf2));
    assert!(refused(&|s| s.kbd.modifiers = 0x40));
    assert!(refused(&|s| s.kbd.replies = vec![0; 4]));
    assert!(refused(&|s| s.kbd.queue = vec![0; 17]));
    assert!(refused(&|s| s.mouse.queue = vec![0; 17]));
    assert!(refused(&|s| s.mouse.mouse_type = 1));
    assert!(refused(&|s| s.mouse.mouse_status = 1));
    assert!(refused(&|s| s.mouse.write_cmd = 0xf4));
}

fn keyboard(machine: &Machine) -> Option<Arc<I8042>> {
    let unattached = machine.tree().container("/machine/unattached");
    unattached.core().children().into_iter().find_map(|(_, object)| object.downcast())
}

#[test]
fn a_byte_in_the_middle_of_others_is_not_lost_on_the_way() {
    let rigs = ["pc", "q35"].map(|machine| [Rig::ready(machine), Rig::ready(machine)]);
    for [source, destination] in rigs {
        let device = keyboard(&source.machine).unwrap();
        source.outb(0x64, 0x60);
        source.outb(0x60, 0x43);
        Keyboard::key(&*device, QKeyCode::Print, true);
        assert_eq!((source.read(0x60, 1), source.read(0x60, 1)), (0xe0, 0x2a));
        source.outb(0x64, 0xd4);
        source.outb(0x60, 0xf3);
        carry::carry(&source.machine, &destination.machine);
        destination.outb(0x64, 0xd4);
        destination.outb(0x60, 40);
        let read: Vec<_> =
            (0..4).map(|_| (destination.read(0x64, 1) & 0x20, destination.read(0x60, 1))).collect();
        assert_eq!(read, [(0, 0xe0), (0x20, 0xfa), (0, 0x37), (0x20, 0xfa)]);
        assert_eq!(destination.read(0x64, 1) & 1, 0);
        carry::spoil(&destination.machine, "pckbd");
    }
}

#[test]
fn a_machine_without_it_has_no_ports_and_no_mouse() {
    let mut without = config("q35");
    without.options.push(("i8042".into(), "off".into()));
    let rig = Rig::build(without).unwrap();
    rig.machine.finish().unwrap();
    assert!(keyboard(&rig.machine).is_none());
    assert_eq!((rig.read(0x64, 1), rig.read(0x60, 1)), (0xff, 0xff));
    assert_eq!(Input::of(&rig.machine).mice(), []);
    let error = rig.add("i8042,kbd-irq=16").err().unwrap();
    assert_eq!(error.desc(), "Bus 'isa.0' does not support hotplugging");
    let mut without = config("q35");
    without.options.push(("i8042".into(), "off".into()));
    let rig = Rig::build(without).unwrap();
    let error = rig.add("i8042,kbd-irq=16").err().unwrap();
    assert_eq!(error.desc(), "Maximum value for \"kbd-irq\" is: 15");
    rig.add("i8042,kbd-irq=15").unwrap();
    assert_eq!((rig.read(0x64, 1), Input::of(&rig.machine).mice().len()), (0x18, 1));
}

#[test]
fn keyboard_and_mouse_are_found_where_qemu_has_them() {
    let rig = Rig::ready("pc");
    let device = keyboard(&rig.machine).unwrap();
    let children = device.dev().core().children();
    let class =
        |name: &str| children.iter().find(|(own, _)| own == name).map(|(_, o)| o.core().class().name());
    assert_eq!((class("ps2kbd"), class("ps2mouse")), (Some("ps2-kbd"), Some("ps2-mouse")));
    for kind in ["ps2-kbd", "ps2-mouse"] {
        let error = rig.add(kind).err().unwrap();
        assert_eq!(error.desc(), "Parameter 'driver' expects a pluggable device type");
    }
}
