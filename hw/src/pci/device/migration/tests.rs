//! Functions, bridges and ports look the same in the machine that they were moved to.

use vmstate::{Decoder, Encoder, Errno};

use crate::core::globals::Global;
use crate::core::qdev;
use crate::testing::{Rig, carry, config};

/// A q35 machine that has not run, with ports that do their own hot-plug.
fn machine(devices: &[&str]) -> Rig {
    let rig = Rig::build_with(config("q35"), |machine| {
        machine.globals().add_user(Global {
            driver: "ICH9-LPC".into(),
            property: "acpi-pci-hotplug-with-bridge-support".into(),
            value: "off".into(),
        });
        Ok(())
    })
    .unwrap();
    for device in devices {
        rig.add(device).unwrap();
    }
    rig.machine.finish().unwrap();
    rig
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

fn register(rig: &Rig, at: u64) -> u64 {
    rig.machine.system_space().read_uint(at, 1).0
}

const PORT: &str = "pcie-root-port,id=p0,chassis=1,addr=4";
const BEHIND: [&str; 2] = [PORT, "pvpanic-pci,bus=p0,id=d"];
const SLOT_CONTROL: u32 = 0x6c;

/// Opens the port, and maps the device behind it.
fn set_up(rig: &Rig) {
    write(rig, 0, 4, 0x18, 0x0001_0100);
    write(rig, 0, 4, 0x20, 0xe000_e000);
    write(rig, 0, 4, 4, 6);
    write(rig, 1, 0, 0x10, 0xe000_0000);
    write(rig, 1, 0, 4, 2);
}

#[test]
fn windows_and_bars_are_where_the_registers_say_at_both_ends() {
    let (from, to) = (machine(&BEHIND), machine(&BEHIND));
    set_up(&from);
    write(&from, 0, 0, 0x60, 0xb000_0001);
    assert_eq!((register(&from, 0xe000_0000), register(&to, 0xe000_0000)), (7, 0));
    assert_eq!(register(&to, 0xb000_0000), 0);
    carry::carry(&from.machine, &to.machine);
    assert_eq!(register(&to, 0xe000_0000), 7);
    // The window of memory-mapped configuration, and the function behind the port in it.
    assert_eq!(register(&to, 0xb000_0000), 0x86);
    assert_eq!(register(&to, 0xb010_0000), 0x36);
    assert_eq!(to.machine.system_space().read_uint(0xb010_0000, 4).0, 0x0011_1b36);
    assert_eq!(read(&to, 0, 4, 0x18), 0x0001_0100);
    write(&to, 0, 4, 4, 0);
    assert_eq!(register(&to, 0xe000_0000), 0, "the window follows what the guest does next");
}

#[test]
fn the_address_register_goes_along() {
    for board in ["q35", "pc"] {
        let (from, to) = (Rig::ready(board), Rig::ready(board));
        from.outl(0xcf8, 0x8000_0000);
        carry::carry(&from.machine, &to.machine);
        assert_eq!(to.read(0xcf8, 4), 0x8000_0000);
        assert_eq!(to.read(0xcfc, 4), from.read(0xcfc, 4));
    }
}

#[test]
fn a_slot_without_power_has_none_where_it_goes_and_a_button_stays_pressed() {
    let (from, to) = (machine(&BEHIND), machine(&BEHIND));
    set_up(&from);
    // Interrupts on, power off; with its indicator on what is in the slot stays there.
    write(&from, 0, 4, SLOT_CONTROL, 0x0539);
    assert_eq!(read(&from, 1, 0, 0), u32::MAX);
    let whole = read(&from, 0, 4, SLOT_CONTROL);
    carry::carry(&from.machine, &to.machine);
    assert_eq!(read(&to, 0, 4, SLOT_CONTROL), whole);
    assert_eq!(read(&to, 1, 0, 0), u32::MAX, "what has no power is not found");
    write(&to, 0, 4, SLOT_CONTROL, 0x01f9);
    assert_eq!(read(&to, 1, 0, 0), 0x0011_1b36);

    let (from, to) = (machine(&BEHIND), machine(&BEHIND));
    set_up(&from);
    qdev::device_del(&from.machine, "d").unwrap();
    assert_eq!(read(&from, 0, 4, SLOT_CONTROL) >> 16 & 1, 1, "the button");
    carry::carry(&from.machine, &to.machine);
    assert_eq!(read(&to, 0, 4, SLOT_CONTROL) >> 16 & 1, 1);
}

#[test]
fn a_pin_that_is_up_is_up_at_the_other_end_and_goes_down_there() {
    let (from, to) = (machine(&[PORT]), machine(&[PORT]));
    for rig in [&from, &to] {
        rig.machine.start();
    }
    let pin = |rig: &Rig| read(rig, 0, 4, 4) >> 19 & 1;
    write(&from, 0, 4, SLOT_CONTROL, 0x07f0);
    // A command that was carried out, once that interrupts.
    write(&from, 0, 4, SLOT_CONTROL, 0x07f0);
    assert_eq!(pin(&from), 1);
    carry::carry(&from.machine, &to.machine);
    assert_eq!(pin(&to), 1);
    select(&to, 0, 4, SLOT_CONTROL);
    let _ = to.machine.io_space().write_uint(0xcfe, 2, 0x10);
    assert_eq!(pin(&to), 0, "ones clear events");
}

#[test]
fn a_slot_is_shown_as_it_was_also_if_there_is_something_in_it_now() {
    let (from, to) = (machine(&[PORT]), machine(&BEHIND));
    let before = read(&from, 0, 4, SLOT_CONTROL);
    assert_ne!(read(&to, 0, 4, SLOT_CONTROL), before);
    let port = |rig: &Rig| {
        let all = carry::sections(&rig.machine);
        all.into_iter().find(|(_, section)| section.name() == "pcie-root-port").unwrap().1
    };
    let mut out = Encoder::new();
    port(&from).save(&mut out);
    let bytes = out.into_bytes();
    port(&to).load(&mut Decoder::new(&bytes[..]), 1).unwrap();
    assert_eq!(read(&to, 0, 4, SLOT_CONTROL), before, "as with QEMU");
    set_up(&to);
    assert_eq!(read(&to, 1, 0, 0), u32::MAX, "without power");
}

#[test]
fn another_function_is_refused_as_by_qemu() {
    let rig = machine(&["pvpanic-pci,addr=3"]);
    let mut state = carry::save(&rig.machine);
    let (_, _, bytes) = state.iter_mut().find(|(path, ..)| path.ends_with("pvpanic-pci")).unwrap();
    // Behind the length.
    assert_eq!(bytes[4..8], [0x36, 0x1b, 0x11, 0]);
    bytes[6] = 0x12;
    let error = carry::load(&rig.machine, &state).unwrap_err();
    assert_eq!(error.errno, Errno::Invalid);
    assert_eq!(
        error.lines,
        [
            "get_pci_config_device: Bad config data: i=0x2 read: 12 device: 11 cmask: ff wmask: 0 w1cmask:0",
            "Failed to load PCIDevice:config",
            "Failed to load pvpanic-pci:dev",
        ]
    );
}

#[test]
fn bad_state_does_no_harm() {
    let rig =
        machine(&[PORT, "pvpanic-pci,bus=p0", "pci-bridge,chassis_nr=2,addr=6", "pcie-pci-bridge,addr=7"]);
    set_up(&rig);
    for name in ["pcie-root-port", "pvpanic-pci", "pci_bridge", "pcie-pci-bridge", "mch", "PCIHost"] {
        carry::spoil(&rig.machine, name);
    }
}
