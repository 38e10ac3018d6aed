//! Against a list that is searched from one end to the other.

use proptest::prelude::*;

use super::*;
use crate::region::{Arena, RegionDesc, RegionKind};

#[derive(Debug, Clone)]
enum Op {
    Insert { addr: u64, size: u128, priority: i32 },
    Remove(prop::sample::Index),
    Resize(prop::sample::Index, u128),
}

fn op() -> impl Strategy<Value = Op> {
    let index = any::<prop::sample::Index>;
    let size = || prop_oneof![8 => 0..6u128, 1 => Just(1 << 64)];
    let addr = prop_oneof![8 => 0..24u64, 1 => Just(u64::MAX)];
    prop_oneof![
        3 => (addr, size(), -1..2i32).prop_map(|(addr, size, priority)| Op::Insert { addr, size, priority }),
        1 => index().prop_map(Op::Remove),
        1 => (index(), size()).prop_map(|(index, size)| Op::Resize(index, size)),
    ]
}

proptest! {
    #[test]
    fn what_reaches_into_a_range_is_found_and_the_topmost_comes_first(
        ops in prop::collection::vec(op(), 1..40), start in -4..26i128, len in 0..12i128
    ) {
        let (mut arena, mut children) = (Arena::default(), Children::default());
        // Oldest first.
        let mut list: Vec<Child> = Vec::new();
        for op in ops {
            match op {
                Op::Insert { addr, size, priority } => {
                    let id = arena.insert(RegionDesc::new("child", size), RegionKind::Container);
                    let child = Child { id, priority, addr, size };
                    children.insert(child);
                    list.push(child);
                }
                Op::Remove(index) if !list.is_empty() => {
                    let child = list.remove(index.index(list.len()));
                    children.remove(child.addr, child.id);
                }
                Op::Resize(index, size) if !list.is_empty() => {
                    let at = index.index(list.len());
                    list[at].size = size;
                    children.resize(list[at].addr, list[at].id, size);
                }
                Op::Remove(_) | Op::Resize(..) => {}
            }
            let mut topmost: Vec<Child> = list.iter().rev().copied().collect();
            topmost.sort_by_key(|child| std::cmp::Reverse(child.priority));
            prop_assert_eq!(&children.topmost_first(), &topmost);
            topmost.retain(|child| {
                let first = i128::from(child.addr);
                first < start + len && first + child.size as i128 > start
            });
            prop_assert_eq!(children.touching(start..start + len), topmost);
        }
    }
}
