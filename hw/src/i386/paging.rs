//! From linear to physical addresses in software, as a debugger does it: which page a guest's tables lead to, and all that they
//! map.
//!
//! Intel SDM volume 3, chapter 5: 32-bit paging with 4 MiB pages and PSE-36, PAE paging, 4-level and 5-level paging. Only the
//! present and page-size bits count: permissions, reserved bits and protection keys do not keep a debugger out. The tables are the guest's
//! and may be anything; a walk of all of them ends after a given number of tables and of mappings.
//!
//! Left out: segmentation (addresses are linear), EPT, the A20 line, memory encryption bits.

use std::collections::HashSet;
use std::ops::ControlFlow;

use accel::Registers;

const CR0_PG: u64 = 1 << 31;
const CR4_PSE: u64 = 1 << 4;
const CR4_PAE: u64 = 1 << 5;
const CR4_LA57: u64 = 1 << 12;
const PRESENT: u64 = 1;
const LARGE: u64 = 1 << 7;
/// Where entries of 8 bytes have a physical address.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
/// Bytes of a full table, whatever the mode.
const TABLE: usize = 4096;

/// One level of tables.
#[derive(Debug, PartialEq, Eq)]
struct Level {
    /// The linear address bit that the index starts at; an entry maps `1 << shift` bytes.
    shift: u32,
    /// Bits of the index.
    bits: u32,
    /// Whether an entry may map a page although there are levels below.
    large: bool,
}

const fn level(shift: u32, bits: u32, large: bool) -> Level {
    Level { shift, bits, large }
}

const FIVE: [Level; 5] =
    [level(48, 9, false), level(39, 9, false), level(30, 9, true), level(21, 9, true), level(12, 9, false)];
const PAE: [Level; 3] = [level(30, 2, false), level(21, 9, true), level(12, 9, false)];
const LEGACY: [Level; 2] = [level(22, 10, false), level(12, 10, false)];
const LEGACY_PSE: [Level; 2] = [level(22, 10, true), level(12, 10, false)];

/// How a vCPU translates addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Paging {
    /// From the root down; empty without paging.
    levels: &'static [Level],
    /// Physical address of the root table.
    root: u64,
    /// Bytes of an entry.
    width: u8,
    /// Linear addresses have so many bits, and the last one goes on; 0 where upper bits are ignored.
    canonical: u32,
}

/// A linear address that is mapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Translation {
    /// Physical address.
    pub physical: u64,
    /// Bytes from there to the end of the page, at least 1.
    pub left: u64,
}

/// Linear addresses that are physical ones plus a constant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mapping {
    /// First physical address.
    pub physical: u64,
    /// First linear address.
    pub linear: u64,
    /// Bytes; never 0.
    pub len: u64,
}

/// What tables may cost that a guest made.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Tables that are read.
    pub tables: usize,
    /// Mappings that are found, adjacent ones counted as one.
    pub mappings: usize,
}

/// The tables are larger than the [`Limits`], as those of a guest that has them point at themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooLarge;

/// Reads physical memory; false where there is none.
pub type ReadPhysical<'a> = dyn FnMut(u64, &mut [u8]) -> bool + 'a;

impl Paging {
    /// Addresses are physical.
    pub const OFF: Self = Self { levels: &[], root: 0, width: 8, canonical: 0 };

    /// What the control registers say.
    #[must_use]
    pub fn of(registers: &Registers) -> Self {
        let Registers { cr0, cr3, cr4, .. } = *registers;
        if cr0 & CR0_PG == 0 {
            Self::OFF
        } else if registers.is_long_mode() && cr4 & CR4_LA57 != 0 {
            Self { levels: &FIVE, root: cr3 & ADDRESS, width: 8, canonical: 57 }
        } else if registers.is_long_mode() {
            Self { levels: &FIVE[1..], root: cr3 & ADDRESS, width: 8, canonical: 48 }
        } else if cr4 & CR4_PAE != 0 {
            Self { levels: &PAE, root: cr3 & 0xffff_ffe0, width: 8, canonical: 0 }
        } else {
            let levels = if cr4 & CR4_PSE == 0 { &LEGACY } else { &LEGACY_PSE };
            Self { levels, root: cr3 & 0xffff_f000, width: 4, canonical: 0 }
        }
    }

    /// Whether there are tables.
    #[must_use]
    pub fn is_on(&self) -> bool {
        !self.levels.is_empty()
    }

    /// Where `linear` leads to; `None` if it is not mapped.
    #[doc(alias = "cpu_get_phys_page_attrs_debug")]
    pub fn translate(&self, linear: u64, read: &mut ReadPhysical<'_>) -> Option<Translation> {
        if !self.is_on() {
            return Some(Translation { physical: linear, left: 0x1000 - (linear & 0xfff) });
        }
        if self.canonical != 0 && self.extend(linear) != linear {
            return None;
        }
        let mut table = self.root;
        for level in self.levels {
            let index = linear >> level.shift & ((1 << level.bits) - 1);
            let mut bytes = [0; 8];
            if !read(table.checked_add(index * u64::from(self.width))?, &mut bytes[..self.width.into()]) {
                return None;
            }
            match self.entry(level, u64::from_le_bytes(bytes))? {
                Entry::Table(next) => table = next,
                Entry::Page(page) => {
                    let offset = linear & ((1 << level.shift) - 1);
                    return Some(Translation { physical: page + offset, left: (1 << level.shift) - offset });
                }
            }
        }
        None
    }

    /// Shows `visit` every page that the tables map, by ascending linear address, until it breaks off.
    ///
    /// # Errors
    /// [`TooLarge`]: there are more than `tables` tables, or it broke off.
    pub fn visit(
        &self,
        tables: usize,
        read: &mut ReadPhysical<'_>,
        visit: &mut dyn FnMut(Page) -> ControlFlow<()>,
    ) -> Result<(), TooLarge> {
        Visit { paging: self, left: tables, read, visit }.table(self.levels, self.root, 0, u64::MAX)
    }

    /// A linear address as [`Self::visit`] has it, or the end of one, as people write it: with the upper bits that it takes.
    #[must_use]
    pub fn canonical(&self, linear: u64) -> u64 {
        let negative = self.canonical != 0 && linear >> (self.canonical - 1) & 1 != 0;
        if negative { linear | u64::MAX << self.canonical } else { linear }
    }

    /// Sign-extends a linear address.
    fn extend(&self, linear: u64) -> u64 {
        if self.canonical == 0 {
            return linear;
        }
        let unused = 64 - self.canonical;
        ((linear << unused).cast_signed() >> unused).cast_unsigned()
    }

    /// What an entry says; `None` if it is not present.
    fn entry(&self, level: &Level, entry: u64) -> Option<Entry> {
        if entry & PRESENT == 0 {
            return None;
        }
        let last = level.shift == 12;
        let page = last || level.large && entry & LARGE != 0;
        let address = match self.width {
            4 if page && !last => entry & 0xffc0_0000 | (entry & 0x001f_e000) << 19,
            4 => entry & 0xffff_f000,
            _ if page => entry & ADDRESS & !((1 << level.shift) - 1),
            _ => entry & ADDRESS,
        };
        Some(if page { Entry::Page(address) } else { Entry::Table(address) })
    }
}

/// A page that a table maps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Page {
    /// Linear address, not sign-extended.
    pub linear: u64,
    /// Its size is two to this power.
    pub shift: u32,
    /// The entry that maps it.
    pub entry: u64,
    /// The bits that all entries on the way have.
    pub common: u64,
    /// Whether the entry is one of 4 bytes.
    pub legacy: bool,
}

struct Visit<'a, 'b> {
    paging: &'a Paging,
    /// Tables that may still be read.
    left: usize,
    read: &'a mut ReadPhysical<'b>,
    visit: &'a mut dyn FnMut(Page) -> ControlFlow<()>,
}

impl Visit<'_, '_> {
    /// As [`Walk::tables`], but of tables that are used twice it says so twice.
    fn table(&mut self, levels: &[Level], table: u64, linear: u64, common: u64) -> Result<(), TooLarge> {
        let Some((level, below)) = levels.split_first() else { return Ok(()) };
        self.left = self.left.checked_sub(1).ok_or(TooLarge)?;
        let width = usize::from(self.paging.width);
        let mut bytes = [0; TABLE];
        let bytes = &mut bytes[..width << level.bits];
        if !(self.read)(table, bytes) {
            return Ok(());
        }
        for (index, raw) in (0u64..).zip(bytes.chunks_exact(width)) {
            let mut entry = [0; 8];
            entry[..width].copy_from_slice(raw);
            let entry = u64::from_le_bytes(entry);
            let linear = linear | index << level.shift;
            match self.paging.entry(level, entry) {
                None => {}
                Some(Entry::Table(next)) => {
                    // The four entries at the root of PAE paging have no rights.
                    let rights = if level.bits == 2 { u64::MAX } else { entry };
                    self.table(below, next, linear, common & rights)?;
                }
                Some(Entry::Page(_)) => {
                    let page = Page {
                        linear,
                        shift: level.shift,
                        entry,
                        common: common & entry,
                        legacy: width == 4,
                    };
                    if (self.visit)(page).is_break() {
                        return Err(TooLarge);
                    }
                }
            }
        }
        Ok(())
    }
}

enum Entry {
    Table(u64),
    Page(u64),
}

/// Everything that several vCPUs' tables map, by ascending physical and then linear address; what two of them map alike is there once.
///
/// # Errors
/// [`TooLarge`].
#[doc(alias = "cpu_get_memory_mapping")]
pub fn mappings(
    spaces: &[Paging],
    limits: Limits,
    read: &mut ReadPhysical<'_>,
) -> Result<Vec<Mapping>, TooLarge> {
    let mut walk = Walk { read, limits, seen: HashSet::new(), found: Vec::new() };
    for space in spaces {
        walk.tables(space, space.levels, space.root, 0)?;
    }
    Ok(merge(walk.found))
}

struct Walk<'a, 'b> {
    read: &'a mut ReadPhysical<'b>,
    limits: Limits,
    /// Tables that were looked at, by physical address, level and linear address: kernels share theirs between processes.
    seen: HashSet<(u64, u32, u64)>,
    found: Vec<Mapping>,
}

impl Walk<'_, '_> {
    /// `levels` is what is left from the table's own level down, so recursion is five deep at most.
    fn tables(&mut self, space: &Paging, levels: &[Level], table: u64, linear: u64) -> Result<(), TooLarge> {
        let Some((level, below)) = levels.split_first() else { return Ok(()) };
        // A root of another kind of paging may be the same address.
        let kind = level.shift | u32::from(space.width) << 8 | u32::from(level.large) << 16;
        if !self.seen.insert((table, kind, linear)) {
            return Ok(());
        }
        if self.seen.len() > self.limits.tables {
            return Err(TooLarge);
        }
        let mut bytes = [0; TABLE];
        let bytes = &mut bytes[..usize::from(space.width) << level.bits];
        if !(self.read)(table, bytes) {
            return Ok(());
        }
        for (index, raw) in (0u64..).zip(bytes.chunks_exact(space.width.into())) {
            let mut entry = [0; 8];
            entry[..raw.len()].copy_from_slice(raw);
            let linear = linear | index << level.shift;
            match space.entry(level, u64::from_le_bytes(entry)) {
                None => {}
                Some(Entry::Table(next)) => self.tables(space, below, next, linear)?,
                Some(Entry::Page(physical)) => {
                    self.page(Mapping { physical, linear: space.extend(linear), len: 1 << level.shift })?;
                }
            }
        }
        Ok(())
    }

    fn page(&mut self, page: Mapping) -> Result<(), TooLarge> {
        if let Some(last) = self.found.last_mut()
            && last.physical + last.len == page.physical
            && last.linear.checked_add(last.len) == Some(page.linear)
        {
            last.len += page.len;
            return Ok(());
        }
        if self.found.len() == self.limits.mappings {
            return Err(TooLarge);
        }
        self.found.push(page);
        Ok(())
    }
}

/// Joins what is adjacent or the same, and sorts.
fn merge(mut found: Vec<Mapping>) -> Vec<Mapping> {
    let distance = |m: &Mapping| m.linear.wrapping_sub(m.physical);
    found.sort_unstable_by_key(|m| (distance(m), m.physical));
    found.dedup_by(|next, last| {
        // The end of the address space starts nothing new: linear addresses end there, physical ones long before.
        let joins = distance(last) == distance(next)
            && next.physical <= last.physical + last.len
            && last.linear <= next.linear;
        if joins {
            last.len = last.len.max(next.physical - last.physical + next.len);
        }
        joins
    });
    found.sort_unstable();
    found
}

#[cfg(test)]
mod tests;
