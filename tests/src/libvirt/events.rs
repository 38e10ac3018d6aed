//! What libvirt tells who listens: `virsh event`.

use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use super::{Domain, Node};
use crate::wire::{Wire, WireError, patience};

/// A `virsh event` that runs.
#[derive(Debug)]
pub struct Events {
    child: Child,
    wire: Wire,
}

impl Events {
    /// Listens to everything; what comes from now on is heard.
    ///
    /// # Panics
    ///
    /// If virsh does not listen in time.
    pub fn listen(node: &Node<'_>, domain: &Domain) -> Self {
        let mut command = node.virsh_command();
        command.args(["event", "--all", "--loop"]).stdout(Stdio::piped()).stdin(Stdio::null());
        let mut child = command.spawn().expect("virsh runs");
        let wire = Wire::new(child.stdout.take().expect("it is piped").into());
        let mut events = Self { child, wire };
        let until = Instant::now() + patience();
        // Nothing says when it listens, so it is told something until it is heard.
        loop {
            node.define(domain);
            if events.line_by(Instant::now() + Duration::from_millis(200)).is_ok() {
                break;
            }
            assert!(Instant::now() < until, "virsh event does not listen");
        }
        events
    }

    fn line_by(&mut self, until: Instant) -> Result<String, WireError> {
        let line =
            self.wire.take_by(until, "an event", |bytes| Some(bytes.iter().position(|b| *b == b'\n')? + 1));
        line.map(|line| String::from_utf8_lossy(&line).trim_end().to_owned())
    }

    /// The next event that has all of these words, in this order, one a line or several (the first is in the line with the event's name); those before it are forgotten. The line with the last word.
    ///
    /// # Panics
    ///
    /// If it does not come in time.
    #[track_caller]
    pub fn expect(&mut self, words: &[&str]) -> String {
        let until = Instant::now() + patience();
        let mut heard = Vec::new();
        let mut left = words;
        loop {
            let line = match self.line_by(until) {
                Ok(line) => line,
                Err(error) => panic!("no event with {words:?}, but {heard:#?}: {error}"),
            };
            if line.starts_with("event '") {
                left = words;
            }
            while let Some((word, rest)) = left.split_first() {
                // Its values are on lines of their own.
                let first = left.len() == words.len();
                if !line.contains(word) || (first && !line.starts_with("event '")) {
                    break;
                }
                left = rest;
            }
            if left.is_empty() {
                return line;
            }
            heard.push(line);
        }
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
