//! Giving pages that the guest does without back to the host.
//!
//! Addresses are the guest's word: where there is no RAM, or RAM of a memory device that is not plugged, nothing happens. Only whole pages of
//! the host go back: of a larger one that the guest gives in pieces, the pieces are counted until it is complete.

use std::ops::Range;
use std::sync::{Arc, Weak};

use memory::{AddressSpace, DirtyClient, Memory, RamBlock};

/// Bytes of a page of the balloon, whatever the guest's pages are.
#[doc(alias = "VIRTIO_BALLOON_PFN_SHIFT")]
pub(super) const PAGE: u64 = 4096;

/// The larger page of the host that the guest gives in pieces; one at a time, as in QEMU.
#[derive(Debug, Default)]
pub(super) struct Partial(Option<Pieces>);

#[derive(Debug)]
struct Pieces {
    block: Weak<RamBlock>,
    /// Offset in the block.
    start: u64,
    /// A bit for each piece.
    given: Vec<u64>,
    missing: u64,
}

impl Partial {
    /// A piece at `offset` of `block`, whose pages are of `page` bytes; the range of the page once it is complete.
    fn add(&mut self, block: &Arc<RamBlock>, offset: u64, page: u64) -> Option<Range<u64>> {
        let start = offset - offset % page;
        let same = |pieces: &Pieces| pieces.start == start && pieces.block.as_ptr() == Arc::as_ptr(block);
        if !self.0.as_ref().is_some_and(same) {
            let count = page / PAGE;
            let given = vec![0; count.div_ceil(64) as usize];
            self.0 = Some(Pieces { block: Arc::downgrade(block), start, given, missing: count });
        }
        let pieces = self.0.as_mut()?;
        let piece = (offset - start) / PAGE;
        let (word, bit) = (pieces.given.get_mut((piece / 64) as usize)?, 1 << (piece % 64));
        if *word & bit == 0 {
            *word |= bit;
            pieces.missing -= 1;
        }
        (pieces.missing == 0).then(|| {
            self.0 = None;
            start..start + page
        })
    }

    /// The guest takes a page back, or all of them.
    pub(super) fn forget(&mut self) {
        self.0 = None;
    }
}

/// Runs of pages that follow each other, as guest addresses, from page numbers in any order.
pub(super) fn runs(pages: &mut Vec<u32>) -> Vec<Range<u64>> {
    pages.sort_unstable();
    pages.dedup();
    let mut runs: Vec<Range<u64>> = Vec::new();
    for page in pages.iter() {
        let start = u64::from(*page) * PAGE;
        match runs.last_mut() {
            Some(run) if run.end == start => run.end += PAGE,
            _ => runs.push(start..start + PAGE),
        }
    }
    runs
}

/// Gives the RAM at the guest addresses `range` back. Pieces of larger pages are counted in `partial`; without it they stay.
pub(super) fn give_back(space: &AddressSpace, range: Range<u64>, mut partial: Option<&mut Partial>) {
    each_block(space, range, |block, piece| match block.discard_manager() {
        // Nothing is unplugged meanwhile: what is not plugged is the manager's to keep empty.
        Some(manager) => manager.with_populated(piece, |plugged| {
            plugged.iter().for_each(|run| discard(block, run.clone(), partial.as_deref_mut()));
        }),
        None => discard(block, piece, partial.as_deref_mut()),
    });
}

/// Has a migration send nothing of the RAM at the guest addresses `range`, unless it is written.
pub(super) fn leave_out(memory: &Memory, space: &AddressSpace, range: Range<u64>) {
    each_block(space, range, |block, piece| memory.forget_dirty(DirtyClient::Migration, block, piece));
}

/// Calls `each` with the RAM at the guest addresses `range` that the guest can write.
fn each_block(space: &AddressSpace, range: Range<u64>, mut each: impl FnMut(&Arc<RamBlock>, Range<u64>)) {
    let view = space.view();
    let mut addr = range.start;
    while addr < range.end {
        let Some(found) = view.lookup(addr) else {
            let Some(next) = view.next_start(addr) else { return };
            addr = next.max(addr + 1);
            continue;
        };
        let end = range.end.min(found.last.saturating_add(1));
        let offset = found.offset + (addr - found.addr);
        let piece = offset..offset + (end - addr);
        if let Some(block) = found.block().filter(|block| !found.readonly && !block.is_rom()) {
            each(block, piece);
        }
        addr = end;
    }
}

fn discard(block: &Arc<RamBlock>, range: Range<u64>, partial: Option<&mut Partial>) {
    let page = block.page_size();
    let whole = range.start.next_multiple_of(page)..range.end - range.end % page;
    let give = |range: Range<u64>| {
        if range.start < range.end
            && let Err(error) = block.discard(range.start, range.end - range.start)
        {
            tracing::error!("{error}");
        }
    };
    let Some(partial) = partial.filter(|_| page > PAGE) else { return give(whole) };
    let mut at = range.start.next_multiple_of(PAGE);
    while at + PAGE <= range.end {
        if let Some(complete) = partial.add(block, at, page) {
            give(complete);
        }
        at += PAGE;
    }
}

#[cfg(test)]
mod tests {
    use memory::RamSpec;

    use super::*;

    #[test]
    fn numbers_in_any_order_are_runs() {
        assert_eq!(
            runs(&mut vec![7, 3, 2, 3, u32::MAX]),
            [2 * PAGE..4 * PAGE, 7 * PAGE..8 * PAGE, 0xffff_ffff * PAGE..0x1_0000_0000 * PAGE]
        );
        assert!(runs(&mut Vec::new()).is_empty());
    }

    #[test]
    fn a_larger_page_goes_once_all_its_pieces_were_given() {
        let memory = Memory::new();
        let block = memory.create_ram(RamSpec::anonymous("ram", 1 << 20)).unwrap();
        let mut partial = Partial::default();
        let page = 4 * PAGE;
        for piece in [6, 4, 4, 7] {
            assert_eq!(partial.add(&block, piece * PAGE, page), None);
        }
        assert_eq!(partial.add(&block, 5 * PAGE, page), Some(4 * PAGE..8 * PAGE));
        assert_eq!(partial.add(&block, 5 * PAGE, page), None, "from the start again");
        for piece in [6, 7, 0, 4] {
            assert_eq!(partial.add(&block, piece * PAGE, page), None, "another page came between");
        }
        partial.forget();
        assert_eq!(partial.add(&block, 5 * PAGE, page), None);
    }
}
