//! Against a plain vector, and that chunks stay neither small nor large.

use std::sync::LazyLock;

use proptest::prelude::*;

use super::*;
use crate::region::{RegionCore, RegionKind};
use crate::{Memory, RegionDesc};

/// A range at an address, of a region that all share.
fn range(addr: u64) -> FlatRange {
    static CORE: LazyLock<Arc<RegionCore>> = LazyLock::new(|| {
        let id = Memory::new().transaction().container(RegionDesc::new("any", 1));
        Arc::new(RegionCore { id, name: "any".into(), kind: RegionKind::Container })
    });
    let (core, last) = (CORE.clone(), addr + 1);
    FlatRange { core, addr, last, offset: 0, readonly: false, unmergeable: true, log: false }
}

/// `count` ranges of two addresses in every `step`.
fn spread(count: usize, step: u64) -> Vec<FlatRange> {
    (0..count as u64).map(|n| range(n * step)).collect()
}

fn check(list: &Ranges, model: &[FlatRange]) -> Result<(), TestCaseError> {
    prop_assert!(list.iter().eq(model));
    prop_assert_eq!((list.len(), list.is_empty()), (model.len(), model.is_empty()));
    prop_assert!(model.iter().enumerate().all(|(index, r)| list.get(index) == Some(r)));
    prop_assert_eq!(list.get(model.len()), None);
    let sizes: Vec<_> = list.chunks.iter().map(|chunk| chunk.ranges.len()).collect();
    prop_assert!(sizes.iter().all(|&size| (1..=2 * CHUNK).contains(&size)), "{sizes:?}");
    prop_assert!(sizes.len() <= 1 || sizes.iter().all(|&size| size >= FEW), "{sizes:?}");
    Ok(())
}

/// Every range starts at a multiple of this at first, so that a few fit between.
const STEP: u64 = 16;

proptest! {
    #[test]
    fn a_list_that_is_spliced_again_and_again_is_the_vector_that_is(
        count in 0..600usize,
        changes in prop::collection::vec((any::<prop::sample::Index>(), 0..80usize, 0..5usize), 1..60),
        grow in any::<bool>(),
    ) {
        let mut model = spread(count, STEP);
        let mut list = Ranges::new(model.clone());
        check(&list, &model)?;
        for (at, gone, new) in changes {
            let at = at.index(model.len() + 1);
            let gone = at..(at + if grow { gone / 20 } else { gone }).min(model.len());
            let start = at.checked_sub(1).map_or(0, |before| model[before].last + 1);
            let end = model.get(gone.end).map_or(u64::MAX / 2, |next| next.addr);
            let fits = (end - start) / 2;
            let new: Vec<_> = (0..fits.min(new as u64)).map(|n| range(start + 2 * n)).collect();
            let before = list.clone();
            list = list.splice(gone.clone(), new.clone());
            prop_assert!(before.iter().eq(&model), "the list it was made from is as it was");
            model.splice(gone, new);
            check(&list, &model)?;
        }
        for addr in 0..64 {
            let found = model.partition_point(|r| r.last < addr);
            prop_assert_eq!((list.position(addr), list.reaching(addr)), (found, model.get(found)));
        }
        let half = model.len() / 3..model.len() / 2;
        prop_assert!(list.slice(half.clone()).eq(&model[half]));
    }
}

#[test]
fn a_change_copies_one_chunk_and_names_the_others_again() {
    let list = Ranges::new(spread(2048, 4));
    let changed = list.splice(1000..1001, Vec::new());
    let shared = |chunk: &&Chunk| list.chunks.iter().any(|c| Arc::ptr_eq(&c.ranges, &chunk.ranges));
    assert_eq!(changed.chunks.len() - changed.chunks.iter().filter(shared).count(), 1);
    assert_eq!(changed.len(), 2047);
}
