//! What is said about network devices, beside QEMU.

use std::os::fd::AsFd as _;
use std::os::unix::net::UnixDatagram;

use serde_json::Value;

use super::*;

/// Command lines that are refused, in QEMU's words; `$RUN` is one folder for both.
const REFUSED: &[&str] = &[
    "-netdev foo,id=x",
    "-netdev tap",
    "-netdev id=x",
    "-netdev type=tap",
    "-netdev tap,id=1x,fd=99",
    "-netdev dgram,id=x",
    "-netdev tap,id=x,fd=99",
    "-netdev tap,id=x,fd=abc",
    "-netdev tap,id=x,fd=0",
    "-netdev tap,id=x,fd",
    r#"-netdev {"type":"tap","fd":"99","id":"h"}"#,
    r#"-netdev {"type":"tap","fd":99,"id":"h"}"#,
    r#"-netdev {"type":"tap","fd":"99"}"#,
    r#"-netdev {"fd":"99"}"#,
    r#"-netdev {"type":"tap","fd":"99","id":"h","bla":1}"#,
    "-netdev tap,id=x,fd=99,bla=1",
    "-netdev tap,id=x,fd=99,ifname=foo",
    "-netdev tap,id=x,fd=99,fds=1:2",
    "-netdev tap,id=x,fds=99,vhostfd=1",
    "-netdev tap,id=x,fd=99,vhost=bla",
    "-netdev tap,id=x,fd=99,sndbuf=x",
    "-netdev tap,id=x,script=no,downscript=no,ifname=lo",
    r#"-netdev {"type":"dgram","id":"x"}"#,
    "-netdev dgram,id=x,remote.type=unix,remote.path=/tmp/a,local.type=unix",
    "-netdev dgram,id=x,local.type=unix,local.path=$RUN/no/a,remote.type=unix,remote.path=/tmp/b",
    "-netdev dgram,id=x,local.type=unix,local.path=$RUN/a",
    "-netdev dgram,id=x,local.type=inet,local.host=127.0.0.1,local.port=4444",
    "-netdev dgram,id=x,local.type=inet,local.host=127.0.0.1,local.port=4444,remote.type=unix,remote.path=/tmp/x",
    "-netdev dgram,id=x,local.type=fd,local.str=99",
    "-netdev dgram,id=x,local.type=fd,local.str=abc",
    "-netdev dgram,id=x,local.type=fd,local.str=99,remote.type=inet,remote.host=1,remote.port=1",
    "-netdev dgram,id=x,remote.type=inet,remote.host=127.0.0.1,remote.port=4445",
    "-netdev dgram,id=x,bla=1,local.type=fd,local.str=a",
    "-device virtio-net-pci,netdev=x",
    "-device virtio-net-pci,mac=bla",
    "-device virtio-net-pci,mac=",
    "-device virtio-net-pci,rx_queue_size=100",
    "-device virtio-net-pci,tx_queue_size=512",
    "-device virtio-net-pci,duplex=bla",
    "-device virtio-net-pci,speed=-5",
    "-device virtio-net-pci,host_mtu=70000",
];

#[test]
fn wrong_command_lines_are_refused_in_qemus_words() {
    if !have(&[Need::Qemu, Need::Pliant]) {
        return;
    }
    let qemu = tests::program::qemu().unwrap();
    let folder = tempfile::tempdir().unwrap();
    for line in REFUSED {
        let line = line.replace("$RUN", folder.path().to_str().unwrap());
        let (option, text) = line.split_once(' ').unwrap();
        let run = |builder: VmBuilder| {
            let exited = builder.args(["-machine", "q35", option, text]).run();
            (exited.code, exited.stderr)
        };
        let theirs = run(Vm::new().program(&qemu).accel("tcg"));
        assert_eq!(run(Vm::new()), theirs, "{line}");
        assert_eq!(theirs.0, Some(1), "{line}");
    }
}

#[test]
fn what_is_connected_to_nothing_is_warned_of() {
    if !have(&[Need::Qemu, Need::Pliant]) {
        return;
    }
    let qemu = tests::program::qemu().unwrap();
    let line = "-machine q35 -device virtio-net-pci,id=a -device virtio-net-pci -device virtio-net-pci,id=b,mac=52:54:00:12:34:57 \
                -device virtio-net-pci,mac=00:00:00:00:00:00 \
                -netdev dgram,id=x,local.type=unix,local.path=$RUN/a,remote.type=unix,remote.path=$RUN/b";
    let told = |builder: VmBuilder| {
        let mut vm = builder.line(line).hmp().start();
        let listed = vm.hmp().run("info network");
        (vm.stderr(), listed.replace(vm.scratch().to_str().unwrap(), "$RUN"))
    };
    assert_eq!(told(Vm::new()), told(Vm::new().program(&qemu).accel("tcg").line("-S")));
}

/// Ours and QEMU, to be asked the same.
struct Pair([Vm; 2]);

impl Pair {
    fn start() -> Option<Self> {
        if !have(&[Need::Qemu, Need::Pliant]) {
            return None;
        }
        let line =
            "-machine q35 -m 64M -device pcie-root-port,id=p,chassis=1 -device pcie-root-port,id=q,chassis=2";
        let qemu = tests::program::qemu()?;
        let ours = Vm::new().line(line).qmp().hmp().start();
        let theirs = Vm::new().program(&qemu).accel("tcg").line("-S").line(line).qmp().hmp().start();
        Some(Self([ours, theirs]))
    }

    /// Demands the same answer of both.
    fn same(&mut self, command: &str, arguments: Value) -> Value {
        let request = json!({ "execute": command, "arguments": arguments });
        let [ours, theirs] = self.0.each_mut().map(|vm| vm.qmp().request(&request).unwrap());
        assert_eq!(ours, theirs, "{request}");
        ours
    }

    /// The same of a console. Descriptors have other numbers in the other process.
    fn line(&mut self, line: &str) -> String {
        let [ours, theirs] = self.0.each_mut().map(|vm| {
            let text = vm.hmp().run(line);
            let mut parts =
                text.split("fd=").map(|part| part.trim_start_matches(|c: char| c.is_ascii_digit()));
            let first = parts.next().unwrap_or_default().to_owned();
            parts.fold(first, |all, part| all + "fd=N" + part)
        });
        assert_eq!(ours, theirs, "{line}");
        ours
    }

    /// Gives both a socket of the name `name`; what is at the other ends.
    fn give(&mut self, name: &str) -> [UnixDatagram; 2] {
        self.0.each_mut().map(|vm| {
            let (theirs, ours) = UnixDatagram::pair().unwrap();
            let request = json!({ "execute": "getfd", "arguments": { "fdname": name } });
            vm.qmp().request_with_fds(&request, &[theirs.as_fd()]).unwrap();
            ours
        })
    }
}

#[test]
fn commands_answer_as_qemus() {
    let Some(mut pair) = Pair::start() else { return };
    pair.line("info network");
    for arguments in [
        json!({ "type": "tap", "fd": "nofd", "id": "h" }),
        json!({ "type": "tap", "fd": "99", "id": "h" }),
        json!({ "type": "tap", "fd": "x", "id": "h", "script": "no" }),
        json!({ "type": "tap", "fd": "x", "id": "1h" }),
        json!({ "type": "foo", "id": "h" }),
        json!({ "type": "tap" }),
        json!({ "id": "h" }),
        json!({ "type": "dgram", "id": "h" }),
    ] {
        pair.same("netdev_add", arguments);
    }
    let local = json!({ "type": "fd", "str": "end" });
    let add = json!({ "type": "dgram", "id": "h", "local": local });
    let _ends = pair.give("end");
    pair.same("netdev_add", add.clone());
    pair.same("closefd", json!({ "fdname": "end" }));
    let _more = pair.give("end");
    pair.same("netdev_add", add);
    pair.same("netdev_add", json!({ "type": "dgram", "id": "d", "local": local }));
    let card = |bus: &str, netdev: &str, id: &str| json!({ "driver": "virtio-net-pci", "bus": bus, "netdev": netdev, "id": id });
    pair.same("device_add", card("p", "none", "n"));
    pair.same("device_add", card("p", "h", "n"));
    pair.same("device_add", card("q", "h", "m"));
    assert!(pair.line("info network").contains("n: index=0,type=nic,model=virtio-net-pci"));
    for (name, up) in [("n", false), ("h", false), ("n", true), ("d", true), ("none", true)] {
        pair.same("set_link", json!({ "name": name, "up": up }));
    }
    let path = "/machine/peripheral/n";
    for property in
        ["netdev", "mac", "vectors", "tx", "duplex", "speed", "bootindex", "mrg_rxbuf", "rss", "x-txburst"]
    {
        pair.same("qom-get", json!({ "path": path, "property": property }));
    }
    pair.same("qom-set", json!({ "path": path, "property": "mac", "value": "52:54:00:12:34:99" }));
    pair.same("qom-set", json!({ "path": path, "property": "netdev", "value": "d" }));
    for name in ["h", "none"] {
        pair.same("query-rx-filter", json!({ "name": name }));
    }
    pair.same("announce-self", json!({ "initial": 1 }));
    pair.same(
        "announce-self",
        json!({ "initial": 1, "max": 1, "rounds": 0, "step": 1, "interfaces": ["none"] }),
    );
    for line in [
        "set_link n off",
        "set_link n on",
        "set_link none on",
        "set_link n",
        "set_link n bla",
        "netdev_del none",
        "netdev_del n",
        "netdev_del",
        "netdev_add",
        "netdev_add foo",
        "netdev_add tap,id=k,fd=none",
        "netdev_add tap,id=k,fd=99",
        "netdev_add tap,id=k,fd=99,bla=1",
        "announce_self none",
        "help announce_self",
        "help netdev_add",
        "help netdev_del",
        "help set_link",
        "help info network",
    ] {
        pair.line(line);
    }
    pair.same("netdev_del", json!({ "id": "h" }));
    pair.line("info network");
    pair.same("netdev_del", json!({ "id": "h" }));
    pair.same("set_link", json!({ "name": "n", "up": true }));
    pair.same("netdev_del", json!({ "id": "d" }));
    pair.line("info network");
}

/// The filter before a driver comes, which is QEMU's but for what it calls the opposite of what it is.
#[test]
fn a_filter_is_told_as_by_qemu() {
    let Some(mut pair) = Pair::start() else { return };
    let card = json!({ "driver": "virtio-net-pci", "bus": "p", "id": "n" });
    pair.same("device_add", card);
    let [mut ours, theirs] =
        pair.0.each_mut().map(|vm| vm.qmp().ok("query-rx-filter", json!({ "name": "n" })));
    assert_eq!(
        [&ours[0], &theirs[0]].map(|filter| &filter["broadcast-allowed"]),
        [&json!(true), &json!(false)]
    );
    ours[0]["broadcast-allowed"] = json!(false);
    assert_eq!(ours, theirs);
}

#[test]
fn what_is_not_there_is_refused_with_a_sentence() {
    if !have(&[Need::Pliant]) {
        return;
    }
    for (text, reason) in [
        ("user,id=x", "Parameter 'type' does not accept value 'user'"),
        (
            "tap,id=x",
            "script=/etc/qemu-ifup, the default, is not supported: give script=no, or a descriptor with fd=",
        ),
        (
            "tap,id=x,script=no",
            "downscript=/etc/qemu-ifdown, the default, is not supported: give downscript=no, or a descriptor with fd=",
        ),
        ("tap,id=x,script=/bin/up", "script=/bin/up is not supported: only script=no is"),
        ("tap,id=x,fd=99,vhost=on,vhostforce=on", "vhostforce=on is not supported: there is no vhost-net"),
        ("tap,id=x,fd=99,vhost=off,vhostfd=9", "vhostfd(s)= is not valid without vhost"),
        (
            "tap,id=x,helper=/bin/h",
            "helper= and br= are not supported: no program is run that opens an interface",
        ),
        ("tap,id=x,fds=5:6", "several queues are not supported: there is one"),
        (
            "dgram,id=x,remote.type=inet,remote.host=230.0.0.1,remote.port=4445",
            "multicast is not supported: give local= and the address of one host",
        ),
    ] {
        let exited = Vm::new().bare().args(["-machine", "none", "-netdev", text]).run();
        assert_eq!(exited.stderr, format!("qemu-system-x86_64: -netdev {text}: {reason}\n"));
        assert_eq!(exited.code, Some(1));
    }
    let exited = Vm::new().bare().args(["-netdev", "help"]).run();
    assert_eq!(
        (exited.code, exited.stdout.as_str()),
        (Some(0), "Available netdev backend types:\ntap\ndgram\n")
    );
}
