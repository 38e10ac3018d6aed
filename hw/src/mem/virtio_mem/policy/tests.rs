//! The order of evaluation, case by case as the oracle's protocol transcript, and against a naive model.

use proptest::prelude::*;

use super::*;

const M: u64 = 1 << 20;
const BASE: u64 = 0x1_0000_0000;
const BLOCK: u64 = 2 * M;
const LAYOUT: Layout = Layout { addr: BASE, region_size: 1 << 30, block_size: BLOCK };

struct Case {
    blocks: DiscardManager,
    usable: u64,
    requested: u64,
    busy: bool,
}

impl Case {
    /// 64 MiB requested, as the transcript starts.
    fn new() -> Self {
        Self {
            blocks: DiscardManager::new(1 << 30, BLOCK),
            usable: 0x1400_0000,
            requested: 64 * M,
            busy: false,
        }
    }
    fn ask(&self, request: Request) -> Decision {
        decide(
            request,
            &View {
                layout: LAYOUT,
                usable: self.usable,
                requested: self.requested,
                blocks: &self.blocks,
                busy: self.busy,
            },
        )
    }
    fn insert(&self, first: u64, count: u64) {
        let bytes = |n: u64| (n * BLOCK).min(1 << 30);
        self.blocks.populate(bytes(first)..bytes(first + count)).unwrap();
    }
    fn plug(&self, addr: u64, blocks: u16) -> Decision {
        self.ask(Request::Plug(Span { addr, blocks }))
    }
    fn unplug(&self, addr: u64, blocks: u16) -> Decision {
        self.ask(Request::Unplug(Span { addr, blocks }))
    }
    fn state(&self, addr: u64, blocks: u16) -> Decision {
        self.ask(Request::State(Span { addr, blocks }))
    }
}

const ERROR: Decision = Decision::Reply(Response::Error);
const NACK: Decision = Decision::Reply(Response::Nack);
const BUSY: Decision = Decision::Reply(Response::Busy);

#[test]
fn ranges_that_are_empty_unaligned_or_outside_the_usable_region_are_errors() {
    let case = Case::new();
    for (addr, blocks) in [
        (BASE, 0),
        (BASE + 0x1000, 1),
        (BASE - BLOCK, 1),
        (BASE - BLOCK, 2),
        (BASE + 0x1400_0000, 1),
        (BASE + 0x13e0_0000, 2),
        (0, 1),
        (0xffff_ffff_ffe0_0000, 1),
        (BASE, 161),
        (BASE, 65535),
    ] {
        assert_eq!(case.plug(addr, blocks), ERROR, "plug {addr:#x} {blocks}");
        assert_eq!(case.unplug(addr, blocks), ERROR, "unplug {addr:#x} {blocks}");
        assert_eq!(case.state(addr, blocks), ERROR, "state {addr:#x} {blocks}");
    }
}

#[test]
fn more_than_requested_is_refused_before_the_blocks_are_looked_at() {
    let mut case = Case::new();
    assert_eq!(case.plug(BASE, 33), NACK);
    assert_eq!(case.plug(BASE, 32), Decision::Plug(0..32 * BLOCK));
    case.insert(0, 32);
    assert_eq!(case.plug(BASE, 1), NACK, "already plugged, but the size comes first");
    case.requested = 1 << 30;
    assert_eq!(case.plug(BASE, 1), ERROR);
    assert_eq!(case.plug(BASE + 31 * BLOCK, 2), ERROR, "all or nothing");
}

#[test]
fn busy_comes_last() {
    let mut case = Case::new();
    case.insert(0, 16);
    case.busy = true;
    assert_eq!(case.plug(BASE + 16 * BLOCK, 1), BUSY);
    assert_eq!(case.plug(BASE + 16 * BLOCK, 17), NACK);
    assert_eq!(case.plug(BASE, 1), ERROR);
    assert_eq!(case.unplug(BASE, 1), BUSY);
    assert_eq!(case.unplug(BASE + 16 * BLOCK, 1), ERROR);
    assert_eq!(case.ask(Request::UnplugAll), BUSY);
    assert_eq!(case.state(BASE, 16), Decision::Reply(Response::State(BlockState::Plugged)));
    case.blocks.discard(0..1 << 30).unwrap();
    assert_eq!(case.ask(Request::UnplugAll), Decision::UnplugAll, "nothing to take away");
}

#[test]
fn state_tells_plugged_unplugged_and_mixed() {
    let case = Case::new();
    case.insert(0, 1);
    let state = |blocks| match case.state(BASE, blocks) {
        Decision::Reply(Response::State(s)) => s,
        other => panic!("{other:?}"),
    };
    assert_eq!(state(1), BlockState::Plugged);
    assert_eq!(state(2), BlockState::Mixed);
    assert_eq!(state(160), BlockState::Mixed);
    assert_eq!(case.state(BASE + BLOCK, 159), Decision::Reply(Response::State(BlockState::Unplugged)));
}

proptest! {
    /// A decision never goes beyond the usable region, and only ever names blocks in the opposite state.
    #[test]
    fn decisions_are_in_bounds_and_all_or_nothing(
        kind in 0u16..4,
        offset in prop_oneof![0u64..(1 << 31), any::<u64>()],
        aligned: bool,
        blocks: u16,
        requested in 0u64..600,
        plugged in proptest::collection::vec((0u64..512, 0u64..20), 0..8),
        busy: bool,
    ) {
        let mut case = Case::new();
        case.requested = requested * BLOCK;
        case.usable = super::super::sizes::usable_region(case.requested, LAYOUT.region_size, BLOCK);
        case.busy = busy;
        for (at, n) in plugged {
            case.insert(at, n);
        }
        let mut addr = BASE.wrapping_add(offset);
        if aligned {
            addr -= addr % BLOCK;
        }
        let span = Span { addr, blocks };
        let request = match kind {
            0 => Request::Plug(span),
            1 => Request::Unplug(span),
            2 => Request::UnplugAll,
            _ => Request::State(span),
        };
        match case.ask(request) {
            Decision::Plug(r) => {
                prop_assert!(!busy && kind == 0 && r.start < r.end && r.end <= case.usable);
                prop_assert_eq!(r.end - r.start, u64::from(blocks) * BLOCK);
                prop_assert!(case.blocks.is_discarded(r.clone()));
                prop_assert!(case.blocks.populated_bytes() + r.end - r.start <= case.requested);
            }
            Decision::Unplug(r) => {
                prop_assert!(!busy && kind == 1 && r.start < r.end && r.end <= case.usable);
                prop_assert!(case.blocks.is_populated(r));
            }
            Decision::UnplugAll => prop_assert!(kind == 2 && (!busy || case.blocks.populated_bytes() == 0)),
            Decision::Reply(Response::Ack) => prop_assert!(false, "only actions are acknowledged"),
            Decision::Reply(_) => {}
        }
    }
}
