//! Network devices and their host ends. QEMU answers the same requests beside us, word for word; packets go through a card that a driver
//! in the test runs, to sockets and to the kernel's own network.

mod card;
mod tap;
mod words;

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::Instant;

use serde_json::json;
use tests::{Need, Vm, VmBuilder, have};

use self::card::{Card, OWN, frame};

/// A socket at `path`, on which nobody is waited for without end.
fn end(path: &Path) -> UnixDatagram {
    let socket = UnixDatagram::bind(path).unwrap();
    socket.set_read_timeout(Some(tests::wire::patience())).unwrap();
    socket
}

/// The next packet of the machine.
fn next(socket: &UnixDatagram) -> Vec<u8> {
    let mut bytes = vec![0; 4096];
    let length = socket.recv(&mut bytes).unwrap();
    bytes.truncate(length);
    bytes
}

/// A machine with a card whose host end is a socket in the folder, and what is at the other end of that.
fn machine() -> (VmBuilder, UnixDatagram) {
    let builder = Vm::new().line(
        "-machine q35 -m 64M -netdev dgram,id=h,local.type=unix,local.path=$RUN/vm,remote.type=unix,remote.path=$RUN/host",
    );
    let builder =
        builder.line("-device virtio-net-pci,id=n,netdev=h,mac=52:54:00:00:00:07,addr=3").qmp().qtest();
    let host = end(&builder.scratch().join("host"));
    (builder, host)
}

#[test]
fn packets_go_through_a_socket_both_ways() {
    if !have(&[Need::QtestAccel]) {
        return;
    }
    let (builder, host) = machine();
    let mut vm = builder.hmp().start();
    let path = vm.scratch().join("vm");
    let mut card = Card::start(&mut vm);
    let (out, back) = (frame([0xff; 6], b"hello"), frame(OWN, b"and back"));
    card.send(&mut vm, &out);
    assert_eq!(next(&host), out);
    card.offer(&mut vm);
    host.send_to(&back, &path).unwrap();
    assert_eq!(card.receive(&mut vm), back);
    let listed = format!(
        "n: index=0,type=nic,model=virtio-net-pci,macaddr=52:54:00:00:00:07\n \\ h: index=0,type=dgram,udp={}:{}\n",
        path.display(),
        vm.scratch().join("host").display()
    );
    assert_eq!(vm.hmp().run("info network"), listed);
    // While the cable is unplugged nothing gets through.
    vm.qmp().ok("set_link", json!({ "name": "n", "up": false }));
    card.offer(&mut vm);
    host.send_to(&frame(OWN, b"lost"), &path).unwrap();
    card.send(&mut vm, &out);
    vm.qmp().ok("set_link", json!({ "name": "n", "up": true }));
    card.send(&mut vm, &frame([0xff; 6], b"again"));
    assert_eq!(next(&host), frame([0xff; 6], b"again"));
    // What came meanwhile may come yet: the loop looks when it can.
    host.send_to(&back, &path).unwrap();
    let mut got = card.receive(&mut vm);
    if got == frame(OWN, b"lost") {
        card.offer(&mut vm);
        got = card.receive(&mut vm);
    }
    assert_eq!(got, back);
    vm.qmp().ok("netdev_del", json!({ "id": "h" }));
    assert!(!path.exists(), "the socket is gone with its host end");
}

#[test]
fn a_descriptor_is_inherited_by_number_and_comes_by_name() {
    if !have(&[Need::QtestAccel]) {
        return;
    }
    let (ours, host) = UnixDatagram::pair().unwrap();
    host.set_read_timeout(Some(tests::wire::patience())).unwrap();
    // Without close-on-exec, as libvirt gives interfaces.
    let number = rustix::io::dup(&ours).unwrap();
    let fd = std::os::fd::AsRawFd::as_raw_fd(&number);
    let netdev = format!(r#"{{"type":"dgram","id":"h","local":{{"type":"fd","str":"{fd}"}}}}"#);
    let device =
        r#"{"driver":"virtio-net-pci","netdev":"h","id":"n","mac":"52:54:00:00:00:07","addr":"0x3"}"#;
    let mut vm = Vm::new()
        .line("-machine q35 -m 64M")
        .args(["-netdev", &netdev, "-device", device])
        .qmp()
        .hmp()
        .qtest()
        .start();
    drop((number, ours));
    let mut card = Card::start(&mut vm);
    card.send(&mut vm, &frame([0xff; 6], b"by number"));
    assert_eq!(next(&host), frame([0xff; 6], b"by number"));
    assert!(vm.hmp().run("info network").contains(&format!("type=dgram,fd={fd} unix")));
    // With the host end the descriptor is closed, under its number too.
    vm.qmp().ok("netdev_del", json!({ "id": "h" }));
    let deadline = Instant::now() + tests::wire::patience();
    while host.send(b"anybody there").is_ok() {
        assert!(Instant::now() < deadline, "somebody has it");
    }
    assert!(!Path::new(&format!("/proc/{}/fd/{fd}", vm.pid().as_raw_nonzero())).exists());
}

#[test]
fn a_machine_that_arrives_tells_the_network() {
    if !have(&[Need::QtestAccel]) {
        return;
    }
    let (builder, host) = machine();
    let mut source = builder.start();
    let mut card = Card::start(&mut source);
    card.send(&mut source, &frame([0xff; 6], b"here"));
    assert_eq!(next(&host), frame([0xff; 6], b"here"));
    let (builder, there) = machine();
    let mut vm = builder.line("-incoming defer").start();
    let uri = format!("unix:{}", vm.scratch().join("incoming").display());
    let events = json!({ "capabilities": [{ "capability": "events", "state": true }] });
    vm.qmp().ok("migrate-set-capabilities", events);
    vm.qmp().ok("migrate-incoming", json!({ "uri": uri }));
    source.qmp().ok("migrate", json!({ "uri": uri }));
    vm.qmp().wait_event("MIGRATION", |event| event["data"]["status"] == "completed");
    let announced = next(&there);
    assert_eq!((announced.len(), &announced[..6], &announced[6..12]), (60, &[0xff; 6][..], &OWN[..]));
    assert_eq!(announced[12..14], [0x80, 0x35], "the reverse address resolution protocol");
    card.send(&mut vm, &frame([0xff; 6], b"there"));
    let mut got = next(&there);
    while got == announced {
        got = next(&there);
    }
    assert_eq!(got, frame([0xff; 6], b"there"));
    // Anybody may have it announced, of one card or another.
    source.qmp().ok("quit", json!({}));
    let rounds = json!({ "initial": 0, "max": 0, "rounds": 1, "step": 0, "interfaces": ["n"], "id": "x" });
    vm.qmp().ok("announce-self", rounds);
    assert_eq!(next(&there), announced);
}

/// No descriptor, and no file, is left of a host end that could not be made.
#[test]
fn what_is_refused_leaves_nothing_behind() {
    if !have(&[Need::Pliant]) {
        return;
    }
    let mut vm = Vm::new().line("-machine none").qmp().start();
    let count = |vm: &Vm| fs::read_dir(format!("/proc/{}/fd", vm.pid().as_raw_nonzero())).unwrap().count();
    let before = count(&vm);
    let path = vm.scratch().join("nowhere/vm");
    for _ in 0..8 {
        let local = json!({ "type": "unix", "path": path });
        vm.qmp().err("netdev_add", json!({ "type": "dgram", "id": "h", "local": local, "remote": local }));
        let tap = json!({ "type": "tap", "id": "h", "ifname": "lo", "script": "no", "downscript": "no" });
        vm.qmp().err("netdev_add", tap);
    }
    assert_eq!(count(&vm), before);
}
