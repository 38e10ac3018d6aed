//! Claims about translation: against tables that the test builds from a list of pages, and against garbage.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

const CR0_ON: u64 = 1 << 31 | 1;
const LONG: u64 = 1 << 10;
const GENEROUS: Limits = Limits { tables: 4096, mappings: 4096 };

fn registers(cr0: u64, cr3: u64, cr4: u64, efer: u64) -> Registers {
    Registers { cr0, cr3, cr4, efer, ..Registers::default() }
}

/// The kinds of paging, with a root at 1000h.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Legacy,
    Pse,
    Pae,
    Four,
    Five,
}

const KINDS: [Kind; 5] = [Kind::Legacy, Kind::Pse, Kind::Pae, Kind::Four, Kind::Five];

impl Kind {
    fn paging(self) -> Paging {
        let (cr4, efer) = match self {
            Self::Legacy => (0, 0),
            Self::Pse => (CR4_PSE, 0),
            Self::Pae => (CR4_PAE | CR4_PSE, 0),
            Self::Four => (CR4_PAE, LONG),
            Self::Five => (CR4_PAE | CR4_LA57, LONG),
        };
        Paging::of(&registers(CR0_ON, 0x1000, cr4, efer))
    }

    /// Sizes of pages as shifts.
    fn sizes(self) -> &'static [u32] {
        match self {
            Self::Legacy => &[12],
            Self::Pse => &[12, 22],
            Self::Pae => &[12, 21],
            Self::Four | Self::Five => &[12, 21, 30],
        }
    }

    fn linear_bits(self) -> u32 {
        match self {
            Self::Four => 48,
            Self::Five => 57,
            _ => 32,
        }
    }
}

/// Memory that holds tables only.
struct Tables {
    kind: Kind,
    pages: HashMap<u64, [u8; TABLE]>,
    next: u64,
}

impl Tables {
    fn new(kind: Kind) -> Self {
        Self { kind, pages: HashMap::from([(0x1000, [0; TABLE])]), next: 0x2000 }
    }

    fn read(&self, addr: u64, buf: &mut [u8]) -> bool {
        let Some(page) = self.pages.get(&(addr & !0xfff)) else { return false };
        let at = (addr & 0xfff) as usize;
        buf.copy_from_slice(&page[at..at + buf.len()]);
        true
    }

    fn slot(&mut self, addr: u64, width: usize) -> &mut [u8] {
        let at = (addr & 0xfff) as usize;
        &mut self.pages.get_mut(&(addr & !0xfff)).unwrap()[at..at + width]
    }

    /// Maps a page; false if something is there already.
    fn map(&mut self, linear: u64, physical: u64, shift: u32) -> bool {
        let paging = self.kind.paging();
        let width = usize::from(paging.width);
        let mut table = paging.root;
        for level in paging.levels {
            let index = linear >> level.shift & ((1 << level.bits) - 1);
            let addr = table + index * width as u64;
            let mut entry = [0; 8];
            entry[..width].copy_from_slice(self.slot(addr, width));
            let entry = u64::from_le_bytes(entry);
            if level.shift == shift {
                if entry != 0 {
                    return false;
                }
                let large = if shift == 12 { 0 } else { LARGE };
                let address =
                    if width == 4 { physical & 0xffff_ffff | physical >> 32 << 13 } else { physical };
                // Bits that say nothing to a debugger: writable, user, accessed, no execution.
                let noise = if width == 4 { 0x26 } else { 0x26 | 1 << 63 };
                let new = (address | PRESENT | large | noise).to_le_bytes();
                self.slot(addr, width).copy_from_slice(&new[..width]);
                return true;
            }
            table = match entry {
                0 => {
                    let next = self.next;
                    self.next += 0x1000;
                    self.pages.insert(next, [0; TABLE]);
                    self.slot(addr, width).copy_from_slice(&(next | 7).to_le_bytes()[..width]);
                    next
                }
                e if e & LARGE != 0 && level.large => return false,
                e => e & ADDRESS,
            };
        }
        unreachable!("the last level has pages of 4 KiB")
    }

    fn translate(&self, linear: u64) -> Option<Translation> {
        self.kind.paging().translate(linear, &mut |addr, buf| self.read(addr, buf))
    }

    fn mappings(&self, limits: Limits) -> Result<Vec<Mapping>, TooLarge> {
        mappings(&[self.kind.paging()], limits, &mut |addr, buf| self.read(addr, buf))
    }
}

/// A page before it is cut to what its kind of paging can have: few numbers, so that neighbours and collisions are common.
fn page() -> impl Strategy<Value = (u64, u64, usize)> {
    let number = || prop_oneof![0u64..6, any::<u64>()];
    (number(), number(), 0usize..3)
}

fn cut(kind: Kind, (linear, physical, size): (u64, u64, usize)) -> (u64, u64, u32) {
    let shift = kind.sizes()[size % kind.sizes().len()];
    let top = if physical & 1 == 0 { 36 } else { 44 };
    let physical_bits = match kind {
        Kind::Legacy => 32,
        // PSE-36 has 40 bits, for large pages only.
        Kind::Pse if shift == 12 => 32,
        Kind::Pse => 40,
        _ => top,
    };
    let linear = linear << shift & ((1 << kind.linear_bits()) - 1);
    (kind.paging().extend(linear), physical << shift & ((1 << physical_bits) - 1), shift)
}

proptest! {
    #[test]
    fn every_page_of_the_tables_is_found_and_nothing_else(
        kind in prop::sample::select(&KINDS),
        pages in prop::collection::vec(page(), 0..12),
        offsets in prop::collection::vec(any::<u64>(), 12),
    ) {
        let mut tables = Tables::new(kind);
        let mut mapped = Vec::new();
        for page in pages {
            let (linear, physical, shift) = cut(kind, page);
            if tables.map(linear, physical, shift) {
                mapped.push((linear, physical, shift));
            }
        }
        for ((linear, physical, shift), offset) in mapped.iter().zip(offsets) {
            let offset = offset & ((1 << shift) - 1);
            let expected = Translation { physical: physical + offset, left: (1 << shift) - offset };
            prop_assert_eq!(tables.translate(linear + offset), Some(expected));
            // Behind the page is what another page says, if any.
            let behind = (linear + (1u64 << shift)) & if kind.linear_bits() == 32 { 0xffff_ffff } else { u64::MAX };
            if !mapped.iter().any(|(at, _, s)| behind.wrapping_sub(*at) < 1 << s) {
                prop_assert_eq!(tables.translate(behind), None);
            }
        }
        let found = tables.mappings(GENEROUS).unwrap();
        prop_assert!(found.windows(2).all(|w| w[0] < w[1]));
        let bytes = |list: &mut dyn Iterator<Item = u64>| list.map(u128::from).sum::<u128>();
        prop_assert_eq!(bytes(&mut found.iter().map(|m| m.len)), bytes(&mut mapped.iter().map(|m| 1u64 << m.2)));
        for (linear, physical, shift) in mapped {
            let holds = |m: &Mapping| {
                m.linear.wrapping_sub(m.physical) == linear.wrapping_sub(physical)
                    && m.physical <= physical
                    && physical + (1 << shift) <= m.physical + m.len
            };
            prop_assert_eq!(found.iter().filter(|m| holds(m)).count(), 1);
        }
    }

    #[test]
    fn garbage_for_tables_ends_within_the_limits_and_agrees_with_single_translations(
        kind in prop::sample::select(&KINDS),
        seed in prop::collection::vec(any::<u64>(), 64),
        density in 1u64..64,
    ) {
        // Sixteen pages of entries that point at one another, present or not.
        let read = |addr: u64, buf: &mut [u8]| {
            if addr >= 0x1_0000 {
                return false;
            }
            // Byte by byte: entries of four bytes are read one by one, too.
            for (at, byte) in (addr..).zip(buf) {
                let entry = seed[(at / 8 % 64) as usize].rotate_left((at / 512 % 64) as u32);
                let entry = if entry % 64 < density { entry & 0xf0ff | PRESENT } else { entry & !PRESENT };
                *byte = entry.to_le_bytes()[(at % 8) as usize];
            }
            true
        };
        let mut reads = 0;
        let limits = Limits { tables: 200, mappings: 300 };
        let found = mappings(&[kind.paging()], limits, &mut |addr, buf| {
            reads += 1;
            read(addr, buf)
        });
        prop_assert!(reads <= limits.tables);
        let Ok(found) = found else { return Ok(()) };
        prop_assert!(found.len() <= limits.mappings);
        for mapping in found {
            for offset in [0, mapping.len / 2, mapping.len - 1] {
                let one = kind.paging().translate(mapping.linear + offset, &mut |addr, buf| read(addr, buf));
                prop_assert_eq!(one.map(|t| t.physical), Some(mapping.physical + offset));
            }
        }
    }
}

#[test]
fn without_paging_an_address_is_physical() {
    let off = Paging::of(&Registers::at_reset());
    assert_eq!(off, Paging::OFF);
    let nowhere = &mut |_: u64, _: &mut [u8]| panic!("no tables");
    let translation = Translation { physical: 0x1_2345_6789, left: 0x877 };
    assert_eq!(off.translate(0x1_2345_6789, nowhere), Some(translation));
    assert_eq!(mappings(&[off], GENEROUS, nowhere), Ok(Vec::new()));
}

#[test]
fn addresses_that_are_not_canonical_are_mapped_nowhere() {
    let mut tables = Tables::new(Kind::Four);
    assert!(tables.map(0xffff_8000_0000_0000, 0x5000, 12));
    assert_eq!(tables.translate(0xffff_8000_0000_0123).map(|t| t.physical), Some(0x5123));
    assert_eq!(tables.translate(0x0000_8000_0000_0123), None);
    // The mapping has the address that a program would use.
    let mapping = Mapping { physical: 0x5000, linear: 0xffff_8000_0000_0000, len: 0x1000 };
    assert_eq!(tables.mappings(GENEROUS), Ok(vec![mapping]));
}

#[test]
fn tables_that_point_at_themselves_are_too_large() {
    let mut tables = Tables::new(Kind::Five);
    for index in 0..512 {
        tables.slot(0x1000 + 8 * index, 8).copy_from_slice(&(0x1000 | 7u64).to_le_bytes());
    }
    let limits = Limits { tables: 10_000, mappings: 1_000_000 };
    assert_eq!(tables.mappings(limits), Err(TooLarge));
    let few = Limits { tables: 1_000_000, mappings: 10_000 };
    assert_eq!(tables.mappings(few), Err(TooLarge));
}

#[test]
fn what_two_vcpus_share_is_read_and_listed_once() {
    let mut tables = Tables::new(Kind::Four);
    let (kernel, user) = (0xffff_ffff_8000_0000, 0x40_0000);
    assert!(tables.map(kernel, 0x100_0000, 21));
    assert!(tables.map(user, 0x20_0000, 12));
    // The other process: the kernel's half is the same tables.
    let other = tables.next;
    let shared = tables.pages[&0x1000];
    tables.pages.insert(other, [0; TABLE]);
    tables.slot(other, TABLE)[TABLE / 2..].copy_from_slice(&shared[TABLE / 2..]);
    let one = Kind::Four.paging();
    let two = Paging { root: other, ..one };
    let mut reads = 0;
    let found = mappings(&[one, two, one], GENEROUS, &mut |addr, buf| {
        reads += 1;
        tables.read(addr, buf)
    });
    let expected = [
        Mapping { physical: 0x20_0000, linear: user, len: 0x1000 },
        Mapping { physical: 0x100_0000, linear: kernel, len: 0x20_0000 },
    ];
    assert_eq!(found, Ok(expected.to_vec()));
    // Two roots, three tables of the first process (one level is shared by both pages only at the root), two of the kernel.
    assert_eq!(reads, 2 + 3 + 2);
}

#[test]
fn the_end_of_the_address_space_does_not_join_its_start() {
    let mut tables = Tables::new(Kind::Four);
    assert!(tables.map(0xffff_ffff_ffff_f000, 0x5000, 12));
    assert!(tables.map(0, 0x6000, 12));
    let expected = [
        Mapping { physical: 0x5000, linear: 0xffff_ffff_ffff_f000, len: 0x1000 },
        Mapping { physical: 0x6000, linear: 0, len: 0x1000 },
    ];
    assert_eq!(tables.mappings(GENEROUS), Ok(expected.to_vec()));
}
