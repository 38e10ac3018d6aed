//! A core file as a debugger reads it: segments of memory and notes (System V ABI, chapters 4 and 5). 64-bit files only. Memory stays
//! in the file, which is as large as the guest's.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

/// A segment of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// First linear address.
    pub linear: u64,
    /// First physical address.
    pub physical: u64,
    /// Place in the file.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
}

/// A note.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// Who defines it.
    pub name: String,
    /// Its type.
    pub kind: u64,
    /// Its contents.
    pub contents: Vec<u8>,
}

/// A core file.
#[derive(Debug)]
pub struct CoreFile {
    file: File,
    /// Segments of memory in the file's order.
    pub segments: Vec<Segment>,
    /// Notes in the file's order.
    pub notes: Vec<Note>,
}

impl CoreFile {
    /// Opens a file and takes it apart.
    ///
    /// # Panics
    ///
    /// If it is no core file of a 64-bit machine.
    pub fn open(path: &Path) -> Self {
        let file = File::open(path).expect("the file is there");
        let size = file.metadata().expect("it is a file").len();
        let read = |offset: u64, len: u64| {
            let mut bytes = vec![0; len as usize];
            file.read_exact_at(&mut bytes, offset).expect("the file is whole");
            bytes
        };
        let header = read(0, 64);
        assert_eq!(header[..6], *b"\x7fELF\x02\x01", "a 64-bit little-endian file");
        assert_eq!(number(&header, 16, 2), 4, "a core file");
        assert_eq!(number(&header, 18, 2), 62, "of x86-64");
        let (mut segments, mut found) = (Vec::new(), Vec::new());
        for index in 0..number(&header, 56, 2) {
            let segment = read(number(&header, 32, 8) + 56 * index, 56);
            let [offset, linear, physical, len, in_memory] =
                [8, 16, 24, 32, 40].map(|field| number(&segment, field, 8));
            match number(&segment, 0, 4) {
                1 => {
                    assert_eq!(len, in_memory, "nothing is left out");
                    assert!(offset + len <= size, "the file is whole");
                    segments.push(Segment { linear, physical, offset, len });
                }
                4 => found = notes(&read(offset, len)),
                other => panic!("segment of type {other}"),
            }
        }
        Self { file, segments, notes: found }
    }

    /// `len` bytes at a physical address; `None` if they are not in one segment.
    pub fn physical(&self, addr: u64, len: usize) -> Option<Vec<u8>> {
        self.find(addr, len, |segment| segment.physical)
    }

    /// `len` bytes at a linear address; `None` if they are not in one segment.
    pub fn linear(&self, addr: u64, len: usize) -> Option<Vec<u8>> {
        self.find(addr, len, |segment| segment.linear)
    }

    fn find(&self, addr: u64, len: usize, start: impl Fn(&Segment) -> u64) -> Option<Vec<u8>> {
        let inside = |s: &&Segment| start(s) <= addr && addr - start(s) + len as u64 <= s.len;
        let segment = self.segments.iter().find(inside)?;
        let mut bytes = vec![0; len];
        self.file.read_exact_at(&mut bytes, segment.offset + (addr - start(segment))).ok()?;
        Some(bytes)
    }
}

fn number(bytes: &[u8], at: usize, size: usize) -> u64 {
    let mut le = [0; 8];
    le[..size].copy_from_slice(&bytes[at..at + size]);
    u64::from_le_bytes(le)
}

fn notes(mut bytes: &[u8]) -> Vec<Note> {
    let mut notes = Vec::new();
    while !bytes.is_empty() {
        let [name, contents, kind] = [0, 4, 8].map(|at| number(bytes, at, 4));
        let from = 12 + (name as usize).next_multiple_of(4);
        let name = String::from_utf8_lossy(&bytes[12..12 + name as usize - 1]).into_owned();
        let end = from + contents as usize;
        notes.push(Note { name, kind, contents: bytes[from..end].to_vec() });
        bytes = &bytes[end.next_multiple_of(4)..];
    }
    notes
}
