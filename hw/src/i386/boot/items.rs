//! The kernel in `fw_cfg`, for a guest's firmware or for one that wants to boot another kernel as it was booted: where QEMU's option ROM
//! would put each part. Of an ELF file only the file itself, the RAM disk and the command line.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use qapi::Result;

use super::bzimage::BzImage;
use super::file::{Image, ImageFile};
use super::{Boot, Kernel, Kind, What};
use crate::i386::layout::Layout;
use crate::isa::fw_cfg::key::{self, Part};
use crate::isa::fw_cfg::{Contents, FwCfg, Source};

const SETUP: u32 = 0x1_0000;
const COMMAND_LINE: u32 = 0x2_0000;
const CODE: u32 = 0x10_0000;
/// A loader that says where the heap ends: QEMU.
const LOADER: u8 = 0xb0;
const CAN_USE_HEAP: u8 = 0x80;
/// What the end of the heap counts from.
const HEAP_BASE: u32 = SETUP + 0x200;
/// What is kept free above an initial RAM disk.
const INITRD_GAP: u64 = 0x2_8000;

/// A part of an open file.
struct Stretch {
    file: File,
    start: u64,
    len: u64,
}

impl Source for Stretch {
    fn size(&self) -> u64 {
        self.len
    }

    fn read(&self, at: u64, out: &mut [u8]) -> bool {
        self.file.read_exact_at(out, self.start + at).is_ok()
    }
}

fn stretch(file: &ImageFile, start: u64, len: u64) -> Result<Contents> {
    Ok(Contents::Source(Arc::new(Stretch { file: file.handle()?, start, len })))
}

fn set(fw: &FwCfg, part: Part, address: u32, size: u64, data: impl Into<Contents>) {
    fw.set(part.address, address.to_le_bytes());
    fw.set(part.size, (size as u32).to_le_bytes());
    fw.set(part.data, data);
}

impl Boot {
    /// Sets the items about the kernel, if there is one.
    ///
    /// # Errors
    /// A file cannot be read any more.
    pub(in crate::i386) fn describe(&self, fw: &FwCfg, layout: &Layout) -> Result<()> {
        match &self.0 {
            What::Kernel(kernel) => kernel.describe(fw, layout),
            What::Nothing | What::BuiltIn => Ok(()),
        }
    }
}

impl Kernel {
    fn describe(&self, fw: &FwCfg, layout: &Layout) -> Result<()> {
        let mut text = self.command_line.clone().into_bytes();
        text.push(0);
        set(fw, key::COMMAND_LINE, COMMAND_LINE, text.len() as u64, text);
        let mut initrd = (0, 0);
        if let Some(file) = &self.initrd {
            let limit = match &self.kind {
                Kind::BzImage(image) => u64::from(image.header().initrd_addr_max),
                Kind::Elf(..) => u64::from(u32::MAX),
            };
            let end = limit.min(layout.below_4g.saturating_sub(INITRD_GAP + 1));
            initrd = ((end.saturating_sub(file.len()) & !0xfff) as u32, file.len() as u32);
            set(fw, key::INITRD, initrd.0, file.len(), stretch(file, 0, file.len())?);
        }
        let file = match &self.kind {
            Kind::Elf(file, _) => file,
            Kind::BzImage(image) => {
                let code = image.file().len() - image.setup_size();
                let data = stretch(image.file(), image.setup_size(), code)?;
                set(fw, key::KERNEL, CODE, code, data);
                set(fw, key::SETUP, SETUP, image.setup_size(), setup(image, initrd)?);
                image.file()
            }
        };
        fw.add_file("etc/boot/kernel", stretch(file, 0, file.len())?)
    }
}

/// The setup code, told where the other parts are.
fn setup(image: &BzImage, initrd: (u32, u32)) -> Result<Vec<u8>> {
    let mut code = vec![0; image.setup_size() as usize];
    image.file().read(0, &mut code)?;
    let heap = (COMMAND_LINE - HEAP_BASE) as u16;
    let mut put = |at: usize, bytes: &[u8]| code[at..at + bytes.len()].copy_from_slice(bytes);
    put(0x210, &[LOADER, image.header().loadflags | CAN_USE_HEAP]);
    put(0x218, &initrd.0.to_le_bytes());
    put(0x21c, &initrd.1.to_le_bytes());
    put(0x224, &heap.to_le_bytes());
    put(0x228, &COMMAND_LINE.to_le_bytes());
    Ok(code)
}
