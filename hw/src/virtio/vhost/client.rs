//! One device's client of its back end: keeps the connection, and carries out what transport, machine and memory ask for.
//!
//! What should be is noted at once under a small lock ([`Wanted`]); a thread of its own makes it so. So no vCPU waits for another
//! process, except while memory changes: then the listener waits, under the topology lock, until the back end let go. The main
//! loop waits where something must be over: a system reset, a stop of the machine, an unplug. Every such wait ends within
//! [`PATIENCE`]; a back end that does not answer in time is disconnected, and nobody waits for it again until it is back.
//!
//! Locks: topology, then session, then the small ones. None is held while the device, its transport or the machine is called.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use ::chardev::{CharEvent, Connection, Frontend, Patience, Port};
use mainloop::Interest;
use memory::{AddressSpace, Memory, MemoryListener, Section};
use qapi::{Error, Result};

use super::backend_channel::{self, BackendChannel, Requests};
use super::channel::{Channel, Deadline, Fault};
use super::frontend::FrontEnd;
use super::message::protocol;
use super::regions::{Regions, Shared, visible};
use super::session::{Link, Session, StartError, acked};
use crate::virtio::ring_server::{Done, RingServer, RingServerStatus, RingStart};

/// How long one operation of the back end is waited for.
pub(super) const PATIENCE: Duration = Duration::from_secs(1);
/// Connections tried, after the first one, before a device is refused.
#[doc(alias = "REALIZE_CONNECTION_RETRIES")]
const RETRIES: u32 = 3;

/// The device a client belongs to.
pub(super) trait Owner: Send + Sync {
    /// Other content of the configuration space. Called with no lock held.
    fn config_changed(&self);
}

/// What a device cannot do without.
#[derive(Debug, Clone, Copy)]
pub(super) struct Needs {
    /// Name of the device, for messages.
    pub(super) device: &'static str,
    /// Queues.
    pub(super) queues: u16,
    /// Bytes of configuration space.
    pub(super) config: usize,
}

/// What a client lives on.
pub(super) struct Surroundings {
    pub(super) needs: Needs,
    pub(super) port: Port,
    pub(super) memory: Arc<Memory>,
    /// Guest memory as the device reaches it.
    pub(super) space: Arc<AddressSpace>,
    pub(super) mainloop: mainloop::Handle,
    /// Whether the machine runs.
    pub(super) running: bool,
}

/// A back end that cannot be used.
#[derive(Debug)]
enum Unfit {
    /// It does not speak the protocol, or not in time.
    Fault(Fault),
    /// It lacks something.
    Lacks(String),
}

impl From<Fault> for Unfit {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl Unfit {
    /// As the error of a device that is not realized; what QEMU prints besides goes to the log.
    fn into_error(self) -> Error {
        match self {
            Self::Lacks(text) => Error::generic(text),
            Self::Fault(fault @ Fault::Timeout(_)) => {
                tracing::error!("{fault}");
                Error::generic("vhost_backend_init failed: Connection timed out")
            }
            Self::Fault(fault @ (Fault::Refused(_) | Fault::HungUp)) => {
                tracing::debug!(%fault, "introduction");
                Error::generic("vhost_backend_init failed: Protocol error")
            }
            Self::Fault(fault) => {
                tracing::error!("{fault}");
                Error::generic("vhost_backend_init failed: Protocol error")
            }
        }
    }
}

impl std::fmt::Display for Unfit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Fault(fault) => fault.fmt(f),
            Self::Lacks(text) => f.write_str(text),
        }
    }
}

/// What should be.
#[derive(Default)]
struct Wanted {
    /// Driver and device are at work.
    start: Option<Arc<RingStart>>,
    machine_running: bool,
}

enum Job {
    /// Make it as it should be.
    Settle,
    /// The character device connected, or lost its peer.
    Connection,
    /// The back end says that its configuration space changed.
    Config,
    /// The present back end, by number of the connection, broke the rules on its own socket.
    Lose(u64, Fault),
    /// Part of the configuration space was written.
    SetConfig(u32, Vec<u8>),
    /// As [`RingServer::reset`].
    Reset(Done),
}

/// See the module.
pub(super) struct Client {
    me: Weak<Self>,
    needs: Needs,
    name: String,
    patience: Duration,
    memory: Weak<Memory>,
    space: Arc<AddressSpace>,
    mainloop: mainloop::Handle,
    port: Mutex<Option<Port>>,
    wanted: Mutex<Wanted>,
    session: Mutex<Session>,
    /// Regions there are, for whoever must not wait for the session.
    sections: AtomicUsize,
    /// Whether the batch of memory changes that is under way has to do with them.
    sections_changed: AtomicBool,
    config: Mutex<Vec<u8>>,
    config_asked: AtomicBool,
    status: Mutex<RingServerStatus>,
    /// What every back end must have: what the first one had of what the device wants.
    features: OnceLock<u64>,
    /// Memory regions that every back end must take: as many as the first one.
    slots: OnceLock<u64>,
    jobs: Mutex<Option<Sender<Job>>>,
    worker: Mutex<Option<JoinHandle<()>>>,
    owner: OnceLock<Weak<dyn Owner>>,
    listener: OnceLock<Arc<dyn MemoryListener>>,
}

fn unpoisoned<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is under these locks is changed by whole assignments; a session that a panic left half-way loses its connection when
    // the next answer does not fit.
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Client {
    /// Connects: waits for the back end and gets to know it.
    ///
    /// # Errors
    /// QEMU's texts.
    pub(super) fn connect(
        surroundings: Surroundings,
        connecting: Patience,
        patience: Duration,
    ) -> Result<Arc<Self>> {
        let Surroundings { needs, port, memory, space, mainloop, running } = surroundings;
        let client = Arc::new_cyclic(|me: &Weak<Self>| Self {
            me: me.clone(),
            needs,
            name: port.chardev().label().to_owned(),
            patience,
            memory: Arc::downgrade(&memory),
            space,
            mainloop,
            port: Mutex::new(Some(port)),
            wanted: Mutex::new(Wanted { start: None, machine_running: running }),
            session: Mutex::new(Session::new(needs.queues.into())),
            sections: AtomicUsize::new(0),
            sections_changed: AtomicBool::new(false),
            config: Mutex::default(),
            config_asked: AtomicBool::new(false),
            status: Mutex::default(),
            features: OnceLock::new(),
            slots: OnceLock::new(),
            jobs: Mutex::default(),
            worker: Mutex::default(),
            owner: OnceLock::new(),
            listener: OnceLock::new(),
        });
        client.follow_memory(&memory);
        match client.introduce_first(connecting) {
            Ok(()) => Ok(client),
            Err(error) => {
                client.shut_down();
                Err(error)
            }
        }
    }

    fn follow_memory(self: &Arc<Self>, memory: &Arc<Memory>) {
        let listener: Arc<dyn MemoryListener> = Arc::new(Follower(self.me.clone()));
        let listener = self.listener.get_or_init(|| listener);
        memory.add_listener(&self.space, Arc::clone(listener));
    }

    fn introduce_first(self: &Arc<Self>, connecting: Patience) -> Result<()> {
        let mut retries = RETRIES;
        loop {
            let error = match self.try_first(connecting) {
                Ok(()) => return Ok(()),
                Err((error, true)) if retries > 0 => error,
                Err((error, _)) => return Err(error),
            };
            retries -= 1;
            tracing::error!("Reconnecting after error: {error}");
        }
    }

    /// One attempt; with the error, whether another one may end better.
    fn try_first(self: &Arc<Self>, connecting: Patience) -> std::result::Result<(), (Error, bool)> {
        let port = unpoisoned(&self.port);
        let port = port.as_ref().ok_or_else(|| (Error::generic("the device is gone"), false))?;
        port.wait_connected(connecting).map_err(|error| (error, connecting == Patience::Endless))?;
        let Some(connection) = port.connection() else {
            tracing::error!("Failed to set msg fds.");
            return Err((Error::generic("vhost_backend_init failed: Protocol error"), true));
        };
        let id = connection.id;
        let introduced = self.introduce(connection);
        let link = introduced.map_err(|unfit| {
            port.hang_up(id);
            // Nobody waits for a stalled one four times.
            let again = !matches!(unfit, Unfit::Fault(Fault::Timeout(_)));
            (unfit.into_error(), again)
        })?;
        self.install(link);
        Ok(())
    }

    /// Starts the thread, and tells `owner` of changes from now on. The features that the device wants and that the back end
    /// has are what it offers for good.
    pub(super) fn begin(self: &Arc<Self>, owner: Weak<dyn Owner>, wanted: u64) -> Result<()> {
        self.owner.get_or_init(|| owner);
        self.features
            .get_or_init(|| self.with_link(|link| link.map_or(0, |link| link.front.features & wanted)));
        let (sender, jobs) = channel();
        let client = self.me.clone();
        let name = format!("vhost-user {}", self.name);
        let worker = thread::Builder::new()
            .name(name)
            .spawn(move || work(&client, &jobs))
            .map_err(|error| Error::generic(format!("cannot start a thread: {error}")))?;
        *unpoisoned(&self.jobs) = Some(sender);
        *unpoisoned(&self.worker) = Some(worker);
        if let Some(port) = &*unpoisoned(&self.port) {
            port.set_handler(Box::new(Listener(self.me.clone())));
        }
        Ok(())
    }

    /// Lets go of the back end and of everything else. Main loop thread.
    pub(super) fn shut_down(&self) {
        unpoisoned(&self.wanted).start = None;
        self.settle();
        let link = unpoisoned(&self.session).lose();
        drop(link);
        // Out of the lock: what is posted to the handler may want it.
        let port = unpoisoned(&self.port).take();
        drop(port);
        *unpoisoned(&self.jobs) = None;
        // It has nothing left to wait for: its socket is shut down.
        if let Some(worker) = unpoisoned(&self.worker).take()
            && worker.join().is_err()
        {
            tracing::error!("the thread of vhost-user device '{}' had panicked", self.name);
        }
        if let (Some(memory), Some(listener)) = (self.memory.upgrade(), self.listener.get()) {
            memory.remove_listener(&self.space, listener);
        }
    }

    /// What the back end has, besides: features.
    pub(super) fn features(&self) -> u64 {
        self.features.get().copied().unwrap_or(0)
    }

    /// The configuration space as the back end last told it.
    pub(super) fn config(&self) -> Vec<u8> {
        unpoisoned(&self.config).clone()
    }

    /// Writes `data` into the configuration space: here at once, at the back end soon.
    pub(super) fn set_config(&self, offset: usize, data: &[u8]) {
        {
            let mut config = unpoisoned(&self.config);
            let Some(place) = config.get_mut(offset..).and_then(|rest| rest.get_mut(..data.len())) else {
                return;
            };
            place.copy_from_slice(data);
        }
        // Inside the configuration space, which is short.
        self.post(Job::SetConfig(offset as u32, data.to_vec()));
    }

    fn with_link<T>(&self, look: impl FnOnce(Option<&Link>) -> T) -> T {
        look(unpoisoned(&self.session).link())
    }

    fn post(&self, job: Job) {
        if let Some(jobs) = &*unpoisoned(&self.jobs) {
            // The thread ends only after this sender.
            let _ = jobs.send(job);
        }
    }

    fn deadline(&self) -> Deadline {
        Deadline::after(self.patience)
    }

    // --- connections ---

    /// Gets to know a back end.
    fn introduce(&self, Connection { id, socket }: Connection) -> std::result::Result<Link, Unfit> {
        let deadline = self.deadline();
        let front = FrontEnd::negotiate(Channel::new(socket), deadline)?;
        self.check(&front)?;
        let requests = if front.has(protocol::BACKEND_REQ) {
            Some(self.open_backend_channel(id, &front, deadline)?)
        } else {
            None
        };
        let config = front.config(self.needs.config, deadline).map_err(|fault| match fault {
            Fault::Size => Unfit::Lacks(fault.to_string()),
            fault => Unfit::Fault(fault),
        })?;
        let changed = std::mem::replace(&mut *unpoisoned(&self.config), config);
        drop(changed);
        Ok(Link { id, front, _requests: requests })
    }

    /// Whether a back end has what the device needs.
    fn check(&self, front: &FrontEnd) -> std::result::Result<(), Unfit> {
        let lacks = |text: String| Err(Unfit::Lacks(text));
        if !front.has(protocol::CONFIG) {
            return lacks(
                "vhost-user device expecting VHOST_USER_PROTOCOL_F_CONFIG but the vhost-user backend does not \
                 support it."
                    .to_owned(),
            );
        }
        if front.max_queues < self.needs.queues.into() {
            let queues = front.max_queues;
            return lacks(format!("The maximum number of queues supported by the backend is {queues}"));
        }
        let used = self.sections.load(Ordering::Relaxed);
        let least = self.slots.get().copied().unwrap_or(0);
        if front.max_slots < used.max(1) as u64 || front.max_slots < least {
            return lacks(format!(
                "vhost backend memory slots limit ({}) is less than current number of used ({used}) and reserved (0) \
                 memory slots for memory devices.",
                front.max_slots
            ));
        }
        let missing = self.features() & !front.features;
        if missing != 0 {
            return lacks(format!("the back end lacks features that the device has: {missing:#x}"));
        }
        Ok(())
    }

    fn open_backend_channel(
        &self,
        id: u64,
        front: &FrontEnd,
        deadline: Deadline,
    ) -> std::result::Result<BackendChannel, Unfit> {
        let failed = |error: std::io::Error| Unfit::Lacks(format!("cannot watch the back end: {error}"));
        let (ours, theirs) = backend_channel::pair().map_err(|errno| failed(errno.into()))?;
        front.set_backend_channel(&theirs, deadline)?;
        let watched: OwnedFd = ours.try_clone().map_err(failed)?;
        let mut requests = Requests::new(ours);
        let client = self.me.clone();
        let mut sound = true;
        let watch = self.mainloop.watch(watched, Interest::READ, move |_| {
            let Some(client) = client.upgrade().filter(|_| sound) else { return };
            match requests.read() {
                Ok(false) => {}
                Ok(true) => client.ask_for_config(),
                Err(fault) => {
                    sound = false;
                    client.post(Job::Lose(id, fault));
                }
            }
        });
        watch.map(BackendChannel::new).map_err(failed)
    }

    fn install(&self, link: Link) {
        self.slots.get_or_init(|| link.front.max_slots);
        let mut session = unpoisoned(&self.session);
        session.connect(link);
        self.note(&session);
    }

    /// The character device says that something changed.
    fn connection_changed(&self) {
        let connection = unpoisoned(&self.port).as_ref().and_then(Port::connection);
        let (known, seen) = {
            let session = unpoisoned(&self.session);
            (session.link().map(|link| link.id), session.seen())
        };
        if let Some(known) = known {
            if connection.as_ref().is_some_and(|connection| connection.id == known) {
                return;
            }
            self.lose(known, &Fault::HungUp);
        }
        let Some(connection) = connection.filter(|connection| Some(connection.id) != seen) else { return };
        let id = connection.id;
        unpoisoned(&self.session).set_seen(id);
        let before = self.config();
        match self.introduce(connection) {
            Ok(link) => {
                self.install(link);
                tracing::info!("vhost-user device '{}' has its back end again", self.name);
                self.settle();
                if self.config() != before {
                    self.tell_config();
                }
            }
            Err(unfit) => tracing::error!("vhost-user: chardev '{}': {unfit}", self.name),
        }
    }

    /// Ends connection `id` if it is still the present one, with one line that says why.
    fn lose(&self, id: u64, fault: &Fault) {
        let lost = {
            let mut session = unpoisoned(&self.session);
            if session.link().is_none_or(|link| link.id != id) {
                return;
            }
            let lost = session.lose();
            self.note(&session);
            lost
        };
        drop(lost);
        tracing::error!("vhost-user: chardev '{}': {fault}", self.name);
    }

    /// The same with the session locked already.
    fn lose_now(&self, session: &mut Session, fault: &Fault) {
        let lost = session.lose();
        self.note(session);
        drop(lost);
        tracing::error!("vhost-user: chardev '{}': {fault}", self.name);
    }

    /// Keeps for people what they may ask for while somebody waits for the back end.
    fn note(&self, session: &Session) {
        let started = session.running().is_some();
        let front = session.link().map(|link| &link.front);
        let accepted = session.running().map_or(0, |running| running.features);
        *unpoisoned(&self.status) = RingServerStatus {
            started,
            max_queues: front.map_or(0, |front| front.max_queues),
            memory_sections: session.regions.given() as u64,
            features: front.map_or(0, |front| front.features),
            acked_features: front.filter(|_| started).map_or(0, |front| acked(front, accepted)),
            protocol_features: front.map_or(0, |front| front.protocol),
        };
    }

    // --- rings ---

    /// Makes it as it should be; when this returns, it is, or the back end is gone.
    fn settle(&self) {
        let mut session = unpoisoned(&self.session);
        let wanted = {
            let wanted = unpoisoned(&self.wanted);
            wanted.start.clone().filter(|_| wanted.machine_running)
        };
        let same =
            |running: &Arc<RingStart>| wanted.as_ref().is_some_and(|wanted| Arc::ptr_eq(wanted, running));
        if session.running().is_some_and(|running| !same(running))
            && let Err(fault) = session.stop(self.deadline())
        {
            self.lose_now(&mut session, &fault);
        }
        if let (None, Some(start)) = (session.running(), &wanted)
            && session.link().is_some()
        {
            let view = self.space.view();
            match session.start(start, &view, self.deadline()) {
                Ok(()) => {}
                Err(StartError::Fault(fault)) => self.lose_now(&mut session, &fault),
                Err(StartError::NotShared) => tracing::error!(
                    "{}: vhost start failed: the virtqueues are not in shared memory, consider using -object \
                     memory-backend-memfd,share=on",
                    self.needs.device
                ),
            }
        }
        self.note(&session);
    }

    fn want(&self, change: impl FnOnce(&mut Wanted)) {
        change(&mut unpoisoned(&self.wanted));
    }

    // --- configuration space ---

    fn ask_for_config(&self) {
        // One question answers for all changes before it.
        if !self.config_asked.swap(true, Ordering::AcqRel) {
            self.post(Job::Config);
        }
    }

    fn fetch_config(&self) {
        self.config_asked.store(false, Ordering::Release);
        let config = {
            let mut session = unpoisoned(&self.session);
            let Some(link) = session.link() else { return };
            match link.front.config(self.needs.config, self.deadline()) {
                Ok(config) => config,
                Err(fault) => return self.lose_now(&mut session, &fault),
            }
        };
        let before = std::mem::replace(&mut *unpoisoned(&self.config), config.clone());
        if before != config {
            self.tell_config();
        }
    }

    fn tell_config(&self) {
        if let Some(owner) = self.owner.get().and_then(Weak::upgrade) {
            owner.config_changed();
        }
    }

    fn send_config(&self, offset: u32, data: &[u8]) {
        let mut session = unpoisoned(&self.session);
        let Some(link) = session.link() else { return };
        match link.front.set_config(offset, data, self.deadline()) {
            Ok(()) => {}
            Err(Fault::Refused(_)) => tracing::error!("set device config space failed"),
            Err(fault) => self.lose_now(&mut session, &fault),
        }
    }

    fn run(&self, job: Job) {
        match job {
            Job::Settle => self.settle(),
            Job::Connection => self.connection_changed(),
            Job::Config => self.fetch_config(),
            Job::Lose(id, fault) => self.lose(id, &fault),
            Job::SetConfig(offset, data) => self.send_config(offset, &data),
            Job::Reset(done) => {
                self.settle();
                self.forget_rings();
                done();
            }
        }
    }

    fn forget_rings(&self) {
        let mut session = unpoisoned(&self.session);
        if session.running().is_none() {
            session.forget_rings();
        }
    }

    // --- memory ---

    /// A section came or is going. Topology locked.
    fn section_changed(&self, section: &Section, change: impl FnOnce(&mut Regions, Shared)) {
        if let Some(shared) = visible(section) {
            self.sections_changed.store(true, Ordering::Relaxed);
            change(&mut unpoisoned(&self.session).regions, shared);
        }
    }

    /// The batch of changes is complete. Topology locked.
    fn update_memory(&self) {
        if !self.sections_changed.swap(false, Ordering::Relaxed) {
            return;
        }
        let mut session = unpoisoned(&self.session);
        self.sections.store(session.regions.len(), Ordering::Relaxed);
        if let Err(fault) = session.update_memory(self.deadline()) {
            self.lose_now(&mut session, &fault);
        }
        self.note(&session);
    }
}

impl RingServer for Client {
    fn start(&self, start: RingStart) {
        self.want(|wanted| wanted.start = Some(Arc::new(start)));
        self.post(Job::Settle);
    }

    fn halt(&self) {
        self.want(|wanted| wanted.start = None);
        self.post(Job::Settle);
    }

    fn reset(&self, done: Done) {
        self.want(|wanted| wanted.start = None);
        self.post(Job::Reset(done));
    }

    fn reset_now(&self) {
        self.want(|wanted| wanted.start = None);
        self.settle();
        self.forget_rings();
    }

    fn set_machine_running(&self, running: bool) {
        self.want(|wanted| wanted.machine_running = running);
        if running {
            self.post(Job::Settle);
        } else {
            self.settle();
        }
    }

    fn status(&self) -> RingServerStatus {
        unpoisoned(&self.status).clone()
    }
}

/// The thread of a client; it ends with it.
fn work(client: &Weak<Client>, jobs: &Receiver<Job>) {
    while let Ok(job) = jobs.recv() {
        match client.upgrade() {
            Some(client) => client.run(job),
            None => return,
        }
    }
}

/// The client's side of the character device. It reads the socket itself.
struct Listener(Weak<Client>);

impl Frontend for Listener {
    fn can_read(&mut self) -> usize {
        0
    }

    fn read(&mut self, _data: &[u8]) {}

    fn event(&mut self, event: CharEvent) {
        if let (CharEvent::Opened | CharEvent::Closed, Some(client)) = (event, self.0.upgrade()) {
            client.post(Job::Connection);
        }
    }
}

/// The client's side of guest memory.
struct Follower(Weak<Client>);

impl Follower {
    fn client(&self) -> Option<Arc<Client>> {
        self.0.upgrade()
    }
}

impl MemoryListener for Follower {
    fn region_add(&self, section: &Section) {
        if let Some(client) = self.client() {
            client.section_changed(section, Regions::add);
        }
    }

    fn region_del(&self, section: &Section) {
        if let Some(client) = self.client() {
            client.section_changed(section, |regions, shared| regions.remove(&shared));
        }
    }

    fn commit(&self) {
        if let Some(client) = self.client() {
            client.update_memory();
        }
    }
}
