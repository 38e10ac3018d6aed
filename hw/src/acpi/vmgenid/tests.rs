//! Who may have one, and what it says; its place is looked at by the tests of the tables and of the boot.

use super::*;
use crate::core::MachineConfig;
use crate::testing::{Rig, config};

const GUID: &str = "324e6eaf-d1d1-4bf6-bf41-b9bb6c91fb87";
const NO_DMA: &str = "vmgenid requires DMA write support in fw_cfg, which this machine type does not provide";

fn refused(rig: &Rig, options: &str) -> String {
    rig.add(options).err().unwrap().desc().to_owned()
}

#[test]
fn there_is_one_at_most_and_firmware_must_be_able_to_answer() {
    let rig = Rig::build(config("q35")).unwrap();
    assert_eq!(text(&rig.machine).unwrap_err().desc(), "VM Generation ID device not found");
    assert_eq!(refused(&rig, "vmgenid,guid=x"), "Property 'vmgenid.guid' doesn't take value 'x'");
    rig.add(&format!("vmgenid,id=a,guid={}", GUID.to_uppercase())).unwrap();
    assert_eq!(text(&rig.machine).unwrap(), GUID);
    assert_eq!(refused(&rig, "vmgenid"), "at most one vmgenid device is permitted");
    rig.machine.finish().unwrap();
    let fixed = "Device 'vmgenid' does not support hotplugging";
    assert_eq!(refused(&rig, "vmgenid,guid=x"), fixed);
    assert_eq!(crate::core::qdev::device_del(&rig.machine, "a").unwrap_err().desc(), fixed);
    let none = MachineConfig { machine: Some("none".into()), ..Default::default() };
    assert_eq!(refused(&Rig::build(none).unwrap(), "vmgenid"), NO_DMA);
}

#[test]
fn a_random_one_stays_what_it_is() {
    let rig = Rig::build(config("pc")).unwrap();
    let device = rig.add("vmgenid,guid=auto").unwrap() as qom::ObjectRef;
    let guid = text(&rig.machine).unwrap();
    assert!(uuid::parse(&guid).is_some());
    assert_eq!(device.get("guid").unwrap().as_str(), Some(&*guid));
    rig.machine.finish().unwrap();
    rig.machine.request_reset(qapi::types::ShutdownCause::GuestReset);
    assert_eq!(text(&rig.machine).unwrap(), guid);
}

#[test]
fn the_page_has_the_number_at_its_offset_where_the_guest_is_told() {
    let with = |kind: &str, acpi: &str| {
        let mut config = config(kind);
        config.options.push(("acpi".into(), acpi.into()));
        let rig = Rig::build(config).unwrap();
        rig.add(&format!("vmgenid,guid={GUID}")).unwrap();
        assert_eq!(text(&rig.machine).unwrap(), GUID);
        page(&rig.machine)
    };
    let page = with("pc", "on").unwrap();
    assert_eq!((page.len(), &page[40..46]), (4096, &[0xaf, 0x6e, 0x4e, 0x32, 0xd1, 0xd1][..]));
    assert!(page[..40].iter().chain(&page[56..]).all(|byte| *byte == 0));
    assert_eq!((with("pc", "off"), with("microvm", "on")), (None, None));
    assert_eq!(placed(), 0xf_4028u64.to_le_bytes());
}

#[test]
fn a_guest_that_arrives_is_told_of_its_new_number() {
    let build = |guid: &str, incoming: bool| {
        let rig = Rig::build(config("pc")).unwrap();
        rig.add(&format!("vmgenid,guid={guid}")).unwrap();
        if incoming {
            rig.machine.expect_incoming();
        }
        rig.machine.finish().unwrap();
        rig
    };
    let place = 0x12_3000u64;
    let source = build(GUID, false);
    let fw = FwCfg::of(&source.machine).unwrap();
    fw.set_file(ADDR_FILE, place.to_le_bytes()).unwrap();
    let other = "424e6eaf-d1d1-4bf6-bf41-b9bb6c91fb87";
    let destination = build(other, true);
    crate::testing::carry::carry(&source.machine, &destination.machine);
    let number = || {
        let mut bytes = [0; 16];
        assert!(destination.machine.system_space().read(place, &mut bytes).is_ok());
        bytes
    };
    let event = || destination.read(0xafe0, 1) & 1 << GPE;
    assert_eq!((number(), event()), ([0; 16], 0), "loading alone tells nobody");
    destination.machine.incoming_done(qapi::types::RunState::Running);
    assert_eq!(number(), uuid::mixed_endian(uuid::parse(other).unwrap()));
    assert_eq!(event(), 1 << GPE);
    crate::testing::carry::spoil(&destination.machine, "vmgenid");

    // A guest that never said where it is hears nothing.
    let (source, destination) = (build(GUID, false), build(other, true));
    crate::testing::carry::carry(&source.machine, &destination.machine);
    destination.machine.incoming_done(qapi::types::RunState::Running);
    assert_eq!(destination.read(0xafe0, 1), 0);
}

#[test]
fn a_guest_that_said_where_its_number_is_cannot_come_where_none_is_told() {
    let rig = Rig::build(config("microvm")).unwrap();
    rig.add("vmgenid").unwrap();
    rig.machine.finish().unwrap();
    let all = crate::testing::carry::sections(&rig.machine);
    let (_, section) = all.iter().find(|(_, section)| section.name() == "vmgenid").unwrap();
    let load = |addr: u64| section.load(&mut vmstate::Decoder::new(&addr.to_be_bytes()[..]), 1);
    assert!(load(0).is_ok());
    assert_eq!(load(8).unwrap_err().to_string(), NO_FILE);
}
