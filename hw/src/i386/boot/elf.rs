//! Static 64-bit ELF programs: where their segments go and where they start.
//!
//! System V ABI (ELF), Xen `public/elfnote.h`: the note `XEN_ELFNOTE_PHYS32_ENTRY` of owner `Xen`.

use qapi::Result;

use super::file::Image;
use super::memory_map::MemoryMap;
use super::ram::Ram;

const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
const PHYS32_ENTRY: u32 = 18;
const MACHINE_X86_64: u16 = 62;
const HEADER: usize = 64;
const PROGRAM_HEADER: usize = 56;
/// Segments of kernels are a handful.
const MAX_HEADERS: u16 = 128;
/// Notes larger than this are not looked through.
const MAX_NOTES: u64 = 64 << 10;

/// One part of the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Segment {
    /// Physical address.
    pub(super) address: u64,
    /// Where it is in the file.
    pub(super) offset: u64,
    /// Bytes there.
    pub(super) filled: u64,
    /// Bytes in memory; the rest is zero.
    pub(super) size: u64,
}

/// A program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Program {
    /// Its segments; at least one.
    pub(super) segments: Vec<Segment>,
    /// Where the header says it starts.
    pub(super) entry: u64,
    /// Where the note says it starts in 32-bit mode.
    pub(super) pvh_entry: Option<u32>,
}

/// Whether an image is an ELF file.
///
/// # Errors
/// It cannot be read.
pub(super) fn is_elf(image: &impl Image) -> Result<bool> {
    let mut magic = [0; 4];
    if image.len() < magic.len() as u64 {
        return Ok(false);
    }
    image.read(0, &mut magic)?;
    Ok(&magic == b"\x7fELF")
}

impl Program {
    /// Reads an image.
    ///
    /// # Errors
    /// It is no such program.
    pub(super) fn parse(image: &impl Image) -> Result<Self> {
        let mut header = [0; HEADER];
        image.read(0, &mut header)?;
        if header[..6] != [0x7f, b'E', b'L', b'F', 2, 1] {
            return Err(image.bad("it is no 64-bit little-endian ELF file"));
        }
        if half(&header, 18) != MACHINE_X86_64 {
            return Err(image.bad("it is for another processor"));
        }
        let (table, size, count) = (long(&header, 32), half(&header, 54), half(&header, 56));
        if usize::from(size) != PROGRAM_HEADER || count > MAX_HEADERS {
            return Err(image.bad("its program headers make no sense"));
        }
        let mut headers = vec![0; PROGRAM_HEADER * usize::from(count)];
        image.read(table, &mut headers)?;
        let mut program = Self { segments: Vec::new(), entry: long(&header, 24), pvh_entry: None };
        for header in headers.chunks_exact(PROGRAM_HEADER) {
            let (offset, filled) = (long(header, 8), long(header, 32));
            match word(header, 0) {
                PT_LOAD => {
                    let (address, size) = (long(header, 24), long(header, 40));
                    if offset.checked_add(filled).is_none_or(|end| end > image.len()) {
                        return Err(image.bad("it is cut off"));
                    }
                    if filled > size || address.checked_add(size).is_none() {
                        return Err(image.bad("a segment makes no sense"));
                    }
                    if size > 0 {
                        program.segments.push(Segment { address, offset, filled, size });
                    }
                }
                PT_NOTE if program.pvh_entry.is_none() && filled <= MAX_NOTES => {
                    let mut notes = vec![0; filled as usize];
                    image.read(offset, &mut notes)?;
                    program.pvh_entry = find_entry(&notes);
                }
                _ => {}
            }
        }
        if program.segments.is_empty() {
            return Err(image.bad("it has nothing to load"));
        }
        Ok(program)
    }

    /// The memory from the lowest segment's start to the highest's end.
    ///
    /// # Errors
    /// A segment, or the entry point, is where no kernel may be.
    pub(super) fn extent(&self, image: &impl Image, map: &MemoryMap) -> Result<(u64, u64)> {
        for segment in &self.segments {
            let (start, size) = (segment.address, segment.size);
            if !map.has_room(start, start + size) {
                return Err(
                    image.bad(&format!("there is no RAM for the {size} bytes it needs at {start:#x}"))
                );
            }
        }
        let start = self.segments.iter().map(|s| s.address).min().unwrap_or_default();
        let end = self.segments.iter().map(|s| s.address + s.size).max().unwrap_or_default();
        let entry = self.pvh_entry.map_or(self.entry, u64::from);
        if !(start..end).contains(&entry) {
            return Err(image.bad(&format!("its entry point {entry:#x} is outside of it")));
        }
        Ok((start, end))
    }

    /// Puts the segments where they belong; after [`Program::extent`] found that they can be.
    ///
    /// # Errors
    /// The file has changed.
    pub(super) fn load(&self, image: &impl Image, ram: &Ram) -> Result<()> {
        for &Segment { address, offset, filled, size } in &self.segments {
            if filled > 0 {
                image.load(offset, filled, ram, address)?;
            }
            ram.clear(address + filled, size - filled)?;
        }
        Ok(())
    }
}

/// Integers of a header, which is long enough.
fn half(data: &[u8], at: usize) -> u16 {
    number(data, at, 2) as u16
}

fn word(data: &[u8], at: usize) -> u32 {
    number(data, at, 4) as u32
}

fn long(data: &[u8], at: usize) -> u64 {
    number(data, at, 8)
}

fn number(data: &[u8], at: usize, size: usize) -> u64 {
    data[at..at + size].iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

/// The PVH entry point in a note segment.
fn find_entry(mut notes: &[u8]) -> Option<u32> {
    while notes.len() >= 12 {
        let (name_len, desc_len, kind) = (word(notes, 0) as usize, word(notes, 4) as usize, word(notes, 8));
        let desc_at = 12usize.checked_add(name_len.checked_next_multiple_of(4)?)?;
        let name = notes.get(12..12usize.checked_add(name_len)?)?;
        let desc = notes.get(desc_at..desc_at.checked_add(desc_len)?)?;
        if kind == PHYS32_ENTRY && name == b"Xen\0" {
            return (desc.len() >= 4).then(|| word(desc, 0));
        }
        notes = notes.get(desc_at.checked_add(desc_len.checked_next_multiple_of(4)?)?..)?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file with one loadable segment and one note.
    fn image(note: &[u8]) -> Vec<u8> {
        let mut out = vec![0; HEADER + 2 * PROGRAM_HEADER];
        out[..6].copy_from_slice(&[0x7f, b'E', b'L', b'F', 2, 1]);
        out[18] = MACHINE_X86_64 as u8;
        out[32] = HEADER as u8;
        out[54] = PROGRAM_HEADER as u8;
        out[56] = 2;
        let mut header = |at: usize, kind: u32, offset: u64, address: u64, file: u64, memory: u64| {
            out[at..at + 4].copy_from_slice(&kind.to_le_bytes());
            for (field, value) in [(8, offset), (24, address), (32, file), (40, memory)] {
                out[at + field..at + field + 8].copy_from_slice(&value.to_le_bytes());
            }
        };
        let end = (HEADER + 2 * PROGRAM_HEADER) as u64;
        header(HEADER, PT_LOAD, end, 0x10_0000, 4, 0x1000);
        header(HEADER + PROGRAM_HEADER, PT_NOTE, end + 4, 0, note.len() as u64, note.len() as u64);
        out.extend([1, 2, 3, 4]);
        out.extend(note);
        out
    }

    fn note(kind: u32, name: &[u8], desc: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        for n in [name.len() as u32, desc.len() as u32, kind] {
            out.extend(n.to_le_bytes());
        }
        out.extend(name);
        out.resize(out.len().next_multiple_of(4), 0);
        out.extend(desc);
        out.resize(out.len().next_multiple_of(4), 0);
        out
    }

    #[test]
    fn segments_and_entry_are_found() {
        let mut notes = note(1, b"GNU\0", &[0; 5]);
        notes.extend(note(PHYS32_ENTRY, b"Xen\0", &0x10_0040u32.to_le_bytes()));
        let image = image(&notes);
        let program = Program::parse(&&*image).unwrap();
        assert_eq!(program.pvh_entry, Some(0x10_0040));
        let offset = (HEADER + 2 * PROGRAM_HEADER) as u64;
        assert_eq!(program.segments, [Segment { address: 0x10_0000, offset, filled: 4, size: 0x1000 }]);
    }

    #[test]
    fn damaged_files_are_refused() {
        let good = image(&note(PHYS32_ENTRY, b"Xen\0", &[0; 4]));
        for len in 0..good.len() {
            assert!(Program::parse(&&good[..len]).is_err(), "cut to {len}");
        }
        assert_eq!(Program::parse(&&*image(&note(1, b"Xen\0", &[0; 4]))).unwrap().pvh_entry, None);
        assert_eq!(Program::parse(&&*image(&note(PHYS32_ENTRY, b"Xen\0", &[0; 3]))).unwrap().pvh_entry, None);
        for at in 0..good.len() {
            let mut broken = good.clone();
            broken[at] = 0xff;
            let _ = Program::parse(&&*broken);
        }
    }
}
