//! CPU models: what clients are told of them, and what vCPUs have, beside the real QEMU where that is installed. With KVM both
//! tell of the same host; elsewhere a model is what it says of itself.

use std::time::Instant;

use serde_json::{Value, json};
use tests::program::qemu;
use tests::{Need, Vm, have};

/// What QEMU's own machine checks bring, which guests of this program do not have.
const NOT_HERE: [&str; 2] = ["succor", "overflow-recov"];

fn none(accel: &str) -> Vm {
    Vm::new().accel(accel).line("-machine none -S").qmp().start()
}

fn real(accel: &str, line: &str) -> Vm {
    Vm::new().program(&qemu().unwrap()).accel(accel).line(line).qmp().start()
}

fn expand(vm: &mut Vm, kind: &str, model: &Value) -> Value {
    vm.qmp().ok("query-cpu-model-expansion", json!({ "type": kind, "model": model }))["model"].take()
}

fn definition(vm: &mut Vm, name: &str) -> Value {
    let list = vm.qmp().ok("query-cpu-definitions", json!({}));
    list.as_array().unwrap().iter().find(|model| model["name"] == name).cloned().unwrap()
}

/// Asserts that everything in `ours` is in `theirs` as well.
fn assert_same(what: &str, ours: &Value, theirs: &Value) {
    for (name, value) in ours.as_object().unwrap().iter().filter(|(n, _)| !NOT_HERE.contains(&n.as_str())) {
        assert_eq!(theirs.get(name), Some(value), "{what}: {name}");
    }
}

#[test]
fn every_model_is_written_out_as_by_qemu() {
    if !have(&[Need::Qemu, Need::Kvm, Need::Pliant]) {
        return;
    }
    let (mut ours, mut theirs) = (none("kvm"), real("kvm", "-machine none"));
    let list = |vm: &mut Vm| vm.qmp().ok("query-cpu-definitions", json!({})).as_array().unwrap().clone();
    let (a, b) = (list(&mut ours), list(&mut theirs));
    assert_eq!(a.len(), b.len());
    for (a, b) in a.iter().zip(&b) {
        assert_eq!(a, b);
    }
    for name in a.iter().map(|model| model["name"].as_str().unwrap()) {
        for props in
            [json!({}), json!({ "avx2": true, "sse3": false, "family": 7, "model-id": "x", "pmu": false })]
        {
            let model = json!({ "name": name, "props": props });
            for kind in ["static", "full"] {
                let (mut a, mut b) = (expand(&mut ours, kind, &model), expand(&mut theirs, kind, &model));
                assert_eq!(a["name"], b["name"]);
                let (a, b) = (a["props"].take(), b["props"].take());
                assert!(a.as_object().unwrap().len() > 380);
                assert_same(&format!("{kind} {model}"), &a, &b);
            }
        }
    }
}

#[test]
fn mistakes_in_a_model_are_named_as_by_qemu() {
    let mut vm = Vm::new().line("-machine none").qmp().start();
    for (model, text) in [
        (json!({ "name": "nope" }), "CPU model 'nope' not found"),
        (json!({ "name": "max-x86_64-cpu" }), "CPU model 'max-x86_64-cpu' not found"),
        (json!({ "name": "max", "props": { "foo": true } }), "Property 'max-x86_64-cpu.foo' not found"),
        (
            json!({ "name": "max", "props": { "avx": "on" } }),
            "Invalid parameter type for 'model.props.avx', expected: boolean",
        ),
        (
            json!({ "name": "max", "props": { "family": "x" } }),
            "Parameter 'model.props.family' expects uint64",
        ),
        (json!({ "name": "max", "props": { "family": 999 } }), "parameter 'family' can be at most 270"),
        (
            json!({ "name": "max", "props": { "vendor": "foo" } }),
            "value of property 'vendor' must consist of exactly 12 characters",
        ),
        (
            json!({ "name": "qemu64", "props": { "migratable": true } }),
            "Property 'qemu64-x86_64-cpu.migratable' not found",
        ),
        (
            json!({ "name": "max", "props": { "hotplugged": true } }),
            "Property 'max-x86_64-cpu.hotplugged' is not writable",
        ),
        (json!({ "name": "max", "props": 5 }), "Invalid parameter type for 'model.props', expected: object"),
    ] {
        let answer = vm.qmp().err("query-cpu-model-expansion", json!({ "type": "static", "model": model }));
        assert_eq!(answer, ("GenericError".into(), text.into()), "{model}");
    }
    let answer =
        vm.qmp().err("query-cpu-model-expansion", json!({ "type": "bad", "model": { "name": "max" } }));
    assert_eq!(answer.1, "Parameter 'type' does not accept value 'bad'");
    assert_eq!(vm.qmp().ok("query-target", json!({})), json!({ "arch": "x86_64" }));
}

#[test]
fn models_are_told_without_kvm_and_without_vcpus() {
    if !have(&[Need::Pliant]) {
        return;
    }
    for accel in ["sim", "qtest"] {
        let mut vm = none(accel);
        assert_eq!(definition(&mut vm, "host")["unavailable-features"], json!(["kvm"]));
        assert_eq!(definition(&mut vm, "qemu64")["unavailable-features"], json!([]));
        let props = expand(&mut vm, "static", &json!({ "name": "qemu64" }))["props"].take();
        assert_eq!([&props["svm"], &props["x2apic"], &props["kvmclock"]], [true, false, false]);
        let max = expand(&mut vm, "static", &json!({ "name": "max" }))["props"].take();
        assert_eq!([&max["avx2"], &max["kvmclock"], &max["invtsc"]], [true, false, false]);
    }
    let exited = Vm::new().accel("sim").line("-machine q35 -cpu host").run();
    assert_eq!(exited.stderr, "qemu-system-x86_64: CPU model 'host' requires KVM or HVF\n");
}

#[test]
fn a_vcpu_has_the_properties_that_qemus_has() {
    if !have(&[Need::Qemu, Need::Kvm, Need::Pliant]) {
        return;
    }
    let path =
        |vm: &mut Vm| vm.qmp().ok("query-cpus-fast", json!({}))[0]["qom-path"].as_str().unwrap().to_owned();
    // QEMU cannot set what this KVM has in the register of `arch-capabilities`.
    for cpu in [
        "qemu64",
        "host,arch-capabilities=off",
        "max,arch-capabilities=off,pmu=off,kvm=off,model-id=foo,+invtsc",
        "qemu64,+aes,sm3=on,phys-bits=42,-lahf_lm,level=5",
        "base,+fpu,+lm,vendor=AuthenticAMD,stepping=3",
    ] {
        let line = format!("-machine q35 -S -smp 2,cores=2 -cpu {cpu}");
        let mut ours = Vm::new().accel("kvm").line(&line).qmp().start();
        let mut theirs = real("kvm", &line);
        let (at, there) = (path(&mut ours), path(&mut theirs));
        let list = ours.qmp().ok("qom-list", json!({ "path": at }));
        let kinds = theirs.qmp().ok("qom-list", json!({ "path": there }));
        let begun = Instant::now();
        let mut compared = 0;
        for entry in list.as_array().unwrap() {
            let name = entry["name"].as_str().unwrap();
            // CPUs are not hot-plugged here, and bits without names are passed on.
            if NOT_HERE.contains(&name) || ["hotpluggable", "feature-words"].contains(&name) {
                continue;
            }
            assert!(kinds.as_array().unwrap().contains(entry), "{cpu}: {entry}");
            let get = |vm: &mut Vm, path: &str| {
                vm.qmp().request(
                    &json!({ "execute": "qom-get", "arguments": { "path": path, "property": name } }),
                )
            };
            assert_eq!(get(&mut ours, &at).unwrap(), get(&mut theirs, &there).unwrap(), "{cpu}: {name}");
            compared += 1;
        }
        assert!(compared > 430, "{compared}");
        eprintln!("{cpu}: {compared} properties of both in {:?}", begun.elapsed());
        let warnings =
            |vm: &Vm| vm.stderr().lines().map(str::to_owned).collect::<std::collections::BTreeSet<_>>();
        assert_eq!(warnings(&ours), warnings(&theirs), "{cpu}");
    }
}

#[test]
fn the_classes_tell_of_the_same_properties_as_qemus() {
    if !have(&[Need::Qemu, Need::Pliant]) {
        return;
    }
    let mut ours = Vm::new().line("-machine none").qmp().start();
    let mut theirs = real("tcg", "-machine none");
    for class in
        ["max-x86_64-cpu", "host-x86_64-cpu", "qemu64-x86_64-cpu", "base-x86_64-cpu", "x86_64-cpu", "cpu"]
    {
        let list = |vm: &mut Vm| vm.qmp().ok("qom-list-properties", json!({ "typename": class }));
        let (a, b) = (list(&mut ours), list(&mut theirs));
        for property in a.as_array().unwrap() {
            // `unavailable-features` is of each class there, and not of the abstract one.
            assert!(b.as_array().unwrap().contains(property), "{class}: {property}");
        }
        // Clients die of an error here.
        for machine in ["generic-pc-machine", "none-machine", "memory-backend-file", "memory-backend-memfd"] {
            assert!(!list(&mut ours).as_array().unwrap().is_empty(), "{machine}");
        }
    }
    let types = ours.qmp().ok("qom-list-types", json!({ "implements": "cpu", "abstract": false }));
    let theirs = theirs.qmp().ok("qom-list-types", json!({ "implements": "cpu", "abstract": false }));
    assert_eq!(types.as_array().unwrap().len(), theirs.as_array().unwrap().len());
}

#[test]
fn what_is_not_there_ends_the_program_if_it_is_enforced_and_nothing_changes_later() {
    if !have(&[Need::Kvm, Need::Pliant]) {
        return;
    }
    // No host has Intel's and Centaur's and AMD's features together.
    let line = "-machine q35 -S -cpu base,+pmm,+3dnow,+sha512";
    let exited = Vm::new().accel("kvm").line(&format!("{line},enforce")).run();
    let text = "qemu-system-x86_64: Host doesn't support requested features";
    assert_eq!(exited.stderr.lines().last(), Some(text), "{}", exited.stderr);
    let mut vm = Vm::new().accel("kvm").line(&format!("{line},check=off")).qmp().start();
    assert_eq!(vm.stderr(), "");
    let path = vm.qmp().ok("query-cpus-fast", json!({}))[0]["qom-path"].clone();
    for (property, value) in [("pmm", json!(true)), ("level", json!(3)), ("migratable", json!(true))] {
        let set = json!({ "path": path, "property": property, "value": value });
        let text = vm.qmp().err("qom-set", set).1;
        let expected = if property == "migratable" {
            "Property 'base-x86_64-cpu.migratable' not found".to_owned()
        } else {
            format!(
                "Attempt to set property '{property}' on anonymous device (type 'base-x86_64-cpu') after it was realized"
            )
        };
        assert_eq!(text, expected);
    }
    assert!(vm.qmp().ok("qom-get", json!({ "path": path, "property": "pmm" })) == false);
}

#[test]
fn global_defaults_reach_every_vcpu() {
    if !have(&[Need::Pliant]) {
        return;
    }
    let line =
        "-machine q35 -smp 2 -global qemu64-x86_64-cpu.aes=on -global cpu.family=6 -cpu qemu64,family=7";
    let mut vm = Vm::new().line(line).qmp().start();
    for cpu in vm.qmp().ok("query-cpus-fast", json!({})).as_array().unwrap() {
        let path = cpu["qom-path"].as_str().unwrap();
        assert_eq!(vm.qmp().qom_get(path, "aes"), true);
        assert_eq!(vm.qmp().qom_get(path, "family"), 7);
    }
    let exited = Vm::new().line("-machine q35 -global qemu64-x86_64-cpu.foo=1").run();
    let text = "can't apply global qemu64-x86_64-cpu.foo=1: Property 'qemu64-x86_64-cpu.foo' not found";
    assert_eq!(exited.stderr, format!("qemu-system-x86_64: {text}\n"));
}
