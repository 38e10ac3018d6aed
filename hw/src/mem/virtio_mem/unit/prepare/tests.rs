//! Slices of a request, seen from the host: what is resident before it is served, and what is left of one that never is.

use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use memory::{Backing, DiscardManager, FileBacking, MemfdSpec, Memory, RamSpec, RegionDesc, create_memfd};

use super::super::super::policy::Layout;
use super::super::super::request::{Request, Response, Span};
use super::super::Unit;
use super::SLICE;

const BLOCK: u64 = 2 << 20;
const REGION: u64 = 6 * SLICE;
const LAYOUT: Layout = Layout { addr: 1 << 32, region_size: REGION, block_size: BLOCK };

/// A device whose pages can be counted: they are those of its file.
fn unit(threads: Option<u32>, protected: bool) -> Unit {
    let file = create_memfd(&MemfdSpec { name: "t", ..Default::default() }, REGION).unwrap();
    let backing = Backing::File(FileBacking { file, offset: 0, shared: true, readonly_fd: false });
    let memory = Memory::new();
    let block = memory.create_ram(RamSpec::anonymous("mem0", REGION).backing(backing)).unwrap();
    let mut blocks = DiscardManager::new(REGION, BLOCK);
    if protected {
        blocks.protect(&block, BLOCK).unwrap();
    }
    let blocks = Arc::new(blocks);
    let mut tx = memory.transaction();
    let region = tx.ram(RegionDesc::new("mem0", REGION.into()), Arc::clone(&block));
    tx.set_discard_manager(region, Some(Arc::clone(&blocks))).unwrap();
    drop(tx);
    Unit::new(LAYOUT, block, blocks, None, threads, REGION)
}

fn resident(unit: &Unit) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    unit.block().file().unwrap().0.metadata().unwrap().blocks() * 512
}

/// Bytes of a request, as blocks.
fn plug(first: u64, bytes: u64) -> Request {
    Request::Plug(Span { addr: LAYOUT.addr + first * BLOCK, blocks: (bytes / BLOCK) as u16 })
}

#[test]
fn a_large_request_gets_a_slice_at_a_time_and_is_plugged_when_it_is_served() {
    for protected in [false, true] {
        let mut unit = unit(Some(1), protected);
        let request = plug(1, 2 * SLICE + BLOCK);
        for slices in 1..=2 {
            assert!(!unit.prepare(request, false));
            assert_eq!((resident(&unit), unit.size()), (slices * SLICE, 0));
            assert!(!protected || unit.block().read(BLOCK, &mut [0]).is_err(), "nobody gets in");
        }
        assert!(unit.prepare(request, false));
        assert_eq!((resident(&unit), unit.size()), (2 * SLICE + BLOCK, 0));
        let (file, _) = unit.block().file().unwrap();
        file.write_all_at(&[7], 2 * BLOCK).unwrap();
        assert_eq!(unit.serve(request, false), Response::Ack);
        assert_eq!((resident(&unit), unit.size()), (2 * SLICE + BLOCK, 2 * SLICE + BLOCK));
        let mut byte = [0];
        unit.block().read(2 * BLOCK, &mut byte).unwrap();
        assert_eq!(byte, [7], "these are the pages that were prepared");
        unit.block().write(BLOCK, &[1]).unwrap();
        unit.abandon();
        unit.block().write(2 * SLICE, &[1]).unwrap();
        assert_eq!(resident(&unit), 2 * SLICE + BLOCK, "it is not being prepared any more");
        assert_eq!(unit.serve(Request::UnplugAll, false), Response::Ack);
        assert_eq!(resident(&unit), 0);
    }
}

#[test]
fn what_is_small_or_not_preallocated_or_refused_is_served_at_once() {
    let mut lazy = unit(None, true);
    assert!(lazy.prepare(plug(0, REGION), false));
    let mut unit = unit(Some(2), true);
    assert!(unit.prepare(plug(0, 2 * SLICE), false), "a slice of two threads");
    assert!(unit.prepare(plug(0, REGION), true), "will be BUSY");
    assert!(unit.prepare(plug(1, REGION), false), "is an error");
    assert!(unit.prepare(Request::UnplugAll, false));
    assert_eq!((resident(&lazy), resident(&unit)), (0, 0));
    assert_eq!(unit.serve(plug(0, 2 * SLICE), false), Response::Ack);
    assert_eq!(resident(&unit), 2 * SLICE);
}

#[test]
fn a_request_that_is_not_served_after_all_leaves_nothing() {
    let gone: [fn(&mut Unit); 7] = [
        |unit| unit.abandon(),
        |unit| unit.system_reset(false),
        |unit| unit.system_reset(true),
        |unit| assert_eq!(unit.serve(plug(0, 3 * SLICE), true), Response::Busy),
        |unit| assert_eq!(unit.serve(Request::Plug(Span { addr: 0, blocks: 1 }), false), Response::Error),
        |unit| {
            unit.set_requested(SLICE);
            assert_eq!(unit.serve(plug(0, 3 * SLICE), false), Response::Nack);
        },
        |unit| {
            assert!(
                unit.prepare(Request::UnplugAll, false)
                    && unit.serve(Request::UnplugAll, false) == Response::Ack
            )
        },
    ];
    for (number, gone) in gone.into_iter().enumerate() {
        for protected in [false, true] {
            let mut unit = unit(Some(1), protected);
            assert!(!unit.prepare(plug(0, 3 * SLICE), false));
            assert_eq!(resident(&unit), SLICE);
            gone(&mut unit);
            assert_eq!((resident(&unit), unit.size()), (0, 0), "{number}");
            assert!(!protected || unit.block().read(0, &mut [0]).is_err(), "{number}: closed again");
        }
    }
}

#[test]
fn a_request_that_changed_starts_anew_and_overlaps_do_no_harm() {
    let mut unit = unit(Some(1), true);
    assert!(!unit.prepare(plug(0, 3 * SLICE), false));
    assert!(!unit.prepare(plug(1, 3 * SLICE), false));
    assert_eq!(resident(&unit), SLICE, "the first one's are gone");
    // Longer, then shorter, from the same start; then up to the same end.
    for (first, bytes) in [(0, 4 * SLICE), (0, 2 * SLICE), (2, 2 * SLICE - 2 * BLOCK)] {
        assert!(!unit.prepare(plug(first, bytes), false));
        assert_eq!(resident(&unit), SLICE, "{first}: {bytes:#x} begins with its first slice");
    }
    // A small one in the middle of it is plugged; pages of it survive what is given up.
    assert_eq!(unit.serve(plug(2, BLOCK), false), Response::Ack);
    assert_eq!((resident(&unit), unit.size()), (BLOCK, BLOCK));
    unit.block().write(2 * BLOCK, &[7]).unwrap();
    assert!(unit.prepare(plug(0, 3 * SLICE), false), "which is an error now");
    assert_eq!(unit.serve(plug(0, 3 * SLICE), false), Response::Error);
    let mut byte = [0];
    unit.block().read(2 * BLOCK, &mut byte).unwrap();
    assert_eq!((byte, resident(&unit)), ([7], BLOCK));
}

#[test]
fn a_refusal_of_somebody_else_frees_what_was_prepared() {
    struct Never;
    impl memory::DiscardListener for Never {
        fn populate(&self, _range: std::ops::Range<u64>) -> Result<(), String> {
            Err("never".into())
        }
        fn discard(&self, _range: std::ops::Range<u64>) {}
    }
    let mut unit = unit(Some(1), true);
    unit.blocks().register(0..REGION, Arc::new(Never)).unwrap();
    let request = plug(0, 2 * SLICE);
    assert!(!unit.prepare(request, false) && unit.prepare(request, false));
    assert_eq!(unit.serve(request, false), Response::Busy);
    assert_eq!((resident(&unit), unit.size()), (0, 0));
    assert!(unit.block().read(0, &mut [0]).is_err(), "closed again");
}
