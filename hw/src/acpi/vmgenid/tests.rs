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
