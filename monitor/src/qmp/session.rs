//! One QMP conversation, without its socket: bytes in, steps out.
//!
//! The order in which a request is judged is QEMU's: shape of the object, then the command's name, then its
//! arguments. Negotiation belongs to the connection, so a new one starts over.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;

use qapi::{Dict, Error, ErrorClass, Result, Value, json};

/// What the caller has to do next.
#[derive(Debug, PartialEq)]
pub(crate) enum Step {
    /// Send this reply.
    Reply(Value),
    /// Run this command and send what [`reply`] makes of its result.
    Run(Request),
}

/// A well-formed request.
#[derive(Debug, PartialEq)]
pub(crate) struct Request {
    pub(crate) command: String,
    pub(crate) arguments: Dict,
    pub(crate) id: Option<Value>,
}

/// A step that waits for the main loop.
pub(crate) struct Waiting {
    pub(crate) step: Step,
    /// Descriptors that came with it.
    pub(crate) fds: Vec<OwnedFd>,
}

/// Requests that may wait while a client is read out of band; as in QEMU.
pub(crate) const QUEUE: usize = 8;

/// Where the session stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Negotiating,
    Commands,
}

/// A conversation.
pub(crate) struct Session {
    parser: json::Parser,
    phase: Phase,
    oob: bool,
    ready: VecDeque<Result<Value>>,
    /// What waits for the main loop while another thread reads.
    waiting: VecDeque<Waiting>,
    /// Descriptors that came with what was read last; they go with the next request that waits.
    fds: Vec<OwnedFd>,
    generation: u64,
}

impl Session {
    /// A conversation before negotiation.
    pub(crate) fn new() -> Self {
        Self {
            parser: json::Parser::new(),
            phase: Phase::Negotiating,
            oob: false,
            ready: VecDeque::new(),
            waiting: VecDeque::new(),
            fds: Vec::new(),
            generation: 0,
        }
    }

    /// The conversation that follows on this one.
    pub(crate) fn next(&self) -> Self {
        Self { generation: self.generation + 1, ..Self::new() }
    }

    /// Takes bytes from the client.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.parser.feed(bytes);
        for value in self.parser.by_ref() {
            self.ready.push_back(value);
        }
    }

    /// Whether nothing is left to do.
    pub(crate) fn is_idle(&self) -> bool {
        self.ready.is_empty()
    }

    /// Whether the client switched out-of-band execution on.
    pub(crate) fn has_oob(&self) -> bool {
        self.oob
    }

    /// Tells this conversation from those before and after it.
    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    /// Whether the client may see events.
    pub(crate) fn negotiated(&self) -> bool {
        self.phase == Phase::Commands
    }

    /// The next step, until there is none.
    pub(crate) fn next_step(&mut self) -> Option<Step> {
        self.judge_next().map(|(step, _)| step)
    }

    /// The next step that is not to wait. Those before it go to the queue of [`Self::next_waiting`]; when that is full, the rest has to
    /// wait, too.
    pub(crate) fn next_out_of_band(&mut self) -> Option<Step> {
        while self.waiting.len() < QUEUE {
            match self.judge_next()? {
                (step, true) => return Some(step),
                (step, false) => {
                    self.waiting.push_back(Waiting { step, fds: std::mem::take(&mut self.fds) });
                }
            }
        }
        None
    }

    /// The next step that waited, and whether the queue was full with it.
    pub(crate) fn next_waiting(&mut self) -> Option<(Waiting, bool)> {
        let was_full = self.waiting.len() >= QUEUE;
        Some((self.waiting.pop_front()?, was_full))
    }

    /// Whether something waits.
    pub(crate) fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Whether more may be read while another thread reads.
    pub(crate) fn has_room(&self) -> bool {
        self.ready.is_empty() && self.waiting.len() < QUEUE
    }

    /// Descriptors that come with the bytes that are pushed next.
    pub(crate) fn attach(&mut self, fds: Vec<OwnedFd>) {
        if !fds.is_empty() {
            self.fds = fds;
        }
    }

    /// The next step, and whether it is out of band.
    fn judge_next(&mut self) -> Option<(Step, bool)> {
        let value = match self.ready.pop_front()? {
            Ok(value) => value,
            Err(e) => {
                trace::emit!(monitor_qmp_err_in_band, e.desc());
                return Some((Step::Reply(reply(None, Err(e))), false));
            }
        };
        let dict = value.as_dict();
        let out_of_band = dict.is_some_and(|d| d.contains_key("exec-oob") && !d.contains_key("execute"));
        let id = dict.and_then(|d| d.get("id")).cloned();
        let step = match self.request(value) {
            Ok(request) => Step::Run(request),
            Err(e) => {
                trace::emit!(monitor_qmp_err_in_band, e.desc());
                Step::Reply(reply(id, Err(e)))
            }
        };
        Some((step, out_of_band))
    }

    fn request(&mut self, value: Value) -> Result<Request> {
        let Value::Dict(mut dict) = value else {
            return Err(Error::generic("QMP input must be a JSON object"));
        };
        check_members(&dict, self.oob)?;
        let id = dict.remove("id");
        let out_of_band = dict.contains_key("exec-oob");
        let name = dict.remove("execute").or_else(|| dict.remove("exec-oob"));
        let Some(Value::String(command)) = name else {
            return Err(Error::generic("QMP input lacks member 'execute'"));
        };
        let arguments = match dict.remove("arguments") {
            Some(Value::Dict(arguments)) => arguments,
            _ => Dict::new(),
        };
        if self.phase == Phase::Negotiating && command != "qmp_capabilities" {
            return Err(not_now("Expecting capabilities negotiation with 'qmp_capabilities'"));
        }
        let Some(info) = qapi::lookup(&command) else {
            return Err(not_now(&format!("The command {command} has not been found")));
        };
        if out_of_band && !info.allow_oob {
            return Err(Error::generic(format!("The command {command} does not support OOB")));
        }
        Ok(Request { command, arguments, id })
    }

    /// `qmp_capabilities` with the capabilities the client asks for.
    ///
    /// # Errors
    /// `CommandNotFound` when the negotiation is over.
    pub(crate) fn negotiate(&mut self, oob: bool) -> Result<()> {
        if self.phase == Phase::Commands {
            return Err(not_now("Capabilities negotiation is already complete, command ignored"));
        }
        self.oob = oob;
        self.phase = Phase::Commands;
        Ok(())
    }
}

fn not_now(text: &str) -> Error {
    Error::new(ErrorClass::CommandNotFound, text)
}

/// Checks that a request has the members it may have, of the types they must be.
fn check_members(dict: &Dict, oob: bool) -> Result<()> {
    let mut command: Option<&str> = None;
    // Members are judged in the order QEMU keeps them in.
    for (key, value) in json::wire_order(dict) {
        match key {
            "execute" | "exec-oob" => {
                if key == "exec-oob" && !oob {
                    return Err(Error::generic("QMP input member 'exec-oob' is unexpected"));
                }
                if value.as_str().is_none() {
                    return Err(Error::generic(format!("QMP input member '{key}' must be a string")));
                }
                if let Some(first) = command {
                    return Err(Error::generic(format!("QMP input member '{key}' clashes with '{first}'")));
                }
                command = Some(key);
            }
            "arguments" if value.as_dict().is_none() => {
                return Err(Error::generic("QMP input member 'arguments' must be an object"));
            }
            "arguments" | "id" => {}
            _ => return Err(Error::generic(format!("QMP input member '{key}' is unexpected"))),
        }
    }
    match command {
        Some(_) => Ok(()),
        None => Err(Error::generic("QMP input lacks member 'execute'")),
    }
}

/// The reply to a request with `id`.
pub(crate) fn reply(id: Option<Value>, result: Result<Value>) -> Value {
    let mut dict = match result {
        Ok(value) => Dict::new().with("return", value),
        Err(e) => {
            let error = Dict::new().with("class", e.class().as_str()).with("desc", e.desc());
            Dict::new().with("error", error)
        }
    };
    if let Some(id) = id {
        dict.insert("id", id);
    }
    dict.into()
}
