//! A guest that says anything.

use proptest::prelude::*;

use super::*;

const NEEDS_RESET: u8 = 0x40;

#[test]
fn buffers_that_no_driver_makes_break_the_device_until_it_is_reset() {
    for (queue, pieces) in [
        (0, &[Piece::Out(&[0; 20])][..]),
        (1, &[Piece::In(20)]),
        (1, &[Piece::Out(&[0; HEADER - 1])]),
        (2, &[Piece::Out(&[0, 0, 0])]),
        (2, &[Piece::Out(&[0]), Piece::In(1)]),
    ] {
        let (mut driver, host) = driver();
        driver.start(USUAL, 3);
        driver.put(queue, pieces);
        assert_eq!(driver.status() & NEEDS_RESET, NEEDS_RESET, "queue {queue}: {pieces:?}");
        driver.start(USUAL, 3);
        driver.send(1, &[Piece::Out(&with_header(&packet(OWN, 60, 1), 0))]);
        assert_eq!(sent(&host), Some(packet(OWN, 60, 1)));
    }
}

#[test]
fn what_is_no_packet_goes_nowhere() {
    let (mut driver, host) = driver();
    driver.start(USUAL, 3);
    driver.send(1, &[Piece::Out(&[0; HEADER])]);
    let long = [0; 2000];
    let too_long: Vec<_> = (0..40).map(|_| Piece::Out(&long)).collect();
    // More descriptors than the ring has entries, one after the other.
    driver.send(1, &too_long[..16]);
    assert_eq!(sent(&host).map(|packet| packet.len()), Some(32_000 - HEADER));
    host.send(&[1, 2, 3]).unwrap();
    host.send(&packet(OWN, 60, 1)).unwrap();
    driver.put(0, &[Piece::In(2048)]);
    assert_eq!(driver.until(|d| d.take(0)), with_header(&packet(OWN, 60, 1), 1));
}

#[test]
fn requests_that_cannot_be_are_answered_so() {
    let (mut driver, _host) = driver();
    driver.start(USUAL, 3);
    let many = [&[1u8, 0][..], &65u32.to_le_bytes(), &[2; 65 * 6], &0u32.to_le_bytes()].concat();
    for (request, possible) in [
        (&[0, 6, 1][..], false),
        (&[0, 0], false),
        // Not negotiated: more modes, pairs of queues, offloads.
        (&[0, 2, 1], false),
        (&[4, 0, 1, 0], false),
        (&[5, 0, 0, 0, 0, 0, 0, 0, 0, 0], false),
        (&[1, 0, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0], false),
        (&[1, 0, 1, 0, 0, 0, 2, 2, 2, 2, 2], false),
        (&[1, 0, 0, 0, 0, 0, 0, 0, 0, 0], true),
        (&[2, 0, 0, 0x10], false),
        (&[2, 1, 0xff, 0x0f], true),
        (&[9, 9], false),
        (&many, true),
    ] {
        assert_eq!(ask(&mut driver, request), possible, "{request:?}");
    }
    assert!(driver.rig.machine.net().rx_filters(None).unwrap()[0].unicast_overflow);
    assert_eq!(driver.status(), 0xf);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn no_request_does_harm(requests in prop::collection::vec(prop::collection::vec(0u8..8, 2..40), 1..16)) {
        let (mut driver, host) = driver();
        driver.start(USUAL | CTRL_RX_EXTRA, 3);
        for request in &requests {
            ask(&mut driver, request);
        }
        prop_assert_eq!(driver.status(), 0xf);
        driver.send(1, &[Piece::Out(&with_header(&packet(OWN, 60, 1), 0))]);
        prop_assert_eq!(sent(&host), Some(packet(OWN, 60, 1)));
    }
}
