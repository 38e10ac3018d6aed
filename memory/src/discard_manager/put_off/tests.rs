//! A mapping that puts everything off, and who has it made.

use std::sync::Mutex;

use super::*;
use crate::{Memory, RamBlock, RamSpec, RegionDesc};

const GRANULE: u64 = 1 << 16;

/// Tells what it was asked for.
#[derive(Default)]
struct Lazy(Mutex<Vec<(&'static str, Range<u64>)>>);

impl Lazy {
    fn log(&self, what: &'static str, range: Range<u64>) {
        self.0.lock().unwrap().push((what, range.start / GRANULE..range.end.div_ceil(GRANULE)));
    }

    fn told(&self) -> Vec<(&'static str, Range<u64>)> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

impl DiscardListener for Lazy {
    fn populate(&self, range: Range<u64>) -> Result<(), String> {
        self.log("populate", range);
        Ok(())
    }

    fn populate_soon(&self, range: Range<u64>) -> Result<bool, String> {
        self.log("soon", range);
        Ok(true)
    }

    fn settle(&self, range: Range<u64>) {
        self.log("settle", range);
    }

    fn discard(&self, range: Range<u64>) {
        self.log("discard", range);
    }
}

/// A block of 16 granules whose manager has two lazy mappings, of half of it each.
fn rig() -> (Arc<RamBlock>, Arc<DiscardManager>, [Arc<Lazy>; 2]) {
    let memory = Memory::new();
    let block = memory.create_ram(RamSpec::anonymous("ram", 16 * GRANULE)).unwrap();
    let mut manager = DiscardManager::new(16 * GRANULE, GRANULE);
    manager.protect(&block, GRANULE).unwrap();
    let manager = Arc::new(manager);
    let mut tx = memory.transaction();
    let region = tx.ram(RegionDesc::new("ram", (16 * GRANULE).into()), Arc::clone(&block));
    tx.set_discard_manager(region, Some(Arc::clone(&manager))).unwrap();
    tx.commit();
    let mappings = [0, 8].map(|first| {
        let mapping = Arc::new(Lazy::default());
        let range = first * GRANULE..(first + 8) * GRANULE;
        manager.register_mapping(range, Arc::<Lazy>::clone(&mapping)).unwrap();
        mapping
    });
    (block, manager, mappings)
}

fn granules(range: Range<u64>) -> Range<u64> {
    range.start * GRANULE..range.end * GRANULE
}

#[test]
fn an_access_has_the_mapping_made_that_it_needs_and_no_other_and_once() {
    let (block, manager, [low, high]) = rig();
    manager.populate(granules(6..10)).unwrap();
    assert_eq!((low.told(), high.told()), (vec![("soon", 6..8)], vec![("soon", 8..10)]));
    block.write(9 * GRANULE, &[1]).unwrap();
    assert_eq!((low.told(), high.told()), (vec![], vec![("settle", 8..10)]));
    block.write(9 * GRANULE, &[1]).unwrap();
    assert_eq!((low.told(), high.told()), (vec![], vec![]));
    // One that shows both needs both; what was settled is not again.
    let mut bytes = [0; 2];
    block.read(8 * GRANULE - 1, &mut bytes).unwrap();
    assert_eq!((low.told(), high.told()), (vec![("settle", 6..8)], vec![]));
    block.read(8 * GRANULE - 1, &mut bytes).unwrap();
    assert_eq!((low.told(), high.told()), (vec![], vec![]));
}

#[test]
fn what_is_refused_to_an_access_is_settled_by_nobody() {
    let (block, manager, [low, _]) = rig();
    manager.populate(granules(0..1)).unwrap();
    low.told();
    assert!(block.write(2 * GRANULE, &[1]).is_err());
    assert_eq!(low.told(), []);
}

#[test]
fn pieces_that_continue_each_other_are_settled_as_one() {
    let (_block, manager, [low, _]) = rig();
    for granule in [0, 1, 2, 4] {
        manager.populate(granules(granule..granule + 1)).unwrap();
    }
    low.told();
    manager.settle(granules(0..16));
    assert_eq!(low.told(), [("settle", 0..3), ("settle", 4..5)]);
}

#[test]
fn nothing_is_put_off_where_somebody_else_is_told() {
    let (_block, manager, [low, high]) = rig();
    manager.populate(granules(2..3)).unwrap();
    assert_eq!(low.told(), [("soon", 2..3)]);
    // He learns of memory whose mappings are there.
    let other = Arc::new(Lazy::default());
    let id = manager.register(granules(0..8), Arc::<Lazy>::clone(&other)).unwrap();
    assert_eq!((low.told(), other.told()), (vec![("settle", 2..3)], vec![("populate", 2..3)]));
    manager.populate(granules(4..9)).unwrap();
    assert_eq!((low.told(), high.told()), (vec![("populate", 4..8)], vec![("soon", 8..9)]));
    manager.unregister(id);
    manager.populate(granules(0..1)).unwrap();
    assert_eq!(low.told(), [("soon", 0..1)]);
}

#[test]
fn who_has_left_is_not_asked() {
    let (block, manager, [low, _]) = rig();
    let late = Arc::new(Lazy::default());
    manager.populate(granules(0..1)).unwrap();
    manager.settle(granules(0..1));
    let id = manager.register_mapping(granules(15..16), Arc::<Lazy>::clone(&late)).unwrap();
    manager.put_off.add(granules(15..16), &(Arc::<Lazy>::clone(&late) as Arc<dyn DiscardListener>));
    manager.unregister(id);
    low.told();
    manager.settle(granules(0..16));
    block.write(0, &[1]).unwrap();
    assert_eq!((low.told(), late.told()), (vec![], vec![]));
}

#[test]
fn who_settles_while_more_is_put_off_does_not_lose_it() {
    /// Puts more off while it is settled.
    struct Growing(std::sync::Weak<DiscardManager>, std::sync::OnceLock<Arc<dyn DiscardListener>>, Lazy);
    impl DiscardListener for Growing {
        fn populate(&self, _range: Range<u64>) -> Result<(), String> {
            Ok(())
        }
        fn discard(&self, _range: Range<u64>) {}
        fn settle(&self, range: Range<u64>) {
            let (manager, me) = (self.0.upgrade().unwrap(), self.1.get().unwrap());
            if self.2.told().is_empty() {
                manager.put_off.add(range.end..range.end + GRANULE, me);
            }
            self.2.log("settle", range);
        }
    }
    let (_block, manager, _) = rig();
    let growing = Arc::new(Growing(Arc::downgrade(&manager), std::sync::OnceLock::new(), Lazy::default()));
    let as_listener: Arc<dyn DiscardListener> = Arc::<Growing>::clone(&growing);
    assert!(growing.1.set(Arc::clone(&as_listener)).is_ok());
    manager.put_off.add(granules(0..1), &as_listener);
    manager.settle(granules(0..1));
    assert_eq!(growing.2.told(), [("settle", 0..1)]);
    growing.2.log("settle", granules(0..1));
    manager.settle(granules(1..2));
    assert_eq!(growing.2.told(), [("settle", 0..2)]);
    manager.settle(granules(0..16));
    assert_eq!(growing.2.told(), []);
}
