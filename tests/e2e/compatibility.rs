//! `docs/compatibility.md` lists every command and event of QEMU 10.0.2 that the program has not, and no other.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use tests::{Need, Vm, have};

const HEADING: &str = "\n## Commands and events that are not there\n";

type Names = BTreeSet<String>;

/// The names in each of the table's columns.
fn documented(column: usize) -> Names {
    let page = include_str!("../../docs/compatibility.md");
    let section = page.split(HEADING).nth(1).expect("the heading is there");
    let section = section.split("\n## ").next().unwrap_or(section);
    let rows = section.lines().filter(|line| line.starts_with("| ") && line.contains('`'));
    let cell = |line: &str| {
        let cells: Vec<String> = line.trim_matches('|').split(" | ").map(str::to_owned).collect();
        assert_eq!(cells.len(), 5, "family, commands, events, console, why: {line}");
        assert!(!cells[4].trim().is_empty(), "no reason: {line}");
        cells[column].clone()
    };
    let mut names = Names::new();
    for line in rows {
        for name in cell(line).split('`').skip(1).step_by(2) {
            assert!(names.insert(name.to_owned()), "{name} is there twice");
        }
    }
    names
}

/// The program has what QEMU has, except for what the table's `column` lists.
fn agree(column: usize, qemu: &Names, ours: &Names) {
    let is: Names = qemu.difference(ours).cloned().collect();
    let said = documented(column);
    let list = |names: Vec<&String>| names.iter().map(|n| format!("`{n}`")).collect::<Vec<_>>().join(" ");
    let unlisted = list(is.difference(&said).collect());
    let unknown = list(said.difference(qemu).collect());
    let there = list(said.intersection(ours).collect());
    assert!(
        unlisted.is_empty() && unknown.is_empty() && there.is_empty(),
        "the table \"{}\" of docs/compatibility.md\n  should not have what the program has: {there}\n  should not have what QEMU \
         has not: {unknown}\n  should have, with a reason, what only QEMU has: {unlisted}",
        HEADING.trim_matches(['\n', '#', ' '])
    );
}

/// Names of the commands or events of a schema.
fn named(schema: &Value, meta: &str) -> Names {
    let entities = schema.as_array().unwrap().iter().filter(|e| e["meta-type"] == meta);
    entities.map(|e| e["name"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn every_qmp_command_and_event_of_qemu_is_there_or_documented_to_be_missing() {
    if !have(&[Need::Pliant]) {
        return;
    }
    let qemu: Value =
        serde_json::from_str(include_str!("../../qapi/tests/data/qemu-10.0.2-schema.json")).unwrap();
    let mut vm = Vm::new().line("-machine none").qmp().start();
    let schema = vm.qmp().ok("query-qmp-schema", json!({}));
    let listed = vm.qmp().ok("query-commands", json!({}));
    let listed: Names =
        listed.as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap().to_owned()).collect();
    assert_eq!(named(&schema, "command"), listed, "what is described is what is listed");
    agree(1, &named(&qemu, "command"), &listed);
    agree(2, &named(&qemu, "event"), &named(&schema, "event"));
    // Whatever is on the list is refused as unknown, not in some other way.
    for command in documented(1) {
        let (class, desc) = vm.qmp().err(&command, json!({}));
        assert_eq!(
            (class.as_str(), desc),
            ("CommandNotFound", format!("The command {command} has not been found"))
        );
    }
}

#[test]
fn every_console_command_of_qemu_is_there_or_documented_to_be_missing() {
    if !have(&[Need::Pliant]) {
        return;
    }
    let qemu: Names = include_str!("../data/qemu-10.0.2-console.txt")
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(str::to_owned)
        .collect();
    let mut vm = Vm::new().line("-machine none").hmp().start();
    let mut ours = Names::new();
    // What an entry goes on with begins with a tab.
    for line in vm.hmp().run("help").lines().filter(|line| !line.starts_with(['\t', ' '])) {
        ours.extend(line.split(' ').next().unwrap_or(line).split('|').map(str::to_owned));
    }
    for line in vm.hmp().run("help info").lines().filter(|line| line.starts_with("info ")) {
        ours.insert(line.split(' ').take(2).collect::<Vec<_>>().join(" "));
    }
    agree(3, &qemu, &ours);
    for command in documented(3) {
        let reply = vm.hmp().run(&command);
        assert_eq!(reply, format!("unknown command: '{command}'\n"));
    }
}
