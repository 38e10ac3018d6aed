//! The tables of QEMU 10.0.2, byte for byte, and what makes entry points valid.

use super::*;
use crate::core::MachineConfig;
use crate::testing::{Rig, config};

fn of(machine: &str, change: impl FnOnce(&mut MachineConfig)) -> (Rig, Smbios) {
    let (rig, smbios) = tried(machine, change);
    (rig, smbios.unwrap())
}

fn tried(machine: &str, change: impl FnOnce(&mut MachineConfig)) -> (Rig, Result<Smbios>) {
    let mut config = config(machine);
    change(&mut config);
    let rig = Rig::build(config).unwrap();
    let layout = Layout {
        below_4g: rig.machine.sizes().ram.min(0xc000_0000),
        above_4g_start: 4 * GIB,
        above_4g: rig.machine.sizes().ram.saturating_sub(0xc000_0000),
        device_memory: None,
        pci_hole64: (64 * GIB, 2 * GIB),
    };
    let smbios = Smbios::new(&rig.machine, &layout, false);
    (rig, smbios)
}

/// Kind, fixed part, texts.
fn structures(mut bytes: &[u8]) -> Vec<(u8, Vec<u8>, Vec<String>)> {
    let mut out = Vec::new();
    while let [kind, length, ..] = *bytes {
        let (fixed, rest) = bytes.split_at(length.into());
        let end = rest.windows(2).position(|pair| pair == [0, 0]).unwrap();
        let texts = rest[..end].split(|byte| *byte == 0).filter(|text| !text.is_empty());
        let texts = texts.map(|text| String::from_utf8(text.to_vec()).unwrap()).collect();
        out.push((kind, fixed.to_vec(), texts));
        bytes = &rest[end + 2..];
    }
    out
}

#[test]
fn q35_is_called_what_qemu_calls_it() {
    let (_rig, smbios) = of("q35", |_| {});
    let list = structures(&smbios.tables);
    assert_eq!(list.iter().map(|s| s.0).collect::<Vec<_>>(), [1, 3, 4, 16, 17, 19, 32, 127]);
    assert_eq!(list[0].2, ["QEMU", "Standard PC (Q35 + ICH9, 2009)", "pc-q35-10.0"]);
    assert_eq!(list[0].1, [&[1, 27, 0, 1, 1, 2, 3, 0][..], &[0; 16], &[6, 0, 0]].concat());
    assert_eq!(list[1].1, [3, 22, 0, 3, 1, 1, 2, 0, 0, 3, 3, 3, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let (processor, texts) = (&list[2].1, &list[2].2);
    assert_eq!(texts[..], ["CPU 0", "QEMU", "pc-q35-10.0"]);
    assert_eq!(processor[..12], [4, 42, 0, 4, 1, 3, 0xfe, 2, 0xb1, 0x0f, 6, 0]);
    assert_eq!(processor[16..26], [3, 0, 0, 0, 0xd0, 7, 0xd0, 7, 0x41, 1]);
    assert_eq!(processor[26..], [255, 255, 255, 255, 255, 255, 0, 0, 0, 1, 1, 1, 2, 0, 1, 0]);
    let array = [16, 23, 0, 16, 1, 3, 6, 0, 0, 16, 0, 0xfe, 0xff, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    assert_eq!(list[3].1, array);
    let dimm = [17, 40, 0, 17, 0, 16, 0xfe, 0xff, 255, 255, 255, 255, 0, 4, 9, 0, 1, 0, 7, 2, 0, 0, 0, 2];
    assert_eq!(list[4].1, [&dimm[..], &[0; 16]].concat());
    let mapped = [19, 31, 0, 19, 0, 0, 0, 0, 255, 255, 15, 0, 0, 16, 1];
    assert_eq!(list[5].1, [&mapped[..], &[0; 16]].concat());
    assert_eq!(list[6].1, [32, 11, 0, 32, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(list[7].1, [127, 4, 0, 127]);
    assert_eq!(smbios.tables.len(), 312);
    let anchor = smbios.entry_point(0, false);
    let start = [0x5f, 0x53, 0x4d, 0x5f, 0, 0x1f, 2, 8, 0x4c, 0, 0, 0, 0, 0, 0, 0];
    let end = [0x5f, 0x44, 0x4d, 0x49, 0x5f, 0, 0x38, 1, 0, 0, 0, 0, 8, 0, 0x28];
    assert_eq!(anchor, [&start[..], &end].concat());
}

#[test]
fn sockets_dimms_and_the_identity_are_told() {
    let (_rig, smbios) = of("pc-i440fx-9.0", |config| {
        config.memory.size = Some(5 * GIB);
        config.memory.maxmem = None;
        config.uuid = Some("12345678-9abc-def0-1234-56789abcdef0".into());
        config.smp.cpus = Some(6);
        (config.smp.sockets, config.smp.cores, config.smp.threads) = (Some(3), Some(1), Some(2));
    });
    let list = structures(&smbios.tables);
    assert_eq!(list[0].1[8..16], [0x78, 0x56, 0x34, 0x12, 0xbc, 0x9a, 0xf0, 0xde]);
    assert_eq!(list[0].1[16..24], [0x12, 0x34, 0x56, 0x78, 0x9a, 0xbc, 0xde, 0xf0]);
    let sockets: Vec<_> = list.iter().filter(|s| s.0 == 4).map(|s| s.2[0].as_str()).collect();
    assert_eq!(sockets, ["CPU 0", "CPU 1", "CPU 2"]);
    let processor = list.iter().find(|s| s.0 == 4).unwrap();
    assert_eq!(processor.1[35..38], [1, 1, 2]);
    assert_eq!(processor.1[15] & 0x10, 0x10, "threads");
    assert_eq!(list.iter().filter(|s| s.0 == 17).count(), 1);
    let mapped: Vec<_> = list.iter().filter(|s| s.0 == 19).map(|s| s.1[4..12].to_vec()).collect();
    assert_eq!(mapped, [[0, 0, 0, 0, 255, 255, 0x2f, 0], [0, 0, 0x40, 0, 255, 255, 0x5f, 0]]);
}

#[test]
fn the_age_of_a_machine_type_decides_how_long_tables_may_be() {
    let long = |config: &mut MachineConfig| config.smbios.oem = vec!["x".repeat(60_000); 2];
    let kind = |smbios: &Smbios| smbios.entry_point(0, false)[..5].to_vec();
    for (machine, change, start, processor) in [
        ("pc-q35-9.0", false, b"_SM_\0", 42),
        ("pc-q35-9.0", true, b"_SM3_", 48),
        ("pc-q35-8.2", false, b"_SM3_", 48),
        ("pc-i440fx-8.1", true, b"_SM3_", 48),
        ("pc-q35-8.0", false, b"_SM_\0", 42),
    ] {
        let (_rig, smbios) = of(machine, |config| {
            if change {
                long(config);
            }
        });
        assert_eq!(kind(&smbios), start, "{machine} {change}");
        let list = structures(&smbios.tables);
        let fixed = &list.iter().find(|s| s.0 == 4).unwrap().1;
        assert_eq!((fixed.len(), usize::from(fixed[1])), (processor, processor), "{machine} {change}");
        if processor == 48 {
            assert_eq!(fixed[42..], [1, 0, 1, 0, 1, 0]);
        }
    }
    let error = tried("pc-i440fx-8.0", long).1.unwrap_err();
    assert_eq!(error.desc(), "SMBIOS 2.1 table length 120329 exceeds 65535");
    let threads = |count| of("q35", |config| config.smp.maxcpus = Some(count)).1;
    assert_eq!((kind(&threads(254)), kind(&threads(255))), (b"_SM_\0".to_vec(), b"_SM3_".to_vec()));
}

#[test]
fn entry_points_are_sealed_by_sums_of_zero() {
    let sum = |bytes: &[u8]| bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
    let (_rig, mut smbios) = of("q35", |_| {});
    let entry = smbios.entry_point(0xf_6000, true);
    assert_eq!((entry.len(), sum(&entry), sum(&entry[16..])), (31, 0, 0));
    assert_eq!(entry[24..28], [0, 0x60, 0xf, 0]);
    smbios.tables.resize(0x1_0000, 0);
    smbios.wide = true;
    let wide = smbios.entry_point(0x1_0000_0000, true);
    assert_eq!((&wide[..5], wide.len(), sum(&wide)), (&b"_SM3_"[..], 24, 0));
    assert_eq!((&wide[12..16], &wide[16..]), (&[0, 0, 1, 0][..], &[0, 0, 0, 0, 1, 0, 0, 0][..]));
}

#[test]
fn what_the_user_says_is_where_qemu_puts_it() {
    let text = |text: &str| Some(text.to_owned());
    let (_rig, smbios) = of("pc-i440fx-10.0", |config| {
        let said = &mut config.smbios;
        let bios = SmbiosBios { vendor: text("V"), release: (1, 2), uefi: true, ..SmbiosBios::default() };
        said.bios = Some(bios);
        said.system.manufacturer = text("");
        said.system.serial = text("S");
        (said.system.sku, said.system.family) = (text("K"), text("F"));
        let board = SmbiosBoard { product: text("P"), location: text("L"), ..SmbiosBoard::default() };
        said.board = Some(board);
        (said.chassis.asset, said.chassis.sku) = (text("A"), text("K"));
        said.processor.socket = text("SP");
        (said.processor.part, said.processor.id) = (text("P"), Some(0x1122_3344_5566_7788));
        (said.processor.max_speed, said.processor.current_speed) = (Some(3000), Some(2500));
        said.processor.family = Some(0x1b3);
        said.oem = vec!["one".into(), String::new(), "three".into()];
        (said.memory.socket, said.memory.bank, said.memory.speed) = (text("LP"), text("B"), 3200);
        said.memory.part = text("P");
    });
    let list = structures(&smbios.tables);
    assert_eq!(list.iter().map(|s| s.0).collect::<Vec<_>>(), [0, 1, 2, 3, 4, 11, 16, 17, 19, 32, 127]);
    let texts = |at: usize| list[at].2.iter().map(String::as_str).collect::<Vec<_>>();
    let fixed = |at: usize| &list[at].1[2..];
    assert_eq!(texts(0), ["V"]);
    assert_eq!(fixed(0), [0, 0, 1, 0, 0, 0xe8, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0x1c, 1, 2, 0xff, 0xff]);
    assert_eq!(texts(1), ["Standard PC (i440FX + PIIX, 1996)", "pc-i440fx-10.0", "S", "K", "F"]);
    assert_eq!(fixed(1), [&[0, 1, 0, 1, 2, 3][..], &[0; 16], &[6, 4, 5]].concat());
    assert_eq!(texts(2), ["QEMU", "P", "pc-i440fx-10.0", "L"]);
    assert_eq!(fixed(2), [0, 2, 1, 2, 3, 0, 0, 1, 4, 0, 3, 10, 0]);
    assert_eq!(texts(3), ["QEMU", "pc-i440fx-10.0", "A", "K"]);
    assert_eq!(fixed(3), [0, 3, 1, 1, 2, 0, 3, 3, 3, 3, 2, 0, 0, 0, 0, 0, 0, 0, 0, 4]);
    assert_eq!(texts(4), ["SP 0", "QEMU", "pc-i440fx-10.0", "P"]);
    let processor = fixed(4);
    assert_eq!(processor[..14], [0, 4, 1, 3, 0xfe, 2, 0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11]);
    assert_eq!(processor[14..24], [3, 0, 0, 0, 0xb8, 0xb, 0xc4, 9, 0x41, 1]);
    assert_eq!(processor[30..33], [0, 0, 4]);
    assert_eq!(processor[38..], [0xb3, 1]);
    assert_eq!((texts(5), fixed(5)), (vec!["one", " ", "three"], &[0, 14, 3][..]));
    assert_eq!(texts(7), ["LP 0", "B", "QEMU", "P"]);
    let dimm = [9, 0, 1, 2, 7, 2, 0, 0x80, 0xc, 3, 0, 0, 4, 0, 0, 0, 0, 0, 0x80, 0xc, 0, 0, 0, 0, 0, 0];
    assert_eq!(fixed(7)[12..], dimm);
}

#[test]
fn firmware_of_the_users_stands_for_ours() {
    let mut config = config("q35");
    config.smbios.bios = Some(SmbiosBios { vendor: Some("V".into()), ..SmbiosBios::default() });
    let rig = Rig::build(config).unwrap();
    let layout = Layout {
        below_4g: GIB,
        above_4g_start: 4 * GIB,
        above_4g: 0,
        device_memory: None,
        pci_hole64: (64 * GIB, 2 * GIB),
    };
    let list = structures(&Smbios::new(&rig.machine, &layout, true).unwrap().tables);
    let kinds: Vec<u8> = list.iter().map(|s| s.0).collect();
    assert_eq!((kinds.iter().filter(|kind| **kind == 0).count(), &list[0].2[..]), (1, &["V".to_owned()][..]));
}
