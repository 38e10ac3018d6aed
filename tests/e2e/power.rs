//! How a machine with a guest ends and begins anew: the guest's own doing, the monitor's, and what `-no-reboot` and `-no-shutdown`
//! make of it. Orders and reasons of events are those of the oracle's README, section 1.2.

use serde_json::{Value, json};
use tests::{Need, Vm, have};

use crate::session::sized;

const M: u64 = 1 << 20;

/// A machine whose built-in guest has plugged 64 MiB, on each accelerator that runs guest code.
fn machines(options: &str) -> Vec<Vm> {
    let accels = [("kvm", vec![Need::Pliant, Need::Kvm]), ("sim", vec![Need::Pliant])];
    let line = "-machine q35 -m 256M,maxmem=2G -object memory-backend-ram,id=mem0,size=1G \
                -device virtio-mem-pci,id=vm0,memdev=mem0,requested-size=64M";
    let start = |accel: &str| {
        let mut vm = Vm::new().accel(accel).line(line).line(options).qmp().serial().start();
        sized(&mut vm, "vm0", 64 * M);
        vm
    };
    accels.into_iter().filter(|(_, needs)| have(needs)).map(|(accel, _)| start(accel)).collect()
}

fn say(vm: &mut Vm, command: &str) {
    vm.serial().send(format!("{command}\r").as_bytes()).unwrap();
}

/// The data of the next event of this name.
fn event(vm: &mut Vm, name: &str) -> Value {
    vm.qmp().wait_event(name, |_| true)["data"].clone()
}

fn because(guest: bool, reason: &str) -> Value {
    json!({ "guest": guest, "reason": reason })
}

fn status(vm: &mut Vm) -> Value {
    vm.qmp().ok("query-status", json!({}))["status"].clone()
}

fn ends_well(vm: Vm) {
    let exited = vm.wait();
    assert_eq!((exited.code, exited.signal), (Some(0), None), "{}", exited.stderr);
}

#[test]
fn a_guest_that_reboots_begins_with_nothing_plugged_and_plugs_again() {
    for mut vm in machines("") {
        say(&mut vm, "reboot");
        assert_eq!(event(&mut vm, "RESET"), because(true, "guest-reset"));
        sized(&mut vm, "vm0", 64 * M);
        vm.qmp().ok("system_reset", json!({}));
        assert_eq!(event(&mut vm, "RESET"), because(false, "host-qmp-system-reset"));
        sized(&mut vm, "vm0", 64 * M);
        assert_eq!(status(&mut vm), "running");
    }
}

#[test]
fn a_stopped_machine_stays_stopped_when_it_is_reset() {
    for mut vm in machines("") {
        vm.qmp().ok("stop", json!({}));
        vm.qmp().ok("system_reset", json!({}));
        assert_eq!(event(&mut vm, "RESET"), because(false, "host-qmp-system-reset"));
        assert_eq!((status(&mut vm), vm.qmp().qom_get("vm0", "size")), (json!("prelaunch"), json!(0)));
        vm.qmp().ok("cont", json!({}));
        sized(&mut vm, "vm0", 64 * M);
    }
}

#[test]
fn without_reboot_a_guest_that_reboots_ends_the_program() {
    for mut vm in machines("-no-reboot") {
        say(&mut vm, "reboot");
        assert_eq!(event(&mut vm, "SHUTDOWN"), because(true, "guest-reset"));
        ends_well(vm);
    }
}

#[test]
fn the_power_button_has_the_guest_turn_off() {
    for mut vm in machines("") {
        vm.qmp().ok("system_powerdown", json!({}));
        event(&mut vm, "POWERDOWN");
        assert_eq!(event(&mut vm, "SHUTDOWN"), because(true, "guest-shutdown"));
        ends_well(vm);
    }
}

#[test]
fn without_shutdown_a_guest_that_turns_off_waits_for_a_reset() {
    for mut vm in machines("-no-shutdown") {
        say(&mut vm, "off");
        assert_eq!(event(&mut vm, "SHUTDOWN"), because(true, "guest-shutdown"));
        event(&mut vm, "STOP");
        assert_eq!(status(&mut vm), "shutdown");
        let refused = vm.qmp().err("cont", json!({}));
        assert_eq!(
            refused,
            ("GenericError".to_owned(), "Resetting the Virtual Machine is required".to_owned())
        );
        vm.qmp().ok("system_reset", json!({}));
        assert_eq!(event(&mut vm, "RESET"), because(false, "host-qmp-system-reset"));
        assert_eq!(status(&mut vm), "prelaunch");
        // That of the start may be among them.
        vm.qmp().events();
        vm.qmp().ok("cont", json!({}));
        event(&mut vm, "RESUME");
        sized(&mut vm, "vm0", 64 * M);
        assert_eq!(vm.quit().code, Some(0));
    }
}

#[test]
fn set_action_says_what_a_guests_reboot_and_power_off_do_from_then_on() {
    for mut vm in machines("-action reboot=shutdown") {
        vm.qmp().ok("set-action", json!({ "shutdown": "pause" }));
        say(&mut vm, "reboot");
        assert_eq!(event(&mut vm, "SHUTDOWN"), because(true, "guest-reset"));
        event(&mut vm, "STOP");
        assert_eq!(status(&mut vm), "shutdown");
        vm.qmp().ok("set-action", json!({ "reboot": "reset" }));
        vm.qmp().ok("system_reset", json!({}));
        assert_eq!(event(&mut vm, "RESET"), because(false, "host-qmp-system-reset"));
        vm.qmp().ok("cont", json!({}));
        sized(&mut vm, "vm0", 64 * M);
        say(&mut vm, "reboot");
        assert_eq!(event(&mut vm, "RESET"), because(true, "guest-reset"));
        sized(&mut vm, "vm0", 64 * M);
        vm.qmp().ok("set-action", json!({ "shutdown": "poweroff" }));
        say(&mut vm, "off");
        assert_eq!(event(&mut vm, "SHUTDOWN"), because(true, "guest-shutdown"));
        ends_well(vm);
    }
}
