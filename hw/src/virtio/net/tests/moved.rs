//! What goes along with a machine that is moved.

use super::*;
use crate::testing::carry;

#[test]
fn a_moved_card_filters_as_before_and_the_guest_is_to_say_where_it_is() {
    let (mut driver, _host) = driver();
    driver.start(USUAL, 3);
    assert!(ask(&mut driver, &[0, 0, 0]));
    assert!(ask(&mut driver, &[1, 1, 2, 0, 0, 0, 0, 8]));
    assert!(ask(&mut driver, &[2, 0, 7, 0]));
    driver.put(0, &[Piece::In(2048)]);
    driver.rig.events();
    let to = rig();
    let host = netdev(&to, "h");
    to.add(CARD).unwrap();
    let mut driver = driver.carried(to);
    driver.until(|d| (d.config(6, 2) == 3).then_some(()));
    assert_eq!(driver.isr() & 2, 2, "the configuration changed");
    host.send(&packet(OWN, 60, 1)).unwrap();
    host.send(&packet([2, 0, 0, 0, 0, 8], 60, 2)).unwrap();
    assert_eq!(driver.until(|d| d.take(0))[HEADER..], packet([2, 0, 0, 0, 0, 8], 60, 2));
    assert_eq!(driver.rig.machine.net().list()[0].info, "model=virtio-net-pci,macaddr=02:00:00:00:00:08");
    assert_eq!(driver.rig.machine.net().rx_filters(None).unwrap()[0].vlan_table, [7]);
    assert!(ask(&mut driver, &[3, 0]), "it has said it");
    assert_eq!(driver.config(6, 2), 1);
    assert!(!ask(&mut driver, &[3, 0]), "nobody asked");
}

#[test]
fn an_unplugged_cable_stays_unplugged() {
    let (mut driver, _host) = driver();
    driver.start(STATUS, 2);
    driver.rig.machine.net().set_link("n", false).unwrap();
    let to = rig();
    let _host = netdev(&to, "h");
    to.add(CARD).unwrap();
    let driver = driver.carried(to);
    assert_eq!(driver.config(6, 2), 0);
}

#[test]
fn bad_state_does_no_harm() {
    let (mut driver, _host) = driver();
    driver.start(USUAL, 3);
    driver.rig.machine.stop();
    let state = carry::save(&driver.rig.machine);
    let to = Driver::new(&["virtio-net-pci,id=n,ctrl_vlan=off"]);
    to.rig.machine.stop();
    let failed = carry::load(&to.rig.machine, &state).unwrap_err();
    assert_eq!(failed.lines.last().map(String::as_str), Some("Failed to load virtio-net:virtio"));
    carry::spoil(&driver.rig.machine, "virtio-net");
}
