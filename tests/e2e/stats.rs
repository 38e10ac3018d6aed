//! Statistics that the kernel keeps: `query-stats`, `query-stats-schemas`, `info stats`, beside the real QEMU where that is installed.

use serde_json::{Value, json};
use tests::program::qemu;
use tests::{Need, Vm, have};

use crate::session::{guest_says, with_guest};

fn stats(vm: &mut Vm, filter: Value) -> Vec<Value> {
    vm.qmp().ok("query-stats", filter).as_array().unwrap().clone()
}

/// The answer without values, which no two machines share, and without paths of vCPUs.
fn shape(list: &[Value]) -> Vec<Value> {
    let of = |result: &Value| {
        let names: Vec<_> = result["stats"].as_array().unwrap().iter().map(|s| s["name"].clone()).collect();
        json!([result["provider"], result.get("qom-path").is_some(), names])
    };
    list.iter().map(of).collect()
}

/// The console's text without values.
fn head(text: &str) -> Vec<String> {
    text.lines().map(|line| line.split_once("): ").map_or(line, |(head, _)| head).to_owned()).collect()
}

#[test]
fn the_kernels_statistics_are_told_as_by_qemu() {
    if !have(&[Need::Qemu, Need::Kvm, Need::Pliant]) {
        return;
    }
    let line = "-machine q35 -smp 2 -S";
    let mut ours = Vm::new().accel("kvm").line(line).qmp().start();
    let mut theirs = Vm::new().program(&qemu().unwrap()).accel("kvm").line(line).qmp().start();
    let schemas = |vm: &mut Vm| {
        let list = vm.qmp().ok("query-stats-schemas", json!({}));
        // Crypto devices are not here.
        list.as_array().unwrap().iter().filter(|s| s["provider"] == "kvm").cloned().collect::<Vec<_>>()
    };
    assert_eq!(schemas(&mut ours), schemas(&mut theirs));
    let names = |names: &[&str]| json!([{ "provider": "kvm", "names": names }]);
    for filter in [
        json!({ "target": "vm" }),
        json!({ "target": "vcpu" }),
        json!({ "target": "cryptodev" }),
        json!({ "target": "vm", "providers": [] }),
        json!({ "target": "vm", "providers": [{ "provider": "cryptodev" }] }),
        json!({ "target": "vm", "providers": [{ "provider": "kvm" }, { "provider": "cryptodev" }] }),
        json!({ "target": "vm", "providers": names(&["pages_4k", "nope"]) }),
        json!({ "target": "vm", "providers": names(&[]) }),
        json!({ "target": "vcpu", "providers": names(&["exits", "halt_wait_hist"]) }),
        json!({ "target": "vcpu", "vcpus": ["/nowhere"] }),
        json!({ "target": "vcpu", "vcpus": [] }),
    ] {
        let (a, b) = (stats(&mut ours, filter.clone()), stats(&mut theirs, filter.clone()));
        assert_eq!(shape(&a), shape(&b), "{filter}");
    }
    for (command, arguments) in [
        ("query-stats", json!({ "target": "vm", "vcpus": ["x"] })),
        ("query-stats", json!({ "target": "bad" })),
        ("query-stats", json!({})),
        ("query-stats", json!({ "target": "vm", "providers": [{ "provider": "x" }] })),
        ("query-stats", json!({ "target": "vcpu", "vcpus": [1] })),
        ("query-stats-schemas", json!({ "provider": "x" })),
    ] {
        let error = |vm: &mut Vm| vm.qmp().err(command, arguments.clone());
        assert_eq!(error(&mut ours), error(&mut theirs), "{command} {arguments}");
    }
    for line in [
        "info stats",
        "info stats vm",
        "info stats vcpu",
        "info stats vm *",
        "info stats vm * kvm",
        "info stats vm pages_4k,pages_2m",
        "info stats vm pages_4k, pages_2m",
        "info stats vm pages_4k cryptodev",
        "info stats vm nope",
        "info stats vcpu blocking,halt_wait_hist,exits kvm",
        "info stats cryptodev",
        "info stats bad",
        "help info stats",
    ] {
        assert_eq!(head(&ours.qmp().human(line)), head(&theirs.qmp().human(line)), "{line}");
    }
}

#[test]
fn what_a_guest_does_is_counted_for_the_vcpu_that_did_it() {
    if !have(&[Need::Kvm, Need::Pliant]) {
        return;
    }
    let mut vm =
        with_guest(Vm::new().accel("kvm")).line("-machine q35 -m 512M -smp 2").qmp().serial().start();
    vm.serial().until("ready: ").unwrap();
    guest_says(&mut vm, "check", "words differ", &[]);
    let paths: Vec<_> = vm
        .qmp()
        .ok("query-cpus-fast", json!({}))
        .as_array()
        .unwrap()
        .iter()
        .map(|cpu| cpu["qom-path"].clone())
        .collect();
    let mut exits = |path: &Value| {
        let providers = json!([{ "provider": "kvm", "names": ["exits"] }]);
        let list = stats(&mut vm, json!({ "target": "vcpu", "vcpus": [path], "providers": providers }));
        assert_eq!((list.len(), &list[0]["qom-path"]), (1, path));
        list[0]["stats"][0]["value"].as_u64().unwrap()
    };
    let counts = [exits(&paths[0]), exits(&paths[1])];
    assert!(counts[0] > 10 && counts[1] < counts[0], "{counts:?}");
    let text = vm.qmp().human("info stats vcpu exits");
    assert!(text.starts_with("provider: kvm\n    exits (cumulative): "), "{text}");
}

#[test]
fn without_kvm_there_are_none() {
    let mut vm = Vm::new().line("-machine q35").qmp().start();
    let schemas = vm.qmp().ok("query-stats-schemas", json!({ "provider": "kvm" }));
    assert_eq!(schemas, json!([]));
    for target in ["vm", "vcpu"] {
        assert_eq!(stats(&mut vm, json!({ "target": target })), [] as [Value; 0]);
        assert_eq!(vm.qmp().human(&format!("info stats {target}")), "");
    }
}
