//! Unix and TCP sockets, as server or client.
//!
//! A server serves one client at a time; others wait in the backlog. A client with `reconnect` connects (and looks up names)
//! on a thread of its own, so the loop never waits.

mod address;
mod fd;
mod telnet;

use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;

use mainloop::{Clock, Interest, Timer, Watch};
use qapi::{Error, Result};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{SocketFlags, accept_with, sockopt};

use crate::backend::Backend;
use crate::file::strerror;
use crate::options::SocketOptions;
use crate::set::Notice;
use crate::sink::Sink;
use crate::stream::{End, FdKind, Stream};
use address::Listener;
pub(crate) use fd::receive;

/// How long a server that ran out of descriptors leaves its backlog alone.
const ACCEPT_PAUSE_NS: i64 = 1_000_000_000;
const NS_PER_MS: i64 = 1_000_000;

/// The back end `socket`.
pub(crate) struct Socket {
    state: Arc<SocketState>,
}

struct SocketState {
    this: Weak<SocketState>,
    label: String,
    options: SocketOptions,
    sink: Arc<Sink>,
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
}

impl Socket {
    pub(crate) fn new(
        label: &str,
        options: &SocketOptions,
        sink: &Arc<Sink>,
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
                stream: Stream::new(sink, on_end),
                inner: Mutex::default(),
            }
        });
        if options.server {
            state.listen(notify)?;
        } else if options.reconnect_ms > 0 {
            state.connect_in_background();
        } else {
            let fd = address::connect(&options.address)?;
            state.adopt(fd).map_err(|error| Error::generic(strerror(&error)))?;
            sink.set_open(true);
        }
        Ok(Self { state })
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
        let listener = address::listen(&self.options.address)?;
        let failed = |error: std::io::Error| Error::generic(strerror(&error));
        let fd = listener.fd.try_clone().map_err(failed)?;
        self.lock().listener = Some(listener);
        let mut interest = Interest::READ;
        if self.options.wait {
            notify(Notice::Waiting(format!("info: QEMU waiting for connection on: {}", self.filename())));
            let signals = self.sink.handle().signal_fds().map_err(failed)?;
            let client = wait_for_client(&fd, &signals)?;
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
        let address = self.options.address.clone();
        let this = self.this.clone();
        let handle = self.sink.handle().clone();
        let attempt = move || {
            let result = address::connect(&address);
            handle.post(move || {
                if let Some(state) = this.upgrade() {
                    state.attempt_ended(result);
                }
            });
        };
        if let Err(error) = thread::Builder::new().name(format!("connect {}", self.label)).spawn(attempt) {
            self.attempt_ended(Err(Error::generic(strerror(&error))));
        }
    }

    fn attempt_ended(&self, result: Result<OwnedFd>) {
        let result = result.and_then(|fd| self.adopt(fd).map_err(|error| Error::generic(strerror(&error))));
        match result {
            Ok(()) => {
                self.lock().complained = false;
                self.sink.set_open_now(true);
            }
            Err(error) => {
                if !std::mem::replace(&mut self.lock().complained, true) {
                    tracing::error!("Unable to connect character device {}: {error}", self.label);
                }
                self.reconnect_later();
            }
        }
    }

    fn reconnect_later(&self) {
        let ms = i64::try_from(self.options.reconnect_ms).unwrap_or(i64::MAX);
        self.after(ms.saturating_mul(NS_PER_MS), Self::connect_in_background);
    }

    // --- both ---

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
        self.lock().connected_name = Some(name);
        Ok(())
    }

    /// The peer left. Loop thread only.
    fn disconnected(&self) {
        self.lock().connected_name = None;
        self.sink.set_open_now(false);
        if self.options.server {
            self.set_accepting(true);
        } else if self.options.reconnect_ms > 0 {
            self.reconnect_later();
        }
    }
}

/// Start-up with `wait=on`: the one place that blocks. A watched signal ends the wait, and start-up with it.
fn wait_for_client(listener: &OwnedFd, signals: &[OwnedFd]) -> Result<OwnedFd> {
    let failed = |errno: Errno| Error::generic(format!("Failed to accept: {}", strerror(&errno.into())));
    loop {
        let sources = std::iter::once(listener).chain(signals);
        let mut fds: Vec<_> = sources.map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
        match poll(&mut fds, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(failed(errno)),
        }
        if fds[1..].iter().any(|fd| fd.revents().contains(PollFlags::IN)) {
            return Err(Error::generic("terminated by a signal while waiting for a connection"));
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

    fn take_fd(&self) -> Option<OwnedFd> {
        self.state.stream.take_fd()
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
