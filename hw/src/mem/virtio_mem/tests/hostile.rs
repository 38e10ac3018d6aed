//! Guests that mean no good: whatever they write, the machine goes on and one reset later the device works.

use guest::bus::Bus as _;
use proptest::prelude::*;

use super::rig::{G, M, Raw, Rig};

const FEATURES: u64 = 1 << 40 | 1 << 32 | 3 << 28 | 3;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    /// Random writes to every register window and to configuration space, with rings at random places.
    #[test]
    fn random_register_writes_do_no_harm(
        writes in proptest::collection::vec((0u64..0x3100, 0u32..4, any::<u32>()), 0..200),
        config in proptest::collection::vec((0u8..=255, any::<u32>()), 0..40),
    ) {
        let mut d = Raw::new(Rig::with_device("pc", "64M"), FEATURES);
        let function = d.rig.function();
        for (offset, size, value) in writes {
            let at = d.common + offset;
            match size {
                0 => d.rig.mmio_write8(at, value as u8),
                1 => d.rig.mmio_write16(at & !1, value as u16),
                2 => d.rig.mmio_write32(at & !3, value),
                _ => d.rig.mmio_write64(at & !7, u64::from(value) << 32 | u64::from(value)),
            }
            d.rig.mmio_read32(at & !3);
        }
        d.rig.turn();
        for (offset, value) in config {
            function.write32(&mut d.rig, offset & !3, value);
            function.read32(&mut d.rig, offset & !3);
        }
        d.rig.turn();
        d.rig.system_reset();
        let mut d = Raw::new(d.rig, FEATURES);
        prop_assert_eq!(d.plug(4 * G, 1), 0);
        prop_assert_eq!(d.rig.size(), 2 * M);
    }

    /// Random bytes in the rings and random requests.
    #[test]
    fn random_rings_and_requests_do_no_harm(
        rings in proptest::collection::vec(any::<u8>(), 0x400),
        at in 0u64..0x2400,
        requests in proptest::collection::vec((proptest::collection::vec(any::<u8>(), 0..64), 0u32..64), 0..20),
    ) {
        let mut d = Raw::new(Rig::with_device("pc", "64M"), FEATURES);
        for (request, room) in requests {
            d.send(&request, room);
            if d.status() & 0x40 != 0 {
                d.start(FEATURES);
            }
        }
        d.rig.ram_write(0x40_0000 + at, &rings);
        let notify = d.common + 0x3000;
        for _ in 0..8 {
            d.rig.mmio_write16(notify, 0);
            d.rig.turn();
        }
        prop_assert!(d.rig.size() <= 64 * M);
        d.start(FEATURES);
        prop_assert_eq!(d.unplug_all(), 0);
        prop_assert_eq!(d.plug(4 * G, 1), 0);
    }
}
