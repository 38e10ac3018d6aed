//! The recordings, section by section: both command lines are run, the machine is moved, and what both sides say is compared.
//!
//! Where ours refuses what QEMU finds out too late or not at all, [`ours`] has what is expected in its place.

use std::collections::HashMap;

use serde_json::{Value, json};
use tests::oracle::catalogue::machine_options;
use tests::oracle::transcript::{Step, parse};
use tests::oracle::{Gaps, Report, read};
use tests::{Exited, Need, VirtioMem, Vm, have};

use super::{capabilities, file, has_data, info, plug, run_state, story};

/// One section of a recording.
struct Record {
    id: String,
    heading: String,
    source: Vec<String>,
    destination: Vec<String>,
    driven: bool,
    said: HashMap<String, String>,
    /// What the destination and the source complained of.
    complaints: HashMap<String, Vec<String>>,
}

fn records(name: &str) -> Vec<Record> {
    let text = read(&format!("5-migration/{name}.txt"));
    let mut records: Vec<Record> = Vec::new();
    let (mut side, mut complainer) = ("", String::new());
    for (number, line) in text.lines().enumerate() {
        if let Some(heading) = line.strip_prefix("## ") {
            records.push(Record {
                id: format!("{name}:{}", number + 1),
                heading: heading.into(),
                source: Vec::new(),
                destination: Vec::new(),
                driven: false,
                said: HashMap::new(),
                complaints: HashMap::new(),
            });
            continue;
        }
        let Some(record) = records.last_mut() else { continue };
        if let Some(command) = line.strip_prefix("$ ") {
            let options = machine_options(command);
            if side == "source:" { record.source = options } else { record.destination = options }
        } else if line.starts_with("guest: ") {
            record.driven = true;
        } else if let Some(who) = line.strip_suffix(" stderr:") {
            complainer = who.to_owned();
        } else if let Some(sentence) = line.strip_prefix("  qemu-system-x86_64: ") {
            record.complaints.entry(complainer.clone()).or_default().push(sentence.into());
        } else if line.ends_with(':') {
            side = line;
        } else if let Some((key, value)) = line.split_once(": ") {
            record.said.insert(key.into(), value.into());
        }
    }
    records
}

/// What this program says to a section in which it differs from QEMU on purpose: it finds mismatches before any memory is touched. The
/// destination's complaints.
fn ours(heading: &str) -> Option<Vec<&'static str>> {
    const INVALID: &str = "load of migration failed: Invalid argument";
    const EARLY: [&str; 2] = [
        "Failed to load virtio-mem-device-early:tmp",
        "error while loading state for instance 0x0 of device '0000:00:02.0/virtio-mem-device-early'",
    ];
    match heading {
        // A section at the end in QEMU.
        "unplugged-inaccessible on -> off" => Some(vec![
            "Property 'unplugged-inaccessible' changed from on to off",
            EARLY[0],
            EARLY[1],
            INVALID,
        ]),
        // Accepted by QEMU.
        "unplugged-inaccessible off -> on" => Some(vec![
            "Property 'unplugged-inaccessible' changed from off to on",
            EARLY[0],
            EARLY[1],
            INVALID,
        ]),
        // QEMU reads one kind of stream as the other.
        "x-early-migration off -> on" => Some(vec![
            "Unknown savevm section or instance '0000:00:02.0/virtio-mem-device-plugged' 0. Make sure that your current \
             VM setup matches your saved VM setup, including any hotplugged devices",
            INVALID,
        ]),
        // What is plugged goes ahead all the same.
        "x-early-migration off on both, block-size differs" => Some(vec![
            "Property 'block-size' changed from 0x200000 to 0x400000",
            "Failed to load virtio-mem-device-plugged:tmp",
            "error while loading state for instance 0x0 of device '0000:00:02.0/virtio-mem-device-plugged'",
            INVALID,
        ]),
        _ => None,
    }
}

/// What a recording's way is called, what it needs on both sides, and with how many channels.
struct Way {
    scheme: &'static str,
    capabilities: &'static [&'static str],
    channels: Option<u8>,
}

fn way(heading: &str) -> Way {
    let (scheme, capabilities, channels): (_, &[&str], _) = match heading {
        "tcp" => ("tcp", &[], None),
        "file" => ("file", &[], None),
        "tcp multifd 4 channels" => ("tcp", &["multifd"], Some(4)),
        "file mapped-ram" => ("file", &["mapped-ram"], None),
        "file mapped-ram multifd 4" => ("file", &["mapped-ram", "multifd"], Some(4)),
        "unix return-path + switchover-ack" => ("unix", &["return-path", "switchover-ack"], None),
        "x-ignore-shared with shared memfd" => ("unix", &["x-ignore-shared"], None),
        "postcopy-ram capability (not started)" => ("unix", &["postcopy-ram"], None),
        _ => ("unix", &[], None),
    };
    Way { scheme, capabilities, channels }
}

/// Events as lines. How many passes there are between the first and the last is a matter of time.
fn told(events: &[Value]) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for event in events {
        let (name, data) = (event["event"].as_str().unwrap(), &event["data"]);
        match name {
            // Of the driver's doings.
            "MEMORY_DEVICE_SIZE_CHANGE" => {}
            "MIGRATION" => lines.push(data["status"].as_str().unwrap().into()),
            "MIGRATION_PASS" if data["pass"] == 1 => lines.push("first pass".into()),
            "MIGRATION_PASS" if lines.last().is_some_and(|line| line == "device") => {
                lines.push("last pass".into());
            }
            "MIGRATION_PASS" => {}
            _ => lines.push(name.into()),
        }
    }
    lines
}

/// The same of a recording's line.
fn recorded(line: &str) -> Vec<String> {
    let event = |text: &str| {
        let (name, data) = text.split_once(':').unwrap();
        json!({ "event": name, "data": serde_json::from_str::<Value>(data).unwrap() })
    };
    told(&line.split("; ").map(event).collect::<Vec<_>>())
}

/// `query-migrate` with what does not depend on time and bytes.
fn shape(info: &Value) -> Value {
    fn names(value: &Value, keep: &[&str]) -> Value {
        let Some(members) = value.as_object() else { return json!("") };
        let member = |(name, value): (&String, &Value)| {
            let value = if keep.contains(&name.as_str()) { value.clone() } else { names(value, keep) };
            (name.clone(), value)
        };
        Value::Object(members.iter().map(member).collect())
    }
    names(info, &["status", "error-desc", "page-size", "remaining", "postcopy-requests", "postcopy-bytes"])
}

fn json_of(line: &str) -> Value {
    serde_json::from_str(line).unwrap()
}

/// Plays one section.
fn play(record: &Record, report: &mut Report) {
    let way = way(&record.heading);
    let mut source = Vm::new().args(&record.source).qmp().qtest().start();
    let mut there = Vm::new().args(&record.destination).qmp().qtest().start();
    let known = source.qmp().ok("query-migrate-capabilities", json!({}));
    let has = |name: &&&str| known.as_array().unwrap().iter().any(|known| known["capability"] == **name);
    if let Some(unknown) = way.capabilities.iter().find(|name| !has(name)) {
        let all = json!([{ "capability": unknown, "state": true }]);
        let (_, text) = source.qmp().err("migrate-set-capabilities", json!({ "capabilities": all }));
        return report.fail(&record.id, &record.heading, &text);
    }
    for vm in [&mut source, &mut there] {
        capabilities(vm, &["events"]);
        capabilities(vm, way.capabilities);
        if let Some(channels) = way.channels {
            vm.qmp().ok("migrate-set-parameters", json!({ "multifd-channels": channels }));
        }
    }
    let driver = record.driven.then(|| plug(&mut source));
    let refused = ours(&record.heading);
    let fails = refused.is_some() || record.said["source query-migrate"].contains("failed");
    if fails {
        // More than a socket takes in, so that the source is still sending when the other side has gone.
        source.qtest().memset(0x200_0000, 16 << 20, 0x5a);
    }
    let path = file(&source, "stream");
    let uri = match way.scheme {
        "unix" => super::listen(&mut there),
        "tcp" => {
            there.qmp().ok("migrate-incoming", json!({ "uri": "tcp:127.0.0.1:0" }));
            let port = info(&mut there)["socket-address"][0]["port"].as_str().unwrap().to_owned();
            format!("tcp:127.0.0.1:{port}")
        }
        _ => format!("file:{}", path.display()),
    };
    super::migrate(&mut source, &uri);
    let events = story(&mut source);
    if way.scheme == "file" {
        there.qmp().ok("migrate-incoming", json!({ "uri": uri }));
    }
    let id = &record.id;
    let failed = json!({ "status": "failed", "error-desc": "Unable to write to socket: Broken pipe" });
    let (expected_events, expected_info, expected_state) = if refused.is_some() {
        let events = ["setup", "first pass", "active", "failed"].map(str::to_owned).to_vec();
        (events, failed, "running".to_owned())
    } else {
        let state = json_of(&record.said["source runstate"])["status"].as_str().unwrap().to_owned();
        (recorded(&record.said["source events"]), json_of(&record.said["source query-migrate"]), state)
    };
    report.text(id, "source events", &expected_events.join("\n"), &told(&events).join("\n"));
    report.json(id, "source query-migrate", &shape(&expected_info), &shape(&info(&mut source)));
    report.text(id, "source runstate", &expected_state, &run_state(&mut source));
    let complaints = source.stderr();
    let complaints = super::sentences(&complaints);
    // QEMU has a line about its internals before it.
    let expected = if fails { vec!["Unable to write to socket: Broken pipe"] } else { Vec::new() };
    report.text(id, "source stderr", &expected.join("\n"), &complaints.join("\n"));
    match (refused, record.complaints.get("destination")) {
        (Some(refused), _) => exits(id, report, there, &refused),
        (None, Some(lines)) => {
            exits(id, report, there, &lines.iter().map(String::as_str).collect::<Vec<_>>())
        }
        (None, None) => arrived(record, report, &mut there, driver.as_ref()),
    }
    if fails {
        // It goes on, and can be sent elsewhere.
        source.qmp().ok("migrate", json!({ "uri": "exec:cat > /dev/null" }));
        report.text(id, "a second migration", "completed", told(&story(&mut source)).last().unwrap());
    }
}

fn exits(id: &str, report: &mut Report, there: Vm, lines: &[&str]) {
    let Exited { code, stderr, .. } = there.wait();
    report.text(id, "destination stderr", &lines.join("\n"), &super::sentences(&stderr).join("\n"));
    report.text(id, "destination's end", "Some(1)", &format!("{code:?}"));
}

fn arrived(record: &Record, report: &mut Report, there: &mut Vm, driver: Option<&VirtioMem>) {
    let (id, said) = (&record.id, &record.said);
    let events = told(&story(there));
    report.text(
        id,
        "destination events",
        &recorded(&said["destination events"]).join("\n"),
        &events.join("\n"),
    );
    report.json(id, "destination query-migrate", &json_of(&said["destination query-migrate"]), &info(there));
    let state = there.qmp().ok("query-status", json!({}));
    report.json(id, "destination runstate", &json_of(&said["destination runstate"]), &state);
    let devices = there.qmp().ok("query-memory-devices", json!({}));
    report.json(id, "destination memory devices", &json_of(&said["destination memory devices"]), &devices);
    let Some(driver) = driver else { return };
    let config = driver.config(there.qtest()).to_string();
    report.text(id, "destination device config", &said["destination device config"], &config);
    report.check(id, "destination data", has_data(there), || "is not what was written".into());
    report.text(id, "destination stderr", "", &there.stderr());
}

fn replay(name: &str, wanted: impl Fn(usize) -> bool) {
    if !have(&[Need::Oracle, Need::QtestAccel]) {
        return;
    }
    let mut report = Report::new(name, Gaps::load(&[&format!("gaps-{name}")]));
    for (number, record) in records(name).iter().enumerate() {
        if wanted(number) && !record.heading.starts_with("info migrate") {
            play(record, &mut report);
        }
    }
    report.finish();
}

#[test]
fn the_oracles_ways_of_moving_a_machine() {
    replay("transports", |_| true);
}

#[test]
fn the_oracles_mismatches_one_half() {
    replay("mismatch", |number| number % 2 == 0);
}

#[test]
fn the_oracles_mismatches_other_half() {
    replay("mismatch", |number| number % 2 == 1);
}

/// A text with each number as `#`.
fn without_numbers(text: &str) -> String {
    let mut shown = String::new();
    for c in text.chars() {
        let number = c.is_ascii_digit() || c == '.';
        if !number {
            shown.push(c);
        } else if !shown.ends_with('#') {
            shown.push('#');
        }
    }
    shown
}

#[test]
fn the_oracles_info_migrate() {
    if !have(&[Need::Oracle, Need::QtestAccel]) {
        return;
    }
    let text = read("5-migration/transports.txt");
    let from = text.find("## info migrate").unwrap();
    let steps = parse(&text[from..], &["guest: "]);
    let mut vm = super::machine().start();
    capabilities(&mut vm, &["events"]);
    plug(&mut vm);
    let mut report = Report::new("info migrate", Gaps::load(&["gaps-info-migrate"]));
    for step in &steps {
        let Step::Hmp(command, expected) = &step.step else { continue };
        if command == "migrate_cancel" {
            // How far it is behind that is a matter of time.
            break;
        }
        let got = vm.hmp().run(command);
        let id = command.replace(' ', "_");
        report.text(&id, command, &without_numbers(expected), &without_numbers(&got));
        match command.split(' ').next().unwrap() {
            "migrate" => super::reached(&mut vm, "pre-switchover"),
            "migrate_continue" => super::reached(&mut vm, "completed"),
            _ => {}
        }
    }
    report.finish();
    assert_eq!(vm.hmp().run("migrate_cancel"), "");
    super::reached(&mut vm, "cancelled");
    let ended = vm.hmp().run("info migrate");
    assert!(ended.ends_with("Migration status: cancelled\ntotal time: 0 ms\n"), "{ended}");
}
