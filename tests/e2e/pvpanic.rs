//! A guest that tells of its panic: what `-action panic=` makes of it. The port is written from the console, as a guest would.

use serde_json::{Value, json};
use tests::{Exited, Need, Vm, have};

/// A machine with the device; `options` besides.
fn machine(options: &str) -> Vm {
    Vm::new().accel("kvm").line("-machine q35 -m 64M -device pvpanic").line(options).qmp().start()
}

/// Writes the port, and has the console's answer.
fn write(vm: &mut Vm, value: u8) {
    let line = json!({ "command-line": format!("o /b 0x505 {value}") });
    assert_eq!(vm.qmp().ok("human-monitor-command", line), json!(""));
}

fn event(vm: &mut Vm, name: &str) -> Value {
    vm.qmp().wait_event(name, |_| true)["data"].clone()
}

fn ended(vm: Vm) -> (Option<i32>, Option<i32>) {
    let Exited { code, signal, .. } = vm.wait();
    (code, signal)
}

#[test]
fn a_panic_ends_the_program_unless_it_is_told_otherwise() {
    if !have(&[Need::Kvm]) {
        return;
    }
    for (options, status) in [("", 0), ("-action panic=exit-failure", 1), ("-action panic=shutdown", 0)] {
        let mut vm = machine(options);
        write(&mut vm, 1);
        assert_eq!(event(&mut vm, "GUEST_PANICKED"), json!({ "action": "poweroff" }), "{options}");
        event(&mut vm, "STOP");
        assert_eq!(
            event(&mut vm, "SHUTDOWN"),
            json!({ "guest": true, "reason": "guest-panic" }),
            "{options}"
        );
        assert_eq!(ended(vm), (Some(status), None), "{options}");
    }
}

#[test]
fn a_panicked_guest_stays_to_be_looked_at() {
    if !have(&[Need::Kvm]) {
        return;
    }
    for options in ["-action panic=pause", "-no-shutdown", "-action shutdown=pause,panic=shutdown"] {
        let mut vm = machine(options);
        write(&mut vm, 1);
        assert_eq!(event(&mut vm, "GUEST_PANICKED"), json!({ "action": "pause" }), "{options}");
        event(&mut vm, "STOP");
        let status = vm.qmp().ok("query-status", json!({}));
        assert_eq!(status, json!({ "status": "guest-panicked", "running": false }), "{options}");
        vm.qmp().ok("cont", json!({}));
        assert_eq!(vm.qmp().ok("query-status", json!({}))["status"], "running");
    }
}

#[test]
fn what_else_a_kernel_tells_is_an_event() {
    if !have(&[Need::Kvm]) {
        return;
    }
    let mut vm = machine("-action panic=none");
    write(&mut vm, 1);
    assert_eq!(event(&mut vm, "GUEST_PANICKED"), json!({ "action": "run" }));
    // Of several events the gravest counts.
    write(&mut vm, 6);
    assert_eq!(event(&mut vm, "GUEST_CRASHLOADED"), json!({ "action": "run" }));
    assert_eq!(vm.qmp().ok("query-status", json!({}))["status"], "running");
    write(&mut vm, 4);
    vm.qmp().wait_event("GUEST_PVSHUTDOWN", |_| true);
    assert_eq!(event(&mut vm, "SHUTDOWN"), json!({ "guest": true, "reason": "guest-shutdown" }));
    assert_eq!(ended(vm), (Some(0), None));
}

#[test]
fn the_register_says_which_events_the_host_listens_to() {
    let mut vm = Vm::new()
        .accel("qtest")
        .line("-machine pc -m 64M -device pvpanic,ioport=0x510e,events=3 -device pvpanic-pci,addr=5,events=5")
        .qtest()
        .qmp()
        .start();
    let qtest = vm.qtest();
    assert_eq!((qtest.inp(0x510e, 1), qtest.inp(0x505, 1)), (3, 0xff));
    assert_eq!(qtest.fw_cfg_file("etc/pvpanic-port").unwrap().1, [0x0e, 0x51]);
    // The register in memory, at an address, with decoding on.
    for (at, value) in [(0x10, 0xfebf_0000), (4, 2)] {
        qtest.out(0xcf8, 4, 0x8000_2800 | at);
        qtest.out(0xcfc, 4, value);
    }
    assert_eq!(qtest.read(0xfebf_0000, 1), 5);
    qtest.write(0xfebf_0000, 1, 2);
    assert_eq!(event(&mut vm, "GUEST_CRASHLOADED"), json!({ "action": "run" }));
    vm.qtest().out(0x510e, 1, 2);
    assert_eq!(event(&mut vm, "GUEST_CRASHLOADED"), json!({ "action": "run" }));
}

#[test]
fn a_second_port_is_refused_as_by_qemu() {
    let Exited { code, stderr, .. } =
        Vm::new().line("-machine q35 -device pvpanic -device pvpanic,ioport=1").run();
    assert_eq!(code, Some(1));
    assert!(
        stderr.ends_with("-device pvpanic,ioport=1: duplicate fw_cfg file name: etc/pvpanic-port\n"),
        "{stderr}"
    );
    let Exited { stderr, .. } = Vm::new().line("-machine none -device pvpanic-pci").run();
    assert!(stderr.ends_with("No 'PCI' bus found for device 'pvpanic-pci'\n"), "{stderr}");
}
