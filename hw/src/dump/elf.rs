//! Layout of the core file: header, two section headers, program headers, notes, memory, names of sections.
//!
//! The sections are there because the first one's header holds the number of segments where 16 bits do not (System V ABI,
//! `PN_XNUM`). Memory begins at a page of the file, so that pages of the guest are pages of the file.

use super::plan::Load;

const ET_CORE: u16 = 4;
const EM_386: u16 = 3;
const EM_X86_64: u16 = 62;
const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
const SHT_STRTAB: u32 = 3;
const PN_XNUM: u16 = 0xffff;
/// Names of the sections; the second one's is at 1.
pub(super) const NAMES: &[u8] = b"\0.shstrtab\0";
/// What memory begins at a multiple of.
const PAGE: u64 = 4096;

/// Sizes and places in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Layout {
    /// Whether fields are 64 bits wide.
    wide: bool,
    machine: u16,
    /// All segments, that of notes included.
    segments: u64,
    notes: u64,
    /// Bytes of memory.
    memory: u64,
}

impl Layout {
    /// A file of `loads` segments of memory, `memory` bytes in all, and of `notes` bytes of notes; wide if it has to be.
    pub(super) fn new(long_mode: bool, large: bool, loads: usize, notes: u64, memory: u64) -> Self {
        let machine = if long_mode { EM_X86_64 } else { EM_386 };
        // Tools complain of a segment for no notes.
        let segments = loads as u64 + u64::from(notes > 0);
        let narrow = Self { wide: false, machine, segments, notes, memory };
        let wide = long_mode || large || narrow.names() > u64::from(u32::MAX);
        Self { wide, ..narrow }
    }

    /// One of two sizes.
    fn either(&self, narrow: u64, wide: u64) -> u64 {
        if self.wide { wide } else { narrow }
    }

    fn section_headers(&self) -> u64 {
        self.either(52, 64)
    }

    fn program_headers(&self) -> u64 {
        self.section_headers() + 2 * self.either(40, 64)
    }

    fn notes_start(&self) -> u64 {
        self.program_headers() + self.segments * self.either(32, 56)
    }

    /// Bytes between notes and memory.
    pub(super) fn padding(&self) -> u64 {
        self.memory_start() - (self.notes_start() + self.notes)
    }

    fn memory_start(&self) -> u64 {
        (self.notes_start() + self.notes).next_multiple_of(PAGE)
    }

    fn names(&self) -> u64 {
        self.memory_start() + self.memory
    }

    fn put(&self, out: &mut Vec<u8>, value: u64) {
        // What does not fit is an address of a guest that 32 bits address.
        if self.wide { out.extend(value.to_le_bytes()) } else { out.extend((value as u32).to_le_bytes()) }
    }

    /// The header of the file.
    pub(super) fn header(&self) -> Vec<u8> {
        let class = if self.wide { 2 } else { 1 };
        let mut out = vec![0x7f, b'E', b'L', b'F', class, 1, 1];
        out.resize(16, 0);
        out.extend(ET_CORE.to_le_bytes());
        out.extend(self.machine.to_le_bytes());
        out.extend(1u32.to_le_bytes());
        // No entry.
        for value in [0, self.program_headers(), self.section_headers()] {
            self.put(&mut out, value);
        }
        out.extend(0u32.to_le_bytes());
        let segments = u16::try_from(self.segments).unwrap_or(PN_XNUM);
        let sizes = [self.section_headers(), self.either(32, 56)].map(|size| size as u16);
        let sections = [self.either(40, 64) as u16, 2, 1];
        for value in sizes.into_iter().chain([segments]).chain(sections) {
            out.extend(value.to_le_bytes());
        }
        out
    }

    /// The headers of both sections.
    pub(super) fn sections(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let count = if self.segments < u64::from(PN_XNUM) { 0 } else { self.segments as u32 };
        self.section(&mut out, [0, 0], [0, 0], count);
        self.section(&mut out, [1, SHT_STRTAB], [self.names(), NAMES.len() as u64], 0);
        out
    }

    fn section(&self, out: &mut Vec<u8>, name_and_kind: [u32; 2], place: [u64; 2], info: u32) {
        name_and_kind.into_iter().for_each(|value| out.extend(value.to_le_bytes()));
        // Flags and address come before offset and size.
        [0, 0].into_iter().chain(place).for_each(|value| self.put(out, value));
        [0, info].into_iter().for_each(|value: u32| out.extend(value.to_le_bytes()));
        // Alignment, size of an entry.
        [0, 0].into_iter().for_each(|value| self.put(out, value));
    }

    /// The segment of the notes, if there are some.
    pub(super) fn note_segment(&self, out: &mut Vec<u8>) {
        if self.notes == 0 {
            return;
        }
        self.segment(out, PT_NOTE, self.notes_start(), [0, 0], self.notes);
    }

    /// A segment of memory.
    pub(super) fn load_segment(&self, out: &mut Vec<u8>, load: &Load) {
        let offset = self.memory_start() + load.position;
        self.segment(out, PT_LOAD, offset, [load.linear, load.physical], load.len);
    }

    fn segment(&self, out: &mut Vec<u8>, kind: u32, offset: u64, addresses: [u64; 2], len: u64) {
        let [linear, physical] = addresses;
        let flags_and_align = 0u32;
        out.extend(kind.to_le_bytes());
        // Flags are the second field of wide ones and the last but one of narrow ones.
        if self.wide {
            out.extend(flags_and_align.to_le_bytes());
        }
        for value in [offset, linear, physical, len, len] {
            self.put(out, value);
        }
        if !self.wide {
            out.extend(flags_and_align.to_le_bytes());
        }
        self.put(out, 0);
    }
}

#[cfg(test)]
mod tests;
