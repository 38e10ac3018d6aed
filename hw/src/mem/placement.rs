//! Where a memory device goes in the device-memory area: first fit, alignment, or exactly where the user says.
//!
//! Pure. The sentences are QEMU's (`hw/mem/memory-device.c`); they are what a user sees at start-up or `device_add`.

use qapi::{Error, Result};

/// The part of the guest's address space that memory devices live in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Area {
    /// Guest-physical address of its first byte.
    pub base: u64,
    /// Its size in bytes; larger than [`Area::limit`] when slots reserve room for alignment.
    pub size: u64,
    /// Bytes that all memory devices may have together: `maxmem` less the initial RAM.
    pub limit: u64,
}

/// A memory device that is there already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placed {
    /// Its `id=`, if it has one.
    pub id: Option<String>,
    /// Guest-physical address.
    pub addr: u64,
    /// Size of its region, bytes; not 0.
    pub size: u64,
}

/// What a new device asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// Size of the region, bytes; not 0.
    pub size: u64,
    /// Alignment of what backs the region, a power of two; the size must be a multiple of it.
    pub region_align: u64,
    /// Alignment the device itself needs (its block size), a power of two.
    pub device_align: u64,
    /// The address the user insists on.
    pub addr: Option<u64>,
}

impl Wanted {
    fn align(&self) -> u64 {
        self.region_align.max(self.device_align)
    }
}

/// The error of a machine that has no room for memory devices.
pub fn unprepared() -> Error {
    Error::generic(
        "the configuration is not prepared for memory devices (e.g., for memory hotplug), consider specifying the \
         maxmem option",
    )
}

/// Finds the place for a new device.
///
/// `warn` gets the sentence about an alignment that the area's base does not have.
///
/// # Errors
/// No area, no space, a region of an odd size, or no fitting gap.
#[doc(alias = "memory_device_get_free_addr")]
pub fn place(
    area: Option<&Area>,
    present: &[Placed],
    wanted: &Wanted,
    warn: &mut dyn FnMut(String),
) -> Result<u64> {
    let area = area.ok_or_else(unprepared)?;
    let used = present.iter().fold(0u64, |sum, p| sum.saturating_add(p.size));
    if used.checked_add(wanted.size).is_none_or(|sum| sum > area.limit) {
        let limit = area.limit;
        return Err(Error::generic(format!(
            "not enough space, currently {used:#x} in use of total space for memory devices {limit:#x}"
        )));
    }
    if !wanted.size.is_multiple_of(wanted.region_align) {
        return Err(Error::generic(format!(
            "backend memory size must be multiple of {:#x}",
            wanted.region_align
        )));
    }
    let align = wanted.align();
    if !area.base.is_multiple_of(align) {
        warn(format!(
            "the alignment ({align:#x}) exceeds the expected maximum alignment, memory will get fragmented and not \
             all 'maxmem' might be usable for memory devices."
        ));
    }
    match wanted.addr {
        Some(addr) => place_at(area, present, addr, wanted.size, align),
        None => first_fit(area, present, wanted.size, align),
    }
}

fn place_at(area: &Area, present: &[Placed], addr: u64, size: u64, align: u64) -> Result<u64> {
    if !addr.is_multiple_of(align) {
        return Err(Error::generic(format!("address must be aligned to {align:#x} bytes")));
    }
    if !fits(area, addr, size) {
        return Err(Error::generic(format!(
            "can't add memory device [{addr:#x}:{size:#x}], usable range for memory devices [{:#x}:{:#x}]",
            area.base, area.size
        )));
    }
    match sorted(present).find(|p| overlaps(p, addr, size)) {
        Some(other) => Err(Error::generic(format!(
            "address range conflicts with memory device id='{}'",
            other.id.as_deref().unwrap_or("(unnamed)")
        ))),
        None => Ok(addr),
    }
}

fn first_fit(area: &Area, present: &[Placed], size: u64, align: u64) -> Result<u64> {
    let mut at = area.base.checked_next_multiple_of(align);
    for other in sorted(present) {
        match at {
            Some(addr) if overlaps(other, addr, size) => {
                at = other.addr.checked_add(other.size).and_then(|end| end.checked_next_multiple_of(align));
            }
            _ => {}
        }
    }
    at.filter(|addr| fits(area, *addr, size)).ok_or_else(|| {
        Error::generic(
            "could not find position in guest address space for memory device - memory fragmented due to alignments",
        )
    })
}

fn sorted(present: &[Placed]) -> impl Iterator<Item = &Placed> {
    let mut order: Vec<&Placed> = present.iter().collect();
    order.sort_by_key(|p| p.addr);
    order.into_iter()
}

fn overlaps(other: &Placed, addr: u64, size: u64) -> bool {
    // Compared by last bytes, so that ranges may end at the very top of the address space.
    let (last, other_last) = (addr.saturating_add(size - 1), other.addr.saturating_add(other.size - 1));
    addr <= other_last && other.addr <= last
}

fn fits(area: &Area, addr: u64, size: u64) -> bool {
    addr.checked_sub(area.base)
        .and_then(|offset| offset.checked_add(size))
        .is_some_and(|end| end <= area.size)
}

#[cfg(test)]
mod tests;
