//! Ports come and go, data goes both ways and waits, and nothing the guest says does harm.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;

use chardev::{Legacy, parse_legacy};
use proptest::prelude::*;

use super::control::Message;
use super::*;
use crate::core::qdev;
use crate::testing::{Rig, carry};
use crate::virtio::testing::driver::{Driver, Piece};

const NAME: &str = "org.qemu.guest_agent.0";

/// A machine with the character devices `c0` and `c1`, and these devices.
fn driver(texts: &[&str]) -> Driver {
    let rig = Rig::build(crate::testing::config("q35")).unwrap();
    chardev(&rig, "c0", "null");
    chardev(&rig, "c1", "null");
    for text in texts {
        rig.add(text).unwrap();
    }
    Driver::with(rig)
}

fn chardev(rig: &Rig, id: &str, kind: &str) {
    let Ok(Legacy::New(options)) = parse_legacy(id, kind) else { panic!("{kind}") };
    rig.machine.chardevs().add(&options, &mut |_| {}).unwrap();
}

/// A socket that the machine listens on as `c2`, and its path.
fn listening(rig: &Rig, dir: &tempfile::TempDir) -> String {
    let path = dir.path().join("socket").to_str().unwrap().to_owned();
    chardev(rig, "c2", &format!("unix:{path},server=on,wait=off"));
    path
}

fn say(port: u32, event: u16, value: u16) -> Vec<u8> {
    Message { port, event, value }.to_bytes()
}

/// Starts the driver and says that it is ready.
fn start(driver: &mut Driver) {
    driver.start(F_MULTIPORT, 8);
    driver.send(3, &[Piece::Out(&say(u32::MAX, 0, 1))]);
}

/// The control messages there are.
fn heard(driver: &mut Driver) -> Vec<(u32, u16, u16, String)> {
    let mut list = Vec::new();
    driver.put(2, &[Piece::In(128)]);
    while let Some(bytes) = driver.take(2) {
        let Message { port, event, value } = Message::parse(&bytes).unwrap();
        list.push((port, event, value, String::from_utf8_lossy(&bytes[8..]).into_owned()));
        driver.put(2, &[Piece::In(128)]);
    }
    list
}

fn qtree_line(driver: &Driver, id: &str) -> String {
    qdev::find_device(&driver.rig.machine, id).unwrap().qtree_bus_info().concat()
}

fn plain(port: u32, event: u16, value: u16) -> (u32, u16, u16, String) {
    (port, event, value, String::new())
}

#[test]
fn the_guest_learns_of_its_ports_one_message_after_the_other() {
    let mut driver = driver(&[
        "virtio-serial-pci,id=s",
        "virtconsole,id=vc,chardev=c0",
        &format!("virtserialport,id=vp,chardev=c1,name={NAME}"),
    ]);
    assert_eq!(driver.rig.config_read(1, 0, 0), 0x1043_1af4);
    assert_eq!(driver.rig.config_read(1, 0, 8) >> 16, 0x0780);
    assert_eq!(driver.offered() & 0xff, F_MULTIPORT | F_EMERGENCY_WRITE);
    assert_eq!((driver.config(4, 4), driver.config(0, 4)), (31, 0));
    start(&mut driver);
    assert_eq!(heard(&mut driver), [plain(0, 1, 1), plain(1, 1, 1)]);
    driver.send(3, &[Piece::Out(&say(0, 3, 1))]);
    assert_eq!(heard(&mut driver), [plain(0, 4, 1), plain(0, 6, 1)]);
    driver.send(3, &[Piece::Out(&say(1, 3, 1))]);
    assert_eq!(heard(&mut driver), [(1, 7, 1, format!("{NAME}\0"))], "nobody is at the other end of `null`");
    driver.send(3, &[Piece::Out(&say(1, 6, 1))]);
    assert_eq!(driver.rig.events(), [r#"VSERPORT_CHANGE {"open": true, "id": "vp"}"#]);
    assert_eq!(qtree_line(&driver, "vp"), "port 1, guest on, host off, throttle off");
    assert_eq!(qtree_line(&driver, "vc"), "port 0, guest off, host on, throttle off");
    let open = |driver: &Driver, id: &str| driver.rig.machine.chardevs().get(id).unwrap().frontend_open();
    assert!(open(&driver, "c1") && open(&driver, "c0"));
    driver.reset();
    driver.turn();
    assert_eq!(driver.rig.events(), [r#"VSERPORT_CHANGE {"open": false, "id": "vp"}"#]);
    assert!(!open(&driver, "c1"));
}

#[test]
fn data_goes_both_ways_when_both_ends_are_open() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::build(crate::testing::config("q35")).unwrap();
    let path = listening(&rig, &dir);
    rig.add("virtio-serial-pci").unwrap();
    rig.add("virtserialport,id=vp,chardev=c2,nr=1").unwrap();
    let mut driver = Driver::with(rig);
    start(&mut driver);
    heard(&mut driver);
    // Nobody is there: what the guest says is lost, so that it does not hang.
    assert!(driver.send(5, &[Piece::Out(b"lost")]).is_empty());
    let mut host = UnixStream::connect(&path).unwrap();
    assert_eq!(driver.until(|d| heard(d).first().cloned()), plain(1, 6, 1));
    host.write_all(b"early").unwrap();
    driver.put(4, &[Piece::In(3)]);
    driver.turn();
    assert_eq!(driver.take(4), None, "the guest's end is closed");
    driver.send(3, &[Piece::Out(&say(1, 6, 1))]);
    assert_eq!(driver.until(|d| d.take(4)), b"ear");
    driver.put(4, &[Piece::In(64)]);
    assert_eq!(driver.until(|d| d.take(4)), b"ly", "what had no room waited at the host");
    assert!(driver.send(5, &[Piece::Out(b"hel"), Piece::Out(b"lo")]).is_empty());
    let mut text = [0; 5];
    host.read_exact(&mut text).unwrap();
    assert_eq!(&text, b"hello");
    drop(host);
    assert_eq!(driver.until(|d| heard(d).first().cloned()), plain(1, 6, 0));
    let _again = UnixStream::connect(&path).unwrap();
    assert_eq!(driver.until(|d| heard(d).first().cloned()), plain(1, 6, 1), "the guest is still there");
}

#[test]
fn a_port_that_is_deleted_is_told_of_after_the_answer() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::build(crate::testing::config("q35")).unwrap();
    listening(&rig, &dir);
    rig.add("virtio-serial-pci").unwrap();
    rig.add("virtserialport,id=vp,chardev=c2,nr=1").unwrap();
    let mut driver = Driver::with(rig);
    start(&mut driver);
    driver.rig.events();
    qdev::device_del(&driver.rig.machine, "vp").unwrap();
    driver.turn();
    assert!(driver.rig.events().is_empty(), "libvirt does not hear what comes with the answer");
    let told = r#"DEVICE_DELETED {"device": "vp", "path": "/machine/peripheral/vp"}"#;
    assert!(driver.rig.next_events().iter().any(|event| event == told));
}

#[test]
fn a_host_that_does_not_read_holds_the_guest_up_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::build(crate::testing::config("q35")).unwrap();
    let path = listening(&rig, &dir);
    rig.add("virtio-serial-pci").unwrap();
    rig.add("virtserialport,id=vp,chardev=c2").unwrap();
    let mut driver = Driver::with(rig);
    start(&mut driver);
    let mut host = UnixStream::connect(&path).unwrap();
    driver.until(|d| heard(d).first().cloned());
    let mut sent = 0u32;
    loop {
        let piece: Vec<u8> = (0..512u32).flat_map(|i| (sent * 512 + i).to_le_bytes()).collect();
        driver.put(5, &[Piece::Out(&piece)]);
        sent += 1;
        if driver.take(5).is_none() {
            break;
        }
        assert!(sent < 10_000, "it never waits");
    }
    assert_eq!(qtree_line(&driver, "vp"), "port 1, guest off, host on, throttle on");
    host.set_nonblocking(true).unwrap();
    let mut bytes = Vec::new();
    driver.until(|_| {
        let _ = host.read_to_end(&mut bytes);
        (bytes.len() as u32 == sent * 2048).then_some(())
    });
    assert!(bytes.chunks(4).zip(0u32..).all(|(bytes, number)| bytes == number.to_le_bytes()));
    assert!(driver.until(|d| d.take(5)).is_empty());
    assert_eq!(qtree_line(&driver, "vp"), "port 1, guest off, host on, throttle off");
}

#[test]
fn ports_come_and_go_while_the_guest_runs() {
    let mut driver = driver(&["virtio-serial-pci,id=s"]);
    start(&mut driver);
    assert_eq!(heard(&mut driver), []);
    driver.rig.add("virtserialport,id=vp,bus=s.0,chardev=c0").unwrap();
    assert_eq!(heard(&mut driver), [plain(1, 1, 1)]);
    assert!(driver.rig.machine.chardevs().get("c0").unwrap().is_busy());
    driver.send(3, &[Piece::Out(&say(1, 6, 1))]);
    qdev::device_del(&driver.rig.machine, "vp").unwrap();
    assert_eq!(heard(&mut driver), [plain(1, 2, 1)]);
    assert!(!driver.rig.machine.chardevs().get("c0").unwrap().is_busy());
    assert!(driver.send(5, &[Piece::Out(b"to nobody")]).is_empty());
    driver.rig.add("virtserialport,id=vp,bus=s.0,chardev=c0").unwrap();
    assert_eq!(heard(&mut driver), [plain(1, 1, 1)], "the number is free again");
}

#[test]
fn errors_are_qemus() {
    let all = |texts: &[&str]| {
        let rig = Rig::build(crate::testing::config("q35")).unwrap();
        chardev(&rig, "c", "null");
        let (last, first) = texts.split_last().unwrap();
        first.iter().for_each(|text| drop(rig.add(text).unwrap()));
        Driver::error(rig.add(last))
    };
    let serial = "virtio-serial-pci";
    for (texts, error) in [
        (&["virtio-serial-pci,max_ports=0"][..], "Maximum number of serial ports not specified"),
        (&["virtio-serial-pci,max_ports=512"], "maximum ports supported: 511"),
        (&["virtconsole"], "No 'virtio-serial-bus' bus found for device 'virtconsole'"),
        (
            &[serial, "virtserialport,nr=0"],
            "Port number 0 on virtio-serial devices reserved for virtconsole devices for backward compatibility.",
        ),
        (
            &[serial, "virtserialport,nr=31"],
            "virtio-serial-bus: Out-of-range port id specified, max. allowed: 30",
        ),
        (
            &["virtio-serial-pci,max_ports=1", "virtserialport"],
            "virtio-serial-bus: Out-of-range port id specified, max. allowed: 0",
        ),
        (
            &[serial, "virtserialport,nr=2", "virtserialport,nr=2"],
            "virtio-serial-bus: A port already exists at id 2",
        ),
        (
            &[serial, "virtserialport,name=a", "virtserialport,name=a"],
            "virtio-serial-bus: A port already exists by name a",
        ),
        (
            &[serial, "virtserialport,chardev=nope"],
            "Property 'virtserialport.chardev' can't find value 'nope'",
        ),
        (
            &[serial, "virtserialport,chardev=c", "virtconsole,chardev=c"],
            "Property 'virtconsole.chardev' can't take value 'c': chardev 'c' is already in use",
        ),
    ] {
        assert_eq!(all(texts), error, "{texts:?}");
    }
}

#[test]
fn a_driver_of_one_port_has_the_console_and_hears_nothing() {
    let mut driver = driver(&["virtio-serial-pci", "virtconsole,id=vc,chardev=c0"]);
    driver.start(0, 4);
    assert_eq!(qtree_line(&driver, "vc"), "port 0, guest on, host on, throttle off");
    driver.put(2, &[Piece::In(64)]);
    driver.send(3, &[Piece::Out(&say(0, 3, 1))]);
    assert_eq!(driver.take(2), None);
    assert!(driver.send(1, &[Piece::Out(b"boot")]).is_empty());
}

#[test]
fn a_byte_for_emergencies_comes_out_before_any_driver() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    let rig = Rig::build(crate::testing::config("q35")).unwrap();
    chardev(&rig, "file", &format!("file:{}", path.to_str().unwrap()));
    rig.add("virtio-serial-pci").unwrap();
    rig.add("virtconsole,chardev=file").unwrap();
    let mut driver = Driver::with(rig);
    driver.set_config(8, 4, u64::from(b'!'));
    driver.set_config(0, 4, 0xffff);
    driver.set_config(4092, 4, 0xffff);
    driver.turn();
    assert_eq!(std::fs::read_to_string(path).unwrap(), "!");
}

/// A machine with a socket as the other end of port 1.
fn with_socket(dir: &tempfile::TempDir) -> (Rig, String) {
    let rig = Rig::build(crate::testing::config("q35")).unwrap();
    let path = listening(&rig, dir);
    rig.add("virtio-serial-pci").unwrap();
    rig.add("virtserialport,id=vp,chardev=c2").unwrap();
    (rig, path)
}

#[test]
fn a_buffer_half_taken_goes_on_where_it_was_and_what_came_for_the_guest_is_there() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (rig, path) = with_socket(&from);
    let mut driver = Driver::with(rig);
    start(&mut driver);
    let mut host = UnixStream::connect(&path).unwrap();
    driver.until(|d| heard(d).first().cloned());
    driver.send(3, &[Piece::Out(&say(1, 6, 1))]);
    driver.rig.events();
    let mut sent = 0u32;
    loop {
        let piece: Vec<u8> = (0..375u32).flat_map(|i| (sent * 375 + i).to_le_bytes()).collect();
        driver.put(5, &[Piece::Out(&piece)]);
        sent += 1;
        if driver.take(5).is_none() {
            break;
        }
        assert!(sent < 10_000, "it never waits");
    }
    // For the guest, which had a buffer; it came while the machine was stopped.
    driver.put(4, &[Piece::In(64)]);
    driver.rig.machine.stop();
    driver.rig.events();
    host.write_all(b"for you").unwrap();
    // What the character device has taken goes out all the same; the guest's buffer stays as it is.
    let mut bytes = Vec::new();
    host.set_nonblocking(true).unwrap();
    let mut quiet = 0;
    driver.until(|d| {
        d.turn();
        quiet = if host.read_to_end(&mut bytes).is_err() && d.take(5).is_none() { quiet + 1 } else { 0 };
        (quiet > 20).then_some(())
    });
    let (mut rig, path) = with_socket(&to);
    let mut there = UnixStream::connect(&path).unwrap();
    for _ in 0..4 {
        rig.turn();
    }
    assert!(qdev::find_device(&rig.machine, "vp").unwrap().qtree_bus_info().concat().contains("host on"));
    let mut driver = driver.carried(rig);
    assert_eq!(driver.until(|d| d.take(4)), b"for you");
    let here = bytes.len();
    there.set_nonblocking(true).unwrap();
    driver.until(|d| {
        d.turn();
        let _ = there.read_to_end(&mut bytes);
        (bytes.len() as u32 == sent * 1500).then_some(())
    });
    assert!(!here.is_multiple_of(1500), "the last buffer was taken by both");
    assert!(bytes.chunks(4).zip(0u32..).all(|(bytes, number)| bytes == number.to_le_bytes()));
    assert!(driver.until(|d| d.take(5)).is_empty());
    let events = driver.rig.events();
    assert!(events.contains(&r#"VSERPORT_CHANGE {"open": true, "id": "vp"}"#.to_owned()), "{events:?}");
    assert!(driver.rig.machine.chardevs().get("c2").unwrap().frontend_open());
}

#[test]
fn messages_wait_on_and_the_guest_hears_who_is_there() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (rig, path) = with_socket(&from);
    let mut driver = Driver::with(rig);
    start(&mut driver);
    let _host = UnixStream::connect(&path).unwrap();
    driver.until(|d| qtree_line(d, "vp").contains("host on").then_some(()));
    driver.rig.machine.stop();
    let mut driver = driver.carried_with(with_socket(&to).0, false);
    assert_eq!(
        heard(&mut driver),
        [plain(1, 1, 1), plain(1, 6, 1), plain(1, 6, 0)],
        "what it was to hear, and that nobody is there now"
    );
    assert_eq!(qtree_line(&driver, "vp"), "port 1, guest off, host off, throttle off");
    let closed = r#"VSERPORT_CHANGE {"open": false, "id": "vp"}"#.to_owned();
    assert!(driver.rig.events().contains(&closed), "as QEMU tells of each port");
}

#[test]
fn other_ports_are_refused_and_bad_state_does_no_harm() {
    let mut from = driver(&["virtio-serial-pci", "virtconsole,chardev=c0", "virtserialport,nr=3,chardev=c1"]);
    start(&mut from);
    from.put(7, &[Piece::Out(b"text")]);
    from.rig.machine.stop();
    let state = carry::save(&from.rig.machine);
    for (texts, error) in [
        (&["virtio-serial-pci", "virtconsole"][..], "virtio-serial-bus: there are ports [0, 3], not [0]"),
        (&["virtio-serial-pci,max_ports=2"], "VQ 6 is in use, and there are 6"),
    ] {
        let to = driver(texts);
        to.rig.machine.stop();
        let failed = carry::load(&to.rig.machine, &state).unwrap_err();
        assert_eq!(failed.lines, [error, "Failed to load virtio-console:virtio"]);
    }
    // As in QEMU, how many ports there could be does not matter.
    let to = driver(&[
        "virtio-serial-pci,max_ports=9",
        "virtconsole,chardev=c0",
        "virtserialport,nr=3,chardev=c1",
    ]);
    to.rig.machine.stop();
    carry::load(&to.rig.machine, &state).unwrap();
    carry::spoil(&from.rig.machine, "virtio-console");
    from.turn();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Whatever the guest says on whichever queue, the device goes on and still answers.
    #[test]
    fn nothing_the_guest_says_stops_the_device(
        said in prop::collection::vec((0u16..8, prop::collection::vec(any::<u8>(), 1..24), 0u32..300), 1..60)
    ) {
        let mut driver = driver(&["virtio-serial-pci", "virtconsole,chardev=c0", "virtserialport,id=vp,chardev=c1"]);
        driver.start(F_MULTIPORT, 8);
        let mut left = [14u16; 8];
        for (queue, bytes, room) in said {
            let pieces = if room == 0 { vec![Piece::Out(&bytes)] } else { vec![Piece::Out(&bytes), Piece::In(room)] };
            let left = &mut left[usize::from(queue)];
            if *left < pieces.len() as u16 {
                continue;
            }
            *left -= pieces.len() as u16;
            driver.put(queue, &pieces);
        }
        prop_assert_eq!(driver.status(), 0xf);
        start(&mut driver);
        prop_assert_eq!(heard(&mut driver), [plain(0, 1, 1), plain(1, 1, 1)]);
    }
}
