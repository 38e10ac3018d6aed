//! All events of a program, by name: what a monitor and the command line work on.

use std::fmt;

use crate::{Event, glob};

/// A name that no event has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unknown(pub String);

impl fmt::Display for Unknown {
    /// As the command line and `log` say it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "trace event '{}' does not exist", self.0)
    }
}

/// Events of several crates, in the order of the crates and of declaration.
#[derive(Debug, Clone)]
pub struct Table(Vec<&'static Event>);

impl Table {
    /// The events of `crates`.
    pub fn new(crates: &[&[&'static Event]]) -> Self {
        Self(crates.concat())
    }

    /// All events.
    pub fn all(&self) -> &[&'static Event] {
        &self.0
    }

    /// The events that `name` means: those that fit it if there is a `*` in it (perhaps none), else the one called so.
    ///
    /// # Errors
    /// No event is called so.
    pub fn find(&self, name: &str) -> Result<Vec<&'static Event>, Unknown> {
        if name.contains('*') {
            return Ok(self.0.iter().copied().filter(|event| glob::matches(name, event.name())).collect());
        }
        match self.0.iter().copied().find(|event| event.name() == name) {
            Some(event) => Ok(vec![event]),
            None => Err(Unknown(name.to_owned())),
        }
    }

    /// Switches the events that `name` means.
    ///
    /// # Errors
    /// See [`Table::find`].
    pub fn set(&self, name: &str, on: bool) -> Result<(), Unknown> {
        self.find(name)?.iter().for_each(|event| event.set(on));
        Ok(())
    }

    /// What `-trace` and `-d trace:` do with a pattern: a `-` before it switches off.
    ///
    /// # Errors
    /// See [`Table::find`].
    #[doc(alias = "trace_enable_events")]
    pub fn enable(&self, pattern: &str) -> Result<(), Unknown> {
        match pattern.strip_prefix('-') {
            Some(name) => self.set(name, false),
            None => self.set(pattern, true),
        }
    }

    /// [`Table::enable`] for each line of a file of events; blank lines and those that begin with `#` say nothing. Gives the
    /// lines that name no event, counted from 1.
    #[doc(alias = "trace_init_events")]
    pub fn enable_lines(&self, text: &str) -> Vec<(usize, Unknown)> {
        let lines = (1..).zip(text.lines().map(str::trim));
        let patterns = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
        patterns.filter_map(|(number, line)| Some((number, self.enable(line).err()?))).collect()
    }

    /// What `-trace help` prints: a name a line.
    pub fn names(&self) -> String {
        self.0.iter().map(|event| format!("{}\n", event.name())).collect()
    }
}

#[cfg(test)]
mod tests;
