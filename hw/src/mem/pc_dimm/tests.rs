use qom::Input;

use super::PcDimmState;

use crate::core::{MachineConfig, MemoryConfig, qdev};
use crate::mem::MemoryDevices;
use crate::testing::{Rig, config};

const GPE_STATUS: u64 = 0xafe0;
const REGISTERS: u64 = 0xa00;
const FLAGS: u64 = REGISTERS + 0x14;

fn with_slots(machine: &str, slots: u64) -> MachineConfig {
    let memory = MemoryConfig { size: Some(1 << 30), maxmem: Some(8 << 30), slots: Some(slots) };
    MachineConfig { memory, ..config(machine) }
}

/// A machine with backends `m0` to `m3` of 512 MiB.
fn build(config: MachineConfig) -> Rig {
    let rig = Rig::build(config).unwrap();
    for id in ["m0", "m1", "m2", "m3"] {
        let size = [("size", Input::Keyval("512M"))];
        rig.machine.tree().create_user_object("memory-backend-ram", id, size).unwrap();
    }
    rig
}

fn error(rig: &Rig, device: &str) -> String {
    rig.add(device).err().unwrap().desc().to_owned()
}

/// Address, size, node and flags of the slot that is selected.
fn selected(rig: &Rig, slot: u32) -> (u64, u64, u64, u64) {
    rig.outl(REGISTERS, slot);
    let wide = |offset| rig.read(REGISTERS + offset + 4, 4) << 32 | rig.read(REGISTERS + offset, 4);
    (wide(0), wide(8), rig.read(REGISTERS + 0x10, 4), rig.read(FLAGS, 1))
}

const BASE: u64 = 4 << 30;
const SIZE: u64 = 512 << 20;

#[test]
fn slots_and_places_are_given_out_or_refused_in_qemus_words() {
    let rig = build(with_slots("q35", 3));
    rig.add("pc-dimm,id=d0,memdev=m0,slot=1").unwrap();
    assert_eq!(error(&rig, "pc-dimm,memdev=m1,slot=1"), "slot 1 is busy");
    assert_eq!(error(&rig, "pc-dimm,memdev=m1,slot=3"), "invalid slot number 3, valid range is [0-2]");
    assert_eq!(error(&rig, "pc-dimm,memdev=m1,slot=-2"), "invalid slot number -2, valid range is [0-2]");
    assert_eq!(error(&rig, "pc-dimm,memdev=m0"), "can't use already busy memdev: m0");
    assert_eq!(error(&rig, "pc-dimm"), "'memdev' property must be set");
    assert_eq!(
        error(&rig, "pc-dimm,memdev=m1,node=1"),
        "'DIMM property node has value 1' which exceeds the number of numa nodes: 1"
    );
    assert_eq!(error(&rig, "pc-dimm,memdev=m1,addr=0x1000"), "address must be aligned to 0x200000 bytes");
    assert_eq!(error(&rig, "pc-dimm,memdev=m1,size=1G"), "Property 'pc-dimm.size' is not writable");
    // What was refused took no slot and no backend.
    rig.add("pc-dimm,id=d1,memdev=m1").unwrap();
    rig.add("pc-dimm,id=d2,memdev=m2").unwrap();
    assert_eq!(error(&rig, "pc-dimm,memdev=m3"), "no free slots available");
    let flags = [0, 1, 2].map(|slot| selected(&rig, slot));
    assert_eq!(flags, [(BASE + SIZE, SIZE, 0, 1), (BASE, SIZE, 0, 1), (BASE + 2 * SIZE, SIZE, 0, 1)]);
    assert_eq!(selected(&rig, 3), (0, 0, 0, 0));
    assert_eq!(MemoryDevices::of(&rig.machine).plugged_size(), 3 * SIZE);
}

#[test]
fn without_slots_or_acpi_there_is_nowhere_to_plug() {
    let rig = build(config("pc"));
    assert_eq!(
        error(&rig, "pc-dimm,memdev=m0"),
        "no slots where allocated, please specify the 'slots' option"
    );
    let options = vec![("acpi".to_owned(), "off".to_owned())];
    let rig = build(MachineConfig { options, ..with_slots("pc", 1) });
    assert_eq!(
        error(&rig, "pc-dimm,memdev=m0"),
        "memory hotplug is not enabled: missing acpi device or acpi disabled"
    );
}

#[test]
fn the_guest_is_told_of_a_dimm_and_lets_go_of_it() {
    let mut rig = build(with_slots("pc", 2));
    rig.add("pc-dimm,id=cold,memdev=m0").unwrap();
    rig.machine.finish().unwrap();
    assert_eq!(rig.read(GPE_STATUS, 1), 0, "one that was there from the start is no news");
    rig.add("pc-dimm,id=hot,memdev=m1").unwrap();
    assert_eq!((rig.read(GPE_STATUS, 1), selected(&rig, 1)), (8, (BASE + SIZE, SIZE, 0, 3)));
    rig.outb(GPE_STATUS, 8);
    rig.outb(FLAGS, 2);
    assert_eq!((rig.read(GPE_STATUS, 1), selected(&rig, 1).3), (0, 1));
    // A request may be made again, as the guest may have refused the first.
    for _ in 0..2 {
        qdev::device_del(&rig.machine, "hot").unwrap();
    }
    assert_eq!((rig.read(GPE_STATUS, 1), selected(&rig, 1).3), (8, 5));
    rig.outb(FLAGS, 4);
    assert_eq!(selected(&rig, 1).3, 1);
    // Ejected twice at once, it goes once, and the guest does not find it any more.
    rig.outb(FLAGS, 8);
    assert_eq!(selected(&rig, 1), (0, 0, 0, 0));
    rig.outb(FLAGS, 8);
    rig.turn();
    let deleted = r#"DEVICE_DELETED {"device": "hot", "path": "/machine/peripheral/hot"}"#;
    assert_eq!(rig.events(), [deleted]);
    assert_eq!(MemoryDevices::of(&rig.machine).plugged_size(), SIZE);
    // Its slot, its place and its backend are free again.
    rig.add("pc-dimm,id=again,memdev=m1").unwrap();
    assert_eq!(selected(&rig, 1), (BASE + SIZE, SIZE, 0, 3));
}

#[test]
fn what_the_guest_says_is_told_to_clients() {
    let rig = build(with_slots("pc", 2));
    rig.machine.finish().unwrap();
    rig.add("pc-dimm,id=hot,memdev=m1").unwrap();
    rig.outl(REGISTERS, 0);
    rig.outl(REGISTERS + 4, 0x103);
    rig.outl(REGISTERS + 8, 0x81);
    // A slot that does not exist is not spoken of.
    rig.outl(REGISTERS, 7);
    rig.outl(REGISTERS + 8, 1);
    rig.outb(FLAGS, 0xff);
    let said = r#"{"device": "hot", "source": 259, "status": 129, "slot": "0", "slot-type": "DIMM"}"#;
    assert_eq!(rig.events(), [format!("ACPI_DEVICE_OST {{\"info\": {said}}}")]);
    let status = crate::acpi::memhp::MemoryHotplug::of(&rig.machine).status().unwrap();
    let told: Vec<_> =
        status.iter().map(|s| (s.device.as_deref(), s.slot.as_str(), s.source, s.status)).collect();
    assert_eq!(told, [(Some("hot"), "0", 0x103, 0x81), (None, "1", 0, 0)]);
    let none = Rig::ready_none();
    let error = crate::acpi::memhp::MemoryHotplug::of(&none.machine).status().unwrap_err();
    assert_eq!(error.desc(), "command is not supported, missing ACPI device");
}

#[test]
fn a_dimm_that_is_elsewhere_is_refused_before_memory_comes() {
    let with = |device: &str| {
        let rig = build(with_slots("pc", 3));
        rig.add(device).unwrap();
        rig.machine.finish().unwrap();
        rig
    };
    let source = with("pc-dimm,id=d0,memdev=m0,slot=1,addr=0x140000000");
    let state = crate::testing::carry::save(&source.machine);
    let (_, version, bytes) = state.iter().find(|(path, ..)| path.ends_with("/pc-dimm")).unwrap();
    assert!(state[0].0.ends_with("/pc-dimm"), "it comes first");
    for (device, expected) in [
        ("slot=1,addr=0x140000000", Ok(())),
        ("slot=1", Err("Property 'addr' changed from 0x140000000 to 0x100000000")),
        ("slot=2,addr=0x140000000", Err("Property 'slot' changed from 1 to 2")),
    ] {
        let destination = with(&format!("pc-dimm,id=d0,memdev=m0,{device}"));
        let all = crate::testing::carry::sections(&destination.machine);
        let (_, section) = all.iter().find(|(_, section)| section.name() == "pc-dimm").unwrap();
        let loaded = section.load(&mut vmstate::Decoder::new(&bytes[..]), *version);
        assert_eq!(loaded.map_err(|error| error.to_string()), expected.map_err(str::to_owned), "{device}");
    }
    let here = PcDimmState { addr: 1, size: 2, node: 0, slot: 0 };
    let error = PcDimmState { size: 3, ..here.clone() }.check(&here).unwrap_err();
    assert_eq!(error.to_string(), "Property 'size' changed from 0x3 to 0x2");
    let error = PcDimmState { node: 1, ..here.clone() }.check(&here).unwrap_err();
    assert_eq!(error.to_string(), "Property 'node' changed from 1 to 0");
}
