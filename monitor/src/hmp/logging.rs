//! Trace events and the log.

use qapi::{Dict, Result, Value};

use super::args::{Args, Kind};
use super::command::{Command, command};
use super::complete::Source;
use super::objects::names;
use super::{Execute, items, text};

/// Commands of this room.
pub(super) const COMMANDS: &[Command] = &[
    command(
        "log",
        &[("items", Kind::Word)],
        "item1[,...]",
        "activate logging of the specified items",
        &[Source::LogItems],
        log,
    ),
    command(
        "logfile",
        &[("filename", Kind::Filename)],
        "filename",
        "output logs to 'filename'",
        &[Source::Files],
        |x, a| said(x, "x-pliant-set-log-file", Dict::new().with("filename", a.word("filename"))),
    ),
    command(
        "trace-event",
        &[("name", Kind::Word), ("option", Kind::Switch), ("vcpu", Kind::OptionalNumber)],
        "name on|off [vcpu]",
        "changes status of a specific trace event (vcpu: vCPU to set, default is all)",
        &[Source::Found(events), Source::Names(&["on", "off"])],
        // As in QEMU since 9.1, an event is on for all vCPUs or for none.
        |x, a| switch(x, a.word("name"), a.flag("option")),
    ),
];

/// Its `info` sub-commands.
pub(super) const INFOS: &[Command] = &[command(
    "trace-events",
    &[("name", Kind::OptionalWord), ("vcpu", Kind::OptionalNumber)],
    "[name] [vcpu]",
    "show available trace-events & their state (name: event name pattern; vcpu: vCPU to query, default is any)",
    &[Source::Found(events)],
    trace_events,
)];

/// Runs a command whose complaints stand alone on the console.
fn said(x: &dyn Execute, command: &str, arguments: Dict) -> Result<String> {
    let done = x.execute(command, arguments);
    Ok(done.map_or_else(|error| format!("{}\n", error.desc()), |_| String::new()))
}

fn switch(x: &dyn Execute, name: &str, enable: bool) -> Result<String> {
    said(x, "trace-event-set-state", Dict::new().with("name", name).with("enable", enable))
}

fn state(x: &dyn Execute, name: &str) -> Result<Value> {
    x.execute("trace-event-get-state", Dict::new().with("name", name))
}

fn trace_events(x: &dyn Execute, args: &Args) -> Result<String> {
    let reply = match state(x, args.optional("name").unwrap_or("*")) {
        Ok(reply) => reply,
        Err(error) => return Ok(format!("{}\n", error.desc())),
    };
    let line = |event: &Value| {
        format!("{} : state {}\n", text(event, "name"), u8::from(text(event, "state") == "enabled"))
    };
    Ok(items(&reply).iter().map(line).collect())
}

/// Names of all trace events, in the order of their declaration.
fn events(x: &dyn Execute) -> Vec<String> {
    let reply = state(x, "*").unwrap_or(Value::Null);
    let mut all: Vec<_> = names(&reply).map(str::to_owned).collect();
    all.reverse();
    all
}

/// `log ITEM,...`: what is not named is not logged any more, except trace events.
fn log(x: &dyn Execute, args: &Args) -> Result<String> {
    let known = x.query("x-pliant-query-log")?;
    let known: Vec<&str> = names(&known).collect();
    let (mut wanted, mut patterns) = (Vec::new(), Vec::new());
    let list = args.word("items");
    for word in list.split(',').filter(|_| list != "none") {
        match word.strip_prefix("trace:") {
            Some("help" | "?") => return Ok(events(x).iter().map(|name| format!("{name}\n")).collect()),
            Some(pattern) if !pattern.is_empty() => patterns.push(pattern),
            None if word == "all" => wanted.extend(&known),
            None if known.contains(&word) => wanted.push(word),
            _ => return log_help(x),
        }
    }
    let mut out = String::new();
    for pattern in patterns {
        let (name, enable) = pattern.strip_prefix('-').map_or((pattern, true), |name| (name, false));
        if !switch(x, name, enable)?.is_empty() {
            out.push_str(&format!("warning: trace event '{name}' does not exist\n"));
        }
    }
    let wanted: Vec<Value> = wanted.into_iter().map(Value::from).collect();
    x.execute("x-pliant-set-log", Dict::new().with("items", wanted))?;
    Ok(out)
}

/// What `log` takes.
pub(super) fn log_help(x: &dyn Execute) -> Result<String> {
    let known = x.query("x-pliant-query-log")?;
    let known = items(&known).iter().map(|item| (text(item, "name"), text(item, "help")));
    let lines = [("none", "none of these; trace events stay as they are")]
        .into_iter()
        .chain(known)
        .chain([("trace:PATTERN", "trace events whose names fit")]);
    let lines: String = lines.map(|(name, help)| format!("{name:<15} {help}\n")).collect();
    Ok(format!(
        "Log items (comma separated):\n{lines}\nUse \"log trace:help\" to get a list of trace events.\n\n"
    ))
}

/// Candidates for the list of items: the last one is completed, those before it stay.
pub(super) fn log_candidates(x: &dyn Execute, typed: &str) -> Vec<String> {
    let (before, last) = typed.rsplit_once(',').map_or(("", typed), |(before, last)| (before, last));
    let before = if before.is_empty() { String::new() } else { format!("{before},") };
    let known = x.query("x-pliant-query-log").unwrap_or(Value::Null);
    let names = match last.strip_prefix("trace:") {
        Some(_) => events(x).into_iter().map(|name| format!("trace:{name}")).collect(),
        None => names(&known).chain(["none", "help", "trace:"]).map(str::to_owned).collect::<Vec<_>>(),
    };
    names.into_iter().map(|name| format!("{before}{name}")).collect()
}
