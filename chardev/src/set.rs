//! The character devices of one VM, by id.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use mainloop::{Handle, MainLoop};
use qapi::{Error, Result};
use qom::Tree;

use crate::backend::{Backend, Null};
use crate::device::Chardev;
use crate::fds::Fds;
use crate::file::FileBackend;
use crate::log::open_log;
use crate::mux::Mux;
use crate::object;
use crate::options::{Backend as Options, ChardevOptions, LogFile};
use crate::pty::Pty;
use crate::ringbuf::{DataFormat, RingBuf};
use crate::sink::{Sink, User};
use crate::socket::Socket;
use crate::stdio::Stdio;
use crate::yank::YankInstances;

/// Something the person at the command line must know while a device is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// Standard output (or the monitor): `char device redirected to /dev/pts/N (label ID)`.
    Redirected(String),
    /// Standard error, after the location, before the program waits: `info: QEMU waiting for connection on: ...`.
    Waiting(String),
}

/// One line of `query-chardev`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChardevInfo {
    /// The id.
    pub label: String,
    /// What it is connected to.
    pub filename: String,
    /// Whether a front end uses it.
    pub frontend_open: bool,
}

/// Called for Ctrl-A x.
pub(crate) type OnExit = Arc<dyn Fn() + Send + Sync>;

/// The character devices of one VM. Dropping it closes those that no front end holds; a terminal is put back as it was when
/// its device is gone.
pub struct ChardevSet {
    handle: Handle,
    devices: Mutex<Vec<Arc<Chardev>>>,
    stdio_in_use: Arc<AtomicBool>,
    daemonized: AtomicBool,
    held: Arc<AtomicBool>,
    on_exit: Arc<Mutex<OnExit>>,
    fds: Arc<Fds>,
    yank: Arc<YankInstances>,
    /// The object tree, once there is one.
    tree: OnceLock<Weak<Tree>>,
}

impl std::fmt::Debug for ChardevSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.lock().iter()).finish()
    }
}

impl ChardevSet {
    /// An empty set whose devices live on the loop of `handle`. Ctrl-A x ends that loop with code 0.
    pub fn new(handle: Handle) -> Self {
        let quitter = handle.clone();
        Self {
            handle,
            devices: Mutex::default(),
            stdio_in_use: Arc::default(),
            daemonized: AtomicBool::new(false),
            held: Arc::default(),
            on_exit: Arc::new(Mutex::new(Arc::new(move || quitter.quit(0)))),
            fds: Arc::default(),
            yank: Arc::default(),
            tree: OnceLock::new(),
        }
    }

    /// Descriptors that came from outside.
    pub fn fds(&self) -> &Arc<Fds> {
        &self.fds
    }

    /// What has connections that can be given up; others than character devices register themselves, too.
    pub fn yank(&self) -> &Arc<YankInstances> {
        &self.yank
    }

    /// Shows the devices, those there are and those to come, in `tree` below `/chardevs`.
    pub fn set_tree(&self, tree: &Arc<Tree>) {
        self.tree.get_or_init(|| Arc::downgrade(tree));
        self.lock().iter().for_each(|device| object::publish(tree, device));
    }

    fn tree(&self) -> Option<Arc<Tree>> {
        self.tree.get().and_then(Weak::upgrade)
    }

    /// What Ctrl-A x does from now on.
    pub fn set_exit_handler(&self, on_exit: impl Fn() + Send + Sync + 'static) {
        *self.on_exit.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(on_exit);
    }

    /// Muxes read nothing and tell nothing until [`Self::release_input`]: which front end has the terminal is known once
    /// all are there, and the loop may turn before.
    pub fn hold_input(&self) {
        self.held.store(true, Ordering::Release);
        self.lock().iter().filter(|d| d.sink().is_mux()).for_each(|mux| mux.sink().hold_events());
    }

    /// The front ends are there.
    pub fn release_input(&self) {
        self.held.store(false, Ordering::Release);
        let devices = self.lock().clone();
        for chardev in devices {
            chardev.sink().release_events();
            chardev.backend().accept_input();
        }
    }

    /// Refuses `stdio` from now on: the program has no terminal (`-daemonize`).
    pub fn set_daemonized(&self) {
        self.daemonized.store(true, Ordering::Release);
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Chardev>>> {
        self.devices.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a device. With `mux`, the result is the mux.
    ///
    /// Blocks only for a socket server with `wait`, until a client comes, after `notify` was told, and for a socket client
    /// without reconnect while it connects.
    ///
    /// # Errors
    ///
    /// `Chardev with id 'ID' already exists`, and those of the back end, in QEMU's words. (QEMU's command line finds a
    /// duplicate when it parses, before any device is made: `Duplicate ID 'ID' for chardev`.)
    pub fn add(&self, options: &ChardevOptions, notify: &mut dyn FnMut(Notice)) -> Result<Arc<Chardev>> {
        if !options.mux {
            return self.add_one(&options.id, &options.backend, options.log.as_ref(), notify);
        }
        self.check_free(&options.id)?;
        let base = format!("{}-base", options.id);
        self.add_one(&base, &options.backend, options.log.as_ref(), notify)?;
        let mux = Options::Mux { chardev: base };
        self.add_one(&options.id, &mux, None, notify)
    }

    pub(crate) fn check_free(&self, id: &str) -> Result<()> {
        match self.get(id) {
            Some(_) => Err(Error::generic(format!("Chardev with id '{id}' already exists"))),
            None => Ok(()),
        }
    }

    fn add_one(
        &self,
        id: &str,
        backend: &Options,
        log: Option<&LogFile>,
        notify: &mut dyn FnMut(Notice),
    ) -> Result<Arc<Chardev>> {
        self.check_free(id)?;
        let chardev = self.open(id, backend, log, notify)?;
        self.lock().push(Arc::clone(&chardev));
        if let Some(tree) = self.tree() {
            object::publish(&tree, &chardev);
        }
        Ok(chardev)
    }

    /// A device that is not in the set yet.
    fn open(
        &self,
        id: &str,
        backend: &Options,
        log: Option<&LogFile>,
        notify: &mut dyn FnMut(Notice),
    ) -> Result<Arc<Chardev>> {
        // First, as this is undone without a trace.
        let log = log.map(|log| open_log(log, self.fds.sets())).transpose()?;
        let sink = Sink::new(self.handle.clone(), matches!(backend, Options::Mux { .. }));
        if sink.is_mux() && self.held.load(Ordering::Acquire) {
            sink.hold_events();
        }
        let (kind, backend) = self.make(id, backend, &sink, notify)?;
        let chardev = Arc::new(Chardev::new(id, kind, sink, backend, log));
        if let Some(path) = chardev.pty_path() {
            notify(Notice::Redirected(format!("char device redirected to {path} (label {id})")));
        }
        Ok(chardev)
    }

    /// Whether the device `id` could have another host side, and whether anybody would notice.
    ///
    /// # Errors
    ///
    /// `Chardev 'ID' does not exist`, it is a mux, or its front end cannot live with another.
    pub(crate) fn may_change(&self, id: &str) -> Result<bool> {
        self.changeable(id).map(|(_, user)| matches!(user, User::Movable(_)))
    }

    fn changeable(&self, id: &str) -> Result<(Arc<Chardev>, User)> {
        let chardev = self.get(id).ok_or_else(|| Error::generic(format!("Chardev '{id}' does not exist")))?;
        if chardev.sink().is_mux() {
            return Err(Error::generic("For mux or hub device hotswap is not supported yet"));
        }
        match chardev.sink().user() {
            User::Fixed => Err(Error::generic("Chardev user does not support chardev hotswap")),
            user => Ok((chardev, user)),
        }
    }

    /// `chardev-change`: another host side for the device that `options` name, under its front end. `mux` is not looked at.
    /// On the loop thread.
    ///
    /// # Errors
    ///
    /// As [`Self::may_change`] and [`Self::add`]; nothing is changed then.
    pub(crate) fn change(
        &self,
        options: &ChardevOptions,
        notify: &mut dyn FnMut(Notice),
    ) -> Result<Arc<Chardev>> {
        let (old, user) = self.changeable(&options.id)?;
        let new = self.open(&options.id, &options.backend, options.log.as_ref(), notify)?;
        if let Some(place) = self.lock().iter_mut().find(|known| Arc::ptr_eq(known, &old)) {
            *place = Arc::clone(&new);
        }
        if let Some(tree) = self.tree() {
            object::withdraw(&tree, &options.id);
            object::publish(&tree, &new);
        }
        if let User::Movable(port) = user {
            port.replace(&old, &new);
        }
        old.close();
        Ok(new)
    }

    fn make(
        &self,
        id: &str,
        options: &Options,
        sink: &Arc<Sink>,
        notify: &mut dyn FnMut(Notice),
    ) -> Result<(&'static str, Box<dyn Backend>)> {
        let sets = self.fds.sets();
        Ok(match options {
            Options::Null => ("null", Box::new(Null { filename: "null" })),
            Options::Vc => {
                sink.set_open(true);
                ("vc", Box::new(Null { filename: "vc" }))
            }
            Options::Stdio { signal } => {
                if self.daemonized.load(Ordering::Acquire) {
                    return Err(Error::generic("cannot use stdio with -daemonize"));
                }
                ("stdio", Box::new(Stdio::new(sink, *signal, &self.stdio_in_use)?))
            }
            Options::Pty { path } => ("pty", Box::new(Pty::new(sink, path.as_deref())?)),
            Options::Serial { path } => ("serial", Box::new(FileBackend::serial(sink, sets, path)?)),
            Options::File { path, append, input_path } => {
                ("file", Box::new(FileBackend::file(sink, sets, path, *append, input_path.as_deref())?))
            }
            Options::Pipe { path } => ("pipe", Box::new(FileBackend::pipe(sink, sets, path)?)),
            Options::RingBuf { size, memory } => {
                let name = if *memory { "memory" } else { "ringbuf" };
                let ring = RingBuf::new(*size, name)?;
                sink.set_open(true);
                (name, Box::new(ring))
            }
            Options::Socket(options) => {
                ("socket", Box::new(Socket::new(id, options, sink, (&self.fds, &self.yank), notify)?))
            }
            Options::Mux { chardev } => {
                let base = self
                    .get(chardev)
                    .ok_or_else(|| Error::generic(format!("mux: base chardev {chardev} not found")))?;
                let current = Arc::clone(&self.on_exit);
                let on_exit = move || {
                    let handler = Arc::clone(&current.lock().unwrap_or_else(PoisonError::into_inner));
                    handler();
                };
                ("mux", Box::new(Mux::new(&base, sink, Arc::new(on_exit), Arc::clone(&self.held))?))
            }
        })
    }

    /// The device of that id.
    pub fn get(&self, id: &str) -> Option<Arc<Chardev>> {
        self.lock().iter().find(|chardev| chardev.label() == id).cloned()
    }

    /// The device of that id.
    ///
    /// # Errors
    ///
    /// `Chardev 'ID' not found`.
    pub fn find(&self, id: &str) -> Result<Arc<Chardev>> {
        self.get(id).ok_or_else(|| Error::generic(format!("Chardev '{id}' not found")))
    }

    /// Removes a device that nobody uses.
    ///
    /// # Errors
    ///
    /// `Chardev 'ID' not found`, `Chardev 'ID' is busy`.
    pub fn remove(&self, id: &str) -> Result<()> {
        let chardev = self.find(id)?;
        if chardev.is_busy() {
            return Err(Error::generic(format!("Chardev '{id}' is busy")));
        }
        self.lock().retain(|known| !Arc::ptr_eq(known, &chardev));
        if let Some(tree) = self.tree() {
            object::withdraw(&tree, id);
        }
        Ok(())
    }

    /// For `query-chardev` and `info chardev`, in order of creation.
    pub fn list(&self) -> Vec<ChardevInfo> {
        let devices = self.lock().clone();
        devices
            .iter()
            .map(|chardev| ChardevInfo {
                label: chardev.label().to_owned(),
                filename: chardev.filename(),
                frontend_open: chardev.frontend_open(),
            })
            .collect()
    }

    /// `ringbuf-write`.
    ///
    /// # Errors
    ///
    /// `Device 'ID' not found`, `ID is not a ringbuf device`, bad base 64.
    pub fn ringbuf_write(&self, id: &str, data: &str, format: DataFormat) -> Result<()> {
        self.with_ring(id, |ring| ring.write_text(data, format))
    }

    /// `ringbuf-read` of at most `size` bytes.
    ///
    /// # Errors
    ///
    /// `Device 'ID' not found`, `ID is not a ringbuf device`, `size must be greater than zero`.
    pub fn ringbuf_read(&self, id: &str, size: i64, format: DataFormat) -> Result<String> {
        self.with_ring(id, |ring| ring.read_text(size, format))
    }

    fn with_ring<T>(&self, id: &str, work: impl FnOnce(&RingBuf) -> Result<T>) -> Result<T> {
        let chardev = self.get(id).ok_or_else(|| Error::generic(format!("Device '{id}' not found")))?;
        match chardev.backend().ring() {
            Some(ring) => work(ring),
            None => Err(Error::generic(format!("{id} is not a ringbuf device"))),
        }
    }

    /// At the very end of the program: puts terminals back as they were, whoever still holds a device. A watched SIGCONT
    /// cannot change them again, since the loop is not turned any more.
    pub fn shut_down(&self) {
        let devices = self.lock().clone();
        devices.iter().for_each(|chardev| chardev.backend().shut_down());
    }

    /// At the end of the program: turns the loop until everything queued has reached the host, at most for `limit`.
    pub fn drain(&self, main: &mut MainLoop, limit: Duration) {
        let deadline = Instant::now() + limit;
        loop {
            let waiting = self.lock().iter().any(|chardev| chardev.queued() > 0);
            let left = deadline.saturating_duration_since(Instant::now());
            if !waiting || left.is_zero() || main.turn(Some(left)).is_err() {
                return;
            }
        }
    }
}
