//! Claims about ports, the bridges behind them and hot-plug, on whole machines.

use std::sync::Arc;

use qapi::Result;
use vmstate::{Decoder, Encoder};

use crate::acpi::pcihp;
use crate::core::globals::Global;
use crate::core::qdev::device_del;
use crate::core::{Device, Machine};
use crate::testing::carry::{carry, sections};
use crate::testing::{Rig, config};

const CONTROL: u32 = 0x6c;

fn desc(result: Result<Arc<dyn Device>>) -> String {
    match result {
        Ok(_) => panic!("expected an error"),
        Err(error) => error.desc().to_owned(),
    }
}

/// A running machine with `devices` from the start.
fn machine(kind: &str, native: bool, devices: &[&str]) -> Rig {
    let rig = Rig::build_with(config(kind), |machine| {
        if native {
            machine.globals().add_user(Global {
                driver: "ICH9-LPC".into(),
                property: "acpi-pci-hotplug-with-bridge-support".into(),
                value: "off".into(),
            });
        }
        backends(machine)
    })
    .unwrap();
    for device in devices {
        rig.add(device).unwrap();
    }
    rig.machine.finish().unwrap();
    rig.machine.start();
    rig.events();
    rig
}

fn backends(machine: &Arc<Machine>) -> Result<()> {
    let size = qapi::Value::from(1u64 << 30);
    for id in ["mem0", "mem1"] {
        machine.tree().create_user_object("memory-backend-ram", id, [("size", qom::Input::Json(&size))])?;
    }
    Ok(())
}

fn select(rig: &Rig, bus: u32, slot: u32, offset: u32) {
    rig.outl(0xcf8, 1 << 31 | bus << 16 | slot << 11 | offset & 0xfc);
}

fn read(rig: &Rig, bus: u32, slot: u32, offset: u32) -> u32 {
    select(rig, bus, slot, offset);
    rig.read(0xcfc, 4) as u32
}

fn write(rig: &Rig, bus: u32, slot: u32, offset: u32, value: u32) {
    select(rig, bus, slot, offset);
    rig.outl(0xcfc, value);
}

const DEVICE: u32 = 0x1058_1af4;

#[test]
fn configuration_reaches_a_bus_by_its_number() {
    let rig = machine(
        "q35",
        false,
        &[
            "pcie-root-port,id=rp0,chassis=1",
            "pcie-pci-bridge,id=br0,bus=rp0",
            "virtio-mem-pci,memdev=mem0,bus=br0,addr=5",
        ],
    );
    assert_eq!(read(&rig, 0, 1, 0), 0x000c_1b36);
    assert_eq!(read(&rig, 1, 0, 0), u32::MAX, "no bus has that number yet");
    write(&rig, 0, 1, 0x18, 0x0002_0100);
    assert_eq!(read(&rig, 1, 0, 0), 0x000e_1b36);
    write(&rig, 1, 0, 0x18, 0x0002_0201);
    assert_eq!(read(&rig, 2, 5, 0), DEVICE);
    assert_eq!(read(&rig, 2, 4, 0), u32::MAX);
    write(&rig, 0, 1, 0x18, 0x0001_0100);
    assert_eq!(read(&rig, 2, 5, 0), u32::MAX, "the port does not forward it any more");
}

#[test]
fn a_bar_is_seen_through_open_windows_only() {
    let rig =
        machine("q35", false, &["pcie-root-port,id=rp0,chassis=1", "virtio-mem-pci,memdev=mem0,bus=rp0"]);
    write(&rig, 0, 1, 0x18, 0x0001_0100);
    write(&rig, 1, 0, 0x14, 0xfe00_0000);
    write(&rig, 1, 0, 4, 2);
    let seen = || rig.machine.system_space().read_uint(0xfe00_000c, 4).0;
    assert_ne!(seen(), 1, "the window is closed");
    write(&rig, 0, 1, 0x20, 0xfe00_fe00);
    assert_ne!(seen(), 1, "the port does not decode");
    write(&rig, 0, 1, 4, 2);
    assert_eq!(seen(), 1, "control word of a vector: masked");
    write(&rig, 0, 1, 0x20, 0xfd00_fd00);
    assert_ne!(seen(), 1);
    write(&rig, 0, 1, 0x20, 0xfe00_fd00);
    assert_eq!(seen(), 1);
    // A reset of the bus behind takes the BAR's address.
    write(&rig, 0, 1, 0x3c, 0x0040_0000);
    assert_ne!(seen(), 1);
    assert_eq!(read(&rig, 1, 0, 0x14), 0);
}

#[test]
fn acpi_plugs_behind_ports_by_the_number_of_the_bus() {
    let mut rig = machine(
        "q35",
        false,
        &[
            "pcie-root-port,id=rp0,chassis=1",
            "pcie-root-port,id=rp1,chassis=2,hotplug=off",
            "pcie-root-port,id=rp2,chassis=3",
        ],
    );
    let list: Vec<_> = pcihp::buses(&rig.machine).into_iter().map(|b| (b.bsel, b.slots)).collect();
    assert_eq!(list, [(0, 1), (1, 1)], "the newest port first, as in QEMU");
    write(&rig, 0, 1, 0x18, 0x0001_0100);
    rig.add("virtio-mem-pci,id=vm0,memdev=mem0,bus=rp0").unwrap();
    assert_eq!(rig.read(0xcc0, 4), 0);
    rig.outl(0xcd0, 1);
    assert_eq!((rig.read(0xcc0, 4), rig.read(0xcc0, 4)), (1, 0), "told once");
    assert_eq!(read(&rig, 1, 0, 0), DEVICE);
    assert_eq!(read(&rig, 0, 1, CONTROL) & 0x400, 0, "the slot has power");
    assert_eq!(desc(rig.add("virtio-mem-pci,memdev=mem1,bus=rp1")), "Bus 'rp1' does not support hotplugging");
    assert_eq!(desc(rig.add("virtio-mem-pci,memdev=mem1")), "Bus 'pcie.0' does not support hotplugging");
    assert_eq!(
        desc(rig.add("virtio-mem-pci,memdev=mem1,bus=rp0")),
        "PCI: slot 0 function 0 already occupied by virtio-mem-pci, new func virtio-mem-pci cannot be exposed to guest."
    );
    device_del(&rig.machine, "vm0").unwrap();
    assert_eq!(rig.read(0xcc4, 4), 1);
    rig.outl(0xcd0, 0);
    rig.outl(0xcc8, 1);
    rig.turn();
    assert_eq!(rig.events().len(), 0, "another bus");
    rig.outl(0xcd0, 1);
    rig.outl(0xcc8, 1);
    rig.turn();
    assert_eq!(rig.events().len(), 2);
    assert_eq!(read(&rig, 1, 0, 0), u32::MAX);
    rig.add("virtio-mem-pci,id=vm0,memdev=mem0,bus=rp0").unwrap();
}

#[test]
fn the_port_itself_plugs_where_acpi_does_not() {
    let mut rig = machine("q35", true, &["pcie-root-port,id=rp0,chassis=1,slot=3"]);
    assert!(pcihp::buses(&rig.machine).is_empty());
    write(&rig, 0, 1, 0x18, 0x0001_0100);
    assert_eq!(read(&rig, 0, 1, 0x68), 0x001a_007b);
    assert_eq!(read(&rig, 0, 1, CONTROL), 0x07c0);
    rig.add("virtio-mem-pci,id=vm0,memdev=mem0,bus=rp0").unwrap();
    assert_eq!(read(&rig, 0, 1, CONTROL), 0x0049_07c0, "present, changed, and the button");
    assert_eq!(read(&rig, 1, 0, 0), u32::MAX, "no power");
    write(&rig, 0, 1, CONTROL, 0x001f_01f9);
    assert_eq!(read(&rig, 1, 0, 0), DEVICE);
    assert_eq!(
        read(&rig, 0, 1, CONTROL),
        0x0059_01f9,
        "a command was completed; a guest that clears all loses nothing"
    );
    write(&rig, 0, 1, CONTROL, 0x0019_01f9);
    assert_eq!(read(&rig, 0, 1, CONTROL), 0x0050_01f9);
    device_del(&rig.machine, "vm0").unwrap();
    assert_eq!(read(&rig, 0, 1, CONTROL) >> 16 & 1, 1, "the button is pressed");
    write(&rig, 0, 1, CONTROL, 0x001f_02f9);
    assert_eq!(
        device_del(&rig.machine, "vm0").unwrap_err().desc(),
        "Device vm0 is already in the process of unplug"
    );
    write(&rig, 0, 1, CONTROL, 0x001f_06f9);
    assert_eq!(read(&rig, 1, 0, 0), u32::MAX);
    assert_eq!(rig.events().len(), 0);
    write(&rig, 0, 1, CONTROL, 0x001f_07f9);
    assert_eq!(read(&rig, 0, 1, CONTROL) >> 22 & 1, 0, "nothing is present");
    rig.turn();
    assert_eq!(
        rig.events(),
        [
            "DEVICE_DELETED {\"path\": \"/machine/peripheral/vm0/virtio-backend\"}",
            "DEVICE_DELETED {\"device\": \"vm0\", \"path\": \"/machine/peripheral/vm0\"}"
        ]
    );
    // In a slot that is off nobody is asked.
    rig.add("virtio-mem-pci,id=vm0,memdev=mem0,bus=rp0").unwrap();
    device_del(&rig.machine, "vm0").unwrap();
    assert_eq!(rig.next_events().len(), 2);
}

#[test]
fn an_unplug_that_waits_for_the_guest_waits_where_it_arrives() {
    let build = || {
        let devices = ["pcie-root-port,id=rp0,chassis=1,slot=3", "virtio-mem-pci,id=vm0,memdev=mem0,bus=rp0"];
        let rig = machine("q35", true, &devices);
        let clock = rig.machine.mainloop().virtual_clock();
        clock.set_manual();
        (rig, clock)
    };
    let ((source, from), (mut destination, to)) = (build(), build());
    from.set_now(7_000_000_000);
    device_del(&source.machine, "vm0").unwrap();
    from.set_now(9_000_000_000);
    to.set_now(9_000_000_000);
    carry(&source.machine, &destination.machine);
    assert_eq!(read(&destination, 0, 1, CONTROL) >> 16 & 1, 1, "the button is pressed");
    let again = || device_del(&destination.machine, "vm0");
    let refused = "Device vm0 is already in the process of unplug";
    assert_eq!(again().unwrap_err().desc(), refused);
    // Three seconds are left of five.
    to.set_now(to.now_ns() + 2_999_000_000);
    assert_eq!(again().unwrap_err().desc(), refused);
    to.set_now(to.now_ns() + 1_000_000);
    again().unwrap();
    assert_eq!(again().unwrap_err().desc(), refused, "asked once more");
    write(&destination, 0, 1, CONTROL, 0x001f_07f9);
    destination.events();
    destination.turn();
    assert_eq!(destination.events().len(), 2, "the guest let go of it");

    let empty = machine("q35", true, &["pcie-root-port,id=rp0,chassis=1,slot=3"]);
    let section = |machine: &Machine| {
        sections(machine).into_iter().find(|(_, section)| section.name() == "pcie-root-port").unwrap().1
    };
    let mut out = Encoder::new();
    section(&source.machine).save(&mut out);
    let bytes = out.into_bytes();
    let refused = |machine: &Machine, bytes: &[u8]| {
        section(machine).load(&mut Decoder::new(bytes), 1).unwrap_err().to_string()
    };
    assert_eq!(refused(&empty.machine, &bytes), "pcie-root-port: no function 0 waits here to be unplugged");
    // The last are a function and how long it has.
    let [.., function, far, _, _, _] = &bytes[..] else { panic!("{bytes:?}") };
    assert_eq!((*function, *far), (0, 0));
    let (mut other, mut long) = (bytes.clone(), bytes.clone());
    let at = bytes.len() - 5;
    (other[at], long[at + 1]) = (9, 1);
    assert_eq!(refused(&source.machine, &other), "pcie-root-port: no function 9 waits here to be unplugged");
    assert_eq!(refused(&source.machine, &long), "pcie-root-port: no function 0 waits here to be unplugged");
}

#[test]
fn ports_are_refused_in_qemus_words() {
    let rig = machine(
        "q35",
        true,
        &[
            "pcie-root-port,id=rp0,chassis=1,slot=1",
            "pcie-root-port,id=rp1,chassis=2,x-do-not-expose-native-hotplug-cap=on",
        ],
    );
    assert_eq!(
        desc(rig.add("virtio-mem-pci,memdev=mem0,bus=rp1")),
        "Hot-plug failed: unsupported by the port device 'rp1'"
    );
    let rig = Rig::build(config("q35")).unwrap();
    let text = |options| desc(rig.add(options));
    rig.add("pcie-root-port,chassis=1,slot=1").unwrap();
    assert_eq!(text("pcie-root-port,chassis=1,slot=1"), "Can't add chassis slot, error -16");
    assert_eq!(text("pcie-root-port,chassis=300"), "Parameter 'chassis' expects uint8_t");
    assert_eq!(
        text("pcie-root-port,chassis=2,pref32-reserve=1M,pref64-reserve=1M"),
        "PCI resource reserve cap: PREF32 and PREF64 conflict"
    );
    assert_eq!(
        text("pcie-root-port,chassis=2,mem-reserve=8G"),
        "PCI resource reserve cap: mem-reserve must be less than 4G"
    );
    rig.add("pcie-root-port,chassis=2").unwrap();
    assert_eq!(
        text("pci-bridge"),
        "Bridge chassis not specified. Each bridge is required to be assigned a unique chassis id > 0."
    );
}

#[test]
fn a_bridge_that_goes_takes_what_is_behind_it() {
    let mut rig = machine("pc", false, &[]);
    rig.add("pci-bridge,id=br,chassis_nr=1,addr=5").unwrap();
    assert_eq!(desc(rig.add("virtio-mem-pci,memdev=mem0,bus=br")), "Bus 'br' does not support hotplugging");
    device_del(&rig.machine, "br").unwrap();
    rig.outl(0xae08, 1 << 5);
    rig.turn();
    assert_eq!(rig.events().len(), 1);
    rig.add("pci-bridge,id=br,chassis_nr=1,addr=5").unwrap();
}
