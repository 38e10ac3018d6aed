//! The blocks of a device in a few cells, for people to look at: `x-pliant-query-memory-map`.

use std::ops::Range;

use memory::DiscardManager;
use qapi::types::PliantMemoryCell;

/// The region of `region` bytes in blocks of `block` as `count` cells, or in as many as it has blocks.
pub(super) fn cells(blocks: &DiscardManager, region: u64, block: u64, count: u32) -> Vec<PliantMemoryCell> {
    let ranges = ranges(region, block, count);
    let plugged = blocks.populated_in(ranges.iter().cloned());
    let state = |(range, plugged): (&Range<u64>, u64)| match plugged {
        0 => PliantMemoryCell::Unplugged,
        bytes if bytes == range.end - range.start => PliantMemoryCell::Plugged,
        _ => PliantMemoryCell::Mixed,
    };
    ranges.iter().zip(plugged).map(state).collect()
}

/// Bytes of each cell: whole blocks, as equal as can be.
fn ranges(region: u64, block: u64, count: u32) -> Vec<Range<u64>> {
    let blocks = region.div_ceil(block);
    let count = blocks.min(count.into());
    // The product may not fit into 64 bits; the quotient does, as it is at most the number of blocks.
    let start = |cell: u64| {
        let first = u128::from(cell) * u128::from(blocks) / u128::from(count.max(1));
        (first as u64).saturating_mul(block).min(region)
    };
    (0..count).map(|cell| start(cell)..start(cell + 1)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_cover_the_region_in_whole_blocks() {
        for (region, block, count) in
            [(16, 2, 8), (16, 2, 3), (16, 2, 100), (1 << 62, 4096, 4096), (7, 2, 2), (0, 2, 5)]
        {
            let ranges = ranges(region, block, count);
            let blocks = region.div_ceil(block);
            assert_eq!(ranges.len() as u64, blocks.min(count.into()));
            let mut at = 0;
            for range in &ranges {
                assert_eq!(range.start, at);
                assert!(range.end > at && (range.end.is_multiple_of(block) || range.end == region));
                at = range.end;
            }
            assert_eq!(at, region);
        }
    }

    #[test]
    fn a_cell_says_whether_all_something_or_nothing_is_plugged() {
        use PliantMemoryCell::{Mixed, Plugged, Unplugged};
        let manager = DiscardManager::new(64 << 20, 2 << 20);
        manager.populate(0..18 << 20).unwrap();
        manager.populate(62 << 20..64 << 20).unwrap();
        assert_eq!(cells(&manager, 64 << 20, 2 << 20, 4), [Plugged, Mixed, Unplugged, Mixed]);
        // Blocks of several granules.
        assert_eq!(cells(&manager, 64 << 20, 32 << 20, 9), [Mixed, Mixed]);
        let each = cells(&manager, 64 << 20, 2 << 20, 4096);
        assert_eq!(each.len(), 32);
        assert!(each[..9].iter().chain(&each[31..]).all(|state| *state == Plugged));
        assert!(each[9..31].iter().all(|state| *state == Unplugged));
    }
}
