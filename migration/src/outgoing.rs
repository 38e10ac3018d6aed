//! Sending a machine: one thread, from the connection to the end.
//!
//! ```text
//! setup ──► active ──► [pre-switchover] ──► device ──► completed
//!   └─────────┴───────────────┴───────────────┴──► failed, or cancelling ──► cancelled: the guest goes on here
//! ```
//!
//! Memory is sent in passes while the guest runs. When what is left can be sent within the downtime limit, the guest is stopped and the
//! rest follows, then the devices. Whatever goes wrong before the last byte is out, the guest goes on as if nothing had been asked.

mod postcopy;
mod saved;
mod stream;
mod urgent;

use std::any::Any;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use chardev::{ChardevSet, SocketAddress, YankRegistration};
use mainloop::LoopGone;
use qapi::events::Event;
use qapi::types::{MigrationCapability as Capability, MigrationStatus as Status, YankInstance};
use qapi::{Error, Result, strerror};

use saved::Saving;
use stream::Stream;

use crate::channel::Channel;
use crate::configuration::Configuration;
use crate::connect::{self, Outlet};
use crate::lock;
use crate::machine::{FreePages, Machine};
use crate::multifd::compression::Compression;
use crate::multifd::send::{Senders, Sink};
use crate::pace::{Bandwidth, Pace};
use crate::progress::{Progress, set};
use crate::ram::Form;
use crate::ram::save::Sender;
use crate::return_path::command;
use crate::settings::Settings;
use crate::wire::{self, Output};

/// How long a part of the memory section takes at most.
pub(super) const PART: Duration = Duration::from_millis(50);

/// One machine on its way.
pub struct Outgoing {
    machine: Arc<dyn Machine>,
    chardevs: Arc<ChardevSet>,
    settings: Arc<Mutex<Settings>>,
    /// How far it is.
    pub progress: Arc<Progress>,
    /// To be shut by who cancels.
    channels: Mutex<Vec<Arc<Channel>>>,
    /// Where a migration that was interrupted goes on.
    resumed: Mutex<Option<Outlet>>,
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

/// What follows the passes while the guest runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// It is stopped, and the rest is sent.
    Stop,
    /// It goes on there, and the rest follows it.
    Postcopy,
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
        turn: Arc<Mutex<()>>,
        outlet: Outlet,
    ) -> Result<Arc<Self>> {
        let limit = lock(&settings).parameters.downtime_limit.unwrap_or(0);
        let progress = Arc::new(Progress::new(limit));
        let (channels, resumed) = (Mutex::default(), Mutex::default());
        let job = Arc::new(Self { machine, chardevs, settings, progress, channels, resumed });
        // From now on what is plugged stays as it is.
        let frozen = job.machine.freeze();
        job.enter(Status::Setup);
        let weak = Arc::downgrade(&job);
        let yank = job.chardevs.yank().register(YankInstance::Migration, move || {
            if let Some(job) = weak.upgrade() {
                job.disconnect();
            }
        });
        let worker = Arc::clone(&job);
        std::thread::Builder::new()
            .name("mig/src/main".into())
            .spawn(move || {
                let _turn = lock(&turn);
                worker.run(outlet, frozen, yank);
            })
            .map_err(|error| Error::generic(format!("no thread for the migration: {}", strerror(&error))))?;
        Ok(job)
    }

    /// Ends it, if it runs and the machine can still go on here. Main loop thread.
    pub fn cancel(&self) {
        if self.progress.cancel(|| self.tell_status(Status::Cancelling)) {
            self.disconnect();
        }
    }

    /// Ends it whatever becomes of it: the program ends.
    pub fn abandon(&self) {
        self.progress.abandon();
        self.disconnect();
    }

    /// Breaks the connections.
    pub fn disconnect(&self) {
        self.channels().iter().for_each(|channel| channel.shut());
    }

    /// Goes on with one that was interrupted, over `outlet`.
    ///
    /// # Errors
    /// QEMU's: none was.
    pub fn resume_over(&self, outlet: Outlet) -> Result<()> {
        let mut resumed = lock(&self.resumed);
        if !self.progress.step(Status::PostcopyPaused, Status::PostcopyRecoverSetup) {
            return Err(Error::generic("Cannot resume if there is no paused migration"));
        }
        // Whoever takes it waits for this lock.
        *resumed = Some(outlet);
        self.tell_status(Status::PostcopyRecoverSetup);
        Ok(())
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

    fn tell_status(&self, status: Status) {
        self.tell(Event::Migration { status });
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
        self.machine.free_pages(FreePages::Done);
        drop((frozen, yank));
        self.channels().clear();
        let (end, logs) = match result {
            Ok(logs) => {
                // A loop that is gone takes the machine with it.
                let _ = self.on_loop(|machine| machine.moved());
                self.progress.enter(Status::Completed);
                (Status::Completed, logs)
            }
            Err(stop) => {
                if stopped {
                    let _ = self.on_loop(|machine| machine.go_on());
                }
                let end = match stop {
                    Stop::Failed(error) if self.progress.fail(error.clone()) => {
                        tracing::error!("{error}");
                        Status::Failed
                    }
                    Stop::Failed(_) | Stop::Cancelled => {
                        self.progress.cancelled();
                        Status::Cancelled
                    }
                };
                (end, None)
            }
        };
        self.tell_status(end);
        // The end of a log of many gigabytes takes long, and the machine, which is elsewhere, has no use for it any more.
        drop(logs);
    }

    /// Does all of it. Gives who still logs writes, which nobody reads any more.
    fn work(&self, outlet: Outlet, stopped: &mut bool) -> Work<Option<Sender>> {
        let (channel, address) = match outlet {
            Outlet::Open(channel) => (channel, None),
            Outlet::Connect(address) => (connect::connect(&address, &self.chardevs)?, Some(address)),
        };
        let channel = self.opened(channel)?;
        let senders = self.senders(&channel, address.as_ref())?;
        let sent = Arc::clone(&self.progress.counters.sent);
        let out = Output::new(channel, sent);
        let mut stream = Stream::new(self, out);
        stream.begin()?;
        let mut sender = Sender::new(self.machine.memory(), self.form(), senders)?;
        set(&self.progress.counters.total, sender.total());
        set(&self.progress.counters.remaining, sender.pending());
        self.pass();
        if self.has(Capability::PostcopyRam) {
            stream.advise(&sender)?;
        }
        stream.memory_begins(&mut sender)?;
        stream.devices(self.on_loop(saved::early)??)?;
        self.advance(Status::Active)?;
        self.ask_for_free_pages();
        if self.passes(&mut stream, &mut sender)? == Next::Postcopy {
            return self.postcopy(stream, sender, address.as_ref(), stopped).map(|()| None);
        }
        // It goes on while the last memory is sent.
        let saving = self.stop(stopped)?;
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
        stream.devices(saving.all()?)?;
        stream.end()?;
        Ok(Some(sender))
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
        let parameters = lock(&self.settings).parameters.clone();
        let count = parameters.multifd_channels.unwrap_or(1);
        let compression = Compression::of(&parameters);
        let channel = |number| match address {
            None => Ok((Arc::clone(main), Sink::Places)),
            Some(address) => {
                let channel = self.opened(connect::connect(address, &self.chardevs)?)?;
                Ok((channel, Sink::Packets(self.machine.uuid(), number, compression)))
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
    fn passes(&self, stream: &mut Stream<'_>, sender: &mut Sender) -> Work<Next> {
        let counters = &self.progress.counters;
        let mut bandwidth = Bandwidth::new();
        let mut pace = Pace::new();
        let mut throttle = crate::pace::Throttle::default();
        loop {
            if self.progress.wants_postcopy() {
                stream.await_read()?;
                return Ok(Next::Postcopy);
            }
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
            self.machine.free_pages(FreePages::Stop);
            let mut came = sender.sync();
            let mut stops = false;
            if fits(sender.pending()) {
                if stream.may_switch_over()? {
                    stream.await_taken()?;
                    came += sender.sync();
                    stops = fits(sender.pending());
                } else {
                    stream.wait_ack();
                }
            }
            bandwidth.dirtied(counters, came);
            if stops {
                return Ok(Next::Stop);
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
            self.ask_for_free_pages();
        }
    }

    /// Pages that nobody sends must not be asked for by the other side later.
    fn ask_for_free_pages(&self) {
        if !self.has(Capability::PostcopyRam) {
            self.machine.free_pages(FreePages::Ask);
        }
    }

    /// Stops the guest, and begins to save its devices.
    fn stop(&self, stopped: &mut bool) -> Work<Saving> {
        let waits = self.has(Capability::PauseBeforeSwitchover);
        let machine = Arc::clone(&self.machine);
        // Nobody is waited for in between, if nobody wants to be.
        let stop = move |_: &dyn Machine| {
            let state = machine.stop()?;
            // Before it is saved: where it arrives nobody asks.
            machine.free_pages(FreePages::Done);
            Some((state, (!waits).then(|| Saving::begin(&machine, state))))
        };
        let (state, begun) = self.on_loop(stop)?.ok_or(Stop::Cancelled)?;
        *stopped = true;
        self.progress.stopped();
        if waits {
            self.advance(Status::PreSwitchover)?;
            if !self.progress.wait_to_go_on() {
                return Err(Stop::Cancelled);
            }
        }
        let saving = begun.unwrap_or_else(|| Saving::begin(&self.machine, state));
        self.advance(Status::Device)?;
        Ok(saving)
    }
}
