use std::collections::BTreeMap;

use super::facts::{Bus, Facts, Platform, Processor, Serial};
use super::hmat::{Locality, Performance, SideCache};
use super::*;
use crate::core::Global;
use crate::testing::{Rig, config};

const GIB: u64 = 1 << 30;
const BASE: u64 = 0x3ff0_0010;

fn facts(platform: Platform, cpus: u32) -> Facts {
    let processor = |index| Processor { apic_id: index, present: true, node: None };
    Facts {
        platform,
        layout: Layout {
            below_4g: 2 * GIB,
            above_4g_start: 4 * GIB,
            above_4g: 2 * GIB,
            device_memory: Some((6 * GIB, 16 * GIB)),
            pci_hole64: (22 * GIB, 32 * GIB),
        },
        window64: (0xc0_0000_0000, 0xfc_ffff_ffff),
        processors: (0..cpus).map(processor).collect(),
        nodes: Vec::new(),
        distances: None,
        performance: None,
        serial: vec![Serial { index: 0, base: 0x3f8, irq: 4 }],
        rtc: true,
        i8042: Some([1, 12]),
        fw_cfg: true,
        pvpanic: None,
        generation: None,
        memory_slots: 4,
        cpu_hotplug: (!platform.is_reduced()).then_some(0xcd8),
        bus: Bus::default(),
        acpi_hotplug: true,
        virtio_mmio: Vec::new(),
        last_bus: 0x1f,
    }
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn long(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

/// The table at an address, checked.
fn at(tables: &Tables, base: u64, address: u64) -> Vec<u8> {
    let start = (address - base) as usize;
    let length = word(&tables.blob, start + 4) as usize;
    let table = tables.blob[start..start + length].to_vec();
    if &table[..4] != b"FACS" {
        assert_eq!(sum(&table), 0, "{}", String::from_utf8_lossy(&table[..4]));
    }
    table
}

/// Every table that a guest finds from the root pointer, by signature.
fn read(tables: &Tables, base: u64) -> BTreeMap<String, Vec<u8>> {
    assert_eq!(tables.rsdp.len(), 36);
    assert_eq!(&tables.rsdp[..8], b"RSD PTR ");
    assert_eq!((sum(&tables.rsdp[..20]), sum(&tables.rsdp)), (0, 0));
    let root = at(tables, base, long(&tables.rsdp, 24));
    let mut found = BTreeMap::new();
    let mut add = |table: Vec<u8>| {
        let name = String::from_utf8_lossy(&table[..4]).into_owned();
        assert!(found.insert(name.clone(), table).is_none(), "{name} twice");
    };
    for entry in root[36..].chunks(8) {
        let table = at(tables, base, long(entry, 0));
        if &table[..4] == b"FACP" {
            add(at(tables, base, long(&table, 140)));
            let facs = u64::from(word(&table, 36));
            if facs != 0 {
                assert_eq!(facs % 64, 0);
                add(at(tables, base, facs));
            }
        }
        add(table);
    }
    found
}

fn names(tables: &BTreeMap<String, Vec<u8>>) -> Vec<&str> {
    tables.keys().map(String::as_str).collect()
}

/// Subtables of a MADT or SRAT: (type, bytes), from offset `start`.
fn entries(table: &[u8], start: usize) -> Vec<(u8, Vec<u8>)> {
    let mut list = Vec::new();
    let mut rest = &table[start..];
    while !rest.is_empty() {
        let (entry, after) = rest.split_at(usize::from(rest[1]));
        list.push((entry[0], entry.to_vec()));
        rest = after;
    }
    list
}

#[test]
fn tables_are_found_wherever_they_lie_and_are_as_long_everywhere() {
    let facts = facts(Platform::Q35, 2);
    let lengths: Vec<usize> = (0..8u64)
        .map(|step| {
            let base = 0x7fe0_0000 + 16 * step;
            let tables = assemble(&facts, base);
            assert_eq!(names(&read(&tables, base)), ["APIC", "DSDT", "FACP", "FACS", "MCFG", "WAET"]);
            assert_eq!(read(&tables, base)["MCFG"][52..56], [0, 0, 0, 0x1f], "segment and buses");
            tables.blob.len()
        })
        .collect();
    assert!(lengths.iter().all(|length| *length == lengths[0]), "{lengths:?}");
    assert_eq!(
        names(&read(&assemble(&self::facts(Platform::Pc, 1), BASE), BASE)),
        ["APIC", "DSDT", "FACP", "FACS", "WAET"]
    );
}

#[test]
fn the_fadt_says_where_the_registers_are() {
    let of = |platform| read(&assemble(&facts(platform, 1), BASE), BASE).remove("FACP").unwrap();
    for (platform, gpe, length) in [(Platform::Q35, 0x620, 16), (Platform::Pc, 0xafe0, 4)] {
        let fadt = of(platform);
        assert_eq!(fadt[46], 9);
        assert_eq!(
            [word(&fadt, 56), word(&fadt, 64), word(&fadt, 76), word(&fadt, 80)],
            [0x600, 0x604, 0x608, gpe]
        );
        assert_eq!((fadt[88], fadt[89], fadt[91], fadt[92]), (4, 2, 4, length));
        assert_eq!((word(&fadt, 48), fadt[108], word(&fadt, 112)), (0, 0x32, 0x84a5));
        assert_eq!((fadt[116], long(&fadt, 120), fadt[128]), (1, 0xcf9, 0x0f));
        assert_eq!(u64::from(word(&fadt, 40)), long(&fadt, 140));
        // The wide forms say the same.
        assert_eq!(
            [long(&fadt, 152), long(&fadt, 176), long(&fadt, 212), long(&fadt, 224)],
            [0x600, 0x604, 0x608, gpe.into()]
        );
    }
    let reduced = of(Platform::Microvm { second_ioapic: false });
    assert_eq!((word(&reduced, 36), word(&reduced, 112), word(&reduced, 56)), (0, 0x10_0400, 0));
    assert_eq!((long(&reduced, 120), reduced[128]), (0xfea0_0202, 0x42));
    assert_eq!((long(&reduced, 248), long(&reduced, 260)), (0xfea0_0200, 0xfea0_0201));
    assert_eq!(reduced[109], 6, "no VGA, a keyboard controller");
    let without = Facts { rtc: false, i8042: None, ..facts(Platform::Microvm { second_ioapic: false }, 1) };
    let without = read(&assemble(&without, BASE), BASE).remove("FACP").unwrap();
    assert_eq!(without[109], 0x24, "neither VGA nor RTC nor that");
    let without = Facts { rtc: false, i8042: None, ..facts(Platform::Q35, 1) };
    let without = read(&assemble(&without, BASE), BASE).remove("FACP").unwrap();
    assert_eq!(without[109], 4, "drivers look for a clock at its place");
}

#[test]
fn processors_beyond_the_short_ids_have_long_entries() {
    let mut facts = facts(Platform::Q35, 300);
    facts.processors[299].present = false;
    let tables = read(&assemble(&facts, BASE), BASE);
    let madt = entries(&tables["APIC"], 44);
    let of =
        |kind| madt.iter().filter(|(k, _)| *k == kind).map(|(_, bytes)| bytes.clone()).collect::<Vec<_>>();
    assert_eq!((of(0).len(), of(9).len()), (255, 45));
    assert_eq!(of(0)[254], [0, 8, 254, 254, 1, 0, 0, 0]);
    let last = &of(9)[44];
    assert_eq!((word(last, 4), word(last, 8), word(last, 12)), (299, 2, 299), "it may come");
    assert_eq!(of(1), [[1, 12, 0, 0, 0, 0, 0xc0, 0xfe, 0, 0, 0, 0]]);
    let overrides: Vec<(u8, u32, u8)> = of(2).iter().map(|e| (e[3], word(e, 4), e[8])).collect();
    assert_eq!(overrides, [(0, 2, 0), (5, 5, 0xd), (9, 9, 0xd), (10, 10, 0xd), (11, 11, 0xd)]);
    assert_eq!((of(4).len(), of(10).len()), (1, 1));
}

#[test]
fn each_processor_that_may_come_has_a_device_and_the_first_cannot_go() {
    let mut facts = facts(Platform::Q35, 3);
    facts.processors[2].present = false;
    let tables = read(&assemble(&facts, BASE), BASE);
    let madt = entries(&tables["APIC"], 44);
    let flags: Vec<u8> = madt.iter().filter(|(kind, _)| *kind == 0).map(|(_, entry)| entry[4]).collect();
    assert_eq!(flags, [1, 1, 2], "there, there, may come");
    let dsdt = &tables["DSDT"];
    let count = |bytes: &[u8]| dsdt.windows(bytes.len()).filter(|part| part == &bytes).count();
    // Methods by their names and numbers of arguments.
    assert_eq!((count(b"_E02\0"), count(b"ACPI0010\0"), count(b"ACPI0007\0")), (1, 1, 3));
    assert_eq!((count(b"_MAT"), count(b"POST\x0b"), count(b"_EJ0\x01\xa4"), count(b"PEJE")), (3, 1, 0, 3));
    // _MAT: what the entry of the last one is once it is there.
    assert_eq!(count(&[0, 8, 2, 2, 1, 0, 0, 0]), 1);
    facts.cpu_hotplug = None;
    let tables = read(&assemble(&facts, BASE), BASE);
    let fixed = &tables["DSDT"];
    let has = |bytes: &[u8]| fixed.windows(bytes.len()).any(|part| part == bytes);
    assert!(!has(b"_E02") && !has(b"C002") && has(b"C001"));
    assert_eq!(entries(&tables["APIC"], 44)[2].1[4], 0, "it cannot come");
}

#[test]
fn a_reduced_machine_has_what_it_needs() {
    let mut facts = facts(Platform::Microvm { second_ioapic: true }, 2);
    facts.virtio_mmio = vec![(0xfeb0_0000, 5)];
    let tables = read(&assemble(&facts, BASE), BASE);
    assert_eq!(names(&tables), ["APIC", "DSDT", "FACP"]);
    let madt = entries(&tables["APIC"], 44);
    assert_eq!(madt.iter().map(|(kind, _)| *kind).collect::<Vec<_>>(), [0, 0, 1, 1, 4]);
    assert_eq!(madt[3].1, [1, 12, 1, 0, 0, 0, 0xc1, 0xfe, 24, 0, 0, 0]);
    assert_eq!(word(&tables["APIC"], 40), 0);
}

#[test]
fn a_built_board_has_tables_and_none_has_not() {
    for (name, wanted) in [("q35", 7), ("pc", 6)] {
        let rig = Rig::ready(name);
        let layout = facts(Platform::Q35, 1).layout;
        let tables = build(&rig.machine, &layout, BASE).unwrap();
        let tables = read(&tables, BASE);
        assert_eq!(tables.len(), wanted, "{:?}", names(&tables));
    }
    let rig = Rig::build(config("none")).unwrap();
    let error = build(&rig.machine, &facts(Platform::Q35, 1).layout, BASE).err().unwrap();
    assert_eq!(error.desc(), "this machine has no ACPI tables");
}

/// What `_OSC` grants a system that wants everything, as the DSDT has it.
fn granted(rig: &Rig) -> u8 {
    let tables = build(&rig.machine, &facts(Platform::Q35, 1).layout, BASE).unwrap();
    let dsdt = read(&tables, BASE).remove("DSDT").unwrap();
    // Local0 = CDW3 & byte.
    let at = dsdt.windows(6).position(|w| w == b"\x7bCDW3\x0a").unwrap() + 6;
    assert_eq!(dsdt[at + 1], 0x60);
    dsdt[at]
}

#[test]
fn native_hotplug_is_granted_where_acpi_does_not_plug() {
    let property = "acpi-pci-hotplug-with-bridge-support";
    let with = |name, value: Option<&str>| {
        let done = Rig::build_with(config(name), |machine| {
            if let Some(value) = value {
                let (driver, property, value) = ("ICH9-LPC".into(), property.into(), value.into());
                machine.globals().add_user(Global { driver, property, value });
            }
            Ok(())
        });
        granted(&done.unwrap())
    };
    // There is no bridge yet, but one may be plugged.
    assert_eq!([with("q35", None), with("q35", Some("off"))], [0x1e, 0x1f]);
    assert_eq!([with("pc-q35-6.0", None), with("pc-q35-6.0", Some("on"))], [0x1f, 0x1e]);
}

/// As QEMU's table of the same two nodes, latencies, bandwidths and cache.
fn performance() -> Performance {
    let locality = |data_type, unit, near, far| Locality {
        hierarchy: 0,
        data_type,
        unit,
        entries: vec![vec![near, far], vec![far, near]],
    };
    Performance {
        attached: vec![Some(0), Some(1)],
        initiators: vec![0, 1],
        localities: vec![locality(0, 10, 1, 2), locality(3, GIB, 10, 5)],
        caches: vec![SideCache {
            node: 0,
            size: 32 << 10,
            levels: 1,
            level: 1,
            associativity: 1,
            policy: 1,
            line: 8,
        }],
    }
}

#[test]
fn how_fast_memory_is_is_told_in_structures() {
    let mut facts = facts(Platform::Q35, 4);
    facts.nodes = vec![GIB, 3 * GIB];
    facts.performance = Some(performance());
    let hmat = read(&assemble(&facts, BASE), BASE).remove("HMAT").unwrap();
    assert_eq!((hmat.len(), hmat[8]), (264, 2));
    // Node 1: its own processors are next to its memory.
    assert_eq!([80, 84, 88, 92, 96].map(|at| word(&hmat, at)), [0, 40, 1, 1, 1]);
    // Latencies in units of 10 ns, bandwidths of 1 GiB/s.
    assert_eq!([120, 124, 128, 132, 136].map(|at| word(&hmat, at)), [1, 56, 0, 2, 2]);
    assert_eq!((long(&hmat, 144), &hmat[168..176]), (10_000, [1, 0, 2, 0, 2, 0, 1, 0].as_slice()));
    assert_eq!((hmat[185], long(&hmat, 200), &hmat[224..228]), (3, 1024, [10, 0, 5, 0].as_slice()));
    assert_eq!(
        (word(&hmat, 232), word(&hmat, 236), long(&hmat, 248), word(&hmat, 256)),
        (2, 32, 0x8000, 0x8_1111)
    );
}

#[test]
fn nodes_have_the_memory_that_was_given_to_them() {
    let mut facts = facts(Platform::Q35, 2);
    (facts.nodes, facts.processors[1].node) = (vec![GIB, 3 * GIB], Some(1));
    facts.distances = Some(vec![vec![10, 21], vec![31, 10]]);
    let mut tables = read(&assemble(&facts, BASE), BASE);
    let srat = entries(&tables.remove("SRAT").unwrap(), 48);
    let cpus: Vec<(u8, u8)> = srat.iter().filter(|(kind, _)| *kind == 0).map(|(_, e)| (e[2], e[3])).collect();
    assert_eq!(cpus, [(0, 0), (1, 1)]);
    let memory = srat.iter().filter(|(kind, _)| *kind == 1);
    let memory: Vec<_> = memory.map(|(_, e)| (word(e, 2), long(e, 8), long(e, 16), word(e, 28))).collect();
    assert_eq!(
        memory,
        [
            (0, 0, 0xa_0000, 1),
            (0, 0x10_0000, GIB - 0x10_0000, 1),
            (1, GIB, GIB, 1),
            (1, 4 * GIB, 2 * GIB, 1),
            // What may come, of the last node and hot-pluggable.
            (1, 6 * GIB, 16 * GIB, 3),
        ]
    );
    let slit = tables.remove("SLIT").unwrap();
    assert_eq!((long(&slit, 36), &slit[44..]), (2, [10, 21, 31, 10].as_slice()));
}

#[test]
fn a_keyboard_and_a_mouse_are_found_where_they_are() {
    let of = |kind: &str, options: &[(&str, &str)]| {
        let mut config = config(kind);
        config.options.extend(options.iter().map(|(name, value)| (name.to_string(), value.to_string())));
        let rig = Rig::build(config).unwrap();
        let tables = build(&rig.machine, &facts(Platform::Q35, 1).layout, BASE).unwrap();
        let tables = read(&tables, BASE);
        (tables["DSDT"].clone(), tables["FACP"][109])
    };
    let has = |table: &[u8], bytes: &[u8]| table.windows(bytes.len()).any(|part| part == bytes);
    // PNP0303 and PNP0F13; ports 60h and 64h with interrupt 1, interrupt 12.
    let keyboard = [0x47, 1, 0x60, 0, 0x60, 0, 1, 1, 0x47, 1, 0x64, 0, 0x64, 0, 1, 1, 0x22, 2, 0, 0x79];
    let mouse = [0x22, 0, 0x10, 0x79];
    let parts: [&[u8]; 4] =
        [b"KBD_\x08_HID\x0c\x41\xd0\x03\x03", b"MOU_\x08_HID\x0c\x41\xd0\x0f\x13", &keyboard, &mouse];
    for kind in ["pc", "q35"] {
        let (dsdt, boot) = of(kind, &[]);
        assert!(parts.iter().all(|part| has(&dsdt, part)), "{kind}");
        assert_eq!(boot, 6, "{kind}");
        let (dsdt, boot) = of(kind, &[("i8042", "off")]);
        assert!(!has(&dsdt, parts[0]) && !has(&dsdt, parts[1]), "{kind}");
        assert_eq!(boot, 4, "{kind}");
    }
}

#[test]
fn a_generation_and_panics_have_their_devices() {
    let dsdt = |facts: &Facts| read(&assemble(facts, BASE), BASE).remove("DSDT").unwrap();
    let has = |table: &[u8], bytes: &[u8]| table.windows(bytes.len()).any(|part| part == bytes);
    for platform in [Platform::Pc, Platform::Q35, Platform::Microvm { second_ioapic: false }] {
        let mut facts = facts(platform, 1);
        let without = dsdt(&facts);
        for name in [&b"QEMUVGID"[..], b"_E05", b"QEMU0001", b"VGIA"] {
            assert!(!has(&without, name));
        }
        facts.pvpanic = Some(0x508);
        let with = dsdt(&facts);
        // _CRS: one port, where the device is.
        assert!(has(&with, b"QEMU0001\0") && has(&with, &[0x47, 1, 8, 5, 8, 5, 1, 1, 0x79]));
    }
    for page in [0, 0xf_4000] {
        let facts = Facts { generation: Some(page), ..facts(Platform::Q35, 1) };
        let tables = assemble(&facts, BASE);
        let at = dsdt::place_of_page(&tables.blob).unwrap();
        assert_eq!((word(&tables.blob, at), &tables.blob[at - 5..at - 1]), (page, &b"VGIA"[..]));
        assert_eq!(dsdt::place_of_page(&tables.blob[at..]), None);
        let table = read(&tables, BASE).remove("DSDT").unwrap();
        // The method of the event: VGEN, and what it is told.
        assert!(has(&table, b"_E05\0\x86\\._SB_VGEN\x0a\x80"));
    }
    assert_eq!(dsdt::place_of_page(&assemble(&facts(Platform::Pc, 1), BASE).blob), None);
}

/// Writes the tables for `iasl` when `PLIANT_ACPI_DUMP` names a directory.
#[test]
fn tables_for_people() {
    let Ok(to) = std::env::var("PLIANT_ACPI_DUMP") else { return };
    let slots = (2..32).filter(|slot| *slot != 4).collect::<Vec<u8>>();
    let behind = Bus { selector: Some(1), slots: (0..32).collect(), bridges: Vec::new() };
    for (name, platform) in
        [("q35", Platform::Q35), ("pc", Platform::Pc), ("microvm", Platform::Microvm { second_ioapic: true })]
    {
        let mut facts = facts(platform, 4);
        facts.nodes = vec![GIB, 3 * GIB];
        facts.distances = Some(vec![vec![10, 20], vec![20, 10]]);
        facts.performance = Some(performance());
        facts.virtio_mmio = vec![(0xfeb0_0000, 5)];
        facts.pvpanic = Some(0x505);
        facts.generation = (!platform.is_reduced()).then_some(crate::acpi::vmgenid::PAGE);
        (facts.layout.below_4g, facts.layout.above_4g) = (GIB, 0);
        if platform == Platform::Pc {
            facts.bus =
                Bus { selector: Some(0), slots: slots.clone(), bridges: vec![(0x20, behind.clone())] };
        }
        for (table, bytes) in read(&assemble(&facts, BASE), BASE) {
            std::fs::write(format!("{to}/{name}.{table}"), bytes).unwrap();
        }
    }
}
