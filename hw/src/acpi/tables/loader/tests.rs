//! A firmware that follows the script arrives at valid tables.

use super::*;
use crate::acpi::tables::movable;
use crate::i386::layout::Layout;
use crate::testing::Rig;

const GIB: u64 = 1 << 30;

fn name(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes.split(|byte| *byte == 0).next().unwrap()).unwrap()
}

/// Places the files and carries out each command.
fn follow(script: &[u8], tables: &mut Tables, at: u64) {
    let Tables { blob, rsdp } = tables;
    let mut seen = Vec::new();
    for command in script.chunks(COMMAND) {
        let first = name(&command[4..60]);
        let target = if first == RSDP { &mut *rsdp } else { &mut *blob };
        match word(command, 0, 4) as u32 {
            ALLOCATE => {
                let align = word(command, 60, 4);
                assert!(align.is_power_of_two() && at.is_multiple_of(align));
                seen.push(first);
            }
            ADD_POINTER => {
                assert!(seen.contains(&first) && name(&command[60..116]) == TABLES);
                let (offset, size) = (word(command, 116, 4) as usize, command[120]);
                let value = (word(target, offset, size) + at).to_le_bytes();
                target[offset..offset + usize::from(size)].copy_from_slice(&value[..size.into()]);
            }
            ADD_CHECKSUM => {
                let [at, start, len] = [60, 64, 68].map(|offset| word(command, offset, 4) as usize);
                let sum = target[start..start + len].iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
                target[at] = target[at].wrapping_sub(sum);
            }
            other => panic!("command {other}"),
        }
    }
    assert_eq!(seen, [RSDP, TABLES]);
}

#[test]
fn a_firmware_that_follows_it_gets_what_is_built_for_that_place() {
    for machine in ["q35", "pc"] {
        let rig = Rig::ready(machine);
        let layout = Layout {
            below_4g: GIB,
            above_4g_start: 4 * GIB,
            above_4g: 0,
            device_memory: Some((4 * GIB, 7 * GIB)),
            pci_hole64: (11 * GIB, 32 * GIB),
        };
        let mut moved = movable(&rig.machine, &layout).unwrap();
        for at in [0x3ffd_0000, 0x7_0040] {
            follow(&moved.script, &mut moved.tables, at);
            let wanted = crate::acpi::tables::build(&rig.machine, &layout, at).unwrap();
            assert!(moved.tables.blob == wanted.blob, "{machine}");
            assert_eq!(moved.tables.rsdp, wanted.rsdp, "{machine}");
            moved = movable(&rig.machine, &layout).unwrap();
        }
    }
}
