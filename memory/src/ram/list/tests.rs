//! Offsets and text against `info ramblock` of the oracle (1-scenarios/guest-q35.txt).

use super::*;
use crate::ram::RamSpec;

#[test]
fn offsets_and_order_are_those_of_the_oracle() {
    let list = RamList::default();
    let make = |name: &str, size: u64, max: u64, rom| {
        let block = list.create(RamSpec { max_size: max, ..RamSpec::anonymous(name, size) }).unwrap();
        block.set_rom(rom);
        block
    };
    // In the order in which QEMU creates them.
    let _alive = [
        make("ram0", 2 << 30, 0, false),
        make("ram1", 2 << 30, 0, false),
        make("0000:00:01.0/mem0", 8 << 30, 0, false),
        make("0000:00:02.0/mem1", 8 << 30, 0, false),
        make("pc.bios", 0x40000, 0, true),
        make("pc.rom", 0x20000, 0, true),
        make("/rom@etc/acpi/tables", 0x20000, 0x200000, true),
        make("/rom@etc/table-loader", 0x1000, 0x10000, true),
        make("/rom@etc/acpi/rsdp", 0x1000, 0, true),
    ];
    let text: String = list
        .text()
        .lines()
        .map(|line| match line.split_once(" 0x00007") {
            Some((head, tail)) => format!("{head} HVA{}\n", &tail[11..]),
            None => format!("{line}\n"),
        })
        .collect();
    assert_eq!(
        text,
        "              Block Name    PSize              Offset               Used              Total                HVA  RO
       0000:00:01.0/mem0    4 KiB  0x0000000100000000 0x0000000200000000 0x0000000200000000 HVA  rw
       0000:00:02.0/mem1    4 KiB  0x0000000300000000 0x0000000200000000 0x0000000200000000 HVA  rw
                    ram0    4 KiB  0x0000000000000000 0x0000000080000000 0x0000000080000000 HVA  rw
                    ram1    4 KiB  0x0000000080000000 0x0000000080000000 0x0000000080000000 HVA  rw
    /rom@etc/acpi/tables    4 KiB  0x0000000500080000 0x0000000000020000 0x0000000000200000 HVA  ro
                 pc.bios    4 KiB  0x0000000500000000 0x0000000000040000 0x0000000000040000 HVA  ro
                  pc.rom    4 KiB  0x0000000500040000 0x0000000000020000 0x0000000000020000 HVA  ro
   /rom@etc/table-loader    4 KiB  0x0000000500280000 0x0000000000001000 0x0000000000010000 HVA  ro
      /rom@etc/acpi/rsdp    4 KiB  0x00000005002c0000 0x0000000000001000 0x0000000000001000 HVA  ro
"
    );
}

#[test]
fn a_hole_left_by_a_block_is_used_again_by_one_that_fits_best() {
    assert_eq!(find_offset(&[], 1 << 30), 0);
    let taken = [(0, 1 << 20), (4 << 20, 1 << 20), (6 << 20, 1 << 20)];
    assert_eq!(find_offset(&taken, 1 << 20), 5 << 20, "the smaller of two gaps");
    assert_eq!(find_offset(&taken, 2 << 20), 1 << 20);
    assert_eq!(find_offset(&taken, 64 << 20), 7 << 20, "the end");
}

#[test]
fn a_dropped_block_leaves_the_list() {
    let list = RamList::default();
    let block = list.create(RamSpec::anonymous("gone", 4096)).unwrap();
    assert_eq!(list.blocks().len(), 1);
    drop(block);
    assert!(list.blocks().is_empty());
}
