//! The two catalogues of error texts: command lines (`S001`...) and monitor commands (`R001`...).
//!
//! The JSON files hold the facts; the text files beside them hold what JSON does not: headings, the devices of the machines
//! that did start, the command lines of the run-time setups and what the guest did between two commands.

use serde_json::Value;

use super::read;
use crate::words;

/// A command line and what came of it.
#[derive(Debug, Clone)]
pub struct Startup {
    /// `S001` and so on.
    pub id: String,
    /// The heading it stands under.
    pub section: String,
    /// What it is about.
    pub desc: String,
    /// The options after the common ones, with `$RUN` in place of a folder.
    pub args: Vec<String>,
    /// Whether the machine started.
    pub started: bool,
    /// The exit status if it did not.
    pub exit: i32,
    /// The standard error without the blanks at its end.
    pub stderr: String,
    /// The reply to `query-memory-devices` of a machine that started and has some.
    pub devices: Option<Value>,
}

/// A monitor command in its three forms.
#[derive(Debug, Clone)]
pub struct Runtime {
    /// `R001` and so on.
    pub id: String,
    /// What it is about.
    pub desc: String,
    /// The HMP command and what it printed.
    pub hmp: Option<(String, String)>,
    /// The reply to the same through `human-monitor-command`, if that was tried.
    pub hmc: Option<Value>,
    /// QMP requests and their replies, in order.
    pub qmp: Vec<(Value, Value)>,
}

/// One thing that was done in a run-time setup.
#[derive(Debug, Clone)]
pub enum RuntimeStep {
    /// A command.
    Command(Runtime),
    /// What the guest did, in words.
    Guest(String),
}

/// A machine and what was done with it.
#[derive(Debug, Clone)]
pub struct RuntimeSetup {
    /// The letter of the setup.
    pub name: String,
    /// Its options, without the accelerator and the monitors.
    pub args: Vec<String>,
    /// The steps in order.
    pub steps: Vec<RuntimeStep>,
}

/// All command lines.
///
/// # Panics
///
/// If the files are not as they were when this was written.
pub fn startup() -> Vec<Startup> {
    let entries: Vec<Value> =
        serde_json::from_str(&read("2-errors/catalogue-start.json")).expect("a JSON list");
    let text = read("2-errors/startup-errors.txt");
    entries
        .iter()
        .map(|entry| {
            let id = string(entry, "id");
            let (section, devices) = startup_text(&text, &id);
            Startup {
                section,
                devices,
                desc: string(entry, "desc"),
                args: entry["args"].as_array().expect("args").iter().map(as_string).collect(),
                started: entry["started"].as_bool().expect("started"),
                exit: entry["exit"].as_i64().expect("exit") as i32,
                stderr: string(entry, "stderr"),
                id,
            }
        })
        .collect()
}

/// The heading above an id, and the memory devices below it.
fn startup_text(text: &str, id: &str) -> (String, Option<Value>) {
    let at = text.find(&format!("\n[{id}] ")).unwrap_or_else(|| panic!("{id} is not in the text"));
    let heading = text[..at].lines().rev().find_map(|line| line.strip_prefix("## ")).expect("a heading");
    let body =
        text[at + 1..].lines().skip(1).take_while(|line| !line.starts_with('[') && !line.starts_with('#'));
    let devices = body.filter_map(|line| line.trim().strip_prefix("memory devices: ")).next();
    // One line goes on with another value after the list.
    let first = |json| serde_json::Deserializer::from_str(json).into_iter().next().expect("a JSON value");
    (heading.to_owned(), devices.map(|json| first(json).expect("a JSON list of devices")))
}

/// All run-time setups.
///
/// # Panics
///
/// If the files are not as they were when this was written.
pub fn runtime() -> Vec<RuntimeSetup> {
    let entries: Vec<Value> =
        serde_json::from_str(&read("2-errors/catalogue-runtime.json")).expect("a JSON list");
    let mut setups: Vec<RuntimeSetup> = Vec::new();
    for line in read("2-errors/runtime-errors.txt").lines() {
        if let Some(name) = line.strip_prefix("## setup ") {
            let name = name.split(':').next().unwrap_or(name).trim().to_owned();
            setups.push(RuntimeSetup { name, args: Vec::new(), steps: Vec::new() });
            continue;
        }
        let Some(setup) = setups.last_mut() else { continue };
        if let Some(command) = line.strip_prefix("$ ") {
            setup.args = machine_options(command);
        } else if line.starts_with("(guest") {
            setup.steps.push(RuntimeStep::Guest(line.to_owned()));
        } else if let Some((id, _)) = line.strip_prefix('[').and_then(|rest| rest.split_once("] ")) {
            let entry = entries.iter().find(|entry| entry["id"] == id).unwrap_or_else(|| panic!("no {id}"));
            setup.steps.push(RuntimeStep::Command(runtime_entry(entry)));
        }
    }
    setups
}

fn runtime_entry(entry: &Value) -> Runtime {
    let pairs = entry["qmp"].as_array().map(Vec::as_slice).unwrap_or_default();
    Runtime {
        id: string(entry, "id"),
        desc: string(entry, "desc"),
        hmp: entry.get("hmp").map(|command| (as_string(command), string(entry, "hmp_out"))),
        hmc: entry.get("hmc").cloned(),
        qmp: pairs.iter().map(|pair| (pair[0].clone(), pair[1].clone())).collect(),
    }
}

/// The options of a recorded command line that make the machine: without the program, the accelerator `qtest`, what
/// [`crate::Vm::new`] adds itself, and the monitors, for which the harness has its own.
pub fn machine_options(command: &str) -> Vec<String> {
    let mut kept = Vec::new();
    let mut all = words(command).into_iter().skip(1);
    while let Some(option) = all.next() {
        match option.as_str() {
            "-nodefaults" | "-no-user-config" => {}
            "-qmp" | "-monitor" | "-qtest" | "-qtest-log" | "-display" => {
                all.next();
            }
            "-accel" => {
                let accel = all.next().unwrap_or_default();
                if accel != "qtest" {
                    kept.extend([option, accel]);
                }
            }
            _ => kept.push(option),
        }
    }
    kept
}

fn string(entry: &Value, key: &str) -> String {
    as_string(&entry[key])
}

fn as_string(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("{value} is not a string")).to_owned()
}
