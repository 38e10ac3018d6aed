//! `chardev-add`, `chardev-change` and their console forms, as a client of a whole machine sees them.

use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::path::Path;

use serde_json::{Value, json};
use tests::{Vm, Wire};

/// A serial port on a unix socket, driven over qtest.
fn machine() -> Vm {
    let line = "-machine pc -chardev socket,id=ser,path=$RUN/old,server=on,wait=off -serial chardev:ser \
                -chardev null,id=m,mux=on";
    Vm::new().line(line).qmp().hmp().qtest().start()
}

fn unix(path: &Path) -> Value {
    json!({"type": "socket", "data": {"addr": {"type": "unix", "data": {"path": path}}}})
}

fn nothing() -> Value {
    json!({"type": "null", "data": {}})
}

const THR: u16 = 0x3f8;
const LSR: u16 = 0x3fd;

/// What the guest reads from its serial port, once something is there.
fn guest_reads(vm: &mut Vm) -> u32 {
    while vm.qtest().inp(LSR, 1) & 1 == 0 {}
    vm.qtest().inp(THR, 1)
}

#[test]
fn a_serial_port_goes_on_over_another_socket() {
    let mut vm = machine();
    let [old, new] = ["old", "new"].map(|name| vm.scratch().join(name));
    let mut peer = vm.connect(&old);
    peer.send(b"a").unwrap();
    assert_eq!(guest_reads(&mut vm), u32::from(b'a'));
    let reply = vm.qmp().ok("chardev-change", json!({"id": "ser", "backend": unix(&new)}));
    assert_eq!(reply, json!({}));
    assert_eq!(peer.rest().unwrap(), b"");
    let mut peer = vm.connect(&new);
    peer.send(b"b").unwrap();
    assert_eq!(guest_reads(&mut vm), u32::from(b'b'));
    for byte in b"hi\n" {
        vm.qtest().out(THR, 1, u32::from(*byte));
    }
    assert_eq!(peer.line().unwrap(), "hi");
    // What fails leaves the connection alone.
    let broken = json!({"type": "file", "data": {"out": "/nonexistent/file"}});
    let (_, desc) = vm.qmp().err("chardev-change", json!({"id": "ser", "backend": broken}));
    assert_eq!(desc, "Could not open '/nonexistent/file': No such file or directory");
    peer.send(b"c").unwrap();
    assert_eq!(guest_reads(&mut vm), u32::from(b'c'));
}

#[test]
fn a_terminal_tells_its_path() {
    let mut vm = machine();
    let pty = json!({"type": "pty", "data": {}});
    for (command, id) in [("chardev-add", "p"), ("chardev-change", "ser")] {
        let reply = vm.qmp().ok(command, json!({"id": id, "backend": pty}));
        let path = reply["pty"].as_str().unwrap_or_else(|| panic!("{command}: {reply}"));
        let list = vm.qmp().ok("query-chardev", json!({}));
        let wanted = json!({"label": id, "filename": format!("pty:{path}"), "frontend-open": id == "ser"});
        assert!(list.as_array().unwrap().contains(&wanted), "{wanted} in {list}");
    }
    let said = vm.hmp().run("chardev-change ser pty");
    assert!(
        said.starts_with("char device redirected to /dev/pts/") && said.ends_with(" (label ser)\n"),
        "{said}"
    );
}

#[test]
fn who_has_it_may_not_live_with_another() {
    let mut vm = machine();
    let list = vm.qmp().ok("query-chardev", json!({}));
    let qmp = list.as_array().unwrap().iter().find(|c| c["label"].as_str().unwrap().contains("qmp")).unwrap();
    let qmp = qmp["label"].as_str().unwrap().to_owned();
    for (id, error) in [
        ("x", "Chardev 'x' does not exist"),
        ("m", "For mux or hub device hotswap is not supported yet"),
        ("m-base", "Chardev user does not support chardev hotswap"),
        (&qmp, "Chardev user does not support chardev hotswap"),
    ] {
        let (class, desc) = vm.qmp().err("chardev-change", json!({"id": id, "backend": nothing()}));
        assert_eq!((class.as_str(), desc.as_str()), ("GenericError", error));
    }
}

#[test]
fn members_are_checked_with_their_paths() {
    let mut vm = machine();
    vm.qmp().ok("chardev-add", json!({"id": "a", "backend": nothing()}));
    vm.qmp().ok("chardev-add", json!({"id": "no/identifier at all", "backend": nothing()}));
    let inet = |addr: Value| json!({"type": "socket", "data": {"addr": {"type": "inet", "data": addr}}});
    for (backend, error) in [
        (json!("null"), "Invalid parameter type for 'backend', expected: object"),
        (json!({}), "Parameter 'backend.type' is missing"),
        (json!({"type": 5}), "Invalid parameter type for 'backend.type', expected: string"),
        (json!({"type": "nonsense"}), "Parameter 'type' does not accept value 'nonsense'"),
        (json!({"type": "null"}), "Parameter 'backend.data' is missing"),
        (json!({"type": "null", "data": {}, "x": 1}), "Parameter 'backend.x' is unexpected"),
        (json!({"type": "null", "data": {"x": 1}}), "Parameter 'backend.data.x' is unexpected"),
        (json!({"type": "file", "data": {}}), "Parameter 'backend.data.out' is missing"),
        (json!({"type": "socket", "data": {}}), "Parameter 'backend.data.addr' is missing"),
        (
            json!({"type": "socket", "data": {"addr": {"type": "unix", "data": {}}}}),
            "Parameter 'backend.data.addr.data.path' is missing",
        ),
        (
            inet(json!({"host": "", "port": 5})),
            "Invalid parameter type for 'backend.data.addr.data.port', expected: string",
        ),
        (inet(json!({"host": "", "port": "5", "to": 70000})), "Parameter 'to' expects uint16_t"),
        (
            json!({"type": "ringbuf", "data": {"size": 3}}),
            "Failed to add chardev 'b': size of ringbuf chardev must be power of two",
        ),
        (
            json!({"type": "mux", "data": {"chardev": "x"}}),
            "Failed to add chardev 'b': mux: base chardev x not found",
        ),
        (
            json!({"type": "pipe", "data": {"device": "/nonexistent"}}),
            "Failed to add chardev 'b': Could not open '/nonexistent': No such file or directory",
        ),
        (
            json!({"type": "null", "data": {"logfile": "/nonexistent/l"}}),
            "Failed to add chardev 'b': Could not create '/nonexistent/l': No such file or directory",
        ),
    ] {
        let (_, desc) = vm.qmp().err("chardev-add", json!({"id": "b", "backend": backend}));
        assert_eq!(desc, error, "{backend}");
    }
    let (_, desc) =
        vm.qmp().err("chardev-add", json!({"id": "a", "backend": {"type": "mux", "data": {"chardev": "x"}}}));
    assert_eq!(desc, "Chardev with id 'a' already exists");
}

#[test]
fn a_socket_client_connects_and_a_monitor_can_follow() {
    let mut vm = machine();
    let path = vm.scratch().join("server");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let client = json!({"type": "socket", "data": {"server": false, "addr": {"type": "unix", "data": {"path": path}}}});
    vm.qmp().ok("chardev-change", json!({"id": "ser", "backend": client}));
    let peer: UnixStream = vm.accept(&listener).unwrap();
    let mut peer = Wire::new(peer.into());
    vm.qtest().out(THR, 1, u32::from(b'!'));
    vm.qtest().out(THR, 1, u32::from(b'\n'));
    assert_eq!(peer.line().unwrap(), "!");
}

#[test]
fn the_console_takes_what_the_command_line_takes() {
    let mut vm = machine();
    for (line, said) in [
        ("chardev-add", "chardev-add: string expected\nTry \"help chardev-add\" for more information\n"),
        ("chardev-add null", "Error: chardev: no id specified\n"),
        ("chardev-add null,id=h1", ""),
        ("chardev-add backend=null,id=h2", ""),
        (
            "chardev-add null,id=h1",
            "Error: attempt to add duplicate property 'h1' to object (type 'container')\n",
        ),
        (
            "chardev-add null,id=1h",
            "Parameter 'id' expects an identifier\nIdentifiers consist of letters, digits, '-', '.', '_', starting \
             with a letter.\nError: Parsing chardev args failed\n",
        ),
        ("chardev-add bla,id=h3", "Error: 'bla' is not a valid char driver name\n"),
        ("chardev-add null,id=h3,foo=1", "Invalid parameter 'foo'\nError: Parsing chardev args failed\n"),
        (
            "chardev-add null,id=h3,mux=x",
            "Parameter 'mux' expects 'on' or 'off'\nError: Parsing chardev args failed\n",
        ),
        ("chardev-add file,id=h3", "Error: chardev: file: no filename given\n"),
        (
            "chardev-add file,id=h3,path=/nonexistent/x",
            "Error: Could not open '/nonexistent/x': No such file or directory\n",
        ),
        (
            "chardev-change h1",
            "chardev-change: string expected\nTry \"help chardev-change\" for more information\n",
        ),
        ("chardev-change x null", "Error: Chardev 'x' does not exist\n"),
        ("chardev-change h1 ringbuf,size=1k", ""),
        ("chardev-change ser null,id=foo", "Error: Unexpected 'id' parameter\n"),
        ("chardev-change ser null,foo=1", "Invalid parameter 'foo'\nError: Parsing chardev args failed\n"),
        (
            "chardev-change ser file,path=/nonexistent/x",
            "Error: Could not open '/nonexistent/x': No such file or directory\n",
        ),
        ("chardev-change m null", "Error: For mux or hub device hotswap is not supported yet\n"),
        ("chardev-change ser null,mux=on", ""),
        ("help chardev-add", "chardev-add args -- add chardev\n"),
        ("help chardev-change", "chardev-change id args -- change chardev\n"),
    ] {
        assert_eq!(vm.hmp().run(line), said, "{line}");
    }
    let listed = vm.hmp().run("info chardev");
    for line in ["h1: filename=ringbuf\n", "h2: filename=null\n", "ser: filename=null\n"] {
        assert!(listed.contains(line), "{line} in {listed}");
    }
    assert!(vm.hmp().run("chardev-add help").starts_with("Available chardev backend types: \n  stdio\n"));
}

#[test]
fn a_connected_socket_becomes_the_peer_of_a_device_without_one() {
    let mut vm = machine();
    let (ours, theirs) = UnixStream::pair().unwrap();
    let null = std::fs::File::open("/dev/null").unwrap();
    let give = |vm: &mut Vm, fd: std::os::fd::BorrowedFd<'_>| {
        let request = json!({"execute": "getfd", "arguments": {"fdname": "x"}});
        assert_eq!(vm.qmp().request_with_fds(&request, &[fd]).unwrap(), json!({"return": {}}));
    };
    let add = |vm: &mut Vm, protocol: &str| {
        vm.qmp().err("add_client", json!({"protocol": protocol, "fdname": "x", "skipauth": true})).1
    };
    assert_eq!(add(&mut vm, "ser"), "File descriptor named 'x' has not been found");
    give(&mut vm, null.as_fd());
    assert_eq!(add(&mut vm, "ser"), "parameter @fdname must name a socket");
    give(&mut vm, theirs.as_fd());
    assert_eq!(add(&mut vm, "nothing"), "protocol 'nothing' is invalid");
    assert_eq!(add(&mut vm, "ser"), "File descriptor named 'x' has not been found", "it is used up");
    give(&mut vm, theirs.as_fd());
    assert_eq!(add(&mut vm, "m"), "failed to add client");
    give(&mut vm, theirs.as_fd());
    vm.qmp().ok("add_client", json!({"protocol": "ser", "fdname": "x"}));
    give(&mut vm, theirs.as_fd());
    assert_eq!(add(&mut vm, "ser"), "failed to add client", "it has a peer");
    let mut peer = Wire::new(ours.into());
    peer.send(b"a").unwrap();
    assert_eq!(guest_reads(&mut vm), u32::from(b'a'));
    vm.qtest().out(THR, 1, u32::from(b'\n'));
    assert_eq!(peer.line().unwrap(), "");
    // A socket that came the same way is an address, too.
    let (_ours, theirs) = UnixStream::pair().unwrap();
    give(&mut vm, theirs.as_fd());
    let fd = |name: &str| json!({"type": "socket", "data": {"server": false, "addr": {"type": "fd", "data": {"str": name}}}});
    vm.qmp().ok("chardev-add", json!({"id": "passed", "backend": fd("x")}));
    for name in ["x", "0"] {
        let (_, desc) = vm.qmp().err("chardev-add", json!({"id": "again", "backend": fd(name)}));
        assert_eq!(
            desc,
            format!("Failed to add chardev 'again': File descriptor named '{name}' has not been found")
        );
    }
}
