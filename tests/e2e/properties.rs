//! Help texts and property introspection, from the oracle's `2-properties/`.

use serde_json::{Value, json};
use tests::oracle::transcript::Step;
use tests::oracle::view::json_view;
use tests::oracle::{Gaps, Report, own, read};
use tests::{Need, Vm, have, words};

use crate::replay::{Player, first_start, lines};

/// Help texts about what this program has. Lists of all machines, devices, objects and CPUs that QEMU has are not among them.
const HELP: [&str; 14] = [
    "version",
    "device-virtio-mem-pci-help",
    "device-virtio-mem-help",
    "object-memory-backend-ram-help",
    "object-memory-backend-file-help",
    "object-memory-backend-memfd-help",
    "machine-none-help",
    "m-help",
    "smp-help",
    "numa-help",
    "monitor-help",
    "msg-help",
    "global-help",
    "incoming-help",
];

#[test]
fn help_is_the_oracles() {
    if !have(&[Need::Oracle]) {
        return;
    }
    let mut report = Report::new("2-properties", Gaps::load(&["gaps-help"]));
    for name in HELP {
        let text = read(&format!("2-properties/{name}.txt"));
        let (command, expected) = text.split_once('\n').unwrap();
        let args = words(command.strip_prefix("$ ").unwrap()).split_off(1);
        let exited = Vm::new().bare().args(args).run();
        let status = exited.code.map_or("signal".into(), |code| format!("{code}"));
        let got = format!("{}{}[exit status {status}]", exited.stdout, exited.stderr);
        report.text(name, command, expected.trim_end(), &own::without_property_lines(&got));
    }
    report.finish();
}

#[test]
fn properties_of_our_own_are_listed_wherever_properties_are() {
    if !have(&[Need::Pliant]) {
        return;
    }
    let mut vm = Vm::new()
        .line("-machine pc -m 1G,maxmem=2G -object memory-backend-ram,id=mem0,size=512M")
        .line("-device virtio-mem-pci,id=vm0,memdev=mem0")
        .qmp()
        .hmp()
        .start();
    let qtree = vm.hmp().run("info qtree");
    for own in own::all().iter().filter(|own| own.kind == own::Kind::Property) {
        let name = &own.name;
        for driver in [own.of.clone(), format!("{}-pci", own.of)] {
            let help = Vm::new().bare().args(["-device", &format!("{driver},help")]).run().stdout;
            assert_ne!(own::without_property_lines(&help), help, "{driver}.{name}");
            assert!(help.contains(&format!("  {name}=<")), "{driver}.{name}: {help}");
            let list = vm.qmp().ok("device-list-properties", json!({ "typename": driver }));
            let found = list.as_array().unwrap().iter().find(|p| p["name"] == name.as_str());
            assert!(found.is_some_and(|p| !p["description"].is_null()), "{driver}.{name}: {found:?}");
        }
        assert!(qtree.contains(&format!(" {name} = ")), "{name}: {qtree}");
    }
}

#[test]
fn properties_are_the_oracles() {
    if !have(&[Need::Oracle]) {
        return;
    }
    let file = "2-properties/qmp-introspection.txt";
    let steps = lines(file, &[]);
    let vm = Vm::new().args(first_start(&steps)).qmp().hmp().start();
    let mut player = Player::new(file, vm);
    for line in &steps {
        let Step::Qmp(request, replies) = &line.step else { continue };
        if !about_ours(request) {
            continue;
        }
        let id = player.id(line);
        let got = player.vm.qmp().request(request).unwrap();
        let expected = json_view(request, &replies[0]).unwrap_or_default();
        let got = json_view(request, &got).unwrap_or_default();
        player.report.json(&id, &request.to_string(), &expected, &got);
    }
    player.finish();
}

/// Whether a request is about the devices and backends that this program has.
fn about_ours(request: &Value) -> bool {
    let ours =
        ["virtio-mem-pci", "virtio-mem", "memory-backend-ram", "memory-backend-file", "memory-backend-memfd"];
    match request["execute"].as_str().unwrap_or_default() {
        "qom-list-properties" | "device-list-properties" => {
            ours.iter().any(|name| request["arguments"]["typename"] == *name)
        }
        "query-machines" | "qom-list-types" => false,
        _ => true,
    }
}
