//! One device's client of its back end: keeps the connection, and carries out what transport, machine and memory ask for.
//!
//! What should be is noted at once under a small lock ([`Wanted`]); a thread of its own makes it so. So no vCPU waits for another
//! process, except while memory changes: then the listener waits, under the topology lock, until the back end let go. The main
//! loop waits where something must be over: a system reset, a stop of the machine, an unplug. Every such wait ends within the
//! device's patience; a back end that does not answer in time is disconnected, and nobody waits for it again until it is back.
//!
//! Locks: topology, discard manager, session, then the small ones. None is held while the device, its transport or the machine is called.

mod config;
mod connection;
mod memory;

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use ::chardev::{Patience, Port};
use ::memory::{AddressSpace, Memory, MemoryListener};
use qapi::{Error, Result};

use self::connection::{Introduced, Listener, Unfit};
use self::memory::Follows;
use super::channel::Deadline;
use super::session::{Link, Session, StartError};
use crate::mem::slot_plan::{SlotPlan, SlotUser};
use crate::virtio::ring_server::{Done, RingServer, RingServerStatus, RingStart};

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
    /// Id or path of the device.
    pub(super) title: String,
    pub(super) plan: Arc<SlotPlan>,
    pub(super) port: Port,
    pub(super) memory: Arc<Memory>,
    /// Guest memory as the device reaches it.
    pub(super) space: Arc<AddressSpace>,
    pub(super) mainloop: mainloop::Handle,
    /// Whether the machine runs.
    pub(super) running: bool,
    /// How long one operation of the back end is waited for.
    pub(super) patience: Duration,
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
    /// The back end of that connection broke the rules on its own socket.
    Lose(u64),
    /// The back end of a new connection is known, or cannot be used.
    Introduced(u64, Box<std::result::Result<Introduced, Unfit>>),
    /// Part of the configuration space was written.
    SetConfig(u32, Vec<u8>),
    /// As [`RingServer::reset`].
    Reset(Done),
}

/// See the module.
pub(super) struct Client {
    me: Weak<Self>,
    needs: Needs,
    title: String,
    /// Id of the character device.
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
    /// Sparse sections that are followed, by guest address.
    follows: Mutex<Follows>,
    /// Whether the batch of memory changes that is under way has to do with them.
    sections_changed: AtomicBool,
    config: Mutex<Vec<u8>>,
    config_asked: AtomicBool,
    status: Mutex<RingServerStatus>,
    /// What every back end must have: what the first one had of what the device wants.
    features: OnceLock<u64>,
    /// Memory regions that every back end must take: as many as the first one, with which the plan reckons.
    limit: AtomicU64,
    plan: Arc<SlotPlan>,
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
    pub(super) fn connect(surroundings: Surroundings, connecting: Patience) -> Result<Arc<Self>> {
        let Surroundings { needs, title, plan, port, memory, space, mainloop, running, patience } =
            surroundings;
        let client = Arc::new_cyclic(|me: &Weak<Self>| Self {
            me: me.clone(),
            needs,
            title,
            name: port.chardev().label().to_owned(),
            patience,
            memory: Arc::downgrade(&memory),
            space,
            mainloop,
            port: Mutex::new(Some(port)),
            wanted: Mutex::new(Wanted { start: None, machine_running: running }),
            session: Mutex::new(Session::new(needs.queues.into())),
            sections: AtomicUsize::new(0),
            follows: Mutex::default(),
            sections_changed: AtomicBool::new(false),
            config: Mutex::default(),
            config_asked: AtomicBool::new(false),
            status: Mutex::default(),
            features: OnceLock::new(),
            limit: AtomicU64::new(0),
            plan,
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
    pub(super) fn shut_down(self: &Arc<Self>) {
        self.plan.remove(&(Arc::clone(self) as Arc<dyn SlotUser>));
        unpoisoned(&self.wanted).start = None;
        self.settle();
        let link = unpoisoned(&self.session).lose();
        drop(link);
        // Out of the lock: what is posted to the handler may want it.
        let port = unpoisoned(&self.port).take();
        if let Some(port) = port
            && let Some(connection) = port.connection()
        {
            // A back end that the thread is getting to know just now.
            port.hang_up(connection.id);
        }
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

    fn run(&self, job: Job) {
        match job {
            Job::Settle => self.settle(),
            Job::Connection => self.connection_changed(),
            Job::Config => self.fetch_config(),
            Job::Lose(id) => self.own_socket_ended(id),
            Job::Introduced(id, introduced) => self.introduced(id, *introduced),
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
