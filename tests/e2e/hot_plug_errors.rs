//! What the oracle recorded on a q35 with root ports (run-time errors R170 to R182), said by a `pc`, whose own bus takes devices:
//! pliant has no root ports yet, but the same paths.

use serde_json::{Value, json};
use tests::{Need, Vm, have};

fn add(vm: &mut Vm, id: &str, memdev: &str) -> Value {
    let arguments = json!({ "driver": "virtio-mem-pci", "id": id, "memdev": memdev });
    ask(vm, "device_add", arguments)
}

/// The whole reply to a command.
fn ask(vm: &mut Vm, command: &str, arguments: Value) -> Value {
    vm.qmp().request(&json!({ "execute": command, "arguments": arguments })).unwrap()
}

fn error(desc: &str) -> Value {
    json!({ "error": { "class": "GenericError", "desc": desc } })
}

#[test]
fn a_machine_without_maxmem_takes_no_memory_device() {
    if !have(&[Need::QtestAccel]) {
        return;
    }
    let mut vm =
        Vm::new().line("-machine pc -m 1G -object memory-backend-ram,id=mem0,size=1G").qmp().hmp().start();
    let text = "the configuration is not prepared for memory devices (e.g., for memory hotplug), consider specifying the \
                maxmem option";
    assert_eq!(add(&mut vm, "vm0", "mem0"), error(text));
    assert_eq!(vm.hmp().run("device_add virtio-mem-pci,id=vm0,memdev=mem0"), format!("Error: {text}\n"));
    assert_eq!(vm.qmp().ok("query-memory-devices", json!({})), json!([]));
    assert_eq!(vm.hmp().run("info memory-devices"), "");
    assert_eq!(vm.hmp().run("info numa"), "0 nodes\n");
    assert_eq!(
        vm.qmp().ok("query-memory-size-summary", json!({})),
        json!({ "base-memory": 1 << 30, "plugged-memory": 0 })
    );
}

#[test]
fn room_for_memory_devices_runs_out_and_a_pending_unplug_freezes_the_request() {
    if !have(&[Need::QtestAccel]) {
        return;
    }
    let backends: String = [("mem0", "1G"), ("mem1", "64M"), ("mem2", "2G")]
        .map(|(id, size)| format!(" -object memory-backend-ram,id={id},size={size}"))
        .concat();
    let mut vm = Vm::new().line(&format!("-machine pc -m 1G,maxmem=2G{backends}")).qmp().hmp().start();
    let full = |used: &str| {
        error(&format!(
            "not enough space, currently {used} in use of total space for memory devices 0x40000000"
        ))
    };
    assert_eq!(add(&mut vm, "vm2", "mem2"), full("0x0"));
    assert_eq!(add(&mut vm, "vm0", "mem0"), json!({ "return": {} }));
    assert_eq!(add(&mut vm, "vm1", "mem1"), full("0x40000000"));
    assert_eq!(
        vm.hmp().run("info memory-devices"),
        "Memory device [virtio-mem]: \"vm0\"\n  memaddr: 0x100000000\n  node: 0\n  requested-size: 0\n  size: 0\n  \
         max-size: 1073741824\n  block-size: 2097152\n  memdev: /objects/mem0\n"
    );
    // No guest answers, so that the removal stays pending.
    let delete = |vm: &mut Vm| ask(vm, "device_del", json!({ "id": "vm0" }));
    assert_eq!(delete(&mut vm), json!({ "return": {} }));
    let set = json!({ "path": "vm0", "property": "requested-size", "value": 2 << 20 });
    assert_eq!(
        ask(&mut vm, "qom-set", set),
        error("'requested-size' cannot be changed if the device is in the process of unplug")
    );
    assert_eq!(delete(&mut vm), error("Device vm0 is already in the process of unplug"));
}

#[test]
fn a_root_complex_takes_no_device_while_it_runs() {
    if !have(&[Need::QtestAccel]) {
        return;
    }
    let line = "-machine q35 -m 1G,maxmem=2G -object memory-backend-ram,id=mem0,size=1G";
    let mut vm = Vm::new().line(line).qmp().start();
    assert_eq!(add(&mut vm, "vm0", "mem0"), error("Bus 'pcie.0' does not support hotplugging"));
}
