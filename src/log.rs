//! Messages, trace events and the log, as the command line (`-D`, `-d`, `-trace`) and the monitors switch them.
//!
//! Warnings and errors that devices and back ends report are messages to the person who started the program, as QEMU's are. A guest
//! can cause messages (a driver that breaks the protocol, resets its device, and does it again), and must not
//! fill a terminal or whatever takes standard error: beyond a burst they come at a slow pace, and what was left out is counted.
//!
//! The log is the crate `trace`; here its events are put together, and its switches are given names.

use std::fmt::{Debug, Write};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use qapi::commands::TraceCommands;
use qapi::types::{LogItem, TraceEventInfo, TraceEventState};
use qapi::{Error, Result, strerror};
use trace::budget::Budget;
use trace::log::Item;
use trace::table::{Table, Unknown};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::Context;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

use crate::cli::{CommandLine, Raw};
use crate::report::Reporter;

/// Every trace event there is.
pub(crate) fn events() -> Table {
    Table::new(&[
        memory::trace_events::EVENTS,
        chardev::trace_events::EVENTS,
        net::trace_events::EVENTS,
        accel::trace_events::EVENTS,
        hw::trace_events::EVENTS,
        monitor::trace_events::EVENTS,
    ])
}

/// Starts messages, the log and the trace events that the command line asks for.
///
/// # Errors
/// The log file cannot be made, a file of events not be read, or an option makes no sense.
pub(crate) fn init(line: &CommandLine, report: &Reporter) -> Result<()> {
    let budget = Mutex::new(Budget::new(BURST, PACE));
    let messages = Messages { report: report.clone(), budget }.with_filter(LevelFilter::WARN);
    // A second initialisation (two machines in one process) keeps the first.
    let _ = tracing_subscriber::registry().with(messages).try_init();
    trace::log::set_timestamps(line.timestamp);
    let events = events();
    let mut file = line.log_file.clone();
    for raw in &line.trace {
        file = trace_option(raw, &events, report)?.or(file);
    }
    if let Some(name) = &file {
        trace::log::open(name).map_err(|e| Error::generic(e.to_string()))?;
    }
    if let Some(Wanted::Log { items, patterns }) = line.log_items.as_deref().map(wanted) {
        for unknown in patterns.iter().filter_map(|pattern| events.enable(pattern).err()) {
            report.line(&format!("warning: {unknown}"));
        }
        trace::log::set_items(items);
    }
    Ok(())
}

/// `-trace [[enable=]PATTERN][,events=FILE][,file=FILE]`; gives the log file.
fn trace_option(raw: &Raw, events: &Table, report: &Reporter) -> Result<Option<String>> {
    let parsed = raw.options("enable");
    let prefix = raw.prefix();
    parsed.only(&["enable", "events", "file"]).map_err(|e| e.prefixed(&prefix))?;
    if let Some(unknown) = parsed.get("enable").and_then(|pattern| events.enable(pattern).err()) {
        report.line(&format!("{prefix}warning: {unknown}"));
    }
    if let Some(path) = parsed.get("events") {
        let text = std::fs::read_to_string(path);
        let text = text.map_err(|e| Error::generic(strerror(&e)).prefixed(&format!("{path}: ")))?;
        for (number, unknown) in events.enable_lines(&text) {
            report.line(&format!("{path}:{number}: warning: {unknown}"));
        }
    }
    Ok(parsed.get("file").map(str::to_owned))
}

/// What `-d` asks for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// The list of items, which is also the answer to what is none.
    Help,
    /// The list of trace events.
    Events,
    /// Items, and patterns of trace events.
    Log {
        /// Of the log.
        items: Vec<Item>,
        /// As of `-trace`.
        patterns: Vec<String>,
    },
}

/// Reads the items of `-d`.
pub(crate) fn wanted(text: &str) -> Wanted {
    let (mut items, mut patterns) = (Vec::new(), Vec::new());
    for word in text.split(',') {
        match (word.strip_prefix("trace:"), Item::from_name(word)) {
            (Some("help" | "?"), _) => return Wanted::Events,
            (Some(pattern), _) if !pattern.is_empty() => patterns.push(pattern.to_owned()),
            (None, Some(item)) => items.push(item),
            (None, None) if word == "all" => items.extend(Item::ALL),
            _ => return Wanted::Help,
        }
    }
    Wanted::Log { items, patterns }
}

/// The text of `-d help`.
pub(crate) fn item_help() -> String {
    let mut out = "Log items (comma separated):\n".to_owned();
    let lines = Item::ALL.iter().map(|item| (item.name(), item.help()));
    for (name, help) in lines.chain([("trace:PATTERN", "trace events whose names fit")]) {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{name:<15} {help}");
    }
    out + "\nUse \"-d trace:help\" to get a list of trace events.\n\n"
}

/// The monitors' commands.
pub(crate) struct Logging(pub(crate) Table);

impl TraceCommands for Logging {
    fn trace_event_get_state(&self, name: String) -> Result<Vec<TraceEventInfo>> {
        let state = |on| if on { TraceEventState::Enabled } else { TraceEventState::Disabled };
        let info = |event: &&trace::Event| TraceEventInfo {
            name: event.name().to_owned(),
            state: state(event.is_on()),
        };
        // The order is QEMU's.
        Ok(self.0.find(&name).map_err(unknown)?.iter().rev().map(info).collect())
    }

    fn trace_event_set_state(&self, name: String, enable: bool, _: Option<bool>) -> Result<()> {
        self.0.set(&name, enable).map_err(unknown)
    }

    fn x_pliant_query_log(&self) -> Result<Vec<LogItem>> {
        let info = |item: Item| LogItem {
            name: item.name().to_owned(),
            help: item.help().to_owned(),
            enabled: trace::log::wants(item),
        };
        Ok(Item::ALL.map(info).to_vec())
    }

    fn x_pliant_set_log(&self, items: Vec<String>) -> Result<()> {
        let known = |name: &String| {
            let none = || Error::generic(format!("Parameter 'items' does not accept value '{name}'"));
            Item::from_name(name).ok_or_else(none)
        };
        let items = items.iter().map(known).collect::<Result<Vec<_>>>()?;
        trace::log::set_items(items);
        Ok(())
    }

    fn x_pliant_set_log_file(&self, filename: String) -> Result<()> {
        trace::log::open(&filename).map_err(|e| Error::generic(e.to_string()))
    }
}

fn unknown(Unknown(name): Unknown) -> Error {
    Error::generic(format!("unknown event \"{name}\""))
}

/// Target of the messages that QEMU prints with `perror`: without the program's name.
const PERROR: &str = "perror";

/// Messages that may come at once.
const BURST: u32 = 256;
/// Afterwards, one in this time.
const PACE: Duration = Duration::from_millis(100);

/// Shows warnings and errors as QEMU shows them: `PROGRAM: WHERE: warning: TEXT`.
struct Messages {
    report: Reporter,
    budget: Mutex<Budget>,
}

impl<S: Subscriber> Layer<S> for Messages {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        // Two plain numbers and a time, assigned whole.
        let taken = self.budget.lock().unwrap_or_else(PoisonError::into_inner).take(Instant::now());
        let Some(suppressed) = taken else { return };
        if suppressed > 0 {
            self.report.line(&format!("warning: {suppressed} messages suppressed"));
        }
        let mut text = Text::default();
        event.record(&mut text);
        if event.metadata().target() == PERROR {
            self.report.bare(&text.message);
            return;
        }
        let kind = if *event.metadata().level() == Level::WARN { "warning: " } else { "" };
        self.report.located(&format!("{kind}{}{}", text.message, text.fields));
    }
}

/// The message of an event, and its fields behind it.
#[derive(Default)]
struct Text {
    message: String,
    fields: String,
}

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        // Writing to a String cannot fail.
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            "error" => write!(self.fields, ": {value:?}"),
            name => write!(self.fields, ", {name} {value:?}"),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_are_separated_by_commas_and_one_mistake_asks_for_help() {
        let log = |items: &[Item], patterns: &[&str]| Wanted::Log {
            items: items.to_vec(),
            patterns: patterns.iter().map(|&p| p.to_owned()).collect(),
        };
        assert_eq!(wanted("guest_errors,trace:a*,unimp"), log(&[Item::GuestErrors, Item::Unimp], &["a*"]));
        assert_eq!(wanted("trace:-a,trace:b"), log(&[], &["-a", "b"]));
        assert_eq!(wanted("all"), log(&Item::ALL, &[]));
        assert_eq!(wanted("unimp,trace:help"), Wanted::Events);
        for wrong in ["", "help", "none", "unimp,", "tid", "trace:", "unimp,nosuch", "unimp nosuch"] {
            assert_eq!(wanted(wrong), Wanted::Help, "{wrong}");
        }
    }

    #[test]
    fn names_of_events_are_unique_and_look_like_names() {
        let events = events();
        let mut names: Vec<_> = events.all().iter().map(|event| event.name()).collect();
        names.sort_unstable();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count);
        assert!(
            names
                .iter()
                .all(|n| n.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'))
        );
    }
}
