//! Descriptors that clients send over their monitor's socket. QEMU answers the same requests beside us, word for word.

use std::fs::{self, OpenOptions};
use std::io::Read as _;
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::Instant;

use serde_json::{Value, json};
use tests::{Need, Vm, have};

/// Ours and QEMU, to be asked the same.
struct Pair {
    ours: Vm,
    theirs: Vm,
    null: OwnedFd,
}

impl Pair {
    /// Two machines with two QMP monitors and a console each; `None` where QEMU is missing.
    fn start() -> Option<Self> {
        if !have(&[Need::Qemu, Need::Pliant]) {
            return None;
        }
        let line = "-machine q35 -m 64M";
        let qemu = tests::program::qemu()?;
        let ours = Vm::new().line(line).qmp().qmp().hmp().start();
        let theirs = Vm::new().program(&qemu).accel("tcg").line("-S").line(line).qmp().qmp().hmp().start();
        let null = OpenOptions::new().read(true).write(true).open("/dev/null").unwrap().into();
        Some(Self { ours, theirs, null })
    }

    /// Sends `command` with `count` descriptors to both, over monitor `at`, and demands the same answer, which it gives.
    fn same(&mut self, at: usize, command: &str, arguments: Value, count: usize) -> Value {
        let request = json!({ "execute": command, "arguments": arguments });
        let fds = vec![self.null.as_fd(); count];
        let ours = self.ours.qmp_at(at).request_with_fds(&request, &fds).unwrap();
        let theirs = self.theirs.qmp_at(at).request_with_fds(&request, &fds).unwrap();
        assert_eq!(ours, theirs, "{request} with {count}");
        ours
    }
}

/// How many descriptors a process has.
fn count(vm: &Vm) -> usize {
    fs::read_dir(format!("/proc/{}/fd", vm.pid().as_raw_nonzero())).unwrap().count()
}

#[test]
fn names_are_given_and_closed_as_with_qemu() {
    let Some(mut pair) = Pair::start() else { return };
    let name = |name: &str| json!({ "fdname": name });
    for (command, fdname, count) in [
        ("getfd", "a", 0),
        ("getfd", "1a", 1),
        ("closefd", "1a", 0),
        ("getfd", "", 1),
        ("getfd", "a", 1),
        ("getfd", "a", 3),
        ("getfd", "b", 0),
        ("closefd", "b", 0),
        ("closefd", "", 0),
        ("closefd", "a", 0),
        ("closefd", "a", 0),
    ] {
        pair.same(0, command, name(fdname), count);
    }
    // One that came with another command waits, one of a refused request too.
    pair.same(0, "query-name", json!({}), 2);
    pair.same(0, "getfd", name("late"), 0);
    pair.same(0, "getfd", json!({}), 1);
    pair.same(0, "getfd", name("later"), 0);
    pair.same(0, "getfd", name("latest"), 0);
    // Another monitor has names of its own, and so has a console within a command.
    pair.same(1, "closefd", name("late"), 0);
    pair.same(0, "human-monitor-command", json!({ "command-line": "closefd late" }), 0);
    pair.same(0, "human-monitor-command", json!({ "command-line": "getfd hm" }), 1);
    pair.same(0, "closefd", name("late"), 0);
}

#[test]
fn a_console_takes_descriptors_too() {
    let Some(mut pair) = Pair::start() else { return };
    for (line, with) in [
        ("getfd", false),
        ("getfd a", false),
        ("getfd c", true),
        ("getfd 1c", true),
        ("closefd", false),
        ("closefd c", false),
        ("closefd c", false),
        ("help getfd", false),
        ("help closefd", false),
    ] {
        let fds: &[_] = if with { &[pair.null.as_fd()] } else { &[] };
        let [ours, theirs] = [&mut pair.ours, &mut pair.theirs].map(|vm| {
            vm.hmp().wire().send_with_fds(format!("{line}\n").as_bytes(), fds).unwrap();
            vm.hmp().reply().unwrap()
        });
        assert_eq!(ours, theirs, "{line}");
    }
}

#[test]
fn names_outlive_the_client_and_descriptors_without_a_command_do_not() {
    if !have(&[Need::Pliant]) {
        return;
    }
    let mut vm = Vm::new().line("-machine none -qmp unix:$RUN/again,server=on,wait=off").qmp().start();
    let path = vm.scratch().join("again");
    let null: OwnedFd = fs::File::open("/dev/null").unwrap().into();
    let before = count(&vm);
    let mut client = tests::Qmp::new(vm.connect(&path));
    client.negotiate().unwrap();
    let getfd = json!({ "execute": "getfd", "arguments": { "fdname": "kept" } });
    client.request_with_fds(&getfd, &[null.as_fd()]).unwrap();
    client.request_with_fds(&json!({ "execute": "query-status" }), &[null.as_fd(); 5]).unwrap();
    drop(client);
    let mut client = tests::Qmp::new(vm.connect(&path));
    client.negotiate().unwrap();
    client.ok("closefd", json!({ "fdname": "kept" }));
    let (_, desc) = client.err("getfd", json!({ "fdname": "unclaimed" }));
    assert_eq!(desc, "No file descriptor supplied via SCM_RIGHTS");
    drop(client);
    // Nothing of all that is left, once the end of the last client is noticed.
    let deadline = Instant::now() + tests::wire::patience();
    while count(&vm) > before {
        assert!(Instant::now() < deadline, "{} descriptors, {before} before", count(&vm));
        vm.qmp().ok("query-status", json!({}));
    }
}

#[test]
fn a_flood_of_descriptors_stays_bounded() {
    if !have(&[Need::Pliant]) {
        return;
    }
    let mut vm = Vm::new().line("-machine none").qmp().start();
    let null: OwnedFd = fs::File::open("/dev/null").unwrap().into();
    let before = count(&vm);
    for _ in 0..200 {
        // More than are taken of one message; and some arrive without a command.
        vm.qmp().request_with_fds(&json!({ "execute": "query-status" }), &[null.as_fd(); 30]).unwrap();
        vm.qmp().wire().send_with_fds(b"\n", &[null.as_fd(); 30]).unwrap();
    }
    vm.qmp().ok("query-status", json!({}));
    assert!(count(&vm) <= before + 16, "{} descriptors, {before} before", count(&vm));
}

#[test]
fn dumps_go_to_a_descriptor_with_a_name() {
    let Some(mut pair) = Pair::start() else { return };
    let dump =
        |name: &str| json!({ "paging": false, "protocol": format!("fd:{name}"), "begin": 0, "length": 4096 });
    pair.same(0, "getfd", json!({ "fdname": "a" }), 1);
    pair.same(1, "dump-guest-memory", dump("a"), 0);
    pair.same(0, "dump-guest-memory", dump("5"), 0);
    pair.same(0, "dump-guest-memory", dump("a"), 0);
    pair.same(0, "dump-guest-memory", dump("a"), 0);
    // What is written arrives: a pipe to a reader of its own.
    let (mut reader, writer) = std::io::pipe().unwrap();
    let getfd = json!({ "execute": "getfd", "arguments": { "fdname": "pipe" } });
    let reply = pair.ours.qmp().request_with_fds(&getfd, &[writer.as_fd()]).unwrap();
    assert_eq!(reply, json!({ "return": {} }));
    drop(writer);
    let reading = std::thread::spawn(move || {
        let mut all = Vec::new();
        reader.read_to_end(&mut all).unwrap();
        all
    });
    pair.ours.qmp().ok("dump-guest-memory", dump("pipe"));
    assert_eq!(reading.join().unwrap()[..4], *b"\x7fELF");
}

/// What `query-fdsets` says, without the numbers that descriptors happen to have: sets with the notes of their members.
fn sets(vm: &mut Vm) -> Value {
    let sets = vm.qmp().ok("query-fdsets", json!({}));
    let set = |set: &Value| {
        let fds = set["fds"].as_array().unwrap();
        (set["fdset-id"].clone(), fds.iter().map(|fd| fd["opaque"].clone()).collect::<Vec<_>>())
    };
    sets.as_array().unwrap().iter().map(set).map(|(id, notes)| json!([id, notes])).collect()
}

#[test]
fn sets_are_made_filled_and_emptied_as_with_qemu() {
    let Some(mut pair) = Pair::start() else { return };
    for (at, command, arguments, count) in [
        (0, "add-fd", json!({}), 0),
        (0, "add-fd", json!({ "fdset-id": -1 }), 1),
        (0, "add-fd", json!({}), 0),
        (0, "add-fd", json!({ "fdset-id": "x" }), 0),
        (0, "remove-fd", json!({}), 0),
        (0, "remove-fd", json!({ "fdset-id": 99 }), 0),
        (0, "remove-fd", json!({ "fdset-id": -1 }), 0),
    ] {
        pair.same(at, command, arguments, count);
    }
    for (at, arguments, count) in [
        (0, json!({ "opaque": "first" }), 1),
        (0, json!({ "fdset-id": 5, "opaque": "five" }), 1),
        (1, json!({ "fdset-id": 5 }), 3),
        (1, json!({}), 1),
    ] {
        let request = json!({ "execute": "add-fd", "arguments": arguments });
        let fds = vec![pair.null.as_fd(); count];
        let [ours, theirs] = [&mut pair.ours, &mut pair.theirs].map(|vm| {
            let reply = vm.qmp_at(at).request_with_fds(&request, &fds).unwrap();
            assert!(reply["return"]["fd"].is_u64(), "{reply}");
            reply["return"]["fdset-id"].clone()
        });
        assert_eq!(ours, theirs, "{request}");
    }
    assert_eq!(sets(&mut pair.ours), sets(&mut pair.theirs));
    pair.same(0, "remove-fd", json!({ "fdset-id": 5, "fd": 999 }), 0);
    pair.same(1, "remove-fd", json!({ "fdset-id": 5 }), 0);
    pair.same(1, "remove-fd", json!({ "fdset-id": 5 }), 0);
    assert_eq!(sets(&mut pair.ours), json!([[1, [null]], [0, ["first"]]]));
    assert_eq!(sets(&mut pair.ours), sets(&mut pair.theirs));
    // What is there to be opened and what is not.
    for path in ["77", "x", "-1", ""] {
        pair.same(
            0,
            "dump-guest-memory",
            json!({ "paging": false, "protocol": format!("file:/dev/fdset/{path}") }),
            0,
        );
    }
    let readonly: OwnedFd = fs::File::open("/dev/null").unwrap().into();
    let add = json!({ "execute": "add-fd", "arguments": { "fdset-id": 31 } });
    for vm in [&mut pair.ours, &mut pair.theirs] {
        vm.qmp().request_with_fds(&add, &[readonly.as_fd()]).unwrap();
    }
    pair.same(0, "dump-guest-memory", json!({ "paging": false, "protocol": "file:/dev/fdset/31" }), 0);
}

#[test]
fn files_come_from_sets_that_last_as_long_as_they_are_used() {
    if !have(&[Need::Pliant]) {
        return;
    }
    let out = tempfile::tempdir().unwrap();
    let path = out.path().join("log");
    fs::write(&path, "before\n").unwrap();
    let file: OwnedFd = OpenOptions::new().append(true).open(&path).unwrap().into();
    let number = rustix::io::dup(&file).unwrap();
    // Without close-on-exec the program inherits it, as libvirt gives files for serial ports. A monitor greets whoever reads it.
    let fd = std::os::fd::AsRawFd::as_raw_fd(&number);
    let line = format!(
        "-machine q35 -m 64M -add-fd set=3,fd={fd},opaque=log -chardev file,id=f,path=/dev/fdset/3,append=on -mon chardev=f,mode=control"
    );
    let mut vm = Vm::new().line(&line).qmp().start();
    drop(number);
    assert_eq!(sets(&mut vm), json!([[3, ["log"]]]));
    vm.qmp().ok("remove-fd", json!({ "fdset-id": 3 }));
    assert_eq!(sets(&mut vm), json!([[3, []]]));
    let deadline = Instant::now() + tests::wire::patience();
    while fs::read_to_string(&path).unwrap() == "before\n" {
        assert!(Instant::now() < deadline, "nothing was written");
        vm.qmp().ok("query-status", json!({}));
    }
    assert!(fs::read_to_string(&path).unwrap().starts_with("before\n"));
    // A dump goes to one as well, and the set is gone with it.
    let core = out.path().join("core");
    let target: OwnedFd = fs::File::create(&core).unwrap().into();
    let add = json!({ "execute": "add-fd", "arguments": { "fdset-id": 8 } });
    vm.qmp().request_with_fds(&add, &[target.as_fd()]).unwrap();
    let dump = json!({ "paging": false, "protocol": "file:/dev/fdset/8", "begin": 0, "length": 4096 });
    vm.qmp().ok("dump-guest-memory", dump);
    vm.qmp().ok("remove-fd", json!({ "fdset-id": 8 }));
    assert_eq!(sets(&mut vm), json!([[3, []]]));
    assert_eq!(fs::read(&core).unwrap()[..4], *b"\x7fELF");
}

#[test]
fn what_add_fd_cannot_use_is_refused_in_qemus_words() {
    if !have(&[Need::Qemu, Need::Pliant]) {
        return;
    }
    let qemu = tests::program::qemu().unwrap();
    for option in [
        "set=0",
        "fd=1",
        "set=-1,fd=0",
        "set=1,fd=999",
        "set=x,fd=1",
        "set=1,fd=-1",
        "set=1,fd=1,foo=1",
        "foo",
        "set=1,fd=99999999999",
    ] {
        let run = |builder: tests::VmBuilder| {
            let exited = builder.args(["-machine", "none", "-add-fd", option]).run();
            let text = exited.stderr.replace("pliant: ", "qemu-system-x86_64: ");
            (exited.code, text)
        };
        assert_eq!(run(Vm::new().bare()), run(Vm::new().bare().program(&qemu)), "{option}");
    }
}
