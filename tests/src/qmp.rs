//! A QMP client: greeting, negotiation, commands, and a queue of the events that came between.
//!
//! Replies are compared as JSON values. What a well-behaved client never sends goes through [`Qmp::send_raw`].

use std::collections::VecDeque;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::wire::{Wire, WireError, patience};

/// One QMP session.
#[derive(Debug)]
pub struct Qmp {
    wire: Wire,
    events: VecDeque<Value>,
    next_id: u64,
}

impl Qmp {
    /// A session on a fresh connection; the greeting is still to be read.
    pub fn new(wire: Wire) -> Self {
        Self { wire, events: VecDeque::new(), next_id: 0 }
    }

    /// Reads the greeting and leaves negotiation mode.
    ///
    /// # Errors
    ///
    /// The program hung up or said nothing in time.
    ///
    /// # Panics
    ///
    /// If it refuses the negotiation.
    pub fn negotiate(&mut self) -> Result<Value, WireError> {
        let greeting = self.greeting()?;
        let reply = self.try_execute("qmp_capabilities", json!({}))?;
        assert!(reply.is_ok(), "qmp_capabilities: {reply:?}");
        Ok(greeting)
    }

    /// Reads the greeting. Events before it are queued: QEMU sends them when the client connects early enough.
    ///
    /// # Errors
    ///
    /// The program hung up or said nothing in time.
    pub fn greeting(&mut self) -> Result<Value, WireError> {
        loop {
            let message = self.recv()?;
            if message.get("QMP").is_some() {
                return Ok(message);
            }
            self.keep(message);
        }
    }

    /// Runs a command; the outer error is the connection's, the inner one the program's error object.
    ///
    /// # Errors
    ///
    /// The program hung up or did not answer in time.
    pub fn try_execute(
        &mut self,
        command: &str,
        arguments: Value,
    ) -> Result<Result<Value, Value>, WireError> {
        self.next_id += 1;
        let id = format!("harness-{}", self.next_id);
        let mut request = json!({ "execute": command, "id": id });
        if arguments != json!({}) {
            request["arguments"] = arguments;
        }
        let mut reply = self.exchange(&request, &json!(id))?;
        match reply.get_mut("return") {
            Some(value) => Ok(Ok(value.take())),
            None => Ok(Err(reply["error"].take())),
        }
    }

    /// Sends a request with an id and returns the whole reply that carries the id.
    fn exchange(&mut self, request: &Value, id: &Value) -> Result<Value, WireError> {
        self.send_raw(format!("{request}\n").as_bytes())?;
        loop {
            let message = self.recv()?;
            if message.get("id") == Some(id) {
                return Ok(message);
            }
            self.keep(message);
        }
    }

    /// Runs a request as a transcript gives it (without an id) and returns the reply without the harness's id.
    ///
    /// # Errors
    ///
    /// The program hung up or did not answer in time.
    pub fn request(&mut self, request: &Value) -> Result<Value, WireError> {
        self.next_id += 1;
        let id = json!(format!("harness-{}", self.next_id));
        let mut with_id = request.clone();
        with_id["id"] = id.clone();
        let mut reply = self.exchange(&with_id, &id)?;
        if let Some(reply) = reply.as_object_mut() {
            reply.remove("id");
        }
        Ok(reply)
    }

    /// Runs a request with descriptors beside it; the reply is as that of [`Self::request`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn request_with_fds(&mut self, request: &Value, fds: &[BorrowedFd<'_>]) -> Result<Value, WireError> {
        self.wire().send_with_fds(format!("{request}\n").as_bytes(), fds)?;
        loop {
            let message = self.recv()?;
            if message.get("event").is_none() {
                return Ok(message);
            }
            self.keep(message);
        }
    }

    /// Runs a command that must succeed.
    ///
    /// # Panics
    ///
    /// If it does not.
    pub fn ok(&mut self, command: &str, arguments: Value) -> Value {
        match self.try_execute(command, arguments.clone()) {
            Ok(Ok(value)) => value,
            Ok(Err(error)) => panic!("{command} {arguments}: {error}"),
            Err(e) => panic!("{command} {arguments}: {e}"),
        }
    }

    /// Runs a command that must fail, and returns the class and the text of the error.
    ///
    /// # Panics
    ///
    /// If it succeeds.
    pub fn err(&mut self, command: &str, arguments: Value) -> (String, String) {
        match self.try_execute(command, arguments.clone()) {
            Ok(Ok(value)) => panic!("{command} {arguments}: no error, but {value}"),
            Ok(Err(error)) => {
                let text =
                    |key: &str| error[key].as_str().unwrap_or_else(|| panic!("{error}: no {key}")).to_owned();
                (text("class"), text("desc"))
            }
            Err(e) => panic!("{command} {arguments}: {e}"),
        }
    }

    /// `qom-get`.
    ///
    /// # Panics
    ///
    /// If it fails.
    pub fn qom_get(&mut self, path: &str, property: &str) -> Value {
        self.ok("qom-get", json!({ "path": path, "property": property }))
    }

    /// `qom-set`.
    ///
    /// # Panics
    ///
    /// If it fails.
    pub fn qom_set(&mut self, path: &str, property: &str, value: Value) {
        self.ok("qom-set", json!({ "path": path, "property": property, "value": value }));
    }

    /// An HMP command through `human-monitor-command`, with `\n` as line ends.
    ///
    /// # Panics
    ///
    /// If the QMP command fails (the HMP command has only its text to fail with).
    pub fn human(&mut self, line: &str) -> String {
        let text = self.ok("human-monitor-command", json!({ "command-line": line }));
        text.as_str().expect("human-monitor-command returns a string").replace("\r\n", "\n")
    }

    /// The next event of this name for which the predicate holds; earlier and other events stay queued.
    ///
    /// # Panics
    ///
    /// If it does not come in time; the text lists the events that did.
    pub fn wait_event(&mut self, name: &str, mut wanted: impl FnMut(&Value) -> bool) -> Value {
        self.wait_for(name, |event| event["event"] == name && wanted(event))
    }

    /// The next event for which the predicate holds, whatever its name; all others stay queued.
    ///
    /// # Panics
    ///
    /// As [`Self::wait_event`].
    pub fn wait_for(&mut self, what: &str, mut wanted: impl FnMut(&Value) -> bool) -> Value {
        let mut seen = 0;
        loop {
            while let Some(event) = self.events.get(seen) {
                if wanted(event) {
                    return self.events.remove(seen).expect("it was just there");
                }
                seen += 1;
            }
            match self.recv() {
                Ok(message) => self.keep(message),
                Err(e) => panic!("event {what}: {e}; events so far: {:?}", self.events),
            }
        }
    }

    /// The queued events, oldest first, up to and with the next of this name for which the predicate holds.
    ///
    /// # Panics
    ///
    /// If it does not come in time; the text lists the events that did.
    pub fn events_to(&mut self, name: &str, mut wanted: impl FnMut(&Value) -> bool) -> Vec<Value> {
        let mut seen = 0;
        loop {
            while let Some(event) = self.events.get(seen) {
                seen += 1;
                if event["event"] == name && wanted(event) {
                    return self.events.drain(..seen).collect();
                }
            }
            match self.recv() {
                Ok(message) => self.keep(message),
                Err(e) => panic!("event {name}: {e}; events so far: {:?}", self.events),
            }
        }
    }

    /// Whether an event of this name for which the predicate holds was sent already; it stays queued.
    ///
    /// # Panics
    ///
    /// If the program does not answer.
    pub fn has_event(&mut self, name: &str, wanted: impl Fn(&Value) -> bool) -> bool {
        // Events come before the reply to a command that follows them.
        self.ok("query-status", json!({}));
        self.events.iter().any(|event| event["event"] == name && wanted(event))
    }

    /// The queued events, oldest first, after those already sent by the program were taken in.
    ///
    /// A reply that was received before is the fence: events that the command caused come before its reply.
    pub fn events(&mut self) -> Vec<Value> {
        self.events.drain(..).collect()
    }

    /// Events that come within a while, for statements about how many come (throttling).
    ///
    /// # Panics
    ///
    /// If the connection breaks.
    pub fn events_within(&mut self, time: Duration) -> Vec<Value> {
        let until = Instant::now() + time;
        loop {
            match self.recv_by(until) {
                Ok(message) => self.keep(message),
                Err(WireError::Deadline { .. }) => return self.events(),
                Err(e) => panic!("waiting for events: {e}"),
            }
        }
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    ///
    /// The program hung up.
    pub fn send_raw(&mut self, bytes: &[u8]) -> Result<(), WireError> {
        self.wire.send(bytes)
    }

    /// The next message, whatever it is.
    ///
    /// # Errors
    ///
    /// The program hung up or said nothing in time.
    ///
    /// # Panics
    ///
    /// If the line is not JSON.
    pub fn recv(&mut self) -> Result<Value, WireError> {
        self.recv_by(Instant::now() + patience())
    }

    fn recv_by(&mut self, until: Instant) -> Result<Value, WireError> {
        let end = |got: &[u8]| got.iter().position(|&b| b == b'\n').map(|at| at + 1);
        let line = self.wire.take_by(until, "a QMP message", end)?;
        let parsed = serde_json::from_slice(&line);
        Ok(parsed.unwrap_or_else(|e| panic!("not JSON ({e}): {:?}", String::from_utf8_lossy(&line))))
    }

    /// The next line as it is, without its end.
    ///
    /// # Errors
    ///
    /// The program hung up or said nothing in time.
    pub fn recv_line(&mut self) -> Result<String, WireError> {
        self.wire.line()
    }

    /// The stream itself.
    pub fn wire(&mut self) -> &mut Wire {
        &mut self.wire
    }

    fn keep(&mut self, message: Value) {
        assert!(message.get("event").is_some(), "neither a reply that was asked for nor an event: {message}");
        self.events.push_back(message);
    }
}
