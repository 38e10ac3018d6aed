//! Choosing an accelerator: `-accel A -accel B`, `-machine accel=A:B`, and neither.
//!
//! Texts are QEMU 10.0.2's, seen without `/dev/kvm`: each failing choice prints its lines, a later success prints
//! `falling back to NAME`. The program prefixes its own name.

use std::sync::Arc;

use qapi::{Error, Result};
use qom::{Registry, TypeInfo};

use crate::Accel;
use crate::kvm::KvmAccel;
use crate::qtest::QtestAccel;
use crate::sim::SimAccel;

/// The names `-accel help` lists, in its order.
pub const ACCELERATORS: [&str; 3] = ["kvm", "qtest", "sim"];

/// What QEMU calls the accelerator that needs nothing of the host. Who asks for it gets ours, `sim`, which runs the built-in guest and nothing else.
const SOFTWARE: &str = "tcg";

/// Registers a class for each accelerator: who looks for what a program can do (libvirt) looks there. One that stands for QEMU's `tcg` is there only where it is `needed`,
/// as there is no other: with KVM nobody should take the built-in guest's accelerator for a translator.
pub fn register(registry: &mut Registry, needed: bool) {
    registry.register(TypeInfo::new("accel"));
    for name in ["kvm-accel", "qtest-accel", "sim-accel"] {
        registry.register(TypeInfo::new(name).parent("accel"));
    }
    if needed {
        registry.register(TypeInfo::new("tcg-accel").parent("accel"));
    }
}

/// What `-accel help` prints.
#[must_use]
pub fn help() -> String {
    let mut text = String::from("Accelerators supported in QEMU binary:\n");
    for name in ACCELERATORS {
        text.push_str(name);
        text.push('\n');
    }
    text
}

/// One choice, in order of preference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccelSpec {
    /// The accelerator's name, as typed.
    pub name: String,
    /// Options after it, in order.
    pub options: Vec<(String, String)>,
    /// What stands before its messages: `-accel TEXT: ` or nothing.
    pub prefix: String,
}

impl AccelSpec {
    /// The argument of one `-accel` option: `NAME[,KEY=VALUE...]`.
    #[must_use]
    pub fn option(text: &str) -> Self {
        let mut parts = text.split(',');
        let first = parts.next().unwrap_or_default();
        let name = first.strip_prefix("accel=").unwrap_or(first).to_owned();
        let options = parts
            .filter(|part| !part.is_empty())
            .map(|part| {
                let (key, value) = part.split_once('=').unwrap_or((part, "on"));
                (key.to_owned(), value.to_owned())
            })
            .collect();
        Self { name, options, prefix: format!("-accel {text}: ") }
    }

    /// The list of `-machine accel=A:B`, whose messages have no prefix. Never empty: a list without names cannot be opened.
    #[must_use]
    pub fn machine_list(list: &str) -> Vec<Self> {
        let unprefixed =
            |name: &str| Self { name: name.to_owned(), options: Vec::new(), prefix: String::new() };
        let specs: Vec<_> = list.split(':').filter(|name| !name.is_empty()).map(unprefixed).collect();
        if specs.is_empty() { vec![unprefixed("")] } else { specs }
    }

    /// Whether this `-accel` option asks for [`help`] instead: `help`, `?` or nothing.
    #[must_use]
    pub fn wants_help(&self) -> bool {
        !self.prefix.is_empty() && matches!(self.name.as_str(), "help" | "?" | "")
    }
}

/// The accelerator that could be opened.
pub struct Opened {
    /// It.
    pub accel: Arc<dyn Accel>,
    /// Lines for stderr: why earlier choices failed, warnings.
    pub messages: Vec<String>,
    /// What stands before a message about it: the option that asked for it, as `-accel kvm: `.
    pub prefix: String,
}

/// Opens the first accelerator of the list that works. An empty list (no option given) means KVM if it can be
/// opened, else `sim` with a warning.
///
/// # Errors
/// All lines to print, when none works.
pub fn open(specs: &[AccelSpec]) -> std::result::Result<Opened, Vec<String>> {
    if specs.is_empty() {
        return Ok(open_default(KvmAccel::open(&[])));
    }
    let mut messages = Vec::new();
    // A machine list names all unknown accelerators before it tries any.
    let from_list = specs.iter().all(|spec| spec.prefix.is_empty());
    let (known, unknown): (Vec<_>, Vec<_>) =
        specs.iter().partition(|spec| !from_list || spec.name.is_empty() || is_known(&spec.name));
    messages.extend(unknown.iter().map(|spec| format!("invalid accelerator {}", spec.name)));
    for spec in known {
        match open_one(spec) {
            Ok(accel) => {
                if !messages.is_empty() {
                    messages.push(format!("falling back to {}", spec.name));
                }
                if spec.name == SOFTWARE {
                    let nothing_else =
                        "there is no translator: 'sim' runs the built-in guest and nothing else";
                    messages.push(format!("{}warning: {nothing_else}", spec.prefix));
                }
                return Ok(Opened { accel, messages, prefix: spec.prefix.clone() });
            }
            Err(error) => {
                let lines = error.desc().lines().map(|line| format!("{}{line}", spec.prefix));
                messages.extend(lines);
            }
        }
    }
    Err(messages)
}

fn is_known(name: &str) -> bool {
    name == SOFTWARE || ACCELERATORS.contains(&name)
}

fn open_one(spec: &AccelSpec) -> Result<Arc<dyn Accel>> {
    let no_options = |class: &str| match spec.options.first() {
        None => Ok(()),
        Some((key, _)) => Err(Error::generic(format!("Property '{class}.{key}' not found"))),
    };
    Ok(match spec.name.as_str() {
        "kvm" => KvmAccel::open(&spec.options)?,
        "qtest" => {
            no_options("qtest-accel")?;
            QtestAccel::new()
        }
        "sim" | SOFTWARE => {
            no_options(if spec.name == SOFTWARE { "tcg-accel" } else { "sim-accel" })?;
            SimAccel::new()
        }
        "" => return Err(Error::generic("no accelerator found")),
        other => return Err(Error::generic(format!("invalid accelerator {other}"))),
    })
}

fn open_default(kvm: Result<Arc<KvmAccel>>) -> Opened {
    match kvm {
        Ok(accel) => Opened { accel, messages: Vec::new(), prefix: String::new() },
        Err(error) => {
            let why = error.desc().lines().next().unwrap_or_default().to_owned();
            let warning = format!("warning: {why}; the built-in guest is simulated (sim)");
            Opened { accel: SimAccel::new(), messages: vec![warning], prefix: String::new() }
        }
    }
}

#[cfg(test)]
mod tests;
