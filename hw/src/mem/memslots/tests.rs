//! Which parts are mapped when, under both policies.

use memory::{AddressSpace, MemTx, RamSpec};
use proptest::prelude::*;

use super::*;

const M: u64 = 1 << 20;
const BLOCK: u64 = M / 4;
const SIZE: u64 = 4 * M;
/// Three and a bit, so that the last one is smaller.
const PARTS: Parts = Parts { size: M + M / 4, count: 4 };
const NAMES: Names = Names { container: "parts", part: "part" };

/// Parts of a region, with an address space that shows them.
struct Shown {
    memory: Arc<Memory>,
    blocks: DiscardManager,
    slots: Memslots,
    space: Arc<AddressSpace>,
}

impl Shown {
    fn new(policy: Policy) -> Self {
        let memory = Memory::new();
        let block = memory.create_ram(RamSpec::anonymous("mem0", SIZE)).unwrap();
        let mut tx = memory.transaction();
        let region = tx.ram(RegionDesc::new("mem0", SIZE.into()), block);
        drop(tx);
        let slots = Memslots::new(&memory, policy, NAMES, &Owner::None, region, SIZE, PARTS);
        let space = memory.transaction().address_space("test", slots.container());
        Self { memory, blocks: DiscardManager::new(SIZE, BLOCK), slots, space }
    }

    fn plug(&mut self, range: Range<u64>) {
        self.blocks.populate(range.clone()).unwrap();
        self.slots.plugged(&range);
    }

    fn unplug(&mut self, range: Range<u64>) {
        self.slots.before_discard(&range, &self.blocks);
        self.blocks.discard(range).unwrap();
    }

    /// First and last byte of each part that is there, as the address space shows them.
    fn there(&self) -> Vec<usize> {
        let read = |at: u64| self.space.read_uint(at, 1).1 == MemTx::Ok;
        let whole = |index: &usize| {
            let bytes = self.slots.bytes(*index);
            let (first, last) = (read(bytes.start), read(bytes.end - 1));
            assert_eq!(first, last, "a part is there or not");
            first
        };
        let there: Vec<usize> = (0..PARTS.count as usize).filter(whole).collect();
        assert_eq!(self.slots.mapped(), there.len() as u64);
        there
    }
}

#[test]
fn a_part_is_there_exactly_while_a_block_in_it_is() {
    let mut shown = Shown::new(Policy::WhilePlugged);
    shown.slots.usable(SIZE);
    assert!(shown.there().is_empty(), "usable is not plugged");
    shown.plug(0..BLOCK);
    assert_eq!(shown.there(), [0]);
    shown.plug(M..M + M / 2);
    assert_eq!(shown.there(), [0, 1]);
    shown.unplug(0..BLOCK);
    assert_eq!(shown.there(), [0, 1], "another block of the part is plugged");
    shown.unplug(M..M + M / 2);
    assert!(shown.there().is_empty());
    shown.plug(SIZE - BLOCK..SIZE);
    assert_eq!(shown.there(), [3]);
    shown.unplug(0..SIZE);
    assert!(shown.there().is_empty());
}

#[test]
fn a_part_is_there_exactly_while_it_reaches_into_the_usable_region() {
    let mut shown = Shown::new(Policy::WhileUsable);
    shown.plug(0..SIZE);
    assert!(shown.there().is_empty(), "plugged is not usable");
    for (usable, there) in [
        (0, &[][..]),
        (1, &[0]),
        (PARTS.size, &[0]),
        (PARTS.size + 1, &[0, 1]),
        (SIZE, &[0, 1, 2, 3]),
        (3 * PARTS.size, &[0, 1, 2]),
        (0, &[]),
    ] {
        shown.slots.usable(usable);
        assert_eq!(shown.there(), there, "{usable:#x}");
    }
    shown.slots.usable(SIZE);
    shown.unplug(0..SIZE);
    assert_eq!(shown.there().len(), 4);
}

#[test]
fn parts_go_with_their_device() {
    for policy in [Policy::WhilePlugged, Policy::WhileUsable] {
        let mut shown = Shown::new(policy);
        shown.plug(0..BLOCK);
        shown.slots.usable(BLOCK);
        assert_eq!(shown.there(), [0]);
        shown.memory.transaction().remove_address_space(&shown.space);
        shown.slots.destroy();
        let text = shown.memory.mtree_text(memory::MtreeOptions::default());
        assert!(!text.contains("part"), "{text}");
    }
}

/// Counts batches and what is in them.
#[derive(Default)]
struct Batches(std::sync::Mutex<Vec<(usize, usize)>>);

impl memory::MemoryListener for Batches {
    fn begin(&self) {
        self.0.lock().unwrap().push((0, 0));
    }
    fn region_add(&self, _: &memory::Section) {
        self.0.lock().unwrap().last_mut().unwrap().0 += 1;
    }
    fn region_del(&self, _: &memory::Section) {
        self.0.lock().unwrap().last_mut().unwrap().1 += 1;
    }
}

#[test]
fn parts_that_come_or_go_together_are_one_batch() {
    let mut shown = Shown::new(Policy::WhileUsable);
    let batches = Arc::new(Batches::default());
    shown.memory.add_listener(&shown.space, Arc::clone(&batches) as _);
    let seen = |batches: &Batches| std::mem::take(&mut *batches.0.lock().unwrap());
    seen(&batches);
    shown.slots.usable(3 * PARTS.size);
    assert_eq!(seen(&batches), [(3, 0)]);
    shown.slots.usable(SIZE);
    shown.slots.usable(SIZE - 1);
    assert_eq!(seen(&batches), [(1, 0)], "neighbours stay, and nothing is told of nothing");
    shown.slots.usable(1);
    assert_eq!(seen(&batches), [(0, 3)]);
}

#[derive(Debug, Clone)]
enum Step {
    Plug(Range<u64>),
    Unplug(Range<u64>),
    Usable(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let blocks = || (0..16u64, 1..=16u64).prop_map(|(at, n)| at * BLOCK..(at + n).min(16) * BLOCK);
    let step = prop_oneof![
        blocks().prop_map(Step::Plug),
        blocks().prop_map(Step::Unplug),
        (0..=16u64).prop_map(|n| Step::Usable(n * BLOCK)),
    ];
    proptest::collection::vec(step, 0..40)
}

proptest! {
    /// Any sequence, under both policies: the address space shows the parts that a look at all blocks says.
    #[test]
    fn mapped_parts_follow_the_policy(steps in steps()) {
        for policy in [Policy::WhilePlugged, Policy::WhileUsable] {
            let mut shown = Shown::new(policy);
            let (mut plugged, mut usable) = ([false; 16], 0);
            for step in steps.clone() {
                let mut set = |range: Range<u64>, value| {
                    plugged[(range.start / BLOCK) as usize..(range.end / BLOCK) as usize].fill(value);
                };
                match step {
                    Step::Plug(range) => {
                        set(range.clone(), true);
                        shown.plug(range);
                    }
                    Step::Unplug(range) => {
                        set(range.clone(), false);
                        shown.unplug(range);
                    }
                    Step::Usable(to) => {
                        usable = to;
                        shown.slots.usable(to);
                    }
                }
                let expected = |index: &usize| {
                    let bytes = *index as u64 * PARTS.size..SIZE.min((*index as u64 + 1) * PARTS.size);
                    match policy {
                        Policy::WhilePlugged => bytes.step_by(BLOCK as usize).any(|at| plugged[(at / BLOCK) as usize]),
                        Policy::WhileUsable => bytes.start < usable,
                    }
                };
                prop_assert_eq!(shown.there(), (0..4).filter(expected).collect::<Vec<_>>(), "{:?}", policy);
            }
        }
    }
}
