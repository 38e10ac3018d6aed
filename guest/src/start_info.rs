//! What the board tells the guest: the PVH boot protocol's `hvm_start_info`, version 1
//! (Xen `public/arch-x86/hvm/start_info.h`): memory map, command line, ACPI root pointer. Modules are ignored.

use crate::arena::Arena;
use crate::bus::Bus;

/// `hvm_start_info.magic`, "xEn3" with the top bit of the E set.
pub const MAGIC: u32 = 0x336e_c578;
/// Memory map type of usable RAM; all others are left alone.
pub const MEMMAP_RAM: u32 = 1;

const MAX_RANGES: usize = 32;
const MAX_CMDLINE: usize = 1024;
/// Addresses below are left to firmware, legacy devices and the start information itself.
const LOW_MEMORY: u64 = 1 << 20;
const ARENA_LEAST: u64 = 32 << 20;

/// One range of the memory map.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryRange {
    /// First guest-physical address.
    pub addr: u64,
    /// Bytes.
    pub size: u64,
    /// E820 type, 1 is RAM.
    pub kind: u32,
}

/// The start information, copied out of guest memory (so that its memory may be reused).
#[derive(Clone, Debug)]
pub struct StartInfo {
    ranges: [MemoryRange; MAX_RANGES],
    count: usize,
    cmdline: [u8; MAX_CMDLINE],
    cmdline_len: usize,
    rsdp: u64,
    in_use_below: u64,
}

/// Why the start information cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartInfoError {
    /// The first word is not [`MAGIC`] but this.
    Magic(u32),
    /// Version 0 has no memory map.
    Version(u32),
}

impl StartInfo {
    /// Start information built by hand, for hosted use and tests. Ranges after the 32nd and command line bytes after
    /// the 1024th are cut off. RAM below `in_use_below` and below 1 MiB is never written by the program.
    #[must_use]
    pub fn new(ranges: &[MemoryRange], cmdline: &str, in_use_below: u64) -> Self {
        let mut info = Self {
            ranges: [MemoryRange::default(); MAX_RANGES],
            count: ranges.len().min(MAX_RANGES),
            cmdline: [0; MAX_CMDLINE],
            cmdline_len: cmdline.len().min(MAX_CMDLINE),
            rsdp: 0,
            in_use_below,
        };
        info.ranges[..info.count].copy_from_slice(&ranges[..info.count]);
        info.cmdline[..info.cmdline_len].copy_from_slice(&cmdline.as_bytes()[..info.cmdline_len]);
        info
    }

    /// Reads the structure at guest-physical `addr`.
    ///
    /// # Errors
    /// When it is no version 1 (or later) start information.
    pub fn read(bus: &mut impl Bus, addr: u64, in_use_below: u64) -> Result<Self, StartInfoError> {
        let mut raw = [0; 56];
        bus.ram_read(addr, &mut raw);
        let word = |at: usize| u32::from_le_bytes([raw[at], raw[at + 1], raw[at + 2], raw[at + 3]]);
        let long = |at: usize| u64::from(word(at)) | u64::from(word(at + 4)) << 32;
        if word(0) != MAGIC {
            return Err(StartInfoError::Magic(word(0)));
        }
        if word(4) == 0 {
            return Err(StartInfoError::Version(0));
        }
        let (cmdline_addr, memmap_addr, entries) = (long(24), long(40), word(48));
        let mut info = Self::new(&[], "", in_use_below);
        info.rsdp = long(32);
        for index in 0..(entries as usize).min(MAX_RANGES) {
            let mut entry = [0; 24];
            bus.ram_read(memmap_addr.wrapping_add(24 * index as u64), &mut entry);
            let part = |at: usize| entry[at..at + 8].try_into().map_or(0, u64::from_le_bytes);
            info.ranges[index] = MemoryRange { addr: part(0), size: part(8), kind: part(16) as u32 };
            info.count = index + 1;
        }
        if cmdline_addr != 0 {
            while info.cmdline_len < MAX_CMDLINE {
                let mut byte = [0];
                bus.ram_read(cmdline_addr.wrapping_add(info.cmdline_len as u64), &mut byte);
                if byte[0] == 0 {
                    break;
                }
                info.cmdline[info.cmdline_len] = byte[0];
                info.cmdline_len += 1;
            }
        }
        Ok(info)
    }

    /// The command line up to the first byte that is not UTF-8.
    #[must_use]
    pub fn cmdline(&self) -> &str {
        let bytes = &self.cmdline[..self.cmdline_len];
        match core::str::from_utf8(bytes) {
            Ok(text) => text,
            Err(error) => core::str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or(""),
        }
    }

    /// The memory map.
    #[must_use]
    pub fn ranges(&self) -> &[MemoryRange] {
        &self.ranges[..self.count]
    }

    /// Address of the ACPI root pointer, 0 if there is none.
    #[must_use]
    pub const fn rsdp(&self) -> u64 {
        self.rsdp
    }

    /// Bytes of RAM in the memory map.
    #[must_use]
    pub fn ram_size(&self) -> u64 {
        self.ranges().iter().filter(|r| r.kind == MEMMAP_RAM).fold(0, |sum, r| sum.saturating_add(r.size))
    }

    /// RAM ranges that the program may write, lowest first as the map has them: page aligned, above 1 MiB and above
    /// what is in use.
    pub fn free_ram(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let floor = self.in_use_below.max(LOW_MEMORY);
        self.ranges().iter().filter(|r| r.kind == MEMMAP_RAM).filter_map(move |range| {
            let start = range.addr.max(floor).checked_add(4095)? & !4095;
            let end = range.addr.saturating_add(range.size) & !4095;
            (start < end).then_some((start, end))
        })
    }

    /// Where the driver's own memory comes from: the lower part (an eighth, at least 32 MiB if there is that much) of
    /// the first free range of 32 MiB or more, else of the largest. Empty if there is no free RAM.
    #[must_use]
    pub fn arena(&self) -> Arena {
        let mut best = (0, 0);
        for (start, end) in self.free_ram() {
            if (end - start).min(ARENA_LEAST) > best.1 - best.0 {
                best = (start, end);
            }
        }
        let (start, end) = best;
        Arena::new(start, end.min(start + ARENA_LEAST.max(((end - start) / 8) & !4095)))
    }

    /// Free RAM that is not the [arena](Self::arena).
    pub fn spare_ram(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let arena = self.arena();
        self.free_ram().filter_map(move |(start, end)| {
            let start = if start == arena.start() { arena.end() } else { start };
            (start < end).then_some((start, end))
        })
    }
}

#[cfg(test)]
mod tests;
