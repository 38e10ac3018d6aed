//! Taking a machine in.
//!
//! One thread reads the stream, so that a source that stalls holds nobody up but itself. Memory goes where it belongs at once; the state
//! of devices is read to its end, and then taken over in one piece on the main loop's thread. What decides where memory may go (early
//! sections) is taken over before the first page.

use std::collections::HashMap;
use std::io::Read as _;
use std::sync::{Arc, Mutex, MutexGuard};

use chardev::{ChardevSet, Listener, SocketAddress, YankRegistration};
use mainloop::{Interest, Watch};
use qapi::events::Event;
use qapi::types::{
    self, MigrationCapability as Capability, MigrationInfo, MigrationStatus as Status, RunState, YankInstance,
};
use qapi::{Enum, Error, Result, strerror};
use vmstate::{Apply, Decoder, Errno, LoadError, Priority, VmState as _};

use crate::address::Address;
use crate::capabilities::Capabilities;
use crate::channel::Channel;
use crate::configuration::{Configuration, GlobalState};
use crate::connect;
use crate::lock;
use crate::machine::{Machine, Placed};
use crate::multifd::recv::{self, Receivers};
use crate::progress::Progress;
use crate::ram::Form;
use crate::ram::load::Loader;
use crate::return_path::{Answers, command};
use crate::settings::Settings;
use crate::wire::{self, Input};

/// Bytes of a description at most; it is not looked at.
const MAX_DESCRIPTION: u32 = 64 << 20;

/// A machine that is awaited.
pub struct Incoming {
    machine: Arc<dyn Machine>,
    settings: Arc<Mutex<Settings>>,
    exit_on_error: bool,
    /// How far it is.
    pub progress: Arc<Progress>,
    /// Channels of their own for memory, if there are to be any.
    receivers: Option<Arc<Receivers>>,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    watch: Option<Watch>,
    addresses: Vec<types::SocketAddress>,
    /// To be shut by who gives up.
    channels: Vec<Arc<Channel>>,
    /// The way back, if the source wants one.
    answers: Option<Answers>,
    /// Connections so far.
    connections: usize,
    yank: Option<YankRegistration>,
}

impl Incoming {
    /// Listens, or opens what the stream can be read from.
    ///
    /// # Errors
    /// QEMU's.
    pub fn start(
        machine: Arc<dyn Machine>,
        chardevs: &Arc<ChardevSet>,
        settings: Arc<Mutex<Settings>>,
        address: &Address,
        exit_on_error: bool,
    ) -> std::result::Result<Arc<Self>, (Arc<Self>, Error)> {
        let progress = Arc::new(Progress::new(0));
        let waiting = Mutex::default();
        let receivers = {
            let settings = lock(&settings);
            let count = settings.parameters.multifd_channels.unwrap_or(1);
            settings.capabilities.has(Capability::Multifd).then(|| Receivers::new(count))
        };
        let this = Arc::new(Self { machine, settings, exit_on_error, progress, receivers, waiting });
        let weak = Arc::downgrade(&this);
        let yank = chardevs.yank().register(YankInstance::Migration, move || {
            if let Some(this) = weak.upgrade() {
                this.lock().channels.iter().for_each(|channel| channel.shut());
            }
        });
        this.lock().yank = Some(yank);
        this.enter(Status::Setup);
        match this.open(address, chardevs) {
            Ok(()) => Ok(this),
            Err(error) => Err((this, error)),
        }
    }

    fn open(self: &Arc<Self>, address: &Address, chardevs: &Arc<ChardevSet>) -> Result<()> {
        match (connect::inlet(address, chardevs)?, address) {
            (Some(channel), _) => self.receive(channel),
            (None, Address::Socket(address)) => self.listen(address, chardevs),
            (None, _) => Err(Error::generic("nothing to read from")),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        lock(&self.waiting)
    }

    fn enter(&self, status: Status) {
        if self.progress.enter(status) {
            self.tell(status);
        }
    }

    fn capabilities(&self) -> Capabilities {
        lock(&self.settings).capabilities.clone()
    }

    fn tell(&self, status: Status) {
        if self.capabilities().has(Capability::Events) {
            self.machine.send(Event::Migration { status });
        }
    }

    fn listen(self: &Arc<Self>, address: &SocketAddress, chardevs: &ChardevSet) -> Result<()> {
        let listener = chardev::listen(address, chardevs.fds())?;
        if self.receivers.is_some() {
            listener.widen(u8::MAX)?;
        }
        let mut waiting = self.lock();
        waiting.addresses = vec![reported(address, &listener)];
        let this = Arc::downgrade(self);
        let watched = rustix::io::dup(&listener).map_err(|errno| Error::generic(strerror(&errno.into())))?;
        let accept = move |_| {
            if let Some(this) = this.upgrade() {
                this.accept(&listener);
            }
        };
        let watch = self.machine.mainloop().watch(&watched, Interest::READ, accept);
        waiting.watch = Some(watch.map_err(|error| Error::generic(strerror(&error)))?);
        Ok(())
    }

    fn accept(self: &Arc<Self>, listener: &Listener) {
        let Ok(fd) = rustix::net::accept_with(listener, rustix::net::SocketFlags::CLOEXEC) else { return };
        let mut waiting = self.lock();
        waiting.connections += 1;
        let wanted = 1 + self.receivers.as_ref().map_or(0, |receivers| receivers.count());
        // One machine comes; nobody else is listened to.
        let watch = if waiting.connections == wanted { waiting.watch.take() } else { None };
        drop(waiting);
        let channel = Channel::new(fd).map_err(|error| Error::generic(strerror(&error)));
        let taken = channel.and_then(|channel| match &self.receivers {
            None => self.receive(channel),
            Some(receivers) => self.sort_out(channel, receivers),
        });
        if let Err(error) = taken {
            self.failed(&LoadError::new(Errno::Io, error.desc()));
        }
        drop(watch);
    }

    /// Finds out whether a connection is the main channel or one for memory.
    fn sort_out(self: &Arc<Self>, channel: Channel, receivers: &Arc<Receivers>) -> Result<()> {
        let (this, receivers, channel) = (Arc::clone(self), Arc::clone(receivers), Arc::new(channel));
        self.lock().channels.push(Arc::clone(&channel));
        let run = move || {
            let mut magic = [0; 4];
            match channel.read_exact(&mut magic) {
                Err(_) => {
                    receivers.fail(LoadError::new(Errno::Io, "a channel ended before it said what it is"))
                }
                Ok(()) if recv::is_one(magic) => receivers.serve(&channel, this.machine.uuid()),
                Ok(()) => {
                    receivers.add_main(&channel);
                    let mut input = Input::new(channel);
                    input.push_back(magic.to_vec());
                    this.take_in(input);
                }
            }
        };
        spawn("mig/dst/channel", run)
    }

    fn receive(self: &Arc<Self>, channel: Channel) -> Result<()> {
        let channel = Arc::new(channel);
        self.lock().channels.push(Arc::clone(&channel));
        let this = Arc::clone(self);
        spawn("mig/dst/main", move || this.take_in(Input::new(channel)))
    }

    /// Takes the machine in and says how that went.
    fn take_in(&self, input: Input) {
        self.enter(Status::Active);
        let mut result = self.load(input);
        if let Some(receivers) = &self.receivers {
            match &result {
                Ok(()) => receivers.end(),
                Err(error) => {
                    receivers.fail(error.clone());
                    // Whatever failed first is the cause.
                    result = receivers.error().map_or(result, Err);
                }
            }
        }
        let mut waiting = self.lock();
        let answers = waiting.answers.take();
        let channels = std::mem::take(&mut waiting.channels);
        let yank = waiting.yank.take();
        drop(waiting);
        drop(yank);
        if let Some(answers) = answers {
            // A source that is gone needs no answer.
            let _ = answers.shut(result.is_ok());
        }
        if result.is_err() {
            // So that a source that still sends hears of a broken pipe, and not of bytes that nobody read.
            channels.iter().for_each(|channel| channel.shut());
        }
        drop(channels);
        match result {
            Ok(()) => self.enter(Status::Completed),
            Err(error) => self.failed(&error),
        }
    }

    /// Gives up waiting; the thread, if there is one, ends.
    pub fn shut_down(&self) {
        let mut waiting = self.lock();
        let watch = waiting.watch.take();
        waiting.channels.iter().for_each(|channel| channel.shut());
        drop(waiting);
        drop(watch);
    }

    fn failed(&self, error: &LoadError) {
        for line in &error.lines {
            tracing::error!("{line}");
        }
        let last = format!("load of migration failed: {}", error.errno.text());
        tracing::error!("{last}");
        self.progress.fail(last);
        self.tell(Status::Failed);
        if self.exit_on_error {
            let machine = Arc::clone(&self.machine);
            self.machine.mainloop().post(move || machine.end());
        }
    }

    /// The answer of `query-migrate`.
    pub fn info(&self) -> MigrationInfo {
        let status = self.progress.status();
        let addresses = self.lock().addresses.clone();
        MigrationInfo {
            status: Some(status),
            error_desc: self.progress.error(),
            socket_address: (status == Status::Setup && !addresses.is_empty()).then_some(addresses),
            ..MigrationInfo::default()
        }
    }

    fn on_loop<T: Send + 'static>(
        &self,
        work: impl FnOnce(&dyn Machine) -> T + Send + 'static,
    ) -> vmstate::Result<T> {
        let machine = Arc::clone(&self.machine);
        let gone = |_| LoadError::new(Errno::Io, "the machine ends");
        self.machine.mainloop().run_on_loop(move || work(&*machine)).map_err(gone)
    }

    fn load(&self, mut input: Input) -> vmstate::Result<()> {
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
        };
        while load.section(&mut input)? {}
        let Load { later, state, memory, .. } = load;
        drop(memory);
        description(&mut input)?;
        let state = match state {
            Some(GlobalState { runstate }) => run_state(&runstate.0)?,
            None => RunState::Running,
        };
        self.on_loop(move |machine| {
            later.into_iter().try_for_each(|(what, apply)| apply().map_err(|error| error.and(what)))?;
            machine.arrived(state);
            Ok(())
        })?
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

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> Result<()> {
    // It says itself how it ends.
    let thread = std::thread::Builder::new().name(name.into()).spawn(run).map(drop);
    thread.map_err(|error| Error::generic(format!("no thread for the migration: {}", strerror(&error))))
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

/// Skips what describes the stream. One that ends before it has none.
fn description(input: &mut Input) -> vmstate::Result<()> {
    let mut kind = [0];
    if input.read(&mut kind)? == 0 {
        return Ok(());
    }
    if kind != [wire::DESCRIPTION] {
        return Err(LoadError::invalid("Unexpected data behind the stream"));
    }
    let len = input.u32()?;
    if len > MAX_DESCRIPTION {
        return Err(LoadError::invalid("the stream's description is too long"));
    }
    let skipped = std::io::copy(&mut input.take(len.into()), &mut std::io::sink())?;
    if skipped == u64::from(len) {
        Ok(())
    } else {
        Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into())
    }
}

/// Where it is listened, as `query-migrate` says.
fn reported(address: &SocketAddress, listener: &Listener) -> types::SocketAddress {
    match (address, listener.local_address()) {
        (_, Some(at)) => types::SocketAddress::Inet(types::InetSocketAddress {
            host: at.ip().to_string(),
            port: at.port().to_string(),
            ipv4: at.is_ipv4().then_some(true),
            ipv6: at.is_ipv6().then_some(true),
            ..Default::default()
        }),
        (SocketAddress::Unix { path, .. }, None) => {
            types::SocketAddress::Unix(types::UnixSocketAddress { path: path.clone(), ..Default::default() })
        }
        (SocketAddress::Fd(name), None) => {
            types::SocketAddress::Fd(types::FdSocketAddress { str: name.clone() })
        }
        (SocketAddress::Inet { host, port, .. }, None) => {
            types::SocketAddress::Inet(types::InetSocketAddress {
                host: host.clone(),
                port: port.clone(),
                ..Default::default()
            })
        }
    }
}

/// The sections of one stream.
struct Load<'a> {
    incoming: &'a Incoming,
    memory: Loader,
    /// Those that have not come yet.
    sections: Vec<Placed>,
    /// The names of sections that began.
    by_number: HashMap<u32, String>,
    /// State to be taken over at the end, with what to say if it cannot be.
    later: Vec<(String, Apply)>,
    state: Option<GlobalState>,
}

impl Load<'_> {
    fn command(&self, input: &mut Input) -> vmstate::Result<()> {
        let (kind, len) = (u16::from_be_bytes(input.array()?), u16::from_be_bytes(input.array()?));
        let expected = match kind {
            command::OPEN | command::SWITCHOVER_START => 0,
            command::PING => 4,
            _ => return Err(LoadError::invalid(format!("MIG_CMD {kind:#x} unknown (len {len:#x})"))),
        };
        if len != expected {
            let text =
                format!("MIG_CMD {kind:#x} received with bad length - {len:#x}, expected {expected:#x}");
            return Err(LoadError::invalid(text));
        }
        match kind {
            command::OPEN => {
                let answers = Answers::new(Arc::clone(input.channel()));
                if self.incoming.capabilities().has(Capability::SwitchoverAck) {
                    // No device needs to be asked.
                    answers.switchover_ack()?;
                }
                self.incoming.lock().answers = Some(answers);
            }
            command::PING => {
                let number = input.u32()?;
                if let Some(answers) = &self.incoming.lock().answers {
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
