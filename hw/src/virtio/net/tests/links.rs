//! Cables that are unplugged and plugged, host ends that go, cards that go.

use super::*;

fn set_link(driver: &Driver, name: &str, up: bool) {
    driver.rig.machine.net().set_link(name, up).unwrap();
}

#[test]
fn the_guest_hears_of_its_cable_and_what_comes_meanwhile_is_lost() {
    let (mut driver, host) = driver();
    driver.start(USUAL, 3);
    driver.put(0, &[Piece::In(2048)]);
    driver.isr();
    for name in ["n", "h"] {
        set_link(&driver, name, false);
        assert_eq!((driver.config(6, 2), driver.isr()), (0, 3), "{name}");
        set_link(&driver, name, false);
        assert_eq!(driver.isr(), 0, "it is down already");
        host.send(&packet(OWN, 60, 1)).unwrap();
        driver.turn();
        assert!(driver.send(1, &[Piece::Out(&with_header(&packet(OWN, 60, 2), 0))]).is_empty());
        assert_eq!(sent(&host), None);
        set_link(&driver, name, true);
        assert_eq!((driver.config(6, 2), driver.isr() & 2), (1, 2), "{name}");
        host.send(&packet(OWN, 60, 3)).unwrap();
        assert_eq!(driver.until(|d| d.take(0))[HEADER..], packet(OWN, 60, 3), "{name}");
        driver.put(0, &[Piece::In(2048)]);
        driver.send(1, &[Piece::Out(&with_header(&packet(OWN, 60, 4), 0))]);
        assert_eq!(sent(&host), Some(packet(OWN, 60, 4)));
    }
    set_link(&driver, "h", false);
    set_link(&driver, "n", true);
    assert_eq!(driver.config(6, 2), 1, "its own end is plugged");
    driver.send(1, &[Piece::Out(&with_header(&packet(OWN, 60, 5), 0))]);
    assert_eq!(sent(&host), None, "the other is not");
}

#[test]
fn a_packet_that_waits_for_the_host_is_lost_with_the_link() {
    let (mut driver, _host) = driver();
    driver.start(USUAL, 3);
    for sent in 0.. {
        driver.put(1, &[Piece::Out(&with_header(&packet([0xff; 6], 60, 0), 0))]);
        if driver.take(1).is_none() {
            break;
        }
        assert!(sent < 10_000, "it never waits");
    }
    set_link(&driver, "n", false);
    assert!(driver.until(|d| d.take(1)).is_empty());
}

#[test]
fn a_host_end_that_goes_leaves_a_card_without_a_link() {
    let (mut driver, host) = driver();
    driver.start(USUAL, 3);
    driver.isr();
    let net = Arc::clone(driver.rig.machine.net());
    net.remove("h").unwrap();
    assert_eq!((driver.config(6, 2), driver.isr()), (0, 3));
    assert!(host.send(b"anybody there").is_err(), "it is closed");
    assert!(driver.send(1, &[Piece::Out(&with_header(&packet(OWN, 60, 5), 0))]).is_empty());
    driver.put(0, &[Piece::In(2048)]);
    assert_eq!(net.remove("h").unwrap_err().desc(), "Device 'h' not found");
    // The id is free again, for another card.
    let _other = netdev(&driver.rig, "h");
    assert_eq!(net.list().len(), 2);
    assert_eq!(net.lonely(), ["netdev h has no peer"]);
}

#[test]
fn a_card_without_a_pci_function_is_known_by_itself() {
    let rig = Rig::build(crate::testing::config("microvm")).unwrap();
    rig.add("virtio-net-device,id=x").unwrap();
    rig.add("virtio-net-device").unwrap();
    let names: Vec<_> = rig.machine.net().list().into_iter().map(|card| (card.name, card.info)).collect();
    let info = |last: &str| format!("model=virtio-net-device,macaddr=52:54:00:12:34:{last}");
    assert_eq!(names, [("x".to_owned(), info("56")), ("virtio-net-device.1".to_owned(), info("57"))]);
}

#[test]
fn a_card_that_goes_leaves_its_host_end_to_the_next_one() {
    let rig = rig();
    let host = netdev(&rig, "h");
    rig.add("pcie-root-port,id=p,chassis=1").unwrap();
    let mut driver = Driver::with(rig);
    let net = Arc::clone(driver.rig.machine.net());
    for _ in 0..2 {
        driver.rig.add("virtio-net-pci,netdev=h,id=n,bus=p").unwrap();
        assert_eq!(net.list()[0].info, "model=virtio-net-pci,macaddr=52:54:00:12:34:56");
        let device = qdev::find_device(&driver.rig.machine, "n").unwrap();
        qdev::complete_unplug(&driver.rig.machine, &device);
        assert_eq!(net.list().len(), 1);
        assert_eq!(net.lonely(), ["netdev h has no peer"]);
    }
    // What nobody is connected to does not fill up.
    for _ in 0..1000 {
        while host.send(&packet(OWN, 60, 1)).is_err() {
            driver.turn();
        }
    }
}
