//! Claims about the texts, of tables in RAM.

use std::sync::Arc;

use accel::Registers;
use memory::{Memory, RamSpec, RegionDesc, SIZE_ALL};

use super::*;

const RAM: u64 = 1 << 20;

/// Memory with entries of `width` bytes at addresses.
fn space(width: usize, entries: &[(u64, u64)]) -> (Arc<Memory>, Arc<AddressSpace>) {
    let memory = Memory::new();
    let ram = memory.create_ram(RamSpec::anonymous("ram", RAM)).unwrap();
    for (at, value) in entries {
        ram.write(*at, &value.to_le_bytes()[..width]).unwrap();
    }
    let mut tx = memory.transaction();
    let root = tx.container(RegionDesc::new("system", SIZE_ALL));
    let region = tx.ram(RegionDesc::new("ram", u128::from(RAM)), ram);
    tx.add_subregion(root, 0, region, 0);
    let space = tx.address_space("memory", root);
    tx.commit();
    (memory, space)
}

fn long_mode() -> Paging {
    Paging::of(&Registers { cr0: 1 << 31 | 1, cr3: 0x1000, cr4: 1 << 5, efer: 0x500, ..Registers::default() })
}

#[test]
fn pages_have_a_line_each_with_what_their_entry_says() {
    let top = 511 * 8;
    let (_memory, space) = space(
        8,
        &[
            (0x1000, 0x2007),
            (0x1000 + top, 0x2003),
            (0x2000, 0x3007),
            // 1 GiB; never written to by anybody, global.
            (0x2000 + top, 0x8000_0000_4000_0181),
            (0x3000, 0x4005),
            (0x3008, 0x60_00e7),
            (0x4000, 0x9067),
            // The bit that means a large page one level up.
            (0x4008, 0xa09b),
        ],
    );
    let low = "0000000000000000: 0000000000009000 ---DA--UW\n\
               0000000000001000: 000000000000a000 -----CT-W\n\
               0000000000200000: 0000000000600000 --PDA--UW\n\
               0000007fc0000000: 0000000040000000 XGP------\n";
    let high: String = low
        .lines()
        .map(|line| {
            let (address, rest) = line.split_once(": ").unwrap();
            let address = u64::from_str_radix(address, 16).unwrap() | 0xffff_ff80_0000_0000;
            format!("{address:016x}: {rest}\n")
        })
        .collect();
    assert_eq!(pages(&space, &long_mode()), low.to_owned() + &high);
}

#[test]
fn runs_join_neighbours_whose_whole_way_has_the_same_rights() {
    let (_memory, space) = space(
        8,
        &[
            (0x1000, 0x2007),
            (0x1000 + 255 * 8, 0x5007),
            (0x1000 + 256 * 8, 0x5007),
            (0x2000, 0x3007),
            (0x3000, 0x4007),
            (0x3008, 0x20_0087),
            // Not for user mode, as its table is not, whatever is in there.
            (0x3010, 0x6003),
            (0x4000 + 510 * 8, 0x9007),
            (0x4000 + 511 * 8, 0xb065),
            (0x6000, 0xc007),
            (0x5000, 0x87),
            (0x5000 + 511 * 8, 0x87),
        ],
    );
    let expected = "00000000001fe000-00000000001ff000 0000000000001000 urw\n\
                    00000000001ff000-0000000000200000 0000000000001000 ur-\n\
                    0000000000200000-0000000000400000 0000000000200000 urw\n\
                    0000000000400000-0000000000401000 0000000000001000 -rw\n\
                    00007f8000000000-00007f8040000000 0000000040000000 urw\n\
                    00007fffc0000000-ffff800040000000 0000000080000000 urw\n\
                    ffff807fc0000000-ffff808000000000 0000000040000000 urw\n";
    assert_eq!(runs(&space, &long_mode()), expected);
}

#[test]
fn small_tables_are_shown_too() {
    let registers = Registers { cr0: 1 << 31 | 1, cr3: 0x1000, ..Registers::default() };
    let entries = [(0x1000, 0x2007), (0x1004, 0x0060_00e7), (0x2ffc, 0x9003)];
    let (_memory, space) = space(4, &entries);
    let with_large = Paging::of(&Registers { cr4: 1 << 4, ..registers });
    assert_eq!(
        pages(&space, &with_large),
        "00000000003ff000: 0000000000009000 --------W\n\
         0000000000400000: 0000000000600000 --PDA--UW\n"
    );
    assert_eq!(
        runs(&space, &with_large),
        "00000000003ff000-0000000000400000 0000000000001000 -rw\n\
         0000000000400000-0000000000800000 0000000000400000 urw\n"
    );
    // PAE: the entries of the root have no rights that could be taken away.
    let (_memory, space) = self::space(8, &[(0x1000, 0x2001), (0x2000, 0x3007), (0x3000, 0x9007)]);
    let pae = Paging::of(&Registers { cr4: 1 << 5, ..registers });
    assert_eq!(runs(&space, &pae), "0000000000000000-0000000000001000 0000000000001000 urw\n");
    assert_eq!(pages(&space, &Paging::OFF), "PG disabled\n");
}

#[test]
fn tables_that_point_at_themselves_come_to_an_end() {
    let entries: Vec<(u64, u64)> = (0..512).map(|index| (0x1000 + 8 * index, 0x1007)).collect();
    let (_memory, space) = space(8, &entries);
    let text = pages(&space, &long_mode());
    assert!(text.ends_with(TOO_LARGE) && text.lines().count() == LINES + 1);
    let text = runs(&space, &long_mode());
    assert_eq!(text.lines().count(), 2, "{text}");
    assert!(text.starts_with("0000000000000000-") && text.ends_with(TOO_LARGE));
}
