//! A firmware that follows the script arrives at valid tables.

use super::*;
use crate::acpi::tables::movable;
use crate::i386::layout::Layout;
use crate::testing::{Rig, config};

const GIB: u64 = 1 << 30;

fn name(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes.split(|byte| *byte == 0).next().unwrap()).unwrap()
}

/// Where the page with the number of the generation is put.
const PAGE: u64 = vmgenid::PAGE as u64;

/// Places the files, carries out each command, and gives what the host is told, and which files were placed.
fn follow<'a>(script: &'a [u8], tables: &mut Tables, at: u64) -> (Vec<(&'a str, u64)>, Vec<&'a str>) {
    let Tables { blob, rsdp } = tables;
    let (mut told, mut seen) = (Vec::new(), Vec::new());
    let address = |file: &str| if file == vmgenid::GUID_FILE { PAGE } else { at };
    for command in script.chunks(COMMAND) {
        let first = name(&command[4..60]);
        let target = if first == RSDP { &mut *rsdp } else { &mut *blob };
        match word(command, 0, 4) as u32 {
            ALLOCATE => {
                let align = word(command, 60, 4);
                assert!(align.is_power_of_two() && address(first).is_multiple_of(align));
                seen.push(first);
            }
            ADD_POINTER => {
                let pointed = name(&command[60..116]);
                assert!(seen.contains(&first) && seen.contains(&pointed) && pointed != RSDP);
                let (offset, size) = (word(command, 116, 4) as usize, command[120]);
                let value = (word(target, offset, size) + address(pointed)).to_le_bytes();
                target[offset..offset + usize::from(size)].copy_from_slice(&value[..size.into()]);
            }
            ADD_CHECKSUM => {
                let [at, start, len] = [60, 64, 68].map(|offset| word(command, offset, 4) as usize);
                let sum = target[start..start + len].iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
                target[at] = target[at].wrapping_sub(sum);
            }
            WRITE_POINTER => {
                let pointed = name(&command[60..116]);
                assert!(seen.contains(&pointed) && (word(command, 116, 4), command[124]) == (0, 8));
                told.push((first, address(pointed) + word(command, 120, 4)));
            }
            other => panic!("command {other}"),
        }
    }
    (told, seen)
}

#[test]
fn a_firmware_that_follows_it_gets_what_is_built_for_that_place() {
    for (machine, generation) in [("q35", false), ("pc", false), ("q35", true), ("pc", true)] {
        let rig = Rig::build(config(machine)).unwrap();
        if generation {
            rig.add("vmgenid").unwrap();
        }
        rig.machine.finish().unwrap();
        let layout = Layout {
            below_4g: GIB,
            above_4g_start: 4 * GIB,
            above_4g: 0,
            device_memory: Some((4 * GIB, 7 * GIB)),
            pci_hole64: (11 * GIB, 32 * GIB),
        };
        let mut moved = movable(&rig.machine, &layout).unwrap();
        for at in [0x3ffd_0000, 0x7_0040] {
            let (told, seen) = follow(&moved.script, &mut moved.tables, at);
            if generation {
                assert_eq!(told, [("etc/vmgenid_addr", PAGE + 40)]);
                assert_eq!(seen, [RSDP, TABLES, "etc/vmgenid_guid"]);
            } else {
                assert_eq!((told, seen), (vec![], vec![RSDP, TABLES]));
            }
            let wanted = crate::acpi::tables::build(&rig.machine, &layout, at).unwrap();
            assert!(moved.tables.blob == wanted.blob, "{machine}");
            assert_eq!(moved.tables.rsdp, wanted.rsdp, "{machine}");
            moved = movable(&rig.machine, &layout).unwrap();
        }
    }
}
