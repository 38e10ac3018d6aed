//! The block map against a plain list.

use super::*;
use crate::testing::Machine;
use proptest::prelude::*;
use std::vec;
use std::vec::Vec;

const BLOCKS: u64 = 1500;

fn runs() -> impl Strategy<Value = Vec<(u64, u64, u8)>> {
    let value = prop_oneof![Just(0u8), 1..4u8];
    proptest::collection::vec((0..BLOCKS + 20, 1..900u64, value), 1..20)
}

proptest! {
    #[test]
    fn the_map_agrees_with_a_plain_list(runs in runs(), limit in 0..BLOCKS + 20, max in 1..1200u64) {
        let mut machine = Machine::default();
        // Old contents of the memory must not matter.
        machine.ram_write(1 << 20, &[7; 2048]);
        let mut map = BlockMap::take(&mut Arena::new(1 << 20, 2 << 20), BLOCKS).expect("memory for a map");
        let mut model = vec![0u8; BLOCKS as usize];
        for (first, count, value) in runs {
            map.set(&mut machine, Run { first, count }, value);
            for block in first..(first + count).min(BLOCKS) {
                model[block as usize] = value;
            }
            prop_assert_eq!(map.plugged(), model.iter().filter(|v| **v != 0).count() as u64);

            let end = limit.min(BLOCKS) as usize;
            let unplugged = model[..end].iter().position(|v| *v == 0).map(|at| {
                let count = model[at..end].iter().take_while(|v| **v == 0).count() as u64;
                Run { first: at as u64, count: count.min(max) }
            });
            prop_assert_eq!(map.find_unplugged(&mut machine, limit, max), unplugged);

            let last = model.iter().rposition(|v| *v != 0).map(|at| {
                let count = model[..=at].iter().rev().take_while(|v| **v != 0).count() as u64;
                let count = count.min(max);
                Run { first: at as u64 + 1 - count, count }
            });
            prop_assert_eq!(map.find_last_plugged(&mut machine, max), last);

            let plugged = model.iter().enumerate().find(|(at, v)| *at as u64 >= limit && **v != 0).map(|(at, v)| {
                let count = model[at..].iter().take_while(|w| *w == v).count() as u64;
                (Run { first: at as u64, count: count.min(max) }, *v)
            });
            prop_assert_eq!(map.find_plugged(&mut machine, limit, max), plugged);
        }
        map.clear_all();
        prop_assert_eq!(map.find_last_plugged(&mut machine, max), None);
        prop_assert_eq!(map.get(&mut machine, 3), 0);
    }
}

#[test]
fn a_region_of_many_terabytes_costs_memory_only_where_it_was_used() {
    let mut machine = Machine::default();
    let mut map =
        BlockMap::take(&mut Arena::new(1 << 20, 64 << 20), 8 << 20).expect("16 TiB in 2 MiB blocks");
    map.set(&mut machine, Run { first: 0, count: 65_535 }, 1);
    assert_eq!(map.find_last_plugged(&mut machine, 10), Some(Run { first: 65_525, count: 10 }));
    assert_eq!(machine.memory.word((1 << 20) + 70_000, 8), 0);
    assert_eq!(BlockMap::take(&mut Arena::new(0, 100), 101).map(|map| map.blocks()), None);
}
