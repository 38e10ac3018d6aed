//! Every monitor command of the oracle's catalogue, over HMP, through `human-monitor-command` and over QMP.
//!
//! The commands of one setup run in one machine in the recorded order, with a driver in the test for what the guest did between
//! them. An early difference may therefore cause later ones: mend the first id of a report first.

use serde_json::{Value, json};
use tests::oracle::catalogue::{Runtime, RuntimeStep, runtime};
use tests::oracle::{Gaps, Report};
use tests::pci::Function;
use tests::virtio_mem::{Kind, VirtioMem};
use tests::{Need, Vm, have};

#[test]
fn a_machine_with_two_devices_refuses_commands_as_the_oracle() {
    replay("A");
}

#[test]
fn a_machine_without_maxmem_refuses_commands_as_the_oracle() {
    replay("B");
}

#[test]
fn a_machine_without_room_refuses_commands_as_the_oracle() {
    replay("C");
}

#[test]
fn unrealizing_a_live_device_behaves_as_the_oracle() {
    replay("D");
}

#[test]
fn every_setup_belongs_to_a_test_and_every_listed_gap_to_a_command() {
    if !have(&[Need::Oracle]) {
        return;
    }
    let setups = runtime();
    assert_eq!(setups.iter().map(|setup| setup.name.as_str()).collect::<Vec<_>>(), ["A", "D", "B", "C"]);
    let ids: Vec<&str> = setups
        .iter()
        .flat_map(|setup| &setup.steps)
        .filter_map(|step| match step {
            RuntimeStep::Command(command) => Some(command.id.as_str()),
            RuntimeStep::Guest(_) => None,
        })
        .collect();
    assert_eq!(ids.len(), 182);
    for id in lists().ids() {
        assert!(ids.contains(&id), "{id} is no id of the catalogue");
    }
}

fn lists() -> Gaps {
    Gaps::load(&["runtime-gaps"])
}

fn replay(name: &str) {
    if !have(&[Need::Oracle]) {
        return;
    }
    let setup = runtime().into_iter().find(|setup| setup.name == name).unwrap();
    let mut report = Report::new(&format!("setup {name}"), lists());
    let mut vm = match Vm::new().args(&setup.args).qmp().hmp().qtest().try_start() {
        Ok(vm) => vm,
        Err(exited) => {
            // Without the machine, each of its commands differs.
            for step in &setup.steps {
                if let RuntimeStep::Command(command) = step {
                    report.fail(&command.id, &command.desc, &exited.stderr);
                }
            }
            return report.finish();
        }
    };
    for step in &setup.steps {
        match step {
            RuntimeStep::Command(command) => compare(&mut vm, command, &mut report),
            RuntimeStep::Guest(what) => guest(&mut vm, what),
        }
    }
    report.finish();
}

/// One command in its forms, in the order in which the recorder tried them.
fn compare(vm: &mut Vm, command: &Runtime, report: &mut Report) {
    let (id, run) = (&command.id, vm.scratch().to_str().unwrap().to_owned());
    if let Some((line, expected)) = &command.hmp {
        let line = line.replace("$RUN", &run);
        let got = vm.hmp().run(&line).replace(&run, "$RUN");
        let (expected, got) = (in_any_order(&line, expected), in_any_order(&line, &got));
        report.text(id, &format!("{}: (qemu) {line}", command.desc), expected.trim_end(), got.trim_end());
        if let Some(expected) = &command.hmc {
            let got = vm.qmp().request(&json!({
                "execute": "human-monitor-command", "arguments": { "command-line": line }
            }));
            let got = got.unwrap();
            let text = |reply: &Value| in_any_order(&line, reply["return"].as_str().unwrap_or_default());
            let what = format!("{}: human-monitor-command {line}", command.desc);
            report.text(id, &what, &text(expected), &text(&got));
        }
    }
    for (request, expected) in &command.qmp {
        let request: Value = serde_json::from_str(&request.to_string().replace("$RUN", &run)).unwrap();
        let mut got = vm.qmp().request(&request).unwrap();
        // A migration that cannot connect fails in its own time.
        while got["return"]["status"] == "setup" {
            got = vm.qmp().request(&request).unwrap();
        }
        let got: Value = serde_json::from_str(&got.to_string().replace(&run, "$RUN")).unwrap();
        let what = format!("{}: {request}", command.desc);
        report.json(id, &what, &sorted(&request, expected), &sorted(&request, &got));
    }
}

/// `info memdev` lists the backends in the order of a hash table.
fn in_any_order(command: &str, text: &str) -> String {
    if command != "info memdev" {
        return text.to_owned();
    }
    let mut blocks: Vec<&str> = text.split("memory backend: ").map(str::trim_end).collect();
    blocks.sort_unstable();
    blocks.join("\nmemory backend: ")
}

/// So does `query-memdev`.
fn sorted(request: &Value, reply: &Value) -> Value {
    let mut reply = reply.clone();
    if request["execute"] == "query-memdev"
        && let Some(list) = reply.get_mut("return").and_then(Value::as_array_mut)
    {
        list.sort_by_key(|backend| backend["id"].to_string());
    }
    reply
}

/// What the guest did between two commands.
fn guest(vm: &mut Vm, what: &str) {
    let qtest = vm.qtest();
    if what.starts_with("(guest plugs one block)") {
        let mut driver = VirtioMem::map(qtest, Function::at(2), 0);
        assert!(driver.init_usual(qtest));
        let base = driver.config(qtest).addr;
        assert_eq!(driver.request(qtest, Kind::Plug, base, 1), "ACK");
    } else if what.starts_with("(guest unplugs all)") {
        let mut driver = VirtioMem::map(qtest, Function::at(2), 0);
        assert!(driver.init_usual(qtest));
        assert_eq!(driver.request(qtest, Kind::UnplugAll, 0, 0), "ACK");
    } else if what.starts_with("(guest ejects slot 2") {
        qtest.out(0xae10, 4, 0);
        qtest.out(0xae08, 4, 1 << 2);
        let half = |event: &Value| event["data"]["path"] == "/machine/peripheral/vm0/virtio-backend";
        vm.qmp().wait_event("DEVICE_DELETED", half);
        let whole = vm.qmp().wait_event("DEVICE_DELETED", |event| event["data"]["device"] == "vm0");
        assert_eq!(whole["data"], json!({ "device": "vm0", "path": "/machine/peripheral/vm0" }));
    } else {
        panic!("no such thing is known of a guest: {what}");
    }
}
