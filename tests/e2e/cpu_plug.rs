//! CPUs that come and go: what is refused and what is told, beside the real QEMU where it is installed; beside a guest that runs; and moved to
//! another process.

use std::fs;

use serde_json::{Value, json};
use tests::core_file::CoreFile;
use tests::program::qemu;
use tests::{Need, Vm, VmBuilder, have};

use crate::migration::{capabilities, listen, migrate, reached};
use crate::session::{guest_reached, guest_says, with_guest};

/// Where the registers of a q35 are, and those of a pc.
const ICH9: u64 = 0xcd8;
const PIIX4: u64 = 0xaf00;
const M: u64 = 1 << 20;

/// Both, the real one if there is one, on a command line with `-S`.
fn both(line: &str) -> Vec<Vm> {
    let builder = |builder: VmBuilder| builder.accel("kvm").line(line).line("-S").qmp().hmp().start();
    let theirs = qemu().map(|qemu| builder(Vm::new().program(&qemu)));
    [Some(builder(Vm::new())), theirs].into_iter().flatten().collect()
}

/// A reply without what differs from board to board and from run to run.
fn plain(reply: &Value) -> Value {
    match reply {
        Value::Array(list) => list.iter().map(plain).collect(),
        Value::Object(members) => {
            let one = |(name, value): (&String, &Value)| {
                let value = match (name.as_str(), value.as_str()) {
                    ("thread-id", _) => Value::Null,
                    ("qom-path", Some(path)) if path.starts_with("/machine/unattached/") => {
                        json!("/machine/unattached")
                    }
                    _ => plain(value),
                };
                (name.clone(), value)
            };
            Value::Object(members.iter().map(one).collect())
        }
        other => other.clone(),
    }
}

fn ask(vm: &mut Vm, command: &str, arguments: &Value) -> Value {
    vm.qmp().request(&json!({ "execute": command, "arguments": arguments })).unwrap()
}

/// Plugs and unplugs as is asked, on both, with the same answers; a string is what to unplug.
fn same_answers(line: &str, steps: &[Value]) {
    let mut vms = both(line);
    for step in steps {
        let replies: Vec<Value> = vms
            .iter_mut()
            .map(|vm| match step {
                Value::String(id) => ask(vm, "device_del", &json!({ "id": id })),
                device => ask(vm, "device_add", device),
            })
            .collect();
        assert!(replies.iter().all(|reply| *reply == replies[0]), "{step}: {replies:#?}");
        for query in ["query-hotpluggable-cpus", "query-cpus-fast"] {
            let told: Vec<Value> = vms.iter_mut().map(|vm| plain(&ask(vm, query, &json!({})))).collect();
            assert!(told.iter().all(|reply| *reply == told[0]), "{query} after {step}: {told:#?}");
        }
    }
    for line in ["info hotpluggable-cpus", "info numa"] {
        let told: Vec<String> = vms.iter_mut().map(|vm| vm.hmp().run(line)).collect();
        let told: Vec<Vec<&str>> = told
            .iter()
            .map(|text| text.lines().filter(|line| !line.contains("/machine/unattached/")).collect())
            .collect();
        assert!(told.iter().all(|text| *text == told[0]), "{line}: {told:#?}");
    }
}

fn place(id: &str, place: &Value) -> Value {
    let mut device = json!({ "driver": "qemu64-x86_64-cpu", "id": id });
    for (name, value) in place.as_object().unwrap() {
        device[name] = value.clone();
    }
    device
}

#[test]
fn places_in_sockets_and_nodes_are_judged_as_by_qemu() {
    if !have(&[Need::Kvm]) {
        return;
    }
    let line = "-machine q35 -smp 2,maxcpus=5,sockets=5 -m 256M \
        -object memory-backend-ram,id=m0,size=128M -object memory-backend-ram,id=m1,size=128M \
        -numa node,cpus=0-1,memdev=m0 -numa node,memdev=m1 -numa cpu,node-id=1,socket-id=2 \
        -numa cpu,node-id=1,socket-id=3 -numa cpu,node-id=0,socket-id=4";
    let at = |more: Value| place("c", &more);
    same_answers(
        line,
        &[
            json!({ "driver": "max-x86_64-cpu", "id": "c", "socket-id": 2, "core-id": 0, "thread-id": 0 }),
            json!({ "driver": "x86_64-cpu", "id": "c", "socket-id": 2, "core-id": 0, "thread-id": 0 }),
            at(json!({})),
            at(json!({ "socket-id": 5, "core-id": 0, "thread-id": 0 })),
            at(json!({ "socket-id": -2, "core-id": 0, "thread-id": 0 })),
            at(json!({ "socket-id": 2, "core-id": 1, "thread-id": 0 })),
            at(json!({ "socket-id": 2, "core-id": 0, "thread-id": 1 })),
            at(json!({ "socket-id": 2, "core-id": 0 })),
            at(json!({ "socket-id": 2, "thread-id": 0 })),
            at(json!({ "core-id": 0, "thread-id": 0 })),
            at(json!({ "socket-id": "2", "core-id": 0, "thread-id": 0 })),
            at(json!({ "socket-id": 2, "core-id": 0, "thread-id": 0, "die-id": 1 })),
            at(json!({ "socket-id": 2, "core-id": 0, "thread-id": 0, "module-id": 1 })),
            at(json!({ "socket-id": 2, "core-id": 0, "thread-id": 0, "node-id": 0 })),
            at(json!({ "socket-id": 2, "core-id": 0, "thread-id": 0, "nope": 0 })),
            at(json!({ "socket-id": 1, "core-id": 0, "thread-id": 0 })),
            at(json!({ "socket-id": 2, "core-id": 0, "thread-id": 0, "bus": "pcie.0" })),
            at(json!({ "socket-id": 2, "core-id": 0, "thread-id": 0, "apic-id": 3 })),
            at(json!({ "apic-id": 5 })),
            at(json!({ "apic-id": 0 })),
            place("c2", &json!({ "socket-id": 2, "core-id": 0, "thread-id": 0, "node-id": 1 })),
            place("c2", &json!({ "socket-id": 3, "core-id": 0, "thread-id": 0 })),
            place("c4", &json!({ "apic-id": 4 })),
            json!({ "driver": "qemu64-x86_64-cpu", "socket-id": 3, "core-id": 0, "thread-id": 0, "die-id": 0, "module-id": 0 }),
            json!("c2"),
            json!("c9"),
            json!("/machine/unattached/device[0]"),
        ],
    );
}

#[test]
fn places_in_dies_and_cores_are_judged_as_by_qemu() {
    if !have(&[Need::Kvm]) {
        return;
    }
    let at = |socket: u32, die: Option<u32>, core: u32, thread: u32, apic_id: Option<u32>| {
        let mut at = json!({ "socket-id": socket, "core-id": core, "thread-id": thread });
        if let Some(die) = die {
            at["die-id"] = json!(die);
        }
        if let Some(id) = apic_id {
            at["apic-id"] = json!(id);
        }
        at
    };
    // Three cores take two bits of an APIC ID.
    same_answers(
        "-machine pc -smp 1,maxcpus=12,sockets=1,dies=2,cores=3,threads=2 -m 64M",
        &[
            place("a", &at(0, None, 1, 1, None)),
            place("a", &at(0, Some(2), 1, 1, None)),
            place("a", &at(0, Some(1), 3, 1, None)),
            place("a", &at(0, Some(1), 2, 2, None)),
            place("a", &at(0, Some(1), 2, 0, Some(13))),
            place("a", &at(0, Some(1), 1, 1, Some(13))),
            place("a", &at(0, Some(0), 2, 1, Some(13))),
            place("a", &json!({ "apic-id": 6 })),
            place("a", &json!({ "apic-id": 100 })),
            place("a", &json!({ "apic-id": 13, "node-id": 1 })),
            place("a", &at(0, Some(1), 2, 1, Some(13))),
            place("b", &at(0, Some(0), 0, 1, None)),
            place("c", &json!({ "apic-id": 12, "node-id": 0 })),
            json!("b"),
            json!("/machine/unattached/device[0]"),
        ],
    );
}

#[test]
fn machines_that_cannot_say_so_as_qemu() {
    if !have(&[Need::Kvm]) {
        return;
    }
    let one = json!({ "socket-id": 0, "core-id": 1, "thread-id": 0 });
    let boot = json!("/machine/unattached/device[0]");
    for machine in ["microvm", "q35,acpi=off", "pc,acpi=off"] {
        let line = format!("-machine {machine} -smp 1,maxcpus=2,cores=2 -m 64M -nodefaults");
        same_answers(&line, &[place("c1", &one), json!("c1"), boot.clone()]);
    }
    same_answers("-machine none", &[place("c1", &one), boot]);
}

fn refused(line: &str) -> String {
    let exited = Vm::new().accel("kvm").line(line).qmp().try_start().unwrap_err();
    assert_eq!(exited.code, Some(1));
    exited.stderr
}

#[test]
fn cpus_that_are_there_from_the_start_are_devices_too() {
    if !have(&[Need::Kvm, Need::Pliant]) {
        return;
    }
    let mut vm = Vm::new()
        .accel("kvm")
        .line("-machine q35 -m 64M -smp 1,maxcpus=3,cores=3 -cpu host -S")
        .line("-device host-x86_64-cpu,id=c2,socket-id=0,core-id=2,thread-id=0")
        .qmp()
        .start();
    let cpus = vm.qmp().ok("query-cpus-fast", json!({}));
    assert_eq!((&cpus[1]["cpu-index"], &cpus[1]["qom-path"]), (&json!(2), &json!("/machine/peripheral/c2")));
    let get = |vm: &mut Vm, name: &str| vm.qmp().qom_get("c2", name);
    assert_eq!(
        ["apic-id", "core-id", "node-id", "hotplugged", "hotpluggable"].map(|name| get(&mut vm, name)),
        [json!(2), json!(2), json!(-1), json!(false), json!(true)]
    );
    let line = "-machine q35 -m 64M -smp 1,maxcpus=3,cores=3 -device qemu64-x86_64-cpu,socket-id=0,thread-id=0,core-id=";
    for (core, why) in [
        ("0", "CPU[0] with APIC ID 0 exists"),
        ("3", "Invalid CPU core-id: 3 must be in range 0:2"),
        ("1,node-id=1", "invalid node-id, must be 0"),
    ] {
        assert!(refused(&format!("{line}{core}")).contains(&format!("core-id={core}: {why}\n")));
    }
    let why = "property 'x2apic' of 'qemu64-x86_64-cpu' cannot differ from that of the machine's other CPUs";
    let error = refused(&format!("{line}1,x2apic=off -cpu qemu64,x2apic=on"));
    assert!(error.contains(why), "{error}");
}

/// Reads or writes ports from the console, as a guest would.
fn port(vm: &mut Vm, write: Option<u64>, size: char, at: u64) -> u64 {
    match write {
        Some(value) => {
            assert_eq!(vm.hmp().run(&format!("o /{size} {at:#x} {value:#x}")), "");
            0
        }
        None => {
            let text = vm.hmp().run(&format!("i /x{size} {at:#x}"));
            let value = text.trim().rsplit(' ').next().and_then(|v| v.strip_prefix("0x")).unwrap();
            u64::from_str_radix(value, 16).unwrap()
        }
    }
}

#[test]
fn registers_answer_as_qemus() {
    if !have(&[Need::Kvm]) {
        return;
    }
    enum Step {
        Add(u64),
        Del(&'static str),
        In(char, u64),
        Out(char, u64, u64),
        Status,
    }
    use Step::*;
    let steps = [
        In('b', 0),
        In('b', 1),
        In('w', 0),
        In('b', 31),
        Status,
        Add(2),
        In('b', 0),
        Del("c2"),
        Out('b', 1, 0),
        In('b', 0),
        Out('b', 0, 0),
        In('w', 0),
        In('b', 4),
        Status,
        Out('w', 0, 2),
        In('b', 4),
        In('w', 8),
        In('b', 4),
        Out('b', 5, 3),
        In('w', 8),
        In('w', 0),
        Out('b', 5, 0),
        In('w', 8),
        Out('w', 0, 9),
        In('w', 8),
        In('b', 4),
        Out('b', 5, 0),
        Out('b', 4, 8),
        Out('w', 0, 0),
        Add(3),
        In('w', 8),
        Out('b', 5, 0),
        In('w', 8),
        In('b', 4),
        Out('b', 5, 7),
        In('w', 8),
        Del("c2"),
        Out('b', 4, 2),
        In('b', 4),
        Out('b', 5, 0),
        In('w', 8),
        In('b', 4),
        Out('b', 5, 1),
        Out('w', 8, 0x103),
        In('w', 8),
        Out('b', 5, 2),
        Out('w', 8, 0x80),
        Status,
        Out('b', 4, 4),
        In('b', 4),
        Out('b', 4, 16),
        In('b', 4),
        Out('b', 4, 16),
        In('b', 4),
        Del("c3"),
        Out('w', 0, 3),
        In('b', 4),
        Out('b', 4, 0x14),
        In('b', 4),
        Out('b', 4, 8),
        Status,
        In('b', 4),
        Out('w', 0, 0),
        Out('b', 4, 8),
        Out('b', 4, 16),
        In('b', 4),
        Status,
        Add(3),
        Out('w', 0, 3),
        In('b', 4),
        Status,
    ];
    for (machine, base) in [("q35", ICH9), ("pc", PIIX4)] {
        let mut vms = both(&format!("-machine {machine} -smp 2,maxcpus=4,sockets=4 -m 64M"));
        for (number, step) in steps.iter().enumerate() {
            let answers: Vec<Value> = vms
                .iter_mut()
                .map(|vm| match step {
                    Add(socket) => {
                        let at = json!({ "socket-id": socket, "core-id": 0, "thread-id": 0 });
                        ask(vm, "device_add", &place(&format!("c{socket}"), &at))
                    }
                    Del(id) => ask(vm, "device_del", &json!({ "id": id })),
                    In(size, at) => json!(port(vm, None, *size, base + at)),
                    Out(size, at, value) => json!(port(vm, Some(*value), *size, base + at)),
                    Status => ask(vm, "query-acpi-ospm-status", &json!({})),
                })
                .collect();
            assert!(
                answers.iter().all(|answer| *answer == answers[0]),
                "{machine} step {number}: {answers:#?}"
            );
        }
    }
}

/// A guest with one of three CPUs.
fn machine() -> VmBuilder {
    with_guest(Vm::new().accel("kvm"))
        .line("-machine q35 -m 256M,maxmem=4G -smp 1,maxcpus=3,cores=3")
        .line("-object memory-backend-ram,id=mem0,size=1G -device pcie-root-port,id=port,chassis=1")
        .line("-device virtio-mem-pci,id=vm0,memdev=mem0,bus=port")
        .qmp()
        .hmp()
        .serial()
}

fn add(vm: &mut Vm, index: u64) {
    let at = json!({ "socket-id": 0, "core-id": index, "thread-id": 0 });
    vm.qmp().ok("device_add", place(&format!("c{index}"), &at));
}

/// The threads of a machine's CPUs by index.
fn threads(vm: &mut Vm) -> Vec<(u64, u64)> {
    let cpus = vm.qmp().ok("query-cpus-fast", json!({}));
    let of = |cpu: &Value| (cpu["cpu-index"].as_u64().unwrap(), cpu["thread-id"].as_u64().unwrap());
    cpus.as_array().unwrap().iter().map(of).collect()
}

fn comm(vm: &Vm, thread: u64) -> Option<String> {
    let path = format!("/proc/{}/task/{thread}/comm", vm.pid().as_raw_nonzero());
    fs::read_to_string(path).ok().map(|name| name.trim_end().to_owned())
}

/// The guest was asked to let go of a CPU, and does.
fn leaves(vm: &mut Vm, index: u64) {
    let id = format!("c{index}");
    vm.qmp().wait_event("DEVICE_DELETED", |event| event["data"]["device"] == id.as_str());
    vm.serial().until(&format!("cpu {index}: ejected")).unwrap();
}

#[test]
fn a_cpu_comes_and_goes_beside_a_guest_that_works() {
    if !have(&[Need::Kvm, Need::Pliant]) {
        return;
    }
    let mut vm = machine().start();
    vm.qmp().qom_set("vm0", "requested-size", json!(64 * M));
    guest_reached(&mut vm, &[64 * M]);
    for round in 0..3 {
        // Once while the machine stands still.
        if round == 1 {
            vm.qmp().ok("stop", json!({}));
        }
        add(&mut vm, 2);
        let [(0, first), (2, thread)] = threads(&mut vm)[..] else { panic!("two CPUs") };
        assert_eq!(
            [first, thread].map(|t| comm(&vm, t)),
            ["CPU 0/KVM", "CPU 2/KVM"].map(|n| Some(n.to_owned()))
        );
        let registers = vm.hmp().run("info registers -a");
        assert!(registers.contains("\nCPU#2\n") && !registers.contains("\nCPU#1\n"), "{registers}");
        assert_eq!(vm.hmp().run("info registers 1"), "CPU#1 not available\n");
        assert!(vm.hmp().run("info lapic 2").starts_with("dumping local APIC state for CPU 2 \n"));
        assert_eq!(vm.hmp().run("info lapic 1"), "No CPU available\n");
        let stats = vm.qmp().ok("query-stats", json!({ "target": "vcpu" }));
        let paths: Vec<&str> =
            stats.as_array().unwrap().iter().filter_map(|s| s["qom-path"].as_str()).collect();
        assert_eq!(paths.len(), 2, "{paths:?}");
        assert!(paths.contains(&"/machine/peripheral/c2"), "{paths:?}");
        assert!(vm.hmp().run("info mtree").contains("address-space: cpu-memory-2\n"));
        assert_eq!(vm.hmp().run("cpu 2"), "");
        assert!(vm.hmp().run("info cpus").contains("* CPU #2: thread_id="));
        let dump = vm.scratch().join(format!("dump{round}"));
        let arguments = json!({ "paging": false, "protocol": format!("file:{}", dump.display()) });
        vm.qmp().ok("dump-guest-memory", arguments);
        let notes = CoreFile::open(&dump).notes;
        assert_eq!(notes.iter().filter(|note| note.name == "QEMU").count(), 2);
        if round == 1 {
            vm.qmp().ok("cont", json!({}));
        }
        vm.serial().until("cpu 2: there").unwrap();
        if round == 2 {
            // A reset keeps it, and the guest asks for its memory anew.
            vm.qmp().ok("system_reset", json!({}));
            vm.qmp().wait_event("RESET", |_| true);
            guest_reached(&mut vm, &[64 * M]);
            assert_eq!(threads(&mut vm).len(), 2);
        }
        vm.qmp().ok("device_del", json!({ "id": "c2" }));
        leaves(&mut vm, 2);
        assert_eq!(threads(&mut vm), [(0, first)]);
        assert_eq!(comm(&vm, thread), None);
        assert!(!vm.hmp().run("info mtree").contains("cpu-memory-2"));
        assert!(vm.hmp().run("info cpus").starts_with("* CPU #0: thread_id="), "who was looked at is gone");
        guest_says(&mut vm, "check", "words differ", &["check: ok: 32 blocks"]);
    }
}

#[test]
fn cpus_that_came_are_moved_to_where_they_are() {
    if !have(&[Need::Kvm, Need::Pliant]) {
        return;
    }
    // From the start, or as libvirt has them come.
    for early in [true, false] {
        let mut vm = machine().start();
        capabilities(&mut vm, &["events"]);
        vm.qmp().qom_set("vm0", "requested-size", json!(64 * M));
        guest_reached(&mut vm, &[64 * M]);
        // The guest looks at none of it meanwhile.
        vm.qmp().ok("stop", json!({}));
        add(&mut vm, 2);
        port(&mut vm, Some(2), 'w', ICH9);
        for (command, value) in [(1, 0x103), (2, 0x80)] {
            port(&mut vm, Some(command), 'b', ICH9 + 5);
            port(&mut vm, Some(value), 'w', ICH9 + 8);
        }
        vm.qmp().ok("device_del", json!({ "id": "c2" }));
        let status = vm.qmp().ok("query-acpi-ospm-status", json!({}));
        assert_eq!(
            status[2],
            json!({ "device": "c2", "source": 0x103, "status": 0x80, "slot": "2", "slot-type": "CPU" })
        );

        let mut there = machine().line("-incoming defer");
        if early {
            there = there.line("-device qemu64-x86_64-cpu,id=c2,socket-id=0,core-id=2,thread-id=0");
        }
        let mut there = there.start();
        capabilities(&mut there, &["events"]);
        if !early {
            add(&mut there, 2);
        }
        let uri = listen(&mut there);
        migrate(&mut vm, &uri);
        reached(&mut vm, "completed");
        reached(&mut there, "completed");
        assert_eq!(there.qmp().ok("query-acpi-ospm-status", json!({})), status);
        assert_eq!((port(&mut there, None, 'b', ICH9 + 4), threads(&mut there).len()), (7, 2));
        there.qmp().ok("cont", json!({}));
        leaves(&mut there, 2);
        guest_says(&mut there, "check", "words differ", &["check: ok: 32 blocks"]);
    }
}

#[test]
fn another_set_of_cpus_takes_nobody_in() {
    if !have(&[Need::Kvm, Need::Pliant]) {
        return;
    }
    for (index, why) in [(1, "apic-id"), (0, "cpu")] {
        let mut vm = machine().start();
        add(&mut vm, 2);
        let mut there = machine().line("-incoming defer").start();
        for vm in [&mut vm, &mut there] {
            capabilities(vm, &["events", "return-path"]);
        }
        if index != 0 {
            add(&mut there, index);
        }
        let uri = listen(&mut there);
        migrate(&mut vm, &uri);
        reached(&mut vm, "failed");
        let exited = there.wait();
        assert!(exited.stderr.contains(why), "{}", exited.stderr);
        assert_eq!(threads(&mut vm).len(), 2);
    }
}

#[test]
fn under_sim_cpus_are_there_and_idle() {
    if !have(&[Need::Pliant]) {
        return;
    }
    let mut vm = Vm::new()
        .accel("sim")
        .line("-machine pc -m 256M -smp 1,maxcpus=3,cores=3 -device qemu64-x86_64-cpu,socket-id=0,core-id=1,thread-id=0")
        .qmp()
        .hmp()
        .serial()
        .start();
    // Before the guest has looked for the first time.
    port(&mut vm, Some(0), 'w', PIIX4);
    for _ in 0..2 {
        add(&mut vm, 2);
        vm.serial().until("cpu 2: there").unwrap();
        let indices: Vec<u64> = threads(&mut vm).iter().map(|(index, _)| *index).collect();
        assert_eq!(indices, [0, 1, 2]);
        vm.qmp().ok("device_del", json!({ "id": "c2" }));
        leaves(&mut vm, 2);
    }
    vm.qmp().ok("system_reset", json!({}));
    vm.serial().until("ready: ").unwrap();
    assert_eq!(threads(&mut vm).len(), 2);
}

#[test]
fn writes_of_cpus_that_came_are_measured_and_limited() {
    if !have(&[Need::Kvm, Need::Pliant]) {
        return;
    }
    let mut vm = with_guest(Vm::new().accel("kvm,dirty-ring-size=1024"))
        .line("-machine q35 -m 256M -smp 1,maxcpus=3,cores=3")
        .qmp()
        .hmp()
        .serial()
        .start();
    port(&mut vm, Some(0), 'w', ICH9);
    add(&mut vm, 2);
    let (_, text) = vm.qmp().err("set-vcpu-dirty-limit", json!({ "cpu-index": 1, "dirty-rate": 10 }));
    assert_eq!(text, "incorrect cpu index specified");
    vm.qmp().ok("set-vcpu-dirty-limit", json!({ "dirty-rate": 10 }));
    let limited = |vm: &mut Vm| -> Vec<Value> {
        let list = vm.qmp().ok("query-vcpu-dirty-limit", json!({}));
        list.as_array().unwrap().iter().map(|limit| limit["cpu-index"].clone()).collect()
    };
    assert_eq!(limited(&mut vm), [0, 2]);
    vm.serial().until("cpu 2: there").unwrap();
    vm.qmp().ok("device_del", json!({ "id": "c2" }));
    leaves(&mut vm, 2);
    assert_eq!(limited(&mut vm), [0]);
    vm.qmp().ok("cancel-vcpu-dirty-limit", json!({}));
    // It comes without.
    add(&mut vm, 2);
    assert_eq!(limited(&mut vm), [0; 0]);
    vm.qmp().ok("calc-dirty-rate", json!({ "calc-time": 1, "mode": "dirty-ring" }));
    let rate = loop {
        let rate = vm.qmp().ok("query-dirty-rate", json!({}));
        if rate["status"] == "measured" {
            break rate;
        }
    };
    let measured = rate["vcpu-dirty-rate"].as_array().unwrap();
    assert_eq!(measured.iter().map(|rate| rate["id"].clone()).collect::<Vec<_>>(), [0, 2]);
}
