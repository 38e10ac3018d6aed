//! What is in the files.

use super::*;
use crate::testing::{Rig, config};

const HT: (u64, u64) = (0xfd_0000_0000, 0x3_0000_0000);

fn layout(above_4g: u64) -> Layout {
    Layout {
        below_4g: 3 * GIB,
        above_4g_start: 4 * GIB,
        above_4g,
        device_memory: None,
        pci_hole64: (32 * GIB, 2 * GIB),
    }
}

#[test]
fn memory_is_listed_as_qemu_does() {
    let words = |list: &[(u64, u64, u32)]| {
        let bytes = |&(start, size, kind): &(u64, u64, u32)| {
            [&start.to_le_bytes()[..], &size.to_le_bytes(), &kind.to_le_bytes()].concat()
        };
        list.iter().flat_map(bytes).collect::<Vec<u8>>()
    };
    let low = (0, 3 * GIB, RAM);
    assert_eq!(memory(&layout(0), &[]), words(&[low]));
    assert_eq!(
        memory(&layout(2 * GIB), &[HT]),
        words(&[(HT.0, HT.1, RESERVED), low, (4 * GIB, 2 * GIB, RAM)])
    );
}

#[test]
fn a_file_of_the_board_s_own_cannot_be_replaced() {
    let rig = Rig::build(config("q35")).unwrap();
    let fw = FwCfg::of(&rig.machine).unwrap();
    fw.add_file("bootorder", *b"x").unwrap();
    fw.add_file("etc/e820", *b"x").unwrap();
    assert_eq!(rig.machine.finish().unwrap_err().desc(), "duplicate fw_cfg file name: etc/e820");
}

#[test]
fn without_acpi_there_are_no_tables() {
    let mut config = config("pc");
    config.options.push(("acpi".into(), "off".into()));
    let rig = Rig::build(config).unwrap();
    rig.machine.finish().unwrap();
    let fw = FwCfg::of(&rig.machine).unwrap();
    fw.add_file("etc/acpi/tables", [0; 0]).unwrap();
    assert!(fw.add_file("etc/e820", [0; 0]).is_err());
}
