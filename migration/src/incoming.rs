//! Taking a machine in.
//!
//! One thread reads the stream, so that a source that stalls holds nobody up but itself. Memory goes where it belongs at once; the state
//! of devices is read to its end, and then taken over in one piece on the main loop's thread. What decides where memory may go (early
//! sections) is taken over before the first page.

pub(crate) mod landing;
mod recovery;
mod stream;

use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use chardev::{ChardevSet, Listener, SocketAddress, YankRegistration};
use mainloop::{Interest, Watch};
use qapi::events::Event;
use qapi::types::{
    self, MigrationCapability as Capability, MigrationInfo, MigrationStatus as Status, YankInstance,
};
use qapi::{Error, Result, strerror};
use vmstate::{Errno, LoadError};

use recovery::After;

use crate::address::Address;
use crate::capabilities::Capabilities;
use crate::channel::Channel;
use crate::connect;
use crate::lock;
use crate::machine::Machine;
use crate::multifd::compression::Compression;
use crate::multifd::recv::{self, Receivers};
use crate::progress::{Progress, follows};
use crate::return_path::Answers;
use crate::settings::Settings;
use crate::wire::Input;

/// A machine that is awaited.
pub struct Incoming {
    machine: Arc<dyn Machine>,
    settings: Arc<Mutex<Settings>>,
    exit_on_error: bool,
    /// How far it is.
    pub progress: Arc<Progress>,
    /// Channels of their own for memory, if there are to be any.
    receivers: Option<Arc<Receivers>>,
    /// What is waited for comes over a second channel.
    preempt: bool,
    waiting: Mutex<Waiting>,
    /// A second channel is there.
    came: Condvar,
}

#[derive(Default)]
struct Waiting {
    watch: Option<Watch>,
    addresses: Vec<types::SocketAddress>,
    /// To be shut by who gives up.
    channels: Vec<Arc<Channel>>,
    /// The way back, if the source wants one.
    answers: Option<Arc<Answers>>,
    /// Connections so far.
    connections: usize,
    yank: Option<YankRegistration>,
    /// What has to do with memory that comes while the guest runs.
    after: After,
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
        let (receivers, preempt) = {
            let settings = lock(&settings);
            let count = settings.parameters.multifd_channels.unwrap_or(1);
            let receivers = settings.capabilities.has(Capability::Multifd).then(|| Receivers::new(count));
            (receivers, settings.capabilities.has(Capability::PostcopyPreempt))
        };
        let this = Arc::new(Self {
            machine,
            settings,
            exit_on_error,
            progress,
            receivers,
            preempt,
            waiting,
            came: Condvar::new(),
        });
        let weak = Arc::downgrade(&this);
        let yank = chardevs.yank().register(YankInstance::Migration, move || {
            if let Some(this) = weak.upgrade() {
                this.disconnect();
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
        if self.receivers.is_some() || self.preempt {
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
        // Not a TCP socket, then. Answers are short, and waited for.
        let _ = rustix::net::sockopt::set_tcp_nodelay(&fd, true);
        let mut waiting = self.lock();
        waiting.connections += 1;
        let wanted =
            1 + usize::from(self.preempt) + self.receivers.as_ref().map_or(0, |receivers| receivers.count());
        let second = self.preempt && waiting.connections == 2;
        // One machine comes; nobody else is listened to.
        let watch = if waiting.connections == wanted { waiting.watch.take() } else { None };
        drop(waiting);
        let channel = Channel::new(fd).map_err(|error| Error::generic(strerror(&error)));
        let taken = channel.and_then(|channel| match &self.receivers {
            None if second => self.urgent_came(channel),
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
            let served = match channel.read_exact(&mut magic) {
                Err(_) => {
                    Err(LoadError::new(Errno::Io, "multifd: a channel ended before it said what it is"))
                }
                Ok(()) if recv::is_one(magic) => {
                    let compression = Compression::of(&lock(&this.settings).parameters);
                    receivers.serve(&channel, this.machine.uuid(), compression)
                }
                Ok(()) => receivers.add_main(&channel).map(|()| {
                    let mut input = Input::new(channel);
                    input.push_back(magic.to_vec());
                    this.take_in(input);
                }),
            };
            if let Err(error) = served
                && receivers.fail(error.clone())
            {
                this.let_go(true);
                this.failed(&error);
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
    fn take_in(self: &Arc<Self>, input: Input) {
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
        let answers = self.lock().answers.take();
        if let Some(answers) = answers {
            // A source that is gone needs no answer.
            let _ = answers.shut(result.is_ok());
        }
        self.let_go(result.is_err());
        match result {
            Ok(()) => self.enter(Status::Completed),
            Err(error) => self.failed(&error),
        }
    }

    /// Gives up waiting; the thread, if there is one, ends.
    pub fn shut_down(&self) {
        let mut waiting = self.lock();
        let watch = (waiting.watch.take(), std::mem::replace(&mut waiting.after, After::over()));
        waiting.channels.iter().for_each(|channel| channel.shut());
        drop(waiting);
        drop(watch);
        if follows(self.progress.status()) {
            self.progress.abandon();
        }
    }

    /// Nothing is waited for any more, and nobody else is listened to. If it failed, a source that still sends hears of a broken pipe, and
    /// not of bytes that nobody read.
    fn let_go(&self, failed: bool) {
        let mut waiting = self.lock();
        let channels = std::mem::take(&mut waiting.channels);
        let rest = (waiting.yank.take(), waiting.watch.take(), std::mem::take(&mut waiting.after));
        drop(waiting);
        if failed {
            channels.iter().for_each(|channel| channel.shut());
        }
        drop((channels, rest));
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
        let shown = status == Status::Setup || follows(status);
        MigrationInfo {
            status: Some(status),
            error_desc: self.progress.error(),
            socket_address: (shown && !addresses.is_empty()).then_some(addresses),
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
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> Result<()> {
    // It says itself how it ends.
    let thread = std::thread::Builder::new().name(name.into()).spawn(run).map(drop);
    thread.map_err(|error| Error::generic(format!("no thread for the migration: {}", strerror(&error))))
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
