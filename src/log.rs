//! The log: `-D FILE` and `-trace PATTERN`.
//!
//! Warnings and errors that devices and back ends log are messages to the person who started the program, as QEMU's are.
//! Everything else is logged only where it was asked for. A pattern names modules (`memory`, `hw::virtio*`, `*`); what they do is
//! logged then, down to the details. This is the one thing that is process-wide.
//!
//! A guest can cause messages (a driver that breaks the protocol, resets its device, and does it again), and must not
//! fill a terminal or whatever takes standard error: beyond a burst they come at a slow pace, and what was left out is counted.

use std::fmt::{Debug, Write};
use std::fs::File;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

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
    let budget = Mutex::new(Budget::new(Instant::now()));
    let messages = Messages { report: report.clone(), budget }.with_filter(LevelFilter::WARN);
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
    budget: Mutex<Budget>,
}

/// Messages that may come at once.
const BURST: u32 = 256;
/// Afterwards, one in this time.
const PACE: Duration = Duration::from_millis(100);

/// How many messages may still be shown.
#[derive(Debug)]
struct Budget {
    left: u32,
    /// When `left` was last brought up to date.
    since: Instant,
    /// Messages not shown since the last one that was.
    suppressed: u64,
}

impl Budget {
    fn new(now: Instant) -> Self {
        Self { left: BURST, since: now, suppressed: 0 }
    }

    /// Whether a message may be shown at `now`, and how many were not before it.
    fn take(&mut self, now: Instant) -> Option<u64> {
        let paces = now.saturating_duration_since(self.since).as_nanos() / PACE.as_nanos();
        if paces > 0 {
            let paces = u32::try_from(paces).unwrap_or(u32::MAX);
            self.left = self.left.saturating_add(paces).min(BURST);
            self.since = now;
        }
        match self.left.checked_sub(1) {
            Some(left) => {
                self.left = left;
                Some(std::mem::take(&mut self.suppressed))
            }
            None => {
                self.suppressed += 1;
                None
            }
        }
    }
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
    use super::*;

    #[test]
    fn a_flood_of_messages_becomes_a_trickle_and_is_counted() {
        let start = Instant::now();
        let mut budget = Budget::new(start);
        let shown = (0..10_000).filter(|_| budget.take(start).is_some()).count();
        assert_eq!(shown, BURST as usize);
        assert_eq!(budget.take(start + PACE), Some(10_000 - u64::from(BURST)));
        assert_eq!(budget.take(start + PACE), None);
        assert_eq!(budget.take(start + PACE * 1000), Some(1));
        assert_eq!(budget.left, BURST - 1);
    }

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
