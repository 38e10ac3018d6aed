//! Kernels made by hand on a machine that does not run: what lands where, and files that are wrong.

use std::path::Path;

use linux_loader::loader::bootparam::boot_params;
use proptest::prelude::*;
use qapi::types::ShutdownCause;
use tempfile::TempDir;
use vm_memory::ByteValued;

use super::bzimage::HEADER;
use super::*;
use crate::core::MachineConfig;
use crate::testing::{Rig, config};

const KERNEL_START: u64 = 0x100_0000;
const ZERO_PAGE: u64 = 0x7000;

/// A bzImage of 1 KiB of code, all of it the byte 5a.
fn bzimage() -> Vec<u8> {
    let mut out = vec![0; 1024 + 1024];
    let header = HEADER as usize;
    let mut put = |at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
    put(header, &[1]);
    put(0x1f4, &64u32.to_le_bytes());
    put(0x1fe, &0xaa55u16.to_le_bytes());
    put(0x200, &[0xeb, 0x6a]);
    put(0x202, b"HdrS");
    put(0x206, &0x020fu16.to_le_bytes());
    put(0x211, &[1]);
    put(0x22c, &0x7fff_ffffu32.to_le_bytes());
    put(0x230, &0x20_0000u32.to_le_bytes());
    put(0x234, &[1]);
    put(0x236, &1u16.to_le_bytes());
    put(0x238, &2047u32.to_le_bytes());
    put(0x258, &KERNEL_START.to_le_bytes());
    put(0x260, &0x40_0000u32.to_le_bytes());
    out[1024..].fill(0x5a);
    out
}

fn elf(notes: bool) -> Vec<u8> {
    let mut out = vec![0; 0x1000 + 16];
    out[..6].copy_from_slice(&[0x7f, b'E', b'L', b'F', 2, 1]);
    (out[18], out[32], out[54], out[56]) = (62, 64, 56, 2);
    let mut put = |at: usize, value: u64| out[at..at + 8].copy_from_slice(&value.to_le_bytes());
    put(24, KERNEL_START + 8);
    put(64, 1);
    put(64 + 8, 0x1000);
    put(64 + 24, KERNEL_START);
    put(64 + 32, 16);
    put(64 + 40, 0x3000);
    put(120, if notes { 4 } else { 6 });
    put(120 + 8, 0x200);
    put(120 + 32, 20);
    put(0x200, 4 | 4 << 32);
    put(0x208, 18 | u64::from(u32::from_le_bytes(*b"Xen\0")) << 32);
    put(0x210, KERNEL_START + 4);
    out[0x1000..].fill(0xa5);
    out
}

struct Files(TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn write(&self, name: &str, data: &[u8]) -> String {
        let path = self.0.path().join(name);
        std::fs::write(&path, data).unwrap();
        path.to_str().unwrap().to_owned()
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

fn with(options: &[(&str, &str)]) -> MachineConfig {
    let options = options.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    MachineConfig { options, ..config("q35") }
}

fn booted(options: &[(&str, &str)]) -> Rig {
    let rig = Rig::build(with(options)).unwrap();
    rig.machine.finish().unwrap();
    rig
}

/// Why a machine with these options does not start.
fn refused(options: &[(&str, &str)]) -> String {
    match Rig::build(with(options)) {
        Err(error) => error.desc().to_owned(),
        Ok(rig) => rig.machine.finish().unwrap_err().desc().to_owned(),
    }
}

fn bytes(rig: &Rig, at: u64, len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    assert!(rig.machine.system_space().read(at, &mut out).is_ok());
    out
}

fn zero_page(rig: &Rig) -> boot_params {
    let mut page = boot_params::default();
    page.as_mut_slice().copy_from_slice(&bytes(rig, ZERO_PAGE, 4096));
    page
}

#[test]
fn a_bzimage_gets_its_zero_page_and_its_ram_disk() {
    let files = Files::new();
    let (kernel, initrd) = (files.write("k", &bzimage()), files.write("i", &[0x77; 5000]));
    let rig = booted(&[("kernel", &kernel), ("initrd", &initrd), ("append", "console=ttyS0")]);
    assert_eq!(bytes(&rig, KERNEL_START, 1025), [&[0x5a; 1024][..], &[0]].concat());
    let page = zero_page(&rig);
    assert_eq!({ page.hdr.header }, 0x5372_6448);
    assert_eq!(page.hdr.type_of_loader, 0xff);
    assert_eq!(bytes(&rig, { page.hdr.cmd_line_ptr }.into(), 14), b"console=ttyS0\0");
    let (disk, size) = ({ page.hdr.ramdisk_image }, { page.hdr.ramdisk_size });
    // 1 GiB, what is kept for tables, and whole pages.
    assert_eq!((disk, size), (0x3ffd_6000, 5000));
    assert_eq!(bytes(&rig, disk.into(), 5000), [0x77; 5000]);
    assert_eq!({ page.acpi_rsdp_addr }, RSDP);
    assert_eq!(bytes(&rig, RSDP, 8), b"RSD PTR ");
    assert_eq!(bytes(&rig, SMBIOS, 4), b"_SM_");
    // In real mode, after a far jump: an empty table of interrupts, from code that is in reach of its own segment.
    assert_eq!(bytes(&rig, 0xf_fff0, 8), [0x2e, 0x0f, 0x01, 0x1e, 0xf8, 0xff, 0xcc, 0xf4]);
    assert_eq!(bytes(&rig, 0xf_fff8, 6), [0; 6]);
    // Of firmware first, then of the machine.
    assert_eq!(bytes(&rig, SMBIOS_TABLES.0, 2), [0, 24]);
    assert_eq!(bytes(&rig, SMBIOS + 24, 4), (SMBIOS_TABLES.0 as u32).to_le_bytes());
    let table = page.e820_table;
    let ram: u64 = table.iter().filter(|entry| entry.r#type == 1).map(|entry| entry.size).sum();
    assert_eq!(ram, (1 << 30) - 0x10_0000 + 0x9_fc00 - 0x2_0000);
    let names = Roms::of(&rig.machine).text();
    assert!(names.contains("size=0x001388 mem=ram name=\"kernel initial RAM disk\""), "{names}");
}

#[test]
fn many_sockets_have_their_tables_behind_those_of_acpi() {
    let files = Files::new();
    let kernel = files.write("k", &bzimage());
    let mut config = with(&[("kernel", &kernel)]);
    // More that are there would need x2APIC.
    config.smp.cpus = Some(255);
    config.smp.maxcpus = Some(1000);
    config.smp.sockets = Some(1000);
    let rig = Rig::build(config).unwrap();
    rig.machine.finish().unwrap();
    let word = |at, len| rig.machine.system_space().read_uint(at, len).0;
    // Too long for the older entry point too.
    assert_eq!(bytes(&rig, SMBIOS, 5), b"_SM3_");
    let (len, at) = (word(SMBIOS + 12, 4), word(SMBIOS + 16, 8));
    let end = zero_page(&rig).e820_table.iter().find(|entry| entry.r#type == 3).map(|e| e.addr + e.size);
    assert!(at > 0x10_0000 && at + len <= end.unwrap());
    assert_eq!(bytes(&rig, at + len - 6, 2), [127, 4]);
    assert_eq!(bytes(&rig, at, 2), [0, 24]);
}

#[test]
fn the_kernel_is_told_of_in_fw_cfg_too() {
    let files = Files::new();
    let (kernel, initrd) = (files.write("k", &bzimage()), files.write("i", &[0x77; 5000]));
    let rig = booted(&[("kernel", &kernel), ("initrd", &initrd), ("append", "a b")]);
    let item = |key: u16, len: usize| -> Vec<u8> {
        let io = rig.machine.io_space();
        assert!(io.write_uint(0x510, 2, key.into()).is_ok());
        (0..len).map(|_| io.read_uint(0x511, 1).0 as u8).collect()
    };
    assert_eq!(item(0x15, 5), b"a b\0\0");
    assert_eq!([item(0x13, 4), item(0x14, 4)], [[0, 0, 2, 0], [4, 0, 0, 0]]);
    assert_eq!([item(0x0b, 4), item(0x0a, 4)], [5000u32.to_le_bytes(), 0x3ffd_6000u32.to_le_bytes()]);
    assert_eq!(item(0x12, 5001), [&[0x77; 5000][..], &[0]].concat());
    assert_eq!([item(0x07, 4), item(0x08, 4)], [[0, 0, 0x10, 0], [0, 4, 0, 0]]);
    assert_eq!(item(0x11, 1025), [&[0x5a; 1024][..], &[0]].concat());
    assert_eq!([item(0x16, 4), item(0x17, 4)], [[0, 0, 1, 0], [0, 4, 0, 0]]);
    let setup = item(0x18, 1024);
    assert_eq!((&setup[0x202..0x206], setup[0x210], setup[0x211]), (&b"HdrS"[..], 0xb0, 0x81));
    assert_eq!(setup[0x218..0x220], [&0x3ffd_6000u32.to_le_bytes()[..], &5000u32.to_le_bytes()].concat());
}

#[test]
fn the_number_of_its_generation_lies_where_the_tables_say() {
    let files = Files::new();
    let kernel = files.write("k", &bzimage());
    let guid = [&[0x33, 0x22, 0x11, 0][..], &[0x55, 0x44, 0x77, 0x66], &[0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd]];
    let guid = [&guid.concat()[..], &[0xee, 0xff]].concat();
    let mut rig = Rig::build(with(&[("kernel", &kernel)])).unwrap();
    rig.add("vmgenid,guid=00112233-4455-6677-8899-aabbccddeeff").unwrap();
    rig.machine.finish().unwrap();
    let page = zero_page(&rig);
    let range =
        page.e820_table.iter().find(|entry| entry.addr <= 0xf_4000 && 0xf_4fff < entry.addr + entry.size);
    assert_eq!(range.map(|entry| entry.r#type), Some(2), "no memory that is free");
    let tables = page.e820_table.iter().find(|entry| entry.r#type == 3).map(|e| (e.addr, e.size as usize));
    let blob = tables.map(|(at, len)| bytes(&rig, at, len)).unwrap();
    assert!(blob.windows(10).any(|part| part == b"\x08VGIA\x0c\x00\x40\x0f\x00"));
    for _ in 0..2 {
        assert_eq!(bytes(&rig, 0xf_4000, 40), [0; 40]);
        assert_eq!(bytes(&rig, 0xf_4028, 16), guid);
        assert!(rig.machine.system_space().write_uint(0xf_4028, 8, 0).is_ok());
        rig.machine.request_reset(ShutdownCause::GuestReset);
        rig.turn();
    }
    let names = Roms::of(&rig.machine).text();
    assert!(names.contains("size=0x001000 mem=ram name=\"kernel generation ID\""), "{names}");
}

#[test]
fn it_is_loaded_again_at_every_reset() {
    let files = Files::new();
    let kernel = files.write("k", &bzimage());
    let mut rig = booted(&[("kernel", &kernel), ("append", "a")]);
    let seed = || zero_page(&rig).hdr.setup_data + 16;
    let (at, first) = (seed(), bytes(&rig, seed(), 32));
    let space = Arc::clone(rig.machine.system_space());
    for address in [KERNEL_START, ZERO_PAGE + 0x202, 0x2_0000] {
        assert!(space.write_uint(address, 8, 0).is_ok());
    }
    rig.machine.request_reset(ShutdownCause::GuestReset);
    rig.turn();
    assert_eq!(bytes(&rig, KERNEL_START, 2), [0x5a; 2]);
    assert_eq!({ zero_page(&rig).hdr.header }, 0x5372_6448);
    assert_eq!(bytes(&rig, 0x2_0000, 2), b"a\0");
    assert_ne!(bytes(&rig, at, 32), first, "a new seed");
}

#[test]
fn memory_is_mapped_to_itself_for_the_64_bit_entry() {
    let files = Files::new();
    let rig = booted(&[("kernel", &files.write("k", &bzimage()))]);
    let entry = |at| rig.machine.system_space().read_uint(at, 8).0;
    let pointers = entry(0x9000) & !0xfff;
    let directory = entry(pointers) & !0xfff;
    assert_eq!(entry(pointers + 8), 0, "the kernel ends below 1 GiB");
    for page in [0, 8, 511] {
        assert_eq!(entry(directory + page * 8), page << 21 | 0x83);
    }
    // Code at 10h is 64-bit, data at 18h can be written.
    assert_eq!((entry(0x1010) >> 40 & 0xff, entry(0x1010) >> 53 & 1), (0x9b, 1));
    assert_eq!(entry(0x1018) >> 40 & 0xff, 0x93);
}

#[test]
fn an_elf_kernel_is_entered_as_its_note_says() {
    let files = Files::new();
    let initrd = files.write("i", &[1; 10]);
    let rig = booted(&[("kernel", &files.write("k", &elf(true))), ("initrd", &initrd), ("append", "x")]);
    assert_eq!(bytes(&rig, KERNEL_START, 17), [&[0xa5; 16][..], &[0]].concat());
    let word = |at| rig.machine.system_space().read_uint(at, 4).0;
    let long = |at| rig.machine.system_space().read_uint(at, 8).0;
    // Magic, one module, the root pointer; the module is the RAM disk.
    assert_eq!((word(0x6000), word(0x600c), long(0x6020)), (0x336e_c578, 1, RSDP));
    let module = long(0x6010);
    assert_eq!((long(module), long(module + 8)), (0x3ffd_7000, 10));
    let rig = booted(&[("kernel", &files.write("k", &elf(false)))]);
    assert_eq!({ zero_page(&rig).hdr.header }, 0x5372_6448);
}

#[test]
fn wrong_files_are_one_error() {
    let files = Files::new();
    let kernel = files.write("k", &bzimage());
    let dir = files.path().to_str().unwrap();
    let no = "/nonexistent";
    let gone = "could not open kernel file '/nonexistent': No such file or directory";
    assert_eq!(refused(&[("kernel", no)]), gone);
    assert_eq!(refused(&[("kernel", dir)]), format!("could not load kernel '{dir}': Is a directory"));
    for size in [0, 100, 0x1f1, 0x26b] {
        assert_eq!(refused(&[("kernel", &files.write("s", &bzimage()[..size]))]), "invalid kernel header");
    }
    assert_eq!(refused(&[("kernel", &files.write("g", &[0x3c; 65536]))]), "invalid kernel header");
    let cut = files.write("c", &bzimage()[..2000]);
    assert_eq!(refused(&[("kernel", &cut)]), format!("could not load kernel '{cut}': it is cut off"));
    assert_eq!(
        refused(&[("kernel", &kernel), ("initrd", no)]),
        "error reading initrd /nonexistent: Failed to open file “/nonexistent”: open() failed: No such file or directory"
    );
    assert!(refused(&[("kernel", &kernel), ("initrd", dir)]).ends_with("mmap() failed: No such device"));
    assert_eq!(refused(&[("initrd", &kernel)]), "-initrd only allowed with -kernel option");
    let long = "x".repeat(2048);
    assert_eq!(
        refused(&[("kernel", &kernel), ("append", &long)]),
        "the kernel command line has 2048 bytes, the kernel takes 2047"
    );
}

#[test]
fn a_ram_disk_that_does_not_fit_is_an_error() {
    let files = Files::new();
    let kernel = files.write("k", &bzimage());
    let huge = files.path().join("i");
    std::fs::File::create(&huge).unwrap().set_len(3 << 30).unwrap();
    assert_eq!(
        refused(&[("kernel", &kernel), ("initrd", huge.to_str().unwrap())]),
        "initrd is too large, cannot support.(max: 1073577983, need 3221225472)"
    );
    // It would lie on the kernel.
    assert!(place_initrd(0x1000, 0x2000, 0x2fff).is_err());
    assert_eq!(place_initrd(0x1000, 0x2000, 0x3fff).unwrap(), Some((0x2000, 0x1000)));
    assert_eq!(place_initrd(0, 0x2000, 0x1000).unwrap(), None);
}

#[test]
fn old_kernels_and_kernels_larger_than_ram_are_refused() {
    let files = Files::new();
    let change = |at: usize, bytes: &[u8]| {
        let mut image = bzimage();
        image[at..at + bytes.len()].copy_from_slice(bytes);
        let path = files.write("k", &image);
        refused(&[("kernel", &path)]).replace(&path, "k")
    };
    let old = "could not load kernel 'k': it has no 64-bit entry point (boot protocol 2.08; 2.12 or newer is needed)";
    assert_eq!(change(0x206, &0x0208u16.to_le_bytes()), old);
    assert!(change(0x236, &[0, 0]).contains("no 64-bit entry point"));
    let large = "could not load kernel 'k': there is no RAM for the 4294967295 bytes it needs at 0x1000000";
    assert_eq!(change(0x260, &[0xff; 4]), large);
    assert_eq!(change(HEADER as usize, &[0xff]), "invalid kernel header");
    assert_eq!(change(0x230, &3u32.to_le_bytes()), "invalid kernel header");
    let mut image = elf(true);
    image[64 + 24 + 3] = 0x40;
    let path = files.write("e", &image);
    assert_eq!(
        refused(&[("kernel", &path)]),
        format!("could not load kernel '{path}': there is no RAM for the 12288 bytes it needs at 0x40000000")
    );
}

/// What is asked of a kernel file before anything is loaded: an error, or a place inside of RAM.
fn place(image: &[u8], map: &MemoryMap) -> Option<(u64, u64)> {
    let files = Files::new();
    let file = ImageFile::kernel(&files.write("k", image)).unwrap();
    if elf::is_elf(&file).unwrap() {
        let program = Program::parse(&file).ok()?;
        program.extent(&file, map).ok()
    } else {
        let image = BzImage::parse(file).ok()?;
        image.place(map).ok()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn hostile_headers_never_lead_outside_of_ram(
        is_elf: bool,
        changes in prop::collection::vec((0usize..0x280, prop_oneof![Just(0u8), Just(0xff), Just(0x7f), any::<u8>()]), 1..8),
        cut in prop::option::of(0usize..2048),
    ) {
        let layout = Layout {
            below_4g: 64 << 20,
            above_4g_start: 4 << 30,
            above_4g: 0,
            device_memory: None,
            pci_hole64: (4 << 30, 1 << 30),
        };
        let map = MemoryMap::new(&layout, true, &[], 0);
        let mut image = if is_elf { elf(true) } else { bzimage() };
        for (at, value) in changes {
            image[at] = value;
        }
        image.truncate(cut.unwrap_or(image.len()));
        if let Some((start, end)) = place(&image, &map) {
            prop_assert!(start >= 1 << 20 && start < end && end <= (64 << 20) - 0x2_0000);
        }
    }
}
