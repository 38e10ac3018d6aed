//! Registers at their offsets.

use proptest::prelude::*;

use super::*;
use crate::virtio::state::Generic;
use crate::virtio::testing::{Echo, NEEDED};

const GENERIC: Generic = Generic {
    indirect_desc: true,
    event_idx: true,
    iommu_platform: false,
    packed: false,
    in_order: false,
    queue_reset: true,
};

struct Dut {
    device: Echo,
    state: VirtioState,
    selectors: Selectors,
}

impl Dut {
    fn new() -> Self {
        let device = Echo::default();
        let state = VirtioState::new(&device, GENERIC);
        Self { device, state, selectors: Selectors::default() }
    }
    fn get(&self, offset: u64) -> u32 {
        read(&self.selectors, &self.state, offset)
    }
    fn set(&mut self, offset: u64, value: u32) -> Effect {
        write(&mut self.selectors, &mut self.state, &self.device, 2, offset, value)
    }
}

#[test]
fn features_are_read_and_accepted_by_halves() {
    let mut d = Dut::new();
    assert_eq!(d.get(4), 0x3000_0003);
    d.set(0, 1);
    assert_eq!(d.get(4), 0x101);
    d.set(0, 2);
    assert_eq!(d.get(4), 0);
    d.set(12, NEEDED as u32);
    d.set(8, 1);
    d.set(12, 0xffff_ffff);
    assert_eq!(d.get(12), 0xffff_ffff, "reads back as written");
    assert_eq!(d.state.accepted(), 0x101 << 32 | NEEDED);
    d.set(8, 7);
    d.set(12, 5);
    assert_eq!(d.get(12), 0);
}

#[test]
fn vectors_beyond_the_table_read_back_as_none() {
    let mut d = Dut::new();
    assert_eq!((d.get(16), d.get(26)), (0xffff, 0xffff));
    d.set(16, 0);
    d.set(26, 1);
    assert_eq!((d.get(16), d.get(26)), (0, 1));
    d.set(16, 2);
    d.set(26, 2);
    assert_eq!((d.get(16), d.get(26)), (0xffff, 0xffff));
}

#[test]
fn queues_are_set_up_through_the_selector() {
    let mut d = Dut::new();
    assert_eq!((d.get(18), d.get(24), d.get(30)), (2, 8, 0));
    d.set(22, 1);
    assert_eq!((d.get(24), d.get(30)), (4, 1));
    d.set(24, 3);
    assert_eq!(d.get(24), 4, "not a power of two");
    d.set(24, 2);
    assert_eq!(d.get(24), 2);
    for (offset, value) in [(32, 0x1000), (36, 1), (40, 0x2000), (44, 2), (48, 0x3000), (52, 3)] {
        d.set(offset, value);
        assert_eq!(d.get(offset), value);
    }
    d.set(28, 1);
    assert_eq!(d.get(28), 1);
    d.set(32, 0x5000);
    assert_eq!(d.get(32), 0x1000, "fixed while enabled");
    d.set(58, 1);
    assert_eq!((d.get(58), d.get(28), d.get(32), d.get(24)), (0, 0, 0, 4));
    d.set(22, 2);
    assert_eq!((d.get(24), d.get(26), d.get(28)), (0, 0xffff, 0), "no such queue");
    d.set(22, 5000);
    assert_eq!(d.get(22), 2);
}

#[test]
fn an_enable_register_that_gets_nonsense_breaks_the_device() {
    let mut d = Dut::new();
    match d.set(28, 0x22) {
        Effect::Served(served) => assert_eq!(served.violation.unwrap().0, "wrong value for queue_enable 22"),
        other => panic!("{other:?}"),
    }
    assert_eq!(d.get(20), 0x40);
    assert!(matches!(d.set(20, 0), Effect::Status(StatusChange::Reset)));
    assert_eq!(d.get(20), 0);
}

proptest! {
    #[test]
    fn random_accesses_neither_panic_nor_select_nonsense(writes in proptest::collection::vec((0u64..80, any::<u32>()), 0..100)) {
        let mut d = Dut::new();
        for (offset, value) in writes {
            d.set(offset, value);
            d.get(offset);
            prop_assert!(d.state.accepted() & !d.state.offered() == 0);
        }
    }
}
