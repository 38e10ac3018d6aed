//! Packets go both ways and wait where they should, filters filter, and nothing the guest says does harm.

mod hostile;
mod links;
mod moved;

use std::os::unix::net::UnixDatagram;
use std::sync::Arc;

use ::net::HEADER;
use chardev::fds::NamedFds;

use super::features::{CTRL_MAC_ADDR, CTRL_RX, CTRL_RX_EXTRA, MAC, MRG_RXBUF};
use super::*;
use crate::core::qdev;
use crate::testing::Rig;
use crate::virtio::testing::driver::{Driver, Piece};

/// What most tests negotiate.
const USUAL: u64 = MRG_RXBUF | STATUS | CTRL_VQ | CTRL_RX | CTRL_VLAN | CTRL_MAC_ADDR | GUEST_ANNOUNCE;
const OWN: [u8; 6] = [0x52, 0x54, 0, 0, 0, 7];
const CARD: &str = "virtio-net-pci,id=n,netdev=h,mac=52:54:00:00:00:07";

/// Adds the host end `id`, and gives what is at its other end.
fn netdev(rig: &Rig, id: &str) -> UnixDatagram {
    let (ours, host) = UnixDatagram::pair().unwrap();
    host.set_nonblocking(true).unwrap();
    let names = Arc::new(NamedFds::default());
    names.put("end".into(), ours.into());
    let text = format!("dgram,id={id},local.type=fd,local.str=end");
    let added = rig.machine.chardevs().fds().during(&names, || rig.machine.net().add_text(&text));
    assert_eq!(added.unwrap(), None);
    host
}

fn rig() -> Rig {
    Rig::build(crate::testing::config("q35")).unwrap()
}

/// A machine with the host end `h`, and the card `n` connected to it, whose driver has not started.
fn driver() -> (Driver, UnixDatagram) {
    let rig = rig();
    let host = netdev(&rig, "h");
    rig.add(CARD).unwrap();
    (Driver::with(rig), host)
}

/// A packet to `to` of `length` bytes, the last of which is `mark`.
fn packet(to: [u8; 6], length: usize, mark: u8) -> Vec<u8> {
    let mut bytes = to.to_vec();
    bytes.extend((6..length).map(|at| at as u8));
    bytes[length - 1] = mark;
    bytes
}

/// What the guest gets or sends: a header that says nothing, but for the number of buffers.
fn with_header(packet: &[u8], buffers: u16) -> Vec<u8> {
    let mut bytes = vec![0; 10];
    bytes.extend(buffers.to_le_bytes());
    bytes.extend(packet);
    bytes
}

/// The next packet that the host got.
fn sent(host: &UnixDatagram) -> Option<Vec<u8>> {
    let mut bytes = vec![0; 70_000];
    let length = host.recv(&mut bytes).ok()?;
    bytes.truncate(length);
    Some(bytes)
}

/// A request, and whether the device did it.
fn ask(driver: &mut Driver, request: &[u8]) -> bool {
    match driver.send(2, &[Piece::Out(request), Piece::In(1)]).as_slice() {
        // The answer is behind the request.
        [_] => driver.ram(Driver::data(2, driver.last_head(2) + 1), 1) == [0],
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_guest_is_told_what_the_user_said() {
    let rig = rig();
    let _host = netdev(&rig, "h");
    rig.add(&format!("{CARD},host_mtu=1500,speed=1000,duplex=half,mq=on")).unwrap();
    let mut driver = Driver::with(rig);
    assert_eq!(driver.rig.config_read(1, 0, 0), 0x1041_1af4);
    assert_eq!(driver.rig.config_read(1, 0, 8) >> 16, 0x0200);
    let offered = driver.offered();
    assert_eq!(offered & (USUAL | MAC), USUAL | MAC);
    assert_eq!(offered & 3, 0, "a socket's packets have no header");
    let mac: Vec<u8> = (0..6).map(|at| driver.config(at, 1) as u8).collect();
    assert_eq!(mac, OWN);
    assert_eq!([6, 8, 10].map(|at| driver.config(at, 2)), [1, 1, 1500]);
    assert_eq!((driver.config(12, 4), driver.config(16, 1), driver.config(17, 1)), (1000, 0, 0xff));
    driver.turn();
}

#[test]
fn packets_go_both_ways() {
    let (mut driver, host) = driver();
    driver.start(USUAL, 3);
    let out = packet([0xff; 6], 60, 1);
    assert!(driver.send(1, &[Piece::Out(&with_header(&out, 0))]).is_empty());
    assert_eq!(sent(&host), Some(out.clone()));
    // In pieces, the header by itself.
    driver.send(1, &[Piece::Out(&[0; HEADER]), Piece::Out(&out[..20]), Piece::Out(&out[20..])]);
    assert_eq!(sent(&host), Some(out));
    let first = packet(OWN, 200, 1);
    host.send(&first).unwrap();
    driver.turn();
    driver.put(0, &[Piece::In(2048)]);
    assert_eq!(driver.take(0), Some(with_header(&first, 1)), "it waited for the buffer");
    driver.put(0, &[Piece::In(2048)]);
    driver.put(0, &[Piece::In(2048)]);
    assert_eq!(driver.take(0), None);
    for mark in [2, 3] {
        host.send(&packet(OWN, 1514, mark)).unwrap();
    }
    for mark in [2, 3] {
        assert_eq!(driver.until(|d| d.take(0)), with_header(&packet(OWN, 1514, mark), 1));
    }
    assert_eq!(driver.take(0), None);
}

#[test]
fn a_long_packet_takes_several_buffers_which_come_at_once() {
    let (mut driver, host) = driver();
    driver.start(USUAL, 3);
    driver.put(0, &[Piece::In(2048)]);
    driver.put(0, &[Piece::In(2048)]);
    let long = packet(OWN, 5000, 9);
    host.send(&long).unwrap();
    host.send(&packet(OWN, 60, 10)).unwrap();
    driver.turn();
    driver.turn();
    assert_eq!(driver.take(0), None, "two are too few");
    driver.put(0, &[Piece::In(2048)]);
    let parts: Vec<Vec<u8>> = (0..3).map(|_| driver.take(0).expect("all of them")).collect();
    assert_eq!(parts.iter().map(Vec::len).collect::<Vec<_>>(), [2048, 2048, 5000 + HEADER - 4096]);
    assert_eq!(parts.concat(), with_header(&long, 3));
    driver.put(0, &[Piece::In(2048)]);
    assert_eq!(driver.until(|d| d.take(0)), with_header(&packet(OWN, 60, 10), 1), "one after the other");
}

#[test]
fn a_packet_that_no_ring_holds_is_lost() {
    let (mut driver, host) = driver();
    driver.start(USUAL, 3);
    // The ring has sixteen entries.
    for _ in 0..16 {
        driver.offer(0, &[Piece::In(100)]);
    }
    driver.notify(0);
    host.send(&packet(OWN, 5000, 1)).unwrap();
    host.send(&packet(OWN, 60, 2)).unwrap();
    assert_eq!(driver.until(|d| d.take(0)), with_header(&packet(OWN, 60, 2), 1));
    assert_eq!(driver.status(), 0xf);
}

#[test]
fn without_merging_what_does_not_fit_is_lost() {
    let (mut driver, host) = driver();
    driver.start(STATUS, 2);
    driver.put(0, &[Piece::In(1526)]);
    driver.put(0, &[Piece::In(1526)]);
    host.send(&packet(OWN, 1600, 1)).unwrap();
    host.send(&packet(OWN, 1514, 2)).unwrap();
    assert_eq!(driver.until(|d| d.take(0)), with_header(&packet(OWN, 1514, 2), 1));
    assert_eq!(driver.take(0), None);
}

#[test]
fn a_host_that_takes_nothing_holds_the_guest_up_and_loses_nothing() {
    let (mut driver, host) = driver();
    driver.start(USUAL, 3);
    let mut count = 0u16;
    loop {
        let [low, high] = count.to_le_bytes();
        let mut bytes = packet([0xff; 6], 60, low);
        bytes.push(high);
        driver.put(1, &[Piece::Out(&with_header(&bytes, 0))]);
        count += 1;
        if driver.take(1).is_none() {
            break;
        }
        assert!(count < 10_000, "it never waits");
    }
    for number in 0..count {
        let got = driver.until(|_| sent(&host));
        assert_eq!(got[59..], number.to_le_bytes());
    }
    assert!(driver.until(|d| d.take(1)).is_empty());
    assert_eq!(sent(&host), None);
}

#[test]
fn a_machine_that_is_stopped_reads_nothing() {
    let (mut driver, host) = driver();
    driver.start(USUAL, 3);
    driver.put(0, &[Piece::In(2048)]);
    driver.rig.machine.stop();
    host.send(&packet(OWN, 60, 5)).unwrap();
    for _ in 0..10 {
        driver.turn();
    }
    assert_eq!(driver.take(0), None);
    driver.rig.machine.cont().unwrap();
    assert_eq!(driver.until(|d| d.take(0)), with_header(&packet(OWN, 60, 5), 1));
}

#[test]
fn the_filter_follows_the_drivers_requests_and_says_so_once() {
    let (mut driver, host) = driver();
    driver.start(USUAL | CTRL_RX_EXTRA, 3);
    let other = [2, 0, 0, 0, 0, 9];
    assert!(ask(&mut driver, &[0, 0, 0]), "not promiscuous");
    let event = r#"NIC_RX_FILTER_CHANGED {"name": "n", "path": "/machine/peripheral/n/virtio-backend"}"#;
    assert_eq!(driver.rig.events(), [event]);
    for _ in 0..3 {
        driver.offer(0, &[Piece::In(2048)]);
    }
    driver.notify(0);
    host.send(&packet(other, 60, 1)).unwrap();
    host.send(&packet(OWN, 60, 2)).unwrap();
    assert_eq!(driver.until(|d| d.take(0))[HEADER..], packet(OWN, 60, 2));
    // One receiver, two groups.
    let mut tables = vec![1, 0, 1, 0, 0, 0];
    tables.extend(other);
    tables.extend([2, 0, 0, 0, 0x33, 0x33, 0, 0, 0, 1, 0x33, 0x33, 0, 0, 0, 2]);
    assert!(ask(&mut driver, &tables));
    assert!(ask(&mut driver, &[2, 0, 7, 0]), "a tag");
    assert!(driver.rig.events().is_empty(), "nobody asked since");
    host.send(&packet(other, 60, 3)).unwrap();
    assert_eq!(driver.until(|d| d.take(0))[HEADER..], packet(other, 60, 3));
    let info = driver.rig.machine.net().rx_filters(Some("n")).unwrap().remove(0);
    assert_eq!((info.name.as_str(), info.promiscuous, info.vlan_table), ("n", false, vec![7]));
    assert_eq!((info.unicast_table, info.multicast_table.len()), (vec!["02:00:00:00:00:09".to_owned()], 2));
    assert!(ask(&mut driver, &[1, 1, 2, 0, 0, 0, 0, 8]));
    assert_eq!(driver.rig.events(), [event]);
    assert_eq!(driver.config(5, 1), 8, "the configuration has the new address");
    assert_eq!(driver.rig.machine.net().list()[0].info, "model=virtio-net-pci,macaddr=02:00:00:00:00:08");
    driver.reset();
    assert_eq!(driver.config(5, 1), 7);
    assert!(driver.rig.machine.net().rx_filters(None).unwrap()[0].promiscuous);
}

#[test]
fn errors_are_qemus() {
    let rig = rig();
    let _ends = ["h", "taken"].map(|id| netdev(&rig, id));
    rig.add("virtio-net-pci,netdev=taken").unwrap();
    let property = "Property 'virtio-net-device";
    for (text, error) in [
        ("netdev=x", format!("{property}.netdev' can't find value 'x'")),
        ("netdev=taken", format!("{property}.netdev' can't take value 'taken', it's in use")),
        ("mac=bla", format!("{property}.mac' doesn't take value 'bla'")),
        (
            "rx_queue_size=100",
            "Invalid rx_queue_size (= 100), must be a power of 2 between 256 and 1024.".into(),
        ),
        (
            "tx_queue_size=512",
            "Invalid tx_queue_size (= 512), must be a power of 2 between 256 and 256".into(),
        ),
        ("duplex=bla", "'duplex' must be 'half' or 'full'".into()),
        ("speed=-5", "'speed' must be between 0 and INT_MAX".into()),
        ("host_mtu=70000", "Parameter 'host_mtu' expects uint16_t".into()),
        ("rss=on", "rss=on is not supported".into()),
        ("failover=on", "failover=on is not supported".into()),
        (
            "disable-modern=on",
            "'disable-modern' property set to 'on' is not supported: devices are modern only".into(),
        ),
    ] {
        assert_eq!(Driver::error(rig.add(&format!("virtio-net-pci,{text}"))), error, "{text}");
    }
    let modern = "virtio-net-pci-non-transitional";
    let error = Driver::error(rig.add(&format!("{modern},disable-modern=on")));
    assert_eq!(error, format!("Property '{modern}.disable-modern' not found"));
    rig.add(&format!("{modern},netdev=h,id=m")).unwrap();
    let names: Vec<_> = rig.machine.net().list().into_iter().map(|c| (c.name, c.info)).collect();
    let info = |model: &str, last: &str| format!("model={model},macaddr=52:54:00:12:34:{last}");
    assert_eq!(
        names,
        [("virtio-net-pci.0".to_owned(), info("virtio-net-pci", "56")), ("m".to_owned(), info(modern, "57"))]
    );
}
