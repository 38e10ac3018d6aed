//! Memory that is not plugged: what a guest, a device model and clients see of it, at each level of `unplugged-protection`.

use std::fs;

use serde_json::json;
use tests::pci::Function;
use tests::virtio_mem::Kind;
use tests::{Need, VirtioMem, Vm, VmBuilder, have};

use crate::session::{guest_reached, guest_says, with_guest};

const M: u64 = 1 << 20;
/// Where device memory begins on a q35 machine with little RAM.
const BASE: u64 = 4 << 30;
const BLOCK: u64 = 2 * M;
/// Of a device's status: it has stopped working.
const NEEDS_RESET: u64 = 0x40;

/// Whether this accelerator can be had here, and the program has the properties at all.
fn can(accel: &str) -> bool {
    have(if accel == "kvm" { &[Need::Kvm, Need::Pliant] } else { &[Need::Pliant] })
}

fn machine(accel: &str, options: &str) -> VmBuilder {
    with_guest(Vm::new().accel(accel)).line("-machine q35 -m 512M,maxmem=4G").line(&format!(
        "-object memory-backend-ram,id=mem0,size=1G -device virtio-mem-pci,id=vm0,memdev=mem0{options}"
    ))
}

/// A guest that has plugged 64 MiB of 1 GiB.
fn guest(accel: &str, options: &str) -> Vm {
    let mut vm = machine(accel, &format!(",requested-size=64M{options}")).qmp().hmp().serial().start();
    guest_reached(&mut vm, &[64 * M]);
    vm
}

/// The one memory device.
fn found(vm: &mut Vm) -> Function {
    let (vendor, device) = tests::virtio_mem::IDS;
    Function::find(vm.qtest(), 0, vendor, device)[0]
}

/// Resident bytes of the whole program.
fn resident(vm: &Vm) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", vm.pid().as_raw_nonzero())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

/// The guest touches all that is not plugged: 480 blocks, of which so many give something.
fn trespass(vm: &mut Vm, gave: u64) {
    let answer = format!("trespass: 480 blocks touched, {gave} gave something");
    guest_says(vm, "trespass", "gave something", &[&answer]);
    // What is plugged is as it was.
    guest_says(vm, "check", "words differ", &["check: ok: 32 blocks verified", " 0 words differ"]);
}

fn nothing_comes_of_it(accel: &str) {
    if !can(accel) {
        return;
    }
    for options in ["", ",memslots=8", ",dynamic-memslots=on"] {
        let mut vm = guest(accel, options);
        let before = resident(&vm);
        trespass(&mut vm, 0);
        let after = resident(&vm);
        assert!(after < before + M, "{options}: {before} and then {after}");
        let event = vm.qmp().wait_event("X_PLIANT_UNPLUGGED_ACCESS", |_| true);
        let data = &event["data"];
        assert_eq!(data["id"], "vm0");
        assert_eq!(data["qom-path"], "/machine/peripheral/vm0");
        assert_eq!((&data["address"], &data["write"]), (&json!(BASE + 64 * M), &json!(true)));
        assert_eq!(data["cpu-index"], 0);
        assert!(data["count"].as_u64().unwrap() >= 1);
        // The guest goes on, and what it plugs now it can use.
        vm.qmp().qom_set("vm0", "requested-size", json!(128 * M));
        guest_reached(&mut vm, &[128 * M]);
        guest_says(&mut vm, "check", "words differ", &["check: ok: 64 blocks verified", " 0 words differ"]);
        vm.qmp().qom_set("vm0", "requested-size", json!(0));
        guest_reached(&mut vm, &[0]);
        guest_says(
            &mut vm,
            "trespass",
            "gave something",
            &["trespass: 512 blocks touched, 0 gave something"],
        );
    }
}

#[test]
fn nothing_comes_of_touching_it_on_kvm() {
    nothing_comes_of_it("kvm");
}

#[test]
fn nothing_comes_of_touching_it_on_sim() {
    nothing_comes_of_it("sim");
}

#[test]
fn parts_without_a_plugged_block_are_what_slot_protects() {
    for accel in ["kvm", "sim"] {
        if !can(accel) {
            return;
        }
        // Parts of 128 MiB: the first one, half of it plugged, is open.
        let mut vm = guest(accel, ",memslots=8,unplugged-protection=slot");
        trespass(&mut vm, 32);
        // One part is all there is.
        let mut vm = guest(accel, ",unplugged-protection=slot");
        trespass(&mut vm, 480);
        let mut vm = guest(accel, ",unplugged-protection=off");
        trespass(&mut vm, 480);
        assert!(!vm.qmp().has_event("X_PLIANT_UNPLUGGED_ACCESS", |_| true));
    }
}

#[test]
fn a_guest_that_touches_it_can_be_stopped() {
    for accel in ["kvm", "sim"] {
        if !can(accel) {
            return;
        }
        let mut vm = guest(accel, ",unplugged-access=stop");
        vm.serial().send(format!("poke {:#x} 1\r", BASE + 512 * M).as_bytes()).unwrap();
        vm.qmp().wait_event("STOP", |_| true);
        let name = "X_PLIANT_UNPLUGGED_ACCESS";
        assert!(vm.qmp().has_event(name, |event| event["data"]["address"] == json!(BASE + 512 * M)));
        assert_eq!(vm.qmp().ok("query-status", json!({}))["status"], "paused");
        // Forgiven, and allowed to from now on.
        vm.qmp().qom_set("vm0", "unplugged-access", json!("report"));
        vm.qmp().ok("cont", json!({}));
        trespass(&mut vm, 0);
        assert!(
            vm.stderr().contains("vm0: CPU 0 wrote to unplugged memory at 0x120000000, the guest is stopped")
        );
    }
}

#[test]
fn a_guest_that_touches_it_can_be_ended() {
    for accel in ["kvm", "sim"] {
        if !can(accel) {
            return;
        }
        let mut vm = guest(accel, ",unplugged-access=kill");
        vm.serial().send(format!("peek {:#x}\r", BASE + 512 * M).as_bytes()).unwrap();
        let event = vm.qmp().wait_event("SHUTDOWN", |_| true);
        assert_eq!(event["data"], json!({"guest": false, "reason": "host-error"}));
        let exited = vm.wait();
        assert_eq!(exited.code, Some(1));
        assert!(
            exited.stderr.contains("vm0: CPU 0 read unplugged memory at 0x120000000"),
            "{}",
            exited.stderr
        );
    }
}

#[test]
fn a_device_model_cannot_use_it_either() {
    if !can("qtest") {
        return;
    }
    let mut vm = machine("qtest", ",requested-size=64M").qmp().qtest().start();
    let function = found(&mut vm);
    let mut driver = VirtioMem::map(vm.qtest(), function, 0);
    assert!(driver.init_usual(vm.qtest()));
    assert_eq!(driver.request(vm.qtest(), Kind::Plug, BASE, 1), "ACK");
    // Plugged memory is as good as any.
    driver.place_ring(BASE);
    assert!(driver.init_usual(vm.qtest()));
    assert_eq!(driver.request(vm.qtest(), Kind::Plug, BASE + BLOCK, 1), "ACK");
    // The device takes the memory of its own queue away: the request is carried out, and cannot be answered. What the
    // driver reads there afterwards is no answer.
    let _ = driver.request(vm.qtest(), Kind::UnplugAll, 0, 0);
    while driver.status(vm.qtest()) & NEEDS_RESET == 0 {}
    assert_eq!(vm.qmp().qom_get("vm0", "size"), 0);
    assert!(driver.init_usual(vm.qtest()));
    assert_eq!(driver.request(vm.qtest(), Kind::Plug, BASE, 1), "NO-RESPONSE");
    assert_eq!(vm.qmp().qom_get("vm0", "size"), 0);
    // What the test writes there as the guest is lost, and nothing is left of it when the block is plugged.
    vm.qtest().write_bytes(BASE, b"lost");
    assert_eq!(vm.qtest().bytes(BASE, 4), [0; 4]);
}

#[test]
fn it_holds_after_resets_and_after_unplugging_twice() {
    if !can("qtest") {
        return;
    }
    for options in ["", ",dynamic-memslots=on", ",memslots=4"] {
        let mut vm = machine("qtest", &format!(",requested-size=64M{options}")).qmp().qtest().start();
        let function = found(&mut vm);
        let mut driver = VirtioMem::map(vm.qtest(), function, 0);
        assert!(driver.init_usual(vm.qtest()));
        let usable = |vm: &mut Vm| {
            vm.qtest().write_bytes(BASE, b"here");
            vm.qtest().bytes(BASE, 4) == b"here"
        };
        assert_eq!(driver.request(vm.qtest(), Kind::Plug, BASE, 2), "ACK");
        assert!(usable(&mut vm));
        for _ in 0..2 {
            assert_eq!(driver.request(vm.qtest(), Kind::UnplugAll, 0, 0), "ACK");
            assert!(!usable(&mut vm));
        }
        assert_eq!(driver.request(vm.qtest(), Kind::Plug, BASE, 2), "ACK");
        assert_eq!(vm.qtest().bytes(BASE, 4), [0; 4]);
        assert!(usable(&mut vm));
        for _ in 0..2 {
            vm.qmp().ok("system_reset", json!({}));
            vm.qmp().wait_event("RESET", |_| true);
        }
        let mut driver = VirtioMem::map(vm.qtest(), function, 0);
        assert!(!usable(&mut vm));
        assert!(driver.init_usual(vm.qtest()));
        assert_eq!(driver.request(vm.qtest(), Kind::Plug, BASE, 1), "ACK");
        assert!(usable(&mut vm));
    }
}

#[test]
fn the_tree_of_regions_shows_nothing_of_it() {
    for accel in ["kvm", "sim"] {
        if !can(accel) {
            return;
        }
        for options in ["", ",memslots=8", ",dynamic-memslots=on"] {
            let texts = ["off", "slot", "block"].map(|level| {
                let mut vm = guest(accel, &format!("{options},unplugged-protection={level}"));
                [
                    vm.hmp().run("info mtree"),
                    vm.hmp().run("info mtree -f"),
                    vm.hmp().run("info memory-devices"),
                ]
            });
            assert_eq!(texts[0], texts[1]);
            assert_eq!(texts[0], texts[2]);
        }
    }
}

#[test]
fn what_it_comes_to_follows_from_what_the_guest_was_told() {
    if !can("qtest") {
        return;
    }
    for (options, level) in [
        ("", "block"),
        (",unplugged-protection=slot", "slot"),
        (",unplugged-protection=off", "off"),
        (",unplugged-inaccessible=off", "off"),
        (",unplugged-inaccessible=auto", "off"),
        (",unplugged-inaccessible=off,unplugged-protection=off", "off"),
    ] {
        let mut vm = machine("qtest", options).qmp().start();
        assert_eq!(vm.qmp().qom_get("vm0", "unplugged-protection"), level, "{options}");
        let (class, text) = vm
            .qmp()
            .err("qom-set", json!({"path": "vm0", "property": "unplugged-protection", "value": "off"}));
        assert_eq!(class, "GenericError");
        assert!(text.starts_with("Attempt to set property 'unplugged-protection' on "), "{text}");
    }
    for (options, complaint) in [
        (
            ",unplugged-inaccessible=off,unplugged-protection=block",
            "'unplugged-protection' property set to 'block' requires 'unplugged-inaccessible' to be 'on'",
        ),
        (
            ",unplugged-inaccessible=auto,unplugged-protection=slot",
            "'unplugged-protection' property set to 'slot' requires 'unplugged-inaccessible' to be 'on'",
        ),
        (",unplugged-protection=page", "Parameter 'unplugged-protection' does not accept value 'page'"),
        (",unplugged-access=shout", "Parameter 'unplugged-access' does not accept value 'shout'"),
    ] {
        let exited = machine("qtest", options).run();
        assert_eq!(exited.code, Some(1), "{options}");
        assert!(exited.stderr.contains(complaint), "{options}: {}", exited.stderr);
    }
}

#[test]
fn a_backend_is_as_before_when_its_device_is_gone() {
    if !can("qtest") {
        return;
    }
    let mut vm = Vm::new()
        .accel("qtest")
        .line("-machine pc -m 512M,maxmem=4G -object memory-backend-ram,id=mem0,size=1G")
        .qmp()
        .qtest()
        .start();
    let add = json!({"driver": "virtio-mem-pci", "id": "vm0", "memdev": "mem0", "requested-size": 0});
    for _ in 0..2 {
        vm.qmp().ok("device_add", add.clone());
        assert_eq!(vm.qmp().qom_get("vm0", "unplugged-protection"), "block");
        vm.qmp().ok("device_del", json!({"id": "vm0"}));
        vm.qmp().ok("system_reset", json!({}));
        vm.qmp().wait_event("DEVICE_DELETED", |event| event["data"]["device"] == "vm0");
    }
    vm.qmp().ok("object-del", json!({"id": "mem0"}));
}
