//! The register in memory: where it is, what it says, and what follows from writes.

use crate::testing::Rig;

const BASE: u64 = 0xfebf_0008;

/// One in slot 5 of a machine that was started, decoding at an address that is no multiple of 16.
fn rig() -> Rig {
    let rig = Rig::build(crate::testing::config("pc")).unwrap();
    rig.add("pvpanic-pci,id=p,addr=5,events=6").unwrap();
    rig.machine.finish().unwrap();
    rig.config_write(5, 0, 0x10, BASE as u32);
    rig.config_write(5, 0, 4, 2);
    rig
}

#[test]
fn its_identity_is_qemus() {
    let rig = rig();
    let read = |at| rig.config_read(5, 0, at);
    assert_eq!([0, 8, 0x2c, 0x34, 0x3c].map(read), [0x0011_1b36, 0x0880_0001, 0x1100_1af4, 0, 0]);
    rig.config_write(5, 0, 0x10, u32::MAX);
    assert_eq!(read(0x10), 0xffff_fffe);
}

#[test]
fn either_byte_is_the_register_and_what_goes_is_gone() {
    let mut rig = rig();
    let space = std::sync::Arc::clone(rig.machine.system_space());
    assert_eq!([1, 2].map(|size| space.read_uint(BASE, size).0), [6, 0x0606]);
    assert_eq!(space.read_uint(BASE + 1, 1).0, 6);
    for (at, value) in [(BASE, 2), (BASE + 1, 2), (BASE, 8)] {
        assert!(space.write_uint(at, 1, value).is_ok());
        rig.turn();
        let loaded = "GUEST_CRASHLOADED {\"action\": \"run\"}".to_owned();
        assert_eq!(rig.events(), if value == 2 { vec![loaded] } else { vec![] });
    }
    rig.config_write(5, 0, 4, 0);
    assert!(!space.read_uint(BASE, 1).1.is_ok());
}

#[test]
fn it_comes_and_goes_while_the_machine_runs() {
    let rig = rig();
    let regions =
        || rig.machine.memory().mtree_text(memory::MtreeOptions::default()).matches("pvpanic").count();
    let before = regions();
    let late = rig.add("pvpanic-pci,id=late").unwrap();
    assert!(regions() > before);
    crate::core::qdev::complete_unplug(&rig.machine, &late);
    assert_eq!(regions(), before);
}
