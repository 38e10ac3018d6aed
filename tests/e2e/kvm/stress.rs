//! A hostile driver, and monitors that interfere with a guest that is always busy.

use std::time::Instant;

use serde_json::json;
use tests::Vm;

use super::{M, can, complaints, device, q35, resize};
use crate::session::{guest_reached, guest_says};

fn survives_garbage(accel: &str, counts: [usize; 4]) {
    let mut vm = q35(accel, &device(",requested-size=64M"));
    guest_reached(&mut vm, &[64 * M]);
    let begun = Instant::now();
    let (mut all, mut sent, mut resets, mut ignored) = (String::new(), 0, 0, 0);
    // Different requests each time.
    for count in counts {
        vm.serial().send(format!("garbage {count}\r").as_bytes()).unwrap();
        // The monitor answers while that goes on.
        for _ in 0..5 {
            vm.qmp().ok("query-memory-devices", json!({}));
        }
        vm.serial().until("garbage at ").unwrap();
        let said = vm.serial().until(" ignored").unwrap();
        let number = |before: &str| -> usize {
            let text = said.split(before).next().unwrap();
            text.rsplit(' ').next().unwrap().parse().unwrap_or_else(|_| panic!("{said}"))
        };
        sent += number(" sent");
        resets += number(" resets");
        ignored += number(" ignored");
        all += &said;
        // The driver begins anew, and all is as before.
        guest_reached(&mut vm, &[64 * M]);
    }
    assert_eq!(sent, counts.iter().sum::<usize>(), "{all}");
    // One that is not answered at once because the machine is busy counts as ignored.
    let complaints = complaints(&vm);
    assert!(complaints.len() <= resets + ignored, "{all}; {}", complaints.len());
    assert!(resets > sent / 2, "most requests break the protocol: {all}");
    // The first 256 are shown, then ten each second: a guest does not fill the terminal.
    let paces = begun.elapsed().as_millis() as usize / 100;
    assert!((256..=256 + paces).contains(&complaints.len()), "{all}; {}", complaints.len());
    resize(&mut vm, 32 * M);
    guest_says(&mut vm, "check", "words differ", &["check: ok: 16 blocks"]);
    vm.quit();
}

#[test]
fn a_hostile_driver_harms_only_its_own_device_on_kvm() {
    if can("kvm") {
        // Each costs some exits.
        survives_garbage("kvm", [148, 149, 151, 152]);
    }
}

#[test]
fn a_hostile_driver_harms_only_its_own_device_on_sim() {
    if can("sim") {
        survives_garbage("sim", [498, 499, 501, 502]);
    }
}

fn converges(accel: &str, device: &str) {
    let mut vm = q35(accel, device);
    guest_reached(&mut vm, &[64 * M]);
    for turn in 0..100_u64 {
        let size = (turn * 7 % 16) * 2 * M + if turn % 2 == 0 { 64 * M } else { 0 };
        vm.qmp().qom_set("vm0", "requested-size", json!(size));
        disturb(&mut vm, turn);
    }
    // A size that it never had.
    resize(&mut vm, 200 * M);
    guest_says(&mut vm, "check", "words differ", &["check: ok: 100 blocks", " 0 words differ"]);
    assert_eq!(complaints(&vm), [""; 0]);
    resize(&mut vm, 0);
    assert_eq!(vm.quit().code, Some(0));
}

fn disturb(vm: &mut Vm, turn: u64) {
    match turn % 10 {
        1 | 6 => {
            vm.qmp().ok("stop", json!({}));
            vm.qmp().ok("query-memory-devices", json!({}));
            vm.qmp().ok("cont", json!({}));
        }
        3 => _ = vm.hmp().run("info mtree"),
        4 => _ = vm.hmp().run("info mtree -f"),
        5 => _ = vm.qmp().ok("query-memory-devices", json!({})),
        // No more often than that: it may come a second later.
        7 if turn < 30 => _ = vm.qmp().wait_event("MEMORY_DEVICE_SIZE_CHANGE", |_| true),
        8 => _ = vm.hmp().run("info qtree"),
        9 => {
            vm.qmp().ok("system_reset", json!({}));
            vm.qmp().wait_event("RESET", |_| true);
        }
        _ => {}
    }
}

#[test]
fn a_guest_that_is_never_left_alone_converges_on_kvm() {
    if can("kvm") {
        converges("kvm", &device(",requested-size=64M"));
    }
}

#[test]
fn a_guest_that_is_never_left_alone_converges_with_slots_on_kvm() {
    if can("kvm") {
        converges("kvm", &device(",dynamic-memslots=on,requested-size=64M"));
    }
}

#[test]
fn a_guest_that_is_never_left_alone_converges_on_sim() {
    if can("sim") {
        converges("sim", &device(",requested-size=64M"));
    }
}

#[test]
fn a_device_that_comes_and_goes_leaves_nothing_behind() {
    if !can("kvm") {
        return;
    }
    let mut vm = crate::session::with_guest(Vm::new().accel("kvm"))
        .line("-machine pc -m 512M,maxmem=4G -object memory-backend-ram,id=mem0,size=1G")
        .qmp()
        .hmp()
        .serial()
        .start();
    vm.serial().until("ready: 0 virtio-mem devices").unwrap();
    let (regions, descriptors) = (vm.hmp().run("info mtree"), count_descriptors(&vm));
    for turn in 1..=3_u64 {
        let size = 2 * turn * M;
        let device =
            json!({ "driver": "virtio-mem-pci", "id": "vm0", "memdev": "mem0", "requested-size": size });
        vm.qmp().ok("device_add", device);
        // New functions are looked for now and then, and at once on request.
        vm.serial().send(b"scan\r").unwrap();
        guest_reached(&mut vm, &[size]);
        resize(&mut vm, 0);
        vm.qmp().ok("device_del", json!({ "id": "vm0" }));
        vm.qmp().wait_event("DEVICE_DELETED", |event| event["data"]["device"] == "vm0");
    }
    assert_eq!(vm.hmp().run("info mtree"), regions);
    assert_eq!(count_descriptors(&vm), descriptors);
}

fn count_descriptors(vm: &Vm) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", vm.pid().as_raw_nonzero())).unwrap().count()
}
