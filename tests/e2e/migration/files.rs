//! Saving a machine into a file, and going on from it later.

use std::fs::{self, File, OpenOptions};
use std::io::Read as _;
use std::os::fd::AsFd as _;
use std::path::Path;

use serde_json::json;
use tests::{Need, Vm, have};

use super::{M, capabilities, destination, file, has_data, info, machine, migrate, plug, reached, run_state};

/// Saves a machine with plugged memory to `uri`; it ends.
fn save(names: &[&str], uri: impl FnOnce(&mut Vm) -> String) {
    let mut vm = machine().start();
    capabilities(&mut vm, &["events"]);
    capabilities(&mut vm, names);
    plug(&mut vm);
    vm.qtest().memset(0x200_0000, 4 * M, 0x5a);
    let uri = uri(&mut vm);
    migrate(&mut vm, &uri);
    reached(&mut vm, "completed");
    assert_eq!(run_state(&mut vm), "postmigrate");
    vm.quit();
}

/// Goes on from it.
fn restore(names: &[&str], uri: impl FnOnce(&mut Vm) -> String) {
    let mut vm = destination().start();
    capabilities(&mut vm, &["events"]);
    capabilities(&mut vm, names);
    let uri = uri(&mut vm);
    vm.qmp().ok("migrate-incoming", json!({ "uri": uri }));
    reached(&mut vm, "completed");
    assert_eq!(info(&mut vm), json!({ "status": "completed" }));
    assert!(has_data(&mut vm));
    assert_eq!(vm.qtest().bytes(0x200_0000 + 4 * M - 2, 4), [0x5a, 0x5a, 0, 0]);
    assert_eq!(vm.qmp().qom_get("vm0", "size"), 24 * M);
}

/// A descriptor of a file as `/dev/fdset/N`.
fn set(vm: &mut Vm, path: &Path, write: bool) -> String {
    let file = OpenOptions::new().read(!write).write(write).create(write).open(path).unwrap();
    let request = json!({ "execute": "add-fd", "arguments": { "fdset-id": 7 } });
    let reply = vm.qmp().request_with_fds(&request, &[file.as_fd()]).unwrap();
    assert_eq!(reply["return"]["fdset-id"], 7);
    "/dev/fdset/7".to_owned()
}

const WAYS: [&[&str]; 3] = [&[], &["mapped-ram"], &["mapped-ram", "multifd"]];

#[test]
fn a_machine_goes_on_from_a_file() {
    if !have(&[Need::Pliant]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    for names in WAYS {
        let path = folder.path().join("saved");
        // What was there before and is longer does not matter.
        fs::write(&path, vec![0xa5; 3 << 20]).unwrap();
        let uri = format!("file:{}", path.display());
        save(names, |_| uri.clone());
        restore(names, |_| uri.clone());
        // As often as one likes.
        restore(names, |_| uri.clone());
    }
}

#[test]
fn a_machine_goes_on_from_the_middle_of_a_file() {
    if !have(&[Need::Pliant]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    for names in WAYS {
        let path = folder.path().join("saved");
        fs::write(&path, [0xa5; 8192]).unwrap();
        let uri = format!("file:{},offset=0x1234", path.display());
        save(names, |_| uri.clone());
        // All of it may be large, if most of it holes.
        let mut before = [0; 0x1234];
        File::open(&path).unwrap().read_exact(&mut before).unwrap();
        assert_eq!(before, [0xa5; 0x1234], "{names:?}");
        restore(names, |_| uri.clone());
    }
}

#[test]
fn a_machine_goes_on_from_a_descriptor() {
    if !have(&[Need::Pliant]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    for names in WAYS {
        let path = folder.path().join("saved");
        save(names, |vm| format!("file:{}", set(vm, &path, true)));
        restore(names, |vm| format!("file:{}", set(vm, &path, false)));
    }
}

#[test]
fn a_machine_goes_on_from_a_file_named_on_the_command_line() {
    if !have(&[Need::Pliant]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("saved");
    save(&[], |vm| format!("exec:cat > {}; : {}", path.display(), file(vm, "x").display()));
    for scheme in ["file:", "exec:cat "] {
        let uri = format!("{scheme}{}", path.display());
        let mut vm = machine().args(["-incoming", &uri]).start();
        // It may have arrived before anybody asked for events.
        while run_state(&mut vm) == "inmigrate" {
            vm.qmp().wait_event("RESUME", |_| true);
        }
        assert_eq!(run_state(&mut vm), "running");
        assert!(has_data(&mut vm));
    }
    // With `-S`, or a `stop` of the user's, it arrives and waits.
    let uri = format!("file:{}", path.display());
    let mut vm = destination().line("-S").start();
    capabilities(&mut vm, &["events"]);
    vm.qmp().ok("migrate-incoming", json!({ "uri": uri }));
    reached(&mut vm, "completed");
    assert_eq!(run_state(&mut vm), "paused");
    vm.qmp().ok("cont", json!({}));
    assert!(has_data(&mut vm));
}

#[test]
fn mapped_memory_needs_a_file() {
    if !have(&[Need::Pliant]) {
        return;
    }
    let mut vm = machine().start();
    capabilities(&mut vm, &["mapped-ram"]);
    for uri in ["exec:cat", "unix:x", "tcp:127.0.0.1:1"] {
        let (_, text) = vm.qmp().err("migrate", json!({ "uri": uri }));
        assert_eq!(text, "Migration requires seekable transport (e.g. file)", "{uri}");
    }
}
