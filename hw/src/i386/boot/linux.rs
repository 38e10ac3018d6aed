//! The zero page, and long mode for the 64-bit entry (Linux `Documentation/arch/x86/boot.rst` and `zero-page.rst`).
//!
//! | at | what |
//! | --- | --- |
//! | 1000h | segment descriptors |
//! | 2000h | `setup_data`: a seed for the kernel's random numbers |
//! | 7000h | zero page |
//! | 9000h | page tables: top, 1 GiB entries, then a page of 2 MiB entries for each GiB |
//! | 20000h | command line |

use accel::BootState;
use linux_loader::loader::bootparam::{
    LOADED_HIGH, SETUP_RNG_SEED, XLF_KERNEL_64, boot_e820_entry, boot_params, setup_header,
};
use qapi::{Error, Result};
use vm_memory::ByteValued;

use super::Environment;
use super::ram::Ram;

const DESCRIPTORS: u64 = 0x1000;
const SETUP_DATA: u64 = 0x2000;
const ZERO_PAGE: u64 = 0x7000;
const PAGE_TABLES: u64 = 0x9000;
const COMMAND_LINE: u64 = 0x2_0000;
/// A loader that has no number of its own.
const LOADER_UNDEFINED: u8 = 0xff;
const VIDEO_NORMAL: u16 = 0xffff;
/// Bytes of a command line for kernels that do not say, without the terminator.
const COMMAND_LINE_DEFAULT: u32 = 2047;
/// As long as any kernel takes, and as there is room for.
const COMMAND_LINE_MAX: u32 = 0xffff;
const GIB: u64 = 1 << 30;
const PAGE: u64 = 0x1000;
const PRESENT_WRITABLE: u64 = 3;
const LARGE: u64 = 1 << 7;
/// Null, unused, code (10h), data (18h): flat, present, ring 0.
const SEGMENTS: [u64; 4] = [0, 0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff];
const SEED: usize = 32;

/// Writes everything that the kernel in `space` is entered with; `header` is that of its file, if it has one.
///
/// # Errors
/// The command line is too long.
pub(super) fn enter(
    ram: &Ram,
    environment: &Environment<'_>,
    header: Option<&setup_header>,
    space: (u64, u64),
    entry: u64,
) -> Result<BootState> {
    let mut page = boot_params { hdr: header.copied().unwrap_or_else(plain_header), ..Default::default() };
    command_line(ram, environment.command_line, &page.hdr)?;
    page.hdr.cmd_line_ptr = COMMAND_LINE as u32;
    page.hdr.type_of_loader = LOADER_UNDEFINED;
    page.hdr.vid_mode = VIDEO_NORMAL;
    page.hdr.code32_start = u32::try_from(space.0).unwrap_or(0);
    page.hdr.setup_data = seed(ram)?;
    if let Some((address, size)) = environment.initrd {
        (page.hdr.ramdisk_image, page.ext_ramdisk_image) = (address as u32, (address >> 32) as u32);
        (page.hdr.ramdisk_size, page.ext_ramdisk_size) = (size as u32, (size >> 32) as u32);
    }
    page.acpi_rsdp_addr = environment.rsdp.unwrap_or(0);
    let ranges = environment.map.ranges();
    let mut table = page.e820_table;
    for (place, &(addr, size, kind)) in table.iter_mut().zip(ranges) {
        *place = boot_e820_entry { addr, size, r#type: kind as u32 };
    }
    page.e820_table = table;
    page.e820_entries = ranges.len().min(table.len()) as u8;
    ram.write(ZERO_PAGE, page.as_slice())?;
    ram.write(DESCRIPTORS, &bytes(&SEGMENTS))?;
    page_tables(ram, space.1)?;
    Ok(BootState::Linux64 {
        entry,
        zero_page: ZERO_PAGE as u32,
        page_tables: PAGE_TABLES as u32,
        descriptors: DESCRIPTORS as u32,
        descriptors_limit: (size_of_val(&SEGMENTS) - 1) as u16,
    })
}

/// For kernels that are no bzImage.
fn plain_header() -> setup_header {
    setup_header {
        boot_flag: 0xaa55,
        header: 0x5372_6448,
        version: 0x020f,
        loadflags: LOADED_HIGH,
        xloadflags: XLF_KERNEL_64,
        initrd_addr_max: 0x7fff_ffff,
        kernel_alignment: 0x20_0000,
        cmdline_size: COMMAND_LINE_DEFAULT,
        ..Default::default()
    }
}

fn command_line(ram: &Ram, text: &str, header: &setup_header) -> Result<()> {
    let max = match header.cmdline_size {
        0 => COMMAND_LINE_DEFAULT,
        size => size.min(COMMAND_LINE_MAX),
    };
    if text.len() > max as usize {
        let len = text.len();
        return Err(Error::generic(format!(
            "the kernel command line has {len} bytes, the kernel takes {max}"
        )));
    }
    ram.write(COMMAND_LINE, text.as_bytes())?;
    ram.write(COMMAND_LINE + text.len() as u64, &[0])
}

/// Gives the kernel what its random numbers start from; another at every reset.
fn seed(ram: &Ram) -> Result<u64> {
    let mut seed = [0; SEED];
    // Guests get along without.
    if rustix::rand::getrandom(&mut seed, rustix::rand::GetRandomFlags::NONBLOCK) != Ok(SEED) {
        return Ok(0);
    }
    let mut data = Vec::with_capacity(16 + SEED);
    data.extend(0u64.to_le_bytes());
    data.extend(SETUP_RNG_SEED.to_le_bytes());
    data.extend((SEED as u32).to_le_bytes());
    data.extend(seed);
    ram.write(SETUP_DATA, &data)?;
    Ok(SETUP_DATA)
}

/// Maps memory to itself from 0 to `end` at least; the kernel makes tables of its own before it needs more.
fn page_tables(ram: &Ram, end: u64) -> Result<()> {
    let gibs = end.div_ceil(GIB).clamp(1, 4);
    let directories = PAGE_TABLES + 2 * PAGE;
    ram.write(PAGE_TABLES, &((PAGE_TABLES + PAGE) | PRESENT_WRITABLE).to_le_bytes())?;
    ram.clear(PAGE_TABLES + 8, PAGE - 8)?;
    let pointers: Vec<u64> = (0..gibs).map(|gib| (directories + gib * PAGE) | PRESENT_WRITABLE).collect();
    ram.write(PAGE_TABLES + PAGE, &bytes(&pointers))?;
    ram.clear(PAGE_TABLES + PAGE + 8 * gibs, PAGE - 8 * gibs)?;
    let pages: Vec<u64> = (0..gibs * 512).map(|page| page << 21 | LARGE | PRESENT_WRITABLE).collect();
    ram.write(directories, &bytes(&pages))
}

fn bytes(values: &[u64]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}
