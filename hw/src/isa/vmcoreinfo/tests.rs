//! Who may have one; what guests say is looked at by the tests of dumps.

use super::*;
use crate::testing::{Rig, config};

fn refused(rig: &Rig) -> String {
    rig.add("vmcoreinfo").err().unwrap().desc().to_owned()
}

#[test]
fn there_is_one_at_most_and_it_needs_fw_cfg() {
    let rig = Rig::build(config("q35")).unwrap();
    rig.add("vmcoreinfo").unwrap();
    assert_eq!(refused(&rig), "at most one vmcoreinfo device is permitted");
    let none = crate::core::MachineConfig { machine: Some("none".into()), ..Default::default() };
    let none = Rig::build(none).unwrap();
    assert_eq!(refused(&none), "vmcoreinfo device requires fw_cfg with DMA");
    rig.machine.finish().unwrap();
    assert_eq!(refused(&rig), "Device 'vmcoreinfo' does not support hotplugging");
}

#[test]
fn what_the_guest_says_is_read_field_by_field() {
    assert_eq!(Place::parse(&INITIAL), None);
    let bytes = [1, 0, 1, 0, 2, 1, 0, 0, 8, 7, 6, 5, 4, 3, 2, 1];
    assert_eq!(Place::parse(&bytes), Some(Place { format: 1, size: 0x102, address: 0x0102_0304_0506_0708 }));
    assert_eq!(Place::parse(&bytes[..15]), None);
}

#[test]
fn what_the_guest_said_it_need_not_say_again() {
    let build = || {
        let rig = Rig::build(config("q35")).unwrap();
        rig.add("vmcoreinfo").unwrap();
        rig.machine.finish().unwrap();
        rig
    };
    let (source, destination) = (build(), build());
    let state = |bytes: [u8; 16]| {
        let fw = FwCfg::of(&source.machine).unwrap();
        fw.set_file(FILE, bytes).unwrap();
    };
    crate::testing::carry::carry(&source.machine, &destination.machine);
    assert_eq!(place(&destination.machine), None, "it has said nothing");
    let said = [1, 0, 1, 0, 2, 1, 0, 0, 8, 7, 6, 5, 4, 3, 2, 1];
    state(said);
    crate::testing::carry::carry(&source.machine, &destination.machine);
    assert_eq!(place(&destination.machine), Place::parse(&said));
    crate::testing::carry::spoil(&destination.machine, "vmcoreinfo");
    destination.machine.start();
    destination.machine.request_reset(qapi::types::ShutdownCause::GuestReset);
    destination.machine.carry_out_requests();
    assert_eq!(place(&destination.machine), None);
}
