//! The features that the device offers by machine type, backend and its own options.

use serde_json::{Value, json};
use tests::oracle::{Gaps, Report, read};
use tests::pci::Function;
use tests::virtio_mem::{IDS, VirtioMem};
use tests::{Need, Vm, have};

/// One configuration of the recording.
struct Case {
    id: String,
    machine: String,
    device: String,
    backend: String,
    extra: String,
    features: String,
    warning: Option<String>,
}

#[test]
fn features_are_offered_as_the_oracle() {
    if !have(&[Need::Oracle]) {
        return;
    }
    let mut report = Report::new("4-device/features.txt", Gaps::load(&["gaps-features"]));
    for case in cases() {
        compare(&case, &mut report);
    }
    report.finish();
}

fn compare(case: &Case, report: &mut Report) {
    let (kind, options) = case.backend.split_once(',').unwrap_or((&case.backend, ""));
    let comma = if options.is_empty() { "" } else { "," };
    let mut line = format!(
        "-machine {} -m 1G,maxmem=4G -object memory-backend-{kind},id=mem0,size=1G{comma}{options}",
        case.machine
    );
    match case.extra.as_str() {
        "" => {}
        "numa" => line += " -object memory-backend-ram,id=ram0,size=1G -numa node,memdev=ram0",
        "nosuspend" => line += " -global ICH9-LPC.disable_s3=1 -global PIIX4_PM.disable_s3=1",
        other => panic!("no such configuration: {other}"),
    }
    line += &format!(" -device virtio-mem-pci,id=vm0,memdev=mem0{}", case.device);
    let mut vm = match Vm::new().line(&line).qmp().qtest().try_start() {
        Ok(vm) => vm,
        Err(exited) => return report.fail(&case.id, &line, &exited.stderr),
    };
    let get = |vm: &mut Vm, property: &str| vm.qmp().qom_get("vm0", property);
    let qtest = vm.qtest();
    let function = Function::find(qtest, 0, IDS.0, IDS.1)[0];
    let features = VirtioMem::map(qtest, function, 0).features(qtest);
    let bits: Vec<String> =
        (0..64).filter(|bit| features >> bit & 1 == 1).map(|bit| bit.to_string()).collect();
    let early = match get(&mut vm, "x-early-migration") {
        Value::Bool(true) => "True",
        _ => "False",
    };
    let vectors = get(&mut vm, "vectors");
    let inaccessible = get(&mut vm, "unplugged-inaccessible");
    let inaccessible = inaccessible.as_str().unwrap_or("(no string)");
    let got = format!(
        "features={features:#018x} bits=[{}]  unplugged-inaccessible(after realize)={inaccessible}  \
         x-early-migration={early} vectors={vectors}",
        bits.join(", ")
    );
    report.text(&case.id, &line, &case.features, &got);
    let said: Vec<String> =
        vm.stderr().lines().filter(|line| !line.contains("is deprecated")).map(str::to_owned).collect();
    let expected: Vec<&str> = case.warning.iter().map(String::as_str).collect();
    report.json(&case.id, &format!("{line}: stderr"), &json!(expected), &json!(said));
}

fn cases() -> Vec<Case> {
    let text = read("4-device/features.txt");
    let mut cases: Vec<Case> = Vec::new();
    for (index, line) in text.lines().enumerate().skip(1) {
        if let Some(rest) = line.strip_prefix("machine=") {
            let (machine, rest) = rest.split_once(" dev='").unwrap();
            let (device, rest) = rest.split_once("' backend=").unwrap();
            let (backend, extra) = rest.split_once(' ').unwrap();
            cases.push(Case {
                id: format!("features:{}", index + 1),
                machine: machine.trim().into(),
                device: device.into(),
                backend: backend.into(),
                extra: extra.trim().into(),
                features: String::new(),
                warning: None,
            });
            continue;
        }
        let Some(case) = cases.last_mut() else { continue };
        match line.trim().strip_prefix("stderr: ") {
            Some(warning) => case.warning = Some(warning.into()),
            None => case.features = line.trim().into(),
        }
    }
    cases
}
