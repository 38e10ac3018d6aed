//! The stream: its numbers, and how they are written and read.
//!
//! ```text
//! magic, version, configuration
//! section start "ram" (blocks) … footer         early sections of devices, each with a footer
//! section part "ram" (pages) … footer           as many as it takes
//! section end "ram" (the last pages) … footer   sections of devices, each with a footer
//! end of file, description (JSON)
//! ```
//!
//! Numbers are big endian. A section starts with its kind, its number, and (start and full) its name, instance and version.

/// The first number.
#[doc(alias = "QEMU_VM_FILE_MAGIC")]
pub const MAGIC: u32 = 0x5145_564d;
/// The second.
#[doc(alias = "QEMU_VM_FILE_VERSION")]
pub const VERSION: u32 = 3;

/// Nothing but a description follows.
#[doc(alias = "QEMU_VM_EOF")]
pub const EOF: u8 = 0x00;
/// The first part of a section in parts.
#[doc(alias = "QEMU_VM_SECTION_START")]
pub const SECTION_START: u8 = 0x01;
/// Another part.
#[doc(alias = "QEMU_VM_SECTION_PART")]
pub const SECTION_PART: u8 = 0x02;
/// The last one.
#[doc(alias = "QEMU_VM_SECTION_END")]
pub const SECTION_END: u8 = 0x03;
/// A section in one part.
#[doc(alias = "QEMU_VM_SECTION_FULL")]
pub const SECTION_FULL: u8 = 0x04;
/// JSON that describes the sections.
#[doc(alias = "QEMU_VM_VMDESCRIPTION")]
pub const DESCRIPTION: u8 = 0x06;
/// What machine it is.
#[doc(alias = "QEMU_VM_CONFIGURATION")]
pub const CONFIGURATION: u8 = 0x07;
/// A command for the other side.
#[doc(alias = "QEMU_VM_COMMAND")]
pub const COMMAND: u8 = 0x08;
/// The end of a part, with the number of the section.
#[doc(alias = "QEMU_VM_SECTION_FOOTER")]
pub const FOOTER: u8 = 0x7e;

/// Bytes of a page in the stream.
pub const PAGE: u64 = 4096;
/// The section of memory.
pub const RAM: &str = "ram";
/// Its number: the first.
pub const RAM_SECTION: u32 = 1;
/// Its version.
pub const RAM_VERSION: u32 = 4;

/// What stands in the low bits of a page's offset.
pub mod ram {
    /// A page of one byte, repeated.
    #[doc(alias = "RAM_SAVE_FLAG_ZERO")]
    pub const FILLED: u64 = 0x02;
    /// The list of blocks.
    #[doc(alias = "RAM_SAVE_FLAG_MEM_SIZE")]
    pub const BLOCKS: u64 = 0x04;
    /// A page's bytes.
    #[doc(alias = "RAM_SAVE_FLAG_PAGE")]
    pub const PAGE: u64 = 0x08;
    /// The section ends.
    #[doc(alias = "RAM_SAVE_FLAG_EOS")]
    pub const END: u64 = 0x10;
    /// Of the same block as the page before; otherwise the block's name follows.
    #[doc(alias = "RAM_SAVE_FLAG_CONTINUE")]
    pub const CONTINUE: u64 = 0x20;
    /// Everything that other channels were sent before comes before what follows.
    #[doc(alias = "RAM_SAVE_FLAG_MULTIFD_FLUSH")]
    pub const FLUSH: u64 = 0x200;

    /// Bytes of a page of zeroes in the stream.
    pub const ZERO_PAGE: usize = 9;

    /// A page of zeroes in the stream: its offset with flags besides [`FILLED`], and the byte.
    pub fn zero_page(head: u64) -> [u8; ZERO_PAGE] {
        let mut record = [0; ZERO_PAGE];
        record[..8].copy_from_slice(&(head | FILLED).to_be_bytes());
        record
    }
}

mod input;
mod output;
mod splice;

pub use input::{AHEAD, Input};
pub use output::Output;
