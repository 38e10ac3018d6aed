//! The watchdog of `q35` as a driver uses it (over qtest), what `-watchdog-action` makes of a guest that hangs, and what users say of the chipset.

use serde_json::json;
use tests::{Exited, Need, Vm, have};

const TCO: u16 = 0x660;
const GCS: u64 = 0xfed1_f410;
/// Nanoseconds of a tick.
const TICK: i64 = 600_000_000;

/// A machine whose registers are where firmware puts them, with a timer of four ticks that nobody writes any more.
fn hung(options: &str) -> Vm {
    let mut vm = Vm::new().line("-machine q35 -m 64M").line(options).accel("qtest").qtest().qmp().start();
    arm(&mut vm);
    vm
}

fn arm(vm: &mut Vm) {
    let qtest = vm.qtest();
    for (register, value) in [(0x40, 0x601), (0x44, 0x80), (0xf0, 0xfed1_c001)] {
        qtest.out(0xcf8, 4, 0x8000_f800 | register);
        qtest.out(0xcfc, 4, value);
    }
    let gcs = qtest.read(GCS, 4);
    qtest.write(GCS, 4, gcs & !0x20);
    qtest.out(TCO + 0x12, 2, 4);
    qtest.out(TCO, 2, 1);
    for _ in 0..2 {
        qtest.clock_step(Some(4 * TICK));
    }
}

#[test]
fn a_guest_that_hangs_is_dealt_with_as_it_is_said() {
    if !have(&[Need::Pliant]) {
        return;
    }
    let mut vm = hung("-watchdog-action pause");
    assert_eq!(vm.qmp().wait_event("WATCHDOG", |_| true)["data"], json!({ "action": "pause" }));
    vm.qmp().wait_event("STOP", |_| true);
    let status = vm.qmp().ok("query-status", json!({}));
    assert_eq!(status, json!({ "status": "watchdog", "running": false }));
    vm.qmp().ok("cont", json!({}));
    vm.qmp().ok("set-action", json!({ "watchdog": "reset" }));
    // Events of the watchdog come once a second at most.
    arm(&mut vm);
    let reset = vm.qmp().wait_event("RESET", |_| true);
    assert_eq!(reset["data"], json!({ "guest": true, "reason": "guest-reset" }));
    assert_eq!(vm.qtest().read(GCS, 4), 0, "not where firmware puts it");

    let mut vm = hung("");
    vm.qmp().wait_event("RESET", |_| true);
    vm.qmp().ok("watchdog-set-action", json!({ "action": "shutdown" }));
    arm(&mut vm);
    vm.qmp().wait_event("POWERDOWN", |_| true);

    // Also where a shutdown would only stop the machine.
    let vm = hung("-watchdog-action poweroff -no-shutdown");
    let Exited { code, .. } = vm.wait();
    assert_eq!(code, Some(0));

    let mut vm = hung("-action watchdog=debug");
    assert_eq!(vm.qmp().wait_event("WATCHDOG", |_| true)["data"], json!({ "action": "debug" }));
    assert_eq!(vm.qmp().ok("query-status", json!({}))["status"], "running");
    assert_eq!(vm.stderr(), "qemu-system-x86_64: watchdog: timer fired\n");
}

#[test]
fn a_board_may_be_strapped_to_hold_it_back() {
    if !have(&[Need::Pliant]) {
        return;
    }
    let mut vm = hung("-watchdog-action poweroff -global ICH9-LPC.noreboot=on");
    assert_eq!(vm.qtest().inp(TCO + 6, 2), 6, "it ran out twice");
    assert_eq!(vm.qmp().ok("query-status", json!({}))["status"], "running");
    let vm = hung("-watchdog-action poweroff -global ICH9-LPC.noreboot=off");
    assert_eq!(vm.wait().code, Some(0));
}

#[test]
fn what_libvirt_says_of_the_chipset_is_taken_and_what_there_is_not_refused() {
    let taken = "-machine q35 -global kvm-pit.lost_tick_policy=delay -global ICH9-LPC.disable_s3=1 \
        -global ICH9-LPC.disable_s4=1 -global ICH9-LPC.noreboot=off -watchdog-action reset";
    let vm = Vm::new().line(taken).qmp().start();
    assert_eq!(vm.stderr(), "");
    let refused = |line: &str| {
        let Exited { code, stderr, .. } = Vm::new().line(line).run();
        assert_eq!(code, Some(1), "{line}: {stderr}");
        stderr
    };
    assert_eq!(
        refused("-machine q35 -global ICH9-LPC.noreboot=maybe"),
        "qemu-system-x86_64: can't apply global ICH9-LPC.noreboot=maybe: Parameter 'noreboot' expects 'on' or 'off'\n"
    );
    assert_eq!(
        refused("-machine q35 -global ICH9-LPC.disable_s3=256"),
        "qemu-system-x86_64: can't apply global ICH9-LPC.disable_s3=256: Parameter 'disable_s3' expects uint8_t\n"
    );
    if !have(&[Need::Pliant]) {
        return;
    }
    for (board, class) in [("q35", "ICH9-LPC"), ("pc", "PIIX4_PM")] {
        assert_eq!(
            refused(&format!("-machine {board} -global {class}.disable_s4=0")),
            format!(
                "qemu-system-x86_64: can't apply global {class}.disable_s4=0: the board has no sleep state S4, so \
                 'disable_s4' cannot be 0\n"
            )
        );
    }
    if !have(&[Need::Kvm]) {
        return;
    }
    for (value, error) in [
        ("slew", "Lost tick policy not supported."),
        (
            "merge",
            "can't apply global kvm-pit.lost_tick_policy=merge: Parameter 'lost_tick_policy' does not accept value 'merge'",
        ),
    ] {
        let line = format!("-machine q35 -global kvm-pit.lost_tick_policy={value}");
        let Exited { stderr, .. } = Vm::new().accel("kvm").line(&line).run();
        assert!(stderr.ends_with(&format!("qemu-system-x86_64: {error}\n")), "{stderr}");
    }
}
