//! The identity map beyond what entry.rs assembled: written here in ring 3, a GiB at a time, before the first access.
//!
//! 1 GiB pages if the processor has them, else 2 MiB pages with a table for each GiB. Entries only go from absent to
//! present, so no translation has to be flushed. Up to 2^47 bytes or the processor's physical addresses.
#![expect(unsafe_code, reason = "page tables are memory the processor reads by address")]

use core::ptr::with_exposed_provenance_mut;

const PRESENT_WRITE_USER: u64 = 7;
const LARGE: u64 = 0x80;
const TABLE: u64 = 4096;
const PDPE1GB: u32 = 1 << 26;
/// Room for tables: with 1 GiB pages one for 512 GiB, so 1 MiB is enough for all addresses.
const POOL_1G: u64 = 1 << 20;
/// With 2 MiB pages one for each GiB: more than half a TiB of memory and device addresses.
const POOL_2M: u64 = 4 << 20;

unsafe extern "C" {
    static guest_pml4: [u64; 512];
    static guest_end: u8;
}

/// The page tables.
pub(crate) struct Paging {
    root: u64,
    next: u64,
    end: u64,
    limit: u64,
    huge: bool,
}

impl Paging {
    /// Adopts the assembled tables. `features` is EDX of CPUID 8000_0001h.
    pub(crate) fn new(features: u32, address_bits: u32) -> Self {
        let root = (&raw const guest_pml4).expose_provenance() as u64;
        let start = (&raw const guest_end).expose_provenance() as u64;
        let huge = features & PDPE1GB != 0;
        let end = start + if huge { POOL_1G } else { POOL_2M };
        Self { root, next: start, end, limit: 1 << address_bits.clamp(32, 47), huge }
    }

    /// Where the program's own memory ends.
    pub(crate) fn end(&self) -> u64 {
        self.end
    }

    /// Makes `addr..addr + len` accessible. False if it is not addressable or there is no room for tables.
    pub(crate) fn map(&mut self, addr: u64, len: u64) -> bool {
        let Some(end) = addr.checked_add(len).filter(|end| *end <= self.limit) else { return false };
        // The first GiB is always there; nearly all accesses end here.
        if end <= 1 << 30 {
            return true;
        }
        let mut gib = addr >> 30;
        while gib << 30 < end {
            if !self.map_gib(gib) {
                return false;
            }
            gib += 1;
        }
        true
    }

    fn map_gib(&mut self, gib: u64) -> bool {
        let slot = self.root + 8 * (gib >> 9);
        let mut directory = read(slot);
        if directory == 0 {
            let Some(table) = self.table() else { return false };
            directory = table | PRESENT_WRITE_USER;
            write(slot, directory);
        }
        let slot = (directory & !(TABLE - 1)) + 8 * (gib & 511);
        if read(slot) != 0 {
            return true;
        }
        if self.huge {
            write(slot, gib << 30 | LARGE | PRESENT_WRITE_USER);
            return true;
        }
        let Some(table) = self.table() else { return false };
        for index in 0..512 {
            write(table + 8 * index, gib << 30 | index << 21 | LARGE | PRESENT_WRITE_USER);
        }
        write(slot, table | PRESENT_WRITE_USER);
        true
    }

    /// A zeroed table. The pool is within the first GiB, hence mapped.
    fn table(&mut self) -> Option<u64> {
        let table = self.next;
        if table + TABLE > self.end {
            return None;
        }
        self.next += TABLE;
        for index in 0..512 {
            write(table + 8 * index, 0);
        }
        Some(table)
    }
}

fn read(addr: u64) -> u64 {
    // SAFETY: addresses come from `root` and from tables of the pool, all in the first GiB, identity mapped, and used by
    // nothing but this module and the processor.
    unsafe { with_exposed_provenance_mut::<u64>(addr as usize).read_volatile() }
}

fn write(addr: u64, value: u64) {
    // SAFETY: as in `read`. The entries written map each address to itself, so no existing reference changes its meaning.
    unsafe { with_exposed_provenance_mut::<u64>(addr as usize).write_volatile(value) }
}
