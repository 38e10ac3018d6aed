//! What is closed cannot be touched, by us or through the mapping; what is open can; nobody loses a byte.

use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::thread;

use proptest::prelude::*;

use super::super::{DiscardListener, DiscardManager};
use super::*;
use crate::{Memory, RamSpec};

const PAGE: u64 = 4096;

fn protected(pages: u64, unit: u64) -> (Arc<RamBlock>, Arc<DiscardManager>) {
    let block = Memory::new().create_ram(RamSpec::anonymous("ram", pages * PAGE)).unwrap();
    let mut manager = DiscardManager::new(pages * PAGE, PAGE);
    manager.protect(&block, unit * PAGE).unwrap();
    let manager = Arc::new(manager);
    block.set_discard_manager(Some(Arc::clone(&manager)));
    (block, manager)
}

/// Whether the kernel, on behalf of this process, can read a byte of the host mapping: a guest's view of it.
fn kernel_reads(block: &RamBlock, offset: u64) -> bool {
    let (_reader, writer) = io::pipe().unwrap();
    let addr = block.host_address().wrapping_add(offset as usize);
    crate::ram::probe_read(&writer, addr).is_ok()
}

#[test]
fn discarded_memory_is_an_error_to_everybody_and_populated_memory_to_nobody() {
    let (block, manager) = protected(16, 1);
    let mut byte = [0xff];
    assert!(block.read(0, &mut byte).is_err() && block.write(0, &[1]).is_err() && !kernel_reads(&block, 0));
    assert!(block.slice(0, 1).is_none() && block.range(0, 1).unwrap().slice().is_none());
    manager.populate(PAGE..3 * PAGE).unwrap();
    block.write(PAGE, &[7]).unwrap();
    block.read(PAGE, &mut byte).unwrap();
    assert!(byte == [7] && kernel_reads(&block, PAGE) && kernel_reads(&block, 3 * PAGE - 1));
    assert!(!kernel_reads(&block, 3 * PAGE) && block.read(3 * PAGE - 1, &mut [0; 2]).is_err());
    let error = block.read(0, &mut byte).unwrap_err();
    assert_eq!(error.to_string(), "range 0x0+0x1 of RAM block 'ram' is unplugged");
    manager.discard(0..16 * PAGE).unwrap();
    manager.discard(0..16 * PAGE).unwrap();
    assert!(block.read(PAGE, &mut byte).is_err() && !kernel_reads(&block, PAGE));
    // Freed pages stay protected.
    block.discard(0, 16 * PAGE).unwrap();
    assert!(block.read(PAGE, &mut byte).is_err() && !kernel_reads(&block, PAGE));
    manager.lift_protection();
    block.read(PAGE, &mut byte).unwrap();
    assert!(byte == [0] && kernel_reads(&block, 0));
}

#[test]
fn memory_that_is_being_readied_can_be_given_pages_and_is_closed_again_unless_it_is_populated() {
    let (block, manager) = protected(16, 2);
    manager.populate(0..PAGE).unwrap();
    assert!(block.prealloc(4 * PAGE, 4 * PAGE, 1).is_err(), "closed");
    let admission = manager.admit(0..8 * PAGE).unwrap();
    block.prealloc(4 * PAGE, 4 * PAGE, 1).unwrap();
    assert!(block.read(4 * PAGE, &mut [0]).is_err(), "nobody else gets in");
    manager.populate(4 * PAGE..5 * PAGE).unwrap();
    drop(admission);
    assert!(kernel_reads(&block, 4 * PAGE) && block.write(5 * PAGE, &[1]).is_ok(), "the unit is populated");
    assert!(kernel_reads(&block, PAGE), "as is what was populated before");
    assert!(!kernel_reads(&block, 6 * PAGE) && !kernel_reads(&block, 2 * PAGE));
    assert!(manager.admit(0..1).is_err() && manager.admit(0..17 * PAGE).is_err());
    let open = Arc::new(DiscardManager::new(PAGE, PAGE));
    drop(open.admit(0..PAGE).unwrap());
}

#[test]
fn a_unit_is_open_while_something_in_it_is_populated() {
    let (block, manager) = protected(10, 4);
    assert!(!manager.is_protecting_granules() && protected(1, 1).1.is_protecting_granules());
    manager.populate(5 * PAGE..6 * PAGE).unwrap();
    let open = || (0..10).filter(|page| block.is_accessible(page * PAGE, 1)).collect::<Vec<_>>();
    assert_eq!(open(), [4, 5, 6, 7]);
    manager.populate(6 * PAGE..9 * PAGE).unwrap();
    assert_eq!(open(), [4, 5, 6, 7, 8, 9]);
    manager.discard(5 * PAGE..7 * PAGE).unwrap();
    assert_eq!(open(), [4, 5, 6, 7, 8, 9]);
    manager.discard(7 * PAGE..8 * PAGE).unwrap();
    assert_eq!(open(), [8, 9]);
    assert!(!kernel_reads(&block, 4 * PAGE) && kernel_reads(&block, 9 * PAGE));
}

#[test]
fn a_copy_of_a_pin_keeps_memory_open_by_itself() {
    let (_block, manager) = protected(1, 1);
    manager.populate(0..PAGE).unwrap();
    let pins = || manager.barrier.as_ref().unwrap().pins.load(Ordering::SeqCst);
    let pin = Pin::take(&manager, &(0..PAGE)).unwrap().unwrap();
    let copy = pin.clone();
    drop(pin);
    assert_eq!(pins(), 1);
    drop(copy);
    assert_eq!(pins(), 0);
}

struct Refuses;
impl DiscardListener for Refuses {
    fn populate(&self, _range: Range<u64>) -> Result<(), String> {
        Err("no".into())
    }
    fn discard(&self, _range: Range<u64>) {}
}

#[test]
fn what_a_listener_or_the_host_refuses_stays_closed() {
    let (block, manager) = protected(8, 1);
    manager.populate(2 * PAGE..3 * PAGE).unwrap();
    let id = manager.register(0..2 * PAGE, Arc::new(Refuses)).unwrap();
    assert!(manager.populate(0..4 * PAGE).is_err());
    assert!(!block.is_accessible(0, 1) && !kernel_reads(&block, 0) && !kernel_reads(&block, 3 * PAGE));
    assert!(kernel_reads(&block, 2 * PAGE), "what was open before stays open");
    manager.unregister(id);
    let refused = manager.populate_with(0..PAGE, || Err(crate::Error::BadSize(0)));
    assert!(refused.is_err() && !block.is_accessible(0, 1) && !kernel_reads(&block, 0));
    // The pages can be made ready before anybody may see them.
    let seen = Mutex::new(None);
    let ready = || {
        *seen.lock().unwrap() = Some((kernel_reads(&block, 0), block.is_accessible(0, 1)));
        Ok(())
    };
    manager.populate_with(0..PAGE, ready).unwrap();
    assert_eq!(seen.into_inner().unwrap(), Some((true, false)));
}

#[test]
fn unplugging_waits_for_copies_under_way_and_none_of_them_dies() {
    let (block, manager) = protected(8, 1);
    let end = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..2)
        .map(|_| {
            let (block, end) = (Arc::clone(&block), Arc::clone(&end));
            thread::spawn(move || {
                let mut buf = vec![0; 8 * PAGE as usize];
                let (mut good, mut refused) = (0u32, 0u32);
                while !end.load(Ordering::SeqCst) || good == 0 || refused == 0 {
                    match block.read(0, &mut buf) {
                        Ok(()) => good += 1,
                        Err(_) => refused += 1,
                    }
                }
            })
        })
        .collect();
    for _ in 0..500 {
        manager.populate(0..8 * PAGE).unwrap();
        thread::yield_now();
        manager.discard(0..8 * PAGE).unwrap();
    }
    end.store(true, Ordering::SeqCst);
    // Each has seen both kinds of answer before it ends.
    while readers.iter().any(|reader| !reader.is_finished()) {
        manager.populate(0..8 * PAGE).unwrap();
        thread::yield_now();
        manager.discard(0..8 * PAGE).unwrap();
        thread::yield_now();
    }
    readers.into_iter().for_each(|reader| reader.join().unwrap());
    assert_eq!(manager.barrier.as_ref().unwrap().pins.load(Ordering::SeqCst), 0);
}

#[test]
fn a_mapping_is_split_so_often_and_no_more() {
    let (block, manager) = protected(16, 1);
    let mut manager = Arc::try_unwrap({
        block.set_discard_manager(None);
        manager
    })
    .unwrap();
    manager.barrier.as_mut().unwrap().max_splits = 4;
    let manager = Arc::new(manager);
    block.set_discard_manager(Some(Arc::clone(&manager)));
    let page = |at: u64| at * PAGE..(at + 1) * PAGE;
    manager.populate(page(2)).unwrap();
    manager.populate(page(4)).unwrap();
    // What needs no new split is still there to be had.
    let refused = manager.populate(page(8)).unwrap_err();
    assert_eq!(refused.to_string(), "cannot change the protection of guest memory: Cannot allocate memory");
    assert!(!block.is_accessible(8 * PAGE, 1) && !kernel_reads(&block, 8 * PAGE));
    // The last of three closed runs needs one: those before it are closed again.
    assert!(manager.populate(0..9 * PAGE).is_err());
    assert!([0, 3, 5].iter().all(|at| !kernel_reads(&block, at * PAGE)) && kernel_reads(&block, 2 * PAGE));
    manager.populate(page(3)).unwrap();
    manager.populate(0..2 * PAGE).unwrap();
    // What cannot be closed is kept from device models at least.
    manager.discard(page(1)).unwrap();
    assert!(!block.is_accessible(PAGE, 1) && kernel_reads(&block, PAGE));
    manager.discard(0..16 * PAGE).unwrap();
    assert!(!kernel_reads(&block, 2 * PAGE));
}

proptest! {
    #[test]
    fn a_byte_is_accessible_exactly_if_its_unit_holds_populated_pages(
        unit in prop_oneof![Just(1u64), Just(2), Just(3)],
        steps in proptest::collection::vec((any::<bool>(), 0u64..20, 1u64..8), 1..30),
    ) {
        let (block, manager) = protected(20, unit);
        let mut model = [false; 20];
        for (plug, from, len) in steps {
            let to = (from + len).min(20);
            let range = from * PAGE..to * PAGE;
            if plug { manager.populate(range).unwrap() } else { manager.discard(range).unwrap() }
            model[from as usize..to as usize].fill(plug);
            for page in 0..20u64 {
                let first = page / unit * unit;
                let expected = model[first as usize..((first + unit).min(20)) as usize].contains(&true);
                prop_assert_eq!(block.is_accessible(page * PAGE, PAGE), expected);
                prop_assert_eq!(kernel_reads(&block, page * PAGE), expected);
            }
        }
    }
}
