//! bzImage files: the setup header and what it asks for (Linux `Documentation/arch/x86/boot.rst`).

use linux_loader::loader::bootparam::{LOADED_HIGH, XLF_KERNEL_64, setup_header};
use qapi::{Error, Result};
use vm_memory::ByteValued;

use super::file::{Image, ImageFile};
use super::memory_map::{MIB, MemoryMap};
use super::ram::Ram;

/// Where the header is in the file, and in the zero page.
pub(super) const HEADER: u64 = 0x1f1;
/// Where its length counts from: the second byte of the jump over it.
const HEADER_END_BASE: u64 = 0x202;
const BOOT_FLAG: u16 = 0xaa55;
/// `HdrS`.
const MAGIC: u32 = 0x5372_6448;
/// The first version that tells of a 64-bit entry point.
const VERSION: u16 = 0x020c;
const SECTOR: u64 = 512;
/// Sectors of the setup code of old kernels, which say 0.
const OLD_SETUP_SECTORS: u64 = 4;
/// Bytes that `syssize` counts.
const PARAGRAPH: u64 = 16;
/// From the start of the protected-mode code to its 64-bit entry point.
const ENTRY_64: u64 = 0x200;

/// A kernel whose header makes sense.
pub(super) struct BzImage {
    file: ImageFile,
    header: setup_header,
    /// Bytes before the protected-mode code.
    setup: u64,
    /// Bytes of that.
    size: u64,
}

impl BzImage {
    /// Reads the header of a kernel.
    ///
    /// # Errors
    /// `invalid kernel header`; the file is cut off; there is no 64-bit entry point.
    pub(super) fn parse(file: ImageFile) -> Result<Self> {
        let invalid = || Error::generic("invalid kernel header");
        let mut header = setup_header::default();
        if file.len() < HEADER + size_of::<setup_header>() as u64 {
            return Err(invalid());
        }
        file.read(HEADER, header.as_mut_slice())?;
        if header.boot_flag != BOOT_FLAG || header.header != MAGIC {
            return Err(invalid());
        }
        let version = header.version;
        if version < VERSION || header.xloadflags & XLF_KERNEL_64 == 0 || header.loadflags & LOADED_HIGH == 0
        {
            let (major, minor) = (version >> 8, version & 0xff);
            return Err(file.bad(&format!(
                "it has no 64-bit entry point (boot protocol {major}.{minor:02}; 2.12 or newer is needed)"
            )));
        }
        let sectors = match header.setup_sects {
            0 => OLD_SETUP_SECTORS,
            count => count.into(),
        };
        let setup = (sectors + 1) * SECTOR;
        // What follows the code is a signature.
        let size = u64::from(header.syssize) * PARAGRAPH;
        let Some(present) = file.len().checked_sub(setup) else { return Err(invalid()) };
        if size <= ENTRY_64 {
            return Err(invalid());
        }
        if present + PARAGRAPH <= size {
            return Err(file.bad("it is cut off"));
        }
        let image = Self { header: trimmed(header), setup, size: size.min(present), file };
        if !(image.alignment().is_power_of_two()
            && image.header.pref_address.is_multiple_of(image.alignment()))
        {
            return Err(invalid());
        }
        Ok(image)
    }

    pub(super) fn file(&self) -> &ImageFile {
        &self.file
    }

    /// Bytes of the file before the protected-mode code; more than the header, no more than the file has.
    pub(super) fn setup_size(&self) -> u64 {
        self.setup
    }

    pub(super) fn header(&self) -> &setup_header {
        &self.header
    }

    /// The first instruction of a kernel at `start`.
    pub(super) fn entry(&self, start: u64) -> u64 {
        start + ENTRY_64
    }

    fn alignment(&self) -> u64 {
        // Kernels that cannot be moved need not say.
        u64::from(self.header.kernel_alignment).max(1)
    }

    /// Start and end of the memory it gets: where it prefers to be, or as low as can be.
    ///
    /// # Errors
    /// There is not so much.
    pub(super) fn place(&self, map: &MemoryMap) -> Result<(u64, u64)> {
        let need = u64::from(self.header.init_size).max(self.size);
        let at = |start: u64| {
            let end = start.checked_add(need)?;
            map.has_room(start, end).then_some((start, end))
        };
        let lowest = || at(MIB.next_multiple_of(self.alignment()));
        let movable = self.header.relocatable_kernel != 0;
        at(self.header.pref_address).or_else(|| movable.then(lowest).flatten()).ok_or_else(|| {
            let place = self.header.pref_address;
            self.file.bad(&format!("there is no RAM for the {need} bytes it needs at {place:#x}"))
        })
    }

    /// Where an initial RAM disk has to end.
    pub(super) fn initrd_max(&self, map: &MemoryMap) -> u64 {
        // The header has the last address.
        map.initrd_max().min(u64::from(self.header.initrd_addr_max) + 1)
    }

    /// Puts the protected-mode code at `start`.
    ///
    /// # Errors
    /// The file has changed.
    pub(super) fn load(&self, ram: &Ram, start: u64) -> Result<()> {
        self.file.load(self.setup, self.size, ram, start)
    }
}

/// The header without what lies behind its end, which is code.
fn trimmed(mut header: setup_header) -> setup_header {
    let end = HEADER_END_BASE + u64::from(header.jump >> 8);
    let len = (end - HEADER) as usize;
    if let Some(rest) = header.as_mut_slice().get_mut(len..) {
        rest.fill(0);
    }
    header
}
