//! Claims about what is dumped: of all memory the part that is there, and for page tables the part that they map.

use memory::{DiscardManager, Memory, RamSpec, RegionDesc, SIZE_ALL};
use proptest::prelude::*;

use super::*;

const M: u64 = 1 << 20;
/// Blocks of the sparse device.
const UNITS: u64 = 8;

/// 4 MiB of RAM in two pieces around a hole and a ROM behind it; at 64 MiB a block with these units of 1 MiB plugged.
fn view(plugged: &[u64]) -> (Arc<Memory>, Arc<FlatView>) {
    let memory = Memory::new();
    let ram = memory.create_ram(RamSpec::anonymous("ram", 4 * M)).unwrap();
    let rom = memory.create_ram(RamSpec::anonymous("rom", M)).unwrap();
    let sparse = memory.create_ram(RamSpec::anonymous("sparse", UNITS * M)).unwrap();
    let manager = Arc::new(DiscardManager::new(UNITS * M, M));
    let mut tx = memory.transaction();
    let root = tx.container(RegionDesc::new("system", SIZE_ALL));
    let region = tx.ram(RegionDesc::new("ram", u128::from(4 * M)), Arc::clone(&ram));
    let low = tx.alias(RegionDesc::new("low", u128::from(3 * M)), region, 0);
    let high = tx.alias(RegionDesc::new("high", u128::from(M)), region, 3 * M);
    let rom = tx.rom(RegionDesc::new("rom", u128::from(M)), rom);
    let device = tx.ram(RegionDesc::new("sparse", u128::from(UNITS * M)), Arc::clone(&sparse));
    tx.add_subregion(root, 0, low, 0);
    tx.add_subregion(root, 8 * M, high, 0);
    tx.add_subregion(root, 16 * M, rom, 0);
    tx.add_subregion(root, 64 * M, device, 0);
    tx.set_discard_manager(device, Some(Arc::clone(&manager))).unwrap();
    let space = tx.address_space("memory", root);
    tx.commit();
    for unit in plugged {
        manager.populate(unit * M..(unit + 1) * M).unwrap();
    }
    let view = space.view();
    (memory, view)
}

fn shape(plan: &Plan) -> Vec<(u64, u64)> {
    plan.dumped.iter().map(|run| (run.physical, run.len)).collect()
}

#[test]
fn ram_and_rom_are_dumped_and_of_a_memory_device_what_is_plugged() {
    let (_memory, view) = view(&[1, 2, 7]);
    let plan = Plan::new(&view, Vec::new(), false, None);
    let fixed = [(0, 3 * M), (8 * M, M), (16 * M, M)];
    assert_eq!(shape(&plan), [&fixed[..], &[(65 * M, 2 * M), (71 * M, M)]].concat());
    assert_eq!(plan.total(), 8 * M);
    let positions: Vec<_> = plan.loads().unwrap().iter().map(|load| load.position / M).collect();
    assert_eq!(positions, [0, 3, 4, 5, 7]);
    assert!(plan.loads().unwrap().iter().all(|load| load.linear == load.physical));
}

#[test]
fn a_filter_cuts_by_physical_address() {
    let (_memory, view) = view(&[1, 2, 7]);
    let filtered = |range| shape(&Plan::new(&view, Vec::new(), false, Some(range)));
    assert_eq!(filtered(M..9 * M), [(M, 2 * M), (8 * M, M)]);
    assert_eq!(filtered(0x1_0001..0x1_0002), [(0x1_0001, 1)]);
    assert_eq!(filtered(66 * M..72 * M), [(66 * M, M), (71 * M, M)]);
    assert_eq!(filtered(64 * M..65 * M), []);
    assert_eq!(filtered(u64::MAX - 1..u64::MAX), []);
}

#[test]
fn the_file_is_wide_for_long_mode_and_for_much_memory() {
    let (_memory, view) = view(&[]);
    let plan = |vcpus| Plan::new(&view, vcpus, false, None);
    let long = Registers { efer: 1 << 10, ..Registers::at_reset() };
    assert!(!plan(vec![Registers::at_reset()]).is_long_mode());
    assert!(plan(vec![Registers::at_reset(), long]).is_long_mode());
    assert!(plan(Vec::new()).is_long_mode(), "nobody knows");
    assert!(!plan(Vec::new()).is_large());
}

/// A vCPU whose 4-level tables are at 1000h, with the given entries of the last directory: 2 MiB pages from linear 40000000h on.
fn tables(plan: &Plan, entries: &[(u64, u64)]) {
    let ram = &plan.memory[0].block;
    let entry = |at: u64, value: u64| ram.write(at, &value.to_le_bytes()).unwrap();
    entry(0x1000, 0x2007);
    entry(0x2000 + 8, 0x3007);
    for (index, physical) in entries {
        entry(0x3000 + index * 8, physical | 0x87);
    }
}

fn vcpu() -> Registers {
    Registers { cr0: 1 << 31 | 1, cr3: 0x1000, cr4: 1 << 5, efer: 1 << 10, ..Registers::default() }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn segments_of_page_tables_show_exactly_the_memory_that_is_mapped_and_dumped(
        plugged in prop::collection::btree_set(0..UNITS, 0..8),
        entries in prop::collection::btree_map(0u64..12, 0u64..40, 0..10),
        filter in prop::option::of((0u64..90, 1u64..90)),
    ) {
        let (_memory, view) = view(&plugged.iter().copied().collect::<Vec<_>>());
        let filter = filter.map(|(from, len)| from * M..(from + len) * M);
        let plan = Plan::new(&view, vec![vcpu(), Registers::at_reset()], true, filter);
        let entries: Vec<(u64, u64)> = entries.into_iter().map(|(index, page)| (index, page * 2 * M)).collect();
        tables(&plan, &entries);
        let loads = plan.loads().unwrap();
        // By the MiB, which nothing here cuts.
        let mut expected = Vec::new();
        for (index, physical) in entries {
            for half in 0..2 {
                let (linear, physical) = (0x4000_0000 + index * 2 * M + half * M, physical + half * M);
                let mut position = 0;
                for run in &plan.dumped {
                    if run.physical <= physical && physical < run.physical + run.len {
                        expected.push((physical, linear, position + physical - run.physical));
                    }
                    position += run.len;
                }
            }
        }
        expected.sort_unstable();
        let mut found = Vec::new();
        for load in &loads {
            prop_assert_eq!(load.len % M, 0);
            for at in (0..load.len).step_by(M as usize) {
                found.push((load.physical + at, load.linear + at, load.position + at));
            }
        }
        found.sort_unstable();
        prop_assert_eq!(found, expected);
        let sorted = |w: &[Load]| (w[0].physical, w[0].linear) < (w[1].physical, w[1].linear);
        prop_assert!(loads.windows(2).all(sorted), "by physical address");
    }
}

#[test]
fn without_paging_in_any_vcpu_linear_addresses_are_physical() {
    let (_memory, view) = view(&[0]);
    let plan = Plan::new(&view, vec![Registers::at_reset()], true, None);
    let simple = Plan::new(&view, vec![Registers::at_reset()], false, None);
    assert_eq!(plan.loads(), simple.loads());
}

#[test]
fn tables_that_point_at_themselves_are_an_error() {
    let (_memory, view) = view(&[]);
    let plan = Plan::new(&view, vec![vcpu()], true, None);
    for index in 0..512u64 {
        plan.memory[0].block.write(0x1000 + 8 * index, &0x1007u64.to_le_bytes()).unwrap();
    }
    assert_eq!(plan.loads(), Err(TooLarge));
}
