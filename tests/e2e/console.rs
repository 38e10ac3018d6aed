//! The monitor on a terminal, as a person uses it: editing, history, completion, and the terminal afterwards; the multiplexed serial
//! port of `-nographic`.

use tests::console::terminal;
use tests::{Need, Peer, Vm, VmBuilder, Wire, have, program};

fn none() -> VmBuilder {
    let builder = Vm::new().line("-machine none");
    if program::peer() == Peer::Qemu { builder.accel("tcg") } else { builder }
}

/// A monitor on a terminal, at its first prompt.
fn monitor() -> (Vm, Wire) {
    let (mut screen, theirs) = terminal();
    let vm = none().line("-monitor stdio").stdio(theirs).spawn_only();
    screen.until("(qemu) ").unwrap();
    (vm, screen)
}

/// Types and reads up to a text.
fn types(screen: &mut Wire, keys: &str, shows: &str) -> String {
    screen.send(keys.as_bytes()).unwrap();
    screen.until(shows).unwrap_or_else(|e| panic!("{keys:?}: {e}"))
}

#[test]
fn typed_commands_run_and_their_output_is_shown() {
    let (_vm, mut screen) = monitor();
    types(&mut screen, "info status\n", "VM status: running");
    types(&mut screen, "info name\n", "(qemu) ");
}

#[test]
fn a_line_can_be_edited_in_its_middle() {
    let (_vm, mut screen) = monitor();
    // To the start, delete a character, write another; to the end; rub out.
    types(&mut screen, "xnfo statusX\x7f\x01\x04i\n", "VM status: running");
    // Arrow keys.
    types(&mut screen, "info sttus\x1b[D\x1b[D\x1b[Da\n", "VM status: running");
    // A line that is thrown away.
    types(&mut screen, "nonsense\x15info status\n", "VM status: running");
}

#[test]
fn earlier_lines_come_back_with_the_arrow_keys() {
    let (_vm, mut screen) = monitor();
    types(&mut screen, "info status\n", "VM status: running");
    types(&mut screen, "info name\n", "(qemu) ");
    types(&mut screen, "\x1b[A\x1b[A\n", "VM status: running");
    types(&mut screen, "\x10\n", "VM status: running");
}

#[test]
fn a_command_is_completed_by_tab() {
    let (_vm, mut screen) = monitor();
    types(&mut screen, "info stat\tus\x01\x05\n", "(qemu) ");
    types(&mut screen, "info memory_\t\n", "base memory: 0");
}

#[test]
fn paths_and_property_names_are_completed_too() {
    if !have(&[Need::Pliant]) {
        return;
    }
    let (mut screen, theirs) = terminal();
    let line = "-machine q35 -m 1G,maxmem=4G -object memory-backend-ram,id=mem0,size=1G \
                -device virtio-mem-pci,id=vm0,memdev=mem0 -monitor stdio";
    let _vm = Vm::new().line(line).stdio(theirs).spawn_only();
    screen.until("(qemu) ").unwrap();
    types(&mut screen, "qom-set /machine/periph\t", "peripheral");
    types(&mut screen, "\x15qom-set vm0 requested-s\t64M\n", "requested-size");
    types(&mut screen, "info memory-devices\n", "requested-size: 67108864");
}

#[test]
fn quitting_gives_the_terminal_back_as_it_was() {
    let (mut screen, theirs) = terminal();
    let twin = theirs.try_clone().unwrap();
    let before = rustix::termios::tcgetattr(&twin).unwrap();
    let vm = none().line("-monitor stdio").stdio(theirs).spawn_only();
    screen.until("(qemu) ").unwrap();
    let during = rustix::termios::tcgetattr(&twin).unwrap();
    assert_ne!(
        before.local_modes, during.local_modes,
        "keys come one by one while the monitor has the terminal"
    );
    screen.send(b"quit\n").unwrap();
    assert_eq!(vm.wait().code, Some(0));
    let after = rustix::termios::tcgetattr(&twin).unwrap();
    assert_eq!((before.local_modes, before.input_modes), (after.local_modes, after.input_modes));
    assert_eq!(before.output_modes, after.output_modes);
}

#[test]
fn nographic_shares_the_terminal_between_serial_port_and_monitor() {
    let (mut screen, theirs) = terminal();
    let accel = if program::peer() == Peer::Qemu { "-accel tcg -S" } else { "-accel qtest" };
    let vm = Vm::new().bare().line(accel).line("-machine pc -m 64M -nographic").stdio(theirs).spawn_only();
    // Ctrl-A h tells the keys, Ctrl-A c changes to the monitor, Ctrl-A x ends the program.
    let first = types(&mut screen, "\x01h", "C-a c");
    assert!(!first.contains("monitor - type"), "the terminal is the serial port's: {first:?}");
    let second = types(&mut screen, "\x01c", "(qemu) ");
    assert!(second.contains("QEMU 10.0.2 monitor - type 'help'"), "{second:?}");
    types(&mut screen, "info status\n", "VM status: ");
    types(&mut screen, "\x01x", "QEMU: Terminated");
    assert_eq!(vm.wait().code, Some(0));
}
