//! Sizes of a virtio-mem device: block size, usable region, memory slots.
//!
//! Pure formulas, as QEMU 10.0.2 computes them; the transparent huge page size is read once by [`thp_size`].

use std::path::Path;

/// Smallest block size, the granularity the specification's devices offer at least.
pub const MIN_BLOCK_SIZE: u64 = 1 << 20;

/// How much of the region beyond the requested size the guest may use, so that it finds enough unfragmented blocks.
#[doc(alias = "VIRTIO_MEM_USABLE_EXTENT")]
pub const USABLE_EXTENT: u64 = 256 << 20;

/// The transparent huge page size of this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ThpSize {
    /// Bytes, at least [`MIN_BLOCK_SIZE`].
    pub bytes: u64,
    /// The kernel has transparent huge pages but their size could not be read, so 2 MiB were assumed.
    pub guessed: bool,
}

/// Reads the transparent huge page size from sysfs; [`MIN_BLOCK_SIZE`] if the kernel has none.
pub fn thp_size() -> ThpSize {
    thp_size_in(Path::new("/sys/kernel/mm/transparent_hugepage"))
}

fn thp_size_in(dir: &Path) -> ThpSize {
    if !dir.exists() {
        return ThpSize { bytes: MIN_BLOCK_SIZE, guessed: false };
    }
    let size = std::fs::read_to_string(dir.join("hpage_pmd_size"))
        .ok()
        .and_then(|text| text.trim().parse::<u64>().ok())
        .filter(|size| size.is_power_of_two());
    match size {
        Some(size) => ThpSize { bytes: size.max(MIN_BLOCK_SIZE), guessed: false },
        None => ThpSize { bytes: 2 << 20, guessed: true },
    }
}

/// The block size of a device whose user did not choose one.
///
/// Memory with the host's base page size is best handed out in transparent huge pages; everything else in its own pages.
pub fn default_block_size(page_size: u64, host_page_size: u64, thp: u64) -> u64 {
    let floor = if page_size == host_page_size { thp } else { MIN_BLOCK_SIZE };
    page_size.max(floor).max(MIN_BLOCK_SIZE)
}

/// The part of the region the guest may plug blocks in, bytes from its start.
pub fn usable_region(requested: u64, region: u64, block: u64) -> u64 {
    if requested == 0 {
        return 0;
    }
    let wanted = region.min(requested.saturating_add(USABLE_EXTENT));
    // The region is a multiple of the block size, so rounding up cannot pass its end.
    wanted.next_multiple_of(block)
}

#[cfg(test)]
mod tests;
