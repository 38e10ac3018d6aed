//! Peers that are killed, stall or cannot be reached, disks that are full, and migrations that are cancelled: the source goes on, with
//! one error, and a second migration succeeds.

use std::io::{self, Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread;

use rustix::process::Signal;
use serde_json::json;
use tests::{Need, Vm, have};

use super::{
    M, capabilities, destination, file, info, listen, machine, migrate, moves_on, plug, reached, run_state,
    sentences, story,
};

/// Bytes of memory that take a while at [`SLOW`].
const MUCH: u64 = 64 * M;
/// Bytes a second.
const SLOW: u64 = 32 * M;

/// A machine with plugged memory, and more in it than any socket takes in.
fn source() -> Vm {
    let mut vm = machine().start();
    capabilities(&mut vm, &["events"]);
    plug(&mut vm);
    vm.qtest().memset(0x200_0000, MUCH, 0x5a);
    vm
}

fn slowly(vm: &mut Vm, bandwidth: u64) {
    vm.qmp().ok("migrate-set-parameters", json!({ "max-bandwidth": bandwidth }));
}

/// The last status that was told.
fn end(vm: &mut Vm) -> String {
    story(vm).last().unwrap()["data"]["status"].as_str().unwrap().to_owned()
}

/// Why it failed; it goes on, without having been stopped.
fn failed(vm: &mut Vm) -> String {
    assert_eq!(end(vm), "failed");
    assert_eq!(run_state(vm), "running");
    let info = info(vm);
    assert_eq!(info["status"], "failed");
    info["error-desc"].as_str().unwrap().to_owned()
}

fn a_destination_that_is_killed(names: &[&str]) {
    if !have(&[Need::Pliant]) {
        return;
    }
    let mut source = source();
    let mut there = destination().start();
    for vm in [&mut source, &mut there] {
        capabilities(vm, &["events"]);
        capabilities(vm, names);
    }
    slowly(&mut source, SLOW);
    let uri = listen(&mut there);
    migrate(&mut source, &uri);
    reached(&mut source, "active");
    reached(&mut there, "active");
    there.signal(Signal::KILL);
    there.wait();
    let why = failed(&mut source);
    let reasons = ["Broken pipe", "Connection reset by peer", "return path"];
    assert!(reasons.iter().any(|reason| why.contains(reason)), "{names:?}: {why}");
    assert_eq!(sentences(&source.stderr()), [why]);
    slowly(&mut source, 0);
    let off: Vec<_> = names.iter().map(|name| json!({ "capability": name, "state": false })).collect();
    source.qmp().ok("migrate-set-capabilities", json!({ "capabilities": off }));
    moves_on(&mut source, true);
}

#[test]
fn a_destination_is_killed() {
    a_destination_that_is_killed(&[]);
}

#[test]
fn a_destination_with_a_way_back_is_killed() {
    a_destination_that_is_killed(&["return-path"]);
}

#[test]
fn a_destination_with_many_channels_is_killed() {
    a_destination_that_is_killed(&["multifd"]);
}

#[test]
fn a_source_is_killed_or_quits() {
    if !have(&[Need::Pliant]) {
        return;
    }
    for kill in [true, false] {
        let mut source = source();
        let mut there = destination().start();
        slowly(&mut source, SLOW);
        capabilities(&mut there, &["events"]);
        let uri = listen(&mut there);
        migrate(&mut source, &uri);
        reached(&mut there, "active");
        if kill {
            source.signal(Signal::KILL);
            source.wait();
        } else {
            let exited = source.quit();
            assert_eq!((exited.code, exited.signal), (Some(0), None), "{}", exited.stderr);
        }
        let exited = there.wait();
        assert_eq!((exited.code, exited.signal), (Some(1), None), "{}", exited.stderr);
        let said = sentences(&exited.stderr);
        assert_eq!(said.last(), Some(&"load of migration failed: Input/output error"), "{said:?}");
    }
}

#[test]
fn a_peer_that_reads_nothing_is_given_up_by_a_cancel() {
    if !have(&[Need::Pliant]) {
        return;
    }
    let mut source = source();
    let path = file(&source, "nobody");
    let nobody = UnixListener::bind(&path).unwrap();
    migrate(&mut source, &format!("unix:{}", path.display()));
    let _silent = nobody.accept().unwrap();
    reached(&mut source, "active");
    // Monitors do not wait with it.
    assert_eq!(info(&mut source)["status"], "active");
    source.qmp().ok("migrate_cancel", json!({}));
    assert_eq!(end(&mut source), "cancelled");
    assert_eq!(info(&mut source), json!({ "status": "cancelled" }));
    moves_on(&mut source, true);
}

/// A destination that a test plays, of which answers are wanted.
fn played(source: &mut Vm) -> UnixStream {
    capabilities(source, &["return-path"]);
    let path = file(source, "nobody");
    let nobody = UnixListener::bind(&path).unwrap();
    migrate(source, &format!("unix:{}", path.display()));
    nobody.accept().unwrap().0
}

#[test]
fn a_peer_that_never_answers_is_given_up_by_a_cancel() {
    if !have(&[Need::Pliant]) {
        return;
    }
    let mut source = source();
    let mut mute = played(&mut source);
    // It says that it has taken in all memory, before it is asked, but not that it has the machine.
    mute.write_all(&[&[0, 2, 0, 4][..], &0x101_u32.to_be_bytes()].concat()).unwrap();
    let reader = thread::spawn(move || io::copy(&mut mute, &mut io::sink()).unwrap());
    reached(&mut source, "device");
    assert_eq!(run_state(&mut source), "finish-migrate");
    source.qmp().ok("migrate_cancel", json!({}));
    assert_eq!(end(&mut source), "cancelled");
    assert!(source.qmp().has_event("RESUME", |_| true) || run_state(&mut source) == "running");
    assert!(reader.join().unwrap() > MUCH);
    let off = json!([{ "capability": "return-path", "state": false }]);
    source.qmp().ok("migrate-set-capabilities", json!({ "capabilities": off }));
    moves_on(&mut source, true);
}

#[test]
fn a_guest_is_not_stopped_for_a_peer_that_does_not_say_that_it_has_the_memory() {
    if !have(&[Need::Pliant]) {
        return;
    }
    let mut source = source();
    let mut mute = played(&mut source);
    let mut bytes = Vec::new();
    let (mut buf, question) = ([0; 1 << 16], [&[8, 0, 2, 0, 4][..], &0x101_u32.to_be_bytes()].concat());
    // Until it is asked.
    while !bytes.ends_with(&question) {
        let count = mute.read(&mut buf).unwrap();
        assert_ne!(count, 0);
        bytes.extend_from_slice(&buf[..count]);
    }
    assert!(bytes.len() as u64 > MUCH);
    assert_eq!(
        (run_state(&mut source).as_str(), &info(&mut source)["status"]),
        ("running", &json!("active"))
    );
    source.qmp().ok("migrate_cancel", json!({}));
    assert_eq!(end(&mut source), "cancelled");
    assert!(!source.qmp().has_event("STOP", |_| true));
}

#[test]
fn what_cannot_be_written_is_said_and_the_machine_goes_on() {
    if !have(&[Need::Pliant]) {
        return;
    }
    let mut source = source();
    for (uri, expected) in [
        ("file:/dev/full", "Unable to write to file: No space left on device"),
        ("exec:cat > /dev/full", "Unable to write to command: Broken pipe"),
        ("exec:exit 3", "Unable to write to command: Broken pipe"),
        ("unix:/nonexistent", "Failed to connect to '/nonexistent': No such file or directory"),
    ] {
        migrate(&mut source, uri);
        assert_eq!(failed(&mut source), expected, "{uri}");
    }
    // What is found out at once is the command's error.
    for (uri, expected) in [
        ("file:/nonexistent/x", "Could not create '/nonexistent/x': No such file or directory"),
        ("fd:nope", "File descriptor named 'nope' has not been found"),
    ] {
        assert_eq!(source.qmp().err("migrate", json!({ "uri": uri })).1, expected);
        assert_eq!(failed(&mut source), expected, "{uri}");
    }
    // Not an attempt at all.
    for (uri, expected) in [
        ("foo:bar", "unknown migration protocol: foo:bar"),
        ("tcp:", "error parsing address ''"),
        ("unix:", "invalid Unix socket address"),
        ("file:x,offset=foo", "file URI has bad offset foo: Invalid argument"),
    ] {
        assert_eq!(source.qmp().err("migrate", json!({ "uri": uri })).1, expected);
        assert_eq!(source.qmp().events(), [json!(null); 0], "{uri}");
    }
    moves_on(&mut source, true);
}

#[test]
fn where_a_machine_cannot_be_awaited_is_said() {
    if !have(&[Need::Pliant]) {
        return;
    }
    let mut vm = machine().start();
    let text = |vm: &mut Vm, uri: &str| vm.qmp().err("migrate-incoming", json!({ "uri": uri })).1;
    assert_eq!(text(&mut vm, "unix:x"), "'-incoming' was not specified on the command line");
    let mut vm = destination().start();
    assert_eq!(text(&mut vm, "foo:"), "unknown migration protocol: foo:");
    assert_eq!(
        text(&mut vm, "unix:/nonexistent/x"),
        "Failed to bind socket to /nonexistent/x: No such file or directory"
    );
    assert_eq!(text(&mut vm, "foo:"), "unknown migration protocol: foo:");
    assert_eq!(text(&mut vm, "unix:x"), "Illegal migration incoming state: setup");
    let mut vm = destination().start();
    listen(&mut vm);
    assert_eq!(text(&mut vm, "foo:"), "The incoming migration has already been started");
    assert_eq!(
        vm.qmp().err("migrate", json!({ "uri": "exec:cat" })).1,
        "Guest is waiting for an incoming migration"
    );
    // On the command line it ends the program.
    let exited = machine_line("foo:");
    assert_eq!(exited, "unknown migration protocol: foo:");
}

/// What a program says that is started with a place it cannot listen at.
fn machine_line(uri: &str) -> String {
    let exited = Vm::new().line("-machine pc -incoming").args([uri]).run();
    assert_eq!(exited.code, Some(1), "{}", exited.stderr);
    let said = sentences(&exited.stderr);
    said.last()
        .unwrap()
        .rsplit_once("-incoming foo:: ")
        .map_or(*said.last().unwrap(), |(_, text)| text)
        .to_owned()
}

#[test]
fn a_cancel_before_and_after_is_nothing() {
    if !have(&[Need::Pliant]) {
        return;
    }
    let mut source = source();
    let cancel = |vm: &mut Vm| vm.qmp().ok("migrate_cancel", json!({}));
    cancel(&mut source);
    assert_eq!(info(&mut source), json!({}));
    migrate(&mut source, "unix:/nonexistent");
    failed(&mut source);
    cancel(&mut source);
    assert_eq!(info(&mut source)["status"], "failed");
    moves_on(&mut source, true);
    cancel(&mut source);
    assert_eq!(info(&mut source)["status"], "completed");
    assert_eq!(run_state(&mut source), "postmigrate");
    // The machine may go on here, too, and elsewhere once more.
    source.qmp().ok("cont", json!({}));
    moves_on(&mut source, true);
}
