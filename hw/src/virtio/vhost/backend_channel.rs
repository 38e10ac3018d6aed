//! The socket on which a back end sends requests of its own: that its configuration space changed.
//!
//! Nothing else was negotiated; anything else ends the connection. A back end that has no such requests may close its end: it still
//! serves. Reading never waits.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mainloop::{Interest, Watch};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, send, socketpair};

use super::channel::{Fault, receive};
use super::message::{CONFIG_CHANGE, HEADER, Header};

/// Requests of one turn of the main loop.
const REQUESTS_PER_TURN: usize = 16;

/// Our end, watched by the main loop for as long as this lives and the back end keeps to the rules.
pub(super) struct BackendChannel(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    watch: Option<Watch>,
    /// Nothing is read any more.
    over: bool,
    fault: Option<Fault>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl BackendChannel {
    /// Has the main loop read `ours`. `heard` is called on its thread: the configuration space changed, or the back end
    /// broke the rules, and [`fault`](Self::fault) says how.
    ///
    /// # Errors
    /// No descriptor is left.
    pub(super) fn watch(
        ours: OwnedFd,
        mainloop: &mainloop::Handle,
        heard: impl Fn(Result<(), ()>) + Send + 'static,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let watched = ours.try_clone()?;
        let (mut requests, theirs) = (Requests::new(ours), Arc::downgrade(&shared));
        let watch = mainloop.watch(watched, Interest::READ, move |_| {
            let Some(shared) = theirs.upgrade() else { return };
            match requests.read() {
                Ok(false) => {}
                Ok(true) => heard(Ok(())),
                Err(fault) => {
                    let closed = fault == Fault::HungUp;
                    // Nothing that it says any more may wake the loop.
                    let watch = {
                        let mut state = shared.lock();
                        state.over = true;
                        state.fault = Some(fault).filter(|_| !closed);
                        state.watch.take()
                    };
                    drop(watch);
                    if !closed {
                        heard(Err(()));
                    }
                }
            }
        })?;
        {
            let mut state = shared.lock();
            // It may be over already.
            if !state.over {
                state.watch = Some(watch);
            }
        }
        Ok(Self(shared))
    }

    /// What the back end did against the rules, if it did.
    pub(super) fn fault(&self) -> Option<Fault> {
        self.0.lock().fault.clone()
    }
}

/// Our end and theirs.
///
/// # Errors
/// No descriptor is left.
pub(super) fn pair() -> Result<(OwnedFd, OwnedFd), Errno> {
    socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
}

/// Reads requests.
struct Requests {
    socket: OwnedFd,
    head: [u8; HEADER],
    have: usize,
}

impl Requests {
    fn new(socket: OwnedFd) -> Self {
        Self { socket, head: [0; HEADER], have: 0 }
    }

    /// Reads what is there; true if the configuration space changed.
    ///
    /// # Errors
    /// The back end hung up, or sent what nobody asked for.
    fn read(&mut self) -> Result<bool, Fault> {
        let mut changed = false;
        for _ in 0..REQUESTS_PER_TURN {
            match self.next()? {
                Some(()) => changed = true,
                None => break,
            }
        }
        Ok(changed)
    }

    /// The next request, if it is there; it is answered.
    fn next(&mut self) -> Result<Option<()>, Fault> {
        let mut fds = Vec::new();
        while self.have < HEADER {
            match receive(self.socket.as_fd(), &mut self.head[self.have..], &mut fds) {
                Ok(0) => return Err(Fault::HungUp),
                Ok(count) => self.have += count,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(None),
                Err(_) => return Err(Fault::HungUp),
            }
            if !fds.is_empty() {
                return Err(Fault::Descriptors(fds.len()));
            }
        }
        self.have = 0;
        let header = Header::from_bytes(self.head);
        if header.request != CONFIG_CHANGE || !header.is_current() || header.is_reply() {
            return Err(Fault::Type { expected: CONFIG_CHANGE, received: header.request });
        }
        if header.size != 0 {
            return Err(Fault::Size);
        }
        if header.needs_reply() {
            let answer = [&Header::reply(header.request, 8).to_bytes()[..], &0u64.to_ne_bytes()].concat();
            // A back end that asks and does not read has itself to blame.
            send(&self.socket, &answer, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)
                .map_err(|_| Fault::HungUp)?;
        }
        Ok(Some(()))
    }
}
