//! One QMP conversation, without its socket: bytes in, steps out.
//!
//! The order in which a request is judged is QEMU's: shape of the object, then the command's name, then its
//! arguments. Negotiation belongs to the connection, so a new one starts over.

use std::collections::VecDeque;

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
}

impl Session {
    /// A conversation before negotiation.
    pub(crate) fn new() -> Self {
        Self { parser: json::Parser::new(), phase: Phase::Negotiating, oob: false, ready: VecDeque::new() }
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

    /// Whether the client may see events.
    pub(crate) fn negotiated(&self) -> bool {
        self.phase == Phase::Commands
    }

    /// The next step, until there is none.
    pub(crate) fn next_step(&mut self) -> Option<Step> {
        let value = match self.ready.pop_front()? {
            Ok(value) => value,
            Err(e) => return Some(Step::Reply(reply(None, Err(e)))),
        };
        let id = value.as_dict().and_then(|d| d.get("id")).cloned();
        Some(match self.request(value) {
            Ok(request) => Step::Run(request),
            Err(e) => Step::Reply(reply(id, Err(e))),
        })
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
