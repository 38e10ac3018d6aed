//! Static 64-bit ELF programs with a PVH note: where their segments go and where they start.
//!
//! System V ABI (ELF), Xen `public/elfnote.h`: the note `XEN_ELFNOTE_PHYS32_ENTRY` of owner `Xen`.

use qapi::{Error, Result};

const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
const PHYS32_ENTRY: u32 = 18;
const HEADER: usize = 64;
const PROGRAM_HEADER: usize = 56;

/// One part of the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment<'a> {
    /// Physical address.
    pub address: u64,
    /// What the file has of it.
    pub data: &'a [u8],
    /// Bytes in memory; the rest is zero.
    pub size: u64,
}

/// A program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program<'a> {
    /// Its segments.
    pub segments: Vec<Segment<'a>>,
    /// Where it starts.
    pub entry: u32,
}

impl<'a> Program<'a> {
    /// Reads an image.
    ///
    /// # Errors
    /// It is no such program.
    pub fn parse(image: &'a [u8]) -> Result<Self> {
        if image.get(..6) != Some(&[0x7f, b'E', b'L', b'F', 2, 1]) || image.len() < HEADER {
            return Err(bad("it is no 64-bit little-endian ELF file"));
        }
        let table = long(image, 32)?;
        let count = u64::from(half(image, 56)?);
        let mut program = Self { segments: Vec::new(), entry: 0 };
        let mut entry = None;
        for index in 0..count {
            let at =
                table.checked_add(index * PROGRAM_HEADER as u64).ok_or_else(|| bad("a header is cut off"))?;
            let header = slice(image, at, PROGRAM_HEADER as u64)?;
            let data = slice(image, long(header, 8)?, long(header, 32)?)?;
            match word(header, 0)? {
                PT_LOAD => {
                    let size = long(header, 40)?;
                    if size < data.len() as u64 {
                        return Err(bad("a segment is larger in the file than in memory"));
                    }
                    program.segments.push(Segment { address: long(header, 24)?, data, size });
                }
                PT_NOTE => entry = entry.or(find_entry(data)),
                _ => {}
            }
        }
        program.entry = entry.ok_or_else(|| bad("it has no PVH entry point"))?;
        Ok(program)
    }
}

fn bad(why: &str) -> Error {
    Error::generic(format!("the guest program cannot be loaded: {why}"))
}

fn slice(data: &[u8], at: u64, len: u64) -> Result<&[u8]> {
    let range = usize::try_from(at).ok().zip(usize::try_from(len).ok());
    range
        .and_then(|(at, len)| data.get(at..at.checked_add(len)?))
        .ok_or_else(|| bad("something lies beyond the end of the file"))
}

fn half(data: &[u8], at: u64) -> Result<u16> {
    Ok(slice(data, at, 2)?.iter().rev().fold(0, |v, b| v << 8 | u16::from(*b)))
}

fn word(data: &[u8], at: u64) -> Result<u32> {
    Ok(slice(data, at, 4)?.iter().rev().fold(0, |v, b| v << 8 | u32::from(*b)))
}

fn long(data: &[u8], at: u64) -> Result<u64> {
    Ok(slice(data, at, 8)?.iter().rev().fold(0, |v, b| v << 8 | u64::from(*b)))
}

/// The PVH entry point in a note segment.
fn find_entry(mut notes: &[u8]) -> Option<u32> {
    while notes.len() >= 12 {
        let (name_len, desc_len) = (word(notes, 0).ok()? as usize, word(notes, 4).ok()? as usize);
        let kind = word(notes, 8).ok()?;
        let desc_at = 12usize.checked_add(name_len.checked_next_multiple_of(4)?)?;
        let name = notes.get(12..12usize.checked_add(name_len)?)?;
        let desc = notes.get(desc_at..desc_at.checked_add(desc_len)?)?;
        if kind == PHYS32_ENTRY && name == b"Xen\0" {
            return word(desc, 0).ok();
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
        out[32] = HEADER as u8;
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
        let program = Program::parse(&image).unwrap();
        assert_eq!(program.entry, 0x10_0040);
        assert_eq!(program.segments, [Segment { address: 0x10_0000, data: &[1, 2, 3, 4], size: 0x1000 }]);
    }

    #[test]
    fn damaged_files_are_refused() {
        let good = image(&note(PHYS32_ENTRY, b"Xen\0", &[0; 4]));
        for len in 0..good.len() {
            assert!(Program::parse(&good[..len]).is_err(), "cut to {len}");
        }
        assert!(Program::parse(&image(&note(1, b"Xen\0", &[0; 4]))).is_err());
        for at in 0..good.len() {
            let mut broken = good.clone();
            broken[at] = 0xff;
            let _ = Program::parse(&broken);
        }
    }
}
