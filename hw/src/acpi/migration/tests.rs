//! Claims about ACPI on the move: events that the guest has not seen are still to be seen, and its interrupt is up.

use qom::Input;
use vmstate::{Decoder, Encoder, VmState};

use super::*;
use crate::core::{MachineConfig, MemoryConfig, qdev};
use crate::testing::carry::{carry, save, spoil};
use crate::testing::{Rig, config};

const DIMMS: u64 = 0xa00;
const FLAGS: u64 = DIMMS + 0x14;

/// Where the parts of a board are.
struct Ports {
    fixed: u64,
    gpe: u64,
    /// Where the second byte of enables is, from there.
    gpe_enable: u64,
    plug: u64,
    /// The number of the bus behind the bridge: the root of `q35` takes no part.
    bus: u32,
}

fn ports(kind: &str) -> Ports {
    match kind {
        "pc" => Ports { fixed: 0x600, gpe: 0xafe0, gpe_enable: 2, plug: 0xae00, bus: 1 },
        _ => Ports { fixed: 0x600, gpe: 0x620, gpe_enable: 8, plug: 0xcc0, bus: 0 },
    }
}

/// A machine with bridges, DIMMs and a device on each side of a bridge.
fn build(kind: &str, incoming: bool) -> Rig {
    let memory = MemoryConfig { size: Some(1 << 30), maxmem: Some(8 << 30), slots: Some(3) };
    let options = if kind == "microvm" { vec![] } else { vec![("acpi".to_owned(), "on".to_owned())] };
    let rig = Rig::build(MachineConfig { memory, options, ..config(kind) }).unwrap();
    for id in ["m0", "m1"] {
        let size = [("size", Input::Keyval("512M"))];
        rig.machine.tree().create_user_object("memory-backend-ram", id, size).unwrap();
    }
    let bridge = if kind == "pc" {
        "pci-bridge,id=br0,chassis_nr=1,addr=5"
    } else {
        "pcie-root-port,id=br0,chassis=1,addr=5"
    };
    rig.add(bridge).unwrap();
    rig.add("pc-dimm,id=d0,memdev=m0").unwrap();
    if incoming {
        rig.add("virtio-rng-pci,id=r0,bus=br0,addr=0").unwrap();
        rig.add("pc-dimm,id=d1,memdev=m1").unwrap();
        rig.machine.expect_incoming();
    }
    rig.machine.finish().unwrap();
    rig
}

/// Has firmware's work done by the test: the qtest accelerator boots nothing.
fn enable_ports(rig: &Rig, kind: &str) {
    if kind == "pc" {
        rig.config_write(1, 3, 0x40, 0x601);
        rig.config_write(1, 3, 0x80, 1);
    } else {
        rig.config_write(31, 0, 0x40, 0x601);
        rig.config_write(31, 0, 0x44, 0x80);
    }
}

/// How many events say that device `id` is gone.
fn mentioned(events: &[String], id: &str) -> usize {
    events.iter().filter(|event| event.starts_with("DEVICE_DELETED") && event.contains(id)).count()
}

fn sci(rig: &Rig) -> bool {
    pm(rig).sci_level()
}

fn pm(rig: &Rig) -> Arc<Pm> {
    MemoryHotplug::of(&rig.machine).pm().unwrap()
}

#[test]
fn a_boards_acpi_arrives_with_all_that_is_pending() {
    for kind in ["pc", "q35"] {
        let Ports { fixed, gpe, gpe_enable, plug, bus } = ports(kind);
        let source = build(kind, false);
        enable_ports(&source, kind);
        source.machine.start();
        source.add("virtio-rng-pci,id=r0,bus=br0,addr=0").unwrap();
        source.add("pc-dimm,id=d1,memdev=m1").unwrap();
        qdev::device_del(&source.machine, "d0").unwrap();
        qdev::device_del(&source.machine, "r0").unwrap();
        source.outl(DIMMS, 0);
        source.outl(DIMMS + 4, 3);
        source.outl(DIMMS + 8, 0x80);
        source.outb(gpe + gpe_enable, 0x0a);
        source.outl(plug + 0x10, bus);
        assert!(source.machine.io_space().write_uint(fixed + 2, 2, 0x121).is_ok());
        assert!(source.machine.stop_to_move() && sci(&source));

        let mut destination = build(kind, true);
        carry(&source.machine, &destination.machine);
        assert!(sci(&destination), "{kind}");
        assert_eq!(destination.events(), [] as [&str; 0], "{kind}");
        destination.machine.incoming_done(destination.machine.run_state());
        destination.machine.cont().unwrap();
        destination.events();

        assert_eq!(destination.read(fixed + 2, 2), 0x121, "{kind}");
        assert_eq!(destination.read(gpe, 1) & 0x0a, 0x0a, "{kind}");
        destination.outb(gpe, 0xff);
        assert!(!sci(&destination), "{kind}");
        // The bus behind the bridge, as the guest's tables call it.
        assert_eq!(destination.read(plug + 0x10, 4), u64::from(bus), "{kind}");
        assert_eq!([0, 4].map(|at| destination.read(plug + at, 4)), [1, 1], "{kind}");
        assert_eq!(destination.read(plug, 4), 0, "{kind}: told once");
        let flags = |slot| {
            destination.outl(DIMMS, slot);
            destination.read(FLAGS, 1)
        };
        assert_eq!([flags(0), flags(1), flags(2)], [1 | 4, 1 | 2, 0], "{kind}");
        let status = MemoryHotplug::of(&destination.machine).status().unwrap();
        assert_eq!((status[0].source, status[0].status), (3, 0x80), "{kind}");

        // And lets go of both.
        destination.outl(plug + 8, 1);
        flags(0);
        destination.outb(FLAGS, 8);
        destination.turn();
        let gone = destination.events();
        assert_eq!(["\"r0\"", "\"d0\""].map(|id| mentioned(&gone, id)), [1, 1], "{kind}: {gone:?}");
    }
}

#[test]
fn a_device_that_is_to_go_goes_with_the_next_reset_there_too() {
    let source = build("pc", false);
    source.machine.start();
    source.add("virtio-rng-pci,id=r0,bus=br0,addr=0").unwrap();
    qdev::device_del(&source.machine, "r0").unwrap();
    let mut destination = build("pc", true);
    // Its slots of DIMMs differ, which is not what this is about.
    source.add("pc-dimm,id=d1,memdev=m1").unwrap();
    carry(&source.machine, &destination.machine);
    destination.machine.incoming_done(qapi::types::RunState::Running);
    destination.machine.request_reset(qapi::types::ShutdownCause::GuestReset);
    destination.turn();
    assert!(destination.events().iter().any(|event| event.starts_with("DEVICE_DELETED")));
}

#[test]
fn what_the_guest_let_go_of_is_gone_before_anything_is_saved() {
    let source = build("q35", false);
    source.machine.start();
    source.add("virtio-rng-pci,id=r0,bus=br0,addr=0").unwrap();
    source.add("pc-dimm,id=d1,memdev=m1").unwrap();
    source.events();
    for id in ["r0", "d1"] {
        qdev::device_del(&source.machine, id).unwrap();
    }
    source.outl(0xcc0 + 0x10, 0);
    source.outl(0xcc0 + 8, 1);
    source.outl(DIMMS, 1);
    source.outb(FLAGS, 8);
    // The loop has not turned.
    assert!(source.machine.stop_to_move());
    let events = source.events();
    assert_eq!(["\"r0\"", "\"d1\""].map(|id| mentioned(&events, id)), [1, 1], "{events:?}");
}

#[test]
fn another_machine_is_refused() {
    let source = build("pc", false);
    let state = save(&source.machine);
    // A DIMM more.
    let other = build("pc", false);
    other.add("pc-dimm,id=d1,memdev=m1").unwrap();
    let all = save(&other.machine);
    let section = |list: &[(String, u32, Vec<u8>)], name: &str| {
        list.iter().find(|(path, ..)| path.ends_with(name)).unwrap().clone()
    };
    let (_, version, bytes) = section(&state, "/piix4_pm");
    let own = crate::testing::carry::sections(&other.machine);
    let (_, own) = own.iter().find(|(_, section)| section.name() == "piix4_pm").unwrap();
    let error = own.load(&mut Decoder::new(&bytes[..]), version).unwrap_err();
    assert_eq!(error.to_string(), "memory hotplug: there is a DIMM in slot 1 at one end only");
    assert_ne!(bytes, section(&all, "/piix4_pm").2);

    let pm = pm(&source);
    let acpi = AcpiState::of(&source.machine, &pm, None);
    let error = AcpiState::load(Some(acpi.clone()), Some(&source.machine), None).unwrap_err();
    assert_eq!(error.to_string(), "ACPI is at one end only");
    let more = AcpiState {
        pcihp: Some(PciHotplugState { hotplug_select: 0, acpi_index: 0, buses: Vec::new() }),
        ..acpi.clone()
    };
    let error = AcpiState::load(Some(more), Some(&source.machine), Some((&pm, None))).unwrap_err();
    assert_eq!(error.to_string(), "ACPI PCI hotplug is at one end only");
    let error =
        AcpiState::load(Some(AcpiState { memhp: None, ..acpi }), Some(&source.machine), Some((&pm, None)));
    assert_eq!(error.unwrap_err().to_string(), "memory hotplug: slots changed from 0 to 3");
}

#[test]
fn numbers_of_buses_are_those_of_the_guests_tables() {
    // There the second bridge came later, and the tables do not know it.
    let source = build("pc", false);
    source.machine.start();
    source.add("pci-bridge,id=br1,chassis_nr=2,addr=3").unwrap();
    let destination = Rig::build(config("pc")).unwrap();
    destination.add("pci-bridge,id=br0,chassis_nr=1,addr=5").unwrap();
    destination.add("pci-bridge,id=br1,chassis_nr=2,addr=3").unwrap();
    destination.machine.finish().unwrap();
    let number = |rig: &Rig, slot: u8| {
        let bus = rig.machine.board().unwrap().pci_bus().unwrap();
        bus.function(slot << 3).unwrap().bridge().unwrap().bus().unwrap().hotplug_number()
    };
    assert_eq!([number(&source, 5), number(&source, 3)], [Some(1), None]);
    assert!(number(&destination, 3).is_some());
    let hotplug = |rig: &Rig| crate::acpi::pcihp::installed(&rig.machine).unwrap();
    hotplug(&destination).load_state(hotplug(&source).saved_state()).unwrap();
    assert_eq!([number(&destination, 5), number(&destination, 3)], [Some(1), None]);

    let mut none = hotplug(&source).saved_state();
    none.buses[1].path = vec![7 << 3];
    let error = hotplug(&destination).load_state(none).unwrap_err();
    assert_eq!(error.to_string(), "ACPI PCI hotplug: bus 1 of the guest is none of this machine");
    let changes: [fn(&mut PciHotplugState); 3] = [
        |state| state.buses[1].number = 0,
        |state| state.buses[1].number = 256,
        |state| state.buses[1].path.clear(),
    ];
    for change in changes {
        let mut state = hotplug(&source).saved_state();
        change(&mut state);
        assert!(hotplug(&destination).load_state(state).is_err());
    }
}

#[test]
fn a_spoilt_stream_is_taken_or_refused() {
    for (kind, names) in
        [("pc", &["piix4_pm", "PIIX3"][..]), ("q35", &["ICH9LPC"]), ("microvm", &["acpi-ged"])]
    {
        let rig = if kind == "microvm" { Rig::ready(kind) } else { build(kind, false) };
        names.iter().for_each(|name| spoil(&rig.machine, name));
        rig.machine.start();
    }
    // No memory is taken for what a stream only promises.
    let mut out = Encoder::new();
    AcpiState::of(&build("pc", false).machine, &pm(&build("pc", false)), None).put_fields(&mut out);
    let bytes = out.into_bytes();
    for at in 0..bytes.len() {
        assert!(AcpiState::get_versioned(&mut Decoder::new(&bytes[..at]), 1).is_err());
    }
}

#[test]
fn an_event_that_a_hardware_reduced_guest_has_not_picked_up_is_still_there() {
    let source = Rig::ready("microvm");
    source.machine.start();
    source.machine.request_powerdown();
    source.machine.carry_out_requests();
    let destination = Rig::build(config("microvm")).unwrap();
    destination.machine.expect_incoming();
    destination.machine.finish().unwrap();
    carry(&source.machine, &destination.machine);
    let read = |rig: &Rig| rig.machine.system_space().read_uint(crate::acpi::ged::EVENTS_BASE, 4).0;
    assert_eq!([read(&destination), read(&destination)], [u64::from(crate::acpi::ged::POWER_BUTTON), 0]);
}
