//! All monitors of one virtual machine.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use chardev::fds::Fds;
use chardev::{Chardev, Port};
use mainloop::{Clock, Handle};
use qapi::commands::{FdsCommands, SessionCommands};
use qapi::events::Event;
use qapi::{Dict, Handlers, Result, Value};

use crate::emit::Stamped;
use crate::hmp::{Console, Ending, LastFormat};
use crate::qmp::{self, OobThread, Peer, SessionHandler};
use crate::terminal::TerminalSettings;
use crate::throttle::{Throttle, WINDOW_NS};

/// The commands that belong to a conversation: the monitor's own.
pub trait Conversation: SessionCommands + FdsCommands {}

impl<T: SessionCommands + FdsCommands> Conversation for T {}

/// What stands behind the commands.
pub trait Backend: Send + Sync {
    /// The handlers of all schema modules; those of the modules `session` and `fds` are the monitor's own.
    fn handlers<'a>(&'a self, conversation: &'a dyn Conversation) -> Handlers<'a>;

    /// Where commands find the descriptors that their monitor has names for.
    fn fds(&self) -> &Fds;
}

/// What the greeting says of the program.
#[derive(Debug, Clone)]
pub struct Version {
    /// Version of QEMU whose interface is spoken: major, minor, micro.
    pub qemu: [u32; 3],
    /// What is behind it.
    pub package: String,
}

/// The monitors of a virtual machine. Cheap to clone.
#[derive(Clone)]
pub struct Monitors(Arc<Server>);

pub(crate) struct Server {
    pub(crate) loop_handle: Handle,
    pub(crate) version: Version,
    pub(crate) terminal: TerminalSettings,
    backend: OnceLock<Arc<dyn Backend>>,
    /// Who holds the devices: handlers hold weak references, so that dropping these gives the devices back.
    peers: Mutex<Vec<Arc<Peer>>>,
    consoles: Mutex<Vec<Arc<Port>>>,
    /// Reads clients that asked for out-of-band execution; made for the first of them.
    oob: Mutex<Option<OobThread>>,
    /// Consoles on the program's own terminal.
    pub(crate) at_home: Mutex<Vec<Weak<Mutex<Console>>>>,
    /// Consoles that wait for an event.
    endings: Mutex<Vec<Weak<Ending>>>,
    pub(crate) format: Mutex<LastFormat>,
    throttle: Mutex<Throttle<(&'static str, String), Stamped>>,
}

impl Monitors {
    /// Monitors on `loop_handle`. Commands work once [`Monitors::set_backend`] was called.
    pub fn new(loop_handle: Handle, version: Version, terminal: TerminalSettings) -> Self {
        Self(Arc::new(Server {
            loop_handle,
            version,
            terminal,
            backend: OnceLock::new(),
            peers: Mutex::default(),
            consoles: Mutex::default(),
            oob: Mutex::default(),
            at_home: Mutex::default(),
            endings: Mutex::default(),
            format: Mutex::default(),
            throttle: Mutex::new(Throttle::new()),
        }))
    }

    /// Connects the commands, once, before the loop runs.
    ///
    /// Until then clients are greeted, and what they send waits: a client need not know how far the start is.
    pub fn set_backend(&self, backend: Arc<dyn Backend>) {
        // A second call is a mistake without consequence: the first backend stays.
        let _ = self.0.backend.set(backend);
        lock(&self.0.peers).iter().for_each(|peer| peer.accept_input());
        lock(&self.0.consoles).iter().for_each(|port| port.accept_input());
    }

    /// Speaks QMP on `chardev`.
    ///
    /// # Errors
    /// When the device is in use.
    pub fn add_qmp(&self, chardev: &Arc<Chardev>, pretty: bool) -> Result<()> {
        let peer = qmp::attach(&self.0, chardev, pretty)?;
        lock(&self.0.peers).push(peer);
        Ok(())
    }

    /// Serves the console on `chardev`.
    ///
    /// # Errors
    /// When the device is in use.
    pub fn add_hmp(&self, chardev: &Arc<Chardev>) -> Result<()> {
        let port = Console::attach(&self.0, chardev)?;
        lock(&self.0.consoles).push(port);
        Ok(())
    }

    /// Shows the prompt again on the program's own terminal, where something else was written and erased. Loop thread.
    pub fn redraw(&self) {
        let consoles: Vec<_> = lock(&self.0.at_home).iter().filter_map(Weak::upgrade).collect();
        consoles.iter().for_each(|console| lock(console).redraw());
    }

    /// Lets go of all character devices: the end of every conversation.
    pub fn close(&self) {
        lock(&self.0.peers).clear();
        lock(&self.0.consoles).clear();
        let thread = lock(&self.0.oob).take();
        drop(thread);
    }

    /// [`Monitors::emit`] for the machine, which the monitors' backend holds: it does not keep the monitors alive, so
    /// that nothing is left of either once both are dropped.
    pub fn event_sink(&self) -> impl Fn(Event, bool) + Send + Sync + 'static {
        let server = Arc::downgrade(&self.0);
        move |event, awaited| {
            if let Some(server) = server.upgrade() {
                Monitors(server).emit(&event, awaited);
            }
        }
    }

    /// Tells every client that something happened. From the loop thread it is written before this returns, so that
    /// an event precedes the reply to the command that caused it; from other threads it is posted. What is limited and
    /// does not pass is not posted either: a guest that causes events faster than the loop turns fills no queue. One that is `awaited` passes, and
    /// takes the place of what waits.
    pub fn emit(&self, event: &Event, awaited: bool) {
        let event = Stamped::new(event);
        let key = event.limit();
        let rate = if key.is_some() { WINDOW_NS } else { 0 };
        trace::emit!(monitor_protocol_event_queue, event.name(), event.data_text(), rate);
        let (event, key) = match key {
            None => (event, None),
            Some(key) => {
                let mut throttle = lock(&self.0.throttle);
                if awaited {
                    (event, throttle.overtake(key.clone()).then_some(key))
                } else if let Some(event) = throttle.offer(key.clone(), event) {
                    (event, Some(key))
                } else {
                    return;
                }
            }
        };
        if self.0.loop_handle.on_loop_thread() {
            self.0.pass(&event, key);
        } else {
            let server = Arc::clone(&self.0);
            self.0.loop_handle.post(move || server.pass(&event, key));
        }
    }
}

impl Server {
    /// Sends an event; with a key it opens a window in which the next ones wait.
    fn pass(self: &Arc<Self>, event: &Stamped, key: Option<(&'static str, String)>) {
        self.broadcast(event);
        if let Some(key) = key {
            self.open_window(key);
        }
    }

    /// Clock of the rate limits: guest time where a test moves it, else real time.
    fn clock(&self) -> Clock {
        if self.loop_handle.virtual_clock().is_manual() { Clock::Virtual } else { Clock::Realtime }
    }

    fn open_window(self: &Arc<Self>, key: (&'static str, String)) {
        let server = Arc::downgrade(self);
        let clock = self.clock();
        let end = self.loop_handle.now_ns(clock).saturating_add(WINDOW_NS);
        let close = move || {
            let Some(server) = server.upgrade() else { return };
            let pending = lock(&server.throttle).close(&key);
            if let Some(event) = pending {
                trace::emit!(monitor_protocol_event_handler, event.name(), event.data_text());
                server.broadcast(&event);
                server.open_window(key);
            }
        };
        self.loop_handle.timer(clock, end, close).detach();
    }

    fn broadcast(&self, event: &Stamped) {
        let peers: Vec<Arc<Peer>> = lock(&self.peers).clone();
        let value = event.to_value();
        trace::emit!(monitor_protocol_event_emit, event.name(), event.data_text());
        peers.iter().for_each(|peer| peer.send_event(&value));
        lock(&self.endings).retain(|ending| {
            let ending = ending.upgrade();
            ending.is_some_and(|ending| {
                ending.see(event.name(), &value);
                true
            })
        });
    }

    /// Tells `ending` of events, as long as somebody keeps it.
    pub(crate) fn watch(&self, ending: &Arc<Ending>) {
        lock(&self.endings).push(Arc::downgrade(ending));
    }

    /// Whether commands can be run: from when the machine is there until the program is about to end. What clients still
    /// send then is not looked at, as in QEMU.
    pub(crate) fn is_ready(&self) -> bool {
        self.backend.get().is_some() && !self.loop_handle.is_quitting()
    }

    /// The loop of the thread that reads clients out of band.
    pub(crate) fn oob_handle(&self) -> std::io::Result<Handle> {
        let mut oob = lock(&self.oob);
        let thread = match oob.take() {
            Some(thread) => thread,
            None => OobThread::start()?,
        };
        Ok(oob.insert(thread).handle().clone())
    }

    fn backend(&self) -> Result<&dyn Backend> {
        let none = || qapi::Error::generic("the virtual machine is not there yet");
        self.backend.get().map(AsRef::as_ref).ok_or_else(none)
    }

    /// Where commands find descriptors.
    pub(crate) fn fds(&self) -> Result<&Fds> {
        Ok(self.backend()?.fds())
    }

    /// Runs a command for a session.
    pub(crate) fn run(&self, session: &SessionHandler<'_>, command: &str, arguments: Dict) -> Result<Value> {
        let backend = self.backend()?;
        let run = || qapi::dispatch(&backend.handlers(session), command, arguments);
        backend.fds().during(session.descriptors().names(), run)
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What these mutexes guard is changed by whole assignments; a panic cannot leave it torn.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
