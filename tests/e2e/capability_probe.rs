//! What libvirt 11.3 asks of a program that it takes for its emulator, in its order, and what it reads of the answers: when it
//! probes what the program can do, when it starts a domain, and when it finds a running one again.
//!
//! From the measurements in `../shared/libvirt/README.md`, sections 1.2, 2.1 and 2.3: an answer that is missing, or of another
//! shape, costs libvirt the emulator, the domain, or its own life.

use serde_json::{Value, json};
use tests::{Need, Peer, Qmp, Vm, have, program};

/// Asks, and demands that it be answered; libvirt's own `id`s, as they count.
fn ask(qmp: &mut Qmp, command: &str, arguments: Value) -> Value {
    qmp.ok(command, arguments)
}

/// The elements of a list that have `member`, a string: libvirt reads it of each.
#[track_caller]
fn names<'v>(list: &'v Value, member: &str) -> Vec<&'v str> {
    let list = list.as_array().expect("a list");
    list.iter().map(|item| item[member].as_str().unwrap_or_else(|| panic!("no {member} in {item}"))).collect()
}

#[track_caller]
fn has(list: &[&str], wanted: &[&str]) {
    for name in wanted {
        assert!(list.contains(name), "no {name} in {list:?}");
    }
}

/// What libvirt does before anything else, on every connection.
fn probing() -> Vm {
    Vm::new()
        .bare()
        .line("-S -no-user-config -nodefaults -nographic -machine none,accel=kvm:tcg")
        .qmp()
        .start()
}

#[test]
fn a_probe_finds_what_it_must() {
    let mut vm = probing();
    let qmp = vm.qmp();

    let version = ask(qmp, "query-version", json!({}));
    let number = |part: &str| version["qemu"][part].as_u64().expect("a number");
    assert!((number("major"), number("minor"), number("micro")) >= (6, 2, 0), "libvirt wants 6.2.0");
    assert!(version["package"].is_string());
    assert_eq!(ask(qmp, "query-target", json!({})), json!({ "arch": "x86_64" }));

    let kvm = ask(qmp, "query-kvm", json!({}));
    assert!(kvm["enabled"].is_boolean() && kvm["present"].is_boolean());

    let types = ask(qmp, "qom-list-types", json!({}));
    has(
        &names(&types, "name"),
        &["i8042", "isa-serial", "virtio-mem-pci", "memory-backend-memfd", "max-x86_64-cpu"],
    );
    // Properties that decide what a domain may have, by type.
    for (class, wanted) in
        [("virtio-mem-pci", &["prealloc", "dynamic-memslots"][..]), ("PIIX4_PM", &[]), ("ICH9-LPC", &[])]
    {
        let list = ask(qmp, "device-list-properties", json!({ "typename": class }));
        let mut found = names(&list, "name");
        has(&found, wanted);
        found.sort_unstable();
        let all = found.len();
        found.dedup();
        assert_eq!(found.len(), all, "names that are there twice end a probe: {class}");
    }
    // What is not there may be asked for, and is then not found.
    for class in ["virtio-blk-ccw", "usb-nothing"] {
        let (kind, text) = qmp.err("device-list-properties", json!({ "typename": class }));
        assert_eq!((kind.as_str(), text), ("DeviceNotFound", format!("Device '{class}' not found")));
    }
    // These are asked without looking whether they are there; an error of this command ends libvirtd.
    for (class, wanted) in [
        ("memory-backend-file", &["reserve", "share", "discard-data"][..]),
        ("memory-backend-memfd", &["hugetlb"]),
        ("max-x86_64-cpu", &["unavailable-features", "migratable"]),
        ("none-machine", &[]),
        ("generic-pc-machine", &["max-ram-below-4g", "acpi"]),
    ] {
        let list = ask(qmp, "qom-list-properties", json!({ "typename": class }));
        has(&names(&list, "name"), wanted);
    }

    let machines = ask(qmp, "query-machines", json!({}));
    has(&names(&machines, "name"), &["none", "pc-q35-10.0", "pc-i440fx-10.0"]);
    for machine in machines.as_array().unwrap() {
        assert!(machine["cpu-max"].as_u64().is_some_and(|max| max > 0), "{machine}");
        assert!(machine["hotpluggable-cpus"].is_boolean(), "{machine}");
        assert!(machine["numa-mem-supported"].is_boolean(), "taken for true if it is not there: {machine}");
    }

    let cpus = ask(qmp, "query-cpu-definitions", json!({}));
    has(&names(&cpus, "name"), &["max", "qemu64"]);
    has(&names(&cpus, "typename"), &["max-x86_64-cpu", "qemu64-x86_64-cpu"]);
    // `host` can be expanded where there is KVM, `max` everywhere.
    let model = if kvm["enabled"] == true { "host" } else { "max" };
    for (kind, props) in [
        ("static", json!({})),
        ("static", json!({ "migratable": false })),
        ("full", json!({ "migratable": false })),
    ] {
        let arguments = json!({ "type": kind, "model": { "name": model, "props": props } });
        let expansion = ask(qmp, "query-cpu-model-expansion", arguments);
        assert!(expansion["model"]["name"].is_string(), "{expansion}");
        let props = expansion["model"]["props"].as_object().expect("an object");
        assert!(props.values().all(|v| v.is_boolean() || v.is_number() || v.is_string()));
        assert_eq!(props.get("lm"), Some(&json!(true)), "64 bits, and named as QEMU names it");
    }

    let options = ask(qmp, "query-command-line-options", json!({}));
    has(&names(&options, "option"), &["machine", "memory", "smp-opts", "chardev", "object"]);
    for option in options.as_array().unwrap() {
        names(&option["parameters"], "name");
    }
    has(&names(&ask(qmp, "query-migrate-capabilities", json!({})), "capability"), &["events"]);

    // In the schema commands are looked up by name, and some of their members by path.
    let schema = ask(qmp, "query-qmp-schema", json!({}));
    let entities = names(&schema, "name");
    has(
        &entities,
        &[
            "query-cpu-definitions",
            "query-cpu-model-expansion",
            "device_add",
            "query-hotpluggable-cpus",
            "set-action",
        ],
    );
    let device_add = schema.as_array().unwrap().iter().find(|e| e["name"] == "device_add").unwrap();
    assert!(device_add["features"].as_array().is_some_and(|f| f.contains(&json!("json-cli-hotplug"))));
}

/// A machine as libvirt describes one, stopped.
fn domain() -> Vm {
    let builder = Vm::new()
        .line("-S -machine q35 -m size=512M,slots=4,maxmem=2G -smp 2,maxcpus=4,sockets=4,cores=1,threads=1")
        .line("-object memory-backend-ram,id=memvmem0,size=1G,reserve=off")
        .line("-device virtio-mem-pci,id=vmem0,memdev=memvmem0,requested-size=0,bus=pcie.0,addr=0x4")
        .line("-chardev null,id=charserial0 -device isa-serial,chardev=charserial0,id=serial0")
        .line("-no-shutdown");
    let builder = if program::peer() == Peer::Qemu { builder.accel("tcg") } else { builder };
    builder.qmp().qmp().start()
}

/// The vCPU entries that both sequences read.
fn cpus(qmp: &mut Qmp) -> Vec<String> {
    let slots = ask(qmp, "query-hotpluggable-cpus", json!({}));
    for slot in slots.as_array().unwrap() {
        assert!(
            slot["type"].is_string() && slot["vcpus-count"].is_u64() && slot["props"].is_object(),
            "{slot}"
        );
    }
    let online = ask(qmp, "query-cpus-fast", json!({}));
    let online = online.as_array().unwrap();
    assert_eq!(online.len(), 2, "one entry for each");
    online.iter().map(|cpu| cpu["qom-path"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_domain_starts() {
    let mut vm = domain();
    let qmp = vm.qmp();
    ask(qmp, "query-migrate-capabilities", json!({}));
    let events = json!({ "capabilities": [{ "capability": "events", "state": true }] });
    ask(qmp, "migrate-set-capabilities", events);
    let chardevs = ask(qmp, "query-chardev", json!({}));
    has(&names(&chardevs, "label"), &["charserial0"]);
    names(&chardevs, "filename");

    // Every flag of the first CPU is read, one by one.
    let cpu = cpus(qmp).remove(0);
    let list = ask(qmp, "qom-list", json!({ "path": cpu }));
    let flags = list.as_array().unwrap().iter().filter(|p| p["type"] == "bool");
    let flags: Vec<&str> = flags.map(|p| p["name"].as_str().unwrap()).collect();
    has(&flags, &["lm", "sse2", "hypervisor"]);
    let mut on = Vec::new();
    for flag in flags {
        let value = ask(qmp, "qom-get", json!({ "path": cpu, "property": flag }));
        if value.as_bool().unwrap_or_else(|| panic!("{flag} is {value}")) {
            on.push(flag);
        }
    }
    let lacking = ask(qmp, "qom-get", json!({ "path": cpu, "property": "unavailable-features" }));
    for name in lacking.as_array().unwrap() {
        assert!(!on.contains(&name.as_str().unwrap()), "{name} cannot be both");
    }

    ask(qmp, "query-iothreads", json!({}));
    ask(qmp, "set-action", json!({ "reboot": "shutdown" }));
    let devices = ask(qmp, "qom-list", json!({ "path": "/machine/peripheral" }));
    has(&names(&devices, "name"), &["vmem0", "serial0"]);
    has(&names(&devices, "type"), &["child<virtio-mem-pci>", "child<isa-serial>"]);
    // No balloon is an answer that is expected, if it has this class.
    assert_eq!(qmp.err("balloon", json!({ "value": 1 << 29 })).0, "DeviceNotActive");
    assert_eq!(qmp.err("query-balloon", json!({})).0, "DeviceNotActive");
    ask(qmp, "query-named-block-nodes", json!({ "flat": true }));
    let memory = ask(qmp, "query-memory-devices", json!({}));
    let data = &memory[0]["data"];
    assert!(data["id"] == "vmem0" && data["memaddr"].is_u64() && data["size"] == 0, "{memory}");
    assert_eq!(ask(qmp, "query-block", json!({})), json!([]));
    ask(qmp, "cont", json!({}));
    qmp.wait_event("RESUME", |_| true);
}

#[test]
fn a_running_domain_is_found_again() {
    let mut vm = domain();
    // The daemon that was there before.
    vm.qmp().ok("cont", json!({}));
    let qmp = vm.qmp_at(1);
    ask(qmp, "query-migrate-capabilities", json!({}));
    assert_eq!(ask(qmp, "query-status", json!({})), json!({ "running": true, "status": "running" }));
    ask(qmp, "query-target", json!({}));
    ask(qmp, "query-machines", json!({}));
    let paths = cpus(qmp);
    ask(qmp, "query-memory-devices", json!({}));
    for list in ["query-iothreads", "query-block", "query-jobs"] {
        assert_eq!(ask(qmp, list, json!({})), json!([]));
    }
    ask(qmp, "query-chardev", json!({}));
    assert_eq!(qmp.err("query-balloon", json!({})).0, "DeviceNotActive");
    ask(qmp, "qom-list", json!({ "path": "/machine/peripheral" }));
    // Of a model that is not the host's it is not there, which is expected.
    let (class, _) = qmp.err("qom-get", json!({ "path": paths[0], "property": "migratable" }));
    assert_eq!(class, "GenericError");
    // What domstats asks besides.
    for target in ["vm", "vcpu"] {
        ask(qmp, "query-stats", json!({ "target": target }));
    }
    ask(qmp, "query-stats-schemas", json!({}));
}

/// Recorded probes of real QEMU: each command is answered, or refused in the one way that libvirt bears.
#[test]
fn what_was_asked_in_recorded_probes_is_answered() {
    if !have(&[Need::Oracle]) {
        return;
    }
    let logs = program::oracle_folder().join("../libvirt/logs/probe");
    for pass in ["with-kvm/pass1", "with-kvm/pass2", "without-kvm/pass1"] {
        let text = std::fs::read_to_string(logs.join(pass).join("raw.jsonl")).expect("the recording");
        let mut vm = probing();
        let mut asked = 0;
        for line in text.lines() {
            // Replies may take several lines; commands do not.
            let Ok(mut request) = serde_json::from_str::<Value>(line) else { continue };
            let Some(command) = request["execute"].as_str().map(str::to_owned) else { continue };
            if command == "qmp_capabilities" {
                continue;
            }
            request.as_object_mut().expect("a command").remove("id");
            let reply = vm.qmp().request(&request).expect("an answer");
            let refused = reply["error"]["class"].as_str();
            let may_be = match command.as_str() {
                "device-list-properties" => Some("DeviceNotFound"),
                "query-cpu-model-expansion" => Some("GenericError"),
                // Asked because QEMU lists the types; this program does not.
                "query-sev-capabilities" | "query-sgx-capabilities" => Some("CommandNotFound"),
                _ => None,
            };
            assert!(refused.is_none() || refused == may_be, "{request}: {reply}");
            asked += 1;
        }
        assert!(asked >= 4, "{pass}: {asked}");
    }
}
