//! The machine `microvm`: what is there, what is not, and how it is switched off.

use serde_json::json;
use tests::{Exited, Vm};

const SLOTS: u64 = 0xfeb0_0000;
const EVENTS: u64 = 0xfea0_0000;
const REGISTERS: u64 = 0xfea0_0200;
const POWER_BUTTON: u64 = 2;

fn start(options: &str) -> Vm {
    Vm::new().line(&format!("-machine microvm{options} -m 256M")).qmp().hmp().qtest().start()
}

fn refused(line: &str) -> String {
    let Exited { stderr, .. } = Vm::new().line(line).run();
    stderr
}

#[test]
fn there_are_eight_slots_and_nothing_on_a_pci_bus() {
    let mut vm = start("");
    let tree = vm.hmp().run("info qtree");
    assert_eq!(tree.matches("dev: virtio-mmio, id \"\"").count(), 8);
    let first = "    format_transport_address = true\n    force-legacy = true\n    ioeventfd = true\n    \
                 mmio 00000000feb00000/0000000000000200\n    bus: virtio-mmio-bus.0\n      type virtio-mmio-bus\n";
    assert!(tree.contains(first), "{tree}");
    assert!(tree.contains("dev: isabus-bridge, id \"\"") && !tree.contains("PCI"), "{tree}");
    for slot in 0..8 {
        let registers = [0, 4, 8, 12].map(|offset| vm.qtest().read(SLOTS + 0x200 * slot + offset, 4));
        assert_eq!(registers, [0x7472_6976, 1, 0, 0x554d_4551]);
    }
    let machine = vm.qmp().ok("qom-get", json!({"path": "/machine", "property": "type"}));
    assert_eq!(machine, "microvm-machine");
    let (_, error) = vm.qmp().err("device_add", json!({"driver": "virtio-mem-pci"}));
    assert_eq!(error, "No 'PCI' bus found for device 'virtio-mem-pci'");
}

#[test]
fn the_power_button_is_an_event_and_a_register_switches_off() {
    let mut vm = start(",rtc=off");
    assert_eq!(vm.qtest().read(EVENTS, 4), 0);
    vm.qmp().ok("system_powerdown", json!({}));
    assert_eq!([0, 1].map(|_| vm.qtest().read(EVENTS, 4)), [POWER_BUTTON, 0], "reading acknowledges");
    assert_eq!(vm.qtest().inp(0x71, 1), 0xff, "no clock");
    // Sleep type 5, sleep enable.
    vm.qtest().write(REGISTERS, 1, 5 << 2 | 1 << 5);
    vm.qmp().wait_event("SHUTDOWN", |_| true);
    vm.wait();
}

#[test]
fn without_acpi_there_are_no_events() {
    let mut vm = start(",acpi=off,pit=off,pic=off,isa-serial=off,x-option-roms=off,auto-kernel-cmdline=off");
    assert!(!vm.hmp().run("info qtree").contains("acpi-ged"));
    assert_eq!(vm.qtest().read(SLOTS + 0xe00, 4), 0x7472_6976);
}

#[test]
fn what_is_not_there_is_refused() {
    for (option, why) in [
        ("pcie=on", "Property 'pcie' cannot be 'on': this machine has no PCI Express\n"),
        ("ioapic2=on", "Property 'ioapic2' cannot be 'on': this machine has one I/O APIC\n"),
    ] {
        let stderr = refused(&format!("-machine microvm,{option}"));
        assert!(stderr.ends_with(why), "{stderr}");
    }
}
