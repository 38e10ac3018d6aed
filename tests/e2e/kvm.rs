//! The device path under a guest that really runs, on KVM and on `sim`: memory that comes and goes, interrupt pins, hostile drivers, and
//! monitors that do not leave a busy machine alone.

pub(crate) mod memory;
mod options;
mod stress;

use std::time::Instant;

use serde_json::json;
use tests::pci::Function;
use tests::virtio_mem::IDS;
use tests::wire::patience;
use tests::{Need, Vm, have};

use crate::session::{guest_reached, guest_says, with_guest};

const M: u64 = 1 << 20;
/// The status register of a PCI function, and its bit for a raised pin.
const STATUS: u8 = 0x06;
const INTERRUPT: u64 = 1 << 3;

/// Whether this accelerator can be had here.
fn can(accel: &str) -> bool {
    have(if accel == "kvm" { &[Need::Kvm] } else { &[Need::Pliant] })
}

/// A q35 machine with the built-in guest.
fn q35(accel: &str, line: &str) -> Vm {
    with_guest(Vm::new().accel(accel))
        .line("-machine q35 -m 512M,maxmem=4G")
        .line(line)
        .qmp()
        .hmp()
        .serial()
        .start()
}

/// The options of a device `vm0` with 1 GiB of anonymous memory.
fn device(options: &str) -> String {
    format!("-object memory-backend-ram,id=mem0,size=1G -device virtio-mem-pci,id=vm0,memdev=mem0{options}")
}

/// What the program complained of, without the warnings that a machine is started with.
fn complaints(vm: &Vm) -> Vec<String> {
    vm.stderr().lines().filter(|line| !line.contains(" warning: ")).map(str::to_owned).collect()
}

/// Sets a requested size, and waits until the guest says that it has done all it wanted to.
fn resize(vm: &mut Vm, size: u64) {
    vm.qmp().qom_set("vm0", "requested-size", json!(size));
    guest_reached(vm, &[size]);
    assert_eq!(vm.qmp().qom_get("vm0", "size"), size);
}

fn follows_without_messages(accel: &str) {
    for machine in ["q35", "pc"] {
        let line =
            format!("-machine {machine} -m 512M,maxmem=4G {}", device(",vectors=0,requested-size=64M"));
        let mut vm = with_guest(Vm::new().accel(accel)).line(&line).qmp().qtest().serial().start();
        guest_reached(&mut vm, &[64 * M]);
        resize(&mut vm, 6 * M);
        resize(&mut vm, 32 * M);
        guest_says(&mut vm, "check", "words differ", &["check: ok: 16 blocks"]);
        // The guest asked the device why its pin was raised, which lowers it.
        let function = Function::find(vm.qtest(), 0, IDS.0, IDS.1)[0];
        let until = Instant::now() + patience();
        while function.read(vm.qtest(), STATUS, 2) & INTERRUPT != 0 {
            assert!(Instant::now() < until, "the pin stays raised");
        }
    }
}

#[test]
fn a_device_without_messages_is_followed_on_kvm() {
    if can("kvm") {
        follows_without_messages("kvm");
    }
}

#[test]
fn a_device_without_messages_is_followed_on_sim() {
    if can("sim") {
        follows_without_messages("sim");
    }
}
