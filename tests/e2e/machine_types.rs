//! What versioned machine types have otherwise than the newest, from `tests/data/machine-type-properties.txt`; and that QEMU, where it is
//! installed, says the same as that list.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use tests::program::qemu;
use tests::{Need, Qmp, Vm, have};

const VERSIONS: [&str; 11] = ["10.0", "9.2", "9.1", "9.0", "8.2", "8.1", "8.0", "7.2", "7.1", "7.0", "6.2"];

/// Every kind of device that can be had on both boards, then those of q35.
const DEVICES: &str = "-object memory-backend-ram,id=m0,size=128M -object memory-backend-ram,id=m1,size=128M \
    -device virtio-mem-pci,memdev=m0 -device pc-dimm,memdev=m1 -device virtio-rng-pci -device virtio-serial-pci,id=vs0 \
    -device virtconsole -device virtserialport -device virtio-balloon-pci -device pci-bridge,chassis_nr=3 \
    -device pvpanic";
const EXPRESS: &str =
    "-device pcie-root-port,id=rp0,chassis=1 -device pcie-pci-bridge -device virtio-rng-pci,bus=rp0";

/// Path of the first object of each type below `path`.
fn find(qmp: &mut Qmp, path: &str, found: &mut BTreeMap<String, String>) {
    let list = qmp.ok("qom-list", json!({ "path": path }));
    for entry in list.as_array().unwrap() {
        let kind = entry["type"].as_str().unwrap();
        let Some(kind) = kind.strip_prefix("child<").and_then(|k| k.strip_suffix('>')) else { continue };
        if kind.contains("memory-region") || kind == "irq" {
            continue;
        }
        let child = format!("{path}/{}", entry["name"].as_str().unwrap());
        found.entry(kind.to_owned()).or_insert_with(|| child.clone());
        find(qmp, &child, found);
    }
}

/// What of the list a machine has otherwise.
fn differences(vm: tests::VmBuilder, board: &str, version: &str) -> String {
    let prefix = if board == "q35" { "pc-q35-" } else { "pc-i440fx-" };
    let mut vm = vm.line(&format!("-machine {prefix}{version} -m 256M,slots=4,maxmem=4G")).line(DEVICES);
    if board == "q35" {
        vm = vm.line(EXPRESS);
    }
    let mut vm = vm.qmp().start();
    let mut paths = BTreeMap::new();
    find(vm.qmp(), "/machine", &mut paths);
    let at = |version: &str| VERSIONS.iter().position(|v| *v == version).unwrap();
    let mut wrong = String::new();
    let list = include_str!("../data/machine-type-properties.txt");
    for line in list.lines().filter(|line| !line.starts_with('#')) {
        let words: Vec<&str> = line.split(' ').collect();
        let [on, kind, property, values @ ..] = &words[..] else { panic!("{line}") };
        if *on != board {
            continue;
        }
        let since = values.iter().map(|value| value.split_once('=').unwrap());
        let (_, value) = since.rev().find(|(since, _)| at(since) <= at(version)).unwrap();
        let wanted: Value = serde_json::from_str(value).unwrap();
        let path = paths.get(*kind).unwrap_or_else(|| panic!("no {kind} in {paths:?}"));
        let got = vm.qmp().ok("qom-get", json!({ "path": path, "property": property }));
        if got != wanted {
            wrong += &format!("{prefix}{version} {kind}.{property}: {got}, not {wanted}\n");
        }
    }
    vm.quit();
    wrong
}

#[test]
fn types_of_every_release_have_its_defaults() {
    if !have(&[Need::Pliant]) {
        return;
    }
    let all = ["q35", "pc"].into_iter().flat_map(|board| VERSIONS.map(|version| (board, version)));
    let wrong: String = all.map(|(board, version)| differences(Vm::new(), board, version)).collect();
    assert!(wrong.is_empty(), "\n{wrong}");
}

#[test]
fn the_list_is_qemus() {
    let Some(qemu) = qemu() else { return };
    let some = [("q35", "10.0"), ("q35", "7.2"), ("pc", "6.2")];
    let wrong: String = some
        .map(|(board, version)| differences(Vm::new().program(&qemu).accel("tcg"), board, version))
        .concat();
    assert!(wrong.is_empty(), "\n{wrong}");
}
