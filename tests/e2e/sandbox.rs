//! `-sandbox`: what is denied is refused in QEMU's words, and a whole life of a machine needs nothing of it.

use std::fs;

use serde_json::json;
use tests::{Exited, Need, Vm, VmBuilder, have};

use crate::session::{sized, with_guest};

/// As libvirt says it.
const ALL: &str = "-sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny";

/// Those that run a guest here.
fn accelerators() -> Vec<&'static str> {
    let all = [("kvm", Need::Kvm), ("sim", Need::Pliant)];
    all.into_iter().filter(|(_, need)| have(&[*need])).map(|(name, _)| name).collect()
}

/// Names of the threads of a machine, each of which is filtered.
fn filtered(vm: &Vm) -> Vec<String> {
    let tasks = format!("/proc/{}/task", vm.pid().as_raw_nonzero());
    let mut names = Vec::new();
    for task in fs::read_dir(tasks).unwrap() {
        // One that has just ended has no status.
        let Ok(status) = fs::read_to_string(task.unwrap().path().join("status")) else { continue };
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim();
        assert_eq!((field("Seccomp:"), field("NoNewPrivs:")), ("2", "1"), "{}", field("Name:"));
        names.push(field("Name:").to_owned());
    }
    names
}

fn machine(accel: &str) -> VmBuilder {
    with_guest(Vm::new())
        .accel(accel)
        .line("-machine pc -m 256M,maxmem=4G -smp 2")
        .line("-object memory-backend-ram,id=mem0,size=1G,host-nodes=0,policy=bind")
        .line("-device virtio-mem-pci,id=vm0,memdev=mem0,requested-size=128M")
        .line("-device virtio-balloon-pci,id=balloon0")
        .line(ALL)
}

fn saved(vm: &mut Vm, uri: &str) {
    vm.qmp().ok(
        "migrate-set-capabilities",
        json!({ "capabilities": [{ "capability": "events", "state": true }] }),
    );
    vm.qmp().ok("migrate", json!({ "uri": uri }));
    vm.qmp().wait_event("MIGRATION", |event| event["data"]["status"] == "completed");
}

#[test]
fn a_whole_life_needs_nothing_that_is_denied() {
    for accel in accelerators() {
        let mut vm = machine(accel).qmp().line("-pidfile $RUN/pid").start();
        sized(&mut vm, "vm0", 128 << 20);
        // Threads, memory with a policy, a terminal and a device, while it runs.
        vm.qmp().ok("object-add", json!({ "qom-type": "iothread", "id": "io0" }));
        vm.qmp().ok(
            "object-add",
            json!({ "qom-type": "memory-backend-ram", "id": "mem1", "size": 256 << 20,
            "host-nodes": [0], "policy": "bind" }),
        );
        vm.qmp().ok(
            "object-add",
            json!({ "qom-type": "memory-backend-ram", "id": "mem2", "size": 32 << 20, "prealloc": true,
            "prealloc-threads": 2 }),
        );
        let device = json!({ "driver": "virtio-mem-pci", "id": "vm1", "memdev": "mem1",
            "requested-size": 64 << 20 });
        vm.qmp().ok("device_add", device);
        sized(&mut vm, "vm1", 64 << 20);
        let pty = vm.qmp().ok("chardev-add", json!({ "id": "p0", "backend": { "type": "pty", "data": {} } }));
        assert!(pty["pty"].as_str().unwrap().starts_with("/dev/pts/"), "{pty}");
        vm.qmp().ok("balloon", json!({ "value": 192 << 20 }));
        vm.qmp().qom_set("vm1", "requested-size", json!(0));
        sized(&mut vm, "vm1", 0);
        vm.qmp().ok("device_del", json!({ "id": "vm1" }));
        vm.qmp().wait_event("DEVICE_DELETED", |event| event["data"]["device"] == "vm1");
        let names = filtered(&vm);
        assert!(names.len() >= 3, "{names:?}");
        assert!(names.contains(&"IO io0".to_owned()), "{names:?}");

        // A guest of `sim` cannot be moved.
        if accel == "kvm" {
            let path = vm.scratch().join("saved");
            let uri = format!("file:{}", path.display());
            saved(&mut vm, &uri);
            let mut there = machine(accel).qmp().args(["-incoming", &uri]).start();
            while there.qmp().ok("query-status", json!({}))["status"] != "running" {
                there.qmp().wait_event("RESUME", |_| true);
            }
            filtered(&there);
            assert_eq!(there.quit().code, Some(0));
        }
        assert_eq!(vm.quit().code, Some(0));
    }
}

#[test]
fn a_new_process_is_refused_and_the_machine_goes_on() {
    let error = ("GenericError".to_owned(), "Failed to fork (Operation not permitted)".to_owned());
    if !have(&[Need::Pliant]) {
        return;
    }
    let mut vm = machine("qtest").qmp().start();
    assert_eq!(vm.qmp().err("migrate", json!({ "uri": "exec:cat > /dev/null" })), error);
    assert_eq!(vm.qmp().ok("query-status", json!({}))["status"], "running");
    assert_eq!(vm.quit().code, Some(0));
    let mut vm = machine("qtest").qmp().line("-S -incoming defer").start();
    assert_eq!(vm.qmp().err("migrate-incoming", json!({ "uri": "exec:cat /dev/null" })), error);
    let mut vm = machine("qtest").qmp().line("-sandbox off -sandbox on").start();
    assert_eq!(vm.qmp().err("migrate", json!({ "uri": "exec:cat > /dev/null" })), error, "options add up");
    let Exited { code, stderr, .. } = machine("qtest").args(["-incoming", "exec:cat /dev/null"]).run();
    let told = format!("qemu-system-x86_64: -incoming exec:cat /dev/null: {}\n", error.1);
    assert_eq!((code, stderr), (Some(1), told));
    // Who does not deny it has it.
    let mut vm = Vm::new().accel("qtest").line("-machine q35 -m 64M -S -sandbox on").qmp().start();
    filtered(&vm);
    saved(&mut vm, "exec:cat > /dev/null");
}

#[test]
fn mistakes_are_named_and_clients_are_told_of_the_option() {
    for (value, error) in [
        ("on,spawn=maybe", "invalid argument for spawn"),
        ("on,elevateprivileges=no", "invalid argument for elevateprivileges"),
        ("on,foo=1", "Invalid parameter 'foo'"),
        ("maybe", "Parameter 'enable' expects 'on' or 'off'"),
    ] {
        let Exited { code, stderr, .. } = Vm::new().line("-machine none").args(["-sandbox", value]).run();
        let told = format!("qemu-system-x86_64: -sandbox {value}: {error}\n");
        assert_eq!((code, stderr), (Some(1), told));
    }
    let mut vm = Vm::new().line("-machine none").qmp().start();
    let list = vm.qmp().ok("query-command-line-options", json!({ "option": "sandbox" }));
    let mut names: Vec<_> = list[0]["parameters"].as_array().unwrap().iter().map(|p| &p["name"]).collect();
    names.sort_by_key(|name| name.as_str());
    assert_eq!(names, ["elevateprivileges", "enable", "obsolete", "resourcecontrol", "spawn"]);
}
