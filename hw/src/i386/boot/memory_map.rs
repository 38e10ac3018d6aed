//! What firmware tells of memory: RAM, what looks like it but is not, the tables. Memory devices are for their drivers to find.

use crate::i386::host_bridge::{ECAM_BASE, ECAM_SIZE};
use crate::i386::layout::Layout;

/// Top of the RAM below the VGA window that firmware leaves to the guest.
pub(super) const LOW_RAM: u64 = 0x9_fc00;
/// Where RAM goes on above the first megabyte's windows.
pub(super) const MIB: u64 = 1 << 20;
const FOUR_GIB: u64 = 4 << 30;
/// RAM at the top of low memory that is kept for tables, at least; what SeaBIOS takes.
const TABLES_MIN: u64 = 0x2_0000;
/// What QEMU keeps free for tables above an initial RAM disk.
const INITRD_GAP: u64 = 0x2_8000;
/// The chipset's own registers, of Q35 (RCBA).
const RCBA: (u64, u64) = (0xfed1_c000, 0x4000);
/// Where firmware would be.
const BIOS: (u64, u64) = (0xfffc_0000, 0x4_0000);

/// What a range is, by e820 number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Kind {
    Ram = 1,
    Reserved = 2,
    Acpi = 3,
}

/// Start, size, kind.
pub(super) type Range = (u64, u64, Kind);

/// The map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct MemoryMap {
    ranges: Vec<Range>,
    /// End of the RAM that a kernel and its RAM disk may be in.
    low_end: u64,
    below_4g: u64,
}

impl MemoryMap {
    /// The map of a board. `reserved`: what else is no memory; `tables`: bytes needed for tables, which lie at [`MemoryMap::tables`].
    pub(super) fn new(layout: &Layout, q35: bool, reserved: &[(u64, u64)], tables: u64) -> Self {
        let kept = tables.next_multiple_of(0x1_0000).max(TABLES_MIN);
        let low_end = layout.below_4g.saturating_sub(kept) & !0xfff;
        let mut ranges = first_megabyte();
        if low_end > MIB {
            ranges.push((MIB, low_end - MIB, Kind::Ram));
            ranges.push((low_end, layout.below_4g - low_end, Kind::Acpi));
        }
        if q35 {
            ranges.push((ECAM_BASE, ECAM_SIZE, Kind::Reserved));
            ranges.push((RCBA.0, RCBA.1, Kind::Reserved));
        }
        ranges.extend(reserved.iter().map(|&(start, size)| (start, size, Kind::Reserved)));
        ranges.push((BIOS.0, BIOS.1, Kind::Reserved));
        if layout.above_4g > 0 {
            ranges.push((layout.above_4g_start, layout.above_4g, Kind::Ram));
        }
        ranges.sort_by_key(|range| range.0);
        Self { ranges, low_end, below_4g: layout.below_4g }
    }

    /// RAM and the first megabyte alone, with no room for tables: what the built-in guest is told.
    pub(super) fn all_ram(layout: &Layout) -> Self {
        let low_end = layout.below_4g;
        let mut ranges = first_megabyte();
        ranges.push((MIB, low_end.saturating_sub(MIB), Kind::Ram));
        if layout.above_4g > 0 {
            ranges.push((layout.above_4g_start, layout.above_4g, Kind::Ram));
        }
        Self { ranges, low_end, below_4g: low_end }
    }

    /// Ranges by ascending address.
    pub(super) fn ranges(&self) -> &[Range] {
        &self.ranges
    }

    /// Where tables start.
    pub(super) fn tables(&self) -> u64 {
        self.low_end
    }

    /// Bytes there are for them.
    pub(super) fn tables_room(&self) -> u64 {
        self.below_4g.saturating_sub(self.low_end)
    }

    /// Whether a kernel may have all of this memory.
    pub(super) fn has_room(&self, start: u64, end: u64) -> bool {
        start >= MIB && start <= end && end <= self.low_end
    }

    /// Where an initial RAM disk has to end.
    pub(super) fn initrd_max(&self) -> u64 {
        self.low_end.min(self.below_4g.saturating_sub(INITRD_GAP + 1))
    }

    /// Where what is not RAM starts below 4 GiB, up to which it goes; its size is a power of two.
    pub(super) fn device_window(&self) -> u32 {
        let size = (FOUR_GIB - self.below_4g.min(FOUR_GIB - BIOS.1)) as u32;
        // The largest power of two that fits; two gigabytes at most.
        (1 << size.ilog2()).min(1u32 << 31).wrapping_neg()
    }
}

fn first_megabyte() -> Vec<Range> {
    vec![
        (0, LOW_RAM, Kind::Ram),
        (LOW_RAM, 0xa_0000 - LOW_RAM, Kind::Reserved),
        (0xf_0000, 0x1_0000, Kind::Reserved),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn layout(below_4g: u64, above_4g: u64) -> Layout {
        Layout {
            below_4g,
            above_4g_start: 4 * GIB,
            above_4g,
            device_memory: Some((6 * GIB, 16 * GIB)),
            pci_hole64: (22 * GIB, 32 * GIB),
        }
    }

    #[test]
    fn the_map_has_all_ram_in_order_and_no_device_memory() {
        for tables in [0, 0x2_0001, 0x10_0000] {
            let map = MemoryMap::new(&layout(2 * GIB, 2 * GIB), true, &[], tables);
            let sum = |kind| map.ranges().iter().filter(|r| r.2 == kind).map(|r| r.1).sum::<u64>();
            assert_eq!(sum(Kind::Ram) + sum(Kind::Acpi), 4 * GIB - MIB + LOW_RAM);
            assert!(sum(Kind::Acpi) >= tables);
            assert!(map.ranges().windows(2).all(|pair| pair[0].0 + pair[0].1 <= pair[1].0));
            assert!(map.ranges().iter().all(|r| r.0 < 6 * GIB));
        }
    }

    #[test]
    fn the_map_of_seabios_is_kept() {
        let map = MemoryMap::new(&layout(0xc000_0000, GIB), false, &[], 0);
        assert_eq!(map.ranges()[3], (MIB, 0xbffe_0000 - MIB, Kind::Ram));
        assert_eq!(map.ranges()[4].0, 0xbffe_0000);
        assert_eq!(MemoryMap::new(&layout(GIB, 0), true, &[], 0).initrd_max(), 1_073_577_983);
    }

    #[test]
    fn the_device_window_starts_above_ram() {
        let window = |below| MemoryMap::new(&layout(below, 0), true, &[], 0).device_window();
        assert_eq!(window(128 << 20), 0x8000_0000);
        assert_eq!(window(2 * GIB), 0x8000_0000);
        assert_eq!(window(0xb000_0000), 0xc000_0000);
        assert_eq!(window(0xe000_0000), 0xe000_0000);
        assert_eq!(window(4 * GIB), 0xfffc_0000);
    }
}
