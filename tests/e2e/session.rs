//! The first session of the README: a machine is started, its memory resized from a monitor, and a guest on a vCPU follows. On KVM,
//! hosted on `sim`, and against QEMU (which needs the guest's program as its `-kernel`) on KVM.

use std::fs;

use guest::arena::Arena;
use guest::mem::{Driver, Step, Touch};
use serde_json::{Value, json};
use tests::{Need, Peer, QtestBus, VirtioMem, Vm, VmBuilder, have, pci, program};

/// The issue's command line, without accelerator and monitors.
const LINE: &str = "-m 4G,maxmem=20G -smp sockets=2,cores=2 \
    -object memory-backend-ram,id=ram0,size=2G -object memory-backend-ram,id=ram1,size=2G \
    -numa node,nodeid=0,cpus=0-1,memdev=ram0 -numa node,nodeid=1,cpus=2-3,memdev=ram1 \
    -object memory-backend-ram,id=mem0,size=8G -device virtio-mem-pci,id=vm0,memdev=mem0,node=0,requested-size=0M \
    -object memory-backend-ram,id=mem1,size=8G -device virtio-mem-pci,id=vm1,memdev=mem1,node=1,requested-size=1G";

/// The built-in guest on a program that does not have it built in.
pub(crate) fn with_guest(builder: VmBuilder) -> VmBuilder {
    if program::peer() == Peer::Pliant {
        return builder;
    }
    fs::write(builder.scratch().join("guest.elf"), guest::IMAGE).unwrap();
    builder.line("-kernel $RUN/guest.elf")
}

/// Waits until a device's plugged size is this.
pub(crate) fn sized(vm: &mut Vm, id: &str, size: u64) {
    while vm.qmp().qom_get(id, "size") != size {
        let path = format!("/machine/peripheral/{id}");
        vm.qmp().wait_event("MEMORY_DEVICE_SIZE_CHANGE", |event| event["data"]["qom-path"] == path.as_str());
    }
}

/// What `info memory-devices` prints of the session's devices, whose memory begins at `base`.
fn devices(base: u64, requested: [u64; 2], sizes: [u64; 2]) -> String {
    let device = |n: usize| {
        format!(
            "Memory device [virtio-mem]: \"vm{n}\"\n  memaddr: {:#x}\n  node: {n}\n  requested-size: {}\n  size: {}\n  \
             max-size: 8589934592\n  block-size: 2097152\n  memdev: /objects/mem{n}\n",
            base + (n as u64) * (8 << 30),
            requested[n],
            sizes[n],
        )
    };
    device(0) + &device(1)
}

const M: u64 = 1 << 20;
const G: u64 = 1 << 30;

/// The whole session; `base` is where device memory begins on this machine.
fn session(builder: VmBuilder, base: u64) {
    let mut vm = with_guest(builder).line(LINE).qmp().hmp().serial().start();
    sized(&mut vm, "vm1", G);
    assert_eq!(vm.hmp().run("info memory-devices"), devices(base, [0, G], [0, G]));
    assert_eq!(
        vm.hmp().run("info numa"),
        "2 nodes\nnode 0 cpus: 0 1\nnode 0 size: 2048 MB\nnode 0 plugged: 0 MB\n\
         node 1 cpus: 2 3\nnode 1 size: 3072 MB\nnode 1 plugged: 1024 MB\n"
    );

    assert_eq!(vm.hmp().run("qom-set vm0 requested-size 500M"), "");
    assert_eq!(vm.hmp().run("qom-set vm1 requested-size 200M"), "");
    sized(&mut vm, "vm0", 500 * M);
    sized(&mut vm, "vm1", 200 * M);
    assert_eq!(vm.hmp().run("info memory-devices"), devices(base, [500 * M, 200 * M], [500 * M, 200 * M]));
    assert_eq!(
        vm.hmp().run("info memory_size_summary"),
        "base memory: 4294967296\nplugged memory: 734003200\n"
    );

    // The same to a program.
    let list = vm.qmp().ok("query-memory-devices", json!({}));
    let of = |n: usize, key: &str| list[n]["data"][key].clone();
    assert_eq!([of(0, "size"), of(1, "size")], [json!(500 * M), json!(200 * M)]);
    assert_eq!([of(0, "memaddr"), of(1, "memaddr")], [json!(base), json!(base + 8 * G)]);

    guest_reached(&mut vm, &[500 * M, 200 * M]);
    // The guest's own view, and that what it has written is still there.
    guest_says(&mut vm, "mem", "mem: 2 devices", &["plugged 524288000", "plugged 209715200"]);
    guest_says(&mut vm, "check", "words differ", &["check: ok: "]);

    // A reset takes all away; the rebooted guest plugs again what is requested.
    vm.qmp().ok("system_reset", json!({}));
    let reset = vm.qmp().wait_event("RESET", |_| true);
    assert_eq!(reset["data"], json!({ "guest": false, "reason": "host-qmp-system-reset" }));
    sized(&mut vm, "vm0", 500 * M);
    sized(&mut vm, "vm1", 200 * M);

    // And to nothing.
    for id in ["vm0", "vm1"] {
        vm.qmp().qom_set(id, "requested-size", json!(0));
        sized(&mut vm, id, 0);
    }
    guest_reached(&mut vm, &[0, 0]);
    guest_says(&mut vm, "check", "words differ", &["check: ok: 0 blocks"]);
    guest_turns_off(vm);
}

/// Waits until the guest has said that it reached these sizes, each as often as it stands here, in any order. The device changes size before the guest has
/// written to the new memory, so that the device's events do not tell.
pub(crate) fn guest_reached(vm: &mut Vm, sizes: &[u64]) {
    let texts: Vec<String> = sizes.iter().map(|size| format!("plugged {size} of {size} requested")).collect();
    let all = |got: &[u8]| {
        let said = String::from_utf8_lossy(got);
        let often = |text: &String| texts.iter().filter(|other| *other == text).count();
        texts.iter().all(|text| said.matches(text.as_str()).count() >= often(text)).then_some(got.len())
    };
    vm.serial().take("the guest to reach the sizes", all).unwrap();
}

/// A guest on this accelerator and machine line that has plugged 64 MiB of `vm0`, whose memory is `mem0`.
pub(crate) fn guest_with_64_mib(accel: &str, machine: &str) -> Vm {
    let mut vm = with_guest(Vm::new().accel(accel))
        .line(machine)
        .line("-device virtio-mem-pci,id=vm0,memdev=mem0,requested-size=64M")
        .qmp()
        .hmp()
        .serial()
        .start();
    guest_reached(&mut vm, &[64 << 20]);
    vm
}

/// Types a command at the guest's serial port and reads to the line with `last`; every text must have come.
pub(crate) fn guest_says(vm: &mut Vm, command: &str, last: &str, texts: &[&str]) {
    // What the guest said of its own accord is not the answer.
    vm.serial().send(format!("{command}\r").as_bytes()).unwrap();
    let mut said = vm.serial().until(last).unwrap();
    said += &vm.serial().until("\n").unwrap();
    for text in texts {
        assert!(said.contains(text), "{command}: no {text:?} in {said}");
    }
}

/// The guest powers the machine off, and the program ends.
fn guest_turns_off(mut vm: Vm) {
    vm.serial().send(b"off\r").unwrap();
    let shutdown = vm.qmp().wait_event("SHUTDOWN", |_| true);
    assert_eq!(shutdown["data"], json!({ "guest": true, "reason": "guest-shutdown" }));
    let exited = vm.wait();
    assert_eq!((exited.code, exited.signal), (Some(0), None), "{}", exited.stderr);
}

/// Has a driver do what there is to do.
fn settle(driver: &mut Driver, bus: &mut QtestBus<'_>) {
    while driver.step(bus).unwrap() != Step::Idle {}
}

#[test]
fn the_guests_driver_follows_over_qtest() {
    if !have(&[Need::QtestAccel]) {
        return;
    }
    let mut vm = Vm::new().line("-machine q35").line(LINE).qtest().qmp().hmp().start();
    // What firmware does: BARs, and the functions' numbers.
    let [vm0, vm1] = [1, 2].map(pci::Function::at);
    let functions = [(vm0, 0), (vm1, 1)].map(|(function, nth)| {
        VirtioMem::map(vm.qtest(), function, nth);
        guest::pci::Function { bus: function.bus, device: function.device, function: function.function }
    });
    let mut arena = Arena::new(64 * M, 80 * M);
    let mut drivers =
        functions.map(|f| Driver::open(&mut QtestBus::new(vm.qtest()), f, &mut arena, Touch::Page).unwrap());
    for requested in [[0, G], [500 * M, 200 * M], [0, 0]] {
        for (id, size) in ["vm0", "vm1"].into_iter().zip(requested) {
            vm.qmp().qom_set(id, "requested-size", json!(size));
        }
        for driver in &mut drivers {
            settle(driver, &mut QtestBus::new(vm.qtest()));
            let found = driver.check(&mut QtestBus::new(vm.qtest()));
            assert_eq!(found.mismatches, 0, "what the driver wrote is still there");
        }
        assert_eq!(vm.hmp().run("info memory-devices"), devices(0x1_8000_0000, requested, requested));
    }
}

#[test]
fn a_guest_on_kvm_follows_on_q35() {
    if have(&[Need::Kvm]) {
        session(Vm::new().accel("kvm").line("-machine q35"), 0x1_8000_0000);
    }
}

#[test]
fn a_guest_on_kvm_follows_on_the_default_machine() {
    if have(&[Need::Kvm]) {
        session(Vm::new().accel("kvm"), 0x1_4000_0000);
    }
}

#[test]
fn a_hosted_guest_follows_on_sim() {
    if have(&[Need::Pliant]) {
        session(Vm::new().accel("sim").line("-machine q35"), 0x1_8000_0000);
    }
}

#[test]
fn without_an_accelerator_option_the_best_one_is_taken() {
    if !have(&[Need::Pliant]) {
        return;
    }
    let mut vm = Vm::new().bare().line("-nodefaults -display none -machine q35 -m 1G").qmp().start();
    let kvm = fs::OpenOptions::new().read(true).write(true).open("/dev/kvm").is_ok();
    assert_eq!(vm.qmp().ok("query-kvm", json!({})), json!({ "enabled": kvm, "present": kvm }));
    let lines = if kvm { 0 } else { 1 };
    let stderr = vm.stderr();
    // What the host's processor lacks of the default model is warned of under any KVM, QEMU's too.
    let told = stderr.lines().filter(|line| !line.contains("host doesn't support requested feature"));
    assert_eq!(told.count(), lines, "one line of warning where there is no KVM: {stderr}");
}

#[test]
fn nodes_without_memory_share_the_ram_evenly() {
    if !have(&[Need::Pliant]) {
        return;
    }
    let line = "-machine q35 -m 4G -smp 4 -numa node,nodeid=0,cpus=0-1 -numa node,nodeid=1,cpus=2-3";
    let mut vm = Vm::new().line(line).hmp().start();
    assert_eq!(
        vm.hmp().run("info numa"),
        "2 nodes\nnode 0 cpus: 0 1\nnode 0 size: 2048 MB\nnode 0 plugged: 0 MB\n\
         node 1 cpus: 2 3\nnode 1 size: 2048 MB\nnode 1 plugged: 0 MB\n"
    );
}

#[test]
fn a_stopped_guest_does_not_follow_until_it_goes_on() {
    if !have(&[Need::Kvm]) {
        return;
    }
    let line = "-machine q35 -m 1G,maxmem=4G -object memory-backend-ram,id=mem0,size=2G \
                -device virtio-mem-pci,id=vm0,memdev=mem0,requested-size=64M";
    let mut vm = with_guest(Vm::new().accel("kvm")).line(line).qmp().serial().start();
    sized(&mut vm, "vm0", 64 * M);
    vm.qmp().ok("stop", json!({}));
    vm.qmp().wait_event("STOP", |_| true);
    vm.qmp().qom_set("vm0", "requested-size", json!(128 * M));
    for _ in 0..100 {
        assert_eq!(vm.qmp().qom_get("vm0", "size"), 64 * M);
    }
    vm.qmp().ok("cont", json!({}));
    sized(&mut vm, "vm0", 128 * M);
}

#[test]
fn a_hot_plugged_device_is_found_followed_and_given_up_by_the_guest() {
    if !have(&[Need::Kvm, Need::Pliant]) {
        return;
    }
    let mut vm = Vm::new().accel("kvm").line("-machine pc -m 1G,maxmem=4G").qmp().serial().start();
    vm.qmp().ok("object-add", json!({ "qom-type": "memory-backend-ram", "id": "mem0", "size": G }));
    let device =
        json!({ "driver": "virtio-mem-pci", "id": "vm0", "memdev": "mem0", "requested-size": 64 * M });
    vm.qmp().ok("device_add", device);
    sized(&mut vm, "vm0", 64 * M);
    let refused = vm.qmp().err("device_del", json!({ "id": "vm0" }));
    assert_eq!(refused.0, "GenericError");
    vm.qmp().qom_set("vm0", "requested-size", json!(0));
    sized(&mut vm, "vm0", 0);
    vm.qmp().ok("device_del", json!({ "id": "vm0" }));
    vm.qmp().wait_event("DEVICE_DELETED", |event: &Value| event["data"]["device"] == "vm0");
    assert_eq!(vm.qmp().ok("query-memory-devices", json!({})), json!([]));
    vm.qmp().ok("object-del", json!({ "id": "mem0" }));
}
