//! The stream while it is read.

mod postcopy;

use std::collections::HashMap;
use std::io::Read as _;
use std::sync::Arc;

use qapi::Enum as _;
use qapi::types::{MigrationCapability as Capability, RunState};
use vmstate::{Apply, Decoder, Errno, LoadError, Priority, VmState as _};

use postcopy::Postcopy;

use super::Incoming;
use crate::configuration::{Configuration, GlobalState};
use crate::machine::Placed;
use crate::ram::Form;
use crate::ram::load::Loader;
use crate::return_path::{Answers, command};
use crate::wire::{self, Input};

/// Bytes of a description at most that are read; it is not looked at.
const MAX_DESCRIPTION: u32 = 64 << 20;

impl Incoming {
    /// Reads all of it, and has the machine be what it says.
    pub(super) fn load(self: &Arc<Self>, mut input: Input) -> vmstate::Result<()> {
        self.begin(&mut input)?;
        let form = Form::of(&self.capabilities());
        let sections = self.on_loop(move |machine| {
            machine.prepare();
            machine.keep_shared(form.ignore_shared);
            machine.sections()
        })?;
        if let Some(why) = sections.blocked.into_iter().next() {
            return Err(LoadError::invalid(why));
        }
        let mut load = Load {
            incoming: self,
            memory: Loader::new(self.machine.memory(), form, self.receivers.clone().filter(|_| !form.mapped)),
            sections: sections.list,
            by_number: HashMap::new(),
            later: Vec::new(),
            state: None,
            postcopy: Postcopy::default(),
        };
        loop {
            let more = load.section(&mut input);
            let end = if matches!(more, Ok(false)) { load.landed(&input).map(|()| false) } else { more };
            match end {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => input = load.broken(error)?,
            }
        }
        if load.postcopy.landing.is_some() {
            return Ok(());
        }
        let Load { later, state, memory, .. } = load;
        let state = match state {
            Some(GlobalState { runstate }) => run_state(&runstate.0)?,
            None => RunState::Running,
        };
        self.on_loop(move |machine| -> vmstate::Result<()> {
            later.into_iter().try_for_each(|(what, apply)| apply().map_err(|error| error.and(what)))?;
            machine.arrived(state);
            Ok(())
        })??;
        drop(memory);
        // The machine is here. What describes the stream is for others; a source that has not written all of it yet is to be able to.
        description(&mut input);
        Ok(())
    }

    fn begin(&self, input: &mut Input) -> vmstate::Result<()> {
        if input.u32()? != wire::MAGIC {
            return Err(LoadError::invalid("Not a migration stream"));
        }
        if input.u32()? != wire::VERSION {
            return Err(LoadError::new(Errno::Invalid, "Unsupported migration stream version"));
        }
        if input.u8()? != wire::CONFIGURATION {
            return Err(LoadError::invalid("Configuration section missing"));
        }
        let configuration = decode(input, |decoder| Configuration::get_versioned(decoder, 1))?;
        configuration.check(&self.machine.type_name(), self.machine.uuid(), &self.capabilities())
    }
}

/// What the source was doing, as a state of ours.
fn run_state(name: &str) -> vmstate::Result<RunState> {
    let known = RunState::VALUES.iter().find(|state| state.as_str() == name);
    known.copied().ok_or_else(|| LoadError::invalid(format!("Unknown savevm RunState: {name}")))
}

/// Reads something that may look ahead.
fn decode<T>(
    input: &mut Input,
    read: impl FnOnce(&mut Decoder<'_>) -> vmstate::Result<T>,
) -> vmstate::Result<T> {
    let mut decoder = Decoder::new(&mut *input);
    let result = read(&mut decoder);
    let ahead = decoder.into_ahead();
    input.push_back(ahead);
    result
}

/// Skips what describes the stream, if anything does.
fn description(input: &mut Input) {
    if let (Ok(wire::DESCRIPTION), Ok(len @ ..=MAX_DESCRIPTION)) = (input.u8(), input.u32()) {
        // Whether all of it comes changes nothing.
        let _ = std::io::copy(&mut input.take(len.into()), &mut std::io::sink());
    }
}

/// The sections of one stream.
struct Load<'a> {
    incoming: &'a Arc<Incoming>,
    memory: Loader,
    /// Those that have not come yet.
    sections: Vec<Placed>,
    /// The names of sections that began.
    by_number: HashMap<u32, String>,
    /// State to be taken over at the end, with what to say if it cannot be.
    later: Vec<(String, Apply)>,
    state: Option<GlobalState>,
    /// Memory that comes while the guest runs here.
    postcopy: Postcopy,
}

impl Load<'_> {
    fn command(&mut self, input: &mut Input) -> vmstate::Result<()> {
        let (kind, len) = (u16::from_be_bytes(input.array()?), u16::from_be_bytes(input.array()?));
        let expected = match kind {
            command::OPEN | command::SWITCHOVER_START => 0,
            command::PING => 4,
            _ => return self.postcopy(kind, len, input),
        };
        if len != expected {
            return Err(bad_length(kind, len, expected));
        }
        match kind {
            command::OPEN => {
                let answers = Arc::new(Answers::new(Arc::clone(input.channel())));
                if self.incoming.capabilities().has(Capability::SwitchoverAck) {
                    // No device needs to be asked.
                    answers.switchover_ack()?;
                }
                self.incoming.lock().answers = Some(answers);
            }
            command::PING => {
                let number = input.u32()?;
                let answers = self.incoming.lock().answers.clone();
                if let Some(answers) = answers.filter(|_| !self.puts_off(number)) {
                    answers.pong(number)?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Reads one section; `false` at the end.
    fn section(&mut self, input: &mut Input) -> vmstate::Result<bool> {
        match input.u8()? {
            wire::EOF => return Ok(false),
            kind @ (wire::SECTION_START | wire::SECTION_FULL) => {
                let number = input.u32()?;
                let name = input.text()?;
                let (instance, version) = (input.u32()?, input.u32()?);
                let loading = |error: LoadError| {
                    error.and(format!(
                        "error while loading state for instance {instance:#x} of device '{name}'"
                    ))
                };
                match (&*name, kind) {
                    (wire::RAM, wire::SECTION_START) => {
                        self.by_number.insert(number, name.clone());
                        version_of(&name, version, wire::RAM_VERSION).map_err(loading)?;
                        self.memory.section(input).map_err(loading)?;
                    }
                    (GlobalState::NAME, _) => {
                        let state = decode(input, |decoder| GlobalState::get_versioned(decoder, version));
                        self.state = Some(state.map_err(loading)?);
                    }
                    _ => self.device(input, (&name, instance), version)?,
                }
                footer(input, number, &name)?;
            }
            wire::SECTION_PART | wire::SECTION_END => {
                let number = input.u32()?;
                let Some(name) = self.by_number.get(&number) else {
                    return Err(LoadError::invalid(format!("Unknown savevm section {number}")));
                };
                let text = format!("error while loading state section id {number}({name})");
                let pages = self.memory.open(input).and_then(|()| self.memory.section(input));
                pages.map_err(|error| error.and(text))?;
                footer(input, number, name)?;
            }
            wire::COMMAND => self.command(input)?,
            other => return Err(LoadError::invalid(format!("Unknown savevm section type {other}"))),
        }
        Ok(true)
    }

    fn device(
        &mut self,
        input: &mut Input,
        (id, instance): (&str, u32),
        version: u32,
    ) -> vmstate::Result<()> {
        let found = self.sections.iter().position(|placed| placed.id == id && placed.instance == instance);
        let Some(found) = found else {
            return Err(LoadError::invalid(format!(
                "Unknown savevm section or instance '{id}' {instance}. Make sure that your current VM setup matches your \
                 saved VM setup, including any hotplugged devices"
            )));
        };
        // Each comes once.
        let Placed { section, .. } = self.sections.remove(found);
        let loading = format!("error while loading state for instance {instance:#x} of device '{id}'");
        version_of(id, version, section.version())?;
        let apply = decode(input, |decoder| section.read(decoder, version));
        let apply = apply.map_err(|error| error.and(&loading))?;
        if section.priority() == Priority::Early {
            return self.incoming.on_loop(move |_| apply())?.map_err(|error| error.and(loading));
        }
        self.later.push((loading, apply));
        Ok(())
    }
}

fn bad_length(kind: u16, len: u16, expected: u16) -> LoadError {
    let text = format!("MIG_CMD {kind:#x} received with bad length - {len:#x}, expected {expected:#x}");
    LoadError::invalid(text)
}

fn version_of(name: &str, version: u32, own: u32) -> vmstate::Result<()> {
    if version > own {
        return Err(LoadError::invalid(format!("savevm: unsupported version {version} for '{name}' v{own}")));
    }
    Ok(())
}

fn footer(input: &mut Input, number: u32, name: &str) -> vmstate::Result<()> {
    if input.u8()? != wire::FOOTER {
        return Err(LoadError::invalid(format!("Missing section footer for {name}")));
    }
    match input.u32()? {
        found if found == number => Ok(()),
        found => Err(LoadError::invalid(format!(
            "Mismatched section id in footer for {name} - received {found:#x}, expected {number:#x}"
        ))),
    }
}
