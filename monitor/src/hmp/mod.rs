//! The console for people: grammar, command table, formatters, completion, line editing.
//!
//! Everything a command does it does over QMP commands ([`Execute`]), so that the console can do nothing a
//! program could not, and the text is the only thing this module knows better.

mod address;
mod args;
mod balloon;
mod block;
mod chardev;
mod command;
mod complete;
mod console;
mod cpu;
mod dirty;
mod dump;
mod expr;
mod fds;
mod format;
mod hints;
mod history_file;
mod input;
mod interrupts;
mod job;
mod lexis;
mod logging;
mod machine;
mod memory;
mod memory_map;
mod migration;
mod net;
mod objects;
mod pci;
mod readline;
mod registers;
mod run_state;
mod stats;
mod virtio;

use std::cell::Cell;
use std::sync::Mutex;

use qapi::{Dict, Error, Result, Value, json};

use command::answer;
pub(crate) use command::run_line;
pub(crate) use console::Console;
pub(crate) use format::LastFormat;
pub(crate) use job::{End, Ending, Job};
pub(crate) use memory_map::size;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use {
    complete::candidates,
    readline::{Key, LineEditor},
};

/// What a line refers to besides the machine.
#[derive(Clone, Copy)]
pub(crate) struct Session<'a> {
    /// Lines before this one.
    pub(crate) history: &'a [String],
    /// The format that `x`, `xp` or `print` used last, whichever console it was.
    pub(crate) format: &'a Mutex<LastFormat>,
    /// The CPU that registers and linear addresses are those of; the first if none was chosen. `cpu` chooses one.
    pub(crate) cpu: &'a Cell<Option<i64>>,
}

/// What there is to draw on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Screen {
    /// Columns.
    pub(crate) columns: usize,
    /// Whether it shows more than ASCII.
    pub(crate) unicode: bool,
}

impl Default for Screen {
    /// That of who may be a program.
    fn default() -> Self {
        Self { columns: 80, unicode: false }
    }
}

/// What executes QMP commands for the console.
pub(crate) trait Execute {
    /// Runs `command` and gives its return value.
    fn execute(&self, command: &str, arguments: Dict) -> Result<Value>;

    /// Where the text is shown that is made of the replies.
    fn screen(&self) -> Screen {
        Screen::default()
    }

    /// Whether whoever runs the command waits for the end of this before the next prompt. Said before the work begins.
    fn wait_for(&self, _job: Job) -> bool {
        false
    }

    /// Runs a command without arguments.
    fn query(&self, command: &str) -> Result<Value> {
        self.execute(command, Dict::new())
    }
}

impl<F: Fn(&str, Dict) -> Result<Value>> Execute for F {
    fn execute(&self, command: &str, arguments: Dict) -> Result<Value> {
        self(command, arguments)
    }
}

/// How an error looks on the console.
fn error_text(error: &Error) -> String {
    let mut text = format!("Error: {}\n", error.desc());
    for hint in error.hint() {
        text.push_str(hint);
        text.push('\n');
    }
    text
}

/// What a command says, its error included, as it is: some of QEMU's commands write their errors without a word before them.
fn plain(result: Result<String>) -> Result<String> {
    result.or_else(|error| Ok(format!("{}\n", error.desc())))
}

/// Whether the answer of `query-cpus-fast` tells of a CPU of that index.
pub(crate) fn has_cpu(cpus: &Value, index: i64) -> bool {
    items(cpus).iter().any(|cpu| i64::try_from(number(cpu, "cpu-index")) == Ok(index))
}

/// Arguments with the CPU that the console looks at, if one was chosen.
fn with_cpu(arguments: Dict, cpu: Option<i64>) -> Dict {
    match cpu {
        Some(index) => arguments.with("cpu-index", index),
        None => arguments,
    }
}

/// Whether the machine has no CPU.
fn has_no_cpu(x: &dyn Execute) -> Result<bool> {
    Ok(items(&x.query("query-cpus-fast")?).is_empty())
}

/// Member of a reply as text; empty when it is missing.
fn text<'v>(value: &'v Value, name: &str) -> &'v str {
    value.as_dict().and_then(|d| d.get(name)).and_then(Value::as_str).unwrap_or("")
}

/// Member of a reply as a number; 0 when it is missing.
fn number(value: &Value, name: &str) -> u64 {
    value.as_dict().and_then(|d| d.get(name)).and_then(Value::as_u64).unwrap_or(0)
}

/// Member of a reply as a boolean; false when it is missing.
fn flag(value: &Value, name: &str) -> bool {
    value.as_dict().and_then(|d| d.get(name)).and_then(Value::as_bool).unwrap_or(false)
}

/// Member of a reply.
fn member<'v>(value: &'v Value, name: &str) -> Option<&'v Value> {
    value.as_dict().and_then(|d| d.get(name))
}

/// Elements of a list member, or of the value itself when it is a list.
fn items(value: &Value) -> &[Value] {
    value.as_list().unwrap_or_default()
}

/// `qom-get`'s way to print a value.
fn pretty(value: &Value) -> String {
    format!("{}\n", json::to_string_pretty(value))
}

#[cfg(test)]
mod tests;
