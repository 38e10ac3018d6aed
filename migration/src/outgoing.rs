//! Sending a machine: one thread, from the connection to the end.
//!
//! ```text
//! setup ──► active ──► [pre-switchover] ──► device ──► completed
//!   └─────────┴───────────────┴───────────────┴──► failed, or cancelling ──► cancelled: the guest goes on here
//! ```
//!
//! Memory is sent in passes while the guest runs. When what is left can be sent within the downtime limit, the guest is stopped and the
//! rest follows, then the devices. Whatever goes wrong before the last byte is out, the guest goes on as if nothing had been asked.

use std::any::Any;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use chardev::{ChardevSet, SocketAddress, YankRegistration};
use mainloop::LoopGone;
use qapi::events::Event;
use qapi::types::{MigrationCapability as Capability, MigrationStatus as Status, YankInstance};
use qapi::{Enum, Error, Result, strerror};
use vmstate::{Described, Encoder, Priority, Text};

use crate::channel::{Channel, Kind};
use crate::configuration::{Configuration, GlobalState};
use crate::connect::{self, Outlet};
use crate::lock;
use crate::machine::{Machine, Placed};
use crate::multifd::send::{Senders, Sink};
use crate::pace::{Bandwidth, Pace};
use crate::progress::{Progress, set};
use crate::ram::Form;
use crate::ram::save::Sender;
use crate::return_path::{ReturnPath, command};
use crate::settings::Settings;
use crate::wire::{self, Output};

/// How long a part of the memory section takes at most.
const PART: Duration = Duration::from_millis(50);

/// One machine on its way.
pub struct Outgoing {
    machine: Arc<dyn Machine>,
    chardevs: Arc<ChardevSet>,
    settings: Arc<Mutex<Settings>>,
    /// How far it is.
    pub progress: Arc<Progress>,
    /// To be shut by who cancels.
    channels: Mutex<Vec<Arc<Channel>>>,
}

/// A section as bytes.
struct Saved {
    head: (u32, String, u32, u32),
    bytes: Vec<u8>,
    description: Described,
}

/// Why the work ended early.
enum Stop {
    Cancelled,
    Failed(String),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Failed(error.desc().to_owned())
    }
}

impl From<LoopGone> for Stop {
    fn from(_: LoopGone) -> Self {
        Self::Cancelled
    }
}

type Work<T> = std::result::Result<T, Stop>;

impl Outgoing {
    /// Begins; the rest happens on a thread.
    ///
    /// # Errors
    /// The host has no thread.
    pub fn start(
        machine: Arc<dyn Machine>,
        chardevs: Arc<ChardevSet>,
        settings: Arc<Mutex<Settings>>,
        outlet: Outlet,
    ) -> Result<Arc<Self>> {
        let limit = lock(&settings).parameters.downtime_limit.unwrap_or(0);
        let progress = Arc::new(Progress::new(limit));
        let job = Arc::new(Self { machine, chardevs, settings, progress, channels: Mutex::default() });
        // From now on what is plugged stays as it is.
        let frozen = job.machine.freeze();
        job.enter(Status::Setup);
        let weak = Arc::downgrade(&job);
        let yank = job.chardevs.yank().register(YankInstance::Migration, move || {
            if let Some(job) = weak.upgrade() {
                job.channels().iter().for_each(|channel| channel.shut());
            }
        });
        let worker = Arc::clone(&job);
        std::thread::Builder::new()
            .name("mig/src/main".into())
            .spawn(move || worker.run(outlet, frozen, yank))
            .map_err(|error| Error::generic(format!("no thread for the migration: {}", strerror(&error))))?;
        Ok(job)
    }

    /// Ends it, if it runs. Main loop thread.
    pub fn cancel(&self) {
        if self.progress.cancel() {
            self.enter(Status::Cancelling);
            self.channels().iter().for_each(|channel| channel.shut());
        }
    }

    fn has(&self, capability: Capability) -> bool {
        lock(&self.settings).capabilities.has(capability)
    }

    fn form(&self) -> Form {
        Form::of(&lock(&self.settings).capabilities)
    }

    fn configuration(&self) -> Configuration {
        let capabilities = lock(&self.settings).capabilities.clone();
        Configuration::of(self.machine.type_name(), self.machine.uuid(), &capabilities)
    }

    /// Takes it to another status, and tells; not if it is being cancelled.
    fn enter(&self, status: Status) -> bool {
        let entered = self.progress.enter(status);
        if entered {
            self.tell(Event::Migration { status });
        }
        entered
    }

    fn tell(&self, event: Event) {
        if self.has(Capability::Events) {
            self.machine.send(event);
        }
    }

    fn advance(&self, status: Status) -> Work<()> {
        if self.enter(status) { Ok(()) } else { Err(Stop::Cancelled) }
    }

    fn on_loop<T: Send + 'static>(&self, work: impl FnOnce(&dyn Machine) -> T + Send + 'static) -> Work<T> {
        let machine = Arc::clone(&self.machine);
        Ok(self.machine.mainloop().run_on_loop(move || work(&*machine))?)
    }

    fn run(&self, outlet: Outlet, frozen: Box<dyn Any + Send>, yank: YankRegistration) {
        let mut stopped = false;
        let result = self.work(outlet, &mut stopped);
        self.machine.throttle(0);
        drop((frozen, yank));
        self.channels().clear();
        let end = match result {
            Ok(()) => {
                // A loop that is gone takes the machine with it.
                let _ = self.on_loop(|machine| machine.moved());
                Status::Completed
            }
            Err(stop) => {
                if stopped {
                    let _ = self.on_loop(|machine| machine.go_on());
                }
                match stop {
                    Stop::Failed(error) if !self.progress.is_cancelled() => {
                        tracing::error!("{error}");
                        self.progress.fail(error);
                        Status::Failed
                    }
                    Stop::Failed(_) | Stop::Cancelled => Status::Cancelled,
                }
            }
        };
        if end == Status::Failed {
            self.tell(Event::Migration { status: end });
        } else {
            self.enter(end);
        }
    }

    fn work(&self, outlet: Outlet, stopped: &mut bool) -> Work<()> {
        let (channel, address) = match outlet {
            Outlet::Open(channel) => (channel, None),
            Outlet::Connect(address) => (connect::connect(&address, &self.chardevs)?, Some(address)),
        };
        let channel = self.opened(channel)?;
        let senders = self.senders(&channel, address.as_ref())?;
        let sent = Arc::clone(&self.progress.counters.sent);
        let out = Output::new(channel, sent);
        let mut stream = Stream { job: self, out, descriptions: Vec::new(), back: None };
        stream.begin()?;
        let sections = self.on_loop(|machine| machine.sections())?;
        if let Some(why) = sections.blocked.into_iter().next() {
            return Err(Stop::Failed(why));
        }
        let sections = Arc::new(sections.list);
        let mut sender = Sender::new(self.machine.memory(), self.form(), senders)?;
        set(&self.progress.counters.total, sender.total());
        set(&self.progress.counters.remaining, sender.pending());
        self.pass();
        stream.memory_begins(&mut sender)?;
        stream.devices(self.save(&sections, true)?)?;
        self.advance(Status::Active)?;
        self.passes(&mut stream, &mut sender)?;
        let states = self.stop(stopped, &sections)?;
        stream.command(command::SWITCHOVER_START, &[])?;
        sender.sync();
        self.pass();
        sender.begin_pass();
        let counters = &self.progress.counters;
        let dirty = sender.pending() > 0;
        let before = counters.bytes();
        stream.ram_section(wire::SECTION_END, |out| sender.send(out, counters, |_| Ok(false)))?;
        // A section without a page is no memory.
        let between = if dirty { before } else { counters.bytes() };
        stream.put(|out| sender.finish(out))?;
        set(&counters.downtime, counters.bytes() - between);
        stream.devices(states)?;
        drop(sender);
        stream.end()
    }

    fn channels(&self) -> MutexGuard<'_, Vec<Arc<Channel>>> {
        lock(&self.channels)
    }

    /// A channel that whoever cancels can shut.
    fn opened(&self, channel: Channel) -> Work<Arc<Channel>> {
        let channel = Arc::new(channel);
        self.channels().push(Arc::clone(&channel));
        if self.progress.is_cancelled() { Err(Stop::Cancelled) } else { Ok(channel) }
    }

    /// Channels of their own for memory, if they are wanted: connections to where the main one leads, or threads for the one file.
    fn senders(&self, main: &Arc<Channel>, address: Option<&SocketAddress>) -> Work<Option<Senders>> {
        if !self.has(Capability::Multifd) {
            return Ok(None);
        }
        let count = lock(&self.settings).parameters.multifd_channels.unwrap_or(1);
        let channel = |number| match address {
            None => Ok((Arc::clone(main), Sink::Places)),
            Some(address) => {
                let channel = self.opened(connect::connect(address, &self.chardevs)?)?;
                Ok((channel, Sink::Packets(self.machine.uuid(), number)))
            }
        };
        let channels = (0..count).map(channel).collect::<Work<Vec<_>>>()?;
        let senders = Senders::start(channels, &self.progress.counters);
        senders.map(Some).map_err(|error| Stop::Failed(strerror(&error)))
    }

    /// Another pass begins.
    fn pass(&self) {
        let passes = &self.progress.counters.passes;
        let pass = passes.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1;
        self.tell(Event::MigrationPass { pass: pass as i64 });
    }

    /// Sends memory while the guest runs, until the rest can be sent within the downtime limit.
    fn passes(&self, stream: &mut Stream<'_>, sender: &mut Sender) -> Work<()> {
        let counters = &self.progress.counters;
        let mut bandwidth = Bandwidth::new();
        let mut pace = Pace::new();
        let mut throttle = crate::pace::Throttle::default();
        loop {
            let begun = Instant::now();
            let done = stream.ram_section(wire::SECTION_PART, |out| {
                sender.send(out, counters, |_| {
                    let limit = lock(&self.settings).parameters.max_bandwidth.unwrap_or(0);
                    if let Some(rest) = pace.rest(counters.bytes(), limit) {
                        self.progress.rest(rest);
                    }
                    if self.progress.is_cancelled() {
                        return Err(io::Error::from_raw_os_error(libc::EIO));
                    }
                    Ok(begun.elapsed() >= PART)
                })
            })?;
            stream.check_back()?;
            bandwidth.update(counters);
            let parameters = lock(&self.settings).parameters.clone();
            let rate = match parameters.avail_switchover_bandwidth.unwrap_or(0) {
                0 => bandwidth.rate(),
                told => told,
            };
            let limit = parameters.downtime_limit.unwrap_or(0);
            let fits = |pending: u64| u128::from(pending) * 1000 <= u128::from(rate) * u128::from(limit);
            self.progress.expect_downtime(sender.pending().saturating_mul(1000) / rate.max(1));
            if !done && !fits(sender.pending()) {
                continue;
            }
            stream.out.flush().map_err(|error| stream.failed(&error))?;
            let came = sender.sync();
            bandwidth.dirtied(counters, came);
            if fits(sender.pending()) && stream.may_switch_over() {
                return Ok(());
            }
            if self.has(Capability::AutoConverge)
                && let Some(percent) =
                    throttle.after_pass(&parameters, came * wire::PAGE, bandwidth.pass_bytes(counters))
            {
                self.machine.throttle(percent);
                self.progress.set_throttle(percent);
            }
            self.pass();
            sender.begin_pass();
        }
    }

    /// Stops the guest and saves its devices.
    fn stop(&self, stopped: &mut bool, sections: &Arc<Vec<Placed>>) -> Work<Vec<Saved>> {
        let state = self.on_loop(|machine| machine.stop())?.ok_or(Stop::Cancelled)?;
        *stopped = true;
        self.progress.stopped();
        if self.has(Capability::PauseBeforeSwitchover) {
            self.advance(Status::PreSwitchover)?;
            if !self.progress.wait_to_go_on() {
                return Err(Stop::Cancelled);
            }
        }
        self.advance(Status::Device)?;
        let mut states = self.save(sections, false)?;
        states.push(GlobalState { runstate: Text(state.as_str().to_owned()) }.into_saved(sections.len()));
        Ok(states)
    }

    /// Saves early sections, or all others.
    fn save(&self, sections: &Arc<Vec<Placed>>, early: bool) -> Work<Vec<Saved>> {
        let sections = Arc::clone(sections);
        self.on_loop(move |_| {
            let wanted =
                |(_, placed): &(usize, &Placed)| (placed.section.priority() == Priority::Early) == early;
            sections
                .iter()
                .enumerate()
                .filter(wanted)
                .map(|(index, placed)| Saved::of(index, placed))
                .collect()
        })
    }
}

impl Saved {
    fn of(index: usize, placed: &Placed) -> Self {
        let mut state = Encoder::new();
        placed.section.save(&mut state);
        let version = placed.section.version();
        Self::new(index, (&placed.id, placed.instance), (placed.section.name(), version), state)
    }

    fn new(index: usize, id: (&str, u32), name: (&str, u32), state: Encoder) -> Self {
        let (bytes, fields, subsections) = state.finish();
        let description = Described::device(id, name, &fields, &subsections);
        // The first number is that of memory.
        let number = wire::RAM_SECTION + 1 + index as u32;
        Self { head: (number, id.0.to_owned(), id.1, name.1), bytes, description }
    }
}

impl GlobalState {
    fn into_saved(self, index: usize) -> Saved {
        use vmstate::VmState as _;
        let mut state = Encoder::new();
        self.put_fields(&mut state);
        Saved::new(index, (Self::NAME, 0), (Self::NAME, Self::VERSION), state)
    }
}

/// The stream while it is written.
struct Stream<'a> {
    job: &'a Outgoing,
    out: Output,
    descriptions: Vec<Described>,
    /// What the other side answers, if it was asked to.
    back: Option<Arc<ReturnPath>>,
}

impl Stream<'_> {
    fn failed(&self, error: &io::Error) -> Stop {
        if self.job.progress.is_cancelled() {
            return Stop::Cancelled;
        }
        let noun = self.out.channel().kind().noun();
        Stop::Failed(format!("Unable to write to {noun}: {}", strerror(error)))
    }

    fn put<T>(&mut self, write: impl FnOnce(&mut Output) -> io::Result<T>) -> Work<T> {
        write(&mut self.out).map_err(|error| self.failed(&error))
    }

    fn begin(&mut self) -> Work<()> {
        let configuration = self.job.configuration();
        self.put(|out| {
            out.u32(wire::MAGIC)?;
            out.u32(wire::VERSION)?;
            out.u8(wire::CONFIGURATION)?;
            out.bytes(&configuration.to_bytes())
        })?;
        // Only a socket has a way back.
        if self.job.has(Capability::ReturnPath) && self.out.channel().kind() == Kind::Socket {
            let back = ReturnPath::open(self.out.channel());
            self.back = Some(back.map_err(|error| self.failed(&error))?);
            self.command(command::OPEN, &[])?;
            self.command(command::PING, &1u32.to_be_bytes())?;
        }
        Ok(())
    }

    fn command(&mut self, command: u16, data: &[u8]) -> Work<()> {
        self.put(|out| {
            out.u8(wire::COMMAND)?;
            out.bytes(&command.to_be_bytes())?;
            out.bytes(&(data.len() as u16).to_be_bytes())?;
            out.bytes(data)
        })
    }

    /// Whether the other side agrees that the guest is stopped.
    fn may_switch_over(&self) -> bool {
        !self.job.has(Capability::SwitchoverAck) || self.back.as_ref().is_none_or(|back| back.is_acked())
    }

    /// Whether the other side is still there, as far as it would say so.
    fn check_back(&self) -> Work<()> {
        match self.back.as_ref().and_then(|back| back.broken()) {
            Some(why) => Err(Stop::Failed(format!("return path: {why}"))),
            None => Ok(()),
        }
    }

    fn memory_begins(&mut self, sender: &mut Sender) -> Work<()> {
        self.put(|out| {
            out.u8(wire::SECTION_START)?;
            out.u32(wire::RAM_SECTION)?;
            out.text(wire::RAM)?;
            out.u32(0)?;
            out.u32(wire::RAM_VERSION)?;
            sender.put_blocks(out)?;
            footer(out, wire::RAM_SECTION)
        })
    }

    fn ram_section<T>(&mut self, kind: u8, pages: impl FnOnce(&mut Output) -> io::Result<T>) -> Work<T> {
        self.put(|out| {
            out.u8(kind)?;
            out.u32(wire::RAM_SECTION)?;
            let result = pages(out)?;
            footer(out, wire::RAM_SECTION)?;
            Ok(result)
        })
    }

    fn devices(&mut self, states: Vec<Saved>) -> Work<()> {
        for state in states {
            let Saved { head: (number, id, instance, version), bytes, description } = state;
            self.put(|out| {
                out.u8(wire::SECTION_FULL)?;
                out.u32(number)?;
                out.text(&id)?;
                out.u32(instance)?;
                out.u32(version)?;
                out.bytes(&bytes)?;
                footer(out, number)
            })?;
            self.descriptions.push(description);
        }
        Ok(())
    }

    fn end(mut self) -> Work<()> {
        let text = self.job.configuration().describe(&self.descriptions);
        self.put(|out| {
            out.u8(wire::EOF)?;
            out.u8(wire::DESCRIPTION)?;
            out.u32(u32::try_from(text.len()).map_err(io::Error::other)?)?;
            out.bytes(text.as_bytes())?;
            out.flush()
        })?;
        if let Some(back) = &self.back {
            back.wait().map_err(|why| match self.job.progress.is_cancelled() {
                true => Stop::Cancelled,
                false => Stop::Failed(format!("return path: {why}")),
            })?;
        }
        self.job.channels().clear();
        let Self { job, out, .. } = self;
        let noun = out.channel().kind().noun();
        let finish = out.into_channel().and_then(|channel| match Arc::into_inner(channel) {
            Some(channel) => channel.finish(),
            // Somebody shuts it at this very moment.
            None => Ok(()),
        });
        match finish {
            Ok(()) => Ok(()),
            Err(_) if job.progress.is_cancelled() => Err(Stop::Cancelled),
            Err(error) => Err(Stop::Failed(format!("Unable to write to {noun}: {}", strerror(&error)))),
        }
    }
}

fn footer(out: &mut Output, number: u32) -> io::Result<()> {
    out.u8(wire::FOOTER)?;
    out.u32(number)
}
