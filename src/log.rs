//! The log: `-D FILE` and `-trace PATTERN`.
//!
//! Warnings and errors that devices and back ends log are messages to the person who started the program, as QEMU's are.
//! Everything else is logged only where it was asked for. A pattern names modules (`memory`, `hw::virtio*`, `*`); what they do is
//! logged then, down to the details. This is the one thing that is process-wide.

use std::fmt::{Debug, Write};
use std::fs::File;
use std::sync::Mutex;

use qapi::{Error, Result};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::{FilterFn, LevelFilter};
use tracing_subscriber::fmt::writer::BoxMakeWriter;
use tracing_subscriber::layer::Context;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

use crate::report::Reporter;

/// Starts logging: warnings and errors to the person who started the program, and the rest where it was asked for.
///
/// # Errors
/// The file cannot be made.
pub(crate) fn init(report: &Reporter, file: Option<&str>, patterns: Vec<String>) -> Result<()> {
    let to_file = file.is_some();
    let writer = match file {
        None => BoxMakeWriter::new(std::io::stderr),
        Some(path) => {
            let file = File::create(path).map_err(|e| {
                Error::generic(format!("Error opening logfile {path}: {}", crate::report::reason(&e)))
            })?;
            BoxMakeWriter::new(Mutex::new(file))
        }
    };
    let wanted = FilterFn::new(move |meta| {
        // Without a file the terminal has warnings and errors already.
        (to_file && *meta.level() <= Level::WARN)
            || (*meta.level() > Level::WARN && patterns.iter().any(|p| matches(p, meta.target())))
    });
    let layer = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(writer).with_filter(wanted);
    let messages = Messages { report: report.clone() }.with_filter(LevelFilter::WARN);
    // A second initialisation (two machines in one process) keeps the first.
    let _ = tracing_subscriber::registry().with(layer).with(messages).try_init();
    Ok(())
}

/// Target of the messages that QEMU prints with `perror`: without the program's name.
const PERROR: &str = "perror";

/// What `-trace help` prints.
pub(crate) fn pattern_help() -> String {
    let rooms = ["accel", "chardev", "hw", "mainloop", "memory", "monitor", "pliant", "qom"];
    format!("Patterns name modules ('hw::virtio*', '*'). The outermost are:\n  {}\n", rooms.join("\n  "))
}

/// Shows warnings and errors as QEMU shows them: `PROGRAM: WHERE: warning: TEXT`.
struct Messages {
    report: Reporter,
}

impl<S: Subscriber> Layer<S> for Messages {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
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

/// Whether `pattern` fits `target`: literally, as a module above it, or with `*` for any run of characters.
fn matches(pattern: &str, target: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or("");
    let Some(mut rest) = target.strip_prefix(first) else { return false };
    let mut last = None;
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
        last = Some(part);
    }
    match last {
        None => rest.is_empty() || rest.starts_with("::"),
        Some("") => true,
        Some(part) => rest.is_empty() || target.ends_with(part),
    }
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn patterns_fit_modules_and_what_is_below() {
        for (pattern, target, fits) in [
            ("memory", "memory::ram", true),
            ("memory", "memory", true),
            ("mem", "memory", false),
            ("mem*", "memory::ram", true),
            ("*", "anything", true),
            ("*ram", "memory::ram", true),
            ("*ram", "memory::ram::x", false),
            ("hw::*::msix", "hw::pci::msix", true),
        ] {
            assert_eq!(matches(pattern, target), fits, "{pattern} {target}");
        }
    }
}
