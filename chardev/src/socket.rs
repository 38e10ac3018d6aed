//! Unix and TCP sockets, as server or client.
//!
//! A server serves one client at a time; others wait in the backlog. A client with `reconnect` connects (and looks up names)
//! on a thread of its own, so the loop never waits.

pub(crate) mod address;
mod fd;
mod telnet;

use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use mainloop::{Clock, Interest, Timer, Watch};
use qapi::types::{YankInstance, YankInstanceChardev};
use qapi::{Error, Result, strerror};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, accept_with, sockopt};

use crate::backend::Backend;
use crate::connection::{Connection, Patience};
use crate::fds::Fds;
use crate::options::SocketOptions;
use crate::set::Notice;
use crate::sink::Sink;
use crate::stream::{End, FdKind, Stream};
use crate::yank::{YankInstances, YankRegistration};
use address::Listener;
pub use fd::receive_within;
pub(crate) use fd::{close_inherited, inherited, inherited_only, receive};

/// How long a server that ran out of descriptors leaves its backlog alone.
const ACCEPT_PAUSE_NS: i64 = 1_000_000_000;
const NS_PER_MS: i64 = 1_000_000;

/// The back end `socket`.
pub(crate) struct Socket {
    state: Arc<SocketState>,
    _yank: YankRegistration,
}

struct SocketState {
    this: Weak<SocketState>,
    label: String,
    options: SocketOptions,
    sink: Arc<Sink>,
    /// Where the socket of an address of type `fd` is.
    fds: Arc<Fds>,
    stream: Arc<Stream>,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    listener: Option<Listener>,
    accepting: Option<Watch>,
    /// Of the connection, while there is one.
    connected_name: Option<String>,
    /// Until the next attempt to connect or accept.
    timer: Option<Timer>,
    /// A failure to connect was reported; the next ones in a row are not.
    complained: bool,
    /// Under way on a thread of its own.
    attempt: Option<Arc<Attempt>>,
}

/// An attempt to connect on another thread.
struct Attempt {
    /// Readable once it ended.
    ended: OwnedFd,
    result: Mutex<Option<Result<OwnedFd>>>,
}

impl Attempt {
    fn new() -> std::result::Result<Arc<Self>, Errno> {
        let ended = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Arc::new(Self { ended, result: Mutex::default() }))
    }

    fn end(&self, result: Result<OwnedFd>) {
        *self.result.lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
        // The count was zero, so there is room for this one.
        let _ = rustix::io::write(&self.ended, &1u64.to_ne_bytes());
    }

    /// What it came to; for whoever asks first.
    fn take(&self) -> Option<Result<OwnedFd>> {
        self.result.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Socket {
    pub(crate) fn new(
        label: &str,
        options: &SocketOptions,
        sink: &Arc<Sink>,
        (fds, yank): (&Arc<Fds>, &Arc<YankInstances>),
        notify: &mut dyn FnMut(Notice),
    ) -> Result<Self> {
        let state = Arc::new_cyclic(|this: &Weak<SocketState>| {
            let owner = this.clone();
            let on_end = Box::new(move || {
                if let Some(state) = owner.upgrade() {
                    state.disconnected();
                }
            });
            SocketState {
                this: this.clone(),
                label: label.to_owned(),
                options: options.clone(),
                sink: Arc::clone(sink),
                fds: Arc::clone(fds),
                stream: Stream::new(sink, on_end),
                inner: Mutex::default(),
            }
        });
        let yank = {
            let id = label.to_owned();
            let state = Arc::downgrade(&state);
            yank.register(YankInstance::Chardev(YankInstanceChardev { id }), move || {
                if let Some(state) = state.upgrade() {
                    state.stream.shut_down();
                }
            })
        };
        if options.server {
            state.listen(notify)?;
        } else if options.reconnect_ms > 0 {
            state.connect_in_background();
        } else {
            let fd = address::connect(&options.address, fds, None)?;
            state.adopt(fd).map_err(|error| Error::generic(strerror(&error)))?;
            sink.set_open(true);
        }
        Ok(Self { state, _yank: yank })
    }
}

impl SocketState {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn filename(&self) -> String {
        let inner = self.lock();
        if let Some(name) = &inner.connected_name {
            return name.clone();
        }
        address::disconnected_name(&self.options, inner.listener.as_ref())
    }

    // --- server ---

    fn listen(&self, notify: &mut dyn FnMut(Notice)) -> Result<()> {
        let listener = address::listen(&self.options.address, &self.fds)?;
        let failed = |error: std::io::Error| Error::generic(strerror(&error));
        let fd = listener.fd.try_clone().map_err(failed)?;
        self.lock().listener = Some(listener);
        let mut interest = Interest::READ;
        if self.options.wait {
            notify(Notice::Waiting(format!("info: QEMU waiting for connection on: {}", self.filename())));
            let signals = self.sink.handle().signal_fds().map_err(failed)?;
            let client = wait_for_client(&fd, &signals, None)?;
            self.adopt(client).map_err(failed)?;
            self.sink.set_open(true);
            interest = Interest::NONE;
        }
        let this = self.this.clone();
        let watch = self.sink.handle().watch(&fd, interest, move |_| {
            if let Some(state) = this.upgrade() {
                state.accept();
            }
        });
        self.lock().accepting = Some(watch.map_err(failed)?);
        Ok(())
    }

    /// A client knocks. Loop thread only.
    fn accept(&self) {
        let accepted = {
            let inner = self.lock();
            let Some(listener) = &inner.listener else { return };
            accept_with(&listener.fd, SocketFlags::CLOEXEC)
        };
        match accepted {
            Ok(client) => {
                self.set_accepting(false);
                match self.adopt(client) {
                    Ok(()) => self.sink.set_open_now(true),
                    Err(error) => {
                        tracing::error!(%error, label = self.label, "cannot use a client's connection");
                        self.set_accepting(true);
                    }
                }
            }
            // It changed its mind.
            Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => {}
            Err(error) => {
                tracing::error!(%error, label = self.label, "cannot accept a client");
                self.set_accepting(false);
                self.after(ACCEPT_PAUSE_NS, |state| state.set_accepting(true));
            }
        }
    }

    fn set_accepting(&self, on: bool) {
        if let Some(watch) = &self.lock().accepting {
            watch.set_interest(if on { Interest::READ } else { Interest::NONE });
        }
    }

    // --- client ---

    /// Connects on a thread of its own and comes back to the loop.
    fn connect_in_background(&self) {
        if self.is_connected() {
            return;
        }
        let attempt = match Attempt::new() {
            Ok(attempt) => attempt,
            Err(errno) => return self.attempt_ended(Err(Error::generic(strerror(&errno.into())))),
        };
        self.lock().attempt = Some(Arc::clone(&attempt));
        let address = self.options.address.clone();
        let this = self.this.clone();
        let fds = Arc::clone(&self.fds);
        let handle = self.sink.handle().clone();
        let running = Arc::clone(&attempt);
        let connect = move || {
            running.end(address::connect(&address, &fds, None));
            handle.post(move || {
                // Gone already if somebody waited for it.
                if let (Some(state), Some(result)) = (this.upgrade(), running.take()) {
                    state.attempt_ended(result);
                }
            });
        };
        if let Err(error) = thread::Builder::new().name(format!("connect {}", self.label)).spawn(connect) {
            self.attempt_ended(Err(Error::generic(strerror(&error))));
        }
    }

    /// An attempt in the background ended.
    fn attempt_ended(&self, result: Result<OwnedFd>) {
        self.lock().attempt = None;
        let result = result.and_then(|fd| self.adopt(fd).map_err(|error| Error::generic(strerror(&error))));
        match result {
            Ok(()) => {
                self.lock().complained = false;
                self.sink.set_open_now(true);
            }
            Err(error) => {
                self.complain(&error);
                self.reconnect_later();
            }
        }
    }

    /// Says that connecting failed, once in a row.
    fn complain(&self, error: &Error) {
        if !std::mem::replace(&mut self.lock().complained, true) {
            tracing::error!("Unable to connect character device {}: {error}", self.label);
        }
    }

    fn reconnect_later(&self) {
        let ms = i64::try_from(self.options.reconnect_ms).unwrap_or(i64::MAX);
        self.after(ms.saturating_mul(NS_PER_MS), Self::connect_in_background);
    }

    // --- both ---

    fn is_connected(&self) -> bool {
        self.lock().connected_name.is_some()
    }

    /// See [`crate::Port::wait_connected`].
    fn wait_connected(&self, patience: Patience) -> Result<()> {
        if self.is_connected() {
            return Ok(());
        }
        let failed = |error: std::io::Error| Error::generic(strerror(&error));
        let signals = self.sink.handle().signal_fds().map_err(failed)?;
        let limit = match patience {
            Patience::Endless => None,
            Patience::Once(limit) => Some(limit),
        };
        let peer = if self.options.server {
            let listener = self.lock().listener.as_ref().map(|listener| listener.fd.try_clone());
            let listener = listener.ok_or_else(|| Error::generic("the character device was shut down"))?;
            let client = wait_for_client(&listener.map_err(failed)?, &signals, limit)?;
            self.set_accepting(false);
            client
        } else {
            self.connect_until(limit, &signals)?
        };
        self.adopt(peer).map_err(failed)?;
        {
            let mut inner = self.lock();
            (inner.timer, inner.complained) = (None, false);
        }
        self.sink.set_open(true);
        Ok(())
    }

    /// Connects. Without a limit a client with `reconnect` tries until it succeeds or a signal comes.
    fn connect_until(&self, limit: Option<Duration>, signals: &[OwnedFd]) -> Result<OwnedFd> {
        loop {
            let error = match self.connect_once(limit, signals) {
                Ok(fd) => return Ok(fd),
                Err(error) if self.options.reconnect_ms == 0 => return Err(error),
                Err(error) => error,
            };
            if limit.is_some() {
                // It goes on in the background.
                if self.lock().attempt.is_none() {
                    self.reconnect_later();
                }
                return Err(error);
            }
            self.complain(&error);
            let pause = Duration::from_millis(self.options.reconnect_ms);
            if wait_for_any(&[], signals, Some(pause))? == Waited::Signal {
                return Err(error);
            }
        }
    }

    /// The result of the attempt that is under way, or of one made here.
    fn connect_once(&self, limit: Option<Duration>, signals: &[OwnedFd]) -> Result<OwnedFd> {
        let Some(attempt) = self.lock().attempt.clone() else {
            return address::connect(&self.options.address, &self.fds, limit);
        };
        // A second connection would be one too many for a server that takes one client at a time.
        match wait_for_any(&[&attempt.ended], signals, limit)? {
            Waited::Ready => {}
            Waited::Signal => return Err(Error::generic("terminated by a signal while connecting")),
            Waited::TimedOut => return Err(Error::generic("no connection in time")),
        }
        self.lock().attempt = None;
        attempt.take().unwrap_or_else(|| address::connect(&self.options.address, &self.fds, limit))
    }

    fn after(&self, ns: i64, work: impl FnOnce(&Self) + Send + 'static) {
        let this = self.this.clone();
        let handle = self.sink.handle();
        let deadline = handle.now_ns(Clock::Realtime).saturating_add(ns);
        let timer = handle.timer(Clock::Realtime, deadline, move || {
            if let Some(state) = this.upgrade() {
                work(&state);
            }
        });
        self.lock().timer = Some(timer);
    }

    /// Takes a connection into use. The front end is not told yet.
    fn adopt(&self, fd: OwnedFd) -> std::io::Result<()> {
        if self.options.nodelay {
            // Not every socket has it: a passed descriptor may be a unix socket.
            let _ = sockopt::set_tcp_nodelay(&fd, true);
        }
        let name = address::connected_name(&self.options, fd.as_fd());
        let telnet = self.options.telnet && self.options.server;
        let filter = telnet.then(|| telnet::filter(&self.sink));
        let end = End::new(fd, FdKind::Socket);
        self.stream.open(Some(end.clone()), Some(end), filter)?;
        if telnet {
            self.stream.write(telnet::GREETING, crate::WRITE_QUEUE);
        }
        trace::emit!(pliant_chr_socket_connect, trace::Id::of(&*self.stream), &self.label, &name);
        self.lock().connected_name = Some(name);
        Ok(())
    }

    /// Takes a connection that somebody else made. Loop thread only.
    fn add_client(&self, socket: OwnedFd) -> bool {
        if self.is_connected() || self.lock().attempt.is_some() {
            return false;
        }
        self.set_accepting(false);
        if let Err(error) = self.adopt(socket) {
            tracing::error!(%error, label = self.label, "cannot use a client's connection");
            self.set_accepting(true);
            return false;
        }
        self.lock().timer = None;
        self.sink.set_open(true);
        true
    }

    /// The peer left. Loop thread only.
    fn disconnected(&self) {
        trace::emit!(chr_socket_disconnect, trace::Id::of(self), &self.label);
        self.lock().connected_name = None;
        self.sink.set_open_now(false);
        if self.options.server {
            self.set_accepting(true);
        } else if self.options.reconnect_ms > 0 {
            self.reconnect_later();
        }
    }
}

/// What ended a wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Waited {
    Ready,
    Signal,
    TimedOut,
}

/// Blocks until one of `fds` is readable, a watched signal is pending, or the time is up.
fn wait_for_any(fds: &[&OwnedFd], signals: &[OwnedFd], limit: Option<Duration>) -> Result<Waited> {
    let failed = |errno: Errno| Error::generic(format!("Failed to poll: {}", strerror(&errno.into())));
    let deadline = limit.and_then(|limit| Instant::now().checked_add(limit));
    loop {
        let sources = fds.iter().copied().chain(signals);
        let mut polled: Vec<_> = sources.map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let left = left.and_then(|left| Timespec::try_from(left).ok());
        match poll(&mut polled, left.as_ref()) {
            Ok(0) => return Ok(Waited::TimedOut),
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            Err(errno) => return Err(failed(errno)),
        }
        let signalled = polled[fds.len()..].iter().any(|fd| fd.revents().contains(PollFlags::IN));
        return Ok(if signalled { Waited::Signal } else { Waited::Ready });
    }
}

/// Waits for a client: start-up with `wait=on`, or a front end that needs its peer. A watched signal ends the wait.
fn wait_for_client(listener: &OwnedFd, signals: &[OwnedFd], limit: Option<Duration>) -> Result<OwnedFd> {
    let failed = |errno: Errno| Error::generic(format!("Failed to accept: {}", strerror(&errno.into())));
    loop {
        match wait_for_any(&[listener], signals, limit)? {
            Waited::Ready => {}
            Waited::Signal => {
                return Err(Error::generic("terminated by a signal while waiting for a connection"));
            }
            Waited::TimedOut => return Err(Error::generic("nobody connected in time")),
        }
        match accept_with(listener, SocketFlags::CLOEXEC) {
            Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => {}
            result => return result.map_err(failed),
        }
    }
}

impl Backend for Socket {
    fn filename(&self) -> String {
        self.state.filename()
    }

    fn stream(&self) -> Option<&Stream> {
        Some(&self.state.stream)
    }

    fn take_fds(&self) -> Vec<OwnedFd> {
        self.state.stream.take_fds()
    }

    fn add_client(&self, socket: OwnedFd) -> bool {
        self.state.add_client(socket)
    }

    fn connection(&self) -> Option<Connection> {
        let (id, socket) = self.state.stream.socket()?;
        let unix = sockopt::socket_domain(&socket).is_ok_and(|family| family == AddressFamily::UNIX);
        let copy = unix.then(|| socket.try_clone());
        copy?.ok().map(|socket| Connection { id, socket })
    }

    fn wait_connected(&self, patience: Patience) -> Result<()> {
        self.state.wait_connected(patience)
    }

    fn shut_down(&self) {
        self.state.stream.close();
        // Work posted by a connecting thread holds only a weak reference; what is open here closes now, and the path of a
        // listening socket goes with it.
        let old = std::mem::take(&mut *self.state.lock());
        drop(old);
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.shut_down();
    }
}
