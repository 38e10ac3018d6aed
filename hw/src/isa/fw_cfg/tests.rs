//! A client that plays the guest: by ports and by DMA, honest and not.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use super::*;
use crate::testing::Rig;

const REQUEST: u64 = 0x1000;
const BUFFER: u64 = 0x2000;

fn rig() -> (Rig, Arc<FwCfg>) {
    let rig = Rig::ready("q35");
    let fw = FwCfg::of(&rig.machine).unwrap();
    (rig, fw)
}

fn select(rig: &Rig, key: u16) {
    assert!(rig.machine.io_space().write_uint(PORT, 2, key.into()).is_ok());
}

fn bytes(rig: &Rig, key: u16, len: usize) -> Vec<u8> {
    select(rig, key);
    (0..len).map(|_| rig.read(PORT + 1, 1) as u8).collect()
}

/// The files: name, key, size.
fn files(rig: &Rig) -> Vec<(String, u16, u32)> {
    let count = u32::from_be_bytes(bytes(rig, key::FILE_DIR, 4).try_into().unwrap()) as usize;
    let list = bytes(rig, key::FILE_DIR, 4 + 64 * count);
    let file = |entry: &[u8]| {
        let name = entry[8..].split(|byte| *byte == 0).next().unwrap();
        let key = u16::from_be_bytes([entry[4], entry[5]]);
        (String::from_utf8(name.to_vec()).unwrap(), key, u32::from_be_bytes(entry[..4].try_into().unwrap()))
    };
    list[4..].chunks(64).map(file).collect()
}

fn key_of(rig: &Rig, name: &str) -> u16 {
    files(rig).into_iter().find(|file| file.0 == name).unwrap().1
}

/// Carries out a request and gives what is left in its control word.
fn dma(rig: &Rig, at: u64, control: u32, length: u32, address: u64) -> u32 {
    let space = rig.machine.system_space();
    let request = [&control.to_be_bytes()[..], &length.to_be_bytes(), &address.to_be_bytes()].concat();
    let _ = space.write(at, &request);
    rig.outl(DMA_PORT, ((at >> 32) as u32).swap_bytes());
    rig.outl(DMA_PORT + 4, (at as u32).swap_bytes());
    (space.read_uint(at, 4).0 as u32).swap_bytes()
}

fn memory(rig: &Rig, len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    assert!(rig.machine.system_space().read(BUFFER, &mut out).is_ok());
    out
}

#[test]
fn items_are_read_byte_by_byte_and_end_in_zeros() {
    let (rig, _) = rig();
    assert_eq!(bytes(&rig, key::SIGNATURE, 6), b"QEMU\0\0");
    assert_eq!(bytes(&rig, key::ID, 5), [3, 0, 0, 0, 0]);
    assert_eq!(bytes(&rig, key::RAM_SIZE, 8), (1u64 << 30).to_le_bytes());
    assert_eq!(bytes(&rig, key::IRQ0_OVERRIDE, 4), [1, 0, 0, 0]);
    for nothing in [0x0c, 0x1f, 0x20 + 32, 0x3fff, 0xffff, key::ARCH_LOCAL] {
        assert_eq!(bytes(&rig, nothing, 2), [0, 0], "{nothing:#x}");
    }
    // The channel bit of a key, and bytes written, do nothing.
    select(&rig, key::SIGNATURE | 0x4000);
    rig.outb(PORT, 1);
    rig.outb(PORT + 1, b'X');
    assert_eq!(rig.read(PORT + 1, 1), u64::from(b'Q'));
    assert_eq!(rig.read(PORT, 2), 0, "two bytes cannot be read");
    assert_eq!(rig.read(PORT + 1, 1), u64::from(b'E'));
    assert_eq!([rig.read(DMA_PORT, 4), rig.read(DMA_PORT + 4, 4)], [0x554d_4551, 0x4746_4320]);
    assert_eq!(rig.read(DMA_PORT + 5, 1), u64::from(b'C'));
}

#[test]
fn files_are_listed_by_name() {
    let (rig, fw) = rig();
    let names = |rig: &Rig| files(rig).into_iter().map(|file| file.0).collect::<Vec<_>>();
    let list = [
        "bios-geometry",
        "bootorder",
        "etc/acpi/rsdp",
        "etc/acpi/tables",
        "etc/boot-fail-wait",
        "etc/e820",
        "etc/reserved-memory-end",
        "etc/smbios/smbios-anchor",
        "etc/smbios/smbios-tables",
        "etc/system-states",
        "etc/table-loader",
        "etc/tpm/log",
    ];
    assert_eq!(names(&rig), list);
    fw.add_file("opt/x", *b"text").unwrap();
    fw.add_file("a", *b"1").unwrap();
    assert_eq!(files(&rig)[0], ("a".into(), 0x20, 1));
    assert_eq!(bytes(&rig, key_of(&rig, "opt/x"), 5), b"text\0");
    assert_eq!(fw.add_file("a", *b"2").unwrap_err().desc(), "duplicate fw_cfg file name: a");
    assert_eq!(fw.add_file(&"n".repeat(56), *b"2").unwrap_err().desc(), "name too long (max. 55 char)");
    fw.add_file(&"n".repeat(55), *b"2").unwrap();
    assert_eq!(files(&rig).len(), list.len() + 3);
    for number in files(&rig).len()..SLOTS as usize {
        fw.add_file(&format!("z{number}"), [0; 0]).unwrap();
    }
    assert!(fw.add_file("zz", [0; 0]).unwrap_err().desc().starts_with("no room for fw_cfg file zz"));
    assert_eq!(files(&rig).len(), SLOTS as usize);
}

#[test]
fn requests_copy_choose_and_skip() {
    let (rig, fw) = rig();
    fw.add_file("opt/x", (0..=255).collect::<Vec<u8>>()).unwrap();
    let chosen = u32::from(key_of(&rig, "opt/x")) << 16;
    assert_eq!(dma(&rig, REQUEST, chosen | SELECT_READ, 4, BUFFER), 0);
    assert_eq!(memory(&rig, 5), [0, 1, 2, 3, 0]);
    assert_eq!(dma(&rig, REQUEST, 4, 0xf0, 0), 0);
    assert_eq!(rig.read(PORT + 1, 1), 0xf4, "one place for both ways");
    // Behind the end there are zeros.
    assert!(rig.machine.system_space().write(BUFFER, &[0xee; 32]).is_ok());
    assert_eq!(dma(&rig, REQUEST, 2, 16, BUFFER), 0);
    assert_eq!(memory(&rig, 17), [&(0xf5..=0xff).collect::<Vec<u8>>()[..], &[0; 5], &[0xee]].concat());
    assert_eq!(dma(&rig, REQUEST, chosen | 8, 0, 0), 0);
    assert_eq!(rig.read(PORT + 1, 1), 0);
    // In one access, and a request that does nothing.
    let space = rig.machine.io_space();
    assert!(space.write_uint(DMA_PORT, 8, REQUEST.swap_bytes()).is_ok());
    assert_eq!(dma(&rig, REQUEST, 0, 99, u64::MAX), 0);
}

const SELECT_READ: u32 = 8 | 2;

#[test]
fn what_cannot_be_done_sets_the_error_bit() {
    let (rig, fw) = rig();
    fw.add_file("opt/x", vec![7; 3 << 20]).unwrap();
    let chosen = u32::from(key_of(&rig, "opt/x")) << 16;
    let ram = 1 << 30;
    for address in [ram, u64::MAX, u64::MAX - 7, 0xfee0_0000, ram - 16, 1 << 63] {
        assert_eq!(dma(&rig, REQUEST, chosen | SELECT_READ, 0x10_0000, address), 1, "{address:#x}");
        assert_eq!(dma(&rig, REQUEST, chosen | 8 | 0x10, 4, address), 1, "it cannot be written");
    }
    assert_eq!(dma(&rig, REQUEST, chosen | SELECT_READ, u32::MAX, BUFFER), 1, "no 4 GiB of zeros");
    // Requests that are not there are left alone, and do not hurt.
    for nowhere in [ram, ram - 8, u64::MAX, u64::MAX - 15, 0xfee0_0000, 0] {
        dma(&rig, nowhere, chosen | SELECT_READ, 4, BUFFER);
    }
    assert_eq!(dma(&rig, ram - 16, chosen | SELECT_READ, 4, BUFFER), 0);
    assert!(!rig.machine.io_space().write_uint(DMA_PORT, 2, 0).is_ok());
}

#[test]
fn writable_files_take_whole_writes_only() {
    let (rig, fw) = rig();
    let calls = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&calls);
    fw.add_writable("etc/w", vec![1; 8], move |all| {
        assert_eq!(all.len(), 8);
        count.fetch_add(u32::from(all[7]), Relaxed);
    })
    .unwrap();
    let chosen = u32::from(key_of(&rig, "etc/w")) << 16 | 8;
    assert!(rig.machine.system_space().write(BUFFER, &[9; 16]).is_ok());
    assert_eq!(dma(&rig, REQUEST, chosen | 0x10, 9, BUFFER), 1);
    assert_eq!(dma(&rig, REQUEST, chosen | 0x10, 8, 1 << 40), 1);
    assert_eq!((calls.load(Relaxed), bytes(&rig, (chosen >> 16) as u16, 8)), (0, vec![1; 8]));
    assert_eq!(dma(&rig, REQUEST, chosen | 4, 6, 0), 0);
    assert_eq!(dma(&rig, REQUEST, 0x10, 2, BUFFER), 0);
    assert_eq!(calls.load(Relaxed), 9);
    assert_eq!(bytes(&rig, (chosen >> 16) as u16, 9), [1, 1, 1, 1, 1, 1, 9, 9, 0]);
    assert_eq!(dma(&rig, REQUEST, 0x10, 0, 0), 0);
}

#[test]
fn a_reset_chooses_the_signature() {
    let (mut rig, _) = rig();
    bytes(&rig, key::RAM_SIZE, 3);
    rig.machine.request_reset(qapi::types::ShutdownCause::GuestReset);
    rig.turn();
    assert_eq!(rig.read(PORT + 1, 1), u64::from(b'Q'));
}

#[test]
fn the_number_of_files_has_bounds_and_dma_can_be_off() {
    let with = |property: &str, value: &str| {
        Rig::build_with(crate::testing::config("pc"), |machine| {
            machine.globals().add_user(crate::core::Global {
                driver: "fw_cfg_io".into(),
                property: property.into(),
                value: value.into(),
            });
            Ok(())
        })
    };
    let text = |value| with("x-file-slots", value).err().unwrap().desc().to_owned();
    assert_eq!(text("5"), "\"file_slots\" must be at least 0x10");
    assert_eq!(text("65535"), "\"file_slots\" must not exceed 0x3fe0");
    let rig = with("dma_enabled", "off").unwrap();
    rig.machine.finish().unwrap();
    assert_eq!(bytes(&rig, key::ID, 1), [1]);
    assert_eq!(rig.read(DMA_PORT, 4), 0xffff_ffff);
}

#[test]
fn a_guest_that_moves_goes_on_reading_where_it_was() {
    let (source, _) = rig();
    let (destination, fw) = rig();
    select(&source, key_of(&source, "etc/e820"));
    let all: Vec<u8> = (0..40).map(|_| source.read(PORT + 1, 1) as u8).collect();
    select(&source, key_of(&source, "etc/e820"));
    assert_eq!((0..7).map(|_| source.read(PORT + 1, 1) as u8).collect::<Vec<_>>(), all[..7]);
    source.outl(DMA_PORT, 1u32.swap_bytes());
    crate::testing::carry::carry(&source.machine, &destination.machine);
    let rest: Vec<u8> = (0..33).map(|_| destination.read(PORT + 1, 1) as u8).collect();
    assert_eq!(rest, all[7..]);
    assert_eq!(fw.lock().dma_high, 1);

    // Nothing that is chosen is nothing there.
    select(&source, 0x3fff);
    crate::testing::carry::carry(&source.machine, &destination.machine);
    assert_eq!(destination.read(PORT + 1, 1), 0);
    crate::testing::carry::spoil(&destination.machine, "fw_cfg");
    for cur_entry in [0x4000, 0x3fff, 0x20 + 32, 0xfffe] {
        let state = FwCfgState { cur_entry, cur_offset: 0, dma_addr_high: 0 };
        let error = fw.load(state).unwrap_err();
        assert_eq!(error.to_string(), format!("fw_cfg: there is no item {cur_entry:#x}"));
    }
    fw.load(FwCfgState { cur_entry: 0x19, cur_offset: u64::MAX, dma_addr_high: 0 }).unwrap();
    assert_eq!(destination.read(PORT + 1, 1), 0);
    assert_eq!(dma(&destination, REQUEST, 2, 16, BUFFER), 0, "behind the end there are zeros");
}
