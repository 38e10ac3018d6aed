//! The harness on the program under test: it starts, talks and ends it in every way that other tests rely on.

use serde_json::json;
use tests::{Vm, WireError};

#[test]
fn a_machine_greets_on_every_monitor_and_quits() {
    let mut vm = Vm::new().line("-machine none").qmp().qmp().hmp().start();
    assert_eq!(
        vm.qmp().ok("query-version", json!({}))["qemu"],
        json!({ "major": 10, "minor": 0, "micro": 2 })
    );
    assert!(vm.hmp().run("info status").starts_with("VM status: "));
    vm.qmp_at(1).ok("qom-list", json!({ "path": "/machine" }));
    let exited = vm.quit();
    assert_eq!((exited.code, exited.signal), (Some(0), None), "{}", exited.stderr);
}

#[test]
fn a_wrong_command_line_is_an_exit_with_a_message() {
    let exited = Vm::new().line("-machine nope").qmp().try_start().unwrap_err();
    assert_eq!(exited.code, Some(1));
    assert_eq!(
        exited.stderr,
        "qemu-system-x86_64: unsupported machine type: \"nope\"\nUse -machine help to list supported machines\n"
    );
}

#[test]
fn quitting_from_the_human_monitor_closes_it() {
    let mut vm = Vm::new().line("-machine none").hmp().start();
    assert!(matches!(vm.hmp().try_run("quit"), Err(WireError::Closed { .. })));
    assert_eq!(vm.wait().code, Some(0));
}

#[test]
fn qtest_reads_back_what_it_wrote_to_guest_memory() {
    let mut vm = Vm::new().line("-machine pc -m 64M").qtest().start();
    let qtest = vm.qtest();
    qtest.write(0x10_0000, 4, 0x1234_5678);
    assert_eq!(qtest.read(0x10_0002, 2), 0x1234);
    qtest.write_bytes(0x10_0004, b"abc");
    assert_eq!(qtest.bytes(0x10_0000, 8), b"\x78\x56\x34\x12abc\0");
    qtest.memset(0x10_0000, 8, 0xa5);
    assert_eq!(qtest.read(0x10_0000, 8), 0xa5a5_a5a5_a5a5_a5a5);
}

#[test]
fn a_server_socket_of_the_program_can_be_connected_to() {
    let mut vm = Vm::new().line("-machine none -qmp unix:$RUN/server,server=on,wait=off").spawn_only();
    let path = vm.scratch().join("server");
    let mut qmp = tests::Qmp::new(vm.connect(&path));
    qmp.negotiate().unwrap();
    qmp.ok("query-status", json!({}));
}

#[test]
fn a_terminal_shows_the_monitor() {
    let (mut screen, theirs) = tests::console::terminal();
    let vm = Vm::new().line("-machine none -monitor stdio").env("NO_COLOR", "1").stdio(theirs).spawn_only();
    // QEMU's monitor ends lines with \r\n and the terminal makes \r\r\n of it; what a person sees is the same.
    let banner = screen.until("(qemu) ").unwrap().replace('\r', "");
    assert_eq!(banner, "QEMU 10.0.2 monitor - type 'help' for more information\n(qemu) ");
    screen.send(b"quit\n").unwrap();
    assert_eq!(vm.wait().code, Some(0));
}
