//! What happens when a mapping cannot be had: refusals roll back, budgets hold, warnings say so in advance.

use std::ops::Range;

use tracing::field::{Field, Visit};
use tracing::span;

use super::*;

fn at_most(max: u64) -> DmaLimits {
    DmaLimits { max_mappings: Some(max), ..DmaLimits::default() }
}

#[test]
fn a_refusal_half_way_is_rolled_back_and_nothing_is_populated() {
    let vm = Vm::new();
    let mapper = vm.attached();
    vm.sparse.populate(4..5).unwrap();
    vm.recorder.take_log();
    vm.recorder.refuses.lock().unwrap().push(ADDR + 7 * GRANULE);
    // Two runs: 2..4 agrees, 5..9 is refused in the middle.
    assert_eq!(vm.sparse.populate(2..9).unwrap_err(), "the IOMMU refuses");
    let log = vm.recorder.take_log();
    let at = |sign: char, granule: u64| format!("{sign}{:x}", ADDR + granule * GRANULE);
    let mapped = [2, 3, 5, 6].map(|granule| at('+', granule));
    assert_eq!(log[..4], mapped);
    let mut undone: Vec<String> = log[4..].to_vec();
    undone.sort();
    assert_eq!(undone, [2, 3, 5, 6].map(|granule| at('-', granule)));
    assert_eq!((vm.recorder.granules(), mapper.mappings()), (vec![4], 1));
    assert!(vm.sparse.manager.is_discarded(5 * GRANULE..SPARSE));
    vm.recorder.refuses.lock().unwrap().clear();
    vm.sparse.populate(2..9).unwrap();
    assert_eq!(vm.recorder.granules(), [2, 3, 4, 5, 6, 7, 8]);
    assert_eq!(mapper.fault(), None, "the guest was refused; the map is what the guest may use");
}

/// Refuses everything.
struct Never;

impl DiscardListener for Never {
    fn populate(&self, _range: Range<u64>) -> Result<(), String> {
        Err("never".into())
    }
    fn discard(&self, _range: Range<u64>) {}
}

#[test]
fn another_listeners_refusal_takes_the_mappings_back() {
    let vm = Vm::new();
    let mapper = vm.attached();
    vm.sparse.populate(0..1).unwrap();
    vm.sparse.manager.register(8 * GRANULE..SPARSE, Arc::new(Never)).unwrap();
    assert_eq!(vm.sparse.populate(0..10).unwrap_err(), "never");
    assert_eq!((vm.recorder.granules(), mapper.mappings()), (vec![0], 1));
    vm.sparse.populate(1..8).unwrap();
    assert_eq!(mapper.mappings(), 8);
}

#[test]
fn what_exceeds_the_budget_is_refused_before_anything_is_mapped() {
    let vm = Vm::new();
    let second = sparse_block(&vm.memory, "mem1");
    vm.add(ADDR + SPARSE, second.region);
    let mapper = vm.attach(at_most(6)).unwrap();
    vm.sparse.populate(0..4).unwrap();
    vm.recorder.take_log();
    assert_eq!(vm.sparse.populate(4..7).unwrap_err(), "3 DMA mappings are needed, 4 of 6 are in use");
    assert_eq!(second.populate(0..3).unwrap_err(), "3 DMA mappings are needed, 4 of 6 are in use");
    assert!(vm.recorder.take_log().is_empty());
    second.populate(3..5).unwrap();
    assert!(vm.sparse.populate(4..5).is_err(), "one budget for all blocks");
    second.discard(4..5);
    vm.sparse.populate(4..5).unwrap();
    assert_eq!(mapper.mappings(), 6);
}

#[test]
fn attaching_beyond_the_budget_is_an_error_that_leaves_nothing() {
    let vm = Vm::new();
    vm.sparse.populate(0..4).unwrap();
    vm.add(0, vm.ram("ram", PAGE));
    let error = vm.attach(at_most(4)).err().unwrap();
    assert_eq!(
        error.to_string(),
        "cannot map 'mem0' at 0x140000000+0x40000 for DMA: 4 DMA mappings are needed, 1 of 4 are in use"
    );
    assert!(vm.recorder.map().is_empty());
    assert!(vm.recorder.incomplete.lock().unwrap().is_empty(), "it never was complete");
    vm.sparse.populate(4..16).unwrap();
    assert!(vm.recorder.map().is_empty(), "nobody listens");
    let error = vm.attach(at_most(0)).err().unwrap();
    assert_eq!(
        error.to_string(),
        "cannot map 'ram' at 0x0+0x1000 for DMA: 1 DMA mappings are needed, 0 of 0 are in use"
    );
    let _balloon = vm.memory.discard_policy().claim(DiscardClaim::Required).expect("no claim is left");
}

#[test]
fn a_section_that_comes_too_late_makes_the_map_incomplete_and_its_owner_hears_of_it_once() {
    let vm = Vm::new();
    let mapper = vm.attach(at_most(2)).unwrap();
    vm.sparse.populate(0..2).unwrap();
    let ram = [0, 1].map(|n| vm.ram(&format!("ram{n}"), PAGE));
    vm.add(0, ram[0]);
    vm.add(0x10_0000, ram[1]);
    let why = "cannot map 'ram0' at 0x0+0x1000 for DMA: 1 DMA mappings are needed, 2 of 2 are in use";
    assert_eq!(*vm.recorder.incomplete.lock().unwrap(), [why]);
    assert_eq!(mapper.fault(), Some(why));
    assert_eq!(vm.recorder.granules(), [0, 1], "what is mapped stays for a device that is being stopped");
    vm.remove(ram[0]);
    vm.sparse.discard(0..1);
    vm.remove(ram[1]);
    assert_eq!(vm.recorder.granules(), [1]);
    vm.recorder.refuses.lock().unwrap().push(0);
    vm.add(0, ram[0]);
    assert_eq!(mapper.mappings(), 1, "what the sink refuses takes no place");
    drop(mapper);
    assert!(vm.recorder.map().is_empty());
}

#[test]
fn granules_smaller_than_a_page_cannot_be_mapped() {
    let vm = Vm::new();
    let block = vm.memory.create_ram(RamSpec::anonymous("odd", PAGE)).unwrap();
    let mut tx = vm.memory.transaction();
    let region = tx.ram(RegionDesc::new("odd", PAGE.into()), block);
    tx.set_discard_manager(region, Some(Arc::new(DiscardManager::new(PAGE, 512)))).unwrap();
    drop(tx);
    vm.add(0, region);
    let error = vm.attach(DmaLimits::default()).err().unwrap();
    assert_eq!(
        error.to_string(),
        "cannot map 'odd' at 0x0+0x1000 for DMA: it is discarded in parts of 0x200 bytes, less than a page (0x1000)"
    );
}

/// Keeps the texts of warnings.
#[derive(Default, Clone)]
struct Warnings(Arc<Mutex<Vec<String>>>);

impl Visit for Warnings {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        if field.name() == "message" {
            self.0.lock().unwrap().push(format!("{value:?}"));
        }
    }
}

impl tracing::Subscriber for Warnings {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() == tracing::Level::WARN
    }
    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }
    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn event(&self, event: &tracing::Event<'_>) {
        event.record(&mut self.clone());
    }
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

/// Warnings while two sparse blocks of 16 granules come under a mapper.
fn warnings(max_mappings: u64, max_memslots: u64) -> Vec<String> {
    let warnings = Warnings::default();
    tracing::subscriber::with_default(warnings.clone(), || {
        let vm = Vm::new();
        let limits = DmaLimits { max_mappings: Some(max_mappings), max_memslots };
        let _mapper = vm.attach(limits).unwrap();
        let second = sparse_block(&vm.memory, "mem1");
        vm.add(ADDR + SPARSE, second.region);
        vm.remove(second.region);
        vm.add(ADDR + SPARSE, second.region);
    });
    std::mem::take(&mut warnings.0.lock().unwrap())
}

#[test]
fn a_device_that_could_come_to_exceed_the_budget_is_warned_about_in_qemus_words() {
    // Granules of both blocks, and a mapping for every memory slot that is not theirs.
    assert_eq!(warnings(2 * 16 + 510, 512), [""; 0]);
    let text = |max: u64| {
        format!(
            "vfio_register_ram_discard_listener: possibly running out of DMA mappings. E.g., try increasing the \
             'block-size' of virtio-mem devies. Maximum possible DMA mappings: {max}, Maximum possible memslots: 512"
        )
    };
    assert_eq!(warnings(2 * 16 + 509, 512), [text(541)], "when the second came, and once");
    assert_eq!(warnings(16 + 510, 512), [text(526)], "when the first came, and once");
    assert_eq!(warnings(32, 1), [""; 0], "more sections than slots");
}
